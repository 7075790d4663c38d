package luna

import (
	"bufio"
	"encoding/csv"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// WriteCases writes the classes of the scans: seriesuid,class.
func WriteCases(file string, cases []Case) error {
	return writeTable(file, []string{colSeries, colClass}, len(cases), func(i int) []string {
		return []string{cases[i].SeriesUID, strconv.Itoa(cases[i].Class)}
	})
}

// WriteNodules writes the labels of the rows: the position, diameter_mm (empty
// for candidates), class (empty when undecided), and the mean and the list of
// the votes, as 3|4|4, where there are any.
func WriteNodules(file string, nodules []NoduleLabel) error {
	header := []string{colSeries, colX, colY, colZ, colDiameter, colClass, "malignancy_mean", "malignancy"}
	return writeTable(file, header, len(nodules), func(i int) []string {
		n := nodules[i]
		row := make([]string, len(header))
		row[0] = n.SeriesUID
		for a, x := range n.Center {
			row[1+a] = decimal(x)
		}
		if n.Diameter > 0 {
			row[4] = decimal(n.Diameter)
		}
		if n.Class != Undecided {
			row[5] = strconv.Itoa(n.Class)
		}
		if len(n.Votes) > 0 {
			row[6] = strconv.FormatFloat(n.Malignancy, 'g', 6, 64)
			var votes []string
			for _, v := range n.Votes {
				votes = append(votes, strconv.Itoa(v))
			}
			row[7] = strings.Join(votes, "|")
		}
		return row
	})
}

// WriteSplit writes seriesuid,split in the order of the cases.
func WriteSplit(file string, cases []Case, split map[string]string) error {
	return writeTable(file, []string{colSeries, "split"}, len(cases), func(i int) []string {
		return []string{cases[i].SeriesUID, split[cases[i].SeriesUID]}
	})
}

// WriteFolds writes seriesuid,fold in the order of the cases; ReadFolds reads it.
func WriteFolds(file string, cases []Case, folds Folds) error {
	return writeTable(file, []string{colSeries, colFold}, len(cases), func(i int) []string {
		return []string{cases[i].SeriesUID, strconv.Itoa(folds.Of[cases[i].SeriesUID])}
	})
}

// decimal writes the shortest text that reads back as the same number.
func decimal(x float64) string { return strconv.FormatFloat(x, 'f', -1, 64) }

func writeTable(file string, header []string, rows int, row func(i int) []string) error {
	return WriteFile(file, func(out io.Writer) error {
		w := csv.NewWriter(out)
		if err := w.Write(header); err != nil {
			return err
		}
		for i := range rows {
			if err := w.Write(row(i)); err != nil {
				return err
			}
		}
		w.Flush()
		return w.Error()
	})
}

// WriteFile lets write fill the file name, which appears whole or not at all:
// a temporary file in the same folder is filled, synchronised and renamed.
func WriteFile(name string, write func(io.Writer) error) error {
	folder := filepath.Dir(name)
	f, err := os.CreateTemp(folder, "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	w := bufio.NewWriter(f)
	err = write(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Chmod(0o644) // CreateTemp makes it private; tables and reports are not
	}
	if err == nil {
		err = f.Sync() // or a power cut could leave the name without the content
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error says more
		return err
	}
	return syncFolder(folder)
}

func syncFolder(folder string) error {
	d, err := os.Open(folder)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
