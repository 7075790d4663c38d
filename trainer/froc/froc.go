// Package froc measures a nodule detector exactly as the LUNA16 challenge does
// (Setio et al., "Validation, comparison, and combination of algorithms for
// automatic detection of pulmonary nodules in computed tomography images",
// 2017, and its evaluation script):
//
//   - A mark hits a nodule when it is nearer to the nodule's centre than the
//     nodule's radius, in world millimetres; at the radius exactly it does not.
//   - A mark that hits no nodule but an excluded finding (whose diameter counts
//     as 10 mm when it was not measured) is ignored.
//   - Of several marks on one nodule the most probable counts; the others are
//     ignored. A mark on two nodules finds both.
//   - At most 100 marks of a scan enter the curve. When there are more, those
//     that are more probable than the 101st: marks as probable as the 101st all
//     fall away, so the order of the rows never matters. The counts (true and
//     false positives, misses, ignored marks) are of all marks.
//   - Sensitivity is divided by all nodules, false positives by all scans, also
//     those without nodules or marks. Marks with the same probability enter the
//     curve together; between its points sensitivity is interpolated linearly,
//     and where points stand above each other the highest counts.
//   - CPM is the mean sensitivity at 1/8, 1/4, 1/2, 1, 2, 4 and 8 false positives
//     per scan. Its interval comes from bootstrap samples of scans.
package froc

import (
	"errors"
	"fmt"
	"math"
	"slices"

	"hilum/trainer/luna"
)

// rates are the false positives per scan whose mean sensitivity is the CPM.
var rates = [7]float64{0.125, 0.25, 0.5, 1, 2, 4, 8}

// Rates returns the false positives per scan at which sensitivity is measured.
func Rates() [7]float64 { return rates }

// unmeasured is the diameter of an excluded finding that nobody measured (mm).
const unmeasured = 10

// Input is what a detector is measured with.
type Input struct {
	Scans    []string // every scan that counts, each once
	Nodules  []luna.Nodule
	Excluded []luna.Nodule
	Marks    []luna.Mark
}

// Options of a measurement. The zero value is LUNA16's protocol with a
// bootstrap of 1,000 samples.
type Options struct {
	MarkLimit int            // marks of a scan that enter the curve; 0: luna.MarkLimit
	Bootstrap int            // samples; 0: DefaultBootstrap, below 0: none
	Seed      uint64         // of the bootstrap
	Folds     map[string]int // fold of each scan, for a table; nil: none
}

// DefaultBootstrap is the number of bootstrap samples, as in the challenge.
const DefaultBootstrap = 1000

// Nodule is a nodule and what became of it.
type Nodule struct {
	luna.Nodule
	Found       bool
	Probability float64 // of the most probable mark on it; -Inf when not found
	Rate        float64 // false positives per scan at which the curve finds it; +Inf when it never does
	Nearest     float64 // mm from its centre to the nearest mark; +Inf without marks in the scan
}

// FalsePositive is a mark on nothing.
type FalsePositive struct {
	luna.Mark
	Rate    float64 // false positives per scan down to its probability; +Inf beyond the limit of marks
	Nearest float64 // mm to the centre of the nearest nodule; +Inf without nodules in the scan
}

// Group is a part of the nodules, or of the scans, measured by itself.
type Group struct {
	Name        string
	Scans       int
	Nodules     int
	Found       int        // nodules hit at all
	FP          int        // of the scans of a fold; of all scans for a part of the nodules
	Sensitivity [7]float64 // NaN without nodules
	CPM         float64    // NaN without nodules
}

// Left counts rows of scans that are not in Input.Scans: they take no part.
type Left struct {
	Marks    int `json:"predictions"`
	Nodules  int `json:"annotations"`
	Excluded int `json:"excluded"`
}

// Result is a measurement.
type Result struct {
	CPM                float64
	CPMLow, CPMHigh    float64 // 95 % interval; both CPM without a bootstrap
	Sensitivity        [7]float64
	SensLow, SensHigh  [7]float64
	Scans              int
	TP, FN, FP         int
	Ignored            int // marks on excluded findings
	Doubles            int // further marks on a nodule that is hit already
	OverLimit          int // marks beyond the limit of a scan: counted, but not in the curve
	Marks              int // of the scans
	Left               Left
	Samples            int // bootstrap samples
	Curve              []Point
	Band               []Interval // bootstrap interval of the curve; nil without
	BySize, ByFold     []Group
	Nodules            []Nodule        // in the order of Input, of the scans only
	FalsePositives     []FalsePositive // most probable first
	MarkLimit          int
	PositiveScans      int
	ScansWithoutMarks  int
	ProbabilityAtRates [7]float64 // lowest probability that stays within the rate; NaN when no mark does
}

// Evaluate measures marks.
func Evaluate(in Input, o Options) (*Result, error) {
	if o.MarkLimit == 0 {
		o.MarkLimit = luna.MarkLimit
	}
	if o.Bootstrap == 0 {
		o.Bootstrap = DefaultBootstrap
	}
	cases, left, err := gather(in)
	if err != nil {
		return nil, err
	}
	r := &Result{Scans: len(in.Scans), Left: left, MarkLimit: o.MarkLimit}
	var hits []hit
	for i := range cases {
		hits = r.match(&cases[i], i, o.MarkLimit, hits)
	}
	nodules := r.TP + r.FN
	if nodules == 0 {
		return nil, errors.New("none of the scans has a nodule, so there is no sensitivity to measure; compare the scans with the annotations")
	}
	sortHits(hits)
	r.Curve = curveOf(hits, r.Scans, nodules)
	r.Sensitivity = sensitivities(r.Curve)
	r.CPM = mean(r.Sensitivity)
	r.setRates(hits)
	r.BySize = bySize(hits, r)
	if o.Folds != nil {
		if r.ByFold, err = byFold(hits, r, in.Scans, o.Folds); err != nil {
			return nil, err
		}
	}
	r.bootstrap(hits, cases, o)
	return r, nil
}

