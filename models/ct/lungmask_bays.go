package ct

import "math"

// Masses on the chest wall leave bays in the lung, which closing cannot fill
// when they are wide.
const (
	bayLungMM  = 4.0  // of lung between a bay and the middle of the chest
	bayBelowMM = 80.0 // the lung goes on below a bay within this distance
	bayAsideMM = 30.0 // a bay is this far from the middle: the spine is nearer
	endShare   = 0.5  // of a slice's area is in the lowest slice of a lung cut by the end of the scan
)

// addBays adds to each lung those parts of its slices' convex hulls that lie at
// the chest wall: on the way from there to the middle of the chest is lung of
// the same side (so it is neither heart nor hilum), and below there is lung as
// well (so it is not the dome of the diaphragm).
func (c *coarse) addBays(lungs lungPair, threads int) {
	original := lungPair{lungs[0].clone(), lungs[1].clone()}
	var areas [2][]int // of every slice
	for n, lung := range original {
		for k := range lung.nz {
			areas[n] = append(areas[n], popCount(lung.plane(k)))
		}
	}
	parallel(c.Size[2], threads, func(lo, hi int) {
		hull := newBitGrid([3]int{c.Size[0], c.Size[1], 1})
		var runs []run
		for k := lo; k < hi; k++ {
			x, y, ok := chestMiddle(original, k)
			if !ok {
				continue
			}
			for n, lung := range original {
				if lung.hullPlane(k, hull.bits) == 0 {
					continue
				}
				cut := float64(areas[n][0]) >= endShare*float64(areas[n][k])
				for j := range c.Size[1] {
					row := hull.row(j, 0)
					for w, bits := range lung.row(j, k) {
						row[w] &^= bits | original[1-n].row(j, k)[w]
					}
					runs = appendRuns(runs[:0], row)
					for _, r := range runs {
						for i := int(r.lo); i < int(r.hi); i++ {
							if math.Abs(float64(i)-x)*c.Spacing[0] >= bayAsideMM &&
								c.lungBelow(lung, i, j, k, cut) && c.lungTowards(lung, i, j, k, x, y) {
								lungs[n].set(i, j, k)
							}
						}
					}
				}
			}
		}
	})
}

// chestMiddle returns a point between the lungs of a slice; ok is false when
// one of them is not in it.
func chestMiddle(lungs lungPair, k int) (x, y float64, ok bool) {
	for _, lung := range lungs {
		columns := make([]uint64, lung.words)
		y0, y1 := lung.ny, 0
		for j := range lung.ny {
			row := lung.row(j, k)
			if popCount(row) > 0 {
				y0, y1 = min(y0, j), j
			}
			for n, w := range row {
				columns[n] |= w
			}
		}
		first, end := rowSpan(columns)
		if end == 0 {
			return 0, 0, false
		}
		x += float64(first+end-1) / 4
		y += float64(y0+y1) / 4
	}
	return x, y, true
}

// lungBelow tells whether the lung goes on below a voxel, or the scan ends
// before that can be seen and cut says that it ends inside the lung.
func (c *coarse) lungBelow(lung *bitGrid, i, j, k int, cut bool) bool {
	for end := k - int(bayBelowMM/c.Spacing[2]); k >= end; k-- {
		if k < 0 {
			return cut
		}
		if lung.get(i, j, k) {
			return true
		}
	}
	return false
}

// lungTowards tells whether the straight way from a voxel to (x,y) in its slice
// leads through the lung.
func (c *coarse) lungTowards(lung *bitGrid, i, j, k int, x, y float64) bool {
	dx, dy := x-float64(i), y-float64(j)
	steps := math.Max(math.Abs(dx), math.Abs(dy))
	if steps < 1 {
		return false
	}
	dx, dy = dx/steps, dy/steps
	stepMM := math.Hypot(dx*c.Spacing[0], dy*c.Spacing[1])
	through := 0.0
	for n := 1.0; n <= steps; n++ {
		if lung.get(int(float64(i)+n*dx+0.5), int(float64(j)+n*dy+0.5), k) {
			if through += stepMM; through >= bayLungMM {
				return true
			}
		}
	}
	return false
}
