package ct

import "math"

// How two lungs that touch are told apart.
const (
	minSplitRatio = 0.15 // of the smaller to the larger lung
	minApartMM    = 40.0 // between their middles, along x
	maxErosionMM  = 24.0 // on each side of the bridge between them
	minAcross     = 0.2  // of the volume on each side of the body's middle when all else fails
)

// part is one connected region with what is needed to tell right from left.
type part struct {
	label  int32
	voxels int
	x      float64 // mean index along x
}

// byMiddle returns the parts of a labelling with their middles.
func byMiddle(parts *components) []part {
	out := make([]part, len(parts.voxels))
	for n := range out {
		out[n] = part{label: int32(n), voxels: parts.voxels[n]}
	}
	parts.each(func(n int32, _, _, lo, hi int) {
		out[n].x += float64(hi-lo) * float64(lo+hi-1) / 2
	})
	for n := range out {
		out[n].x /= float64(out[n].voxels)
	}
	return out
}

// twoLargest returns the two largest parts, the one with lower x first; ok tells
// whether they may be the two lungs.
func (c *coarse) twoLargest(parts []part) (a, b part, ok bool) {
	for _, p := range parts {
		if p.voxels > a.voxels {
			a, b = p, a
		} else if p.voxels > b.voxels {
			b = p
		}
	}
	ok = float64(b.voxels) >= minSplitRatio*float64(a.voxels) && c.ml(b.voxels) >= minSecondML &&
		math.Abs(a.x-b.x)*c.Spacing[0] >= minApartMM
	if ok && a.x > b.x {
		a, b = b, a
	}
	return a, b, ok
}

// split returns the right and the left lung of a mask: its two large parts, or
// the two halves of its one large part when that falls apart where it is thin,
// or when nothing else helps its halves right and left of the body's middle.
// A lung that is the only one stays whole.
func (c *coarse) split(lungs *bitGrid, middle float64, threads int) lungPair {
	parts := lungs.label(false)
	list := byMiddle(parts)
	if a, b, ok := c.twoLargest(list); ok {
		between := (a.x + b.x) / 2
		return lungPair{
			parts.pick(func(n int32) bool { return list[n].x <= between }),
			parts.pick(func(n int32) bool { return list[n].x > between }),
		}
	}
	main := parts.largest()
	whole := parts.pick(func(n int32) bool { return n == main })
	pair, ok := c.splitThin(whole, threads)
	if !ok {
		right, left := halves(whole, int(middle+0.5))
		if n := float64(min(right.count(), left.count())); n >= minAcross*float64(parts.voxels[main]) {
			pair = lungPair{right, left}
		} else if list[main].x <= middle {
			pair = lungPair{whole, newBitGrid(c.Size)}
		} else {
			pair = lungPair{newBitGrid(c.Size), whole}
		}
	}
	pair[0].or(parts.pick(func(n int32) bool { return n != main && list[n].x <= middle }))
	pair[1].or(parts.pick(func(n int32) bool { return n != main && list[n].x > middle }))
	return pair
}

// halves cuts a mask at a plane of constant x.
func halves(b *bitGrid, x int) (low, high *bitGrid) {
	low, high = newBitGrid(b.size()), b.clone()
	cut := make([]uint64, b.words)
	fillRow(cut, 0, min(max(x, 0), b.nx))
	for k := range b.nz {
		for j := range b.ny {
			l, h := low.row(j, k), high.row(j, k)
			for n := range l {
				l[n] = h[n] & cut[n]
				h[n] &^= cut[n]
			}
		}
	}
	return low, high
}

// splitThin erodes a region until it falls apart into two that may be lungs,
// and lets both grow back inside the region until they meet.
func (c *coarse) splitThin(whole *bitGrid, threads int) (lungPair, bool) {
	step := c.neighbourMM()
	left := whole
	for depth := step; depth <= maxErosionMM; depth += step {
		left = left.erode(step, c.Spacing, threads)
		parts := left.label(false)
		a, b, ok := c.twoLargest(byMiddle(parts))
		if !ok {
			continue
		}
		pair := lungPair{
			parts.pick(func(n int32) bool { return n == a.label }),
			parts.pick(func(n int32) bool { return n == b.label }),
		}
		for grown := true; grown; {
			grown = false
			for n := range pair {
				next := pair[n].dilate(step, c.Spacing, threads)
				next.and(whole)
				next.andNot(pair[1-n])
				grown = grown || next.count() > pair[n].count()
				pair[n] = next
			}
		}
		return pair, true
	}
	return lungPair{}, false
}

// neighbourMM is the radius that reaches the next voxel along every axis.
func (g Geometry) neighbourMM() float64 {
	return 1.001 * max(g.Spacing[0], g.Spacing[1], g.Spacing[2])
}
