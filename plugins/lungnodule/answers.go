package main

import (
	"math"
	"slices"

	"hilum/models"
	"hilum/models/ct"
	"hilum/models/nodule"
)

// answers holds what the network says of every cell of a prepared scan, in the
// layout of one output of it (package nodule), so that it does not matter how
// the scan was cut. A cell that nobody asked about has the logit -Inf.
type answers struct {
	n      [3]int // cells, z, y, x
	stride int    // voxels between them
	per    int    // numbers of a cell
	data   []float32
}

var nobodyAsked = float32(math.Inf(-1))

func newAnswers(p *ct.Prepared, out models.Output) answers {
	a := answers{stride: out.Stride, per: len(out.Anchors) * nodule.Channels}
	for i := range a.n {
		a.n[i] = ceilDiv(p.Size[2-i], out.Stride)
	}
	a.data = make([]float32, a.n[0]*a.n[1]*a.n[2]*a.per)
	for i := 0; i < len(a.data); i += nodule.Channels {
		a.data[i] = nobodyAsked
	}
	return a
}

// size returns the voxels of the cells, z, y, x: those of the scan, in whole cells.
func (a answers) size() [3]int {
	return [3]int{a.n[0] * a.stride, a.n[1] * a.stride, a.n[2] * a.stride}
}

// each calls f with each cell of a tile's core and where the tile's output has it,
// both as places in their numbers. Cores begin and end between cells. The output is
// that of a patch some of whose axes, z, y, x, ran the other way.
func (a answers) each(k tile, flipped [3]bool, f func(cell, output int)) {
	var first, last [3]int
	for i, s := range k.start {
		first[i], last[i] = s/a.stride, min((s+k.core[i])/a.stride, a.n[i])
	}
	at := func(axis, cell int) int {
		i := cell - k.origin[axis]/a.stride
		if flipped[axis] {
			return k.patch[axis]/a.stride - 1 - i
		}
		return i
	}
	for z := first[0]; z < last[0]; z++ {
		for y := first[1]; y < last[1]; y++ {
			row := (at(0, z)*(k.patch[1]/a.stride) + at(1, y)) * (k.patch[2] / a.stride)
			for x := first[2]; x < last[2]; x++ {
				f(((z*a.n[1]+y)*a.n[2]+x)*a.per, (row+at(2, x))*a.per)
			}
		}
	}
}

// put takes over what the network says of a tile's core.
func (a answers) put(k tile, output []float32) {
	a.each(k, [3]bool{}, func(cell, at int) { copy(a.data[cell:cell+a.per], output[at:]) })
}

// above returns the grid of cells of so many voxels, each in whole cells of the
// network, in which a logit is at least that.
func (a answers) above(least float64, cell [3]int) cells {
	var g cells
	for i := range g.n {
		g.n[i] = ceilDiv(a.n[i]*a.stride, cell[i])
	}
	g.wanted = make([]bool, g.n[0]*g.n[1]*g.n[2])
	i := 0
	for z := range a.n[0] {
		for y := range a.n[1] {
			for x := range a.n[2] {
				at := ((z*a.stride/cell[0])*g.n[1]+y*a.stride/cell[1])*g.n[2] + x*a.stride/cell[2]
				for range a.per / nodule.Channels {
					if float64(a.data[i]) >= least {
						g.wanted[at] = true
					}
					i += nodule.Channels
				}
			}
		}
	}
	return g
}

// looks is the sum of several looks at the answers whose logit was at least that
// in the first one.
type looks struct {
	answers
	least float64
	sum   []float32
	count float32
}

func (a answers) lookAgain(least float64) *looks {
	return &looks{answers: a, least: least, sum: slices.Clone(a.data), count: 1}
}

// add takes in what the network says of a tile's core in a mirror, where offsets
// point the other way along a flipped axis.
func (l *looks) add(k tile, flipped [3]bool, output []float32) {
	var sign [nodule.Channels]float32
	for i := range sign {
		sign[i] = 1
	}
	for axis, yes := range flipped {
		if yes {
			sign[1+axis] = -1
		}
	}
	l.each(k, flipped, func(cell, at int) {
		for i := 0; i < l.per; i += nodule.Channels {
			if float64(l.data[cell+i]) >= l.least {
				for c, s := range sign {
					l.sum[cell+i+c] += s * output[at+i+c]
				}
			}
		}
	})
}

// mean makes the mean of all looks the answers.
func (l *looks) mean() {
	for i := 0; i < len(l.data); i += nodule.Channels {
		if float64(l.data[i]) >= l.least {
			for c := range nodule.Channels {
				l.data[i+c] = l.sum[i+c] / l.count
			}
		}
	}
}
