package command

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"hilum/node"
	"hilum/node/config"
)

// stopTimeout is how long a node may take to end in order.
const stopTimeout = 30 * time.Second

func newServeCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Run the node until it is interrupted",
		Long: `Run the node until SIGINT or SIGTERM: new associations are then refused, images
under way are stored, running analyses go back into the queue, plugins end.
SIGHUP makes it read the configuration and the files of TLS again: it takes over
plugins, devices, pipelines, rules, peers, users and move destinations, and tries
broken plugins again. Associations and running analyses go on.

` + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := g.load()
			if err != nil {
				return err
			}
			return runServe(cmd.Context(), cfg, g.load, newLogger(cfg.Log, cmd.ErrOrStderr()))
		},
	}
}

func reloadNode(ctx context.Context, n *node.Node, load func() (config.Config, error)) error {
	cfg, err := load()
	if err != nil {
		return err
	}
	return n.Reload(ctx, cfg)
}

// runServe runs a node; load reads its configuration again.
func runServe(ctx context.Context, cfg config.Config, load func() (config.Config, error), log *slog.Logger) error {
	reload := make(chan os.Signal, 1)
	signal.Notify(reload, syscall.SIGHUP) // before the start, which it must not end
	defer signal.Stop(reload)
	n, err := node.Start(ctx, node.Options{Config: cfg, Version: version, Logger: log})
	if err != nil {
		return err
	}
	for running := true; running; {
		select {
		case <-reload:
			if err := reloadNode(ctx, n, load); err != nil {
				log.Error("not reloaded", "error", err)
			}
			continue
		case <-ctx.Done():
			log.Info("node stopping")
		case err = <-n.Failed():
		}
		running = false
	}
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	if stopErr := n.Stop(stopping); stopErr != nil {
		log.Error("node not stopped in order", "error", stopErr)
		if err == nil {
			err = fmt.Errorf("the node did not stop in order: %w", stopErr)
		}
	}
	return err
}

func newLogger(cfg config.Log, out io.Writer) *slog.Logger {
	options := &slog.HandlerOptions{Level: cfg.SlogLevel()}
	if cfg.Format == "json" {
		return slog.New(slog.NewJSONHandler(out, options))
	}
	return slog.New(slog.NewTextHandler(out, options))
}
