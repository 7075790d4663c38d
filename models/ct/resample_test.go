package ct

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// turned returns axes turned by the given angles about z and x.
func turned(about, tilt float64) [3][3]float64 {
	c, s := math.Cos(about), math.Sin(about)
	d, e := math.Cos(tilt), math.Sin(tilt)
	return rotation([3]float64{c, s, 0}, [3]float64{-s * d, c * d, e})
}

// orientations are right-handed axes as scanners, MetaImage files and
// reformatted series have them.
var orientations = map[string][3][3]float64{
	"axial":              {{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
	"axial, prone":       {{-1, 0, 0}, {0, -1, 0}, {0, 0, 1}},
	"axial, feet first":  {{-1, 0, 0}, {0, 1, 0}, {0, 0, -1}},
	"axial, downwards":   {{1, 0, 0}, {0, -1, 0}, {0, 0, -1}},
	"coronal":            {{1, 0, 0}, {0, 0, -1}, {0, 1, 0}},
	"sagittal":           {{0, 1, 0}, {0, 0, -1}, {-1, 0, 0}},
	"oblique":            turned(0.2, 0.15),
	"oblique, far":       turned(2.5, -0.7),
	"patient on a side":  {{0, 1, 0}, {-1, 0, 0}, {0, 0, 1}},
	"side, upside down":  {{0, -1, 0}, {-1, 0, 0}, {0, 0, -1}},
	"oblique, very much": turned(-1.0, 1.3),
}

func TestCanonicalGeometry(t *testing.T) {
	for name, axes := range orientations {
		t.Run(name, func(t *testing.T) {
			v := &Volume{Geometry: Geometry{Size: [3]int{5, 4, 3}, Spacing: [3]float64{0.7, 0.9, 2.5}, Origin: [3]float64{-10, 20, 30}, Axes: axes}}
			v.HU = make([]int16, v.Voxels())
			for n := range v.HU {
				v.HU[n] = int16(n)
			}
			s := v.view(2)
			if err := s.Validate(); err != nil {
				t.Fatalf("the view has no valid geometry: %v", err)
			}
			trace := s.Axes[0][0] + s.Axes[1][1] + s.Axes[2][2]
			if trace < 1.7 { // the worst rotation is 1.73 away from the best signed permutation
				t.Errorf("axes %v are not near the patient's: trace %g", s.Axes, trace)
			}
			seen := make([]int16, v.Voxels())
			for k := range s.Size[2] {
				for j := range s.Size[1] {
					for i := range s.Size[0] {
						hu := s.hu[s.Index(s.stored(0, i), s.stored(1, j), s.stored(2, k))]
						seen[s.Index(i, j, k)] = hu
						p := s.World(float64(i), float64(j), float64(k))
						x, y, z := v.Voxel(p)
						if want := v.HU[v.Index(int(math.Round(x)), int(math.Round(y)), int(math.Round(z)))]; hu != want {
							t.Fatalf("voxel %d %d %d of the view is %d, want %d", i, j, k, hu, want)
						}
					}
				}
			}
			for n, hu := range unview(&s, seen, 2) {
				if hu != v.HU[n] {
					t.Fatalf("unview: voxel %d is %d, want %d", n, hu, v.HU[n])
				}
			}
		})
	}
}

// A ramp that is linear in the patient stays the same ramp: its level surfaces
// are where they were, whatever the orientation and spacing.
func TestResampleRampStaysInPlace(t *testing.T) {
	gradient := [3]float64{3, -2, 5} // HU a mm
	for name, axes := range orientations {
		for _, spacing := range [][3]float64{{1, 1, 1}, {0.7, 0.7, 0.7}, {0.703125, 0.6, 2.5}, {2, 3, 4}} {
			t.Run(fmt.Sprintf("%s to %v", name, spacing), func(t *testing.T) {
				v := &Volume{Geometry: Geometry{Size: [3]int{21, 18, 9}, Spacing: [3]float64{0.703125, 0.6, 2.5}, Origin: [3]float64{-12.3, 4.5, 67.8}, Axes: axes}}
				s := scan{Geometry: v.Geometry, hu: make([]int16, v.Voxels())}
				g, err := v.resampled(spacing)
				if err != nil {
					t.Fatal(err)
				}
				// The position that each tap reads, in mm, is the voxel's own.
				worst := 0.0
				for a := range 3 {
					for n, tp := range taps(span{0, g.Size[a]}, g.Spacing[a]/s.Spacing[a], s.Size[a], false) {
						at := (float64(tp.lo) + float64(tp.w)*float64(tp.hi-tp.lo)) * s.Spacing[a]
						worst = max(worst, math.Abs(at-float64(n)*spacing[a]))
					}
				}
				if worst > 1e-6 {
					t.Errorf("a voxel is read %g mm from its place, want 1e-6 at most", worst)
				}
				level := func(p [3]float64) float64 { return dot(sub(p, v.Origin), gradient) }
				for k := range v.Size[2] {
					for j := range v.Size[1] {
						for i := range v.Size[0] {
							s.hu[v.Index(i, j, k)] = int16(math.Round(level(v.World(float64(i), float64(j), float64(k)))))
						}
					}
				}
				v.HU = s.hu
				out, err := ResampleTo(v, spacing, 3)
				if err != nil {
					t.Fatal(err)
				}
				for k := range out.Size[2] {
					for j := range out.Size[1] {
						for i := range out.Size[0] {
							want := level(out.World(float64(i), float64(j), float64(k)))
							if got := out.HU[out.Index(i, j, k)]; math.Abs(float64(got)-want) > 1.001 { // rounded twice
								t.Fatalf("voxel %d %d %d = %d, want %.3f", i, j, k, got, want)
							}
						}
					}
				}
			})
		}
	}
}

func TestResampleToTheSameSpacingIsACopy(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	v := &Volume{Geometry: Geometry{Size: [3]int{13, 7, 5}, Spacing: [3]float64{0.7, 0.7, 1.25}, Axes: orientations["axial"]}}
	for range v.Voxels() {
		v.HU = append(v.HU, int16(r.IntN(65536)-32768))
	}
	out, err := ResampleTo(v, v.Spacing, 2)
	if err != nil {
		t.Fatal(err)
	}
	if out.Geometry != v.Geometry {
		t.Errorf("geometry = %+v, want %+v", out.Geometry, v.Geometry)
	}
	for n := range v.HU {
		if out.HU[n] != v.HU[n] {
			t.Fatalf("voxel %d = %d, want %d", n, out.HU[n], v.HU[n])
		}
	}
}

func TestResampleOneSliceAndBadSpacing(t *testing.T) {
	v := &Volume{Geometry: Geometry{Size: [3]int{4, 1, 1}, Spacing: [3]float64{1, 1, 1}, Axes: orientations["axial"]}, HU: []int16{0, 10, 20, 30}}
	out, err := ResampleTo(v, [3]float64{0.5, 2, 2}, 1)
	if err != nil || out.Size != [3]int{7, 1, 1} || out.HU[1] != 5 || out.HU[6] != 30 {
		t.Errorf("ResampleTo = %+v, %v, want 7 voxels from 0 to 30", out, err)
	}
	for _, s := range []float64{0, -1, math.NaN(), math.Inf(1), 1e-12} {
		if out, err := ResampleTo(v, [3]float64{s, s, s}, 1); err == nil {
			t.Errorf("ResampleTo to %g mm = %v, want an error", s, out.Size)
		}
	}
}

func TestMaskResampleKeepsVolume(t *testing.T) {
	m := &Mask{Geometry: Geometry{Size: [3]int{60, 60, 20}, Spacing: [3]float64{0.7, 0.7, 2.5}, Axes: orientations["axial, feet first"]}}
	m.Bits = make([]uint8, m.Voxels())
	centre := m.World(30, 28, 10)
	sphere := func(g Geometry, i, j, k int) uint8 {
		if distance(g.World(float64(i), float64(j), float64(k)), centre) < 12 {
			return 1
		}
		return 0
	}
	for n := range m.Bits {
		m.Bits[n] = sphere(m.Geometry, n%60, n/60%60, n/3600)
	}
	out, err := m.ResampleTo([3]float64{1, 1, 1}, 2)
	if err != nil {
		t.Fatal(err)
	}
	both, sum := 0, 0
	for n, b := range out.Bits {
		want := sphere(out.Geometry, n%out.Size[0], n/out.Size[0]%out.Size[1], n/(out.Size[0]*out.Size[1]))
		both += int(b & want)
		sum += int(b) + int(want)
	}
	if dice := 2 * float64(both) / float64(sum); dice < 0.93 {
		t.Errorf("the resampled sphere has a Dice of %.3f with the true one, want 0.93", dice)
	}
}

func BenchmarkResampleTo(b *testing.B) {
	v := chest(Geometry{Size: [3]int{256, 256, 130}, Spacing: [3]float64{1.4, 1.4, 2.5}, Axes: orientations["axial"]}, chestOptions{})
	b.SetBytes(int64(2 * len(v.HU)))
	for b.Loop() {
		if _, err := ResampleTo(v, [3]float64{1, 1, 1}, 0); err != nil {
			b.Fatal(err)
		}
	}
}