// scan is what belongs to one scan.
type scan struct {
	uid      string
	nodules  []luna.Nodule
	excluded []luna.Nodule
	marks    []luna.Mark
}

// gather sorts the rows to their scans.
func gather(in Input) ([]scan, Left, error) {
	var left Left
	if len(in.Scans) == 0 {
		return nil, left, errors.New("the list of scans is empty")
	}
	cases := make([]scan, len(in.Scans))
	index := make(map[string]int, len(in.Scans))
	for i, uid := range in.Scans {
		if _, again := index[uid]; again {
			return nil, left, fmt.Errorf("the scan %s is twice in the list of scans", uid)
		}
		index[uid], cases[i].uid = i, uid
	}
	for _, n := range in.Nodules {
		if i, ok := index[n.SeriesUID]; ok {
			cases[i].nodules = append(cases[i].nodules, n)
		} else {
			left.Nodules++
		}
	}
	for _, n := range in.Excluded {
		if i, ok := index[n.SeriesUID]; ok {
			cases[i].excluded = append(cases[i].excluded, n)
		} else {
			left.Excluded++
		}
	}
	for _, m := range in.Marks {
		if math.IsNaN(m.Probability) || math.IsInf(m.Probability, 0) {
			return nil, left, fmt.Errorf("a mark in the scan %s has no finite probability", m.SeriesUID)
		}
		if i, ok := index[m.SeriesUID]; ok {
			cases[i].marks = append(cases[i].marks, m)
		} else {
			left.Marks++
		}
	}
	if len(in.Marks) > 0 && left.Marks == len(in.Marks) {
		return nil, left, errors.New("no mark lies in one of the scans; do the predictions belong to this list of scans?")
	}
	return cases, left, nil
}

// hit is a point of the curve's order: a nodule found, or a false positive.
type hit struct {
	probability float64
	scan        int32
	nodule      int32 // index in Result.Nodules; -1: a false positive
	mark        int32 // index in Result.FalsePositives before sorting; -1: a nodule
}

// match compares the marks of one scan with its findings.
func (r *Result) match(c *scan, at, limit int, hits []hit) []hit {
	r.Marks += len(c.marks)
	if len(c.marks) == 0 {
		r.ScansWithoutMarks++
	}
	if len(c.nodules) > 0 {
		r.PositiveScans++
	}
	over := threshold(c.marks, limit)
	used := make([]bool, len(c.marks))
	for _, n := range c.nodules {
		out := Nodule{Nodule: n, Probability: math.Inf(-1), Rate: math.Inf(1), Nearest: math.Inf(1)}
		on := 0
		for i, m := range c.marks {
			d2 := squared(n.Center, m.Center)
			out.Nearest = min(out.Nearest, math.Sqrt(d2))
			if inside(d2, n.Diameter) {
				on++
				used[i] = true
				out.Probability = max(out.Probability, m.Probability)
			}
		}
		if out.Found = on > 0; out.Found {
			r.TP++
			r.Doubles += on - 1
		} else {
			r.FN++
		}
		if out.Found && out.Probability > over {
			hits = append(hits, hit{out.Probability, int32(at), int32(len(r.Nodules)), -1})
		}
		r.Nodules = append(r.Nodules, out)
	}
	for i, m := range c.marks {
		beyond := m.Probability <= over
		if beyond {
			r.OverLimit++
		}
		switch {
		case used[i]:
			continue
		case slices.ContainsFunc(c.excluded, func(n luna.Nodule) bool {
			return inside(squared(n.Center, m.Center), n.Diameter)
		}):
			r.Ignored++
			continue
		}
		r.FP++
		f := FalsePositive{Mark: m, Rate: math.Inf(1), Nearest: math.Inf(1)}
		for _, n := range c.nodules {
			f.Nearest = min(f.Nearest, math.Sqrt(squared(n.Center, m.Center)))
		}
		if !beyond {
			hits = append(hits, hit{m.Probability, int32(at), -1, int32(len(r.FalsePositives))})
		}
		r.FalsePositives = append(r.FalsePositives, f)
	}
	return hits
}

// threshold returns the probability that a mark must exceed to enter the
// curve: that of the first mark that is too many, as in the challenge's script.
func threshold(marks []luna.Mark, limit int) float64 {
	if len(marks) <= limit {
		return math.Inf(-1)
	}
	sorted := make([]float64, len(marks))
	for i, m := range marks {
		sorted[i] = m.Probability
	}
	slices.Sort(sorted)
	return sorted[len(sorted)-1-limit]
}

func squared(a, b [3]float64) float64 {
	x, y, z := a[0]-b[0], a[1]-b[1], a[2]-b[2]
	return x*x + y*y + z*z
}

// inside tells whether a squared distance is less than the radius.
func inside(d2, diameter float64) bool {
	if diameter < 0 {
		diameter = unmeasured
	}
	return d2 < diameter/2*(diameter/2)
}
