package main

import (
	"math"
	"testing"

	"hilum/models/ct"
	"hilum/plugins/api"
)

// ballVolume is lung with a ball of tissue, on a grid with thick slices that looks at
// the patient from an angle.
func ballVolume(center [3]float64, radius float64, hu int16) (*ct.Volume, *ct.Prepared) {
	g := ct.Geometry{
		Size: [3]int{80, 80, 40}, Spacing: [3]float64{0.7, 0.7, 1.25}, Origin: [3]float64{-30, -25, -20},
		Axes: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
	}
	v := &ct.Volume{Geometry: g, HU: make([]int16, g.Voxels())}
	for k := range g.Size[2] {
		for j := range g.Size[1] {
			for i := range g.Size[0] {
				v.HU[g.Index(i, j, k)] = -850
				if squared(g.World(float64(i), float64(j), float64(k)), center) <= radius*radius {
					v.HU[g.Index(i, j, k)] = hu
				}
			}
		}
	}
	p := &ct.Prepared{Geometry: g, Mask: &ct.Mask{Geometry: g, Bits: make([]uint8, g.Voxels())}}
	for n := range p.Mask.Bits {
		p.Mask.Bits[n] = 1
	}
	return v, p
}

// TestMeasure holds outline, volume and axes against the ball that they are of, solid
// and ground-glass, hit in its middle and beside it.
func TestMeasure(t *testing.T) {
	const radius = 5.0
	center := [3]float64{-2, 3, 4}
	for name, tt := range map[string]struct {
		hu     int16
		off    float64
		center [3]float64
	}{
		"solid":        {40, 0, center},
		"ground glass": {-600, 0, center},
		"off centre":   {40, 1.5, center},
		"at the edge":  {40, 0, [3]float64{-30, -25, -20}},
	} {
		t.Run(name, func(t *testing.T) {
			v, p := ballVolume(tt.center, radius, tt.hu)
			f := api.Finding{Center: tt.center, DiameterMM: 2 * radius, Probability: 0.5}
			f.Center[0] += tt.off
			list := []api.Finding{f}
			measure(list, v, p)
			f = list[0]
			if err := f.Validate(); err != nil {
				t.Fatal(err)
			}
			if f.Mask == nil {
				t.Fatal("no outline")
			}
			want := 4.0 / 3 * math.Pi * radius * radius * radius
			if name == "at the edge" { // an eighth of the ball, and the half voxels on the edge
				if f.VolumeMM3 < want/8 || f.VolumeMM3 > want/4 {
					t.Errorf("volume %.0f mm³, want a little more than an eighth of %.0f", f.VolumeMM3, want)
				}
				return
			}
			if math.Abs(f.VolumeMM3/want-1) > 0.1 {
				t.Errorf("volume %.0f mm³, want %.0f", f.VolumeMM3, want)
			}
			if math.Abs(f.LongAxisMM-2*radius) > 1 || math.Abs(f.ShortAxisMM-2*radius) > 1 {
				t.Errorf("axes %.1f × %.1f mm, want %.0f", f.LongAxisMM, f.ShortAxisMM, 2*radius)
			}
			voxels := 0
			for _, b := range f.Mask.Bits {
				for ; b != 0; b &= b - 1 {
					voxels++
				}
			}
			if edge := f.Mask.Spacing; math.Abs(float64(voxels)*edge[0]*edge[1]*edge[2]-f.VolumeMM3) > 1e-6 {
				t.Errorf("the mask has %d voxels, the volume is %.1f mm³", voxels, f.VolumeMM3)
			}
			if len(f.Views) != api.MaxViews {
				t.Fatalf("%d views", len(f.Views))
			}
			for n, w := range f.Views {
				middle, rim := w.Pixels[48*viewPixels+48], w.Pixels[8*viewPixels+8]
				if middle <= rim {
					t.Errorf("view %d: the ball (%d) is not brighter than the lung (%d)", n, middle, rim)
				}
			}
		})
	}
}

// TestNoOutline: what has no border gets no outline, and no volume.
func TestNoOutline(t *testing.T) {
	center := [3]float64{-2, 3, 4}
	solid, lungs := ballVolume(center, 30, 40)
	ball, outside := ballVolume(center, 5, 40)
	clear(outside.Mask.Bits)
	empty, all := ballVolume(center, 0, 40)
	for name, tt := range map[string]struct {
		v *ct.Volume
		p *ct.Prepared
		f api.Finding
	}{
		"tissue all around": {solid, lungs, api.Finding{Center: center, DiameterMM: 10}},
		"outside the lungs": {ball, outside, api.Finding{Center: center, DiameterMM: 10}},
		"only lung":         {empty, all, api.Finding{Center: center, DiameterMM: 10}},
		"outside the scan":  {ball, all, api.Finding{Center: [3]float64{900, 0, 0}, DiameterMM: 10}},
		"no diameter":       {ball, all, api.Finding{Center: center}},
		"too wide":          {ball, all, api.Finding{Center: center, DiameterMM: 140}},
	} {
		list := []api.Finding{tt.f}
		measure(list, tt.v, tt.p)
		if f := list[0]; f.Mask != nil || f.VolumeMM3 != 0 || f.LongAxisMM != 0 {
			t.Errorf("%s: volume %.0f mm³, axes %.1f × %.1f", name, f.VolumeMM3, f.LongAxisMM, f.ShortAxisMM)
		}
	}
}

// TestEllipseAxes: long and short axis of an ellipse at 30° are its own.
func TestEllipseAxes(t *testing.T) {
	o := outline{size: [3]int{60, 60, 3}, set: make([]bool, 60*60*3)}
	sin, cos := math.Sincos(math.Pi / 6)
	o.each(func(n, i, j, k int) {
		x, y := (float64(i)-30)*0.5, (float64(j)-30)*0.5
		a, b := (x*cos+y*sin)/10, (-x*sin+y*cos)/5
		o.set[n] = k == 1 && a*a+b*b <= 1
	})
	long, short := o.axes([3]float64{0.5, 0.5, 2})
	if math.Abs(long-20) > 0.7 || math.Abs(short-10) > 0.7 {
		t.Errorf("axes %.2f × %.2f mm, want 20 × 10", long, short)
	}
}

// TestSite looks at both lungs of a phantom chest.
func TestSite(t *testing.T) {
	dir, truth := phantomSeries(t)
	v, err := loadScan(t.Context(), api.Job{Folder: dir}, 2)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ct.Prepare(v, ct.DefaultPrepareSpec(), 2)
	if err != nil {
		t.Fatal(err)
	}
	sides := map[api.Site]int{}
	for _, n := range truth.Nodules {
		want := api.SiteLeftLung // LPS: x grows to the patient's left
		if n.Center[0] < 0 {
			want = api.SiteRightLung
		}
		got := site(p, api.Finding{Center: n.Center, DiameterMM: n.DiameterMM})
		if got != want && math.Abs(n.Center[0]) > 15 {
			t.Errorf("a nodule at x = %.0f is in %q, want %q", n.Center[0], got, want)
		}
		sides[got]++
	}
	if sides[api.SiteRightLung] == 0 || sides[api.SiteLeftLung] == 0 {
		t.Errorf("sides %v: want both", sides)
	}
	if got := site(p, api.Finding{Center: [3]float64{1e4, 0, 0}}); got != "" {
		t.Errorf("outside the scan: %q", got)
	}
}
