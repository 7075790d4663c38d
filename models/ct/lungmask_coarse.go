package ct

import (
	"fmt"
	"math"
)

// Sizes and values of the search for lungs.
const (
	coarseMM = 2.0 // spacing that the search aims at

	coarseMinHU = -1024 // what a coarse voxel's mean is taken of: padding counts
	coarseMaxHU = 300   // as air, metal as bone

	gasHU          = -940  // outside air and its border are mostly below this
	gasShare       = 0.15  // of an outside region: thin air under a blanket is part of it
	tissueHU       = -300  // body
	tableMM        = 3.0   // half of what is thinner than the body: shells of tables, blankets
	skinMM         = 6.0   // the body's hull reaches this far beyond its core
	pureGasHU      = -970  // bowel and stomach gas are below, lungs rarely
	pureGasShare   = 0.5   // of a region that is gas and no lung
	minLungsML     = 200.0 // less cannot be told from gas in the bowel or the sinuses
	minSecondML    = 25.0  // of the second lung, and of further parts
	minSecondShare = 0.1   // of the larger lung, where it is not known by its place
	minInnerMM     = 8.0   // radius of a ball that fits into a lung
	wallMM         = 3.0   // wall of an airway with its border
	closeMM        = 5.0   // bays narrower than twice this belong to the lung
	maxHoleMM2     = 1200  // a hole in a slice up to this belongs to the lung: a 39 mm mass
)

// coarse is the scan at about 2 mm: each voxel the mean of a block of voxels.
type coarse struct {
	Geometry
	factor [3]int // voxels of the scan in a block
	hu     []int16
}

// newCoarse averages the scan in blocks.
func newCoarse(s *scan, threads int) *coarse {
	c := &coarse{Geometry: s.Geometry}
	var first [3]float64
	for a := range 3 {
		c.factor[a] = min(max(1, int(math.Round(coarseMM/s.Spacing[a]))), s.Size[a])
		c.Size[a] = (s.Size[a] + c.factor[a] - 1) / c.factor[a]
		c.Spacing[a] = s.Spacing[a] * float64(c.factor[a])
		first[a] = float64(c.factor[a]-1) / 2
	}
	c.Origin = s.World(first[0], first[1], first[2])
	c.hu = make([]int16, c.Voxels())
	nx, ny, nz := s.Size[0], s.Size[1], s.Size[2]
	parallel(c.Size[2], threads, func(lo, hi int) {
		columns := make([]int32, nx)
		for kc := lo; kc < hi; kc++ {
			k0, k1 := kc*c.factor[2], min((kc+1)*c.factor[2], nz)
			for jc := range c.Size[1] {
				j0, j1 := jc*c.factor[1], min((jc+1)*c.factor[1], ny)
				clear(columns)
				for k := k0; k < k1; k++ {
					for j := j0; j < j1; j++ {
						src := s.hu[(s.stored(2, k)*ny+s.stored(1, j))*nx:][:len(columns)]
						for i, v := range src {
							columns[i] += int32(min(max(v, coarseMinHU), coarseMaxHU))
						}
					}
				}
				row := c.hu[c.Index(0, jc, kc):][:c.Size[0]]
				rows := (k1 - k0) * (j1 - j0)
				for ic := range row {
					i0, i1 := ic*c.factor[0], min((ic+1)*c.factor[0], nx)
					if s.flip[0] {
						i0, i1 = nx-i1, nx-i0
					}
					sum := int32(0)
					for _, v := range columns[i0:i1] {
						sum += v
					}
					row[ic] = int16(sum / int32(rows*(i1-i0)))
				}
			}
		}
	})
	return c
}

// below returns the voxels below a value.
func (c *coarse) below(hu int16, threads int) *bitGrid {
	b := newBitGrid(c.Size)
	parallel(b.nz, threads, func(lo, hi int) {
		for k := lo; k < hi; k++ {
			for j := range b.ny {
				row := b.row(j, k)
				for i, v := range c.hu[c.Index(0, j, k):][:b.nx] {
					if v < hu {
						row[i>>6] |= 1 << (i & 63)
					}
				}
			}
		}
	})
	return b
}

