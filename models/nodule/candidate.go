// Package nodule turns the raw output of a nodule detector into candidates:
// anchors are decoded to centres and diameters, and overlapping candidates are
// merged to one. Everything here is a pure function on arrays; it knows no
// files, no patient coordinates and no runtime.
//
// Output layout, that of the N-NET family: float32 [D/s, H/s, W/s, A, 5] for
// one patch, the last axis being logit, dz, dy, dx, log(d/anchor), offsets in
// units of the anchor. Cell i of an axis has its anchor at i·s + (s-1)/2.
//
// The numbers come from a model file and are not trusted: what is not finite
// is refused with ErrNotFinite, and no length is taken from them.
package nodule

import (
	"cmp"
	"math"
	"slices"
)

// Candidate is one possible nodule on the grid that the model was given.
// Voxel centres have whole numbers.
type Candidate struct {
	Z, Y, X     float64 // centre, in voxels
	Diameter    float64 // in voxels
	Probability float64 // 0..1
}

// compare orders candidates from the most to the least probable. Ties are
// broken by size and place, so that the order never depends on how the work
// was split.
func compare(a, b Candidate) int {
	return cmp.Or(
		cmp.Compare(b.Probability, a.Probability),
		cmp.Compare(b.Diameter, a.Diameter),
		cmp.Compare(a.Z, b.Z),
		cmp.Compare(a.Y, b.Y),
		cmp.Compare(a.X, b.X),
	)
}

// Sort orders candidates from the most to the least probable, in place. The
// order of equal sets is always the same.
func Sort(c []Candidate) { slices.SortFunc(c, compare) }

// IoU returns the intersection over union of a and b seen as cubes with the
// diameter as edge, as the N-NET family compares boxes.
func IoU(a, b Candidate) float64 {
	inter := overlap(a.Z, a.Diameter, b.Z, b.Diameter) *
		overlap(a.Y, a.Diameter, b.Y, b.Diameter) *
		overlap(a.X, a.Diameter, b.X, b.Diameter)
	if inter <= 0 {
		return 0
	}
	return inter / (cube(a.Diameter) + cube(b.Diameter) - inter)
}

// Distance returns the distance between the centres of a and b in voxels.
func Distance(a, b Candidate) float64 {
	z, y, x := a.Z-b.Z, a.Y-b.Y, a.X-b.X
	return math.Sqrt(z*z + y*y + x*x)
}

func overlap(a, da, b, db float64) float64 {
	return max(0, min(a+da/2, b+db/2)-max(a-da/2, b-db/2))
}

func cube(d float64) float64 { return d * d * d }

// finite tells whether every number of c is finite and its diameter positive.
func (c Candidate) finite() bool {
	for _, v := range [...]float64{c.Z, c.Y, c.X, c.Diameter, c.Probability} {
		if math.IsNaN(v) || math.IsInf(v, 0) {
			return false
		}
	}
	return c.Diameter > 0
}
