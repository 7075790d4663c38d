package ct

import (
	"encoding/json"
	"math"
	"testing"
)

func TestPrepareSyntheticChest(t *testing.T) {
	nodule := ball3{[3]float64{-95, 20, 20}, 7, 60}
	spec := DefaultPrepareSpec()
	for name, axes := range orientations {
		if name != "axial, feet first" && name != "oblique" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			o := chestOptions{extra: []ball3{nodule}}
			v := chest(chestGrid(axes, 2.5), o)
			p, err := Prepare(v, spec, 2)
			if err != nil {
				t.Fatal(err)
			}
			if p.Spacing != spec.SpacingMM || len(p.Data) != p.Voxels() || p.Mask.Geometry != p.Geometry {
				t.Fatalf("spacing %v, %d values for %v voxels", p.Spacing, len(p.Data), p.Size)
			}
			if p.Axes[0][0] < 0.8 || p.Axes[1][1] < 0.8 || p.Axes[2][2] < 0.8 {
				t.Errorf("axes = %v, want them near the patient's", p.Axes)
			}
			// The nodule is bright where it is in the patient, and only there.
			sum, n := [3]float64{}, 0.0
			x, y, z := p.Voxel(nodule.centre)
			for k := int(z) - 14; k <= int(z)+14; k++ {
				for j := int(y) - 14; j <= int(y)+14; j++ {
					for i := int(x) - 14; i <= int(x)+14; i++ {
						w := p.World(float64(i), float64(j), float64(k))
						if distance(w, nodule.centre) < nodule.radius+6 && p.Data[p.Index(i, j, k)] > 113 { // -400 HU
							n++
							for a := range 3 {
								sum[a] += w[a]
							}
						}
					}
				}
			}
			for a := range 3 {
				if sum[a]/n < nodule.centre[a]-0.25 || sum[a]/n > nodule.centre[a]+0.25 {
					t.Errorf("the nodule's middle is at %.2f %.2f %.2f, want %v", sum[0]/n, sum[1]/n, sum[2]/n, nodule.centre)
					break
				}
			}
			// Linear interpolation between voxels as large as these shrinks a ball.
			if want := 4.0 / 3 * math.Pi * math.Pow(nodule.radius, 3); n < 0.75*want || n > 1.1*want {
				t.Errorf("the nodule has %g voxels, want about %.0f", n, want)
			}
			value := func(q [3]float64) uint8 {
				x, y, z := p.Voxel(q)
				return p.Data[p.Index(int(math.Round(x)), int(math.Round(y)), int(math.Round(z)))]
			}
			if got := value([3]float64{-72, -20, 0}); got != 48 { // (-860+1200)/1800·255 = 48.2
				t.Errorf("lung = %d, want 48", got)
			}
			if got := value([3]float64{0, 78, 0}); got != spec.PadValue {
				t.Errorf("bone of the spine near the lung = %d, want %d", got, spec.PadValue)
			}
		})
	}
}

func TestPrepareCropMarginsAndMasking(t *testing.T) {
	v := chest(chestGrid(orientations["axial"], 3), chestOptions{})
	spec := DefaultPrepareSpec()
	spec.SpacingMM = [3]float64{2, 2, 2} // quick
	masked, err := Prepare(v, spec, 2)
	if err != nil {
		t.Fatal(err)
	}
	lo, hi := masked.Size, [3]int{}
	for n, b := range masked.Mask.Bits {
		if b != 0 {
			at := [3]int{n % masked.Size[0], n / masked.Size[0] % masked.Size[1], n / (masked.Size[0] * masked.Size[1])}
			for a := range 3 {
				lo[a], hi[a] = min(lo[a], at[a]), max(hi[a], at[a]+1)
			}
		}
	}
	for a := range 3 {
		if lo[a] != spec.MarginVoxels[0] || masked.Size[a]-hi[a] != spec.MarginVoxels[1] {
			t.Errorf("axis %d: lungs at %d..%d of %d, want margins of %v", a, lo[a], hi[a], masked.Size[a], spec.MarginVoxels)
		}
	}
	spec.Masking = false
	plain, err := Prepare(v, spec, 1)
	if err != nil {
		t.Fatal(err)
	}
	if plain.Geometry != masked.Geometry {
		t.Errorf("geometry without masking = %+v, want %+v", plain.Geometry, masked.Geometry)
	}
	differ := 0
	for n, d := range plain.Data {
		if d != masked.Data[n] {
			differ++
			if masked.Mask.Bits[n] != 0 {
				t.Fatalf("masking changed voxel %d, which is lung", n)
			}
			if masked.Data[n] != spec.PadValue {
				t.Fatalf("masking set voxel %d to %d, want %d", n, masked.Data[n], spec.PadValue)
			}
		}
	}
	if differ == 0 {
		t.Errorf("masking changed nothing")
	}
	// The number of threads changes nothing.
	for _, threads := range []int{1, 5} {
		spec.Masking = true
		again, err := Prepare(v, spec, threads)
		if err != nil {
			t.Fatal(err)
		}
		for n := range again.Data {
			if again.Data[n] != masked.Data[n] || again.Mask.Bits[n] != masked.Mask.Bits[n] {
				t.Fatalf("%d threads: voxel %d differs", threads, n)
			}
		}
	}
}

