package ct

import (
	"errors"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// ball3 is a sphere in the patient.
type ball3 struct {
	centre [3]float64
	radius float64
	hu     float64
}

// chestOptions change the synthetic chest.
type chestOptions struct {
	noLungs, noLeft, touching bool
	extra                     []ball3 // later ones cover earlier ones
	noise                     float64
}

// ellipsoid is below 1 inside.
func ellipsoid(p, centre, half [3]float64) float64 {
	sum := 0.0
	for a := range 3 {
		d := (p[a] - centre[a]) / half[a]
		sum += d * d
	}
	return sum
}

// The synthetic chest, in LPS mm with the carina near the origin.
var (
	lungHalf    = [3]float64{58, 82, 120}
	rightCentre = [3]float64{-72, 0, -20}
	leftCentre  = [3]float64{72, 0, -20}
)

// inLungs tells whether a point is in the synthetic lungs.
func inLungs(p [3]float64, o chestOptions) bool {
	if o.noLungs || p[2] < -90 {
		return false
	}
	right, left := rightCentre, leftCentre
	if o.touching {
		right[0], left[0] = -55, 55 // 6 mm of lung in common
	}
	in := ellipsoid(p, right, lungHalf) < 1 || (!o.noLeft && ellipsoid(p, left, lungHalf) < 1)
	heart := ellipsoid(p, [3]float64{20, -35, -60}, [3]float64{55, 40, 50}) < 1
	return in && !heart && math.Hypot(p[0], p[1]) > 12 // wall of the trachea
}

// chest makes a synthetic chest CT: body, two lungs, heart, spine, trachea, a
// table with a foam core, gas in the bowel.
func chest(g Geometry, o chestOptions) *Volume {
	v := &Volume{Geometry: g, HU: make([]int16, g.Voxels())}
	// The middle of the grid is the middle of the chest.
	mid := g.World(float64(g.Size[0]-1)/2, float64(g.Size[1]-1)/2, float64(g.Size[2]-1)/2)
	for a := range 3 {
		v.Origin[a] -= mid[a]
	}
	parallel(g.Size[2], 0, func(lo, hi int) {
		for k := lo; k < hi; k++ {
			r := rand.New(rand.NewPCG(9, uint64(k)))
			for j := range g.Size[1] {
				for i := range g.Size[0] {
					p := v.World(float64(i), float64(j), float64(k))
					hu := chestHU(p, o)
					if o.noise > 0 {
						hu += r.NormFloat64() * o.noise
					}
					v.HU[g.Index(i, j, k)] = int16(hu)
				}
			}
		}
	})
	return v
}

func chestHU(p [3]float64, o chestOptions) float64 {
	hu := -1000.0
	flat := [3]float64{p[0], p[1], 0}
	switch {
	case ellipsoid(flat, [3]float64{}, [3]float64{160, 105, 1}) < 1:
		hu = 40
		for _, gas := range []ball3{{[3]float64{60, -40, -125}, 22, -990}, {[3]float64{-30, -50, -135}, 15, -990}} {
			if distance(p, gas.centre) < gas.radius {
				hu = gas.hu
			}
		}
		if inLungs(p, o) {
			hu = -860
		}
		if p[2] > 0 && math.Hypot(p[0], p[1]) < 9 && !o.noLungs {
			hu = -1000
		}
		if math.Hypot(p[0], p[1]-85) < 15 {
			hu = 400
		}
	case p[1] > 112 && p[1] < 160 && math.Abs(p[0]) < 180:
		hu = -930 // foam
		if p[1] < 115 || p[1] > 157 {
			hu = 100
		}
	}
	for _, b := range o.extra {
		// The border is 3 mm wide, as scanners draw it.
		inside := min(max((b.radius-distance(p, b.centre))/3+0.5, 0), 1)
		hu += inside * (b.hu - hu)
	}
	return hu
}

// chestGrid has voxels of the given size, 3 mm along the patient, and is big
// enough for the chest in any orientation near axial, coronal or sagittal.
func chestGrid(axes [3][3]float64, mm float64) Geometry {
	g := Geometry{Spacing: [3]float64{mm, mm, mm}, Axes: axes}
	extent := [3]float64{370, 340, 290}
	for a := range 3 {
		length := 0.0
		for n := range 3 {
			length = max(length, math.Abs(axes[a][n])*extent[n])
		}
		if math.Abs(axes[a][2]) > 0.8 {
			g.Spacing[a] = 3
		}
		g.Size[a] = int(length / g.Spacing[a])
	}
	return g
}

// dice compares a mask with the synthetic lungs.
func (m *Mask) dice(in func(p [3]float64) bool) float64 {
	both, sum := 0, 0
	for n, b := range m.Bits {
		i, j, k := n%m.Size[0], n/m.Size[0]%m.Size[1], n/(m.Size[0]*m.Size[1])
		want := in(m.World(float64(i), float64(j), float64(k)))
		if want {
			sum++
			both += int(b)
		}
		sum += int(b)
	}
	return 2 * float64(both) / float64(sum)
}

// at returns the mask at a point of the patient.
func (m *Mask) at(p [3]float64) uint8 {
	x, y, z := m.Voxel(p)
	return m.Bits[m.Index(int(math.Round(x)), int(math.Round(y)), int(math.Round(z)))]
}

func TestLungMaskOfSyntheticChest(t *testing.T) {
	// Lungs are looked for in slices near axial, coronal or sagittal.
	for _, name := range []string{"axial, feet first", "sagittal", "oblique", "patient on a side"} {
		axes := orientations[name]
		t.Run(name, func(t *testing.T) {
			o := chestOptions{noise: 40}
			m, err := LungMask(chest(chestGrid(axes, 3.5), o), 2)
			if err != nil {
				t.Fatal(err)
			}
			if d := m.dice(func(p [3]float64) bool { return inLungs(p, o) }); d < 0.97 {
				t.Errorf("Dice with the true lungs = %.4f, want 0.97", d)
			}
			for what, p := range map[string][3]float64{"trachea": {0, 0, 60}, "heart": {20, -35, -60}, "table": {0, 135, 0}, "air": {170, -80, 50}, "bowel gas": {60, -40, -125}} {
				if m.at(p) != 0 {
					t.Errorf("the %s is in the lung mask", what)
				}
			}
		})
	}
}

func TestLungMaskOfUnusualChests(t *testing.T) {
	axial := chestGrid(orientations["axial"], 3)
	fine := chestGrid(orientations["axial, feet first"], 0.9) // blocks of 2 × 2 × 1 voxels
	fine.Size[2] = 24
	narrow := axial
	narrow.Size[0] = 60 // 180 mm around the middle
	narrow.Size[1] = 60
	upper := axial
	upper.Size[2] = 30 // 90 mm around the middle
	for _, tt := range []struct {
		name string
		grid Geometry
		o    chestOptions
	}{
		{"lungs that touch", axial, chestOptions{touching: true, noise: 30}},
		{"one lung", axial, chestOptions{noLeft: true}},
		{"part of the lungs", upper, chestOptions{noise: 30}},
		{"lung cut by a narrow field of view", narrow, chestOptions{noise: 30}},
		{"small voxels, from the feet", fine, chestOptions{noise: 60}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := chest(tt.grid, tt.o)
			m, err := LungMask(v, 2)
			if err != nil {
				t.Fatal(err)
			}
			if d := m.dice(func(p [3]float64) bool { return inLungs(p, tt.o) }); d < 0.97 {
				t.Errorf("Dice with the true lungs = %.4f, want 0.97", d)
			}
		})
	}
}

