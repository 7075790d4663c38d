package command

import (
	"context"
	"fmt"
	"io"

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
	for _, s := range st.Steps {
		fmt.Fprintf(out, "\nstep       %s\nmodality   %s at %s\nimages     %d in %d series, as the scanner says\nstatus     %s since %s\n",
			s.SOPInstanceUID, s.Modality, s.Station, s.Images, len(s.Series), s.Status, clock(s.Updated))
	}
	return nil
}
