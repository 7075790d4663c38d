package insert

import (
	"math"
	"math/rand/v2"
)

// object is a nodule before a scanner has seen it.
type object interface {
	// reach is the distance from its centre beyond which nothing of it is.
	reach() float64
	// draw fills in, for a grid around its centre, how much of each place the
	// nodule takes up (0 to 1) and that times its HU.
	draw(g *grid)
	// blur is what the scanner still has to add: the point spread in the plane
	// and the slice thickness, in mm.
	blur(spread, thickness float64) (sigma, slice float64)
	// noise is the part of the scanner's noise that the object does not bring.
	noise(Scanner) float64
}

// grid is a fine cubic grid around the centre of a nodule, x fastest.
type grid struct {
	n    int // points along each axis, odd
	step float64
	fill []float32
	hu   []float32 // fill × HU
}

func newGrid(reach, diameter float64) *grid {
	const finest, coarsest = 0.3, 0.6
	step := min(max(diameter/30, finest), coarsest)
	n := 2*int(math.Ceil(reach/step)) + 1
	return &grid{n: n, step: step, fill: make([]float32, n*n*n), hu: make([]float32, n*n*n)}
}

// place returns the position of a point relative to the nodule's centre.
func (g *grid) place(i, j, k int) vec {
	half := g.n / 2
	return vec{float64(i-half) * g.step, float64(j-half) * g.step, float64(k-half) * g.step}
}

// blurAxis smooths v along the axis with this stride between points.
func (g *grid) blurAxis(v []float32, stride int, sigma float64) {
	kernel := gaussian(sigma / g.step)
	reach := len(kernel) - 1
	if reach == 0 {
		return
	}
	line, out := make([]float32, g.n), make([]float32, g.n)
	other := [2]int{1, g.n}
	switch stride {
	case 1:
		other = [2]int{g.n, g.n * g.n}
	case g.n:
		other = [2]int{1, g.n * g.n}
	}
	for b := range g.n {
		for a := range g.n {
			base := a*other[0] + b*other[1]
			empty := true
			for i := range line {
				line[i] = v[base+i*stride]
				empty = empty && line[i] == 0
			}
			if empty {
				continue
			}
			for i := range out {
				sum := kernel[0] * line[i]
				for m := 1; m <= reach; m++ {
					if i-m >= 0 {
						sum += kernel[m] * line[i-m]
					}
					if i+m < g.n {
						sum += kernel[m] * line[i+m]
					}
				}
				out[i] = sum
			}
			for i := range out {
				v[base+i*stride] = out[i]
			}
		}
	}
}

// gaussian returns the right half of a normalised kernel.
func gaussian(sigma float64) []float32 {
	if sigma < 0.2 {
		return []float32{1}
	}
	kernel := make([]float32, int(math.Ceil(3*sigma))+1)
	sum := 0.0
	for k := range kernel {
		w := math.Exp(-float64(k*k) / (2 * sigma * sigma))
		kernel[k] = float32(w)
		if sum += w; k > 0 {
			sum += w
		}
	}
	for k := range kernel {
		kernel[k] /= float32(sum)
	}
	return kernel
}

// voxel returns the mean over a slice of that thickness around p (relative to
// the nodule's centre), linear in the plane.
func (g *grid) voxel(p vec, thickness float64) (fill, hu float64) {
	half := float64(g.n / 2)
	x, y := p[0]/g.step+half, p[1]/g.step+half
	i, j := int(math.Floor(x)), int(math.Floor(y))
	if i < 0 || j < 0 || i+1 >= g.n || j+1 >= g.n {
		return 0, 0
	}
	fx, fy := x-float64(i), y-float64(j)
	cuts := max(1, int(math.Round(thickness/g.step)))
	for c := range cuts {
		z := (p[2]+((float64(c)+0.5)/float64(cuts)-0.5)*thickness)/g.step + half
		k := int(math.Floor(z))
		if k < 0 || k+1 >= g.n {
			continue
		}
		fz := z - float64(k)
		for corner := range 8 {
			w, at := 1.0, (k*g.n+j)*g.n+i
			if corner&1 == 1 {
				w, at = w*fx, at+1
			} else {
				w *= 1 - fx
			}
			if corner&2 == 2 {
				w, at = w*fy, at+g.n
			} else {
				w *= 1 - fy
			}
			if corner&4 == 4 {
				w, at = w*fz, at+g.n*g.n
			} else {
				w *= 1 - fz
			}
			fill += w * float64(g.fill[at])
			hu += w * float64(g.hu[at])
		}
	}
	return fill / float64(cuts), hu / float64(cuts)
}

// Rules of what can be seen. A solid nodule must change this share of its
// voxels by this much; buried in tissue it does not. A faint one has its own
// measure, and both must change on average.
const (
	changedShare   = 0.45
	changedSolid   = 150 // HU
	changedFaint   = 60
	leastContrast  = 110
	noiseContrast  = 1.5 // times the noise
	leastDiameter  = 3.0 // mm: LUNA16 counts none below
	leastVisible   = 0.4 // of a nodule at the pleura: what stands out of the wall
	wholeVisible   = 0.9
	blendStart     = 150 // HU below the nodule from which tissue begins to be kept
	tissueFrom     = -700
	tissueTo       = -500
	visibleContent = 0.02
)

// change is one voxel of a paste.
type change struct {
	at  int
	p   vec // relative to the spot
	was int16
	now int16
	w   float64 // how much of it is nodule
}

