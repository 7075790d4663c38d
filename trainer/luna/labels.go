package luna

import (
	"errors"
	"fmt"
	"strings"
)

// Source is the kind of table that labels come from.
type Source string

// Kinds of tables.
const (
	FromAnnotations Source = "annotations"
	FromCandidates  Source = "candidates"
	FromMalignancy  Source = "malignancy"
)

// undecidedVote is the mean of the votes that says neither benign (below) nor
// malignant (above).
const undecidedVote = 3

// Undecided is the class of a nodule whose votes have the mean 3.
const Undecided = -1

// NoduleLabel is one labelled row.
type NoduleLabel struct {
	SeriesUID  string
	Center     [3]float64 // LPS mm
	Diameter   float64    // mm; 0 for a candidate
	Votes      []int      // nil without
	Malignancy float64    // mean of Votes; 0 without
	Class      int        // 0, 1 or Undecided
}

// Case is a scan and its class: 1 when any of its rows is 1, else 0.
type Case struct {
	SeriesUID string
	Class     int
}

// Labels are the labels of a data set.
type Labels struct {
	Source  Source
	Nodules []NoduleLabel // in the order of the table
	Cases   []Case        // in the order of the scans
	Outside int           // rows of scans that are not in the list
}

// SourceOf tells from the header which kind of table a file is.
func SourceOf(file string) (Source, error) {
	var source Source
	err := each(file, "", func(t *table) error {
		switch {
		case t.has(colVotes):
			source = FromMalignancy
		case t.has(colClass):
			source = FromCandidates
		case t.has(colDiameter):
			source = FromAnnotations
		default:
			return t.errorf("the header has neither diameter_mm (annotations.csv), class (candidates.csv) nor mal_details (annotations_with_malignancy.csv); it has %s",
				strings.Join(t.columns, ", "))
		}
		return errEnough
	}, nil)
	if errors.Is(err, errEnough) {
		return source, nil
	}
	return "", err
}

// ReadLabels makes labels of a table. A row of annotations.csv is a nodule,
// class 1; of candidates.csv its own class; of annotations_with_malignancy.csv
// 1 when the mean vote is over 3, 0 below, Undecided at 3. scans lists all
// cases; nil: those of the table. A row of another scan is an error unless
// outside is set; then it is left out and counted.
func ReadLabels(file string, scans []string, outside bool) (*Labels, error) {
	source, err := SourceOf(file)
	if err != nil {
		return nil, err
	}
	b := builder{file: file, outside: outside, listed: scans != nil, class: map[string]int{}, order: scans}
	for _, uid := range scans {
		b.class[uid] = 0
	}
	b.labels.Source = source
	if source == FromCandidates {
		err = b.candidates()
	} else {
		err = b.nodules()
	}
	if err != nil {
		return nil, err
	}
	for _, uid := range b.order {
		b.labels.Cases = append(b.labels.Cases, Case{uid, b.class[uid]})
	}
	return &b.labels, nil
}

// builder gathers the labels of one table.
type builder struct {
	file    string
	outside bool // rows of other scans are left out
	listed  bool // the scans were given
	class   map[string]int
	order   []string
	labels  Labels
}

func (b *builder) candidates() error {
	rows, err := ReadCandidates(b.file)
	if err != nil {
		return err
	}
	for _, r := range rows {
		if err := b.add(NoduleLabel{SeriesUID: r.SeriesUID, Center: r.Center, Class: r.Class}, r.Line); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) nodules() error {
	rows, err := ReadAnnotations(b.file)
	if err != nil {
		return err
	}
	for _, r := range rows {
		n := NoduleLabel{SeriesUID: r.SeriesUID, Center: r.Center, Diameter: r.Diameter, Votes: r.Votes, Class: 1}
		if mean, ok := r.Malignancy(); ok {
			n.Malignancy = mean
			switch {
			case mean < undecidedVote:
				n.Class = 0
			case mean == undecidedVote:
				n.Class = Undecided
			}
		}
		if err := b.add(n, r.Line); err != nil {
			return err
		}
	}
	return nil
}

func (b *builder) add(n NoduleLabel, line int) error {
	if _, known := b.class[n.SeriesUID]; !known {
		switch {
		case !b.listed:
			b.order = append(b.order, n.SeriesUID)
			b.class[n.SeriesUID] = 0
		case b.outside:
			b.labels.Outside++
			return nil
		default:
			return &Error{b.file, line, fmt.Sprintf("the scan %s is not in the list of scans", n.SeriesUID)}
		}
	}
	b.labels.Nodules = append(b.labels.Nodules, n)
	if n.Class == 1 {
		b.class[n.SeriesUID] = 1
	}
	return nil
}

// Counts are what labels add up to.
type Counts struct {
	Scans         int `json:"scans"`
	Rows          int `json:"rows"`
	Positive      int `json:"positive"`  // rows of class 1
	Negative      int `json:"negative"`  // rows of class 0
	Undecided     int `json:"undecided"` // rows of neither
	PositiveScans int `json:"positive_scans"`
	LabelledScans int `json:"scans_with_rows"`
	Outside       int `json:"outside"` // rows of scans that are not in the list
}

// Counts adds up the labels.
func (l *Labels) Counts() Counts {
	c := Counts{Scans: len(l.Cases), Rows: len(l.Nodules), Outside: l.Outside}
	with := map[string]bool{}
	for _, n := range l.Nodules {
		with[n.SeriesUID] = true
		switch n.Class {
		case 0:
			c.Negative++
		case 1:
			c.Positive++
		default:
			c.Undecided++
		}
	}
	c.LabelledScans = len(with)
	for _, k := range l.Cases {
		c.PositiveScans += k.Class
	}
	return c
}

// Check compares the counts with LUNA16's and returns a sentence for each that
// differs; none when all are as they must be.
func (l *Labels) Check() []string {
	c := l.Counts()
	var differ []string
	want := func(got, want int, what string) {
		if got != want {
			differ = append(differ, fmt.Sprintf("%d %s, where LUNA16 has %d", got, what, want))
		}
	}
	want(c.Scans, Scans, "scans")
	switch l.Source {
	case FromAnnotations:
		want(c.Rows, Nodules, "nodules")
		want(c.PositiveScans, PositiveScans, "positive scans")
	case FromMalignancy:
		want(c.Rows, MalignancyRows, "nodules with votes")
		want(c.LabelledScans, MalignancyScans, "scans with voted nodules")
	}
	if c.Outside > 0 {
		differ = append(differ, fmt.Sprintf("%d rows of scans that are not in the list", c.Outside))
	}
	return differ
}
