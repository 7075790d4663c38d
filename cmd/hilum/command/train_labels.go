package command

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"hilum/trainer/luna"
)

// labelsOptions are the flags of train labels.
type labelsOptions struct {
	table       string // of the labels
	out         string
	scans       string
	luna        string
	patients    string
	seed        uint64
	allowCounts bool
	asJSON      bool
}

func newTrainLabelsCommand() *cobra.Command {
	var o labelsOptions
	cmd := &cobra.Command{
		Use:   "labels --out DIR [TABLE.csv]",
		Short: "Make labels, a 4 : 1 split and folds of LUNA16's tables",
		Long: `Make labels of TABLE.csv, which is annotations.csv (every row is a nodule, class
1), candidates*.csv (its own class) or annotations_with_malignancy.csv (class 1
when the mean vote is over 3, 0 below, none at 3); its header tells which. With
--luna it is that folder's annotations.csv if not given. Written to DIR:

  nodules.csv   each row with its class and votes
  cases.csv     seriesuid,class: a scan is 1 when any of its rows is 1, else 0
  split.csv     seriesuid,split: train or validation, 4 : 1, by patient where known
  folds.csv     seriesuid,fold: the official ten folds with --luna, else our own
  labels.json   counts, seed, where it all came from

The counts must be LUNA16's (888 scans; 1186 nodules in 601 of them): other
numbers stop the work unless --allow-counts is given.

` + exitHelp,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				o.table = args[0]
			}
			return runTrainLabels(o, cmd.OutOrStdout(), cmd.ErrOrStderr())
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.out, "out", "", "`DIR` to write to")
	f.StringVar(&o.scans, "scans", "", "`FILE` with all scans, as seriesuids.csv (default: those of --luna, else of the table)")
	f.StringVar(&o.luna, "luna", "", "LUNA16 `DIR` with subset0 … subset9, for the official folds")
	f.StringVar(&o.patients, "patients", "", "`FILE` with the columns seriesuid and patient: a patient's scans stay together")
	f.Uint64Var(&o.seed, "seed", 1, "number that decides the split")
	f.BoolVar(&o.allowCounts, "allow-counts", false, "go on when the counts are not LUNA16's, and leave out rows of other scans")
	f.BoolVar(&o.asJSON, "json", false, "print the summary as JSON")
	return cmd
}

// labelsSummary is labels.json.
type labelsSummary struct {
	Source   luna.Source `json:"source"`
	Table    string      `json:"table"`
	Counts   luna.Counts `json:"counts"`
	Differ   []string    `json:"differs_from_luna16"` // empty: all as in LUNA16
	Seed     uint64      `json:"seed"`
	Split    splitCounts `json:"split"`
	Folds    []int       `json:"fold_scans"` // scans of each fold
	Official bool        `json:"official_folds"`
	Patients int         `json:"scans_with_patient"` // the others are split by scan
}

type splitCounts struct {
	Train      int `json:"train"`
	Validation int `json:"validation"`
}

func runTrainLabels(o labelsOptions, out, errs io.Writer) error {
	if o.out == "" {
		return errNoOut
	}
	if o.table == "" && o.luna == "" {
		return usage(errors.New("a table is needed: annotations.csv, candidates.csv or annotations_with_malignancy.csv, or --luna with the folder that has it"))
	}
	if o.table == "" {
		o.table = filepath.Join(o.luna, "annotations.csv")
	}
	scans, folds, err := labelScans(o, errs)
	if err != nil {
		return err
	}
	labels, err := luna.ReadLabels(o.table, scans, o.allowCounts)
	if err != nil {
		return err
	}
	differ := labels.Check()
	if len(differ) > 0 && !o.allowCounts {
		return fmt.Errorf("this is not the whole of LUNA16: %s; --allow-counts goes on all the same", strings.Join(differ, ", "))
	}
	for _, d := range differ {
		fmt.Fprintln(errs, "note:", d)
	}
	var patients map[string]string
	if o.patients != "" {
		if patients, err = luna.ReadPatients(o.patients); err != nil {
			return err
		}
	}
	split := luna.Split(labels.Cases, patients, o.seed)
	if !folds.Official {
		folds = luna.SplitFolds(labels.Cases, patients, o.seed)
		fmt.Fprintln(errs, "note: the folds are a split of our own, not LUNA16's official ones: those come from --luna DIR")
	}
	summary := summarize(labels, split, folds, patients)
	summary.Table, summary.Differ, summary.Seed = o.table, append([]string{}, differ...), o.seed
	if err := writeLabels(o.out, labels, split, folds, summary); err != nil {
		return err
	}
	if o.asJSON {
		return writeJSON(out, summary)
	}
	return showLabels(out, o.out, summary)
}