// Lungs that touch are still two: a hull over both would hold the mediastinum.
func TestTouchingLungsAreSplit(t *testing.T) {
	v := chest(chestGrid(orientations["axial"], 3), chestOptions{touching: true})
	s := v.view(2)
	found, err := findLungs(&s, 2)
	if err != nil {
		t.Fatal(err)
	}
	a, b := found.lungs[0].count(), found.lungs[1].count()
	if ratio := float64(b) / float64(a); ratio < 0.5 || ratio > 2 {
		t.Errorf("the lungs have %d and %d voxels", a, b)
	}
	shared := found.lungs[0].clone()
	shared.and(found.lungs[1])
	if n := shared.count(); n != 0 {
		t.Errorf("%d voxels are in both lungs", n)
	}
}

func TestLungMaskKeepsNodulesAndMasses(t *testing.T) {
	edge := func(towards [3]float64, depth float64) [3]float64 {
		// The point of the right lung's surface in a direction, moved inwards.
		n := math.Sqrt(ellipsoid(towards, [3]float64{}, lungHalf))
		length := math.Sqrt(dot(towards, towards))
		var p [3]float64
		for a := range 3 {
			p[a] = rightCentre[a] + towards[a]/n - towards[a]/length*depth
		}
		return p
	}
	for _, tt := range []struct {
		name string
		ball3
		covered float64 // share of the ball's voxels that must be in the mask
	}{
		{"nodule inside", ball3{[3]float64{-70, 10, 20}, 6, 30}, 1},
		{"large mass inside", ball3{[3]float64{-72, 0, 10}, 18, 40}, 1},
		{"small nodule on the pleura", ball3{edge([3]float64{-1, 0.3, 0}, 3), 4, 20}, 0.75},
		{"nodule on the pleura", ball3{edge([3]float64{-1, 0.5, 0.1}, 7), 9, 40}, 0.85},
		{"mass on the lateral chest wall", ball3{edge([3]float64{-1, 0, 0}, 16), 20, 40}, 0.85},
		{"mass on the posterior chest wall", ball3{edge([3]float64{-0.5, 1, 0}, 16), 20, 40}, 0.85},
		{"mass on the anterior chest wall", ball3{edge([3]float64{-0.6, -1, 0.2}, 16), 20, 40}, 0.85},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := chestOptions{extra: []ball3{tt.ball3}, noise: 20}
			m, err := LungMask(chest(chestGrid(orientations["axial"], 3), o), 2)
			if err != nil {
				t.Fatal(err)
			}
			in, all := 0, 0
			for n, b := range m.Bits {
				p := m.World(float64(n%m.Size[0]), float64(n/m.Size[0]%m.Size[1]), float64(n/(m.Size[0]*m.Size[1])))
				if distance(p, tt.centre) < tt.radius && inLungs(p, o) {
					all++
					in += int(b)
				}
			}
			if share := float64(in) / float64(all); share < tt.covered || m.at(tt.centre) == 0 {
				t.Errorf("%.0f %% of the part in the lung is in the mask, its centre %v; want %.0f %% and the centre", 100*share, m.at(tt.centre) != 0, 100*tt.covered)
			}
		})
	}
}

