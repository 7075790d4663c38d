package command

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"hilum/models/ct"
	"hilum/trainer/froc"
	"hilum/trainer/luna"
	"hilum/trainer/report"
	"hilum/trainer/volume"
)

// evaluateOptions are the flags of train evaluate.
type evaluateOptions struct {
	predictions, annotations, excluded, scans string
	folds                                     string
	html                                      string
	title                                     string
	volumes                                   []string
	program                                   string
	bootstrap                                 int
	seed                                      uint64
	asJSON                                    bool
}

// maxBootstrap bounds the memory of the samples: half a kilobyte each.
const maxBootstrap = 1_000_000

func newTrainEvaluateCommand() *cobra.Command {
	var o evaluateOptions
	cmd := &cobra.Command{
		Use:   "evaluate --predictions P.csv --annotations A.csv --scans S.csv",
		Short: "Measure a detector: FROC and CPM by LUNA16's protocol",
		Long: `Measure the marks of a detector (seriesuid,coordX,coordY,coordZ,probability)
against annotated nodules exactly as LUNA16 does: sensitivity at 1/8 to 8 false
positives per scan, their mean (CPM) with a bootstrap interval, counts, and
tables by nodule size and by fold.

Every scan of --scans counts, also those without nodules or marks; rows of other
scans take no part and are counted on standard error. Marks on the findings of
--excluded are ignored. At most 100 marks of a scan enter the curve.

--html writes a report in one file that opens offline, with pictures of the
misses and of the worst false positives when --volumes has the scans.

` + exitHelp,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return runTrainEvaluate(cmd.Context(), o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.predictions, "predictions", "", "`FILE` with the marks")
	f.StringVar(&o.annotations, "annotations", "", "`FILE` with the nodules, as annotations.csv")
	f.StringVar(&o.excluded, "excluded", "", "`FILE` with findings that count neither way, as annotations_excluded.csv")
	f.StringVar(&o.scans, "scans", "", "`FILE` with all scans, as seriesuids.csv")
	f.StringVar(&o.folds, "folds", "", "LUNA16 `DIR` with subset0 … subset9, or a file with seriesuid and fold: a table by fold")
	f.StringVar(&o.html, "html", "", "write the report to `FILE`")
	f.StringVar(&o.title, "title", "", "`NAME` of the detector in the report")
	f.StringSliceVar(&o.volumes, "volumes", nil, "`DIR` with the scans, for pictures in the report; may be given again")
	f.StringVar(&o.program, "plugin", defaultPlugin(), "lungnodule `PROGRAM`, which decodes compressed DICOM")
	f.IntVar(&o.bootstrap, "bootstrap", froc.DefaultBootstrap, "bootstrap samples; 0: no interval")
	f.Uint64Var(&o.seed, "seed", 1, "number that decides the bootstrap")
	f.BoolVar(&o.asJSON, "json", false, "print JSON")
	return cmd
}

func runTrainEvaluate(ctx context.Context, o evaluateOptions, out, errs io.Writer) error {
	for _, needed := range []struct{ flag, value string }{
		{"--predictions", o.predictions}, {"--annotations", o.annotations}, {"--scans", o.scans},
	} {
		if needed.value == "" {
			return usage(fmt.Errorf("%s is needed; see `hilum train evaluate --help`", needed.flag))
		}
	}
	if o.bootstrap < 0 || o.bootstrap > maxBootstrap {
		return usage(fmt.Errorf("--bootstrap %d: choose 0 to %d samples", o.bootstrap, maxBootstrap))
	}
	if len(o.volumes) > 0 && o.html == "" {
		return usage(errors.New("--volumes is for the pictures of a report: give --html too"))
	}
	in, err := readEvaluation(o)
	if err != nil {
		return err
	}
	fo := froc.Options{Bootstrap: o.bootstrap, Seed: o.seed}
	if o.bootstrap == 0 {
		fo.Bootstrap = -1 // the option's zero value means its default
	}
	var folds luna.Folds
	if o.folds != "" {
		if folds, err = luna.ReadFolds(o.folds); err != nil {
			return err
		}
		fo.Folds = folds.Of
	}
	r, err := froc.Evaluate(in, fo)
	if err != nil {
		return err
	}
	if left := r.Left; left != (froc.Left{}) {
		fmt.Fprintf(errs, "note: rows of scans that are not in %s took no part: %d predictions, %d annotations, %d excluded findings\n",
			o.scans, left.Marks, left.Nodules, left.Excluded)
	}
	if o.html != "" {
		if err := writeReport(ctx, o, r, folds, errs); err != nil {
			return err
		}
	}
	if o.asJSON {
		return writeJSON(out, evaluationJSON(r))
	}
	return showEvaluation(out, r)
}

func readEvaluation(o evaluateOptions) (in froc.Input, err error) {
	if in.Scans, err = luna.ReadScans(o.scans); err != nil {
		return in, err
	}
	if in.Nodules, err = luna.ReadAnnotations(o.annotations); err != nil {
		return in, err
	}
	if o.excluded != "" {
		if in.Excluded, err = luna.ReadExcluded(o.excluded); err != nil {
			return in, err
		}
	}
	in.Marks, err = luna.ReadPredictions(o.predictions)
	return in, err
}

// writeReport writes the HTML file.
func writeReport(ctx context.Context, o evaluateOptions, r *froc.Result, folds luna.Folds, errs io.Writer) error {
	in := report.Input{Title: o.title, Result: r, Seed: o.seed, Software: version, Now: time.Now()}
	for _, s := range []struct{ role, name string }{
		{"predictions", o.predictions}, {"annotations", o.annotations}, {"excluded findings", o.excluded}, {"scans", o.scans},
	} {
		if s.name == "" {
			continue
		}
		sum, err := hashFile(s.name)
		if err != nil {
			return err
		}
		in.Sources = append(in.Sources, report.Source{Role: s.role, Name: filepath.Base(s.name), SHA256: sum})
	}
	if o.folds != "" {
		in.Folds = "The folds come from " + filepath.Base(o.folds) + "."
		if folds.Official {
			in.Folds = "These are LUNA16's official folds."
		}
	}
	if len(o.volumes) > 0 {
		load, err := volumesIn(ctx, o)
		if err != nil {
			return err
		}
		p := newProgress(errs, "pictures")
		defer p.finish()
		in.Volume, in.Progress = load, p.follow()
	}
	return luna.WriteFile(o.html, func(w io.Writer) error { return report.Write(ctx, w, in) })
}

// volumesIn returns a function that loads the scans below the folders.
func volumesIn(ctx context.Context, o evaluateOptions) (func(context.Context, string) (*ct.Volume, error), error) {
	found, err := volume.FindContext(ctx, o.volumes...)
	if err != nil {
		return nil, err
	}
	paths := make(map[string]string, len(found.Scans))
	for _, s := range found.Scans {
		paths[s.UID] = s.Path
	}
	options := volume.Options{Program: existing(o.program)}
	return func(ctx context.Context, uid string) (*ct.Volume, error) {
		path, ok := paths[uid]
		if !ok {
			return nil, report.ErrNoVolume
		}
		return volume.Load(ctx, path, options)
	}, nil
}

func hashFile(name string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}
