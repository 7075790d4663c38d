package phantom

import "math"

// skeleton returns ribs, breastbone, collar bones and shoulder blades as
// tubes, and the cartilage between ribs and breastbone. The spine is a shape
// of its own: see vertebra.
func skeleton() (bones, cartilage []tube) {
	for side := range 2 {
		s := sideSign(side)
		for n := range 12 {
			b, c := rib(s, n)
			bones, cartilage = append(bones, b...), append(cartilage, c...)
		}
		bones = append(bones, chain(5.5, vec{s * 16, -88, 262}, vec{s * 50, -86, 272}, vec{s * 100, -55, 285}, vec{s * 150, -28, 292})...)
		// Shoulder blade: upright tubes side by side make a plate.
		for i := range 26 {
			t := float64(i) / 25
			x, y := 62+58*t, 104-34*t*t-5*t
			low, high := 160+50*t, 268-6*t
			r := 2.4 + 2*t*t
			bones = append(bones, tube{vec{s * x, y, low}, vec{s * x, y, high}, r, r})
		}
		bones = append(bones, chain(4.5, vec{s * 75, 104, 244}, vec{s * 105, 88, 262}, vec{s * 140, 50, 284})...)
	}
	// Breastbone: the same, narrower below the manubrium.
	for i := -6; i <= 6; i++ {
		x := float64(i) * 3.2
		low := 112 + math.Abs(x)*1.2
		bones = append(bones, tube{vec{x, -97, low}, vec{x, -95, 252 - math.Abs(x)*0.3}, 4.2, 4.8})
	}
	return bones, cartilage
}

// rib returns rib n (0 the highest) of the side s. It follows the dome of the
// lung from the spine round the side to the front, sinking on the way; ribs 10
// and 11 are short.
func rib(s float64, n int) (bone, cartilage []tube) {
	const steps = 48
	zPosterior := 276 - 22.5*float64(n)
	fall := 34 + 30*smoothstep(0, 5, float64(n))
	from, to, boneEnd := 128.0, -118.0, -52.0
	if n >= 10 {
		to, boneEnd = 40-20*float64(11-n), -180
	}
	point := func(t float64) vec {
		angle := (from + (to-from)*t) * math.Pi / 180
		z := zPosterior - fall*smoothstep(0, 1, t)
		g := math.Pow(max(1-math.Pow(max(z-domeZ, 0)/domeHeight, domePower), 0.03), 1/domePower)
		c, sn := math.Cos(angle), math.Sin(angle)
		power := 2 / domePower
		return vec{
			s * (domeX + (domeHalfX*g+8)*math.Copysign(math.Pow(math.Abs(c), power), c)),
			domeY + (domeHalfY*g+8)*math.Copysign(math.Pow(math.Abs(sn), power), sn),
			z,
		}
	}
	last := point(0)
	// Tubes, one above the other, make a rib higher than thick.
	stack := func(a, b vec, r float64) []tube {
		up := vec{0, 0, 2.4}
		return []tube{{a.add(up), b.add(up), r, r}, {a, b, r + 0.3, r + 0.3}, {a.sub(up), b.sub(up), r, r}}
	}
	for i := 1; i <= steps; i++ {
		t := float64(i) / steps
		p := point(t)
		if from+(to-from)*t > boneEnd {
			bone = append(bone, stack(last, p, 3.4)...)
		} else {
			cartilage = append(cartilage, stack(last, p, 3.6)...)
		}
		last = p
	}
	if n < 7 {
		cartilage = append(cartilage, stack(last, vec{s * 20, -94, min(max(last[2], 122), 246)}, 3.6)...)
	}
	return bone, cartilage
}

const (
	vertebraPitch = 25.0 // from one vertebra to the next, mm
	discHeight    = 5.0
)

// vertebra returns how deep p lies in the bone of the spine, and whether it is
// in a disc instead; depth is negative outside both.
func vertebra(p vec) (depth float64, disc bool) {
	x, y := math.Abs(p[0]), p[1]-spineY
	phase := math.Mod(p[2]+1000*vertebraPitch, vertebraPitch) - vertebraPitch/2 // 0 in the middle of a body
	half := (vertebraPitch - discHeight) / 2
	// The body has a waist, and a dent towards the canal.
	waist := 1.2 * math.Cos(phase/half*math.Pi/2)
	d := 14.5 - waist - math.Hypot(x*14.5/17.5, y)
	d = smoothMin(d, math.Hypot(x, y-21)-11, 3)
	if math.Abs(phase) > half {
		return d, true
	}
	d = smoothMin(d, half-math.Abs(phase), 1.5)
	// Arch behind the canal: pedicles, lamina, transverse and spinous process.
	canal := 8.5 - math.Hypot(x, y-20)
	arch := 12.5 - math.Hypot(x, y-20)
	if y < 12 {
		arch = min(arch, 5.5-math.Abs(phase-3))
	}
	transverse := tube{vec{9, 22, 0}, vec{30, 30, 0}, 4, 3}.depth(vec{x, y, (phase - 2) * 0.8})
	spinous := tube{vec{0, 30, 2}, vec{0, 46, -10}, 3.6, 2.8}.depth(vec{x, y, phase})
	rear := min(smoothMax(smoothMax(arch, transverse, 2), spinous, 2), -canal)
	return max(d, rear), false
}
