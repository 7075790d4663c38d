package command

import (
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"hilum/models/ct"
	"hilum/trainer/prepare"
)

// anisotropicMM is the grid of detectors that keep the detail of a slice.
var anisotropicMM = []float64{0.703125, 0.703125, 1.25}

func newTrainPrepareCommand() *cobra.Command {
	o := prepare.Options{Spec: ct.DefaultPrepareSpec()}
	var noMask, anisotropic, asJSON bool
	var spacing []float64
	cmd := &cobra.Command{
		Use:   "prepare --out DIR FOLDER…",
		Short: "Make training inputs from scans and annotations",
		Long: `Make of every CT scan below the folders (DICOM series, MetaImages) what the
network sees, with the code that also serves: HU window to 0…255, lung mask,
convex hulls, dilation, bone, a grid of 1 mm, the box around the lungs. DIR gets
<uid>_clean.npy (uint8 [1,D,H,W]), <uid>_label.npy (float64 [n,4]: z, y, x and
diameter of the annotated nodules in voxels of the box; one row of zeros when
there are none) and manifest.json: settings, hashes, and the place of each box
in the patient.

The lungs are found by Hilum's own mask, as when serving, or taken from --masks.
Cases that are there and whole are kept; the same command goes on where it was
cut off. A scan that cannot be prepared stops the command, which names it.
Nodules that are not whole in their box are named and make the exit code 3.

` + exitHelp,
		Args: cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.Out == "" {
				return errNoOut
			}
			o.Spec.Masking = !noMask
			if anisotropic {
				if len(spacing) > 0 {
					return usage(errors.New("choose --anisotropic or --spacing"))
				}
				spacing = anisotropicMM
			}
			if len(spacing) > 0 {
				if len(spacing) != 3 {
					return usage(errors.New("--spacing needs three numbers: x,y,z in mm"))
				}
				o.Spec.SpacingMM = [3]float64(spacing)
			}
			if err := o.Spec.Validate(); err != nil {
				return usage(err)
			}
			o.Program, o.Software = existing(o.Program), version
			p := newProgress(cmd.ErrOrStderr(), "prepare")
			o.Progress = p.follow()
			sum, err := prepare.Run(cmd.Context(), args, o)
			p.finish()
			tellLeft(cmd.ErrOrStderr(), sum.Left, sum.Notes)
			if err != nil {
				return fmt.Errorf("%w (%d of %s done; the same command goes on from here)", err, sum.Prepared+sum.Kept, number(sum.Found, "scan"))
			}
			if asJSON {
				err = writeJSON(cmd.OutOrStdout(), sum)
			} else {
				err = showPrepared(cmd.OutOrStdout(), o.Out, sum)
			}
			if err != nil || len(sum.Lost) == 0 {
				return err
			}
			for _, l := range sum.Lost {
				fmt.Fprintln(cmd.ErrOrStderr(), l)
			}
			return &exitError{exitSkipped, fmt.Errorf("%s of %d not whole in their box", number(len(sum.Lost), "nodule"), sum.Nodules)}
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.Out, "out", "", "`DIR` to write to")
	f.StringVar(&o.Annotations, "annotations", "", "`CSV` with the nodules, as LUNA16's annotations.csv")
	f.StringVar(&o.Masks, "masks", "", "`DIR` with lung segmentations <uid>.mhd, as seg-lungs-LUNA16 (default: find the lungs)")
	f.BoolVar(&noMask, "no-mask", false, "keep what is outside the lungs; the box stays")
	f.BoolVar(&anisotropic, "anisotropic", false, "grid of 0.703 × 0.703 × 1.25 mm")
	f.Float64SliceVar(&spacing, "spacing", nil, "grid, `X,Y,Z` in mm (default 1,1,1)")
	f.IntVar(&o.Threads, "threads", 0, "threads for each scan (default: the processors shared among the scans)")
	addScanFlags(f, &o.Program, &o.Jobs)
	f.BoolVar(&asJSON, "json", false, "print the summary as JSON, with the seconds of each step")
	return cmd
}

func showPrepared(out io.Writer, dir string, sum prepare.Summary) error {
	if _, err := fmt.Fprintf(out, "%s: %d prepared (%s), %d were there; %s in %s with %s, %d with nodules\n",
		number(sum.Found, "scan"), sum.Prepared, size(sum.Bytes), sum.Kept, number(sum.Cases, "case"), dir, number(sum.Counts.Nodules, "nodule"), sum.Positive); err != nil {
		return err
	}
	if sum.Elsewhen > 0 {
		if _, err := fmt.Fprintf(out, "%s of earlier runs\n", number(sum.Elsewhen, "case")); err != nil {
			return err
		}
	}
	if sum.Absent > 0 {
		if _, err := fmt.Fprintf(out, "%s with annotations not in the folders\n", number(sum.Absent, "scan")); err != nil {
			return err
		}
	}
	_, err := fmt.Fprintln(out, sum.LUNA16)
	return err
}
