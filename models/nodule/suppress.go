package nodule

import "math"

// NMS keeps of every group of overlapping candidates the most probable one: a
// candidate is dropped when its cube has an intersection over union above iou
// with that of a kept one. The result is sorted; c is left as it was.
// Candidates that are not finite are dropped.
func NMS(c []Candidate, iou float64) []Candidate {
	// Cubes of edges a < b overlap at most with (a/b)³, so only sizes within
	// this factor of each other can drop one another.
	ratio := math.Inf(1)
	if iou > 0 {
		ratio = math.Cbrt(1 / iou)
	}
	return greedy(c, ratio, func(kept, c Candidate) bool { return IoU(kept, c) > iou },
		func(d, size float64) float64 { return (d + size) / 2 })
}

// MergeNear keeps of every group of candidates at one place the most probable
// one: a candidate is dropped when the distance between its centre and that of
// a kept one is less than factor times the larger of the two radii. The result
// is sorted; c is left as it was. Candidates that are not finite are dropped.
//
// NMS by IoU leaves a small box inside a much larger one; this does not.
func MergeNear(c []Candidate, factor float64) []Candidate {
	return greedy(c, math.Inf(1), func(kept, c Candidate) bool {
		return Distance(kept, c) < factor*max(kept.Diameter, c.Diameter)/2
	}, func(d, size float64) float64 { return factor * max(d, size) / 2 })
}

// Top returns the n most probable of sorted candidates; n ≤ 0 means all.
func Top(sorted []Candidate, n int) []Candidate {
	if n > 0 && len(sorted) > n {
		return sorted[:n]
	}
	return sorted
}

// greedy goes through the candidates from the most probable down and keeps
// each one that no kept candidate drops. reach(d, size) is the largest distance
// along one axis at which a candidate of diameter d and one of at most size can
// drop one another; sizes beyond the factor ratio never do.
//
// Kept candidates lie in one hash grid for each octave of diameters, with cells
// as large as the octave's diameters, so a candidate meets its neighbours only.
func greedy(c []Candidate, ratio float64, drops func(kept, c Candidate) bool, reach func(d, size float64) float64) []Candidate {
	sorted := make([]Candidate, 0, len(c))
	for _, v := range c {
		if v.finite() {
			sorted = append(sorted, v)
		}
	}
	Sort(sorted)
	kept := sorted[:0] // never ahead of the reading index
	levels := map[int]*level{}
	for _, v := range sorted {
		dropped := false
		for octave, l := range levels {
			size := math.Ldexp(1, octave) // the octave has diameters in (size/2, size]
			if v.Diameter > size*ratio || v.Diameter*ratio < size/2 {
				continue
			}
			if l.any(v, reach(v.Diameter, size), drops) {
				dropped = true
				break
			}
		}
		if dropped {
			continue
		}
		kept = append(kept, v)
		octave := int(math.Ceil(math.Log2(v.Diameter)))
		l := levels[octave]
		if l == nil {
			l = &level{size: math.Ldexp(1, octave), cells: map[cell][]Candidate{}}
			levels[octave] = l
		}
		l.add(v)
	}
	return kept
}

// cell is a place of a hash grid.
type cell [3]int64

// level holds the kept candidates of one octave of diameters.
type level struct {
	size  float64 // edge of a cell
	cells map[cell][]Candidate
	all   []Candidate
}

// cellLimit keeps cell numbers well inside int64 for any finite candidate.
const cellLimit = 1 << 52

func (l *level) at(v float64) int64 {
	return int64(math.Floor(max(-cellLimit, min(cellLimit, v/l.size))))
}

func (l *level) add(c Candidate) {
	k := cell{l.at(c.Z), l.at(c.Y), l.at(c.X)}
	l.cells[k] = append(l.cells[k], c)
	l.all = append(l.all, c)
}

// any tells whether a candidate of the level within reach of c drops it.
func (l *level) any(c Candidate, reach float64, drops func(kept, c Candidate) bool) bool {
	var lo, hi cell
	count := 1.0
	for a, v := range [3]float64{c.Z, c.Y, c.X} {
		lo[a], hi[a] = l.at(v-reach), l.at(v+reach)
		count *= float64(hi[a]-lo[a]) + 1
	}
	if count >= float64(len(l.all)) { // fewer candidates than cells
		for _, k := range l.all {
			if drops(k, c) {
				return true
			}
		}
		return false
	}
	for z := lo[0]; z <= hi[0]; z++ {
		for y := lo[1]; y <= hi[1]; y++ {
			for x := lo[2]; x <= hi[2]; x++ {
				for _, k := range l.cells[cell{z, y, x}] {
					if drops(k, c) {
						return true
					}
				}
			}
		}
	}
	return false
}
