package ct

import (
	"errors"
	"fmt"
	"math"
)

// Labels of the lung segmentations that come with LUNA16 (seg-lungs-LUNA16).
const (
	LabelLeftLung  = 3
	LabelRightLung = 4
	LabelTrachea   = 5
)

// ErrOtherGrid is returned when a lung segmentation does not cover the scan: it
// belongs to another one, or one of the two was moved.
var ErrOtherGrid = errors.New("the lung segmentation does not lie where the scan is")

// segmentation are lungs that somebody else has drawn.
type segmentation struct {
	v      *Volume
	lo, hi [3]float64 // box of the lungs in voxels of the scan's view
	view   Geometry
}

// newSegmentation checks that v covers the scan and holds lungs.
func newSegmentation(v *Volume, view Geometry) (*segmentation, error) {
	if err := v.check(); err != nil {
		return nil, fmt.Errorf("lung segmentation: %w", err)
	}
	const reach = 1.0 // voxels: half of one is its border, the rest rounding of a header
	for corner := range 8 {
		var at [3]float64
		for a := range 3 {
			if corner>>a&1 != 0 {
				at[a] = float64(view.Size[a] - 1)
			}
		}
		i, j, k := v.Voxel(view.World(at[0], at[1], at[2]))
		for a, x := range [3]float64{i, j, k} {
			if x < -reach || x > float64(v.Size[a]-1)+reach {
				return nil, ErrOtherGrid
			}
		}
	}
	lo, hi := v.Size, [3]int{-1, -1, -1}
	for k := range v.Size[2] {
		for j := range v.Size[1] {
			for i, label := range v.HU[v.Index(0, j, k):][:v.Size[0]] {
				if label == LabelLeftLung || label == LabelRightLung {
					for a, x := range [3]int{i, j, k} {
						lo[a], hi[a] = min(lo[a], x), max(hi[a], x)
					}
				}
			}
		}
	}
	if hi[0] < 0 {
		return nil, fmt.Errorf("%w: its segmentation has no voxel of value %d or %d", ErrNoLungs, LabelLeftLung, LabelRightLung)
	}
	s := &segmentation{v: v, view: view}
	for a := range 3 {
		s.lo[a], s.hi[a] = math.Inf(1), math.Inf(-1)
	}
	for corner := range 8 { // the axes may run otherwise, or be turned
		var at [3]float64
		for a := range 3 {
			at[a] = float64(lo[a]) - 0.5
			if corner>>a&1 != 0 {
				at[a] = float64(hi[a]) + 0.5
			}
		}
		i, j, k := view.Voxel(v.World(at[0], at[1], at[2]))
		for a, x := range [3]float64{i, j, k} {
			s.lo[a], s.hi[a] = min(s.lo[a], x), max(s.hi[a], x)
		}
	}
	return s, nil
}

func (s *segmentation) fineBox(g Geometry, margin int) (box [3]span) {
	for a := range box {
		perVoxel := s.view.Spacing[a] / g.Spacing[a]
		box[a].lo = min(max(0, int(math.Floor(s.lo[a]*perVoxel))-margin), g.Size[a]-1)
		box[a].hi = max(min(g.Size[a], int(math.Ceil(s.hi[a]*perVoxel))+1+margin), box[a].lo+1)
	}
	return box
}

// refine gives every voxel the label of the nearest voxel of the segmentation.
func (s *segmentation) refine(g Geometry, box [3]span, airy *bitGrid, threads int) lungPair {
	out := lungPair{newBitGrid(airy.size()), newBitGrid(airy.size())}
	nearest := func(x float64, n int) int {
		const slack = 1e-6 // a point half-way goes up, whatever the rounding
		return min(max(int(math.Floor(x+0.5+slack)), 0), n-1)
	}
	// The position in the segmentation is a sum of one term for each axis.
	var term [3][][3]float64
	zero := [3]float64{}
	zero[0], zero[1], zero[2] = s.v.Voxel(g.World(0, 0, 0))
	for a := range term {
		term[a] = make([][3]float64, box[a].len())
		for n := range term[a] {
			var at [3]float64
			at[a] = float64(box[a].lo + n)
			i, j, k := s.v.Voxel(g.World(at[0], at[1], at[2]))
			term[a][n] = sub([3]float64{i, j, k}, zero)
		}
	}
	parallel(airy.nz, threads, func(lo, hi int) {
		for k := lo; k < hi; k++ {
			for j := range airy.ny {
				var from [3]float64
				for a := range from {
					from[a] = zero[a] + term[1][j][a] + term[2][k][a]
				}
				right, left := out[0].row(j, k), out[1].row(j, k)
				for i, t := range term[0] {
					at := s.v.Index(nearest(from[0]+t[0], s.v.Size[0]), nearest(from[1]+t[1], s.v.Size[1]), nearest(from[2]+t[2], s.v.Size[2]))
					switch s.v.HU[at] {
					case LabelRightLung:
						right[i>>6] |= 1 << (i & 63)
					case LabelLeftLung:
						left[i>>6] |= 1 << (i & 63)
					}
				}
			}
		}
	})
	return out
}
