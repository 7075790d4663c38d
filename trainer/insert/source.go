package insert

import (
	"encoding/csv"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Source is a real nodule: a crop of a scan and its mask.
type Source struct {
	File       string // of the crop; the mask is beside it as <name>_mask
	Name       string // of the file, below the folder of sources
	Patient    string
	DiameterMM float64
	Kind       string
	Spiculated bool
	Calcified  bool
}

// Bounds of a table of sources.
const (
	maxTableBytes = 64 << 20
	maxCropVoxels = 1 << 24
	leastScale    = 0.8
	mostScale     = 1.3
)

// ReadSources reads every table <name>.csv of the folder whose crops lie in the
// folder <name> beside it. A table has the columns file, patient and diameter_mm
// (or equivalent_diameter_mm), and may have texture, spiculation and
// calcification as LIDC's readers gave them, with | between readers. Tables
// without a _mask to each crop are not read.
func ReadSources(folder string) ([]Source, error) {
	tables, err := filepath.Glob(filepath.Join(folder, "*.csv"))
	if err != nil {
		return nil, fmt.Errorf("look for tables of nodules: %w", err)
	}
	slices.Sort(tables)
	var all []Source
	for _, table := range tables {
		crops := strings.TrimSuffix(table, ".csv")
		found, err := readTable(table, crops)
		if err != nil {
			return nil, fmt.Errorf("table of nodules %s: %w", filepath.Base(table), err)
		}
		all = append(all, found...)
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("%s holds no table of nodules (NAME.csv beside the folder NAME with crops and masks)", folder)
	}
	return all, nil
}

func readTable(table, crops string) ([]Source, error) {
	f, err := os.Open(table)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	r := csv.NewReader(io.LimitReader(f, maxTableBytes))
	rows, err := r.ReadAll()
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		return nil, errors.New("it is empty")
	}
	column := map[string]int{}
	for i, name := range rows[0] {
		column[name] = i
	}
	diameter, ok := column["diameter_mm"]
	if !ok {
		diameter, ok = column["equivalent_diameter_mm"]
	}
	file, hasFile := column["file"]
	patient, hasPatient := column["patient"]
	if !ok || !hasFile || !hasPatient {
		return nil, errors.New("it lacks one of the columns file, patient, diameter_mm")
	}
	votes := func(row []string, name string) float64 {
		i, ok := column[name]
		if !ok {
			return math.NaN()
		}
		return meanVote(row[i])
	}
	var out []Source
	for n, row := range rows[1:] {
		s := Source{
			File: filepath.Join(crops, row[file]), Patient: row[patient],
			Name: filepath.Base(crops) + "/" + row[file], Kind: KindSolid,
		}
		if row[file] == "" || strings.ContainsAny(row[file], `/\`) {
			return nil, fmt.Errorf("row %d names no file of the folder", n+2)
		}
		if _, err := os.Stat(s.mask()); errors.Is(err, fs.ErrNotExist) {
			if n == 0 {
				return nil, nil // a table of another sort
			}
			return nil, fmt.Errorf("row %d: the mask of %s is missing", n+2, row[file])
		}
		if s.DiameterMM, err = strconv.ParseFloat(row[diameter], 64); err != nil || !(s.DiameterMM > 0 && s.DiameterMM < 200) {
			return nil, fmt.Errorf("row %d: %q is no diameter of a nodule", n+2, row[diameter])
		}
		// LIDC: 1 is no tissue at all, 3 in part, 5 solid.
		switch texture := votes(row, "texture"); {
		case texture < 2:
			s.Kind = KindGroundGlass
		case texture < 4:
			s.Kind = KindPartSolid
		}
		s.Spiculated = votes(row, "spiculation") >= 3
		s.Calcified = votes(row, "calcification") < 5.5 // 6 is absent
		out = append(out, s)
	}
	return out, nil
}

// meanVote is the mean of the readers' votes, NaN for none.
func meanVote(text string) float64 {
	sum, n := 0.0, 0.0
	for part := range strings.SplitSeq(text, "|") {
		if v, err := strconv.ParseFloat(part, 64); err == nil {
			sum += v
			n++
		}
	}
	return sum / n
}

func (s Source) mask() string {
	extension := filepath.Ext(s.File)
	return strings.TrimSuffix(s.File, extension) + "_mask" + extension
}

// Fold returns in which of n folds a patient is, 0 to n-1. It depends on the
// name alone, so that every program puts a patient into the same fold: the
// CRC-32 (IEEE) of the name modulo n, as trainer/torch does when it trains.
func Fold(patient string, n int) int {
	return int(crc32.ChecksumIEEE([]byte(patient)) % uint32(n))
}

// OfPatients returns the sources of the patients that keep is true for.
func OfPatients(all []Source, keep func(patient string) bool) []Source {
	return slices.DeleteFunc(slices.Clone(all), func(s Source) bool { return !keep(s.Patient) })
}
