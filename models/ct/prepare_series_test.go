package ct_test

import (
	"encoding/csv"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"hilum/models/ct"
)

// annotation is a row of LUNA16's annotations.csv.
type annotation struct {
	centre   [3]float64 // LPS mm
	diameter float64
}

// annotations returns LUNA16's nodules of a series.
func annotations(t *testing.T, seriesUID string) (out []annotation) {
	t.Helper()
	f, err := os.Open(filepath.Join(dataFolder(t, "luna16"), "annotations.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	for _, row := range rows {
		if row[0] != seriesUID {
			continue
		}
		var v [4]float64
		for n := range v {
			if v[n], err = strconv.ParseFloat(row[n+1], 64); err != nil {
				t.Fatal(err)
			}
		}
		out = append(out, annotation{[3]float64{v[0], v[1], v[2]}, v[3]})
	}
	return out
}

// nearest returns the index of the voxel nearest to a point; ok is false
// outside the grid.
func nearest(g ct.Geometry, p [3]float64) (index int, ok bool) {
	x, y, z := g.Voxel(p)
	i, j, k := int(math.Round(x)), int(math.Round(y)), int(math.Round(z))
	if i < 0 || j < 0 || k < 0 || i >= g.Size[0] || j >= g.Size[1] || k >= g.Size[2] {
		return 0, false
	}
	return g.Index(i, j, k), true
}

// maskML returns the volume of a mask in millilitres.
func maskML(m *ct.Mask) float64 {
	n := 0
	for _, b := range m.Bits {
		n += int(b)
	}
	return float64(n) * m.Spacing[0] * m.Spacing[1] * m.Spacing[2] / 1000
}

func TestAnnotatedNoduleIsWhereItShouldBe(t *testing.T) {
	v, err := ct.LoadSeries(t.Context(), dataFolder(t, "lidc-0001"), ct.Options{})
	if err != nil {
		t.Fatal(err)
	}
	nodules := annotations(t, v.SeriesInstanceUID)
	if len(nodules) != 1 {
		t.Fatalf("%d annotations, want 1", len(nodules))
	}
	m, err := ct.LungMask(v, 0)
	if err != nil {
		t.Fatal(err)
	}
	p, err := ct.Prepare(v, ct.DefaultPrepareSpec(), 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, mask := range []*ct.Mask{m, p.Mask} {
		// A threshold and largest components in SimpleITK give 3.6 to 3.7 L.
		if ml := maskML(mask); ml < 3500 || ml > 4000 {
			t.Errorf("the lungs have %.0f mL, want about 3750", ml)
		}
	}
	c, r := nodules[0].centre, nodules[0].diameter/2
	inMask, all, bright, far, farAll := 0, 0, 0, 0, 0
	for dz := -2 * r; dz <= 2*r; dz++ {
		for dy := -2 * r; dy <= 2*r; dy++ {
			for dx := -2 * r; dx <= 2*r; dx++ {
				d := math.Sqrt(dx*dx + dy*dy + dz*dz)
				q := [3]float64{c[0] + dx, c[1] + dy, c[2] + dz}
				at, ok := nearest(p.Geometry, q)
				full, fullOK := nearest(m.Geometry, q)
				if !ok || !fullOK {
					t.Fatalf("%v is outside the prepared volume", q)
				}
				if d <= 0.6*r {
					all++
					inMask += int(m.Bits[full] & p.Mask.Bits[at])
					if p.Data[at] > 113 { // -400 HU
						bright++
					}
				}
				if d > 1.4*r && d < 2*r && p.Mask.Bits[at] != 0 {
					farAll++
					if p.Data[at] < 113 {
						far++
					}
				}
			}
		}
	}
	if inMask != all {
		t.Errorf("%d of %d voxels of the nodule's core are in the mask", inMask, all)
	}
	if 10*bright < 9*all || 10*far < 8*farAll {
		t.Errorf("core bright in %d of %d voxels, surroundings dark in %d of %d: the nodule is not at %v", bright, all, far, farAll, c)
	}
}

func BenchmarkPrepareSeries(b *testing.B) {
	v, err := ct.LoadSeries(b.Context(), dataFolder(b, "lidc-0001"), ct.Options{})
	if err != nil {
		b.Fatal(err)
	}
	b.Run("mask", func(b *testing.B) {
		for b.Loop() {
			if _, err := ct.LungMask(v, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("prepare", func(b *testing.B) {
		for b.Loop() {
			if _, err := ct.Prepare(v, ct.DefaultPrepareSpec(), 0); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("resample", func(b *testing.B) {
		for b.Loop() {
			if _, err := ct.ResampleTo(v, [3]float64{1, 1, 1}, 0); err != nil {
				b.Fatal(err)
			}
		}
	})
}
