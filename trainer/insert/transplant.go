package insert

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"hilum/models/ct"
)

// transplant chooses a real nodule near that diameter and turns it.
func transplant(r *rand.Rand, sources []Source, diameter float64, s *site, at spot) (object, Nodule, error) {
	var fitting []Source
	for _, c := range sources {
		if f := diameter / c.DiameterMM; f >= leastScale && f <= mostScale {
			fitting = append(fitting, c)
		}
	}
	if len(fitting) == 0 { // as of a diameter that no source has
		nearest := sources[0]
		for _, c := range sources {
			if math.Abs(math.Log(c.DiameterMM/diameter)) < math.Abs(math.Log(nearest.DiameterMM/diameter)) {
				nearest = c
			}
		}
		fitting = []Source{nearest}
	}
	c := fitting[r.IntN(len(fitting))]
	scale := min(max(diameter/c.DiameterMM, leastScale), mostScale)
	n := Nodule{
		Origin: OriginReal, DiameterMM: c.DiameterMM * scale, Kind: c.Kind, Spiculated: c.Spiculated, Calcified: c.Calcified,
		File: c.Name, Patient: c.Patient, Scale: math.Round(scale*1e4) / 1e4,
	}
	crop, err := readCrop(c)
	if err != nil {
		return nil, n, fmt.Errorf("nodule %s: %w", c.Name, err)
	}
	o := &transplanted{crop: crop, scale: scale, level: at.level, axes: s.Axes}
	o.turn(r, vecOf(s.Axes, at.outward))
	return o, n, nil
}

// vecOf turns a direction along index axes into one in the patient.
func vecOf(axes [3][3]float64, v vec) (w vec) {
	for a := range axes {
		w = w.add(vec(axes[a]).mul(v[a]))
	}
	return w
}

// crop is a real nodule in memory.
type crop struct {
	*ct.Volume
	mask    []int16
	centre  vec     // of the mask, in the patient
	reach   float64 // the farthest voxel of the mask from it, mm
	lung    float64 // HU of the lung around it
	bright  float64 // HU near the top of what is in the mask
	noise   float64 // HU
	wall    vec     // towards the tissue that it touches; short when there is none
	spacing float64 // of its slices
}

func readCrop(s Source) (*crop, error) {
	v, err := ct.ReadMetaImage(s.File)
	if err != nil {
		return nil, err
	}
	m, err := ct.ReadMetaImage(s.mask())
	if err != nil {
		return nil, err
	}
	if m.Geometry != v.Geometry {
		return nil, errors.New("its mask lies on another grid")
	}
	if v.Voxels() > maxCropVoxels {
		return nil, errors.New("it is larger than any nodule")
	}
	c := &crop{Volume: v, mask: m.HU, noise: usualNoise, spacing: v.Spacing[2]}
	var inside, around, fine []float64
	count := 0.0
	c.each(func(i, j, k, at int) {
		if c.mask[at] != 0 {
			c.centre = c.centre.add(vec(v.World(float64(i), float64(j), float64(k))))
			count++
			inside = append(inside, float64(v.HU[at]))
			if i > 0 && j > 0 && i+1 < v.Size[0] && j+1 < v.Size[1] &&
				c.mask[at-1] != 0 && c.mask[at+1] != 0 && c.mask[at-v.Size[0]] != 0 && c.mask[at+v.Size[0]] != 0 {
				mean := (float64(v.HU[at-1]) + float64(v.HU[at+1]) + float64(v.HU[at-v.Size[0]]) + float64(v.HU[at+v.Size[0]])) / 4
				fine = append(fine, math.Abs(float64(v.HU[at])-mean))
			}
		} else if v.HU[at] < -700 {
			around = append(around, float64(v.HU[at]))
		}
	})
	if count == 0 {
		return nil, errors.New("its mask is empty")
	}
	c.centre = c.centre.mul(1 / count)
	c.bright = quantile(inside, 0.95)
	c.lung = airLevel
	if len(around) > 50 {
		c.lung = quantile(around, 0.5)
	}
	if len(fine) >= 20 {
		// The spread of a value less the mean of its four neighbours is √1.25 of
		// the noise, where the noise is white.
		c.noise = quantile(fine, 0.5) * 1.4826 / math.Sqrt(1.25)
	}
	touching := 0.0
	c.each(func(i, j, k, at int) {
		d := vec(v.World(float64(i), float64(j), float64(k))).sub(c.centre)
		if c.mask[at] != 0 {
			c.reach = max(c.reach, d.norm())
		} else if v.HU[at] > wallHU && c.touches(i, j, at) && d.norm() > 0 {
			c.wall = c.wall.add(d.mul(1 / d.norm()))
			touching++
		}
	})
	if touching > 0 {
		c.wall = c.wall.mul(min(touching/math.Pow(count, 2.0/3), 1) / touching)
	}
	return c, nil
}

func (c *crop) each(f func(i, j, k, at int)) {
	at := 0
	for k := range c.Size[2] {
		for j := range c.Size[1] {
			for i := range c.Size[0] {
				f(i, j, k, at)
				at++
			}
		}
	}
}

