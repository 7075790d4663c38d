package froc

import (
	"math"
	"math/rand/v2"
	"slices"
)

// confidence is the part of the bootstrap samples that the interval holds.
const confidence = 0.95

// bandPerDoubling is how many points the band has from one rate to the next,
// which is twice as large.
const bandPerDoubling = 8

// maxRedraws bounds how often a sample without any nodule is drawn again. With
// a nodule in one scan at least, a draw has none with a probability of 0.37 at
// most, so that many draws in vain do not happen.
const maxRedraws = 1000

// Interval is the bootstrap interval of the sensitivity at one rate.
type Interval struct {
	FP, Low, High float64
}

// bootstrap draws as many scans as there are, with repetition, o.Bootstrap
// times, and sets the intervals. The hits are sorted once; a sample only says
// how often each scan counts.
func (r *Result) bootstrap(hits []hit, cases []scan, o Options) {
	r.CPMLow, r.CPMHigh = r.CPM, r.CPM
	r.SensLow, r.SensHigh = r.Sensitivity, r.Sensitivity
	if o.Bootstrap < 0 {
		return
	}
	r.Samples = o.Bootstrap
	grid := bandGrid()
	values := make([][]float64, len(grid)) // [rate][sample]
	for i := range values {
		values[i] = make([]float64, o.Bootstrap)
	}
	cpm := make([]float64, o.Bootstrap)
	rng := rand.New(rand.NewPCG(o.Seed, 0x48696c756d)) //nolint:gosec // a repeatable sample, no secret
	s := sampler{hits: hits, grid: grid, weights: make([]int32, len(cases)), out: make([]float64, len(grid))}
	for n := range o.Bootstrap {
		nodules := 0
		for range maxRedraws {
			if nodules = s.draw(rng, cases); nodules > 0 {
				break
			}
		}
		if nodules == 0 {
			// Practically impossible; the value of the whole set is harmless.
			cpm[n] = r.CPM
			for i, fp := range grid {
				values[i][n] = at(r.Curve, fp)
			}
			continue
		}
		s.measure(nodules)
		var own [7]float64
		for i, v := range s.out {
			values[i][n] = v
			if i%bandPerDoubling == 0 {
				own[i/bandPerDoubling] = v
			}
		}
		cpm[n] = mean(own)
	}
	r.CPMLow, r.CPMHigh = interval(cpm)
	for i, fp := range grid {
		low, high := interval(values[i])
		r.Band = append(r.Band, Interval{fp, low, high})
		if i%bandPerDoubling == 0 {
			r.SensLow[i/bandPerDoubling], r.SensHigh[i/bandPerDoubling] = low, high
		}
	}
}

// bandGrid returns the rates and bandPerDoubling-1 points between each two.
func bandGrid() []float64 {
	var grid []float64
	for i := range (len(rates)-1)*bandPerDoubling + 1 {
		whole, part := i/bandPerDoubling, i%bandPerDoubling
		grid = append(grid, rates[whole]*math.Exp2(float64(part)/bandPerDoubling))
	}
	return grid
}

// sampler measures samples of scans.
type sampler struct {
	hits    []hit
	grid    []float64
	weights []int32 // how often each scan is in the sample
	out     []float64
}

// draw draws a sample and returns how many nodules it has.
func (s *sampler) draw(rng *rand.Rand, cases []scan) (nodules int) {
	clear(s.weights)
	for range cases {
		i := rng.IntN(len(cases))
		s.weights[i]++
		nodules += len(cases[i].nodules)
	}
	return nodules
}

// measure sets out to the sensitivity at each rate of the grid. It is curveOf
// and at in one pass that ends at the last rate.
func (s *sampler) measure(nodules int) {
	scans := float64(len(s.weights))
	next := 0                // rate of the grid that is wanted
	var tp, fp, tp0, fp0 int // now, and at the last point of the curve
	for i, h := range s.hits {
		w := int(s.weights[h.scan])
		if h.nodule >= 0 {
			tp += w
		} else {
			fp += w
		}
		if i+1 < len(s.hits) && s.hits[i+1].probability == h.probability {
			continue
		}
		for ; next < len(s.grid) && s.grid[next]*scans < float64(fp); next++ {
			part := (s.grid[next]*scans - float64(fp0)) / float64(fp-fp0)
			s.out[next] = (float64(tp0) + part*float64(tp-tp0)) / float64(nodules)
		}
		if next == len(s.grid) {
			return
		}
		tp0, fp0 = tp, fp
	}
	for ; next < len(s.grid); next++ {
		s.out[next] = float64(tp) / float64(nodules)
	}
}

// interval returns the middle part of values, which it sorts.
func interval(values []float64) (low, high float64) {
	slices.Sort(values)
	return quantile(values, (1-confidence)/2), quantile(values, (1+confidence)/2)
}

// quantile interpolates linearly between sorted values.
func quantile(sorted []float64, q float64) float64 {
	x := q * float64(len(sorted)-1)
	i := int(x)
	if i+1 >= len(sorted) {
		return sorted[len(sorted)-1]
	}
	return sorted[i] + (x-float64(i))*(sorted[i+1]-sorted[i])
}
