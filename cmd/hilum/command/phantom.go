package command

import (
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"hilum/trainer/insert"
	"hilum/trainer/luna"
	"hilum/trainer/phantom"
)

// phantomCommand makes test and training data: one synthetic series, a data set
// like LUNA16, or nodules in real scans.
type phantomCommand struct {
	out, luna string
	into      []string
	scans     int
	height    float64
	options   phantom.Options
	asJSON    bool

	set                              insert.SetOptions
	source, patients, fold           string
	withoutFold                      string
	simulated, real                  bool
	annotations, excluded, diameters string
}

func newPhantomCommand() *cobra.Command {
	c := &phantomCommand{}
	cmd := &cobra.Command{
		Use:   "phantom (--out DIR | --luna DIR | --into CT… --out DIR)",
		Short: "Write a synthetic chest CT, a data set like LUNA16, or nodules into real scans",
		Long: `With --out alone: write a synthetic chest CT series (body, lungs, vessels, noise,
nodules of 4 to 30 mm) as DICOM files into DIR, which must be empty or missing,
and its ground truth as JSON beside it.

With --luna: write a data set of synthetic scans with the files of LUNA16 into
DIR: subset0 … subset9, annotations, excluded findings, candidates, lung
segmentations. Some scans have no nodules, some a turned TransformMatrix.

With --into: put nodules into real scans (DICOM series, MetaImages, and all below
folders) and write the new scans, under UIDs of their own, into --out with
LUNA16's tables and the truth of each scan: kind, place, and the patient that a
real nodule is from. --source names a folder of real nodules (NAME.csv beside the
folder NAME with crops and masks); without it all nodules are simulated. Findings
given by --annotations and --excluded are kept clear and carried over. --patients,
--fold and --without-fold choose whose nodules are taken, so that a model can be
measured on patients that it was not trained on.

The same seed and options give the same data. --luna and --into go on from where
an earlier run of the same options was cut off.

` + exitHelp,
		Args: cobra.ArbitraryArgs,
		RunE: c.run,
	}
	f := cmd.Flags()
	f.StringVar(&c.out, "out", "", "`DIR` to write to")
	f.Int64Var(&c.options.Seed, "seed", 1, "number that decides everything random")
	f.IntVar(&c.options.Slices, "slices", 240, "slices; with --luna 160 unless given")
	f.IntVar(&c.options.Rows, "rows", 512, "rows and columns; with --luna 256 unless given")
	f.IntVar(&c.options.Nodules, "nodules", 10, "nodules; with --into of each scan, 5 unless given")
	f.BoolVar(&c.asJSON, "json", false, "print the summary as JSON (--luna, --into)")
	f.StringVar(&c.luna, "luna", "", "`DIR` to write a data set like LUNA16 to")
	f.IntVar(&c.scans, "scans", 20, "scans of the data set")
	f.Float64Var(&c.height, "height", 300, "length of the scans of the data set, mm: less is a part of the chest")
	f.StringSliceVar(&c.into, "into", nil, "`CT` to put nodules into; more may follow as arguments")
	f.StringVar(&c.source, "source", "", "`FOLDER` of real nodules")
	f.StringVar(&c.patients, "patients", "", "`FILE` with the patients of --source to take, one a line")
	f.StringVar(&c.fold, "fold", "", "take the patients in fold `K/N` of --source (0/5 … 4/5: by the CRC-32 of their names, as in training)")
	f.StringVar(&c.withoutFold, "without-fold", "", "leave the patients in fold `K/N` of --source out")
	f.BoolVar(&c.simulated, "simulated-only", false, "insert no real nodules")
	f.BoolVar(&c.real, "real-only", false, "insert no simulated nodules")
	f.BoolVar(&c.set.DICOM, "dicom", false, "write the new scans as DICOM series")
	f.StringVar(&c.annotations, "annotations", "", "`FILE` like annotations.csv: nodules known in the scans")
	f.StringVar(&c.excluded, "excluded", "", "`FILE` like annotations_excluded.csv: other findings known in the scans")
	f.StringVar(&c.diameters, "diameters", "", "`FILE` like annotations.csv to draw diameters from (default: LUNA16's distribution)")
	addScanFlags(f, &c.set.Program, &c.set.Jobs)
	return cmd
}

// Flags that belong to one way of using the command.
var (
	lunaFlags = []string{"scans", "height"}
	intoFlags = []string{"source", "patients", "fold", "without-fold", "simulated-only", "real-only", "dicom", "annotations", "excluded", "diameters", "plugin"}
)