// labelScans lists the scans and, with --luna, their folds. Scans that are not
// in both the list and the tree are an error, or are left out and said.
func labelScans(o labelsOptions, errs io.Writer) (scans []string, folds luna.Folds, err error) {
	if o.scans != "" {
		if scans, err = luna.ReadScans(o.scans); err != nil {
			return nil, folds, err
		}
	}
	if o.luna == "" {
		return scans, folds, nil
	}
	if folds, err = luna.ReadTree(o.luna, o.allowCounts); err != nil {
		return nil, folds, err
	}
	if o.scans == "" {
		for uid := range folds.Of {
			scans = append(scans, uid)
		}
		slices.Sort(scans)
		return scans, folds, nil
	}
	listed := len(scans)
	var missing string
	scans = slices.DeleteFunc(scans, func(uid string) bool {
		_, ok := folds.Of[uid]
		if !ok && missing == "" {
			missing = uid
		}
		return !ok
	})
	if n := listed - len(scans); n > 0 {
		if !o.allowCounts {
			return nil, folds, fmt.Errorf("the subsets of %s lack %s of %s, the first is %s; --allow-counts leaves them out", o.luna, number(n, "scan"), o.scans, missing)
		}
		fmt.Fprintf(errs, "note: the subsets of %s lack %s of %s: left out\n", o.luna, number(n, "scan"), o.scans)
	}
	return scans, folds, nil
}

func summarize(l *luna.Labels, split map[string]string, folds luna.Folds, patients map[string]string) labelsSummary {
	s := labelsSummary{Source: l.Source, Counts: l.Counts(), Official: folds.Official, Folds: make([]int, luna.FoldCount)}
	for _, c := range l.Cases {
		if split[c.SeriesUID] == luna.Validation {
			s.Split.Validation++
		} else {
			s.Split.Train++
		}
		s.Folds[folds.Of[c.SeriesUID]]++
		if patients[c.SeriesUID] != "" {
			s.Patients++
		}
	}
	return s
}

func writeLabels(dir string, l *luna.Labels, split map[string]string, folds luna.Folds, s labelsSummary) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return errors.Join(
		luna.WriteNodules(filepath.Join(dir, "nodules.csv"), l.Nodules),
		luna.WriteCases(filepath.Join(dir, "cases.csv"), l.Cases),
		luna.WriteSplit(filepath.Join(dir, "split.csv"), l.Cases, split),
		luna.WriteFolds(filepath.Join(dir, "folds.csv"), l.Cases, folds),
		luna.WriteFile(filepath.Join(dir, "labels.json"), func(w io.Writer) error { return writeJSON(w, s) }),
	)
}

func showLabels(out io.Writer, dir string, s labelsSummary) error {
	c := s.Counts
	verdict := "as LUNA16 has them"
	if len(s.Differ) > 0 {
		verdict = "not LUNA16's numbers"
	}
	t := newTable(out, "WHAT", "COUNT")
	t.row("scans", c.Scans)
	t.row("rows", c.Rows)
	t.row("  class 1", c.Positive)
	t.row("  class 0", c.Negative)
	if s.Source == luna.FromMalignancy {
		t.row("  undecided (mean vote 3)", c.Undecided)
	}
	t.row("positive scans", c.PositiveScans)
	t.row("train", s.Split.Train)
	t.row("validation", s.Split.Validation)
	for k, n := range s.Folds {
		t.row(fmt.Sprint("fold ", k), n)
	}
	if err := t.flush(); err != nil {
		return err
	}
	by := "by scan"
	if s.Patients > 0 {
		by = fmt.Sprintf("by patient for %s, by scan for %d", number(s.Patients, "scan"), c.Scans-s.Patients)
	}
	_, err := fmt.Fprintf(out, "labels from %s in %s: counts %s; split %s with seed %d\n", s.Source, dir, verdict, by, s.Seed)
	return err
}
