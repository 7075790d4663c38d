package main

import (
	"math"

	"hilum/models/ct"
)

// cells is a grid over a prepared scan that says which of its cells to search.
// Axes z, y, x; x fastest.
type cells struct {
	n      [3]int
	wanted []bool
}

// lungCells wants the cells of a size with lung in them or within reach. Reach is that
// of a cube: a little more than that of findings, which is a ball's.
func lungCells(m *ct.Mask, cell [3]int, reach int) cells {
	var g cells
	for a := range g.n {
		g.n[a] = ceilDiv(m.Size[2-a], cell[a])
	}
	g.wanted = make([]bool, g.n[0]*g.n[1]*g.n[2])
	// first and last cell of an axis that a voxel reaches
	near := func(a, v int) (int, int) {
		return max(0, v-reach) / cell[a], min(g.n[a]-1, (v+reach)/cell[a])
	}
	row, plane := make([]bool, g.n[2]), make([]bool, g.n[1]*g.n[2])
	for z := range m.Size[2] {
		clear(plane)
		any := false
		for y := range m.Size[1] {
			clear(row)
			next := 0 // cells before it are decided
			for x, b := range m.Bits[m.Index(0, y, z):][:m.Size[0]] {
				if b == 0 {
					continue
				}
				lo, hi := near(2, x)
				for next = max(next, lo); next <= hi; next++ {
					row[next] = true
				}
			}
			if next == 0 {
				continue
			}
			any = true
			for lo, hi := near(1, y); lo <= hi; lo++ {
				or(plane[lo*g.n[2]:], row)
			}
		}
		if !any {
			continue
		}
		for lo, hi := near(0, z); lo <= hi; lo++ {
			or(g.wanted[lo*len(plane):], plane)
		}
	}
	return g
}

func or(dst, src []bool) {
	for i, v := range src {
		if v {
			dst[i] = true
		}
	}
}

// box is a range of cells, z, y, x, without hi.
type box struct{ lo, hi [3]int }

func (b box) empty() bool { return b.hi[0] <= b.lo[0] }

// union returns the smallest box around both.
func (b box) union(o box) box {
	switch {
	case b.empty():
		return o
	case o.empty():
		return b
	}
	for a := range b.lo {
		b.lo[a], b.hi[a] = min(b.lo[a], o.lo[a]), max(b.hi[a], o.hi[a])
	}
	return b
}

// tooLarge is the cost of a box that may not be.
const tooLarge = math.MaxInt / 2

// cover returns boxes that hold all wanted cells and do not overlap, with
// the least cost in all that cuts from side to side can reach: a box is left
// whole or cut in two, and every part shrinks to what is in it. Cuts lie
// between every perCut cells; a cube of perCut cells must not be too large.
// Grids of more than maxCuts parts along an axis are covered block by block.
func cover(g cells, perCut int, cost func(box) int) []box {
	var out []box
	block := perCut * maxCuts
	for z := 0; z < g.n[0]; z += block {
		for y := 0; y < g.n[1]; y += block {
			for x := 0; x < g.n[2]; x += block {
				b := box{lo: [3]int{z, y, x}}
				for a := range b.hi {
					b.hi[a] = min(b.lo[a]+block, g.n[a])
				}
				out = newCuts(g, b, perCut, cost).boxes(out)
			}
		}
	}
	return out
}

// cuts is the table of a dynamic programme: of every box of parts of a block,
// what it holds, what covering it costs, and where it is cut for that.
type cuts struct {
	n     [3]int // parts along each axis
	parts []part
}

type part struct {
	holds box // wanted cells
	cost  int
	axis  int8 // of the cut; -1: none
	at    int8
}

// at returns the entry of a box of parts.
func (c *cuts) at(b box) *part {
	i := 0
	for a := range b.lo {
		// Pairs lo < hi in a triangle.
		i = i*(c.n[a]*(c.n[a]+1)/2) + b.hi[a]*(b.hi[a]-1)/2 + b.lo[a]
	}
	return &c.parts[i]
}

func newCuts(g cells, block box, perCut int, cost func(box) int) *cuts {
	c := &cuts{}
	all := 1
	for a := range c.n {
		c.n[a] = ceilDiv(block.hi[a]-block.lo[a], perCut)
		all *= c.n[a] * (c.n[a] + 1) / 2
	}
	c.parts = make([]part, all)
	// By length, so that the parts of a box come before it.
	var size, at [3]int
	for size[0] = 1; size[0] <= c.n[0]; size[0]++ {
		for size[1] = 1; size[1] <= c.n[1]; size[1]++ {
			for size[2] = 1; size[2] <= c.n[2]; size[2]++ {
				for at[0] = 0; at[0]+size[0] <= c.n[0]; at[0]++ {
					for at[1] = 0; at[1]+size[1] <= c.n[1]; at[1]++ {
						for at[2] = 0; at[2]+size[2] <= c.n[2]; at[2]++ {
							c.solve(g, block, perCut, cost, box{at, [3]int{at[0] + size[0], at[1] + size[1], at[2] + size[2]}})
						}
					}
				}
			}
		}
	}
	return c
}

// solve fills in one box, whose parts are filled in.
func (c *cuts) solve(g cells, block box, perCut int, cost func(box) int, b box) {
	best := part{axis: -1, cost: math.MaxInt}
	whole := true // a single part
	for a := range b.lo {
		for at := b.lo[a] + 1; at < b.hi[a]; at++ {
			left, right := c.at(b.until(a, at)), c.at(b.from(a, at))
			if whole {
				best.holds, whole = left.holds.union(right.holds), false
			}
			if sum := left.cost + right.cost; sum < best.cost {
				best.cost, best.axis, best.at = sum, int8(a), int8(at)
			}
		}
	}
	if whole {
		best.holds = g.holds(b, block, perCut)
	}
	if best.holds.empty() {
		best.cost, best.axis = 0, -1
	} else {
		h := best.holds
		if one := cost(h); one <= best.cost {
			best.cost, best.axis = one, -1
		}
	}
	*c.at(b) = best
}

func (b box) until(axis, at int) box { b.hi[axis] = at; return b }
func (b box) from(axis, at int) box  { b.lo[axis] = at; return b }

// holds returns the box around the wanted cells in a single part of a block.
func (g cells) holds(b, block box, perCut int) (found box) {
	var lo, hi [3]int
	for a := range lo {
		lo[a] = block.lo[a] + b.lo[a]*perCut
		hi[a] = min(lo[a]+perCut, block.hi[a])
	}
	for z := lo[0]; z < hi[0]; z++ {
		for y := lo[1]; y < hi[1]; y++ {
			for x := lo[2]; x < hi[2]; x++ {
				if g.wanted[(z*g.n[1]+y)*g.n[2]+x] {
					found = found.union(box{[3]int{z, y, x}, [3]int{z + 1, y + 1, x + 1}})
				}
			}
		}
	}
	return found
}

// boxes appends the boxes of the cheapest covering.
func (c *cuts) boxes(out []box) []box {
	var walk func(b box)
	walk = func(b box) {
		p := c.at(b)
		switch {
		case p.holds.empty():
		case p.axis < 0:
			out = append(out, p.holds)
		default:
			walk(b.until(int(p.axis), int(p.at)))
			walk(b.from(int(p.axis), int(p.at)))
		}
	}
	walk(box{hi: c.n})
	return out
}
