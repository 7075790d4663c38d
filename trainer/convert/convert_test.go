package convert_test

import (
	"encoding/json"
	"errors"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hilum/dimse/dataset"
	"hilum/models/ct"
	"hilum/store"
	"hilum/trainer/convert"
	"hilum/trainer/volume"

	"github.com/grailbio/go-dicom/dicomtag"
)

const uid = "1.3.6.1.4.1.14519.5.2.1.6279.6001.1"

// dsPrecision is how far a position may be after it was written as decimal
// strings of 16 characters, here with up to 3 digits before the point (mm).
const dsPrecision = 1e-8

// scans are small volumes as scanners and converters make them.
func scans() map[string]ct.Geometry {
	size := [3]int{7, 5, 4}
	c, s := math.Cos(0.3), math.Sin(0.3)
	return map[string]ct.Geometry{
		"axial":              {Size: size, Spacing: [3]float64{0.703125, 0.703125, 2.5}, Origin: [3]float64{-166, -171.699997, -340}, Axes: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}},
		"anisotropic":        {Size: size, Spacing: [3]float64{0.5, 0.681641, 1.0 / 3}, Origin: [3]float64{-1.0 / 3, 2.0 / 7, 1234.5678901}, Axes: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}},
		"flipped in plane":   {Size: size, Spacing: [3]float64{0.7, 0.7, 1.25}, Origin: [3]float64{180, 170, -90}, Axes: [3][3]float64{{-1, 0, 0}, {0, -1, 0}, {0, 0, 1}}},
		"flipped x and z":    {Size: size, Spacing: [3]float64{0.7, 0.7, 1.25}, Origin: [3]float64{180, -170, 90}, Axes: [3][3]float64{{-1, 0, 0}, {0, 1, 0}, {0, 0, -1}}},
		"coronal":            {Size: size, Spacing: [3]float64{0.7, 0.8, 3}, Origin: [3]float64{-50, 60, 70}, Axes: [3][3]float64{{1, 0, 0}, {0, 0, -1}, {0, 1, 0}}},
		"oblique":            {Size: size, Spacing: [3]float64{0.7, 0.7, 1.25}, Origin: [3]float64{-50, 60, 70}, Axes: [3][3]float64{{c, s, 0}, {-s, c, 0}, {0, 0, 1}}},
		"spacing in a third": {Size: size, Spacing: [3]float64{2.0 / 3, 2.0 / 3, 0.6000001}, Origin: [3]float64{-1e-7, 1e-9, -0.1}, Axes: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}},
	}
}

func random(g ct.Geometry) *ct.Volume {
	v := &ct.Volume{Geometry: g, HU: make([]int16, g.Voxels())}
	r := rand.New(rand.NewPCG(1, 2))
	for n := range v.HU {
		v.HU[n] = int16(r.Uint32())
	}
	v.HU[0], v.HU[1] = math.MinInt16, math.MaxInt16
	return v
}

// same holds that every voxel of want is in got, with its value and its place.
func same(t *testing.T, got, want *ct.Volume) {
	t.Helper()
	if got.Voxels() != want.Voxels() {
		t.Fatalf("%v voxels, want %v", got.Size, want.Size)
	}
	for n, hu := range want.HU {
		i, j, k := n%want.Size[0], n/want.Size[0]%want.Size[1], n/(want.Size[0]*want.Size[1])
		x, y, z := got.Voxel(want.World(float64(i), float64(j), float64(k)))
		at := [3]int{int(math.Round(x)), int(math.Round(y)), int(math.Round(z))}
		if math.Abs(x-float64(at[0]))*got.Spacing[0]+math.Abs(y-float64(at[1]))*got.Spacing[1]+math.Abs(z-float64(at[2]))*got.Spacing[2] > 3*dsPrecision {
			t.Fatalf("voxel %d %d %d is at %v %v %v of the result", i, j, k, x, y, z)
		}
		if h := got.HU[got.Index(at[0], at[1], at[2])]; h != hu {
			t.Fatalf("voxel %d %d %d = %d, want %d", i, j, k, h, hu)
		}
	}
	// Corners of voxels, half a spacing beyond their centres.
	for corner := range 8 {
		var in [3]float64
		for a := range 3 {
			in[a] = float64(corner>>a&1)*float64(want.Size[a]) - 0.5
		}
		x, y, z := got.Voxel(want.World(in[0], in[1], in[2]))
		for a, at := range [3]float64{x, y, z} {
			low, high := math.Abs(at+0.5), math.Abs(at-float64(got.Size[a])+0.5)
			if min(low, high)*got.Spacing[a] > 2*dsPrecision {
				t.Errorf("the corner %v is at %v %v %v", in, x, y, z)
			}
		}
	}
}

