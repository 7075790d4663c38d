package ct

// point is a corner of a hull, in voxels.
type point struct{ x, y int }

// hullPlane returns slice k of the grid with its convex hull filled: every
// voxel whose centre is inside or on the hull of the voxel centres. The second
// value is the number of voxels in it.
func (b *bitGrid) hullPlane(k int, dst []uint64) int {
	clear(dst)
	var left, right []point // chains from the first to the last row, convex outwards
	for j := range b.ny {
		first, end := rowSpan(b.row(j, k))
		if end > first {
			left = extendChain(left, point{first, j}, 1)
			right = extendChain(right, point{end - 1, j}, -1)
		}
	}
	if len(left) == 0 {
		return 0
	}
	n, l, r := 0, 0, 0
	for j := left[0].y; j <= left[len(left)-1].y; j++ {
		for l+2 < len(left) && left[l+1].y <= j {
			l++
		}
		for r+2 < len(right) && right[r+1].y <= j {
			r++
		}
		lo, hi := crossing(left, l, j, true), crossing(right, r, j, false)
		fillRow(dst[j*b.words:(j+1)*b.words], lo, hi+1)
		n += hi + 1 - lo
	}
	return n
}

// extendChain appends p to a chain of corners, removing those that it leaves
// inside the hull. side is 1 for the chain at low x, -1 for that at high x.
func extendChain(chain []point, p point, side int) []point {
	for len(chain) >= 2 {
		a, b := chain[len(chain)-2], chain[len(chain)-1]
		if side*((b.x-a.x)*(p.y-a.y)-(p.x-a.x)*(b.y-a.y)) < 0 {
			break // b lies farther out than the line from a to p
		}
		chain = chain[:len(chain)-1]
	}
	return append(chain, p)
}

// crossing returns where the chain's segment n crosses row j, rounded inwards.
func crossing(chain []point, n, j int, roundUp bool) int {
	if n+1 >= len(chain) {
		return chain[n].x
	}
	a, b := chain[n], chain[n+1]
	num, den := (b.x-a.x)*(j-a.y), b.y-a.y // den > 0: one corner a row
	q := num / den
	if rest := num % den; rest != 0 {
		if rest < 0 {
			q-- // floor
		}
		if roundUp {
			q++
		}
	}
	return a.x + q
}

// growHulls adds to every slice of b its convex hull, unless the hull has more
// than limit times the slice's area.
func (b *bitGrid) growHulls(limit float64, threads int) {
	parallel(b.nz, threads, func(lo, hi int) {
		hull := make([]uint64, b.ny*b.words)
		for k := lo; k < hi; k++ {
			plane := b.plane(k)
			if n := b.hullPlane(k, hull); n > 0 && float64(n) <= limit*float64(popCount(plane)) {
				copy(plane, hull)
			}
		}
	})
}
