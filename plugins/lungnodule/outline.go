package main

import (
	"math"

	"hilum/models/ct"
	"hilum/plugins/api"
)

// The outline of a finding is grown, not learnt: from the tissue nearest to its centre
// over all neighbours at or above a threshold, within a ball a little wider than the
// finding and within the lungs. The threshold lies half-way between the finding's core
// and the lung around it. A vessel that leaves the nodule is part of the outline as far
// as the ball reaches; that is the price of a rule that fits in one sentence.
const (
	outlineReach  = 1.2  // radius of the ball, in radii of the finding
	outlineExtra  = 1.0  // and mm
	outlineMaxMM  = 80.0 // wider findings get no outline: the rule is one for nodules
	outlineVoxels = 2 << 20
	outlineLeast  = 4    // voxels; fewer are noise
	outlineLeak   = 0.95 // share of the ball: an outline that fills it has no border
	outlineLowHU  = -750 // bounds of the threshold: above lung,
	outlineHighHU = -300 // below soft tissue
)

// outline is a region on the part of a scan's grid around a finding.
type outline struct {
	lo, size [3]int // in voxels of the scan
	set      []bool
	voxels   int
}

// grow draws the outline of a finding; nil when it has none.
func grow(v *ct.Volume, p *ct.Prepared, f api.Finding) *outline {
	if f.DiameterMM <= 0 || f.DiameterMM > outlineMaxMM {
		return nil
	}
	radius := f.DiameterMM / 2
	ball := radius*outlineReach + outlineExtra
	x, y, z := v.Voxel(f.Center)
	o := &outline{}
	count := 1
	for a, c := range [3]float64{x, y, z} {
		o.lo[a] = max(0, int(math.Floor(c-ball/v.Spacing[a])))
		hi := min(v.Size[a]-1, int(math.Ceil(c+ball/v.Spacing[a])))
		if o.size[a] = hi - o.lo[a] + 1; o.size[a] < 1 {
			return nil
		}
		if count *= o.size[a]; count > outlineVoxels {
			return nil
		}
	}
	// What may belong to it, how bright its core is and how dark the lung around it.
	may := make([]bool, count)
	var core, lung sample
	inBall, seed, seedDistance := 0, -1, math.Inf(1)
	o.each(func(n, i, j, k int) {
		w := v.World(float64(i), float64(j), float64(k))
		d := math.Sqrt(squared(w, f.Center))
		if d > ball || !inLungs(p, w) {
			return
		}
		inBall++
		may[n] = true
		hu := float64(v.HU[v.Index(i, j, k)])
		switch {
		case d <= max(radius/2, 1):
			core.add(hu)
		case d > radius:
			lung.add(hu)
		}
	})
	if core.n == 0 || lung.n == 0 {
		return nil
	}
	threshold := min(max((core.mean()+lung.mean())/2, outlineLowHU), outlineHighHU)
	o.each(func(n, i, j, k int) {
		if !may[n] || float64(v.HU[v.Index(i, j, k)]) < threshold {
			may[n] = false
			return
		}
		if d := squared(v.World(float64(i), float64(j), float64(k)), f.Center); d < seedDistance {
			seed, seedDistance = n, d
		}
	})
	if seed < 0 || math.Sqrt(seedDistance) > max(radius, 2) {
		return nil
	}
	o.flood(may, seed)
	if o.voxels < outlineLeast || float64(o.voxels) > outlineLeak*float64(inBall) {
		return nil
	}
	return o
}

// sample gathers a mean.
type sample struct {
	sum float64
	n   int
}

func (s *sample) add(v float64) { s.sum, s.n = s.sum+v, s.n+1 }
func (s *sample) mean() float64 { return s.sum / float64(s.n) }

func squared(a, b [3]float64) float64 {
	x, y, z := a[0]-b[0], a[1]-b[1], a[2]-b[2]
	return x*x + y*y + z*z
}

// inLungs tells whether the lungs, in which nodules on the pleura are, hold a point.
func inLungs(p *ct.Prepared, w [3]float64) bool {
	x, y, z := p.Voxel(w)
	i, j, k := int(math.Round(x)), int(math.Round(y)), int(math.Round(z))
	return i >= 0 && j >= 0 && k >= 0 && i < p.Size[0] && j < p.Size[1] && k < p.Size[2] && p.Mask.Bits[p.Mask.Index(i, j, k)] != 0
}

// each visits every voxel of the outline's box: its place in the box, and in the scan.
func (o *outline) each(visit func(n, i, j, k int)) {
	n := 0
	for k := range o.size[2] {
		for j := range o.size[1] {
			for i := range o.size[0] {
				visit(n, i+o.lo[0], j+o.lo[1], k+o.lo[2])
				n++
			}
		}
	}
}

// flood sets what can be reached from the seed through faces.
func (o *outline) flood(may []bool, seed int) {
	o.set = make([]bool, len(may))
	steps := [3]int{1, o.size[0], o.size[0] * o.size[1]}
	queue := []int{seed}
	o.set[seed] = true
	for len(queue) > 0 {
		n := queue[len(queue)-1]
		queue = queue[:len(queue)-1]
		o.voxels++
		at := [3]int{n % o.size[0], n / o.size[0] % o.size[1], n / steps[2]}
		for a, step := range steps {
			if at[a] > 0 && may[n-step] && !o.set[n-step] {
				o.set[n-step] = true
				queue = append(queue, n-step)
			}
			if at[a] < o.size[a]-1 && may[n+step] && !o.set[n+step] {
				o.set[n+step] = true
				queue = append(queue, n+step)
			}
		}
	}
}

// mask is the outline as the contract has it.
func (o *outline) mask(g ct.Geometry) *api.Mask {
	m := &api.Mask{
		Size: o.size, Spacing: g.Spacing, Axes: g.Axes,
		Origin: g.World(float64(o.lo[0]), float64(o.lo[1]), float64(o.lo[2])),
		Bits:   make([]byte, (len(o.set)+7)/8),
	}
	for n, set := range o.set {
		if set {
			m.Bits[n/8] |= 1 << (n % 8)
		}
	}
	return m
}
