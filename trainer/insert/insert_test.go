package insert_test

import (
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"hilum/models/ct"
	"hilum/trainer/insert"
	"hilum/trainer/luna"
)

// chest returns the body of makeChest, which is made once.
func chest() *ct.Volume {
	v := *made()
	v.HU = slices.Clone(v.HU)
	return &v
}

var made = sync.OnceValue(makeChest)

// makeChest returns a body with two lungs: enough for ct.LungMask, with noise that
// is the same each time. Its pixels are 1.6 mm, its slices 3 mm.
func makeChest() *ct.Volume {
	v := &ct.Volume{Geometry: ct.Geometry{
		Size: [3]int{200, 150, 70}, Spacing: [3]float64{1.6, 1.6, 3}, Origin: [3]float64{-160, -130, -300},
		Axes: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
	}}
	v.HU = make([]int16, v.Voxels())
	state := uint64(1)
	noise := func() float64 {
		sum := 0.0
		for range 4 {
			state = state*6364136223846793005 + 1442695040888963407
			sum += float64(state>>40)/(1<<24) - 0.5
		}
		return sum * 20 * math.Sqrt(3) // standard deviation 20 HU
	}
	for k := range v.Size[2] {
		for j := range v.Size[1] {
			for i := range v.Size[0] {
				p := v.World(float64(i), float64(j), float64(k))
				x, y, z := p[0], p[1]+10, p[2]+195
				depth := func(cx, a, b, c float64) float64 {
					return (1 - math.Sqrt(math.Pow((x-cx)/a, 2)+math.Pow(y/b, 2)+math.Pow(z/c, 2))) * min(a, b)
				}
				part := func(d float64) float64 { return min(max(d/1.6+0.5, 0), 1) }
				hu := -1000 + 1040*part(depth(0, 150, 110, 1e6))
				for _, cx := range []float64{-65, 65} {
					hu += (-860 - hu) * part(depth(cx, 50, 78, 90))
				}
				if hu > -990 {
					hu += noise()
				}
				v.HU[v.Index(i, j, k)] = int16(math.Round(hu))
			}
		}
	}
	return v
}

// sources writes a folder with one real nodule: a ball of 10 mm.
func sources(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "crops"), 0o755); err != nil {
		t.Fatal(err)
	}
	g := ct.Geometry{Size: [3]int{41, 41, 9}, Spacing: [3]float64{0.7, 0.7, 2.5}, Origin: [3]float64{-14, -14, -10}, Axes: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}}
	hu, mask := &ct.Volume{Geometry: g}, &ct.Volume{Geometry: g}
	for k := range g.Size[2] {
		for j := range g.Size[1] {
			for i := range g.Size[0] {
				p := g.World(float64(i), float64(j), float64(k))
				d := math.Sqrt(p[0]*p[0] + p[1]*p[1] + p[2]*p[2])
				value, in := int16(-850), int16(0)
				if d < 5 {
					value, in = 30, 1
				}
				if p[0] > 9 { // tissue beside it that must not come along
					value = 50
				}
				hu.HU, mask.HU = append(hu.HU, value), append(mask.HU, in)
			}
		}
	}
	for name, v := range map[string]*ct.Volume{"A_1.mha": hu, "A_1_mask.mha": mask} {
		if err := ct.WriteMetaImage(filepath.Join(dir, "crops", name), v, true); err != nil {
			t.Fatal(err)
		}
	}
	table := "file,patient,diameter_mm,texture,spiculation,calcification\nA_1.mha,PATIENT-A,10,5|5|4,1,6|6\n"
	if err := os.WriteFile(filepath.Join(dir, "crops.csv"), []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestInto(t *testing.T) {
	real, err := insert.ReadSources(sources(t))
	if err != nil {
		t.Fatal(err)
	}
	clearOf := insert.Sphere{Center: [3]float64{65, -10, -195}, DiameterMM: 60}
	for _, tt := range []struct {
		name string
		o    insert.Options
	}{
		{"simulated", insert.Options{Nodules: 8, Seed: 1}},
		{"real", insert.Options{Nodules: 6, Seed: 2, Sources: real, RealShare: 1, Diameters: []float64{9, 11}}},
		{"both", insert.Options{Nodules: 8, Seed: 3, Sources: real, Diameters: []float64{8, 12}, Clear: []insert.Sphere{clearOf}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before, v := chest(), chest()
			r, err := insert.Into(t.Context(), v, tt.o)
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Nodules) != tt.o.Nodules {
				t.Fatalf("%d nodules, want %d", len(r.Nodules), tt.o.Nodules)
			}
			if s := r.Scanner; s.NoiseHU < 14 || s.NoiseHU > 26 || s.NoiseGrain > 0.3 {
				t.Errorf("scanner %+v, want a noise of 20 HU without grain", s)
			}
			mask, err := ct.LungMask(before, 1)
			if err != nil {
				t.Fatal(err)
			}
			checkNodules(t, before, v, mask, r.Nodules, tt.o.Clear)
			for _, n := range r.Nodules {
				if n.Origin == insert.OriginReal && (n.Patient != "PATIENT-A" || n.Kind != insert.KindSolid || n.Spiculated || n.Calcified) {
					t.Errorf("real nodule %+v, want that of PATIENT-A, solid", n)
				}
				if tt.name == "real" && n.Origin != insert.OriginReal || tt.name == "simulated" && n.Origin != insert.OriginSimulated {
					t.Errorf("a nodule is %s", n.Origin)
				}
			}
			if tt.name != "both" {
				return
			}
			again := chest()
			if _, err := insert.Into(t.Context(), again, tt.o); err != nil || !slices.Equal(again.HU, v.HU) {
				t.Errorf("the same options give another scan (%v)", err)
			}
		})
	}
}

