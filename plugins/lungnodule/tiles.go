package main

import (
	"hilum/models"
	"hilum/models/ct"
)

// tiling cuts a prepared scan into overlapping patches for the network. Only
// the core of a patch counts; the margin around it is context. All in voxels,
// z, y, x.
type tiling struct {
	patch  [3]int // what the network sees
	core   [3]int // the part that counts
	margin int
	starts [][3]int // first voxel of each core, those with lung in them
	skip   int      // cores without lung
}

// plan covers the prepared scan with as few and as equal tiles as the model
// allows, and leaves out those whose core is farther from the lungs than reach.
func plan(p *ct.Prepared, in models.Input, reach int) tiling {
	t := tiling{margin: in.Margin}
	size := [3]int{p.Size[2], p.Size[1], p.Size[0]}
	var count [3]int
	for a, n := range size {
		t.patch[a] = in.Patch[a]
		largest := in.Patch[a] - 2*in.Margin
		count[a] = ceilDiv(n, largest)
		if in.Step > 0 {
			t.patch[a] = ceilDiv(ceilDiv(n, count[a])+2*in.Margin, in.Step) * in.Step
		}
		t.core[a] = t.patch[a] - 2*in.Margin
		count[a] = ceilDiv(n, t.core[a])
	}
	for z := range count[0] {
		for y := range count[1] {
			for x := range count[2] {
				start := [3]int{z * t.core[0], y * t.core[1], x * t.core[2]}
				if anyLung(p.Mask, start, t.core, reach) {
					t.starts = append(t.starts, start)
				} else {
					t.skip++
				}
			}
		}
	}
	return t
}

func ceilDiv(a, b int) int { return (a + b - 1) / b }

// anyLung tells whether the box has a voxel of the mask in it or within reach.
func anyLung(m *ct.Mask, start, size [3]int, reach int) bool {
	var lo, hi [3]int // z, y, x
	for a := range lo {
		lo[a] = max(0, start[a]-reach)
		hi[a] = min(m.Size[2-a], start[a]+size[a]+reach)
	}
	for z := lo[0]; z < hi[0]; z++ {
		for y := lo[1]; y < hi[1]; y++ {
			row := m.Bits[m.Index(lo[2], y, z) : m.Index(hi[2]-1, y, z)+1]
			for _, b := range row {
				if b != 0 {
					return true
				}
			}
		}
	}
	return false
}

// voxels returns the number of voxels of a patch.
func (t tiling) voxels() int { return t.patch[0] * t.patch[1] * t.patch[2] }

// origin returns the scan's voxel at the patch's voxel 0 for the core at start.
func (t tiling) origin(start [3]int) [3]int {
	return [3]int{start[0] - t.margin, start[1] - t.margin, start[2] - t.margin}
}

// contains tells whether a place in the patch lies in its core, give or take
// slack: a candidate on a border may be placed on either side of it by both
// neighbours, and must not be lost to both.
func (t tiling) contains(place [3]float64, slack float64) bool {
	for a, v := range place {
		lo := float64(t.margin) - 0.5
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

// fill writes one patch; what lies outside the scan is pad.
func (t tiling) fill(dst []float32, p *ct.Prepared, start [3]int, table *scaling, pad uint8) {
	o := t.origin(start)
	outside := table[pad]
	x0, x1 := max(0, o[2]), min(p.Size[0], o[2]+t.patch[2])
	i := 0
	for z := o[0]; z < o[0]+t.patch[0]; z++ {
		for y := o[1]; y < o[1]+t.patch[1]; y++ {
			row := dst[i : i+t.patch[2]]
			i += t.patch[2]
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
