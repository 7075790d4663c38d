package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"path/filepath"

	"github.com/spf13/cobra"

	"hilum/node/web"
	"hilum/store"
)

func newStoreCommand(g *global) *cobra.Command {
	return group("store", "Check, back up and restore the data folder",
		newStoreCheckCommand(g),
		newStoreBackupCommand(g),
		newStoreRestoreCommand(g),
		newStoreCompactCommand(g),
		group("quarantine", "Show images that were not kept",
			listing[[]web.Quarantined]{
				use:   "list",
				short: "List the images in quarantine: other bytes were stored under their UID before",
				ask: func(ctx context.Context, c *web.Client, _ []string) ([]web.Quarantined, error) {
					return c.Quarantine(ctx)
				},
				show: func(out io.Writer, list []web.Quarantined) error {
					t := newTable(out, "IMAGE", "KEPT IN SERIES", "SIZE", "FROM", "RECEIVED", "REASON")
					for _, q := range list {
						t.row(q.SOPInstanceUID, q.KeptSeries, size(q.Bytes), q.Source, clock(q.Received), q.Reason)
					}
					return t.flush()
				},
			}.command(g),
		),
	)
}

func newStoreCheckCommand(g *global) *cobra.Command {
	var asJSON bool
	var backup string
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Read every image and compare it with its checksum",
		Long: `Read every stored image, compare it with its checksum, and compare series files,
index and journal with each other. What is damaged is named on standard output,
and the exit code is then 1. A node that runs goes on meanwhile.

With --backup, a backup is compared with its manifest instead.

` + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if backup != "" {
				m, err := store.VerifyBackup(cmd.Context(), backup)
				if err != nil {
					return err
				}
				if asJSON {
					return writeJSON(cmd.OutOrStdout(), m)
				}
				return showBackup(cmd.OutOrStdout(), m)
			}
			return runStoreCheck(cmd, g, asJSON)
		},
	}
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	cmd.Flags().StringVar(&backup, "backup", "", "check the backup at `PATH`, not the store")
	return cmd
}

func runStoreCheck(cmd *cobra.Command, g *global, asJSON bool) (err error) {
	client, err := g.client(cmd)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	r, err := client.CheckStore(cmd.Context())
	if err != nil {
		return err
	}
	out := cmd.OutOrStdout()
	if asJSON {
		if err := writeJSON(out, r); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(out, "%d series, %s (%s) and %d in quarantine read\n", r.Series, number(r.Instances, "good image"), size(r.Bytes), r.Quarantined)
		for _, p := range r.Problems {
			fmt.Fprintln(out, p)
		}
	}
	if len(r.Problems) > 0 {
		return fmt.Errorf("%s found: restore a backup into another data folder and send what is damaged again from there", number(len(r.Problems), "problem"))
	}
	return nil
}

func showBackup(out io.Writer, m store.Manifest) error {
	_, err := fmt.Fprintf(out, "backup of %s: %d series, %s (%s)\n", clock(m.Created), m.Series, number(m.Instances, "image"), size(m.Bytes))
	return err
}

func newStoreBackupCommand(g *global) *cobra.Command {
	var out string
	cmd := &cobra.Command{
		Use:   "backup --out FILE.tar|DIR",
		Short: "Write a backup of the whole store, also while the node runs",
		Long: `Write a backup with every image acknowledged so far, and all jobs, as one tar
archive (a name that ends in .tar) or as a folder. It appears when it is whole,
on disk and verified. A node that runs goes on meanwhile. A series that cannot
be read is left out and named; the exit code is then 3.

` + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if out == "" {
				return usage(errors.New("--out is needed: it names the archive (FILE.tar) or the folder to write"))
			}
			client, err := g.client(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, client.Close()) }()
			r, err := client.BackupStore(cmd.Context())
			if err != nil {
				return err
			}
			defer r.Close()
			m, err := store.SaveBackup(cmd.Context(), r, filepath.Clean(out))
			if err != nil {
				return err
			}
			if err := showBackup(cmd.ErrOrStderr(), m); err != nil {
				return err
			}
			for _, p := range m.Problems {
				fmt.Fprintln(cmd.ErrOrStderr(), p)
			}
			if len(m.Problems) > 0 {
				return &exitError{exitSkipped, fmt.Errorf("%s left out: see `hilum store check`", number(len(m.Problems), "damaged part"))}
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`PATH` to write to; it must not exist")
	return cmd
}

func newStoreRestoreCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "restore PATH",
		Short: "Restore a backup into the empty data folder, and check it",
		Long: `Restore a backup, archive or folder, into the data folder of the configuration,
which must be empty or missing. Everything is compared with the manifest, and
every image with its checksum; if anything is wrong the folder stays empty.

` + exitHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			cfg, err := g.load()
			if err != nil {
				return err
			}
			log := slog.New(slog.NewTextHandler(cmd.ErrOrStderr(), &slog.HandlerOptions{Level: slog.LevelWarn}))
			m, r, err := store.Restore(cmd.Context(), args[0], cfg.Data, store.Options{Logger: log})
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%d series, %s of the backup of %s restored into %s and checked\n", r.Series, number(r.Instances, "image"), clock(m.Created), cfg.Data)
			return nil
		},
	}
}

func newStoreCompactCommand(g *global) *cobra.Command {
	return &cobra.Command{
		Use:   "compact",
		Short: "Give unused space inside the store's files back to the disk",
		Long: `Copy every series file without the pages that it does not use, one after the
other, each replaced in one step. A node that runs goes on meanwhile; the index
is compacted too when none runs.

` + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			cfg, err := g.load()
			if err != nil {
				return err
			}
			r, running, err := compactSeries(cmd, g)
			if err == nil && !running {
				var index store.CompactReport
				index, err = store.CompactIndex(cfg.Data)
				r.Files, r.Before, r.After = r.Files+index.Files, r.Before+index.Before, r.After+index.After
			}
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s before, %s after\n", number(r.Files, "file"), size(r.Before), size(r.After))
			return nil
		},
	}
}

// compactSeries also reports whether a node runs.
func compactSeries(cmd *cobra.Command, g *global) (r store.CompactReport, running bool, err error) {
	client, err := g.client(cmd)
	if err != nil {
		return r, false, err
	}
	defer func() { err = errors.Join(err, client.Close()) }()
	status, err := client.Status(cmd.Context())
	if err != nil {
		return r, false, err
	}
	r, err = client.CompactStore(cmd.Context())
	return r, status.Running, err
}
