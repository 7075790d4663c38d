// Package luna reads the tables of LUNA16 (lung nodule analysis, 888 scans of
// LIDC-IDRI) and makes labels and folds of them: annotations.csv,
// annotations_excluded.csv, seriesuids.csv, candidates*.csv,
// annotations_with_malignancy.csv and the marks of a detector in the format of
// a submission. Positions are world millimetres, LPS as in DICOM.
//
// The readers are strict. Columns are found by the names in the header, in any
// order; a UTF-8 byte order mark and CRLF are accepted. Anything else that is
// not as it must be (a missing column, a row that is too short, a number that
// is not finite, a scan twice) is an *Error with the file and the line, and
// nothing is read: no row is ever skipped.
package luna

import "fmt"

// What LUNA16 has. A data set with other numbers is not LUNA16, or is damaged.
const (
	Scans           = 888  // scans in seriesuids.csv and in subset0 … subset9
	Nodules         = 1186 // rows of annotations.csv
	PositiveScans   = 601  // scans with at least one of them
	MalignancyRows  = 1182 // rows of annotations_with_malignancy.csv
	MalignancyScans = 600  // scans with at least one of them
)

// MarkLimit is the number of marks of a scan that count in LUNA16.
const MarkLimit = 100

// Error is a table that is not as it must be.
type Error struct {
	File    string
	Line    int // first line is 1; 0 when the whole file is meant
	Problem string
}

func (e *Error) Error() string {
	if e.Line == 0 {
		return e.File + ": " + e.Problem
	}
	return fmt.Sprintf("%s:%d: %s", e.File, e.Line, e.Problem)
}

// Nodule is a row of annotations.csv, annotations_excluded.csv or
// annotations_with_malignancy.csv.
type Nodule struct {
	SeriesUID string
	Center    [3]float64 // LPS mm
	Diameter  float64    // mm; below 0 in excluded findings: not measured
	Votes     []int      // malignancy 1 … 5, one of each reader; nil when the table has none
	Line      int        // in the file
}

// Malignancy returns the mean of the readers' votes, and false without votes.
func (n Nodule) Malignancy() (float64, bool) {
	if len(n.Votes) == 0 {
		return 0, false
	}
	sum := 0
	for _, v := range n.Votes {
		sum += v
	}
	return float64(sum) / float64(len(n.Votes)), true
}

// Candidate is a row of candidates.csv or candidates_V2.csv.
type Candidate struct {
	SeriesUID string
	Center    [3]float64 // LPS mm
	Class     int        // 1: a nodule of annotations.csv, 0: not
	Line      int
}

// Mark is a finding of a detector: a row of a submission.
type Mark struct {
	SeriesUID   string
	Center      [3]float64 // LPS mm
	Probability float64    // any finite number; more is more suspicious
	Line        int
}
