package insert

import (
	"math"
	"math/rand/v2"

	"hilum/models/ct"
)

// vec is a point or direction in mm along the index axes of the scan.
type vec [3]float64

func (a vec) add(b vec) vec     { return vec{a[0] + b[0], a[1] + b[1], a[2] + b[2]} }
func (a vec) sub(b vec) vec     { return vec{a[0] - b[0], a[1] - b[1], a[2] - b[2]} }
func (a vec) mul(f float64) vec { return vec{a[0] * f, a[1] * f, a[2] * f} }
func (a vec) dot(b vec) float64 { return a[0]*b[0] + a[1]*b[1] + a[2]*b[2] }
func (a vec) norm() float64     { return math.Sqrt(a.dot(a)) }

// direction returns a random unit vector.
func direction(r *rand.Rand) vec {
	for {
		v := vec{r.NormFloat64(), r.NormFloat64(), r.NormFloat64()}
		if n := v.norm(); n > 1e-6 {
			return v.mul(1 / n)
		}
	}
}

// Hounsfield units that part what is at a place.
const (
	tissueHU = -500 // above: vessel, wall
	wallHU   = -300 // above: wall for sure
	airyHU   = -600 // below: lung
)

// site is a scan and what is known of its places.
type site struct {
	*ct.Volume
	mask    []uint8
	lung    []int32 // indices of lung voxels, thinned
	scanner Scanner
	taken   []Sphere
}

// spot is a place for a nodule, in mm along the index axes from voxel (0,0,0).
type spot struct {
	centre  vec
	outward vec     // to the nearest border of the lung
	depth   float64 // distance to it
	level   float64 // HU of the lung around
}

// lungVoxels returns places to begin with: every few voxels of the mask.
func (s *site) lungVoxels() []int32 {
	const spacing = 2.0 // mm
	var step [3]int
	for a := range step {
		step[a] = max(1, int(spacing/s.Spacing[a]))
	}
	var out []int32
	for k := 0; k < s.Size[2]; k += step[2] {
		for j := 0; j < s.Size[1]; j += step[1] {
			for i := 0; i < s.Size[0]; i += step[0] {
				if at := s.Index(i, j, k); s.mask[at] != 0 {
					out = append(out, int32(at)) // MaxVoxels is below 2³¹
				}
			}
		}
	}
	return out
}

// at returns the voxel nearest to p, and false outside the scan.
func (s *site) at(p vec) (int, bool) {
	var n [3]int
	for a := range n {
		f := math.Floor(p[a]/s.Spacing[a] + 0.5)
		if !(f >= 0 && f < float64(s.Size[a])) {
			return 0, false
		}
		n[a] = int(f)
	}
	return s.Index(n[0], n[1], n[2]), true
}

func (s *site) inLung(p vec) bool {
	i, ok := s.at(p)
	return ok && s.mask[i] != 0
}

// hu returns the value at p; outside the scan there is wall.
func (s *site) hu(p vec) float64 {
	if i, ok := s.at(p); ok {
		return float64(s.HU[i])
	}
	return 0
}

// world returns the patient coordinates of a place.
func (s *site) world(p vec) [3]float64 {
	return s.World(p[0]/s.Spacing[0], p[1]/s.Spacing[1], p[2]/s.Spacing[2])
}

// rays are the directions in which the border of the lung is looked for.
var rays = spiral(98)

// spiral returns n directions spread evenly over the sphere.
func spiral(n int) []vec {
	out := make([]vec, n)
	for i := range out {
		z := 1 - (2*float64(i)+1)/float64(n)
		sin, cos := math.Sincos(float64(i) * math.Pi * (3 - math.Sqrt(5)))
		w := math.Sqrt(1 - z*z)
		out[i] = vec{w * cos, w * sin, z}
	}
	return out
}

// depth returns the distance from p to the border of the lung and its direction,
// or reach when it is farther.
func (s *site) depth(p vec, reach float64) (float64, vec) {
	const step = 0.8 // mm
	least, outward := reach, rays[0]
	for _, u := range rays {
		for d := step; d < least; d += step {
			if !s.inLung(p.add(u.mul(d))) {
				least, outward = d, u
				break
			}
		}
	}
	return least, outward
}

// spot looks for a place of that sort for a nodule of radius r.
func (s *site) spot(r *rand.Rand, place string, radius float64) (spot, bool) {
	for range placeTries {
		i := int(s.lung[r.IntN(len(s.lung))])
		x, y, z := i%s.Size[0], i/s.Size[0]%s.Size[1], i/(s.Size[0]*s.Size[1])
		p := vec{float64(x), float64(y), float64(z)}
		for a := range p {
			p[a] = (p[a] + r.Float64() - 0.5) * s.Spacing[a]
		}
		if place == PlaceJuxtaVascular {
			if s.HU[i] < tissueHU {
				continue
			}
			p = p.add(direction(r).mul(radius + 0.5)) // the vessel runs along its surface
		}
		if !s.free(p, radius) {
			continue
		}
		found := spot{centre: p}
		found.depth, found.outward = s.depth(p, radius+4)
		if s.suits(&found, place, radius) {
			return found, true
		}
	}
	return spot{}, false
}

// free tells whether a nodule would be apart from the known ones, and whole in
// the scan.
func (s *site) free(p vec, radius float64) bool {
	for a := range p {
		if p[a] < radius || p[a] > float64(s.Size[a]-1)*s.Spacing[a]-radius {
			return false
		}
	}
	w := s.world(p)
	for _, t := range s.taken {
		d := vec(w).sub(t.Center).norm()
		if d < radius+t.DiameterMM/2+gap {
			return false
		}
	}
	return true
}

// suits looks at the neighbourhood of a place, and fills in its lung level.
func (s *site) suits(p *spot, place string, radius float64) bool {
	switch place {
	case PlaceJuxtaPleural:
		if p.depth < 0.25*radius || p.depth > 0.8*radius || s.hu(p.centre.add(p.outward.mul(p.depth+2.5))) < wallHU {
			return false
		}
	default:
		if p.depth < radius+2 {
			return false
		}
	}
	// What fills the ball, its shell, and the level of the lung around it.
	var inside, tissue, air, count int
	var sum float64
	for _, u := range rays {
		for _, f := range [...]float64{0.3, 0.7, 0.95, 1.3, 1.7} {
			q := p.centre.add(u.mul(f*radius + max(0, f-1)*3))
			lung := s.inLung(q)
			hu := s.hu(q)
			if f < 1 && lung {
				if inside++; hu > tissueHU {
					tissue++
				}
			}
			if lung && hu < airyHU {
				sum += hu
				air++
			}
			count++
		}
	}
	if inside == 0 || air*4 < count {
		return false
	}
	p.level = sum / float64(air)
	full := float64(tissue) / float64(inside)
	if place == PlaceJuxtaVascular {
		return full > 0.02 && full < 0.35
	}
	return full < 0.12
}
