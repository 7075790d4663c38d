// Package report writes what a detector's measurement found as one HTML file
// for people: the curve with its interval, tables by size and by fold, and the
// misses and the worst false positives, with pictures in three planes when the
// scans are at hand.
//
// The file is whole by itself: pictures and the style are in it, it has no
// script, and its content security policy forbids every other source, so it
// opens offline and can be mailed. It names scans by their UIDs and nothing
// else of a patient.
package report

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"html/template"
	"io"
	"math"
	"strconv"
	"time"

	"hilum/models/ct"
	"hilum/trainer/froc"
)

// DefaultPictures is how many misses, and how many false positives, have
// pictures. Each takes some 60 kB of the file.
const DefaultPictures = 24

// maxListed is how many misses and false positives are listed at all.
const maxListed = 100

// ErrNoVolume is returned by Input.Volume for a scan that is not at hand. Its
// findings are then listed without a picture.
var ErrNoVolume = errors.New("the scan is not at hand")

// Source is a file that the measurement was made of.
type Source struct {
	Role   string // what it is: predictions, annotations …
	Name   string
	SHA256 string
}

// Input is what a report shows.
type Input struct {
	Title    string // of the detector; empty: none
	Result   *froc.Result
	Sources  []Source
	Seed     uint64 // of the bootstrap
	Software string
	Now      time.Time
	Folds    string // what the folds are; shown above their table

	// Volume loads a scan for pictures; it is asked once for each scan. nil: no
	// pictures. An error other than ErrNoVolume ends the report.
	Volume   func(ctx context.Context, seriesUID string) (*ct.Volume, error)
	Pictures int                   // of each kind; 0: DefaultPictures
	Progress func(done, total int) // scans that pictures were made of; may be nil
}

//go:embed report.html
var page string

var pageTemplate = template.Must(template.New("report").Funcs(template.FuncMap{
	"sens": sens, "rate": rate, "mm": mm, "score": score, "percent": percent, "thousands": thousands, "width": width, "count": count, "finite": finite,
}).Parse(page))

// view is what the page shows.
type view struct {
	Input
	R                 *froc.Result
	Chart             template.HTML
	Rates             [7]float64
	Misses, FPs       []card
	MissCount         int // of the misses, listed or not
	Late              int // of them those that are found too late
	FPCount           int
	WithPictures      bool
	NoVolume          int // findings without a picture because the scan is not at hand
	FPPerScan         float64
	Nodules           int
	Points            []tablePoint
	FieldMM, WindowLo int
	WindowHi          int
}

// tablePoint is one of the seven rates.
type tablePoint struct {
	Rate, Sensitivity, Low, High, Probability float64
}

// Write writes the page.
func Write(ctx context.Context, out io.Writer, in Input) error {
	r := in.Result
	if in.Pictures == 0 {
		in.Pictures = DefaultPictures
	}
	v := view{
		Input: in, R: r, Chart: chart(r), Rates: froc.Rates(), Nodules: r.TP + r.FN,
		FPPerScan: float64(r.FP) / float64(r.Scans), FPCount: r.FP,
		FieldMM: fieldMM, WindowLo: windowLow, WindowHi: windowHigh,
	}
	for i, fp := range v.Rates {
		v.Points = append(v.Points, tablePoint{fp, r.Sensitivity[i], r.SensLow[i], r.SensHigh[i], r.ProbabilityAtRates[i]})
	}
	misses := r.Misses()
	v.MissCount = len(misses)
	for i, n := range misses {
		if n.Found {
			v.Late++
		}
		if i < maxListed {
			v.Misses = append(v.Misses, missCard(n))
		}
	}
	for i, f := range r.FalsePositives {
		if i == maxListed {
			break
		}
		v.FPs = append(v.FPs, falseCard(f))
	}
	if in.Volume != nil {
		v.WithPictures = true
		if err := v.draw(ctx); err != nil {
			return err
		}
	}
	return pageTemplate.Execute(out, v)
}

// card is a finding of one of the lists.
type card struct {
	Series   string
	Center   [3]float64
	Diameter float64 // 0 for a mark
	Found    bool
	Score    float64 // of the mark on it
	Rate     float64
	Nearest  float64 // mm to the nearest mark, or nodule
	Picture  template.URL
	Ring     float64 // radius of the ring in the picture, in pixels
	Panels   []panel
	Alt      string
}

// panel is one plane of a picture: its middle, in pixels.
type panel struct {
	Name string
	X, Y float64
}

func missCard(n froc.Nodule) card {
	return card{
		Series: n.SeriesUID, Center: n.Center, Diameter: n.Diameter, Found: n.Found, Score: n.Probability,
		Rate: n.Rate, Nearest: n.Nearest, Ring: n.Diameter/2/pixelMM + ringGap,
		Alt: fmt.Sprintf("Nodule of %s in the axial, coronal and sagittal plane", mm(n.Diameter)),
	}
}

func falseCard(f froc.FalsePositive) card {
	return card{
		Series: f.SeriesUID, Center: f.Center, Score: f.Probability, Rate: f.Rate, Nearest: f.Nearest,
		Ring: falseRingMM / pixelMM,
		Alt:  fmt.Sprintf("False positive of probability %s in the axial, coronal and sagittal plane", score(f.Probability)),
	}
}

// Numbers for people. What has no value is a dash.

func sens(x float64) string {
	if math.IsNaN(x) {
		return "–"
	}
	return strconv.FormatFloat(x, 'f', 3, 64)
}

func percent(x float64) string {
	if math.IsNaN(x) {
		return "–"
	}
	return strconv.FormatFloat(100*x, 'f', 1, 64) + " %"
}

// rate writes the rates below 1 as the fractions that they are called by.
func rate(fp float64) string {
	switch fp {
	case 0.125:
		return "1/8"
	case 0.25:
		return "1/4"
	case 0.5:
		return "1/2"
	}
	if !finite(fp) {
		return "–"
	}
	return strconv.FormatFloat(fp, 'g', 3, 64)
}

func mm(x float64) string {
	if !finite(x) {
		return "–"
	}
	return strconv.FormatFloat(x, 'f', 1, 64) + " mm"
}

func score(p float64) string {
	if !finite(p) {
		return "–"
	}
	return strconv.FormatFloat(p, 'g', 4, 64)
}

// thousands groups the digits of a count with thin spaces.
func thousands(n int) string {
	s := strconv.Itoa(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "\u202f" + s[i:]
	}
	return s
}

// width is the length of a bar in the tables, in percent.
func width(x float64) string {
	if math.IsNaN(x) {
		return "0"
	}
	return strconv.FormatFloat(100*x, 'f', 1, 64)
}

// count counts a noun.
func count(n int, noun string) string {
	if n != 1 {
		noun += "s"
	}
	return thousands(n) + " " + noun
}

func finite(x float64) bool { return !math.IsInf(x, 0) && !math.IsNaN(x) }
