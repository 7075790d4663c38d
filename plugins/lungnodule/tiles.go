package main

import (
	"fmt"
	"slices"
	"strings"

	"hilum/models"
	"hilum/models/ct"
)

// tile is a part of a prepared scan that the network searches in one go. All in
// voxels, z, y, x.
type tile struct {
	start  [3]int // first voxel of the core, the part that counts
	core   [3]int // size of it
	origin [3]int // first voxel of the patch, what the network sees: the core and context
	patch  [3]int // size of it
}

// voxels returns the number of voxels of the patch.
func (t tile) voxels() int { return t.patch[0] * t.patch[1] * t.patch[2] }

// tiling is how a prepared scan is cut into overlapping patches for the network.
type tiling struct {
	tiles []tile
	skip  int // cells that nobody wants, where a patch has one shape
}

// Cells are the grid on which tiles begin and end, and cuts between tiles lie
// on a coarser one, of which a block has at most maxCuts³ cells.
const (
	leastCell = 16 // voxels
	maxCuts   = 12
)

// plan covers the cells of a scan that wanted names on a grid of the size that it is
// given. A network of one shape gets its patches side by side. The others get the
// boxes with the fewest voxels in all, context included (see cover), none larger
// than in.Patch by volume. The scan's size is in voxels, z, y, x.
func plan(in models.Input, scan [3]int, wanted func(cell [3]int) cells) tiling {
	var t tiling
	if in.Step == 0 {
		var core [3]int
		for a := range core {
			core[a] = in.Patch[a] - 2*in.Margin
		}
		g := wanted(core)
		for i, yes := range g.wanted {
			if !yes {
				t.skip++
				continue
			}
			k := tile{core: core, patch: in.Patch}
			for a, at := range [3]int{i / (g.n[1] * g.n[2]), i / g.n[2] % g.n[1], i % g.n[2]} {
				k.start[a] = at * core[a]
				k.origin[a] = k.start[a] - in.Margin
			}
			t.tiles = append(t.tiles, k)
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
	g := wanted([3]int{cell, cell, cell})
	perCut := min(widest/cell, ceilDiv(max(g.n[0], g.n[1], g.n[2]), maxCuts))
	tileOf := func(b box) (t tile) {
		for a := range b.lo {
			t.start[a] = b.lo[a] * cell
			t.core[a] = (b.hi[a] - b.lo[a]) * cell
			t.origin[a], t.patch[a] = around(t.start[a], t.core[a], scan[a], in)
		}
		return t
	}
	cost := func(b box) int {
		v := tileOf(b).voxels()
		if v > in.Patch[0]*in.Patch[1]*in.Patch[2] {
			return tooLarge
		}
		return v
	}
	for _, b := range cover(g, perCut, cost) {
		t.tiles = append(t.tiles, tileOf(b))
	}
	return t
}

// around returns where the patch of a core begins along one axis, and its size: the
// margin before it, at least as much behind it, and no whole steps that lie outside
// the scan, where there is nothing to see. A network may need room for its filters,
// so that no patch is smaller than the margins and a step.
func around(start, core, scan int, in models.Input) (origin, size int) {
	before := in.Margin
	for before >= in.Step && start-before <= -in.Step {
		before -= in.Step
	}
	origin = start - before
	size = ceilDiv(before+core+in.Margin, in.Step) * in.Step
	for size-in.Step >= max(before+core, 2*in.Margin+in.Step) && origin+size-in.Step >= scan {
		size -= in.Step
	}
	return origin, size
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

// shapes counts the patches of each shape, "1*96x128x128 2*64x96x96" (z, y, x), as
// far as a result has room for them.
func (t tiling) shapes() string {
	const room = 1000 // bytes; api.DefaultLimits allows 1024
	var shapes [][3]int
	count := map[[3]int]int{}
	for _, k := range t.tiles {
		if count[k.patch] == 0 {
			shapes = append(shapes, k.patch)
		}
		count[k.patch]++
	}
	var b strings.Builder
	for i, s := range shapes {
		if b.Len() > room-40 {
			break
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		fmt.Fprintf(&b, "%d*%dx%dx%d", count[s], s[0], s[1], s[2])
	}
	return b.String()
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

// flip turns the axes of a patch, z, y, x, around.
func flip(data []float32, size [3]int, axes [3]bool) {
	plane, row := size[1]*size[2], size[2]
	if axes[0] {
		for a, b := 0, size[0]-1; a < b; a, b = a+1, b-1 {
			swap(data[a*plane:(a+1)*plane], data[b*plane:])
		}
	}
	if axes[1] {
		for z := 0; z < len(data); z += plane {
			for a, b := 0, size[1]-1; a < b; a, b = a+1, b-1 {
				swap(data[z+a*row:z+(a+1)*row], data[z+b*row:])
			}
		}
	}
	if axes[2] {
		for i := 0; i < len(data); i += row {
			slices.Reverse(data[i : i+row])
		}
	}
}

func swap(a, b []float32) {
	for i := range a {
		a[i], b[i] = b[i], a[i]
	}
}

func fillFloats(dst []float32, v float32) {
	for i := range dst {
		dst[i] = v
	}
}
