package ct

import "math/bits"

// run is a stretch of voxels [lo,hi) of one row that belong together.
type run struct {
	lo, hi int32
	label  int32
}

// components are the connected parts of a bitGrid: voxels that share a face.
// Labels count from 0.
type components struct {
	grid     *bitGrid
	runs     []run   // ordered by row
	rowStart []int32 // rowStart[r] is the first run of row r = k*ny+j
	voxels   []int   // of each component
}

// label finds the components of b. When planar is true every slice is labelled
// for itself, as if the slices did not touch.
func (b *bitGrid) label(planar bool) *components {
	c := &components{grid: b, rowStart: make([]int32, b.ny*b.nz+1)}
	var parent []int32
	for k := range b.nz {
		for j := range b.ny {
			r := k*b.ny + j
			start := len(c.runs)
			c.runs = appendRuns(c.runs, b.row(j, k))
			for n := start; n < len(c.runs); n++ {
				c.runs[n].label = int32(n)
				parent = append(parent, int32(n))
			}
			c.rowStart[r+1] = int32(len(c.runs))
			if j > 0 {
				join(c.runs, parent, start, len(c.runs), int(c.rowStart[r-1]), start)
			}
			if k > 0 && !planar {
				join(c.runs, parent, start, len(c.runs), int(c.rowStart[r-b.ny]), int(c.rowStart[r-b.ny+1]))
			}
		}
	}
	number := make([]int32, len(c.runs))
	for n := range c.runs {
		root := find(parent, int32(n))
		if root == int32(n) { // roots come before all others of their component
			number[n] = int32(len(c.voxels))
			c.voxels = append(c.voxels, 0)
		}
		c.runs[n].label = number[root]
		c.voxels[number[root]] += int(c.runs[n].hi - c.runs[n].lo)
	}
	return c
}

// appendRuns appends the runs of ones in a row.
func appendRuns(runs []run, row []uint64) []run {
	open := int32(-1)
	for n, w := range row {
		at := int32(n * 64)
		for pos := 0; pos < 64; {
			if open < 0 {
				rest := w >> pos
				if rest == 0 {
					break
				}
				pos += bits.TrailingZeros64(rest)
				open = at + int32(pos)
			}
			rest := ^w >> pos
			if rest == 0 {
				break
			}
			pos += bits.TrailingZeros64(rest)
			if pos < 64 {
				runs = append(runs, run{lo: open, hi: at + int32(pos)})
				open = -1
			}
		}
	}
	if open >= 0 {
		runs = append(runs, run{lo: open, hi: int32(len(row) * 64)})
	}
	return runs
}

// join unites the runs [a,aEnd) with those of [b,bEnd) that they overlap.
func join(runs []run, parent []int32, a, aEnd, b, bEnd int) {
	for a < aEnd && b < bEnd {
		if runs[a].lo < runs[b].hi && runs[b].lo < runs[a].hi {
			x, y := find(parent, int32(a)), find(parent, int32(b))
			parent[max(x, y)] = min(x, y)
		}
		if runs[a].hi < runs[b].hi {
			a++
		} else {
			b++
		}
	}
}

// find returns the root of n and shortens the way to it.
func find(parent []int32, n int32) int32 {
	for parent[n] != n {
		parent[n] = parent[parent[n]]
		n = parent[n]
	}
	return n
}

// each calls visit for every run, row by row.
func (c *components) each(visit func(label int32, j, k, lo, hi int)) {
	for r := range len(c.rowStart) - 1 {
		j, k := r%c.grid.ny, r/c.grid.ny
		for _, u := range c.runs[c.rowStart[r]:c.rowStart[r+1]] {
			visit(u.label, j, k, int(u.lo), int(u.hi))
		}
	}
}

// pick returns the voxels of the components for which keep is true.
func (c *components) pick(keep func(label int32) bool) *bitGrid {
	out := newBitGrid(c.grid.size())
	c.each(func(label int32, j, k, lo, hi int) {
		if keep(label) {
			fillRow(out.row(j, k), lo, hi)
		}
	})
	return out
}

// largest returns the label of the component with most voxels, -1 if there is
// none.
func (c *components) largest() int32 {
	best := int32(-1)
	for n, v := range c.voxels {
		if best < 0 || v > c.voxels[best] {
			best = int32(n)
		}
	}
	return best
}

// atBorder tells for each component whether it reaches the border of the grid:
// the first or last row or column, and the first or last slice unless planar.
func (c *components) atBorder(planar bool) []bool {
	out := make([]bool, len(c.voxels))
	g := c.grid
	c.each(func(label int32, j, k, lo, hi int) {
		if lo == 0 || hi == g.nx || j == 0 || j == g.ny-1 || (!planar && (k == 0 || k == g.nz-1)) {
			out[label] = true
		}
	})
	return out
}

// fillHoles adds to b the parts of its complement that do not reach the border
// of the grid.
func (b *bitGrid) fillHoles() {
	holes := b.complement().label(false)
	border := holes.atBorder(false)
	b.or(holes.pick(func(n int32) bool { return !border[n] }))
}

// fillPlanarHoles does the same in every slice for itself, for holes of at most
// maxVoxels voxels.
func (b *bitGrid) fillPlanarHoles(maxVoxels, threads int) {
	parallel(b.nz, threads, func(lo, hi int) {
		for k := lo; k < hi; k++ {
			slice := &bitGrid{b.nx, b.ny, 1, b.words, b.plane(k)}
			if popCount(slice.bits) == 0 {
				continue
			}
			holes := slice.complement().label(true)
			border := holes.atBorder(true)
			holes.each(func(n int32, j, _, lo, hi int) {
				if !border[n] && holes.voxels[n] <= maxVoxels {
					fillRow(slice.row(j, 0), lo, hi)
				}
			})
		}
	})
}
