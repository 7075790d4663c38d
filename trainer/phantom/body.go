package phantom

import "math"

// The lungs' dome: a rounded box around (±domeX, domeY, domeZ), straight
// downwards and closed upwards.
const (
	domeX, domeY, domeZ   = 66.0, 5.0, 130.0
	domeHalfX, domeHalfY  = 66.0, 86.0
	domeHeight, domePower = 150.0, 2.5
	spineY                = 56.0 // centre of the vertebral bodies
)

// body is a patient: the shapes of the organs as distances to their surfaces
// (positive inside), and the trees in the lungs.
type body struct {
	seed             int64
	low, high        float64 // ends of the scan: nodules lie between them
	skin, lung       *field  // distance to the surface of the body; of both lungs
	heart            *field
	coarse, fine     *field // texture, mean 0, standard deviation near 1
	domes            [2]vec // top of the diaphragm, right and left
	heartCentre      vec
	heartHalf        vec
	bones, cartilage []tube
	blood            []tube // vessels in the mediastinum
	vessels          []tube // in the lungs
	airways          []airway
	fissures         [2]fissure // oblique: right and left
}

// fissure is the oblique surface between the lobes of a lung: z as a function
// of y.
type fissure struct{ z, slope, bend float64 }

// newBody makes the patient that belongs to a seed.
func newBody(seed int64) *body {
	r := rng(seed, "body")
	jitter := func(spread float64) float64 { return (2*r.Float64() - 1) * spread }
	b := &body{seed: seed, high: scanHeight}
	b.domes = [2]vec{
		{-62 + jitter(4), -10 + jitter(5), 66 + jitter(8)},
		{60 + jitter(4), -10 + jitter(5), 54 + jitter(8)},
	}
	b.heartCentre = vec{16 + jitter(4), -24 + jitter(3), 92 + jitter(5)}
	b.heartHalf = vec{56 + jitter(5), 46 + jitter(4), 58 + jitter(5)}
	for side := range b.fissures {
		b.fissures[side] = fissure{z: 150 + jitter(8), slope: 1.15 + jitter(0.1), bend: 0.0025 + jitter(0.001)}
	}
	width, depth := 160+jitter(4), 112+jitter(3)
	b.skin = newField(func(p vec) float64 {
		w := width + 13*smoothstep(200, 290, p[2])
		return superellipse(vec{p[0], p[1] - 2, 0}, vec{w, depth, math.Inf(1)})
	})
	b.skin.redistance()
	b.heart = newField(func(p vec) float64 {
		d := p.sub(b.heartCentre)
		// The long axis of the heart points down to the left and forward.
		d[0] += 0.35 * d[2]
		return superellipse(d, b.heartHalf) // only read near the surface, so this will do
	})
	b.lung = newField(func(p vec) float64 { return max(b.lungShape(p, 0), b.lungShape(p, 1)) })
	b.lung.redistance()
	b.coarse = noiseField(uint64(seed)*2+1, 14)
	b.fine = noiseField(uint64(seed)*2+2, 4)
	b.bones, b.cartilage = skeleton()
	b.blood = greatVessels()
	b.vessels, b.airways = lungTrees(b, rng(seed, "trees"))
	return b
}

// sideSign is -1 for the right lung (0) and 1 for the left (1): LPS.
func sideSign(side int) float64 { return float64(2*side - 1) }

// lungShape is positive inside a lung: the dome, cut from the middle by the
// mediastinum and from below by the diaphragm.
func (b *body) lungShape(p vec, side int) float64 {
	s := sideSign(side)
	d := vec{p[0] - s*domeX, p[1] - domeY, max(p[2]-domeZ, 0)}
	if s*p[0] < -30 {
		return -50 // well inside the other half
	}
	shape := superellipse(d, vec{domeHalfX, domeHalfY, domeHeight})
	shape = smoothMin(shape, -b.mediastinum(p, s), 6)
	return smoothMin(shape, b.aboveDiaphragm(p, side), 5)
}