func run(t *testing.T, o convert.Options, paths ...string) convert.Summary {
	t.Helper()
	sum, err := convert.Run(t.Context(), paths, o)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// throughStore stores the files of a folder as the node does, and writes what
// the store gives back into another folder.
func throughStore(t *testing.T, folder string) string {
	t.Helper()
	s, err := store.Open(t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}()
	entries, err := os.ReadDir(folder)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		name := filepath.Join(folder, e.Name())
		f, err := dataset.ReadHeader(name, dataset.IndexTags)
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		w, err := s.NewInstance()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(b); err != nil {
			t.Fatal(err)
		}
		h := f.Header
		if _, err := w.Commit(store.Instance{
			SOPInstanceUID: h.String(dicomtag.SOPInstanceUID), SOPClassUID: h.String(dicomtag.SOPClassUID),
			SeriesInstanceUID: h.String(dicomtag.SeriesInstanceUID), StudyInstanceUID: h.String(dicomtag.StudyInstanceUID),
			TransferSyntaxUID: f.TransferSyntaxUID, Header: h.Map(),
		}); err != nil {
			t.Fatal(err)
		}
	}
	instances, err := s.Instances(uid)
	if err != nil || len(instances) != len(entries) {
		t.Fatalf("%d instances in the store, %v, want %d", len(instances), err, len(entries))
	}
	out := t.TempDir()
	for _, i := range instances {
		r, _, err := s.OpenInstance(i.SOPInstanceUID)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		if err = errors.Join(err, r.Close()); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(out, i.SOPInstanceUID), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// TestRoadKeepsEveryVoxel goes from MetaImage to DICOM, through the store, and
// back to MetaImage of both kinds.
func TestRoadKeepsEveryVoxel(t *testing.T) {
	for name, g := range scans() {
		t.Run(name, func(t *testing.T) {
			want := random(g)
			dir := t.TempDir()
			first, series, back := filepath.Join(dir, uid+".mhd"), filepath.Join(dir, "dicom"), filepath.Join(dir, "back")
			if err := ct.WriteMetaImage(first, want, false); err != nil {
				t.Fatal(err)
			}
			if sum := run(t, convert.Options{Out: series, To: convert.DICOM}, first); sum.Written != 1 || sum.Images != g.Size[2] {
				t.Errorf("summary = %+v", sum)
			}
			v, err := ct.LoadSeries(t.Context(), throughStore(t, filepath.Join(series, uid)), ct.Options{})
			if err != nil {
				t.Fatal(err)
			}
			if v.SeriesInstanceUID != uid {
				t.Errorf("series %s, want %s", v.SeriesInstanceUID, uid)
			}
			same(t, v, want)
			for _, compress := range []bool{false, true} {
				run(t, convert.Options{Out: back, Compress: compress}, series)
				v, err := volume.Load(t.Context(), filepath.Join(back, uid+".mhd"), volume.Options{})
				if err != nil {
					t.Fatal(err)
				}
				same(t, v, want)
			}
			if _, err := os.Stat(filepath.Join(back, uid+".raw")); !os.IsNotExist(err) {
				t.Errorf("the voxels of the uncompressed form are still there")
			}
		})
	}
}

// A TransformMatrix that mirrors is honoured as well.
func TestLeftHandedMetaImage(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, uid+".mhd")
	header := "ObjectType = Image\nNDims = 3\nBinaryData = True\nBinaryDataByteOrderMSB = False\nCompressedData = False\n" +
		"TransformMatrix = -1 0 0 0 1 0 0 0 1\nOffset = 10 20 30\nElementSpacing = 0.5 0.5 2\nDimSize = 2 1 3\nElementType = MET_SHORT\nElementDataFile = a.raw\n"
	for file, text := range map[string]string{name: header, filepath.Join(dir, "a.raw"): "\x00\x00\x01\x00\x02\x00\x03\x00\x04\x00\x05\x00"} {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out := filepath.Join(dir, "out")
	run(t, convert.Options{Out: out, To: convert.DICOM}, name)
	v, err := ct.LoadSeries(t.Context(), filepath.Join(out, uid), ct.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for n, p := range [][3]float64{{10, 20, 30}, {9.5, 20, 30}, {10, 20, 32}, {9.5, 20, 32}, {10, 20, 34}, {9.5, 20, 34}} {
		x, y, z := v.Voxel(p)
		if got := v.HU[v.Index(int(math.Round(x)), int(math.Round(y)), int(math.Round(z)))]; int(got) != n {
			t.Errorf("HU at %v = %d, want %d", p, got, n)
		}
	}
}

func TestRunAgain(t *testing.T) {
	want := random(scans()["axial"])
	for _, tt := range []struct {
		name   string
		o      convert.Options
		damage func(t *testing.T, out string)
	}{
		{"cut voxels", convert.Options{}, func(t *testing.T, out string) { truncate(t, filepath.Join(out, uid+".raw")) }},
		{"cut compressed voxels", convert.Options{Compress: true}, func(t *testing.T, out string) { truncate(t, filepath.Join(out, uid+".zraw")) }},
		{"no header", convert.Options{}, func(t *testing.T, out string) { remove(t, filepath.Join(out, uid+".mhd")) }},
		{"an image is missing", convert.Options{To: convert.DICOM}, func(t *testing.T, out string) { remove(t, filepath.Join(out, uid, "000002.dcm")) }},
		{"half a folder", convert.Options{To: convert.DICOM}, func(t *testing.T, out string) {
			if err := os.Rename(filepath.Join(out, uid), filepath.Join(out, "."+uid+".partial")); err != nil {
				t.Fatal(err)
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			in := filepath.Join(dir, uid+".mhd")
			if err := ct.WriteMetaImage(in, want, false); err != nil {
				t.Fatal(err)
			}
			tt.o.Out = filepath.Join(dir, "out")
			run(t, tt.o, in)
			before := listing(t, tt.o.Out)
			if sum := run(t, tt.o, in); sum.Kept != 1 || sum.Written != 0 {
				t.Errorf("second run = %+v, want it kept", sum)
			}
			tt.damage(t, tt.o.Out)
			if sum := run(t, tt.o, in); sum.Written != 1 {
				t.Errorf("run after damage = %+v, want it written", sum)
			}
			if after := listing(t, tt.o.Out); after != before {
				t.Errorf("after damage and a new run:\n%s\nwant\n%s", after, before)
			}
			changed := random(want.Geometry)
			changed.HU[5]++
			if err := ct.WriteMetaImage(in, changed, false); err != nil {
				t.Fatal(err)
			}
			if sum := run(t, tt.o, in); sum.Written != 1 {
				t.Errorf("run after the source changed = %+v, want it written", sum)
			}
		})
	}
}

func truncate(t *testing.T, name string) {
	t.Helper()
	info, err := os.Stat(name)
	if err == nil {
		err = os.Truncate(name, info.Size()-3)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func remove(t *testing.T, name string) {
	t.Helper()
	if err := os.Remove(name); err != nil {
		t.Fatal(err)
	}
}

// listing returns names and contents below a folder.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		b, err := os.ReadFile(name)
		lines = append(lines, name+" "+dataset.StableUID(string(b)))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestRefusals(t *testing.T) {
	dir := t.TempDir()
	good := filepath.Join(dir, "good", uid+".mhd")
	if err := os.Mkdir(filepath.Dir(good), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := ct.WriteMetaImage(good, random(scans()["axial"]), false); err != nil {
		t.Fatal(err)
	}
	foreign := filepath.Join(dir, "foreign")
	if err := os.MkdirAll(filepath.Join(foreign, uid), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(foreign, uid, "000001.dcm"), []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	broken := filepath.Join(dir, "broken", "1.2.mhd")
	if err := os.Mkdir(filepath.Dir(broken), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(broken, []byte("NDims = 3\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, in string
		o        convert.Options
		want     string
	}{
		{"over its source", good, convert.Options{Out: filepath.Dir(good)}, "choose another folder"},
		{"over other files", good, convert.Options{Out: foreign, To: convert.DICOM}, "not of a converted series"},
		{"damaged scan", broken, convert.Options{Out: filepath.Join(dir, "out")}, "scan 1.2 ("},
		{"no scan", foreign, convert.Options{Out: filepath.Join(dir, "out")}, "holds no scan"},
		{"no folder", filepath.Join(dir, "missing"), convert.Options{Out: filepath.Join(dir, "out")}, "missing"},

		{"format", good, convert.Options{Out: filepath.Join(dir, "out"), To: "nifti"}, "nifti"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := convert.Run(t.Context(), []string{tt.in}, tt.o); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Run = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// TestDICOMIsValid asks dciodvfy (Debian: dicom3tools) for errors.
func TestDICOMIsValid(t *testing.T) {
	if _, err := exec.LookPath("dciodvfy"); err != nil {
		t.Skip("dciodvfy is not installed (Debian: dicom3tools)")
	}
	for _, name := range []string{"axial", "oblique", "spacing in a third"} {
		dir := t.TempDir()
		in := filepath.Join(dir, "a name.mha") // is no UID
		if err := ct.WriteMetaImage(in, random(scans()[name]), false); err != nil {
			t.Fatal(err)
		}
		run(t, convert.Options{Out: filepath.Join(dir, "out"), To: convert.DICOM}, in)
		said, _ := exec.CommandContext(t.Context(), "dciodvfy", filepath.Join(dir, "out", "a name", "000001.dcm")).CombinedOutput()
		if !strings.Contains(string(said), "CTImage") || strings.Contains(string(said), "Error") {
			t.Errorf("%s: dciodvfy says:\n%s", name, said)
		}
	}
}

// simpleITK returns an interpreter that has SimpleITK, or skips the test.
func simpleITK(t *testing.T) string {
	t.Helper()
	python := os.Getenv("HILUM_PYTHON")
	if python == "" {
		t.Skip("HILUM_PYTHON names no interpreter with SimpleITK")
	}
	if err := exec.CommandContext(t.Context(), python, "-c", "import SimpleITK").Run(); err != nil {
		t.Skipf("%s has no SimpleITK (pip install SimpleITK)", python)
	}
	return python
}

// TestSimpleITKAgrees compares what SimpleITK reads of our files, MetaImage and
// DICOM, with the volume that they were made of.
func TestSimpleITKAgrees(t *testing.T) {
	python := simpleITK(t)
	const script = `
import json, sys
import SimpleITK as sitk
out = []
for kind, path in zip(sys.argv[1::2], sys.argv[2::2]):
    if kind == "dicom":
        reader = sitk.ImageSeriesReader()
        reader.SetFileNames(reader.GetGDCMSeriesFileNames(path))
        image = reader.Execute()
    else:
        image = sitk.ReadImage(path)
    d = image.GetDirection()
    out.append({"Size": image.GetSize(), "Spacing": image.GetSpacing(), "Origin": image.GetOrigin(),
                "Axes": [[d[3 * n + a] for n in range(3)] for a in range(3)],
                "HU": sitk.GetArrayFromImage(image).ravel().tolist()})
print(json.dumps(out))
`
	for name, g := range scans() {
		t.Run(name, func(t *testing.T) {
			want := random(g)
			dir := t.TempDir()
			in := filepath.Join(dir, uid+".mha")
			if err := ct.WriteMetaImage(in, want, false); err != nil {
				t.Fatal(err)
			}
			raw, zraw, series := filepath.Join(dir, "raw"), filepath.Join(dir, "zraw"), filepath.Join(dir, "dicom")
			run(t, convert.Options{Out: raw}, in)
			run(t, convert.Options{Out: zraw, Compress: true}, in)
			run(t, convert.Options{Out: series, To: convert.DICOM}, in)
			cmd := exec.CommandContext(t.Context(), python, "-c", script, "file", filepath.Join(raw, uid+".mhd"),
				"file", filepath.Join(zraw, uid+".mhd"), "dicom", filepath.Join(series, uid))
			var problems strings.Builder
			cmd.Stderr = &problems
			said, err := cmd.Output()
			if err != nil {
				t.Fatalf("SimpleITK: %v\n%s", err, problems.String())
			}
			var read []*ct.Volume
			if err := json.Unmarshal(said, &read); err != nil {
				t.Fatal(err)
			}
			for n, v := range read {
				if n == 2 && strings.Contains(problems.String(), "Non uniform sampling") {
					t.Logf("SimpleITK warns: %s", problems.String())
				}
				same(t, v, want)
			}
		})
	}
}
