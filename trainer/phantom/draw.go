package phantom

import "math"

const nothing = -1e6 // depth where no tube is near

// eachPixel calls f for the pixels of the cut at z that lie inside t or within
// margin of it, with how deep they lie inside and the radius of the tube there.
func (r *renderer) eachPixel(z float64, t tube, margin float64, f func(i int, depth, radius float32)) {
	reach := max(t.ra, t.rb) + margin
	d := t.b.sub(t.a)
	// The part of the axis that is near enough to the plane.
	low, high := 0.0, 1.0
	if math.Abs(d[2]) > 1e-9 {
		p, q := (z-reach-t.a[2])/d[2], (z+reach-t.a[2])/d[2]
		low, high = max(min(p, q), 0), min(max(p, q), 1)
	} else if math.Abs(z-t.a[2]) > reach {
		return
	}
	if low > high {
		return
	}
	a, b := t.a.lerp(t.b, low), t.a.lerp(t.b, high)
	column := func(x float64) float64 { return x/r.pixel + float64(r.n-1)/2 }
	x0, x1 := max(int(math.Ceil(column(min(a[0], b[0])-reach))), 0), min(int(column(max(a[0], b[0])+reach)), r.n-1)
	y0, y1 := max(int(math.Ceil(column(min(a[1], b[1])-reach))), 0), min(int(column(max(a[1], b[1])+reach)), r.n-1)
	ax, ay, az := float32(t.a[0]), float32(t.a[1]), float32(z-t.a[2])
	dx, dy, dz := float32(d[0]), float32(d[1]), float32(d[2])
	inverse := float32(0)
	if l := d.dot(d); l > 0 {
		inverse = float32(1 / l)
	}
	limit, ra, grow := float32(reach*reach), float32(t.ra), float32(t.rb-t.ra)
	for j := y0; j <= y1; j++ {
		py := float32(r.x(j)) - ay
		for i := x0; i <= x1; i++ {
			px := float32(r.x(i)) - ax
			s := min(max((px*dx+py*dy+az*dz)*inverse, 0), 1)
			qx, qy, qz := px-s*dx, py-s*dy, az-s*dz
			square := qx*qx + qy*qy + qz*qz
			if square < limit {
				radius := ra + s*grow
				f(j*r.n+i, radius-sqrt(square), radius)
			}
		}
	}
}

// deepest fills dst with the depth in the deepest of tubes.
func (r *renderer) deepest(dst []float32, z float64, tubes []tube) {
	for i := range dst {
		dst[i] = nothing
	}
	for _, t := range tubes {
		r.eachPixel(z, t, r.pixel, func(i int, depth, _ float32) { dst[i] = max(dst[i], depth) })
	}
}

func (r *renderer) drawBlood(z float64, tubes []tube) {
	r.deepest(r.a, z, tubes)
	w := float32(r.pixel)
	for i, depth := range r.a {
		if depth > -w {
			r.img[i] = mixHU(r.img[i], huBlood, coverage(depth, w))
		}
	}
}

// drawBones draws cartilage, ribs and spine: compact bone around marrow.
func (r *renderer) drawBones(z float64, c *sliceContent) {
	w := float32(r.pixel)
	r.deepest(r.a, z, c.cartilage)
	for i, depth := range r.a {
		if depth > -w {
			r.img[i] = mixHU(r.img[i], huCartilage, coverage(depth, w))
		}
	}
	r.deepest(r.a, z, c.bones)
	// The box around the spine.
	const halfWidth, front, back = 38.0, spineY - 22, spineY + 52
	column := func(x float64) int { return int(math.Round(x/r.pixel + float64(r.n-1)/2)) }
	for j := column(front); j <= column(back); j++ {
		for i := column(-halfWidth); i <= column(halfWidth); i++ {
			depth, disc := vertebra(vec{r.x(i), r.x(j), z})
			at := j*r.n + i
			if disc {
				r.img[at] = mixHU(r.img[at], huDisc, coverage(float32(depth), w))
			} else {
				r.a[at] = max(r.a[at], float32(depth))
			}
		}
	}
	for i, depth := range r.a {
		if depth > -w {
			bone := mixHU(huCortex, huMarrow, coverage(depth-cortex, w))
			r.img[i] = mixHU(r.img[i], bone, coverage(depth, w))
		}
	}
}

// drawVessels draws the trees in the lungs. A vessel thinner than a pixel
// fills only part of it.
func (r *renderer) drawVessels(z float64, tubes []tube) {
	clear(r.a)
	w := float32(r.pixel)
	for _, t := range tubes {
		r.eachPixel(z, t, r.pixel, func(i int, depth, radius float32) {
			if half := w / 2; radius < half {
				part := radius / half
				r.a[i] = max(r.a[i], part*part*coverage(depth-radius+half, w))
			} else {
				r.a[i] = max(r.a[i], coverage(depth, w))
			}
		})
	}
	for i, part := range r.a {
		if part > 0 {
			r.brighten(i, huVessel, part)
		}
	}
}

// brighten covers a pixel by something that hides only what is darker.
func (r *renderer) brighten(i int, hu, part float32) {
	if r.img[i] < hu {
		r.img[i] = mixHU(r.img[i], hu, part)
	}
}

// drawAirways draws walls and then the air in them, so that the branches of a
// fork are open to one another.
func (r *renderer) drawAirways(z float64, airways []airway) {
	for i := range r.a {
		r.a[i], r.b[i] = nothing, nothing
	}
	for _, t := range airways {
		wall := float32(t.wall)
		r.eachPixel(z, t.tube, r.pixel+t.wall, func(i int, depth, _ float32) {
			r.a[i] = max(r.a[i], depth+wall)
			r.b[i] = max(r.b[i], depth)
		})
	}
	w := float32(r.pixel)
	for i, outer := range r.a {
		if outer > -w {
			r.img[i] = mixHU(r.img[i], huBronchus, coverage(outer, w))
			r.img[i] = mixHU(r.img[i], huLumen, coverage(r.b[i], w))
		}
	}
}

// drawNodule draws the cut through a nodule: ground glass first, then the
// solid part.
func (r *renderer) drawNodule(z float64, n *nodule) {
	const softEdge = 2.2 // ground glass fades into the lung, mm
	reach := n.reach() + softEdge
	w := float32(r.pixel)
	column := func(x float64) int { return int(math.Round(x/r.pixel + float64(r.n-1)/2)) }
	for j := max(column(n.centre[1]-reach), 0); j <= min(column(n.centre[1]+reach), r.n-1); j++ {
		for i := max(column(n.centre[0]-reach), 0); i <= min(column(n.centre[0]+reach), r.n-1); i++ {
			d := vec{r.x(i), r.x(j), z}.sub(n.centre)
			distance, surface := d.norm(), n.surface(d.unit())
			if distance > surface+reach {
				continue
			}
			at := j*r.n + i
			if n.kind != KindSolid {
				r.brighten(at, float32(n.halo), coverage(float32(surface-distance), max(w, softEdge)))
			}
			switch n.kind {
			case KindSolid:
				r.brighten(at, float32(n.hu), coverage(float32(surface-distance), w))
			case KindPartSolid:
				r.brighten(at, float32(n.hu), coverage(float32(0.5*surface-distance), w))
			}
		}
	}
}
