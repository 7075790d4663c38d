package ct

import "math"

// What a slice of the trachea looks like, and how far the airways are followed.
const (
	lumenHU        = -750  // lumen of trachea and main bronchi, the border left out
	minTracheaMM2  = 50.0  // area of the lumen in a slice
	maxTracheaMM2  = 900.0 //
	maxTracheaLong = 2.5   // longer to wider side of its box
	tracheaRangeMM = 45.0  // from the middle of the body, along x
	minTracheaMM   = 25.0  // length of a trachea along z
	shiftMM        = 5.0   // from slice to slice
	maxBronchusMM2 = 900.0 // a region of a slice larger than this is lung
	maxBelowMM     = 90.0  // how far below the last round slice bronchi are followed
)

// airway returns the lumen of trachea and main bronchi: it follows the trachea
// from its highest slice down, slice by slice, as long as the regions it meets
// are too small for a lung. Growing a region in three dimensions would leak
// into the lung through the first thin wall. The result is empty when no
// trachea is in the scan.
func (c *coarse) airway(airy, body *bitGrid, threads int) *bitGrid {
	lumen := c.below(lumenHU, threads)
	lumen.and(airy)
	spots := lumen.label(true)
	boxes := make([]spotBox, len(spots.voxels))
	spots.each(func(n int32, j, k, lo, hi int) { boxes[n].add(j, k, lo, hi) })
	middle := c.middle(body)

	round := make([]bool, len(boxes))
	for n := range boxes {
		round[n] = c.tracheaLike(boxes[n], spots.voxels[n], middle)
	}
	out := newBitGrid(c.Size)
	start, end := c.longestChain(spots, boxes, round)
	if start < 0 {
		return out
	}
	c.followDown(out, spots, start, boxes[end].k)
	return out
}

// spotBox is the bounding box of a region of one slice.
type spotBox struct {
	k              int
	x0, x1, y0, y1 int // [x0,x1) and [y0,y1)
}

func (s *spotBox) add(j, k, lo, hi int) {
	if s.x1 == 0 {
		*s = spotBox{k, lo, hi, j, j + 1}
		return
	}
	s.x0, s.x1, s.y1 = min(s.x0, lo), max(s.x1, hi), j+1
}

// middle returns the middle of the body along x, in voxels.
func (c *coarse) middle(body *bitGrid) float64 {
	sum, slices := 0, 0
	columns := make([]uint64, body.words)
	for k := range body.nz {
		clear(columns)
		for j := range body.ny {
			for n, w := range body.row(j, k) {
				columns[n] |= w
			}
		}
		if first, end := rowSpan(columns); end > 0 {
			sum += first + end
			slices++
		}
	}
	if slices == 0 {
		return float64(c.Size[0]) / 2
	}
	return float64(sum) / float64(2*slices)
}

// tracheaLike tells whether a region of a slice may be a cut through a trachea.
func (c *coarse) tracheaLike(s spotBox, voxels int, middle float64) bool {
	area := float64(voxels) * c.Spacing[0] * c.Spacing[1]
	w, h := float64(s.x1-s.x0)*c.Spacing[0], float64(s.y1-s.y0)*c.Spacing[1]
	return area >= minTracheaMM2 && area <= maxTracheaMM2 &&
		max(w, h) <= maxTracheaLong*min(w, h) && area >= 0.5*w*h &&
		math.Abs((float64(s.x0+s.x1)/2-middle)*c.Spacing[0]) <= tracheaRangeMM
}

// longestChain returns the highest and the lowest region of the longest
// sequence of round regions that lie above each other; -1 when there is none.
func (c *coarse) longestChain(spots *components, boxes []spotBox, round []bool) (start, end int32) {
	top := make([]int32, len(boxes)) // the region that the chain of region n began with
	best := 0.0
	start, end = -1, -1
	// Labels count from the lowest slice up, so run backwards: from the head down.
	above := map[int][]int32{}
	for n := int32(len(boxes)) - 1; n >= 0; n-- {
		if !round[n] {
			continue
		}
		b := boxes[n]
		top[n] = n
		for _, m := range above[b.k+1] {
			a := boxes[m]
			dx := float64(a.x0+a.x1-b.x0-b.x1) / 2 * c.Spacing[0]
			dy := float64(a.y0+a.y1-b.y0-b.y1) / 2 * c.Spacing[1]
			if math.Hypot(dx, dy) <= shiftMM+c.Spacing[2] && (top[n] == n || boxes[top[m]].k > boxes[top[n]].k) {
				top[n] = top[m]
			}
		}
		above[b.k] = append(above[b.k], n)
		if length := float64(boxes[top[n]].k-b.k+1) * c.Spacing[2]; length >= minTracheaMM && length > best {
			best, start, end = length, top[n], n
		}
	}
	return start, end
}

// followDown adds to out the region start and, slice by slice below it, every
// region that overlaps what was added to the slice above, grown by shiftMM.
// lastRound is the lowest slice in which the trachea alone was seen.
func (c *coarse) followDown(out *bitGrid, spots *components, start int32, lastRound int) {
	slice := [3]int{c.Size[0], c.Size[1], 1}
	maxArea := c.mm2(maxBronchusMM2)
	from := newBitGrid(slice)
	seedSlice := -1
	spots.each(func(n int32, j, k, lo, hi int) {
		if n == start {
			fillRow(from.row(j, 0), lo, hi)
			seedSlice = k
		}
	})
	flat := [3]float64{c.Spacing[0], c.Spacing[1], 1e6}
	last := lastRound - int(maxBelowMM/c.Spacing[2])
	for k := seedSlice; k >= max(0, last) && from.count() > 0; k-- {
		reach := from
		if k != seedSlice {
			reach = from.dilate(shiftMM, flat, 1)
		}
		hit := map[int32]bool{}
		for j := range c.Size[1] {
			row := reach.row(j, 0)
			r := k*c.Size[1] + j
			for _, u := range spots.runs[spots.rowStart[r]:spots.rowStart[r+1]] {
				if spots.voxels[u.label] <= maxArea && !hit[u.label] {
					hit[u.label] = anyBit(row, int(u.lo), int(u.hi))
				}
			}
		}
		next := newBitGrid(slice)
		for j := range c.Size[1] {
			r := k*c.Size[1] + j
			for _, u := range spots.runs[spots.rowStart[r]:spots.rowStart[r+1]] {
				if hit[u.label] {
					fillRow(next.row(j, 0), int(u.lo), int(u.hi))
				}
			}
			copy(out.row(j, k), next.row(j, 0))
		}
		from = next
	}
}

// anyBit tells whether a bit of [lo,hi) is set.
func anyBit(row []uint64, lo, hi int) bool {
	for i := lo; i < hi; i++ {
		if row[i>>6]>>(i&63)&1 != 0 {
			return true
		}
	}
	return false
}
