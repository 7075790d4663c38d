package phantom

import "math"

// Hounsfield units of what is in a chest.
const (
	huAir        = -1000
	minHU, maxHU = -1024, 3071 // what 12 bits hold
	huSkin       = 10
	huFat        = -105
	huMuscle     = 52
	huBlood      = 42
	huHeart      = 46
	huLiver      = 60
	huSpleen     = 48
	huLung       = -868
	huMarrow     = 170
	huCortex     = 780
	huDisc       = 85
	huCartilage  = 105
	huBronchus   = 5
	huTable      = -420
	huVessel     = 38
	huLumen      = -985 // air inside bronchi
	huPadding    = -95  // fat between the organs of the mediastinum
	huFissure    = -680
)

const (
	psfSigma    = 0.55 // of the scanner in plane, mm
	noiseSigma  = 0.75 // correlation of the noise, pixels
	cortex      = 1.3  // thickness of compact bone, mm
	subSlice    = 0.7  // thickness that small things are averaged over, mm
	fissureHalf = 0.45 // half the thickness of a fissure, mm
)

// scene is everything that slices are made of; it is not changed by rendering.
type scene struct {
	*body
	grid
	nodules []*nodule
	noise   float64
	// What reaches into each slice, by slice.
	slices []sliceContent
}

type sliceContent struct {
	bones, cartilage, blood, vessels []tube
	airways                          []airway
	nodules                          []*nodule
}

func newScene(b *body, nodules []*nodule, o Options) *scene {
	s := &scene{body: b, grid: o.grid(), nodules: nodules, noise: o.Noise, slices: make([]sliceContent, o.Slices)}
	each := func(low, high float64, f func(*sliceContent)) {
		first := int(math.Floor((low-s.bottom)/s.dz - 0.5))
		last := int(math.Ceil((high-s.bottom)/s.dz + 0.5))
		for k := max(first, 0); k <= min(last, s.grid.slices-1); k++ {
			f(&s.slices[k])
		}
	}
	span := func(t tube) (low, high float64) {
		r := max(t.ra, t.rb) + 2*s.pixel
		return min(t.a[2], t.b[2]) - r, max(t.a[2], t.b[2]) + r
	}
	spread := func(tubes []tube, list func(*sliceContent) *[]tube) {
		for _, t := range tubes {
			low, high := span(t)
			each(low, high, func(c *sliceContent) { l := list(c); *l = append(*l, t) })
		}
	}
	spread(b.bones, func(c *sliceContent) *[]tube { return &c.bones })
	spread(b.cartilage, func(c *sliceContent) *[]tube { return &c.cartilage })
	spread(b.blood, func(c *sliceContent) *[]tube { return &c.blood })
	spread(b.vessels, func(c *sliceContent) *[]tube { return &c.vessels })
	for _, a := range b.airways {
		low, high := span(a.tube)
		each(low, high, func(c *sliceContent) { c.airways = append(c.airways, a) })
	}
	for _, n := range nodules {
		spread(n.spicules, func(c *sliceContent) *[]tube { return &c.vessels })
		reach := n.reach() + 2
		each(n.centre[2]-reach, n.centre[2]+reach, func(c *sliceContent) { c.nodules = append(c.nodules, n) })
	}
	return s
}

// renderer makes slices; one goroutine uses it at a time.
type renderer struct {
	*scene
	img, sum []float32 // HU of one cut, and of the slice
	a, b     []float32 // coverage or depth while things are drawn
	rows     [5][]float32
	line     []float32
}

func newRenderer(s *scene) *renderer {
	plane := func() []float32 { return make([]float32, s.n*s.n) }
	r := &renderer{scene: s, img: plane(), sum: plane(), a: plane(), b: plane()}
	for i := range r.rows {
		r.rows[i] = make([]float32, s.n)
	}
	r.line = make([]float32, s.skin.n[0])
	return r
}

// slice returns the HU of slice k, row by row. A slice is the mean of thin
// cuts through the body, so that what is thinner than it fades as it does in a
// scanner.
func (r *renderer) slice(k int) []int16 {
	clear(r.sum)
	cuts := max(1, int(math.Round(r.dz/subSlice)))
	for cut := range cuts {
		r.cut(r.z(k)+((float64(cut)+0.5)/float64(cuts)-0.5)*r.dz, &r.slices[k])
		for i, hu := range r.img {
			r.sum[i] += hu
		}
	}
	for i := range r.sum {
		r.sum[i] /= float32(cuts)
	}
	blur(r.sum, r.a, r.n, psfSigma/r.pixel)
	r.addNoise(k)
	out := make([]int16, len(r.sum))
	for i, hu := range r.sum {
		out[i] = int16(min(max(math.Round(float64(hu)), minHU), maxHU))
	}
	return out
}

// addNoise adds the noise of slice k, stronger where the shoulders are in the
// way.
func (r *renderer) addNoise(k int) {
	if r.noise == 0 {
		return
	}
	seed := mix(uint64(r.seed)^uint64(k)<<40) &^ (1<<32 - 1)
	for i := range r.img {
		r.img[i] = gauss(seed + uint64(i))
	}
	blur(r.img, r.a, r.n, noiseSigma)
	level := float32(r.noise / blurGain(noiseSigma) * (1 + 0.35*smoothstep(235, 290, r.z(k))))
	for i, v := range r.img {
		r.sum[i] += level * v
	}
}

// cut draws an infinitely thin cut through the body at the height z.
func (r *renderer) cut(z float64, c *sliceContent) {
	r.background(z)
	r.drawBlood(z, c.blood)
	r.drawBones(z, c)
	r.drawVessels(z, c.vessels)
	for _, n := range c.nodules {
		r.drawNodule(z, n)
	}
	r.drawAirways(z, c.airways)
}
