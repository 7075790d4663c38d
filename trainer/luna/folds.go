package luna

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// FoldCount is the number of folds of LUNA16's cross-validation; subset k of
// the download is fold k.
const FoldCount = 10

// maxFold is the largest number of a fold in a table.
const maxFold = 999

// Folds tells the fold of each scan.
type Folds struct {
	Of       map[string]int // by seriesuid
	Official bool           // as LUNA16's folders have it
}

// Numbers returns the folds that have scans, in order.
func (f Folds) Numbers() []int {
	var numbers []int
	for _, k := range f.Of {
		if !slices.Contains(numbers, k) {
			numbers = append(numbers, k)
		}
	}
	slices.Sort(numbers)
	return numbers
}

// ReadTree finds the official folds in a download of LUNA16: the folders
// subset0 … subset9 of dir with a <seriesuid>.mhd (or .mha) for each scan. A
// folder that is missing is an error unless partial is set; a scan in two of
// them always is.
func ReadTree(dir string, partial bool) (Folds, error) {
	folds := Folds{Of: map[string]int{}, Official: true}
	for k := range FoldCount {
		folder := filepath.Join(dir, "subset"+strconv.Itoa(k))
		entries, err := os.ReadDir(folder)
		if errors.Is(err, fs.ErrNotExist) && partial {
			continue
		}
		if errors.Is(err, fs.ErrNotExist) {
			return Folds{}, fmt.Errorf("%s has no folder subset%d: a LUNA16 folder has subset0 to subset9", dir, k)
		}
		if err != nil {
			return Folds{}, err
		}
		for _, e := range entries {
			extension := filepath.Ext(e.Name())
			if e.IsDir() || extension != ".mhd" && extension != ".mha" {
				continue
			}
			uid := strings.TrimSuffix(e.Name(), extension)
			if err := checkSeriesUID(uid); err != nil {
				return Folds{}, fmt.Errorf("%s: %w", filepath.Join(folder, e.Name()), err)
			}
			if other, again := folds.Of[uid]; again {
				return Folds{}, fmt.Errorf("the scan %s is in subset%d and in subset%d", uid, other, k)
			}
			folds.Of[uid] = k
		}
	}
	if len(folds.Of) == 0 {
		return Folds{}, fmt.Errorf("%s has no scans: subset0 to subset9 with .mhd files are looked for", dir)
	}
	return folds, nil
}

// ReadFolds reads the folds from dir, a LUNA16 folder, or from a CSV file with
// the columns seriesuid and fold.
func ReadFolds(name string) (Folds, error) {
	info, err := os.Stat(name)
	if err != nil {
		return Folds{}, err
	}
	if info.IsDir() {
		return ReadTree(name, true)
	}
	folds := Folds{Of: map[string]int{}}
	var at []int
	err = each(name, "", func(t *table) (err error) {
		at, err = t.need(colSeries, colFold)
		return err
	}, func(t *table) error {
		uid, err := t.series(at[0])
		if err != nil {
			return err
		}
		k, err := strconv.Atoi(strings.TrimSpace(t.row[at[1]]))
		if err != nil || k < 0 || k > maxFold {
			return t.errorf("fold is %q; it must be a number from 0 to %d", t.row[at[1]], maxFold)
		}
		if _, again := folds.Of[uid]; again {
			return t.errorf("the scan %s is there twice", uid)
		}
		folds.Of[uid] = k
		return nil
	})
	if err != nil {
		return Folds{}, err
	}
	return folds, nil
}

// ReadPatients reads the patient of each scan from a CSV file with the columns
// seriesuid and patient. A scan may be there again with the same patient.
func ReadPatients(file string) (map[string]string, error) {
	patients := map[string]string{}
	var at []int
	err := each(file, "", func(t *table) (err error) {
		at, err = t.need(colSeries, "patient")
		return err
	}, func(t *table) error {
		uid, err := t.series(at[0])
		if err != nil {
			return err
		}
		patient := strings.TrimSpace(t.row[at[1]])
		if patient == "" {
			return t.errorf("the patient is empty")
		}
		if other, again := patients[uid]; again && other != patient {
			return t.errorf("the scan %s belongs to another patient in a line above", uid)
		}
		patients[uid] = strings.Clone(patient)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return patients, nil
}

// Parts of a split 4 : 1.
const (
	Train      = "train"
	Validation = "validation"
)

// splitParts is one more than the 4 of 4 : 1.
const splitParts = 5

// Split divides cases 4 : 1 in train and validation. The scans of one patient
// stay together (patients may be nil), positive and negative patients are
// divided alike, and the result depends on nothing but the names, the classes
// and the seed: not on the order of rows.
func Split(cases []Case, patients map[string]string, seed uint64) map[string]string {
	out := make(map[string]string, len(cases))
	for i, group := range shuffled(cases, patients, seed) {
		part := Train
		if i%splitParts == splitParts/2 { // the middle one: a fifth, rounded to the nearest
			part = Validation
		}
		for _, uid := range group {
			out[uid] = part
		}
	}
	return out
}

// SplitFolds divides cases in ten folds as Split does. They are not LUNA16's
// official ones, with which alone published results can be compared.
func SplitFolds(cases []Case, patients map[string]string, seed uint64) Folds {
	folds := Folds{Of: make(map[string]int, len(cases))}
	for i, group := range shuffled(cases, patients, seed) {
		for _, uid := range group {
			folds.Of[uid] = i % FoldCount
		}
	}
	return folds
}

// shuffled returns the scans of each patient: first the patients with a
// positive scan, then the others, both in an order that the seed decides.
func shuffled(cases []Case, patients map[string]string, seed uint64) [][]string {
	type group struct {
		key      [sha256.Size]byte
		positive bool
		scans    []string
	}
	groups := map[string]*group{}
	var order []*group
	for _, c := range cases {
		name := "patient " + patients[c.SeriesUID]
		if patients[c.SeriesUID] == "" {
			name = "scan " + c.SeriesUID
		}
		g, ok := groups[name]
		if !ok {
			g = &group{key: sha256.Sum256(binary.BigEndian.AppendUint64([]byte(name+"\x00"), seed))}
			groups[name] = g
			order = append(order, g)
		}
		g.positive = g.positive || c.Class == 1
		g.scans = append(g.scans, c.SeriesUID)
	}
	slices.SortFunc(order, func(a, b *group) int {
		if a.positive != b.positive {
			if a.positive {
				return -1
			}
			return 1
		}
		return slices.Compare(a.key[:], b.key[:])
	})
	out := make([][]string, len(order))
	for i, g := range order {
		out[i] = g.scans
	}
	return out
}
