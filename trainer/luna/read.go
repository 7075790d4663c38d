package luna

import (
	"io"
	"os"
	"strconv"
	"strings"
)

// Column names of LUNA16, as its files write them.
const (
	colSeries      = "seriesuid"
	colX           = "coordX"
	colY           = "coordY"
	colZ           = "coordZ"
	colDiameter    = "diameter_mm"
	colClass       = "class"
	colProbability = "probability"
	colVotes       = "mal_details"
	colVoteCount   = "len_mal_details"
	colFold        = "fold"
)

// ReadAnnotations reads annotations.csv, or annotations_with_malignancy.csv,
// whose votes are then kept. A nodule twice in the file is an error.
func ReadAnnotations(file string) ([]Nodule, error) {
	return readNodules(file, true)
}

// ReadExcluded reads annotations_excluded.csv: findings that count neither
// way. LUNA16's own file has thousands of them twice, so that is no error, and
// diameters below 0, which mean that nobody measured.
func ReadExcluded(file string) ([]Nodule, error) {
	return readNodules(file, false)
}

func readNodules(file string, included bool) ([]Nodule, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return readNodulesOf(f, file, included)
}

// place is a position in a scan, to find rows that are there twice.
type place struct {
	series string
	center [3]float64
}

func readNodulesOf(r io.Reader, file string, included bool) ([]Nodule, error) {
	var nodules []Nodule
	var at []int
	votesAt, countAt := -1, -1
	seen := map[place]int{}
	err := eachOf(r, file, "", func(t *table) (err error) {
		if at, err = t.need(colSeries, colX, colY, colZ, colDiameter); err != nil {
			return err
		}
		if included {
			votesAt, countAt = t.index(colVotes), t.index(colVoteCount)
		}
		return nil
	}, func(t *table) (err error) {
		n := Nodule{Line: t.line}
		if n.SeriesUID, err = t.series(at[0]); err != nil {
			return err
		}
		if n.Center, err = t.point(at[1:4]); err != nil {
			return err
		}
		if n.Diameter, err = t.float(at[4]); err != nil {
			return err
		}
		if included {
			if n.Diameter <= 0 || n.Diameter > maxCoordinate {
				return t.errorf("diameter_mm is %g; the diameter of a nodule is more than 0", n.Diameter)
			}
			p := place{n.SeriesUID, n.Center}
			if line, again := seen[p]; again {
				return t.errorf("this nodule is in line %d already", line)
			}
			seen[p] = t.line
		}
		if votesAt >= 0 {
			if n.Votes, err = t.votes(votesAt, countAt); err != nil {
				return err
			}
		}
		nodules = append(nodules, n)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return nodules, nil
}

// maxVotes is more readers than ever read one scan of LIDC (four, and a few
// nodules with votes for two of their parts).
const maxVotes = 32

// votes reads the readers' votes, written as "[4, 2, 4, 2]" or 4|2|4|2.
func (t *table) votes(at, countAt int) ([]int, error) {
	text := strings.Trim(strings.TrimSpace(t.row[at]), "[]")
	fields := strings.FieldsFunc(text, func(c rune) bool { return c == ',' || c == '|' || c == ' ' })
	if len(fields) == 0 || len(fields) > maxVotes {
		return nil, t.errorf("mal_details is %q, where votes like [3, 4] are wanted", t.row[at])
	}
	votes := make([]int, len(fields))
	for i, field := range fields {
		v, err := strconv.Atoi(field)
		if err != nil || v < 1 || v > 5 {
			return nil, t.errorf("mal_details has the vote %q; votes are 1 to 5", field)
		}
		votes[i] = v
	}
	if countAt >= 0 && strings.TrimSpace(t.row[countAt]) != strconv.Itoa(len(votes)) {
		return nil, t.errorf("len_mal_details is %q, but there are %d votes", t.row[countAt], len(votes))
	}
	return votes, nil
}

// ReadScans reads seriesuids.csv: one scan a line, with or without the header
// "seriesuid". A scan twice is an error.
func ReadScans(file string) ([]string, error) {
	var scans []string
	var at []int
	seen := map[string]int{}
	err := each(file, colSeries, func(t *table) (err error) {
		at, err = t.need(colSeries)
		return err
	}, func(t *table) error {
		uid, err := t.series(at[0])
		if err != nil {
			return err
		}
		if line, again := seen[uid]; again {
			return t.errorf("the scan %s is in line %d already", uid, line)
		}
		seen[uid] = t.line
		scans = append(scans, uid)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return scans, nil
}

// ReadCandidates reads candidates.csv or candidates_V2.csv.
func ReadCandidates(file string) ([]Candidate, error) {
	var candidates []Candidate
	var at []int
	err := each(file, "", func(t *table) (err error) {
		at, err = t.need(colSeries, colX, colY, colZ, colClass)
		return err
	}, func(t *table) (err error) {
		c := Candidate{Line: t.line}
		if c.SeriesUID, err = t.series(at[0]); err != nil {
			return err
		}
		if c.Center, err = t.point(at[1:4]); err != nil {
			return err
		}
		switch class := strings.TrimSpace(t.row[at[4]]); class {
		case "0", "1":
			c.Class = int(class[0] - '0')
		default:
			return t.errorf("class is %q; it must be 0 or 1", t.row[at[4]])
		}
		candidates = append(candidates, c)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return candidates, nil
}

// ReadPredictions reads the marks of a detector in the format of a LUNA16
// submission: seriesuid,coordX,coordY,coordZ,probability.
func ReadPredictions(file string) ([]Mark, error) {
	f, err := os.Open(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return readPredictionsOf(f, file)
}

func readPredictionsOf(r io.Reader, file string) ([]Mark, error) {
	var marks []Mark
	var at []int
	err := eachOf(r, file, "", func(t *table) (err error) {
		at, err = t.need(colSeries, colX, colY, colZ, colProbability)
		return err
	}, func(t *table) (err error) {
		m := Mark{Line: t.line}
		if m.SeriesUID, err = t.series(at[0]); err != nil {
			return err
		}
		if m.Center, err = t.point(at[1:4]); err != nil {
			return err
		}
		if m.Probability, err = t.float(at[4]); err != nil {
			return err
		}
		marks = append(marks, m)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return marks, nil
}