// aboveDiaphragm is the height over the diaphragm, which falls from its dome
// to the sides and most to the back.
func (b *body) aboveDiaphragm(p vec, side int) float64 {
	d := p.sub(b.domes[side])
	fall := 46 * d[0] * d[0] / (62 * 62)
	back := 30.0
	if d[1] > 0 {
		back = 66
	}
	return p[2] - (b.domes[side][2] - fall - back*d[1]*d[1]/(80*80))
}

// mediastinum is positive where no lung can be, seen from the side s.
func (b *body) mediastinum(p vec, s float64) float64 {
	inf := math.Inf(1)
	x, y, z := p[0], p[1], p[2]
	// Behind the breastbone the lungs almost touch.
	m := 3.5 - s*x
	// Upper mediastinum, wider at the level of the hila.
	wide := 27 + 7*math.Exp(-(z-160)*(z-160)/(2*30*30)) + 6*smoothstep(240, 285, z)
	m = smoothMax(m, superellipse(vec{x, y - 8, 0}, vec{wide, 46, inf}), 12)
	// Heart with the fat around it.
	d := p.sub(b.heartCentre)
	d[0] += 0.35 * d[2]
	m = smoothMax(m, superellipse(d, b.heartHalf.add(vec{4, 4, 4})), 12)
	// Spine, and the muscle behind it.
	m = smoothMax(m, superellipse(vec{x, y - spineY, 0}, vec{23, 21, inf}), 8)
	m = smoothMax(m, min(25-s*x, y-spineY), 8)
	// Descending aorta.
	return smoothMax(m, 13-math.Hypot(x-23, y-36), 6)
}

// fissureDistance is the distance to the oblique fissure of the lung at x.
func (b *body) fissureDistance(x, y, z float64) float64 {
	side := 0
	if x > 0 {
		side = 1
	}
	f := b.fissures[side]
	slope := f.slope + 2*f.bend*y
	return (z - (f.z + f.slope*y + f.bend*y*y + 0.001*x*x)) / math.Sqrt(1+slope*slope)
}

// greatVessels returns the vessels of the mediastinum.
func greatVessels() []tube {
	join := func(parts ...[]tube) (all []tube) {
		for _, p := range parts {
			all = append(all, p...)
		}
		return all
	}
	return join(
		chain(11.5, vec{23, 38, -10}, vec{22, 36, 195}, vec{19, 28, 212}, vec{12, 10, 221}),      // descending aorta
		chain(14, vec{12, 10, 221}, vec{2, -10, 220}, vec{-7, -25, 205}, vec{-8, -26, 135}),      // arch, ascending aorta
		chain(8, vec{-23, -10, 310}, vec{-24, -12, 215}, vec{-22, -10, 130}),                     // superior vena cava
		chain(12, vec{12, -34, 135}, vec{12, -24, 160}, vec{10, -12, 170}),                       // pulmonary trunk
		chain(9, vec{10, -12, 170}, vec{-14, 0, 167}, vec{-34, 2, 165}),                          // right pulmonary artery
		chain(9, vec{10, -12, 170}, vec{26, -2, 173}, vec{36, 4, 170}),                           // left pulmonary artery
		chain(7, vec{-8, 12, 132}, vec{-32, 2, 142}), chain(7, vec{8, 12, 132}, vec{34, 2, 142}), // pulmonary veins
		chain(15, vec{-12, 10, 128}, vec{14, 10, 128}),                                             // left atrium
		chain(6, vec{-10, -14, 222}, vec{-22, 0, 300}), chain(4, vec{4, -4, 226}, vec{12, 4, 310}), // branches of the arch
		chain(4.5, vec{12, 6, 226}, vec{24, 14, 310}), chain(5.5, vec{-20, -14, 262}, vec{26, -20, 285}),
		chain(5.5, vec{7, 33, -10}, vec{6, 34, 200}, vec{3, 34, 310}), // oesophagus
		chain(4, vec{-9, 40, -10}, vec{-9, 40, 170}),                  // azygos vein
	)
}