// checkNodules looks at each nodule where the truth says it is, and that nothing
// else changed.
func checkNodules(t *testing.T, before, after *ct.Volume, mask *ct.Mask, nodules []insert.Nodule, clearOf []insert.Sphere) {
	t.Helper()
	distance := func(a, b [3]float64) float64 {
		return math.Hypot(math.Hypot(a[0]-b[0], a[1]-b[1]), a[2]-b[2])
	}
	places := map[string]int{}
	for i, n := range nodules {
		places[n.Place]++
		x, y, z := before.Voxel(n.Center)
		at := before.Index(int(math.Round(x)), int(math.Round(y)), int(math.Round(z)))
		if mask.Bits[at] == 0 {
			t.Errorf("nodule %d (%s) lies outside the lungs", i, n.Place)
		}
		if n.Kind == insert.KindSolid && n.DiameterMM > 6 && after.HU[at] < -400 {
			t.Errorf("nodule %d of %g mm has %d HU in the middle", i, n.DiameterMM, after.HU[at])
		}
		if n.DiameterMM < 3 || n.ContrastHU < 100 {
			t.Errorf("nodule %d cannot be seen: %+v", i, n)
		}
		for _, c := range clearOf {
			if distance(n.Center, c.Center) < (n.DiameterMM+c.DiameterMM)/2 {
				t.Errorf("nodule %d lies on what must be kept clear", i)
			}
		}
		for j, m := range nodules[:i] {
			if distance(n.Center, m.Center) < (n.DiameterMM+m.DiameterMM)/2 {
				t.Errorf("nodules %d and %d overlap", i, j)
			}
		}
	}
	for k := range before.Size[2] {
		for j := range before.Size[1] {
			for i := range before.Size[0] {
				at := before.Index(i, j, k)
				if before.HU[at] == after.HU[at] {
					continue
				}
				p := before.World(float64(i), float64(j), float64(k))
				near := math.Inf(1)
				for _, n := range nodules {
					near = min(near, distance(p, n.Center)-n.DiameterMM/2)
				}
				if near > 25 {
					t.Fatalf("a voxel %g mm from every nodule changed", near)
				}
				if before.HU[at] > 100 && after.HU[at] < before.HU[at]-60 {
					t.Fatalf("dense tissue of %d HU became %d", before.HU[at], after.HU[at])
				}
			}
		}
	}
}

func TestIntoRefuses(t *testing.T) {
	for _, tt := range []struct {
		name string
		o    insert.Options
		v    *ct.Volume
		want error
	}{
		{"too many", insert.Options{Nodules: 1000}, chest(), nil},
		{"no room", insert.Options{Nodules: 3, Clear: []insert.Sphere{{Center: [3]float64{0, 0, -195}, DiameterMM: 900}}}, chest(), insert.ErrFull},
		{"no diameter", insert.Options{Diameters: []float64{-1}}, chest(), nil},
	} {
		if _, err := insert.Into(t.Context(), tt.v, tt.o); err == nil || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("%s: %v, want an error", tt.name, err)
		}
	}
}

