package phantom

import (
	"cmp"
	"math"
	"slices"
)

// Mark is one finding of a detector: a point in patient coordinates.
type Mark struct {
	Center      [3]float64
	Probability float64
}

// ScoreResult compares marks with the truth.
type ScoreResult struct {
	Nodules        int          // nodules that count: those of at least the least diameter
	Found          []Hit        // of these, the ones that a mark hit
	Missed         []TrueNodule // and the ones that none hit
	FalsePositives []Mark       // marks that hit nothing
	Ignored        int          // marks that count neither way: further ones on the same nodule, and those on smaller nodules
}

// Hit is a nodule with the most probable mark on it.
type Hit struct {
	Nodule TrueNodule
	Mark   Mark
}

// Sensitivity returns the share of nodules found; 1 when there are none to
// find.
func (r ScoreResult) Sensitivity() float64 {
	if r.Nodules == 0 {
		return 1
	}
	return float64(len(r.Found)) / float64(r.Nodules)
}

// Score applies the rules of LUNA16 to one series: a mark hits a nodule when
// its distance to the centre is smaller than the radius; of several marks on
// one nodule the most probable counts and the others are ignored; a mark on a
// nodule smaller than minDiameter counts neither way.
func Score(t Truth, marks []Mark, minDiameter float64) ScoreResult {
	marks = slices.Clone(marks)
	slices.SortStableFunc(marks, func(a, b Mark) int { return cmp.Compare(b.Probability, a.Probability) })
	var r ScoreResult
	found := make([]bool, len(t.Nodules))
	for _, n := range t.Nodules {
		if n.DiameterMM >= minDiameter {
			r.Nodules++
		}
	}
	for _, m := range marks {
		hit := nearestHit(t.Nodules, m)
		switch {
		case hit < 0:
			r.FalsePositives = append(r.FalsePositives, m)
		case t.Nodules[hit].DiameterMM < minDiameter || found[hit]:
			r.Ignored++
		default:
			found[hit] = true
			r.Found = append(r.Found, Hit{t.Nodules[hit], m})
		}
	}
	for i, n := range t.Nodules {
		if n.DiameterMM >= minDiameter && !found[i] {
			r.Missed = append(r.Missed, n)
		}
	}
	return r
}

// nearestHit returns the index of the nodule that m hits, the nearest if there
// are several, or -1.
func nearestHit(nodules []TrueNodule, m Mark) int {
	best, bestDistance := -1, math.Inf(1)
	for i, n := range nodules {
		d := vec(n.Center).sub(vec(m.Center)).norm()
		if d < n.DiameterMM/2 && d < bestDistance {
			best, bestDistance = i, d
		}
	}
	return best
}
