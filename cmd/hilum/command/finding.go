package command

import (
	"context"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hilum/node/web"
)

func newFindingCommand(g *global) *cobra.Command {
	var series string
	return group("finding", "Show findings",
		listing[[]web.Finding]{
			use:   "list",
			short: "List the newest findings, the most probable first",
			long: `List the findings of the newest result of every plugin, the most probable first.
Positions are DICOM patient coordinates (LPS) in mm.`,
			ask: func(ctx context.Context, c *web.Client, _ []string) ([]web.Finding, error) {
				return c.Findings(ctx, series)
			},
			show: showFindings,
			flags: func(cmd *cobra.Command) {
				cmd.Flags().StringVar(&series, "series", "", "only of the series with this `UID`")
			},
		}.command(g),
	)
}

func showFindings(out io.Writer, findings []web.Finding) error {
	if len(findings) == 0 {
		_, err := fmt.Fprintln(out, "no findings")
		return err
	}
	t := newTable(out, "#", "X mm", "Y mm", "Z mm", "DIAMETER mm", "PROBABILITY")
	for i, f := range findings {
		t.row(i+1, fmt.Sprintf("%.1f", f.X), fmt.Sprintf("%.1f", f.Y), fmt.Sprintf("%.1f", f.Z), fmt.Sprintf("%.1f", f.DiameterMM), fmt.Sprintf("%.3f", f.Probability))
	}
	return t.flush()
}
