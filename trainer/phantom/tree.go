package phantom

import (
	"math"
	"math/rand/v2"
	"slices"
)

// airway is a tube with a wall.
type airway struct {
	tube
	wall float64
}

// Sizes of the trees. The radius of a branch follows from those of its
// children by Murray's law (r³ = r1³ + r2³), so the number of ends and their
// radius set the radius of the trunk.
const (
	vesselEnds  = 3000 // of the arteries, and as many of the veins, in each lung
	vesselTip   = 0.42 // mm
	bronchiEnds = 40
	bronchusTip = 1.4
)

// lungTrees grows arteries, veins and airways into both lungs.
func lungTrees(b *body, r *rand.Rand) (vessels []tube, airways []airway) {
	trachea := []vec{{0, 16, 312}, {1, 17, 240}, {0, 13, 180}}
	for _, t := range chain(8.6, trachea...) {
		airways = append(airways, airway{t, 1.6})
	}
	for side := range 2 {
		s := sideSign(side)
		out := vec{s, 0.1, -0.2}.unit()
		for _, root := range []vec{{s * 35, 3, 166}, {s * 33, 1, 143}} {
			g := grower{r: r, power: 3, tip: vesselTip}
			g.grow(root, out, lungPoints(b, r, side, vesselEnds, 1.2))
			vessels = append(vessels, g.tubes...)
		}
		carina, hilum := trachea[2], vec{s * 33, 11, 156 - 4*s}
		g := grower{r: r, power: 2.8, tip: bronchusTip}
		root := g.grow(hilum, hilum.sub(carina).unit(), lungPoints(b, r, side, bronchiEnds, 24))
		g.tubes = append(g.tubes, tube{carina, hilum, max(root, 6.8), root})
		for _, t := range g.tubes {
			airways = append(airways, airway{t, 0.35 + 0.13*min(t.ra, t.rb)})
		}
	}
	return vessels, airways
}

// lungPoints returns n random points of a lung at least margin deep in it,
// evenly spread.
func lungPoints(b *body, r *rand.Rand, side, n int, margin float64) []vec {
	points := make([]vec, 0, n)
	for len(points) < n {
		p := vec{sideSign(side) * r.Float64() * 140, (2*r.Float64() - 1) * 100, r.Float64() * scanHeight}
		if b.lung.at(p) > margin {
			points = append(points, p)
		}
	}
	return points
}

// grower makes a tree that reaches every point of a set: each branch goes part
// of the way to the middle of the points it feeds and forks there, one half of
// them for each child.
type grower struct {
	r     *rand.Rand
	power float64 // exponent of Murray's law
	tip   float64 // radius of the ends
	tubes []tube
}

// grow adds the branch that begins at start in the direction dir and feeds
// points, and returns its radius. points is reordered.
func (g *grower) grow(start, dir vec, points []vec) float64 {
	if len(points) == 1 {
		g.branch(start, dir, points[0], g.tip, 0.7*g.tip)
		return g.tip
	}
	centre := vec{}
	for _, p := range points {
		centre = centre.add(p)
	}
	centre = centre.mul(1 / float64(len(points)))
	end := start.lerp(centre, 0.3+0.2*g.r.Float64())
	chord := end.sub(start).unit()
	across := spread(points, centre, chord)
	slices.SortFunc(points, func(p, q vec) int {
		switch a, b := p.dot(across), q.dot(across); {
		case a < b:
			return -1
		case a > b:
			return 1
		}
		return 0
	})
	cut := int(math.Round(float64(len(points)) * (0.3 + 0.4*g.r.Float64())))
	cut = min(max(cut, 1), len(points)-1)
	tangent := end.sub(control(start, dir, end)).unit()
	a, b := g.grow(end, tangent, points[:cut]), g.grow(end, tangent, points[cut:])
	radius := math.Pow(math.Pow(a, g.power)+math.Pow(b, g.power), 1/g.power)
	g.branch(start, dir, end, radius, radius)
	return radius
}

// spread returns the direction across chord in which points lie farthest
// apart.
func spread(points []vec, centre, chord vec) vec {
	u := chord.cross(vec{0.3, 0.5, 0.8}).unit()
	v := chord.cross(u)
	var uu, uv, vv float64
	for _, p := range points {
		d := p.sub(centre)
		a, b := d.dot(u), d.dot(v)
		uu, uv, vv = uu+a*a, uv+a*b, vv+b*b
	}
	angle := math.Atan2(2*uv, uu-vv) / 2
	return u.mul(math.Cos(angle)).add(v.mul(math.Sin(angle)))
}

func control(start, dir, end vec) vec {
	return start.add(dir.mul(0.4 * end.sub(start).norm()))
}

// branch draws a bent branch as tubes along a quadratic curve.
func (g *grower) branch(start, dir, end vec, ra, rb float64) {
	c := control(start, dir, end)
	pieces := 1 + int(min(end.sub(start).norm()/4, 5))
	last := start
	for i := 1; i <= pieces; i++ {
		t := float64(i) / float64(pieces)
		p := start.lerp(c, t).lerp(c.lerp(end, t), t)
		r := func(t float64) float64 { return ra + (rb-ra)*t }
		g.tubes = append(g.tubes, tube{last, p, r(t - 1/float64(pieces)), r(t)})
		last = p
	}
}
