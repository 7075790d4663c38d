package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"
	"github.com/spf13/cobra"

	"hilum/dimse/dataset"
	"hilum/models/ct"
	"hilum/node/report"
	"hilum/plugins/api"
	"hilum/plugins/host"
	"hilum/trainer/luna"
	"hilum/trainer/predict"
	"hilum/trainer/volume"
)

// predictCommand runs a plugin over scans.
type predictCommand struct {
	options                    predict.Options
	model, classifier, runtime string
	sr                         string
	threshold                  float64
}

func newTrainPredictCommand() *cobra.Command {
	c := &predictCommand{}
	cmd := &cobra.Command{
		Use:   "predict --model DIR --out P.csv FOLDER…",
		Short: "Run a model over scans, as a node would",
		Long: `Run the detection plugin with a model over every CT scan below the folders (DICOM
series, MetaImages), in the processes that a node uses, and write all findings
to P.csv in the format of a LUNA16 submission:
seriesuid,coordX,coordY,coordZ,probability (LPS mm). The plugin reports findings
from the threshold of the model's manifest; for a FROC curve set --threshold
lower. With --classifier each finding has malignancy, texture and
texture_probability too, and the JSON file the probability that any nodule of the
patient is malignant. Results are kept in P.csv.part as they come, and the same command goes on
from there. A scan that cannot be analysed stops the command, which names it; one
at which the plugin dies is tried once more, and the plugin's last words are shown.

` + exitHelp,
		Args: cobra.MinimumNArgs(1),
		RunE: c.run,
	}
	f := cmd.Flags()
	f.StringVar(&c.model, "model", "", "model `FOLDER`")
	f.StringVar(&c.classifier, "classifier", "", "`FOLDER` of a model that judges the findings (default: none)")
	f.StringVar(&c.options.Out, "out", "", "CSV `FILE` to write")
	f.StringVar(&c.options.JSON, "json", "", "JSON `FILE` to write too: findings with diameters, notes, timings")
	f.StringVar(&c.sr, "sr", "", "`DIR` to write a DICOM SR of each series to (DICOM series only)")
	f.StringVar(&c.options.Plugin, "plugin", defaultPlugin(), "plugin `PROGRAM`")
	f.StringVar(&c.runtime, "runtime", "", "ONNX Runtime library or its `FOLDER` (default: where the plugin looks)")
	f.Float64Var(&c.threshold, "threshold", 0, "lowest probability written, over 0 and below 1 (default: the manifest's)")
	f.StringVar(&c.options.Device, "device", "", "cpu or cuda:0 (default: the plugin chooses)")
	f.IntVar(&c.options.Processes, "processes", 0, "plugin processes (default: one for every four processors)")
	f.DurationVar(&c.options.Deadline, "deadline", 15*time.Minute, "for one scan")
	return cmd
}

