package ct_test

import (
	"math"
	"testing"

	"hilum/models/ct"
)

// field is a function that linear interpolation reproduces.
func field(p [3]float64) float64 { return 3*p[0] - 2*p[1] + 5*p[2] + 40 }

// TestCut cuts cubes out of a linear field on grids that lie in the patient in
// different ways: every sample is the field's value at its place.
func TestCut(t *testing.T) {
	centre := [3]float64{-20.25, 31.5, 12.75}
	c, s := math.Cos(0.2), math.Sin(0.2)
	for name, axes := range map[string][3][3]float64{
		"along the patient": {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
		"flipped":           {{-1, 0, 0}, {0, -1, 0}, {0, 0, 1}},
		"coronal":           {{1, 0, 0}, {0, 0, -1}, {0, 1, 0}},
		"oblique":           {{c, s, 0}, {-s, c, 0}, {0, 0, 1}},
	} {
		g := ct.Geometry{Size: [3]int{40, 40, 40}, Spacing: [3]float64{0.75, 0.5, 1.25}, Axes: axes}
		for n := range 3 { // the centre of the volume is at the centre of the cube
			g.Origin[n] = centre[n] - 19.5*(0.75*axes[0][n]+0.5*axes[1][n]+1.25*axes[2][n])
		}
		v := &ct.Volume{Geometry: g, HU: make([]int16, g.Voxels())}
		for k := range 40 {
			for j := range 40 {
				for i := range 40 {
					hu := field(g.World(float64(i), float64(j), float64(k)))
					v.HU[g.Index(i, j, k)] = int16(math.Round(hu))
				}
			}
		}
		const size, spacing, pad = 9, 1.5, -3000
		got, err := v.Cut(centre, spacing, size, pad)
		if err != nil {
			t.Fatal(err)
		}
		outside := 0
		for i, hu := range got {
			place := centre
			for n, at := range [3]int{i % size, i / size % size, i / size / size} {
				offset := (float64(at) - (size-1)/2) * spacing
				if name == "oblique" { // the cube keeps the small angle
					for a := range 3 {
						place[a] += offset * axes[n][a]
					}
				} else {
					place[n] += offset
				}
			}
			if hu == pad {
				outside++
				continue
			}
			if math.Abs(float64(hu)-field(place)) > 0.51 { // voxels are whole numbers
				t.Fatalf("%s: sample %d is %g, the field there is %g", name, i, hu, field(place))
			}
		}
		if outside > 0 {
			t.Errorf("%s: %d samples are outside, want none", name, outside)
		}
	}
}

func TestCutPads(t *testing.T) {
	g := ct.Geometry{Size: [3]int{4, 4, 1}, Spacing: [3]float64{1, 1, 1}, Axes: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}}
	v := &ct.Volume{Geometry: g, HU: make([]int16, g.Voxels())}
	for i := range v.HU {
		v.HU[i] = 7
	}
	got, err := v.Cut([3]float64{0, 0, 0}, 1, 3, -1000)
	if err != nil {
		t.Fatal(err)
	}
	inside := 0
	for i, hu := range got {
		x, y, z := i%3-1, i/3%3-1, i/9-1
		want := float32(-1000)
		if x >= 0 && y >= 0 && z == 0 {
			want = 7
			inside++
		}
		if hu != want {
			t.Errorf("sample %d,%d,%d is %g, want %g", x, y, z, hu, want)
		}
	}
	if inside != 4 {
		t.Errorf("%d samples inside, want 4", inside)
	}
	for _, bad := range []struct {
		spacing float64
		size    int
	}{{1, 0}, {1, 1 << 20}, {0, 3}, {math.NaN(), 3}} {
		if _, err := v.Cut([3]float64{}, bad.spacing, bad.size, 0); err == nil {
			t.Errorf("Cut(%g, %d) = no error", bad.spacing, bad.size)
		}
	}
}
