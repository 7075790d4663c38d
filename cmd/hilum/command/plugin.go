package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"hilum/node"
	"hilum/node/web"
	"hilum/plugins/host"
)

func newPluginCommand(g *global) *cobra.Command {
	return group("plugin", "Show and check plugins",
		listing[[]web.Plugin]{
			use:   "list",
			short: "List the configured plugins and their processes",
			ask: func(ctx context.Context, c *web.Client, _ []string) ([]web.Plugin, error) {
				return c.Plugins(ctx)
			},
			show: showPlugins,
		}.command(g),
		newPluginCheckCommand(g),
	)
}

func showPlugins(out io.Writer, plugins []web.Plugin) error {
	t := newTable(out, "NAME", "STATE", "PID", "RESTARTS", "KIND", "VERSION", "RUNTIME", "MODELS", "DEVICES", "MEMORY", "HELD TO", "REASON")
	for _, p := range plugins {
		var models []string
		for _, m := range p.Models {
			models = append(models, m.Name+" "+m.Version)
		}
		t.row(p.Name, p.State, p.PID, p.Restarts, p.Kind, p.Version, p.Runtime, strings.Join(models, ", "),
			strings.Join(p.Devices, ", "), memory(p), cmp.Or(p.Isolation, "nothing"), p.Reason)
	}
	return t.flush()
}

// memory says what a process uses of what it may use, in MiB.
func memory(p web.Plugin) string {
	limit := "no limit"
	if p.MemoryLimitBytes > 0 {
		limit = fmt.Sprint(p.MemoryLimitBytes>>20, " MiB")
	}
	return fmt.Sprintf("%d of %s", p.MemoryBytes>>20, limit)
}

func newPluginCheckCommand(g *global) *cobra.Command {
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Start every configured plugin, ask what it is, and stop it",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			cfg, err := g.load()
			if err != nil {
				return err
			}
			if len(cfg.Plugins) == 0 {
				return errors.New("no plugin is configured: add one under `plugins` in the configuration")
			}
			specs, err := node.Specs(cfg)
			if err != nil {
				return err
			}
			scratch, err := os.MkdirTemp("", "hilum-check-")
			if err != nil {
				return fmt.Errorf("make a scratch folder: %w", err)
			}
			defer func() { err = errors.Join(err, os.RemoveAll(scratch)) }()
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
			h, err := host.New(host.Options{Plugins: specs, Scratch: scratch, Logger: log})
			if err != nil {
				return err
			}
			defer func() {
				stopping, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), 10*time.Second)
				defer cancel()
				err = errors.Join(err, h.Stop(stopping))
			}()
			if err := h.Start(cmd.Context()); err != nil {
				return err
			}
			views := node.PluginViews(cfg, h.Status())
			if asJSON {
				return writeJSON(cmd.OutOrStdout(), views)
			}
			return showPlugins(cmd.OutOrStdout(), views)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}
