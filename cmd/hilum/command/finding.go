package command

import (
	"context"
	"fmt"
	"io"
	"slices"

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
	judged := slices.ContainsFunc(findings, func(f web.Finding) bool { return f.Malignancy != nil })
	columns := []string{"#", "X mm", "Y mm", "Z mm", "DIAMETER mm", "PROBABILITY"}
	if judged {
		columns = append(columns, "MALIGNANCY", "TEXTURE")
	}
	t := newTable(out, columns...)
	for i, f := range findings {
		row := []any{i + 1}
		for _, v := range []float64{f.X, f.Y, f.Z, f.DiameterMM} {
			row = append(row, fmt.Sprintf("%.1f", v))
		}
		row = append(row, fmt.Sprintf("%.3f", f.Probability))
		if judged {
			malignancy := ""
			if f.Malignancy != nil {
				malignancy = fmt.Sprintf("%.3f", *f.Malignancy)
			}
			row = append(row, malignancy, f.Texture)
		}
		t.row(row...)
	}
	return t.flush()
}
