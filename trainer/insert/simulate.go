package insert

import (
	"math"
	"math/rand/v2"
)

// Shares of simulated nodules, and what they are made of.
const (
	groundGlassShare = 0.12
	partSolidShare   = 0.13
	spiculatedShare  = 0.15 // of the solid and part-solid ones that are large enough
	calcifiedShare   = 0.10 // of the solid ones that are not too large
	lobedShare       = 0.15 // and one in a hundred more for each mm
	feedingShare     = 0.5  // of those that are not ground glass: a vessel leads to them

	leastFaint      = 5.0 // mm: smaller ground glass cannot be told from noise
	leastSpiculated = 8.0
	mostCalcified   = 12.0

	tissueLevel = 35.0   // HU of what fills a ground-glass nodule in part
	airLevel    = -870.0 // HU of the lung that it leaves
)

// simulated is a nodule of random shape.
type simulated struct {
	radius    float64 // of the ball of the same volume
	outer     *surface
	core      *surface // the solid part of a part-solid nodule
	coreAt    vec
	kind      string
	hu        float64 // of the solid part
	faint     float64 // share of a ground-glass voxel that is tissue
	edge      float64 // width of its margin, mm
	calcium   float64 // HU in the middle beyond hu
	texture   [6]wave
	strength  float64 // of the texture
	spicules  []spicule
	spreadOut float64 // the farthest that a spicule reaches
}

type wave struct {
	k     vec
	phase float64
}

// spicule is a strand that thins out.
type spicule struct {
	from, to vec
	radius   float64
}

// simulate makes a nodule of that diameter.
func simulate(r *rand.Rand, diameter float64, at spot) (*simulated, Nodule) {
	o := &simulated{radius: diameter / 2, kind: KindSolid, hu: -10 + 70*r.Float64(), edge: 0.5 + (0.3+0.12*diameter)*r.Float64()*r.Float64()}
	n := Nodule{Origin: OriginSimulated, DiameterMM: diameter}
	switch p := r.Float64(); {
	case diameter < leastFaint:
	case p < groundGlassShare:
		o.kind = KindGroundGlass
		o.edge = 0.8 + 1.2*r.Float64()
	case p < groundGlassShare+partSolidShare:
		o.kind = KindPartSolid
		o.edge = 0.6 + 0.9*r.Float64()
	}
	if o.kind != KindSolid {
		o.faint = (-720 + 250*r.Float64() - airLevel) / (tissueLevel - airLevel)
		o.strength = 0.15 + 0.2*r.Float64()
	} else {
		o.strength = 0.02
	}
	// Most nodules are nearly round, some are lobed.
	rough := 0.07 + 0.09*r.Float64()
	if r.Float64() < lobedShare+0.01*diameter {
		rough = 0.16 + 0.09*r.Float64()
	}
	o.outer = newSurface(r, o.radius, rough)
	if o.kind == KindPartSolid {
		share := 0.35 + 0.3*r.Float64()
		o.core = newSurface(r, o.radius*share, 0.12)
		o.coreAt = direction(r).mul(o.radius * (1 - share) * 0.4 * r.Float64())
	}
	if o.kind == KindSolid && diameter < mostCalcified && r.Float64() < calcifiedShare {
		o.calcium = 150 + 450*r.Float64()
		n.Calcified = true
	}
	for i := range o.texture {
		o.texture[i] = wave{k: direction(r).mul(2 * math.Pi / (2.5 + 4*r.Float64())), phase: 2 * math.Pi * r.Float64()}
	}
	if o.kind != KindGroundGlass && diameter >= leastSpiculated && r.Float64() < spiculatedShare+0.015*(diameter-leastSpiculated) {
		n.Spiculated = true
		o.addSpicules(r, at)
	}
	if o.kind != KindGroundGlass && r.Float64() < feedingShare {
		o.addVessels(r, at)
	}
	n.Kind = o.kind
	return o, n
}

func (o *simulated) addSpicules(r *rand.Rand, at spot) {
	for range 16 + r.IntN(22) {
		u := direction(r)
		from := o.outer.radius(u)
		length := o.radius * (0.15 + 0.55*r.Float64()*r.Float64())
		end := u.add(direction(r).mul(0.25)).mul(from + length)
		// They do not run on in the chest wall.
		if end.dot(at.outward) > at.depth {
			continue
		}
		o.spicules = append(o.spicules, spicule{u.mul(from - 1.5), end, 0.45 + 0.5*r.Float64()})
		o.spreadOut = max(o.spreadOut, end.norm())
	}
}

