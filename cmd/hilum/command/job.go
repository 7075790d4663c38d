package command

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"hilum/node/config"
	"hilum/node/web"
)

func newJobCommand(g *global) *cobra.Command {
	return group("job", "Show and retry analyses",
		listing[[]web.Job]{
			use:   "list",
			short: "List the analyses, oldest first",
			ask: func(ctx context.Context, c *web.Client, _ []string) ([]web.Job, error) {
				return c.Jobs(ctx)
			},
			show: func(out io.Writer, jobs []web.Job) error {
				t := newTable(out, "ID", "PIPELINE", "PRIORITY", "STATE", "FINDINGS", "UPDATED", "SERIES", "REASON")
				for _, j := range jobs {
					t.row(j.ID, j.Plugin, priority(j), j.State, j.Findings, clock(j.Updated), j.SeriesInstanceUID, j.Reason)
				}
				return t.flush()
			},
		}.command(g),
		listing[web.Job]{
			use:   "show ID",
			short: "Show one analysis: what it did with which images, plugin and model",
			args:  cobra.ExactArgs(1),
			ask: func(ctx context.Context, c *web.Client, args []string) (web.Job, error) {
				return c.Job(ctx, args[0])
			},
			show: showJob,
		}.command(g),
		listing[web.Job]{
			use:   "retry ID",
			short: "Queue a dead analysis again",
			args:  cobra.ExactArgs(1),
			ask: func(ctx context.Context, c *web.Client, args []string) (web.Job, error) {
				return c.RetryJob(ctx, args[0])
			},
			show: func(out io.Writer, j web.Job) error {
				_, err := fmt.Fprintf(out, "job %s is %s\n", j.ID, j.State)
				return err
			},
		}.command(g),
	)
}

func priority(j web.Job) string {
	if j.Urgent {
		return config.PriorityUrgent
	}
	return config.PriorityRoutine
}

func showJob(out io.Writer, j web.Job) error {
	fmt.Fprintf(out, "job        %s\npipeline   %s (%s)\nseries     %s (revision %d)\nstate      %s\nreason     %s\nattempts   %d\ncreated    %s\nupdated    %s\n",
		j.ID, j.Plugin, priority(j), j.SeriesInstanceUID, j.Revision, j.State, j.Reason, j.Attempts, clock(j.Created), clock(j.Updated))
	d := j.Detail
	if d == nil {
		return nil
	}
	fmt.Fprintf(out, "report     %s\nversion    %s\nruntime    %s on %s\nimages     %d\nseconds    %.1f\n", j.Report, d.PluginVersion, d.Runtime, d.Device, len(d.Instances), d.Seconds)
	for _, s := range d.Steps {
		fmt.Fprintf(out, "step       %s %s on %s with %d threads: %d findings in %.1f s\n", s.Plugin, s.Version, s.Device, s.Threads, s.Findings, s.Seconds)
	}
	for _, m := range d.Models {
		fmt.Fprintf(out, "model      %s %s sha256 %s\n", m.Name, m.Version, m.SHA256)
	}
	for _, n := range d.Notes {
		fmt.Fprintf(out, "note       %s\n", n)
	}
	for _, k := range slices.Sorted(maps.Keys(d.Attributes)) {
		fmt.Fprintf(out, "           %s = %s\n", k, d.Attributes[k])
	}
	if d.Malignancy != nil {
		fmt.Fprintf(out, "malignancy %.3f that any nodule of the patient is malignant\n", *d.Malignancy)
	}
	fmt.Fprintln(out)
	return showFindings(out, d.Findings)
}
