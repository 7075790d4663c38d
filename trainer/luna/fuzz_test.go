package luna

import (
	"errors"
	"math"
	"strings"
	"testing"
)

// FuzzRead: whatever the bytes, a reader gives rows or an *Error, never both,
// and every row is one that the rest may rely on.
func FuzzRead(f *testing.F) {
	for _, seed := range []string{
		"seriesuid,coordX,coordY,coordZ,diameter_mm\n1.3.6.1.4.1.14519,-128.69,-175.31,-298.38,5.65\n",
		"seriesuid,coordX,coordY,coordZ,probability\r\n1.2,1,2,3,0.5\r\n",
		"\ufeffseriesuid,coordX,coordY,coordZ,diameter_mm,mal_details,len_mal_details\n1.2,1,2,3,4,\"[4, 2]\",2\n",
		"diameter_mm,probability,coordZ,coordY,coordX,seriesuid\n-1,1,1,1,1,a\n",
		"\"a\nb\",\"\n",
		"\xef\xbb\xbf",
		"",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		check := func(rows int, err error) {
			var e *Error
			if err != nil && (rows > 0 || !errors.As(err, &e) || e.Line < 0) {
				t.Errorf("%d rows and the error %v", rows, err)
			}
			// A row takes five characters at least: memory stays within the input.
			if rows > len(text)/5 {
				t.Errorf("%d rows of %d bytes", rows, len(text))
			}
		}
		good := func(uid string, values ...float64) {
			for _, v := range values {
				if math.IsNaN(v) || math.IsInf(v, 0) {
					t.Errorf("the row of %q has the value %v", uid, v)
				}
			}
			if uid == "" || len(uid) > maxSeriesUID || strings.ContainsAny(uid, "/\\\x00 \n") || uid[0] == '.' {
				t.Errorf("the seriesuid %q was accepted", uid)
			}
		}
		nodules, err := readNodulesOf(strings.NewReader(text), "f", true)
		check(len(nodules), err)
		for _, n := range nodules {
			good(n.SeriesUID, n.Center[0], n.Center[1], n.Center[2], n.Diameter)
			if n.Diameter <= 0 || len(n.Votes) > maxVotes {
				t.Errorf("the nodule %+v was accepted", n)
			}
		}
		excluded, err := readNodulesOf(strings.NewReader(text), "f", false)
		check(len(excluded), err)
		marks, err := readPredictionsOf(strings.NewReader(text), "f")
		check(len(marks), err)
		for _, m := range marks {
			good(m.SeriesUID, m.Center[0], m.Center[1], m.Center[2], m.Probability)
		}
	})
}