func (c *phantomCommand) run(cmd *cobra.Command, args []string) error {
	given := func(name string) bool { return cmd.Flags().Changed(name) }
	into := len(c.into) > 0
	refuse := func(names []string, with string) error {
		for _, n := range names {
			if given(n) {
				return usage(fmt.Errorf("--%s goes with %s only", n, with))
			}
		}
		return nil
	}
	switch {
	case c.luna != "" && (into || c.out != ""):
		return usage(errors.New("--luna goes without --out and --into: it names the folder itself"))
	case len(args) > 0 && !into:
		return usage(fmt.Errorf("unknown argument %q; see `%s --help`", args[0], cmd.CommandPath()))
	case c.out == "" && c.luna == "":
		return errNoOut
	}
	if c.luna == "" {
		if err := refuse(lunaFlags, "--luna"); err != nil {
			return err
		}
	}
	if !into {
		if err := refuse(intoFlags, "--into"); err != nil {
			return err
		}
	}
	switch {
	case c.luna != "":
		if err := refuse([]string{"nodules"}, "--out and --into"); err != nil {
			return err
		}
		return c.writeLuna(cmd, given)
	case into:
		if err := refuse([]string{"rows", "slices"}, "synthetic scans"); err != nil {
			return err
		}
		return c.insert(cmd, append(c.into, args...), given)
	}
	if err := refuse([]string{"json", "jobs"}, "--luna and --into"); err != nil {
		return err
	}
	return c.writeSeries(cmd)
}

// writeSeries makes one synthetic series.
func (c *phantomCommand) writeSeries(cmd *cobra.Command) error {
	p := newProgress(cmd.ErrOrStderr(), "phantom")
	truth, err := writePhantom(cmd, c.out, c.options, p)
	p.finish()
	if err != nil {
		return err
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "series %s with %s in %s, ground truth in %s\n",
		truth.SeriesInstanceUID, number(len(truth.Nodules), "nodule"), c.out, phantom.TruthFile(c.out))
	return err
}

func writePhantom(cmd *cobra.Command, dir string, o phantom.Options, p *progress) (phantom.Truth, error) {
	if o.Nodules == 0 {
		o.Nodules = -1 // the option's zero value means its default
	}
	return phantom.Write(cmd.Context(), dir, o, p.follow())
}

// writeLuna makes a data set like LUNA16.
func (c *phantomCommand) writeLuna(cmd *cobra.Command, given func(string) bool) error {
	o := phantom.LunaOptions{Scans: c.scans, Height: c.height, Seed: c.options.Seed, Threads: c.set.Jobs}
	if given("rows") {
		o.Rows = c.options.Rows
	}
	if given("slices") {
		o.Slices = c.options.Slices
	}
	if o.Scans < 1 {
		return usage(errors.New("--scans must be at least 1"))
	}
	p := newProgress(cmd.ErrOrStderr(), "phantom")
	sum, err := phantom.WriteLuna(cmd.Context(), c.luna, o, p.follow())
	p.finish()
	if err != nil {
		return err
	}
	if c.asJSON {
		return writeJSON(cmd.OutOrStdout(), sum)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s in %s (%d written, %d were there): %s in %s, %s, %s\n",
		number(sum.Scans, "scan"), c.luna, sum.Made, sum.Scans-sum.Made, number(sum.Nodules, "nodule"),
		number(sum.Positive, "scan"), number(sum.Excluded, "excluded finding"), number(sum.Candidates, "candidate"))
	return err
}

// insert puts nodules into real scans.
func (c *phantomCommand) insert(cmd *cobra.Command, scans []string, given func(string) bool) error {
	o := c.set
	o.Out, o.Seed, o.Program = c.out, c.options.Seed, existing(o.Program)
	if given("nodules") {
		if o.Nodules = c.options.Nodules; o.Nodules < 1 {
			return usage(errors.New("--nodules must be at least 1 with --into"))
		}
	}
	switch {
	case c.simulated && c.real:
		return usage(errors.New("--simulated-only and --real-only exclude each other"))
	case c.real && c.source == "":
		return usage(errors.New("--real-only needs --source: a folder of real nodules"))
	case c.simulated && c.source != "":
		return usage(errors.New("--simulated-only takes no nodules from --source: leave one of them out"))
	case c.real:
		o.RealShare = 1
	}
	var err error
	if c.source != "" {
		if o.Sources, err = c.sources(); err != nil {
			return err
		}
	} else if c.patients != "" || c.fold != "" || c.withoutFold != "" {
		return usage(errors.New("--patients, --fold and --without-fold choose among the nodules of --source: give it too"))
	}
	if c.annotations != "" {
		if o.Annotations, err = luna.ReadAnnotations(c.annotations); err != nil {
			return err
		}
	}
	if c.excluded != "" {
		if o.Excluded, err = luna.ReadExcluded(c.excluded); err != nil {
			return err
		}
	}
	if c.diameters != "" {
		nodules, err := luna.ReadAnnotations(c.diameters)
		if err != nil {
			return err
		}
		for _, n := range nodules {
			o.Diameters = append(o.Diameters, n.Diameter)
		}
	}
	p := newProgress(cmd.ErrOrStderr(), "insert")
	sum, err := insert.Run(cmd.Context(), scans, o, p.follow())
	p.finish()
	if err != nil {
		return fmt.Errorf("%w (%d of %s made by this run; the same command goes on from here)", err, sum.Made, number(sum.Scans, "scan"))
	}
	if c.asJSON {
		return writeJSON(cmd.OutOrStdout(), sum)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s in %s (%d written, %d were there): %s real, %d simulated, %d known before\n",
		number(sum.Scans, "scan"), c.out, sum.Made, sum.Scans-sum.Made, number(sum.Real, "nodule"), sum.Simulated, sum.Known)
	return err
}
