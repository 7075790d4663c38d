package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"hilum/node/web"
)

func newStudyCommand(g *global) *cobra.Command {
	return group("study", "Show and export stored studies",
		listing[[]web.Study]{
			use:   "list",
			short: "List the studies and their series, newest first",
			ask: func(ctx context.Context, c *web.Client, _ []string) ([]web.Study, error) {
				return c.Studies(ctx)
			},
			show: showStudies,
		}.command(g),
		listing[web.Study]{
			use:   "show UID",
			short: "Show one study",
			args:  cobra.ExactArgs(1),
			ask:   findStudy,
			show:  showStudy,
		}.command(g),
		newStudyExportCommand(g),
	)
}

func findStudy(ctx context.Context, c *web.Client, args []string) (web.Study, error) {
	studies, err := c.Studies(ctx)
	if err != nil {
		return web.Study{}, err
	}
	for _, s := range studies {
		if s.StudyInstanceUID == args[0] {
			return s, nil
		}
	}
	return web.Study{}, fmt.Errorf("no study %s is stored here; `hilum study list` shows those that are", args[0])
}

func showStudies(out io.Writer, studies []web.Study) error {
	t := newTable(out, "STUDY", "SERIES", "MODALITY", "IMAGES", "SIZE", "STATE", "LAST IMAGE")
	for _, st := range studies {
		for _, s := range st.Series {
			t.row(st.StudyInstanceUID, s.SeriesInstanceUID, s.Modality, s.Instances, size(s.Bytes), s.State, clock(s.LastReceived))
		}
	}
	return t.flush()
}

func showStudy(out io.Writer, st web.Study) error {
	fmt.Fprintf(out, "study      %s\ndate       %s\naccession  %s\n", st.StudyInstanceUID, st.StudyDate, st.AccessionNumber)
	for _, s := range st.Series {
		fmt.Fprintf(out, "\nseries     %s\nmodality   %s\nimages     %d (%s)\nstate      %s: %s\nrevision   %d\nreceived   %s to %s from %v\n",
			s.SeriesInstanceUID, s.Modality, s.Instances, size(s.Bytes), s.State, s.Reason, s.Revision, clock(s.FirstReceived), clock(s.LastReceived), s.Sources)
	}
	return nil
}

func newStudyExportCommand(g *global) *cobra.Command {
	var out, series string
	cmd := &cobra.Command{
		Use:   "export --out DIR UID",
		Short: "Write a study as DICOM files, byte for byte as stored",
		Long: `Write one Part 10 file for each image of a study into DIR, as series<NN>/<number>.dcm
in slice order; --series takes one series only. DIR is made if it is missing;
a file that is there already is never replaced.

` + exitHelp,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) (err error) {
			if out == "" {
				return errNoOut
			}
			client, err := g.client(cmd)
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, client.Close()) }()
			study, err := findStudy(cmd.Context(), client, args)
			if err != nil {
				return err
			}
			n, err := exportStudy(cmd.Context(), client, study, series, out)
			if err != nil {
				return err
			}
			fmt.Fprintf(cmd.ErrOrStderr(), "%s written to %s\n", number(n, "image"), out)
			return nil
		},
	}
	cmd.Flags().StringVar(&out, "out", "", "`DIR` to write to")
	cmd.Flags().StringVar(&series, "series", "", "only the series with this `UID`")
	return cmd
}

func exportStudy(ctx context.Context, c *web.Client, study web.Study, series, out string) (int, error) {
	n := 0
	for i, s := range study.Series {
		if series != "" && s.SeriesInstanceUID != series {
			continue
		}
		uids, err := c.Instances(ctx, s.SeriesInstanceUID)
		if err != nil {
			return n, err
		}
		// Folder and file names are ours: nothing from the wire becomes a path.
		dir := filepath.Join(out, fmt.Sprintf("series%02d", i+1))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return n, fmt.Errorf("make the export folder: %w", err)
		}
		for k, uid := range uids {
			if err := exportInstance(ctx, c, uid, filepath.Join(dir, fmt.Sprintf("%06d.dcm", k+1))); err != nil {
				return n, err
			}
			n++
		}
	}
	if n == 0 {
		return 0, fmt.Errorf("study %s has no series %s", study.StudyInstanceUID, series)
	}
	return n, nil
}

// exportInstance writes one image; a file that cannot be written whole is
// removed again.
func exportInstance(ctx context.Context, c *web.Client, uid, name string) (err error) {
	r, err := c.Instance(ctx, uid)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("export: %w", err)
	}
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(fmt.Errorf("export image %s: %w", uid, err), os.Remove(name))
	}
	return nil
}
