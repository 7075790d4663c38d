package main

import (
	"fmt"
	"strings"

	"hilum/models"
	"hilum/models/ct"
)

// tile is a part of a prepared scan that the network searches in one go. All in
// voxels, z, y, x.
type tile struct {
	start [3]int // first voxel of the core, the part that counts
	core  [3]int // size of it
	patch [3]int // what the network sees: the core and context at all sides
}

// voxels returns the number of voxels of the patch.
func (t tile) voxels() int { return t.patch[0] * t.patch[1] * t.patch[2] }

// tiling is how a prepared scan is cut into overlapping patches for the network.
type tiling struct {
	margin int // voxels before a core that are context only, and at least as many behind it
	tiles  []tile
	skip   int // cells without lung, where a patch has one shape
}

// Cells are the grid on which tiles begin and end, and cuts between tiles lie
// on a coarser one, of which a block has at most maxCuts³ cells.
const (
	leastCell = 16 // voxels
	maxCuts   = 12
)

// plan covers what lies within reach of the lungs. A network of one shape gets
// its patches side by side. The others get the boxes with the fewest voxels in
// all, context included (see cover), none larger than in.Patch by volume. Both
// depend on the scan and the model alone.
func plan(p *ct.Prepared, in models.Input, reach int) tiling {
	t := tiling{margin: in.Margin}
	if in.Step == 0 {
		var core [3]int
		for a := range core {
			core[a] = in.Patch[a] - 2*in.Margin
		}
		g := lungCells(p.Mask, core, reach)
		for i, lung := range g.lung {
			if !lung {
				t.skip++
				continue
			}
			z, y, x := i/(g.n[1]*g.n[2]), i/g.n[2]%g.n[1], i%g.n[2]
			t.tiles = append(t.tiles, tile{start: [3]int{z * core[0], y * core[1], x * core[2]}, core: core, patch: in.Patch})
		}
		return t
	}
	// The widest core that is sure to fit, and the cells that divide it. A cell
	// is in whole steps, so that all patches have the same phase on the network's
	// coarsest grid.
	widest := min(in.Patch[0], in.Patch[1], in.Patch[2]) - 2*in.Margin
	cell := min(widest, ceilDiv(leastCell, in.Step)*in.Step)
	if cell > in.Step {
		cell -= cell % in.Step
	}
	g := lungCells(p.Mask, [3]int{cell, cell, cell}, reach)
	perCut := min(widest/cell, ceilDiv(max(g.n[0], g.n[1], g.n[2]), maxCuts))
	patchOf := func(cells int) int { return ceilDiv(cells*cell+2*in.Margin, in.Step) * in.Step }
	cost := func(size [3]int) int {
		v := patchOf(size[0]) * patchOf(size[1]) * patchOf(size[2])
		if v > in.Patch[0]*in.Patch[1]*in.Patch[2] {
			return tooLarge
		}
		return v
	}
	for _, b := range cover(g, perCut, cost) {
		var made tile
		for a := range b.lo {
			made.start[a] = b.lo[a] * cell
			made.core[a] = (b.hi[a] - b.lo[a]) * cell
			made.patch[a] = patchOf(b.hi[a] - b.lo[a])
		}
		t.tiles = append(t.tiles, made)
	}
	return t
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// largest returns the tile with the most voxels, or none.
func (t tiling) largest() (most tile) {
	for _, k := range t.tiles {
		if k.voxels() > most.voxels() {
			most = k
		}
	}
	return most
}

// shapes names the patches in order, "1*96x128x128 2*64x96x96" (z, y, x), as
// far as a result has room for them.
func (t tiling) shapes() string {
	const room = 1000 // bytes; api.DefaultLimits allows 1024
	var b strings.Builder
	for i := 0; i < len(t.tiles) && b.Len() < room-40; {
		n := 1
		for i+n < len(t.tiles) && t.tiles[i+n].patch == t.tiles[i].patch {
			n++
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		p := t.tiles[i].patch
		fmt.Fprintf(&b, "%d*%dx%dx%d", n, p[0], p[1], p[2])
		i += n
	}
	return b.String()
}

// origin returns the scan's voxel at the patch's voxel 0.
func (t tile) origin(margin int) [3]int {
	return [3]int{t.start[0] - margin, t.start[1] - margin, t.start[2] - margin}
}

// contains tells whether a place in the patch lies in its core, give or take
// slack: a candidate on a border may be placed on either side of it by both
// neighbours, and must not be lost to both.
func (t tile) contains(margin int, place [3]float64, slack float64) bool {
	for a, v := range place {
		lo := float64(margin) - 0.5
		if v < lo-slack || v >= lo+float64(t.core[a])+slack {
			return false
		}
	}
	return true
}

// scaling is the table from a prepared byte to the network's input.
type scaling [256]float32

func newScaling(s models.Scale) *scaling {
	var t scaling
	for v := range t {
		t[v] = float32((float64(v) - s.Subtract) / s.Divide)
	}
	return &t
}

// fill writes the patch whose first voxel is o; what lies outside the scan is
// pad.
func fill(dst []float32, p *ct.Prepared, o, patch [3]int, table *scaling, pad uint8) {
	outside := table[pad]
	x0, x1 := max(0, o[2]), min(p.Size[0], o[2]+patch[2])
	i := 0
	for z := o[0]; z < o[0]+patch[0]; z++ {
		for y := o[1]; y < o[1]+patch[1]; y++ {
			row := dst[i : i+patch[2]]
			i += patch[2]
			if z < 0 || z >= p.Size[2] || y < 0 || y >= p.Size[1] || x0 >= x1 {
				fillFloats(row, outside)
				continue
			}
			fillFloats(row[:x0-o[2]], outside)
			src := p.Data[p.Index(x0, y, z):]
			for n := range row[x0-o[2] : x1-o[2]] {
				row[x0-o[2]+n] = table[src[n]]
			}
			fillFloats(row[x1-o[2]:], outside)
		}
	}
}

func fillFloats(dst []float32, v float32) {
	for i := range dst {
		dst[i] = v
	}
}
