package phantom

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Kinds and places of nodules, as the truth file names them.
const (
	KindSolid       = "solid"
	KindPartSolid   = "part-solid"
	KindGroundGlass = "ground-glass"

	PlaceIsolated      = "isolated"
	PlaceJuxtaPleural  = "juxta-pleural"
	PlaceJuxtaVascular = "juxta-vascular"
)

const (
	smallestDiameter = 4.0 // mm
	largestDiameter  = 30.0
	noduleDistance   = 6.0 // least distance between the surfaces of two nodules
	pleuraMargin     = 0.5 // error of the distance field, mm
	largeVessel      = 2.3 // radius from which a vessel would hide a nodule
	placementTries   = 20000
)

// nodule is a ball with a bumpy surface.
type nodule struct {
	centre   vec
	radius   float64 // of the ball of the same volume
	kind     string
	place    string
	bumps    [3]bump
	scale    float64 // makes the volume that of the ball
	hu       float64 // of its solid part
	halo     float64 // of its ground glass
	spicules []tube
}

// bump is one wave on the surface.
type bump struct {
	axis             vec
	size, freq, turn float64
}

func (n *nodule) truth() TrueNodule {
	return TrueNodule{Center: n.centre.add(patientOffset), DiameterMM: 2 * n.radius, Kind: n.kind, Place: n.place}
}

// surface is the radius in the direction u.
func (n *nodule) surface(u vec) float64 {
	r := 1.0
	for _, b := range n.bumps {
		r += b.size * math.Sin(b.freq*u.dot(b.axis)+b.turn)
	}
	return n.radius * n.scale * r
}

// reach is the largest radius.
func (n *nodule) reach() float64 {
	sum := 1.0
	for _, b := range n.bumps {
		sum += math.Abs(b.size)
	}
	return n.radius * n.scale * sum
}

// placeNodules chooses count nodules of 4 to 30 mm wholly inside the lungs,
// apart from one another and from large vessels and airways.
func placeNodules(b *body, r *rand.Rand, count int) ([]*nodule, error) {
	var nodules []*nodule
	for i := range count {
		// One size of each of count equal steps on a logarithmic scale.
		d := smallestDiameter * math.Pow(largestDiameter/smallestDiameter, (float64(i)+r.Float64())/float64(count))
		nodules = append(nodules, newNodule(r, math.Round(d*10)/10))
	}
	return nodules, settleAll(b, r, nodules)
}

// settleAll finds a place for each nodule and leaves them with the largest
// first: those are hardest to place.
func settleAll(b *body, r *rand.Rand, nodules []*nodule) error {
	slices.SortStableFunc(nodules, func(p, q *nodule) int { return cmp.Compare(q.radius, p.radius) })
	obstacles := largeTubes(b)
	for i, n := range nodules {
		if !n.settle(b, r, obstacles, nodules[:i]) {
			return fmt.Errorf("no room for nodule %d of %d (%.0f mm): ask for fewer", i+1, len(nodules), 2*n.radius)
		}
		n.addSpicules(b, r)
	}
	return nil
}

func newNodule(r *rand.Rand, diameter float64) *nodule {
	n := &nodule{radius: diameter / 2, scale: 1, kind: KindSolid, place: PlaceIsolated, hu: 20 + 40*r.Float64()}
	switch p := r.Float64(); {
	case p < 0.18 && diameter >= 7 && diameter < 20:
		n.kind, n.halo = KindGroundGlass, -640+90*r.Float64()
	case p < 0.36 && diameter >= 8 && diameter < 25:
		n.kind, n.halo = KindPartSolid, -600+90*r.Float64()
	}
	switch p := r.Float64(); {
	case p < 0.3:
		n.place = PlaceJuxtaPleural
	case p < 0.55 && diameter < 16:
		n.place = PlaceJuxtaVascular
	}
	for i := range n.bumps {
		n.bumps[i] = bump{axis: direction(r), size: 0.045 * r.Float64(), freq: 2.5 + 3*r.Float64(), turn: 2 * math.Pi * r.Float64()}
	}
	// The volume of a bumpy ball is the mean of the cubes of its radii.
	const samples = 512
	sum := 0.0
	for i := range samples {
		sum += math.Pow(n.surface(spiral(i, samples))/n.radius, 3)
	}
	n.scale = math.Pow(sum/samples, -1.0/3)
	return n
}