func TestPrepareOtherWindowsAndSpacings(t *testing.T) {
	v := chest(chestGrid(orientations["axial"], 3), chestOptions{})
	spec := DefaultPrepareSpec()
	spec.SpacingMM = [3]float64{1.5, 1.5, 1.5}
	base, err := Prepare(v, spec, 2)
	if err != nil {
		t.Fatal(err)
	}
	spec.WindowHU = [2]float64{-100, 200} // shows no lung, but the mask must not care
	narrow, err := Prepare(v, spec, 2)
	if err != nil {
		t.Fatal(err)
	}
	for a := range 3 {
		if d := narrow.Size[a] - base.Size[a]; d < -1 || d > 1 {
			t.Errorf("another window gives the box %v, want %v", narrow.Size, base.Size)
		}
	}
	spec = DefaultPrepareSpec()
	spec.SpacingMM = [3]float64{2, 2, 2.5}
	spec.MarginVoxels = [2]int{0, 0}
	coarser, err := Prepare(v, spec, 2)
	if err != nil {
		t.Fatal(err)
	}
	ml := func(p *Prepared) (v float64) {
		for _, b := range p.Mask.Bits {
			v += float64(b)
		}
		return v * p.Spacing[0] * p.Spacing[1] * p.Spacing[2] / 1000
	}
	if a, b := ml(base), ml(coarser); math.Abs(a/b-1) > 0.025 {
		t.Errorf("lungs of %.0f mL at 1.5 mm and %.0f mL at 2 mm", a, b)
	}
}

func TestPrepareSpecValidate(t *testing.T) {
	if err := DefaultPrepareSpec().Validate(); err != nil {
		t.Errorf("the default is invalid: %v", err)
	}
	for name, change := range map[string]func(*PrepareSpec){
		"spacing 0":      func(p *PrepareSpec) { p.SpacingMM[1] = 0 },
		"spacing NaN":    func(p *PrepareSpec) { p.SpacingMM[0] = math.NaN() },
		"window turned":  func(p *PrepareSpec) { p.WindowHU = [2]float64{600, -1200} },
		"window NaN":     func(p *PrepareSpec) { p.WindowHU[0] = math.NaN() },
		"window too big": func(p *PrepareSpec) { p.WindowHU[1] = 1e9 },
		"dilation":       func(p *PrepareSpec) { p.DilateMM = -1 },
		"margin":         func(p *PrepareSpec) { p.MarginVoxels[1] = 1 << 20 },
		"hull":           func(p *PrepareSpec) { p.HullGrowth = math.NaN() },
	} {
		t.Run(name, func(t *testing.T) {
			p := DefaultPrepareSpec()
			change(&p)
			if err := p.Validate(); err == nil {
				t.Errorf("Validate(%+v) = nil, want an error", p)
			}
			if _, err := Prepare(&Volume{}, p, 1); err == nil {
				t.Errorf("Prepare with it = nil, want an error")
			}
		})
	}
}

func TestPrepareSpecJSON(t *testing.T) {
	data, err := json.Marshal(DefaultPrepareSpec())
	if err != nil {
		t.Fatal(err)
	}
	want := `{"spacing_mm":[1,1,1],"window_hu":[-1200,600],"pad_value":170,"masking":true,"hull_growth":1.5,"dilate_mm":10,"bone_value":210,"margin_voxels":[5,10]}`
	if string(data) != want {
		t.Errorf("JSON = %s, want %s", data, want)
	}
}

func BenchmarkPrepare(b *testing.B) {
	g := Geometry{Size: [3]int{512, 512, 130}, Spacing: [3]float64{0.7, 0.7, 2.2}, Axes: orientations["axial"]}
	v := chest(g, chestOptions{noise: 30})
	b.SetBytes(int64(2 * len(v.HU)))
	b.Run("coarse", func(b *testing.B) {
		s := v.view(0)
		for b.Loop() {
			newCoarse(&s, 0)
		}
	})
	b.Run("find", func(b *testing.B) {
		s := v.view(0)
		for b.Loop() {
			if _, err := findLungs(&s, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("mask", func(b *testing.B) {
		for b.Loop() {
			if _, err := LungMask(v, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("all", func(b *testing.B) {
		for b.Loop() {
			if _, err := Prepare(v, DefaultPrepareSpec(), 0); err != nil {
				b.Fatal(err)
			}
		}
	})
}