// touches tells whether a voxel has the nodule two voxels away in its plane:
// nearer ones are its own blurred margin.
func (c *crop) touches(i, j, at int) bool {
	near := func(offset int, ok bool) bool { return ok && c.mask[at+offset] != 0 }
	nx := c.Size[0]
	return near(-2, i > 1) || near(2, i+2 < nx) || near(-2*nx, j > 1) || near(2*nx, j+2 < c.Size[1])
}

func quantile(v []float64, q float64) float64 {
	v = slices.Clone(v)
	slices.Sort(v)
	return v[int(q*float64(len(v)-1))]
}

// transplanted is a real nodule on its way.
type transplanted struct {
	*crop
	scale float64
	level float64       // HU of the lung that it comes to
	axes  [3][3]float64 // of the scan
	from  [3]vec        // the scan's index axes in the crop's patient
}

// How far around the mask the crop's own margin is taken over, and how it fades.
const (
	marginSigma = 0.8 // mm
	marginFrom  = 0.06
	marginTo    = 0.42
	sourceBlur  = 0.55 // point spread of the scanners of the sources, mm
)

// turn chooses a rotation about the patient's long axis and mirrorings. A nodule
// that grows from tissue is turned so that this side points to the wall.
func (o *transplanted) turn(r *rand.Rand, outward vec) {
	mirror := vec{1, 1, 1}
	for a := range mirror {
		if r.IntN(2) == 1 {
			mirror[a] = -1
		}
	}
	angle := 2 * math.Pi * r.Float64()
	if o.wall.norm() > 0.15 {
		mirror = vec{1, 1, mirror[2]}
		if o.wall[2]*outward[2] < 0 {
			mirror[2] = -1
		} else {
			mirror[2] = 1
		}
		angle = math.Atan2(o.wall[1], o.wall[0]) - math.Atan2(outward[1], outward[0])
	}
	sin, cos := math.Sincos(angle)
	for a := range o.from {
		w := o.axes[a]
		o.from[a] = vec{(cos*w[0] - sin*w[1]) * mirror[0], (sin*w[0] + cos*w[1]) * mirror[1], w[2] * mirror[2]}
	}
}

func (o *transplanted) reach() float64 {
	return o.crop.reach*o.scale + 3*marginSigma + o.spacing*o.scale
}

// blur: the nodule has been through a scanner once.
func (o *transplanted) blur(spread, thickness float64) (sigma, slice float64) {
	less := func(whole, part float64) float64 { return math.Sqrt(max(0, whole*whole-part*part)) }
	return less(spread, sourceBlur*o.scale), less(thickness, o.spacing*o.scale)
}

func (o *transplanted) noise(s Scanner) float64 {
	if o.crop.noise >= s.NoiseHU {
		return 0
	}
	return math.Sqrt(1 - math.Pow(o.crop.noise/s.NoiseHU, 2))
}

func (o *transplanted) draw(g *grid) {
	at := -1
	for k := range g.n {
		for j := range g.n {
			for i := range g.n {
				at++
				p := g.place(i, j, k)
				q := o.centre.add(o.from[0].mul(p[0] / o.scale)).add(o.from[1].mul(p[1] / o.scale)).add(o.from[2].mul(p[2] / o.scale))
				fill, hu := o.sample(q)
				g.fill[at], g.hu[at] = float32(fill), float32(hu)
			}
		}
	}
	for _, stride := range [...]int{1, g.n, g.n * g.n} {
		g.blurAxis(g.fill, stride, marginSigma)
	}
	for i, mask := range g.fill {
		// Tissue outside the mask is not of the nodule: there is no more of it
		// than a blurred margin would have.
		m := float64(mask)
		hu := float64(g.hu[i])
		hu = min(hu, o.lung+(max(o.bright, o.lung)-o.lung)*ramp(m/0.5))
		// The lung comes to the level of the new one, tissue stays.
		hu += (o.level - o.lung) * (1 - ramp((hu-o.lung)/-o.lung))
		fill := ramp((m - marginFrom) / (marginTo - marginFrom))
		g.fill[i], g.hu[i] = float32(fill), float32(fill*hu)
	}
}

// sample reads the mask and the HU at a place in the crop's patient; beyond the
// crop there is no nodule, and its outermost HU.
func (o *transplanted) sample(q vec) (fill, hu float64) {
	x, y, z := o.Voxel(q)
	index := [3]float64{x, y, z}
	var low [3]int
	var f [3]float64
	for a, v := range index {
		low[a] = int(math.Floor(v))
		f[a] = v - float64(low[a])
	}
	for corner := range 8 {
		w := 1.0
		var n [3]int
		out := false
		for a := range 3 {
			n[a] = low[a]
			if corner>>a&1 == 1 {
				n[a]++
				w *= f[a]
			} else {
				w *= 1 - f[a]
			}
			if n[a] < 0 || n[a] >= o.Size[a] {
				out = true
				n[a] = min(max(n[a], 0), o.Size[a]-1)
			}
		}
		at := o.Index(n[0], n[1], n[2])
		hu += w * float64(o.HU[at])
		if !out && o.mask[at] != 0 {
			fill += w
		}
	}
	return fill, hu
}