// largeTubes returns what a nodule must not touch.
func largeTubes(b *body) []tube {
	large := slices.Clone(b.blood)
	for _, t := range b.vessels {
		if max(t.ra, t.rb) >= largeVessel {
			large = append(large, t)
		}
	}
	for _, a := range b.airways {
		if a.ra+a.wall >= largeVessel {
			large = append(large, a.tube)
		}
	}
	return large
}

// settle finds a place of the nodule's kind, or an isolated one where its lung
// has none.
func (n *nodule) settle(b *body, r *rand.Rand, obstacles []tube, others []*nodule) bool {
	reach := n.reach()
	for try := range placementTries {
		if try == placementTries/2 {
			n.place = PlaceIsolated
		}
		p := vec{(2*r.Float64() - 1) * 140, (2*r.Float64() - 1) * 100, b.low + r.Float64()*(b.high-b.low)}
		depth := b.lung.at(p)
		if depth < 1 {
			continue
		}
		switch n.place {
		case PlaceJuxtaPleural:
			want := reach + pleuraMargin
			p = p.add(b.lung.gradient(p).mul(want - depth))
			if depth = b.lung.at(p); depth < want-0.2 || depth > want+0.4 {
				continue
			}
		case PlaceJuxtaVascular:
			t := b.vessels[r.IntN(len(b.vessels))]
			if t.ra < 0.9 || t.ra > 2 {
				continue
			}
			across := t.b.sub(t.a).cross(direction(r)).unit()
			p = t.a.lerp(t.b, 0.5).add(across.mul(n.radius + 0.5*t.ra))
			depth = b.lung.at(p)
		}
		n.centre = p
		if depth >= reach+pleuraMargin-0.2 && (n.place == PlaceJuxtaPleural || depth >= reach+2) && n.free(b, obstacles, others) {
			return true
		}
	}
	return false
}

// free tells whether the nodule, where it is, lies inside the lung, off large
// vessels and airways and away from the other nodules.
func (n *nodule) free(b *body, obstacles []tube, others []*nodule) bool {
	reach := n.reach()
	if n.centre[2]-reach < b.low || n.centre[2]+reach > b.high {
		return false
	}
	for _, o := range others {
		if o.centre.sub(n.centre).norm() < reach+o.reach()+noduleDistance {
			return false
		}
	}
	for _, t := range obstacles {
		if t.depth(n.centre) > -reach-1 {
			return false
		}
	}
	for i := range 64 {
		u := spiral(i, 64)
		if b.lung.at(n.centre.add(u.mul(n.surface(u)))) < 0.15 {
			return false
		}
	}
	return true
}

// addSpicules gives some of the larger solid nodules fine strands outwards.
func (n *nodule) addSpicules(b *body, r *rand.Rand) {
	if n.kind == KindGroundGlass || n.radius < 5 || r.Float64() > 0.5 {
		return
	}
	for range 14 + r.IntN(16) {
		u := direction(r)
		from := n.surface(u)
		end := n.centre.add(u.mul(from + n.radius*(0.2+0.5*r.Float64())))
		if b.lung.at(end) < 1 {
			continue
		}
		n.spicules = append(n.spicules, tube{n.centre.add(u.mul(from - 1)), end, 0.7, 0.15})
	}
}

// direction returns a random unit vector.
func direction(r *rand.Rand) vec {
	return vec{r.NormFloat64(), r.NormFloat64(), r.NormFloat64()}.unit()
}

// spiral returns the i-th of n directions spread evenly over the sphere.
func spiral(i, n int) vec {
	z := 1 - (2*float64(i)+1)/float64(n)
	s, c := math.Sincos(float64(i) * math.Pi * (3 - math.Sqrt(5)))
	w := math.Sqrt(1 - z*z)
	return vec{w * c, w * s, z}
}