// addVessels leads one to three thin vessels to the nodule, as its own blood
// supply.
func (o *simulated) addVessels(r *rand.Rand, at spot) {
	for range 1 + r.IntN(3) {
		from := direction(r).mul(0.3 * o.radius)
		u := direction(r)
		width := 0.35 + 0.1*o.radius*r.Float64()
		end := u.mul(o.outer.radius(u) + 3 + 7*r.Float64())
		middle := from.add(end).mul(0.5).add(direction(r).mul(0.12 * end.norm()))
		if end.dot(at.outward) > at.depth-1 {
			continue
		}
		width = min(width, 0.9)
		o.spicules = append(o.spicules, spicule{from, middle, width}, spicule{middle, end, 0.6 * width})
		o.spreadOut = max(o.spreadOut, end.norm())
	}
}

func (o *simulated) reach() float64 { return max(o.outer.largest+2*o.edge, o.spreadOut+1) }

func (o *simulated) noise(Scanner) float64 { return 1 }

// blur: nothing has blurred it yet.
func (o *simulated) blur(spread, thickness float64) (sigma, slice float64) { return spread, thickness }

func (o *simulated) draw(g *grid) {
	at := -1
	limit := o.reach()
	for k := range g.n {
		for j := range g.n {
			for i := range g.n {
				at++
				p := g.place(i, j, k)
				distance := p.norm()
				if distance > limit {
					continue
				}
				fill, hu := o.at(p, distance, g.step)
				g.fill[at], g.hu[at] = float32(fill), float32(fill*hu)
			}
		}
	}
}

// at returns what is at a place: how much of it is tissue, and its HU.
func (o *simulated) at(p vec, distance, step float64) (fill, hu float64) {
	u := p
	if distance > 0 {
		u = p.mul(1 / distance)
	}
	inside := soft(o.outer.radius(u)-distance, max(o.edge, step))
	texture := 0.0
	if inside > 0 {
		for _, w := range o.texture {
			texture += math.Sin(w.k.dot(p) + w.phase)
		}
		texture *= o.strength / math.Sqrt(float64(len(o.texture))/2)
	}
	hu = o.hu
	switch o.kind {
	case KindSolid:
		fill = inside
		hu += texture * 600
		if o.calcium > 0 {
			hu += o.calcium * soft(0.55*o.radius-distance, 0.5*o.radius)
		}
	default:
		fill = inside * o.faint * (1 + texture)
		if o.core != nil {
			q := p.sub(o.coreAt)
			d := q.norm()
			if d > 0 {
				q = q.mul(1 / d)
			}
			fill = max(fill, soft(o.core.radius(q)-d, max(0.6, step)))
		}
		hu = tissueLevel
	}
	for _, s := range o.spicules {
		if fill >= 1 {
			break
		}
		fill = max(fill, s.fill(p, step))
	}
	return ramp(fill), hu
}

// soft goes from 0 to 1 over that width around a surface.
func soft(depth, width float64) float64 {
	x := ramp(depth/width + 0.5)
	return x * x * (3 - 2*x)
}

func (s spicule) fill(p vec, step float64) float64 {
	d, from := s.to.sub(s.from), p.sub(s.from)
	length := d.norm()
	if from.dot(from) > (length+s.radius+step)*(length+s.radius+step) {
		return 0
	}
	f := ramp(from.dot(d) / (length * length))
	radius := s.radius * (1 - 0.6*f)
	distance := from.sub(d.mul(f)).norm()
	if distance > radius+step {
		return 0
	}
	return ramp((radius-distance)/step + 0.5)
}

// surface is a random sphere: the logarithm of its radius is a sum of spherical
// harmonics with random weights that fall with the degree, after an ellipsoid of
// random axes.
type surface struct {
	table   []float64 // radius by latitude and longitude
	largest float64
}

const (
	latitudes, longitudes = 48, 96
	highestDegree         = 8
	degreePower           = 3.2
)