// paste draws the object at the spot and, if it can be seen, writes it into the
// scan and completes n.
func (s *site) paste(r *rand.Rand, o object, at spot, n *Nodule) bool {
	sigma, slice := o.blur(s.scanner.PointSpreadMM, s.Spacing[2])
	g := newGrid(o.reach()+3*sigma, n.DiameterMM)
	o.draw(g)
	for _, stride := range [...]int{1, g.n} {
		g.blurAxis(g.fill, stride, sigma)
		g.blurAxis(g.hu, stride, sigma)
	}
	var lo, hi [3]int
	reach := float64(g.n/2) * g.step
	for a := range lo {
		extra := 0.0
		if a == 2 {
			extra = slice / 2
		}
		lo[a] = max(0, int(math.Ceil((at.centre[a]-reach-extra)/s.Spacing[a])))
		hi[a] = min(s.Size[a]-1, int(math.Floor((at.centre[a]+reach+extra)/s.Spacing[a])))
	}
	noise := grains(r, hi[0]-lo[0]+1, hi[1]-lo[1]+1, hi[2]-lo[2]+1, s.scanner)
	share := o.noise(s.scanner)
	var changes []change
	index := -1
	for k := lo[2]; k <= hi[2]; k++ {
		for j := lo[1]; j <= hi[1]; j++ {
			for i := lo[0]; i <= hi[0]; i++ {
				index++
				p := vec{float64(i) * s.Spacing[0], float64(j) * s.Spacing[1], float64(k) * s.Spacing[2]}.sub(at.centre)
				fill, hu := g.voxel(p, slice)
				if fill < visibleContent {
					continue
				}
				target := hu / fill
				voxel := s.Index(i, j, k)
				was := float64(s.HU[voxel])
				// Where there is denser tissue already it stays.
				keep := ramp((was-(target-blendStart))/blendStart) * ramp((was-tissueFrom)/(tissueTo-tissueFrom))
				part := min(fill, 1) * (1 - keep)
				now := was + part*(target-was) + math.Sqrt(1-(1-part)*(1-part))*share*float64(noise[index])
				changes = append(changes, change{
					at: voxel, p: p, was: s.HU[voxel], now: int16(math.Round(min(max(now, -1024), 3071))), w: min(fill, 1),
				})
			}
		}
	}
	if !s.seen(changes, at, n) {
		return false
	}
	for _, c := range changes {
		s.HU[c.at] = c.now
	}
	return true
}

func ramp(x float64) float64 { return min(max(x, 0), 1) }

// seen tells whether a paste can be seen, and completes n with the place and
// size of what stands out of the wall.
func (s *site) seen(changes []change, at spot, n *Nodule) bool {
	top := 0.0
	for _, c := range changes {
		top = max(top, c.w)
	}
	limit := float64(changedSolid)
	if n.Kind == KindGroundGlass {
		limit = changedFaint
	}
	var core, changed int
	var contrast, whole, visible float64
	var centre vec
	for _, c := range changes {
		whole += c.w
		if c.was < wallHU {
			visible += c.w
			centre = centre.add(c.p.mul(c.w))
		}
		if c.w < top/2 {
			continue
		}
		core++
		d := float64(c.now) - float64(c.was)
		if contrast += d; math.Abs(d) >= limit {
			changed++
		}
	}
	if core == 0 || float64(changed) < changedShare*float64(core) {
		return false
	}
	n.ContrastHU = math.Round(contrast / float64(core))
	if n.ContrastHU < max(leastContrast, noiseContrast*s.scanner.NoiseHU) || visible < leastVisible*whole {
		return false
	}
	n.Center = s.world(at.centre)
	if visible < wholeVisible*whole {
		n.Center = s.world(at.centre.add(centre.mul(1 / visible)))
		n.DiameterMM *= math.Cbrt(visible / whole)
	}
	for a := range n.Center {
		n.Center[a] = math.Round(n.Center[a]*1000) / 1000
	}
	n.DiameterMM = math.Round(n.DiameterMM*1000) / 1000
	return n.DiameterMM >= leastDiameter
}

// grains returns noise of the scanner's strength and grain.
func grains(r *rand.Rand, nx, ny, nz int, s Scanner) []float32 {
	out := make([]float32, nx*ny*nz)
	for i := range out {
		out[i] = float32(r.NormFloat64())
	}
	kernel := []float32{1}
	if s.NoiseGrain > 0.02 {
		// Neighbours in white noise blurred by a Gaussian of standard deviation
		// t pixels have the correlation exp(-1/4t²).
		kernel = gaussian(1 / (2 * math.Sqrt(-math.Log(s.NoiseGrain))))
	}
	gain := 0.0
	for m, w := range kernel {
		gain += float64(w) * float64(w)
		if m > 0 {
			gain += float64(w) * float64(w)
		}
	}
	smooth := func(stride, n int, start func(line int) int, lines int) {
		line := make([]float32, n)
		for l := range lines {
			base := start(l)
			for i := range line {
				line[i] = out[base+i*stride]
			}
			for i := range line {
				sum := kernel[0] * line[i]
				for m := 1; m < len(kernel); m++ {
					sum += kernel[m] * (line[max(i-m, 0)] + line[min(i+m, n-1)])
				}
				out[base+i*stride] = sum
			}
		}
	}
	if len(kernel) > 1 {
		smooth(1, nx, func(l int) int { return l * nx }, ny*nz)
		smooth(nx, ny, func(l int) int { return l/nx*nx*ny + l%nx }, nx*nz)
	}
	level := float32(s.NoiseHU / gain)
	for i := range out {
		out[i] *= level
	}
	return out
}
