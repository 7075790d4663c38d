package phantom

import (
	"math"
	"runtime"
	"sync"
)

// cell is the spacing of fields, in mm: fine enough for the shapes of organs,
// coarse enough that a field is made in a fraction of a second.
const cell = 3.5

// field is a function of space on a coarse grid, read between its points by
// linear interpolation.
type field struct {
	n      [3]int // points along x, y, z
	origin vec
	v      []float32 // x fastest
}

// newField fills a field over the scanned space, and a margin of two cells,
// from f, which several goroutines call.
func newField(f func(p vec) float64) *field {
	const margin = 2 * cell
	half := fieldOfView/2 + margin
	plane, height := int(math.Ceil(2*half/cell))+1, int(math.Ceil((scanHeight+2*margin)/cell))+1
	g := &field{n: [3]int{plane, plane, height}, origin: vec{-half, -half, -margin}}
	g.v = make([]float32, plane*plane*height)
	var group sync.WaitGroup
	workers := runtime.GOMAXPROCS(0)
	for worker := range workers {
		group.Go(func() {
			for z := worker; z < height; z += workers {
				i := z * plane * plane
				for y := range plane {
					for x := range plane {
						g.v[i] = float32(f(g.origin.add(vec{float64(x), float64(y), float64(z)}.mul(cell))))
						i++
					}
				}
			}
		})
	}
	group.Wait()
	return g
}

// at reads the field at p.
func (g *field) at(p vec) float64 {
	var index [3]int
	var f [3]float64
	for a := range 3 {
		q := min(max((p[a]-g.origin[a])/cell, 0), float64(g.n[a])-1.001)
		index[a] = int(q)
		f[a] = q - float64(index[a])
	}
	sum := 0.0
	for corner := range 8 {
		w, i, stride := 1.0, 0, 1
		for a := range 3 {
			if corner>>a&1 == 1 {
				w *= f[a]
				i += (index[a] + 1) * stride
			} else {
				w *= 1 - f[a]
				i += index[a] * stride
			}
			stride *= g.n[a]
		}
		sum += w * float64(g.v[i])
	}
	return sum
}

// gradient returns the direction in which the field grows at p.
func (g *field) gradient(p vec) vec {
	var d vec
	for a := range 3 {
		q, r := p, p
		q[a] += cell
		r[a] -= cell
		d[a] = g.at(q) - g.at(r)
	}
	return d.unit()
}

// row reads the field along x at the height z and the depth y, for all columns
// of a grid. scratch holds g.n[0] values.
func (g *field) row(dst []float32, scratch []float32, y, z float64, to grid) {
	qz := min(max((z-g.origin[2])/cell, 0), float64(g.n[2])-1.001)
	qy := min(max((y-g.origin[1])/cell, 0), float64(g.n[1])-1.001)
	iz, iy := int(qz), int(qy)
	fz, fy := float32(qz-float64(iz)), float32(qy-float64(iy))
	nx, plane := g.n[0], g.n[0]*g.n[1]
	at := iz*plane + iy*nx
	a, b := g.v[at:at+nx], g.v[at+nx:at+2*nx]
	c, d := g.v[at+plane:at+plane+nx], g.v[at+plane+nx:at+plane+2*nx]
	for i := range scratch[:nx] {
		lower := a[i] + fy*(b[i]-a[i])
		upper := c[i] + fy*(d[i]-c[i])
		scratch[i] = lower + fz*(upper-lower)
	}
	q := (to.x(0) - g.origin[0]) / cell
	step := to.pixel / cell
	for i := range dst {
		j := int(q)
		f := float32(q - float64(j))
		dst[i] = scratch[j] + f*(scratch[j+1]-scratch[j])
		q += step
	}
}

// redistance turns a field that is zero on a surface and positive inside into
// the distance to that surface, in mm: next to the surface by the slope there,
// further away by sweeping the eikonal equation |grad u| = 1 through the grid.
func (g *field) redistance() {
	n := g.n
	stride := [3]int{1, n[0], n[0] * n[1]}
	out := make([]float32, len(g.v))
	fixed := make([]bool, len(g.v))
	const far = 1e4
	forAll := func(f func(i int, p [3]int)) {
		i := 0
		for z := range n[2] {
			for y := range n[1] {
				for x := range n[0] {
					f(i, [3]int{x, y, z})
					i++
				}
			}
		}
	}
	forAll(func(i int, p [3]int) {
		out[i] = far
		crosses, slope := false, 0.0
		for a := range 3 {
			low, high := i, i
			if p[a] > 0 {
				low = i - stride[a]
			}
			if p[a] < n[a]-1 {
				high = i + stride[a]
			}
			crosses = crosses || (g.v[low] > 0) != (g.v[i] > 0) || (g.v[high] > 0) != (g.v[i] > 0)
			d := float64(g.v[high]-g.v[low]) / (cell * float64((high-low)/stride[a]))
			slope += d * d
		}
		if crosses {
			out[i] = float32(min(math.Abs(float64(g.v[i]))/max(math.Sqrt(slope), 1e-3), 2*cell))
			fixed[i] = true
		}
	})
	// One round of the eight sweep directions settles shapes as simple as these.
	for sweep := range 8 {
		var start, end, step [3]int
		for a := range 3 {
			start[a], end[a], step[a] = 0, n[a], 1
			if sweep>>a&1 == 1 {
				start[a], end[a], step[a] = n[a]-1, -1, -1
			}
		}
		for z := start[2]; z != end[2]; z += step[2] {
			for y := start[1]; y != end[1]; y += step[1] {
				i := z*stride[2] + y*stride[1] + start[0]
				for x := start[0]; x != end[0]; x += step[0] {
					if !fixed[i] {
						out[i] = min(out[i], eikonal(
							lower(out, i, x, 1, n[0]), lower(out, i, y, stride[1], n[1]), lower(out, i, z, stride[2], n[2])))
					}
					i += step[0]
				}
			}
		}
	}
	for i := range out {
		if g.v[i] <= 0 {
			out[i] = -out[i]
		}
	}
	g.v = out
}

// lower returns the smaller of a point's two neighbours along one axis.
func lower(v []float32, i, p, stride, n int) float32 {
	switch {
	case p == 0:
		return v[i+stride]
	case p == n-1:
		return v[i-stride]
	}
	return min(v[i-stride], v[i+stride])
}

// eikonal solves for the distance at a point from those of its neighbours.
func eikonal(a, b, c float32) float32 {
	if a > b {
		a, b = b, a
	}
	if b > c {
		b, c = c, b
	}
	if a > b {
		a, b = b, a
	}
	u := a + cell
	if u <= b {
		return u
	}
	u = (a + b + sqrt(2*cell*cell-(a-b)*(a-b))) / 2
	if u <= c {
		return u
	}
	sum := a + b + c
	return (sum + sqrt(max(sum*sum-3*(a*a+b*b+c*c-cell*cell), 0))) / 3
}

func sqrt(x float32) float32 { return float32(math.Sqrt(float64(x))) }
