// Package command is the command line of Hilum: one file for each noun. Flags
// and signals become values here and nowhere else; what a command answers goes
// to its standard output, all else to standard error.
package command

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"hilum/node"
	"hilum/node/config"
	"hilum/node/web"
)

// version is set at link time: -ldflags "-X hilum/cmd/hilum/command.version=…".
var version = "development"

// Exit codes, part of the command line's contract.
const (
	exitOK      = 0
	exitFailed  = 1
	exitUsage   = 2 // the arguments or the configuration are wrong
	exitSkipped = 3 // done, but some input was left out
)

const exitHelp = `Exit codes:
  0  done
  1  failed; the last line on standard error says why and what to do
  2  wrong arguments or a wrong configuration
  3  done, but some of the input was skipped; each is named on standard error`

// exitError is an error with an exit code of its own.
type exitError struct {
	code int
	err  error
}

func (e *exitError) Error() string { return e.err.Error() }
func (e *exitError) Unwrap() error { return e.err }

func usage(err error) error { return &exitError{exitUsage, err} }

var errNoOut = usage(errors.New("--out is needed: it names the folder to write to"))

// Main runs the command line and returns the exit code.
func Main(args []string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := NewRootCommand()
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	fmt.Fprintln(stderr, "hilum:", err)
	var e *exitError
	if errors.As(err, &e) {
		return e.code
	}
	return exitFailed
}

// global are the flags of every command.
type global struct {
	config string
}

// NewRootCommand returns the command line with all its commands.
func NewRootCommand() *cobra.Command {
	g := &global{}
	root := &cobra.Command{
		Use:   "hilum",
		Short: "DICOM node for chest CT",
		Long: `Hilum receives chest CT by DICOM C-STORE, keeps every image safe, decides when
a series is whole, hands it to detection plugins and sends the findings to the
PACS as structured reports. For research use; not a medical device.

` + exitHelp,
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.NoArgs,
		RunE:          func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return usage(err) })
	root.PersistentFlags().StringVar(&g.config, "config", "", "configuration `FILE` (default hilum.yaml, if there is one)")
	root.AddGroup(
		&cobra.Group{ID: "node", Title: "The node:"},
		&cobra.Group{ID: "look", Title: "What it holds and does:"},
		&cobra.Group{ID: "peer", Title: "DICOM peers and test data:"},
		&cobra.Group{ID: "train", Title: "Models:"},
	)
	add := func(group string, commands ...*cobra.Command) {
		for _, c := range commands {
			c.GroupID = group
			root.AddCommand(c)
		}
	}
	add("node", newServeCommand(g), newDemoCommand(), newConfigCommand(g), newPluginCommand(g), newRuleCommand(g))
	add("look", newStudyCommand(g), newJobCommand(g), newFindingCommand(g), newDeliveryCommand(g), newStoreCommand(g))
	add("peer", newEchoCommand(g), newFindCommand(g), newGetCommand(g), newMoveCommand(g), newSendCommand(g), newPhantomCommand())
	add("train", newModelCommand(), newTrainCommand(g))
	root.AddCommand(newVersionCommand())
	wrapArgs(root)
	return root
}

// wrapArgs gives wrong arguments their exit code.
func wrapArgs(c *cobra.Command) {
	if check := c.Args; check != nil {
		c.Args = func(cmd *cobra.Command, args []string) error {
			if err := check(cmd, args); err != nil {
				return usage(fmt.Errorf("%w; see `%s --help`", err, cmd.CommandPath()))
			}
			return nil
		}
	}
	for _, sub := range c.Commands() {
		wrapArgs(sub)
	}
}

// group returns a command that only holds others.
func group(use, short string, sub ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use:   use,
		Short: short,
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(sub...)
	return c
}

func (g *global) load() (config.Config, error) {
	cfg, err := config.Load(g.config)
	if err != nil {
		return cfg, usage(err)
	}
	return cfg, nil
}

// client reaches the running node, or the store when none runs.
func (g *global) client(cmd *cobra.Command) (*web.Client, error) {
	cfg, err := g.load()
	if err != nil {
		return nil, err
	}
	log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
	return web.Open(cmd.Context(), cfg.Data, node.ConfiguredPlugins(cfg), log)
}

// listing is a command that asks the node for one value and shows it.
type listing[T any] struct {
	use, short, long string
	args             cobra.PositionalArgs
	ask              func(ctx context.Context, c *web.Client, args []string) (T, error)
	show             func(out io.Writer, v T) error
	flags            func(cmd *cobra.Command)
}

// command makes the cobra command of a listing, with --json.
func (l listing[T]) command(g *global) *cobra.Command {
	var asJSON bool
	if l.args == nil {
		l.args = cobra.NoArgs
	}
	cmd := &cobra.Command{
		Use:   l.use,
		Short: l.short,
		Long:  l.long,
		Args:  l.args,
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			client, err := g.client(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, client.Close()) }()
			v, err := l.ask(cmd.Context(), client, args)
			if err != nil {
				return err
			}
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), v)
			}
			return l.show(cmd.OutOrStdout(), v)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	if l.flags != nil {
		l.flags(cmd)
	}
	return cmd
}

func writeJSON(out io.Writer, v any) error {
	e := json.NewEncoder(out)
	e.SetIndent("", "  ")
	return e.Encode(v)
}