// ml returns the volume of n voxels in millilitres.
func (c *coarse) ml(n int) float64 {
	return float64(n) * c.Spacing[0] * c.Spacing[1] * c.Spacing[2] / 1000
}

// mm2 returns the number of voxels of a slice that an area covers.
func (c *coarse) mm2(area float64) int {
	return int(area / (c.Spacing[0] * c.Spacing[1]))
}

// share returns for each component which share of its voxels is below a value.
func (c *coarse) share(parts *components, hu int16) []float64 {
	out := make([]float64, len(parts.voxels))
	parts.each(func(label int32, j, k, lo, hi int) {
		at := c.Index(0, j, k)
		for _, v := range c.hu[at+lo : at+hi] {
			if v < hu {
				out[label]++
			}
		}
	})
	for n := range out {
		out[n] /= float64(parts.voxels[n])
	}
	return out
}

// airInside returns the airy voxels inside the body, and the body: its slices'
// hulls, without a table.
func (c *coarse) airInside(threads int) (airy, body *bitGrid) {
	core := c.below(tissueHU, threads).complement().erode(tableMM, c.Spacing, threads)
	parts := core.label(false)
	largest := parts.largest()
	body = parts.pick(func(n int32) bool { return n == largest }).dilate(skinMM, c.Spacing, threads)
	body.growHulls(math.Inf(1), threads)

	airy = c.below(airyHU, threads)
	// Outside air is looked for slice by slice: in three dimensions it is one
	// with the lungs wherever the nose is in the scan. A lung cut by a narrow
	// field of view reaches the border as well, but is not gas anywhere.
	spots := airy.label(true)
	border := spots.atBorder(true)
	outside := spots.pick(func(n int32) bool { return border[n] }).label(false)
	gas := c.share(outside, gasHU)
	airy.andNot(outside.pick(func(n int32) bool { return gas[n] > gasShare }))
	airy.and(body)
	return airy, body
}

// lungParts picks those regions of the air inside the body that are lung: big,
// wide, and not pure gas.
func (c *coarse) lungParts(airy *bitGrid, threads int) (*bitGrid, error) {
	parts := airy.label(false)
	gas := c.share(parts, pureGasHU)
	inner := airy.erode(minInnerMM, c.Spacing, threads)
	wide := make([]bool, len(parts.voxels))
	bottom, top := make([]int, len(parts.voxels)), make([]int, len(parts.voxels))
	parts.each(func(n int32, j, k, lo, hi int) {
		if top[n] == 0 {
			bottom[n] = k
		}
		top[n] = k + 1
		wide[n] = wide[n] || anyBit(inner.row(j, k), lo, hi)
	})
	main := -1
	for n, voxels := range parts.voxels {
		if wide[n] && gas[n] <= pureGasShare && (main < 0 || voxels > parts.voxels[main]) {
			main = n
		}
	}
	// Gas in the bowel lies low; a second lung that is small reaches up.
	second := func(n int) bool {
		return parts.voxels[n] >= int(minSecondShare*float64(parts.voxels[main])) ||
			2*top[n] > bottom[main]+top[main]
	}
	total, largestGas, largestOther := 0.0, 0.0, 0.0
	keep := make([]bool, len(parts.voxels))
	for n, voxels := range parts.voxels {
		ml := c.ml(voxels)
		switch {
		case gas[n] > pureGasShare:
			largestGas = max(largestGas, ml)
		case wide[n] && ml >= minSecondML && second(n):
			keep[n] = true
			total += ml
		default:
			largestOther = max(largestOther, ml)
		}
	}
	if total >= minLungsML {
		return parts.pick(func(n int32) bool { return keep[n] }), nil
	}
	switch {
	case total > 0:
		return nil, fmt.Errorf("%w: only %.0f mL inside the body look like lung, and less than %.0f mL is not analysed", ErrNoLungs, total, minLungsML)
	case largestGas >= 1:
		return nil, fmt.Errorf("%w: the largest air space inside the body (%.0f mL) is gas without lung tissue", ErrNoLungs, largestGas)
	case largestOther >= 1:
		return nil, fmt.Errorf("%w: the largest air space inside the body has only %.0f mL", ErrNoLungs, largestOther)
	}
	return nil, fmt.Errorf("%w: there is no air inside the body", ErrNoLungs)
}