// newSurface makes a surface that encloses the volume of a ball of that radius;
// rough is the standard deviation of the logarithm of its radii.
func newSurface(r *rand.Rand, radius, rough float64) *surface {
	// Axes of real nodules: 1 to .65-.88 to .56-.70.
	axes := vec{1, 0.72 + 0.26*r.Float64(), 0.62 + 0.33*r.Float64()}
	frame := rotation(r)
	var weights []float64
	sum := 0.0
	for l := 2; l <= highestDegree; l++ {
		sum += (2*float64(l) + 1) * math.Pow(float64(l), -degreePower)
	}
	for l := 2; l <= highestDegree; l++ {
		spread := rough * math.Sqrt(math.Pow(float64(l), -degreePower)/sum*4*math.Pi)
		for range 2*l + 1 {
			weights = append(weights, spread*r.NormFloat64())
		}
	}
	s := &surface{table: make([]float64, latitudes*longitudes)}
	var volume, area float64
	for a := range latitudes {
		theta := math.Pi * (float64(a) + 0.5) / latitudes
		cosines, sines := harmonics(weights, math.Cos(theta))
		for b := range longitudes {
			phi := 2 * math.Pi * float64(b) / longitudes
			u := vec{math.Sin(theta) * math.Cos(phi), math.Sin(theta) * math.Sin(phi), math.Cos(theta)}
			square := 0.0
			for n, axis := range frame {
				square += math.Pow(u.dot(axis)/axes[n], 2)
			}
			log := 0.0
			for m := range cosines {
				sin, cos := math.Sincos(float64(m) * phi)
				log += cosines[m]*cos + sines[m]*sin
			}
			radius := math.Exp(log) / math.Sqrt(square)
			s.table[a*longitudes+b] = radius
			volume += math.Sin(theta) * radius * radius * radius
			area += math.Sin(theta)
		}
	}
	scale := radius / math.Cbrt(volume/area)
	for i := range s.table {
		s.table[i] *= scale
		s.largest = max(s.largest, s.table[i])
	}
	return s
}

// radius returns the radius in the direction u.
func (s *surface) radius(u vec) float64 {
	a := math.Acos(min(max(u[2], -1), 1))/math.Pi*latitudes - 0.5
	b := math.Atan2(u[1], u[0]) / (2 * math.Pi) * longitudes
	if b < 0 {
		b += longitudes
	}
	a = min(max(a, 0), latitudes-1)
	i, j := min(int(a), latitudes-2), int(b)%longitudes
	fa, fb := a-float64(i), b-math.Floor(b)
	next := (j + 1) % longitudes
	low := s.table[i*longitudes+j]*(1-fb) + s.table[i*longitudes+next]*fb
	high := s.table[(i+1)*longitudes+j]*(1-fb) + s.table[(i+1)*longitudes+next]*fb
	return low*(1-fa) + high*fa
}

// harmonics returns, for a latitude with the cosine x, the amplitudes of the
// cosines and sines of the longitude that the real spherical harmonics of degree
// 2 to highestDegree with these weights add up to.
func harmonics(weights []float64, x float64) (cosines, sines [highestDegree + 1]float64) {
	n := 0
	for l := 2; l <= highestDegree; l++ {
		for m := -l; m <= l; m++ {
			order := max(m, -m)
			norm := (2*float64(l) + 1) / (4 * math.Pi)
			for f := l - order + 1; f <= l+order; f++ {
				norm /= float64(f)
			}
			if m != 0 {
				norm *= 2
			}
			a := weights[n] * math.Sqrt(norm) * legendre(l, order, x)
			if m < 0 {
				sines[order] += a
			} else {
				cosines[order] += a
			}
			n++
		}
	}
	return cosines, sines
}

// legendre is the associated Legendre polynomial, without the sign of Condon
// and Shortley.
func legendre(l, m int, x float64) float64 {
	p := 1.0
	root := math.Sqrt(max(0, 1-x*x))
	for i := 1; i <= m; i++ {
		p *= float64(2*i-1) * root
	}
	if l == m {
		return p
	}
	next := x * float64(2*m+1) * p
	for n := m + 2; n <= l; n++ {
		p, next = next, (x*float64(2*n-1)*next-float64(n+m-1)*p)/float64(n-m)
	}
	return next
}

// rotation returns three random axes at right angles.
func rotation(r *rand.Rand) [3]vec {
	a := direction(r)
	b := direction(r)
	b = b.sub(a.mul(a.dot(b)))
	b = b.mul(1 / max(b.norm(), 1e-9))
	c := vec{a[1]*b[2] - a[2]*b[1], a[2]*b[0] - a[0]*b[2], a[0]*b[1] - a[1]*b[0]}
	return [3]vec{a, b, c}
}
