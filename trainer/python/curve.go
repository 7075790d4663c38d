package python

import (
	"encoding/csv"
	"fmt"
	"math"
	"os"
	"slices"
	"strconv"
	"strings"
)

// CurveWidth is the number of columns of a curve in text.
const CurveWidth = 60

// Curve draws a column of a run's log.csv as one line of text, each character
// the mean of its share of the rows, with the first and the last mean beside
// it; "" when there is nothing to draw.
func Curve(name, column string) (string, error) {
	f, err := os.Open(name)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	r := csv.NewReader(f)
	r.FieldsPerRecord = -1 // a line that is being written
	rows, err := r.ReadAll()
	if err != nil {
		return "", fmt.Errorf("read the curves: %w", err)
	}
	if len(rows) < 2 {
		return "", nil
	}
	at := slices.Index(rows[0], column)
	var values []float64
	for _, row := range rows[1:] {
		if at < 0 || at >= len(row) {
			continue
		}
		if v, err := strconv.ParseFloat(row[at], 64); err == nil && !math.IsNaN(v) && !math.IsInf(v, 0) {
			values = append(values, v)
		}
	}
	if len(values) == 0 {
		return "", nil
	}
	means := shares(values, min(CurveWidth, len(values)))
	lo, hi := slices.Min(means), slices.Max(means)
	levels := []rune("▁▂▃▄▅▆▇█")
	var line strings.Builder
	for _, v := range means {
		level := 0
		if hi > lo {
			level = int((v-lo)/(hi-lo)*float64(len(levels)-1) + 0.5)
		}
		line.WriteRune(levels[level])
	}
	return fmt.Sprintf("%s %.4g %s %.4g", column, means[0], line.String(), means[len(means)-1]), nil
}

// shares returns the means of n shares of the values.
func shares(values []float64, n int) []float64 {
	out := make([]float64, n)
	for i := range out {
		part := values[i*len(values)/n : (i+1)*len(values)/n]
		for _, v := range part {
			out[i] += v / float64(len(part))
		}
	}
	return out
}