func TestReadSourcesRefuses(t *testing.T) {
	for name, table := range map[string]string{
		"no column":  "file,patient\nA_1.mha,A\n",
		"no number":  "file,patient,diameter_mm\nA_1.mha,A,wide\n",
		"no mask":    "file,patient,diameter_mm\nA_1.mha,A,5\nB.mha,B,5\n",
		"other path": "file,patient,diameter_mm\n../A_1.mha,A,5\n",
		"empty":      "",
	} {
		dir := sources(t)
		if err := os.WriteFile(filepath.Join(dir, "crops.csv"), []byte(table), 0o600); err != nil {
			t.Fatal(err)
		}
		if got, err := insert.ReadSources(dir); err == nil {
			t.Errorf("%s: %+v, want an error", name, got)
		}
	}
	if _, err := insert.ReadSources(t.TempDir()); err == nil {
		t.Error("an empty folder: want an error")
	}
}

func TestRun(t *testing.T) {
	in, out := t.TempDir(), t.TempDir()
	for _, name := range []string{"1.2.3", "1.2.4"} {
		if err := ct.WriteMetaImage(filepath.Join(in, name+".mhd"), chest(), false); err != nil {
			t.Fatal(err)
		}
	}
	o := insert.SetOptions{
		Options: insert.Options{Nodules: 2, Seed: 4}, Out: out,
		Annotations: []luna.Nodule{{SeriesUID: "1.2.3", Center: [3]float64{65, -10, -195}, Diameter: 8}},
		Excluded:    []luna.Nodule{{SeriesUID: "1.2.4", Center: [3]float64{-65, -10, -195}, Diameter: -1}},
	}
	sum, err := insert.Run(t.Context(), []string{in}, o, nil)
	if err != nil || sum.Made != 2 || sum.Simulated != 4 || sum.Known != 1 {
		t.Fatalf("Run = %+v, %v; want 2 scans with 4 nodules, 1 known", sum, err)
	}
	annotations, err := luna.ReadAnnotations(filepath.Join(out, "annotations.csv"))
	if err != nil || len(annotations) != 5 {
		t.Fatalf("annotations.csv: %d rows, %v; want 5", len(annotations), err)
	}
	if excluded, err := luna.ReadExcluded(filepath.Join(out, "annotations_excluded.csv")); err != nil || len(excluded) != 1 {
		t.Errorf("annotations_excluded.csv: %d rows, %v; want 1", len(excluded), err)
	}
	scans, err := luna.ReadScans(filepath.Join(out, "seriesuids.csv"))
	if err != nil || len(scans) != 2 {
		t.Fatalf("seriesuids.csv: %v, %v; want 2", scans, err)
	}
	for _, uid := range scans {
		if strings.HasPrefix(uid, "1.2.") {
			t.Errorf("the new scan has the UID of the old one, %s", uid)
		}
		v, err := ct.ReadMetaImage(filepath.Join(out, uid+".mhd"))
		if err != nil || v.Geometry != chest().Geometry {
			t.Errorf("scan %s: %v, or another grid", uid, err)
		}
		text, err := os.ReadFile(filepath.Join(out, "truth", uid+".json"))
		if err != nil {
			t.Fatal(err)
		}
		var truth insert.Truth
		if err := json.Unmarshal(text, &truth); err != nil || len(truth.Nodules) != 2 || !strings.HasPrefix(truth.SourceSeries, "1.2.") {
			t.Errorf("truth of %s: %+v, %v", uid, truth, err)
		}
	}
	if sum, err = insert.Run(t.Context(), []string{in}, o, nil); err != nil || sum.Made != 0 || sum.Simulated != 4 {
		t.Errorf("again: %+v, %v; want nothing made", sum, err)
	}
	dicom := o
	dicom.Out, dicom.DICOM = t.TempDir(), true
	if _, err := insert.Run(t.Context(), []string{filepath.Join(in, "1.2.3.mhd")}, dicom, nil); err != nil {
		t.Fatal(err)
	}
	name := ""
	for _, uid := range scans {
		if _, err := os.Stat(filepath.Join(dicom.Out, uid)); err == nil {
			name = uid
		}
	}
	series, err := ct.LoadSeries(t.Context(), filepath.Join(dicom.Out, name), ct.Options{})
	if err != nil {
		t.Fatal(err)
	}
	meta, err := ct.ReadMetaImage(filepath.Join(out, name+".mhd"))
	if err != nil || !slices.Equal(series.HU, meta.HU) {
		t.Errorf("DICOM and MetaImage of one scan differ (%v)", err)
	}
	if err := ct.WriteMetaImage(filepath.Join(in, "1.2.5.mhd"), &ct.Volume{Geometry: chest().Geometry, HU: make([]int16, len(chest().HU))}, false); err != nil {
		t.Fatal(err)
	}
	if _, err := insert.Run(t.Context(), []string{in}, o, nil); !errors.Is(err, ct.ErrNoLungs) || !strings.Contains(err.Error(), "1.2.5") {
		t.Errorf("a scan without lungs: %v, want its name and ErrNoLungs", err)
	}
}
