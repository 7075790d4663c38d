package command

import (
	"fmt"

	"github.com/spf13/cobra"

	"hilum/trainer/phantom"
)

func newPhantomCommand() *cobra.Command {
	var o phantom.Options
	var out string
	cmd := &cobra.Command{
		Use:   "phantom --out DIR",
		Short: "Write a synthetic chest CT with known nodules",
		Long: `Write a synthetic chest CT series (body, lungs, vessels, noise, nodules of 4 to
30 mm) as DICOM files into DIR, which must be empty or missing, and its ground
truth as JSON beside it. The same seed gives the same series.

` + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if out == "" {
				return errNoOut
			}
			p := newProgress(cmd.ErrOrStderr(), "phantom")
			truth, err := writePhantom(cmd, out, o, p)
			p.finish()
			if err != nil {
				return err
			}
			_, err = fmt.Fprintf(cmd.OutOrStdout(), "series %s with %s in %s, ground truth in %s\n",
				truth.SeriesInstanceUID, number(len(truth.Nodules), "nodule"), out, phantom.TruthFile(out))
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&out, "out", "", "`DIR` to write to")
	f.Int64Var(&o.Seed, "seed", 1, "number that decides everything random")
	f.IntVar(&o.Slices, "slices", 240, "slices")
	f.IntVar(&o.Rows, "rows", 512, "rows and columns")
	f.IntVar(&o.Nodules, "nodules", 10, "nodules")
	return cmd
}

func writePhantom(cmd *cobra.Command, dir string, o phantom.Options, p *progress) (phantom.Truth, error) {
	if o.Nodules == 0 {
		o.Nodules = -1 // the option's zero value means its default
	}
	return phantom.Write(cmd.Context(), dir, o, func(done, total int) {
		if done == 1 {
			p.start(total)
		}
		p.step()
	})
}