func TestNoLungs(t *testing.T) {
	grid := chestGrid(orientations["axial"], 4)
	sinus := chestOptions{noLungs: true, extra: []ball3{{[3]float64{20, -60, 40}, 14, -1000}, {[3]float64{-20, -60, 40}, 14, -1000}}}
	bowel := chestOptions{noLungs: true, extra: []ball3{{[3]float64{0, 0, 0}, 60, -1000}}}
	for _, tt := range []struct {
		name   string
		v      *Volume
		reason string
	}{
		{"abdomen", chest(grid, chestOptions{noLungs: true}), "gas"},
		{"head", chest(grid, sinus), "gas"},
		{"much gas in the bowel", chest(grid, bowel), "gas without lung tissue"},
		{"air", &Volume{Geometry: grid, HU: constant(grid, -1000)}, "no air inside the body"},
		{"water", &Volume{Geometry: grid, HU: constant(grid, 0)}, "no air inside the body"},
		{"small piece of lung", chest(grid, chestOptions{noLungs: true, extra: []ball3{{[3]float64{60, 0, 0}, 30, -850}}}), "only 1"},
		{"one voxel", &Volume{Geometry: Geometry{Size: [3]int{1, 1, 1}, Spacing: [3]float64{1, 1, 1}, Axes: grid.Axes}, HU: []int16{-800}}, "no air"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m, err := LungMask(tt.v, 2)
			if !errors.Is(err, ErrNoLungs) || !strings.Contains(err.Error(), tt.reason) {
				t.Errorf("LungMask = %v, %v, want ErrNoLungs with %q", m != nil, err, tt.reason)
			}
			if _, err := Prepare(tt.v, DefaultPrepareSpec(), 2); !errors.Is(err, ErrNoLungs) {
				t.Errorf("Prepare error = %v, want ErrNoLungs", err)
			}
		})
	}
}

func constant(g Geometry, hu int16) []int16 {
	out := make([]int16, g.Voxels())
	for n := range out {
		out[n] = hu
	}
	return out
}

func TestLungMaskRefusesWrongVolumes(t *testing.T) {
	good := Geometry{Size: [3]int{4, 4, 4}, Spacing: [3]float64{1, 1, 1}, Axes: orientations["axial"]}
	short := &Volume{Geometry: good, HU: make([]int16, 63)}
	if _, err := LungMask(short, 1); err == nil || errors.Is(err, ErrNoLungs) {
		t.Errorf("LungMask of a short volume = %v, want an error about its size", err)
	}
	bad := &Volume{Geometry: good, HU: make([]int16, 64)}
	bad.Spacing[1] = 0
	if _, err := LungMask(bad, 1); err == nil || errors.Is(err, ErrNoLungs) {
		t.Errorf("LungMask with a spacing of 0 = %v, want an error", err)
	}
}
