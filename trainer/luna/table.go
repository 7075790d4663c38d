package luna

import (
	"bufio"
	"encoding/csv"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// maxCoordinate is farther than any scanner's table reaches (mm).
const maxCoordinate = 1e6

// maxSeriesUID is the longest name of a scan. UIDs have 64 characters at most
// (PS3.5 9.1); simulated data sets may use other names.
const maxSeriesUID = 128

// errEnough ends a reading that wants no more rows.
var errEnough = errors.New("enough was read")

// table reads a CSV file with a header row by row.
type table struct {
	file    string
	rows    *csv.Reader
	columns []string // names in the header, lower case
	row     []string
	line    int  // of row
	pending bool // row was read in search of a header and comes first
}

// openTable reads the header of the table in r. headerless, when not empty,
// names the only column of a table that may come without a header.
func openTable(r io.Reader, file, headerless string) (*table, error) {
	in := bufio.NewReaderSize(r, 1<<16)
	if mark, err := in.Peek(3); err == nil && string(mark) == "\ufeff" {
		_, _ = in.Discard(3) // just peeked
	}
	t := &table{file: file, rows: csv.NewReader(in)}
	t.rows.FieldsPerRecord = -1 // checked in next, with a clearer sentence
	first, err := t.read()
	if errors.Is(err, io.EOF) {
		return nil, &Error{File: file, Problem: "the file is empty"}
	}
	if err != nil {
		return nil, err
	}
	if headerless != "" && len(first) == 1 && !strings.EqualFold(strings.TrimSpace(first[0]), headerless) {
		t.columns, t.row, t.pending = []string{headerless}, first, true
		return t, nil
	}
	for i, name := range first {
		name = strings.ToLower(strings.TrimSpace(name))
		if name != "" && slices.Contains(t.columns, name) {
			return nil, t.errorf("the column %q is there twice", first[i])
		}
		t.columns = append(t.columns, name)
	}
	return t, nil
}

// read reads one record and notes its line.
func (t *table) read() ([]string, error) {
	row, err := t.rows.Read()
	if errors.Is(err, io.EOF) {
		return nil, err
	}
	var damage *csv.ParseError
	if errors.As(err, &damage) {
		return nil, &Error{t.file, damage.StartLine, "this is no row of a CSV file: " + damage.Err.Error()}
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", t.file, err)
	}
	t.line, _ = t.rows.FieldPos(0)
	return row, nil
}

// next moves to the next row; io.EOF at the end.
func (t *table) next() error {
	if t.pending {
		t.pending = false
		return nil
	}
	row, err := t.read()
	if err != nil {
		return err
	}
	if len(row) != len(t.columns) {
		return t.errorf("the row has %d values, the header has %d", len(row), len(t.columns))
	}
	t.row = row
	return nil
}

func (t *table) errorf(format string, values ...any) error {
	return &Error{t.file, t.line, fmt.Sprintf(format, values...)}
}

// index returns the place of a column, -1 without.
func (t *table) index(column string) int {
	return slices.Index(t.columns, strings.ToLower(column))
}

// has tells whether the header names the column.
func (t *table) has(column string) bool { return t.index(column) >= 0 }

// need returns the places of the columns, or an error that names the first
// that is missing.
func (t *table) need(names ...string) ([]int, error) {
	at := make([]int, len(names))
	for i, name := range names {
		if at[i] = t.index(name); at[i] < 0 {
			return nil, t.errorf("the header has no column %s; it has %s", name, strings.Join(t.columns, ", "))
		}
	}
	return at, nil
}

// series returns the name of a scan. It becomes the name of files, so nothing
// is accepted that could leave a folder.
func (t *table) series(at int) (string, error) {
	uid := strings.TrimSpace(t.row[at])
	if err := checkSeriesUID(uid); err != nil {
		return "", t.errorf("%v", err)
	}
	// The row is one string for all its fields: cloned, it can go.
	return strings.Clone(uid), nil
}

func checkSeriesUID(uid string) error {
	switch {
	case uid == "":
		return errors.New("the seriesuid is empty")
	case len(uid) > maxSeriesUID:
		return fmt.Errorf("the seriesuid has %d characters; a UID has 64 at most", len(uid))
	case uid[0] == '.':
		return fmt.Errorf("%q is no seriesuid", uid)
	}
	for _, c := range []byte(uid) {
		if c <= ' ' || c >= 0x7f || c == '/' || c == '\\' || c == ',' || c == '"' {
			return fmt.Errorf("%q is no seriesuid", uid)
		}
	}
	return nil
}

// float returns a finite number.
func (t *table) float(at int) (float64, error) {
	x, err := strconv.ParseFloat(strings.TrimSpace(t.row[at]), 64)
	if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
		return 0, t.errorf("%s is %q, which is not a finite number", t.columns[at], t.row[at])
	}
	return x, nil
}

// point returns a position of three columns.
func (t *table) point(at []int) (p [3]float64, err error) {
	for a := range p {
		if p[a], err = t.float(at[a]); err != nil {
			return p, err
		}
		if math.Abs(p[a]) > maxCoordinate {
			return p, t.errorf("%s is %g mm, which is outside every scanner", t.columns[at[a]], p[a])
		}
	}
	return p, nil
}

// each reads the file's rows: first is called once, after the header, row for
// every row.
func each(file, headerless string, first, row func(t *table) error) (err error) {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	return eachOf(f, file, headerless, first, row)
}

func eachOf(r io.Reader, file, headerless string, first, row func(t *table) error) error {
	t, err := openTable(r, file, headerless)
	if err != nil {
		return err
	}
	if err := first(t); err != nil {
		return err
	}
	for {
		switch err := t.next(); {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := row(t); err != nil {
			return err
		}
	}
}
