package phantom

import "math"

// vec is a point or direction in body space, in mm.
type vec [3]float64

func (a vec) add(b vec) vec             { return vec{a[0] + b[0], a[1] + b[1], a[2] + b[2]} }
func (a vec) sub(b vec) vec             { return vec{a[0] - b[0], a[1] - b[1], a[2] - b[2]} }
func (a vec) mul(f float64) vec         { return vec{a[0] * f, a[1] * f, a[2] * f} }
func (a vec) dot(b vec) float64         { return a[0]*b[0] + a[1]*b[1] + a[2]*b[2] }
func (a vec) norm() float64             { return math.Sqrt(a.dot(a)) }
func (a vec) lerp(b vec, t float64) vec { return a.add(b.sub(a).mul(t)) }

// unit returns the direction of a, and up for no direction at all.
func (a vec) unit() vec {
	if n := a.norm(); n > 1e-9 {
		return a.mul(1 / n)
	}
	return vec{0, 0, 1}
}

// cross returns the vector product.
func (a vec) cross(b vec) vec {
	return vec{a[1]*b[2] - a[2]*b[1], a[2]*b[0] - a[0]*b[2], a[0]*b[1] - a[1]*b[0]}
}

// tube is a piece of a vessel, an airway or a bone: a capsule whose radius
// changes evenly from a to b.
type tube struct {
	a, b   vec
	ra, rb float64
}

// depth returns how far p lies inside the tube; negative outside.
func (t tube) depth(p vec) float64 {
	ab := t.b.sub(t.a)
	f := 0.0
	if l := ab.dot(ab); l > 0 {
		f = min(max(p.sub(t.a).dot(ab)/l, 0), 1)
	}
	return t.ra + (t.rb-t.ra)*f - p.sub(t.a.lerp(t.b, f)).norm()
}

// chain returns tubes along points, all of radius r.
func chain(r float64, points ...vec) []tube {
	var tubes []tube
	for i := 1; i < len(points); i++ {
		tubes = append(tubes, tube{points[i-1], points[i], r, r})
	}
	return tubes
}

// superellipse is 0 on the rounded box with half axes s, which may be infinite,
// positive inside, and near its surface about the distance to it. The power is
// 2.5, between an ellipse and a box, because that needs no more than a root.
func superellipse(d, s vec) float64 {
	sum := 0.0
	smallest := math.Inf(1)
	for i := range d {
		q := math.Abs(d[i]) / s[i]
		sum += q * q * math.Sqrt(q)
		smallest = min(smallest, s[i])
	}
	return (1 - sum) * smallest / domePower
}

// smoothMin is min with the edge rounded over k mm; smoothMax likewise.
func smoothMin(a, b, k float64) float64 {
	h := max(k-math.Abs(a-b), 0) / k
	return min(a, b) - h*h*k/4
}

func smoothMax(a, b, k float64) float64 { return -smoothMin(-a, -b, k) }

// smoothstep goes from 0 at a to 1 at b without a corner.
func smoothstep(a, b, x float64) float64 {
	t := min(max((x-a)/(b-a), 0), 1)
	return t * t * (3 - 2*t)
}
