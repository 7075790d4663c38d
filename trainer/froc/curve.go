package froc

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"

	"hilum/trainer/luna"
)

// Point is a point of the curve: what marks of at least this probability give.
type Point struct {
	FP          float64 // false positives per scan
	Sensitivity float64
	Probability float64
}

// sortHits orders hits by falling probability.
func sortHits(hits []hit) {
	slices.SortFunc(hits, func(a, b hit) int { return cmp.Compare(b.probability, a.probability) })
}

// curveOf returns the points of the curve of sorted hits, from (0,0). Hits of
// the same probability make one point.
func curveOf(hits []hit, scans, nodules int) []Point {
	curve := []Point{{Probability: math.Inf(1)}}
	tp, fp := 0, 0
	for i, h := range hits {
		if h.nodule >= 0 {
			tp++
		} else {
			fp++
		}
		if i+1 < len(hits) && hits[i+1].probability == h.probability {
			continue
		}
		curve = append(curve, Point{float64(fp) / float64(scans), float64(tp) / float64(nodules), h.probability})
	}
	return curve
}

// at returns the sensitivity at a number of false positives per scan.
func at(curve []Point, fp float64) float64 {
	// The first point to the right of fp; the one before is the highest at or
	// to the left of fp.
	i, _ := slices.BinarySearchFunc(curve, fp, func(p Point, fp float64) int {
		if p.FP <= fp {
			return -1
		}
		return 1
	})
	a := curve[i-1] // the curve starts at 0, and fp is at least 0
	if i == len(curve) {
		return a.Sensitivity
	}
	b := curve[i]
	return a.Sensitivity + (b.Sensitivity-a.Sensitivity)*(fp-a.FP)/(b.FP-a.FP)
}

func sensitivities(curve []Point) (s [7]float64) {
	for i, fp := range rates {
		s[i] = at(curve, fp)
	}
	return s
}

func mean(s [7]float64) float64 {
	sum := 0.0
	for _, v := range s {
		sum += v
	}
	return sum / float64(len(s))
}

// setRates tells each nodule and each false positive how many false positives
// per scan it takes, and orders the false positives.
func (r *Result) setRates(hits []hit) {
	for i := range r.ProbabilityAtRates {
		r.ProbabilityAtRates[i] = math.NaN()
	}
	fp := 0
	for start := 0; start < len(hits); {
		end := start
		for end < len(hits) && hits[end].probability == hits[start].probability {
			if hits[end].nodule < 0 {
				fp++
			}
			end++
		}
		rate := float64(fp) / float64(r.Scans)
		for i, limit := range rates {
			if rate <= limit {
				r.ProbabilityAtRates[i] = hits[start].probability
			}
		}
		for _, h := range hits[start:end] {
			if h.nodule >= 0 {
				r.Nodules[h.nodule].Rate = rate
			} else {
				r.FalsePositives[h.mark].Rate = rate
			}
		}
		start = end
	}
	slices.SortFunc(r.FalsePositives, func(a, b FalsePositive) int {
		return cmp.Or(cmp.Compare(b.Probability, a.Probability), cmp.Compare(a.SeriesUID, b.SeriesUID),
			cmp.Compare(a.Center[0], b.Center[0]), cmp.Compare(a.Center[1], b.Center[1]), cmp.Compare(a.Center[2], b.Center[2]))
	})
}

// Misses returns the nodules that no mark hits, the largest first, and after
// them those that are found only beyond the largest rate, the latest first.
func (r *Result) Misses() []Nodule {
	var misses []Nodule
	for _, n := range r.Nodules {
		if !n.Found || n.Rate > rates[len(rates)-1] {
			misses = append(misses, n)
		}
	}
	slices.SortFunc(misses, func(a, b Nodule) int {
		if a.Found != b.Found {
			if b.Found {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(b.Rate, a.Rate), cmp.Compare(b.Diameter, a.Diameter), cmp.Compare(a.SeriesUID, b.SeriesUID),
			cmp.Compare(a.Center[0], b.Center[0]), cmp.Compare(a.Center[1], b.Center[1]), cmp.Compare(a.Center[2], b.Center[2]))
	})
	return misses
}

// sizeLimits divide nodules by diameter in mm: the smallest of LUNA16, and the
// limits of Lung-RADS 2022.
var sizeLimits = []float64{4, 6, 8, 15}

func sizeName(i int) string {
	switch i {
	case 0:
		return fmt.Sprintf("under %g mm", sizeLimits[0])
	case len(sizeLimits):
		return fmt.Sprintf("%g mm and more", sizeLimits[i-1])
	}
	return fmt.Sprintf("%g to %g mm", sizeLimits[i-1], sizeLimits[i])
}

// bySize measures each size of nodules against all false positives.
func bySize(hits []hit, r *Result) []Group {
	groups := make([]Group, len(sizeLimits)+1)
	size := func(n luna.Nodule) int {
		i, exact := slices.BinarySearch(sizeLimits, n.Diameter)
		if exact {
			i++
		}
		return i
	}
	for i := range groups {
		g := &groups[i]
		g.Name, g.Scans, g.FP = sizeName(i), r.Scans, r.FP
		for _, n := range r.Nodules {
			if size(n.Nodule) == i {
				g.count(n)
			}
		}
		g.measure(slices.DeleteFunc(slices.Clone(hits), func(h hit) bool {
			return h.nodule >= 0 && size(r.Nodules[h.nodule].Nodule) != i
		}))
	}
	return groups
}

// byFold measures the scans of each fold by themselves.
func byFold(hits []hit, r *Result, scans []string, folds map[string]int) ([]Group, error) {
	groups := map[int]*Group{}
	fold := make([]int, len(scans))
	for i, uid := range scans {
		k, ok := folds[uid]
		if !ok {
			return nil, fmt.Errorf("the scan %s is in no fold", uid)
		}
		if groups[k] == nil {
			groups[k] = &Group{Name: fmt.Sprint(k)}
		}
		groups[k].Scans++
		fold[i] = k
	}
	for _, n := range r.Nodules {
		groups[folds[n.SeriesUID]].count(n)
	}
	for _, f := range r.FalsePositives {
		groups[folds[f.SeriesUID]].FP++
	}
	var out []Group
	for _, k := range slices.Sorted(maps.Keys(groups)) {
		g := groups[k]
		g.measure(slices.DeleteFunc(slices.Clone(hits), func(h hit) bool { return fold[h.scan] != k }))
		out = append(out, *g)
	}
	return out, nil
}

func (g *Group) count(n Nodule) {
	g.Nodules++
	if n.Found {
		g.Found++
	}
}

// measure fills in what the sorted hits of a group give.
func (g *Group) measure(hits []hit) {
	if g.Nodules == 0 {
		g.CPM = math.NaN()
		for i := range g.Sensitivity {
			g.Sensitivity[i] = math.NaN()
		}
		return
	}
	g.Sensitivity = sensitivities(curveOf(hits, g.Scans, g.Nodules))
	g.CPM = mean(g.Sensitivity)
}

// At returns the sensitivity at a number of false positives per scan, 0 or
// more.
func (r *Result) At(fp float64) float64 { return at(r.Curve, fp) }