func (c *predictCommand) run(cmd *cobra.Command, args []string) error {
	switch {
	case c.model == "":
		return usage(errors.New("--model is needed: it names the folder with model.json and model.onnx"))
	case c.options.Out == "":
		return usage(errors.New("--out is needed: it names the CSV file to write"))
	case cmd.Flags().Changed("threshold") && !(c.threshold > 0 && c.threshold < 1):
		return usage(fmt.Errorf("--threshold %g: choose a number over 0 and below 1", c.threshold))
	case c.options.Processes < 0:
		return usage(errors.New("--processes must be at least 1"))
	case c.options.Deadline <= 0:
		return usage(errors.New("--deadline must be more than nothing"))
	}
	o := c.options
	model, err := filepath.Abs(c.model) // the plugin runs in a folder of its own
	if err != nil {
		return fmt.Errorf("model folder: %w", err)
	}
	o.Args = []string{"--model", model}
	if c.classifier != "" {
		classifier, err := filepath.Abs(c.classifier)
		if err != nil {
			return fmt.Errorf("classifier folder: %w", err)
		}
		o.Args = append(o.Args, "--classifier", classifier)
		o.Judged = true
	}
	if c.runtime != "" {
		library, err := filepath.Abs(c.runtime)
		if err != nil {
			return fmt.Errorf("ONNX Runtime: %w", err)
		}
		o.Args = append(o.Args, "--runtime", library)
	} else if library := os.Getenv("HILUM_ONNXRUNTIME"); library != "" {
		o.Args = append(o.Args, "--runtime", library) // a plugin's environment is empty
	}
	if c.threshold > 0 {
		o.Args = append(o.Args, "--threshold", strconv.FormatFloat(c.threshold, 'g', -1, 64))
	}
	if c.sr != "" {
		if err := os.MkdirAll(c.sr, 0o755); err != nil {
			return fmt.Errorf("make the folder for reports: %w", err)
		}
		o.Keep = c.report
	}
	p := newProgress(cmd.ErrOrStderr(), "predict")
	o.Progress = p.follow()
	crashes := newCrashes(cmd.ErrOrStderr())
	o.Crashed = crashes.tell
	sum, err := predict.Run(cmd.Context(), args, o)
	p.finish()
	tellLeft(cmd.ErrOrStderr(), sum.Left, nil)
	if err != nil {
		return fmt.Errorf("%w (%d of %s analysed by this run; the same command goes on from here)", err, sum.Analysed, number(sum.Scans, "scan"))
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s in %s: %s, %d without any; %d analysed now, %d before; %.1f s on %s\n",
		number(sum.Scans, "scan"), o.Out, number(sum.Findings, "finding"), sum.Empty, sum.Analysed, sum.Scans-sum.Analysed, sum.Seconds, sum.Device)
	return err
}

// crashes tells a person of plugins that died, with all that they said last: what broke
// stands there, and the analysis may succeed the second time.
type crashes struct {
	mu  sync.Mutex // guards out
	out io.Writer
}

func newCrashes(out io.Writer) *crashes { return &crashes{out: out} }

func (c *crashes) tell(seriesInstanceUID string, err *host.CrashError) {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, _ = fmt.Fprintf(c.out, "\nscan %s: %v\n%s\n", seriesInstanceUID, err, err.LastOutput) // nobody is left to be told
}

// report writes the structured report of one series as <dir>/<series uid>.dcm.
func (c *predictCommand) report(ctx context.Context, s volume.Scan, r api.Result) error {
	if s.MetaImage {
		return errors.New("a MetaImage has no patient and no images to report on: leave --sr out, or make DICOM of it with `hilum train convert --to dicom`")
	}
	v, err := ct.ReadSeriesHeader(ctx, s.Path, ct.Options{})
	if err != nil {
		return err
	}
	header, err := firstHeader(s.Path, s.UID)
	if err != nil {
		return err
	}
	in := report.Input{
		Header: header, SeriesInstanceUID: s.UID, Result: r, Revision: 1, Software: version, Station: "HILUM-TRAIN", Now: time.Now(),
	}
	for _, uid := range v.SOPInstanceUIDs {
		in.Images = append(in.Images, report.Image{SOPClassUID: v.SOPClassUID, SOPInstanceUID: uid})
	}
	doc, err := report.SR(in)
	if err != nil {
		return err
	}
	return luna.WriteFile(filepath.Join(c.sr, s.UID+".dcm"), func(w io.Writer) error {
		_, err := w.Write(doc.Bytes)
		return err
	})
}

// firstHeader reads what a report copies from an image of the series.
func firstHeader(folder, series string) (dataset.Header, error) {
	var header dataset.Header
	found := false
	tags := append([]dataset.Tag{dicomtag.SeriesInstanceUID}, report.SourceTags...)
	err := filepath.WalkDir(folder, func(name string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		f, err := dataset.ReadHeader(name, tags)
		if errors.Is(err, dataset.ErrNotDICOM) {
			return nil
		}
		if err != nil {
			return err
		}
		if f.Header.String(dicomtag.SeriesInstanceUID) != series {
			return nil
		}
		header, found = f.Header, true
		return fs.SkipAll
	})
	if err == nil && !found {
		err = errors.New("no image of the series is left in its folder")
	}
	return header, err
}
