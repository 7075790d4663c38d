package ct_test

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"hilum/models/ct"
)

// made is a small volume with oblique axes.
func made() *ct.Volume {
	c, s := math.Cos(0.2), math.Sin(0.2)
	v := &ct.Volume{Geometry: ct.Geometry{
		Size: [3]int{5, 4, 3}, Spacing: [3]float64{0.5, 0.7, 1.25}, Origin: [3]float64{-10.5, 20, 1e-3},
		Axes: [3][3]float64{{c, s, 0}, {-s, c, 0}, {0, 0, 1}},
	}}
	for i := range v.Voxels() {
		v.HU = append(v.HU, int16(i*500-15000))
	}
	return v
}

func sameVolume(a, b *ct.Volume) bool {
	near := func(x, y float64) bool { return math.Abs(x-y) < 1e-9 }
	for n := range 3 {
		if !near(a.Spacing[n], b.Spacing[n]) || !near(a.Origin[n], b.Origin[n]) {
			return false
		}
		for m := range 3 {
			if !near(a.Axes[n][m], b.Axes[n][m]) {
				return false
			}
		}
	}
	return a.Size == b.Size && slices.Equal(a.HU, b.HU)
}

func TestMetaImageRoundTrip(t *testing.T) {
	want := made()
	for _, name := range []string{"a.mha", "a.mhd"} {
		for _, compress := range []bool{false, true} {
			file := filepath.Join(t.TempDir(), name)
			if err := ct.WriteMetaImage(file, want, compress); err != nil {
				t.Fatal(err)
			}
			got, err := ct.ReadMetaImage(file)
			if err != nil {
				t.Fatal(err)
			}
			if !sameVolume(got, want) {
				t.Errorf("%s, compressed %t: %+v comes back, want %+v", name, compress, got, want)
			}
		}
	}
	if err := ct.WriteMetaImage(filepath.Join(t.TempDir(), "a.nii"), want, false); err == nil {
		t.Error("a name that is no MetaImage is written")
	}
}

// meta writes an .mha of 2 × 2 × 2 voxels; more are lines of the header.
func meta(t *testing.T, elementType string, voxels []byte, more ...string) string {
	t.Helper()
	lines := append([]string{"ObjectType = Image", "NDims = 3", "DimSize = 2 2 2", "ElementType = " + elementType}, more...)
	name := filepath.Join(t.TempDir(), "x.mha")
	text := strings.Join(lines, "\n")
	if !strings.Contains(text, "ElementDataFile") {
		text += "\nElementDataFile = LOCAL"
	}
	if err := os.WriteFile(name, append([]byte(text+"\n"), voxels...), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestReadMetaImageTypes(t *testing.T) {
	order := func(msb bool) binary.ByteOrder {
		if msb {
			return binary.BigEndian
		}
		return binary.LittleEndian
	}
	for _, tt := range []struct {
		element string
		values  any
		want    []int16
	}{
		{"MET_CHAR", []int8{-128, -1, 0, 1, 2, 3, 4, 127}, []int16{-128, -1, 0, 1, 2, 3, 4, 127}},
		{"MET_UCHAR", []uint8{0, 1, 2, 3, 4, 5, 128, 255}, []int16{0, 1, 2, 3, 4, 5, 128, 255}},
		{"MET_SHORT", []int16{-32768, -1024, 0, 1, 2, 3, 4, 32767}, []int16{-32768, -1024, 0, 1, 2, 3, 4, 32767}},
		{"MET_USHORT", []uint16{0, 1, 2, 3, 4, 5, 32768, 65535}, []int16{0, 1, 2, 3, 4, 5, 32767, 32767}},
		{"MET_INT", []int32{-70000, -1000, 0, 1, 2, 3, 4, 70000}, []int16{-32768, -1000, 0, 1, 2, 3, 4, 32767}},
		{"MET_UINT", []uint32{0, 1, 2, 3, 4, 5, 6, 1 << 31}, []int16{0, 1, 2, 3, 4, 5, 6, 32767}},
		{"MET_FLOAT", []float32{-1e30, -1000.5, 0.5, 1.5, 2, 3, 4, 1e30}, []int16{-32768, -1000, 0, 2, 2, 3, 4, 32767}},
		{"MET_DOUBLE", []float64{math.Inf(-1), -1000.5, 0.5, 1.5, 2, 3, 4, 1e300}, []int16{-32768, -1000, 0, 2, 2, 3, 4, 32767}},
	} {
		for _, msb := range []bool{false, true} {
			var voxels bytes.Buffer
			if err := binary.Write(&voxels, order(msb), tt.values); err != nil {
				t.Fatal(err)
			}
			v, err := ct.ReadMetaImage(meta(t, tt.element, voxels.Bytes(), fmt.Sprintf("BinaryDataByteOrderMSB = %t", msb)))
			if err != nil || !slices.Equal(v.HU, tt.want) {
				t.Errorf("%s, big endian %t: %+v, %v, want %v", tt.element, msb, v, err, tt.want)
			}
		}
	}
}

// TestReadMetaImageFlips holds that each voxel keeps its place in the patient
// whatever the axes are, and that they come back right-handed.
func TestReadMetaImageFlips(t *testing.T) {
	for _, matrix := range []string{
		"1 0 0 0 1 0 0 0 1", "-1 0 0 0 -1 0 0 0 1", "-1 0 0 0 1 0 0 0 1", "1 0 0 0 1 0 0 0 -1", "0 1 0 0 0 1 1 0 0", "0 1 0 1 0 0 0 0 1",
	} {
		var axes [9]float64
		if _, err := fmt.Sscan(matrix, &axes[0], &axes[1], &axes[2], &axes[3], &axes[4], &axes[5], &axes[6], &axes[7], &axes[8]); err != nil {
			t.Fatal(err)
		}
		v, err := ct.ReadMetaImage(meta(t, "MET_UCHAR", []byte{0, 1, 2, 3, 4, 5, 6, 7}, "TransformMatrix = "+matrix, "Offset = 10 20 30", "ElementSpacing = 1 2 3"))
		if err != nil {
			t.Fatal(err)
		}
		if err := v.Validate(); err != nil {
			t.Errorf("%s: %v", matrix, err)
		}
		for n := range 8 { // voxel n of the file
			i, j, k := float64(n&1), float64(n>>1&1), float64(n>>2)
			var p [3]float64
			for a := range p {
				p[a] = []float64{10, 20, 30}[a] + i*1*axes[a] + j*2*axes[3+a] + k*3*axes[6+a]
			}
			x, y, z := v.Voxel(p)
			if got := v.HU[v.Index(int(math.Round(x)), int(math.Round(y)), int(math.Round(z)))]; int(got) != n {
				t.Errorf("%s: the voxel at %v is %d, want %d", matrix, p, got, n)
			}
		}
	}
}

func TestReadMetaImageRefuses(t *testing.T) {
	eight := []byte{0, 1, 2, 3, 4, 5, 6, 7}
	nan := binary.LittleEndian.AppendUint32(nil, math.Float32bits(float32(math.NaN())))
	for _, tt := range []struct {
		name, element string
		voxels        []byte
		more          []string
		words         string
	}{
		{"short", "MET_UCHAR", eight[:7], nil, "end before"},
		{"type", "MET_STRING", eight, nil, "ElementType"},
		{"channels", "MET_UCHAR", eight, []string{"ElementNumberOfChannels = 3"}, "channels"},
		{"dimensions", "MET_UCHAR", eight, []string{"NDims = 2"}, "NDims"},
		{"size", "MET_UCHAR", eight, []string{"DimSize = 2 2"}, "DimSize"},
		{"negative size", "MET_UCHAR", eight, []string{"DimSize = 2 2 -2"}, "size"},
		{"broken size", "MET_UCHAR", eight, []string{"DimSize = 2 2 1.5"}, "DimSize"},
		{"huge", "MET_UCHAR", eight, []string{"DimSize = 100000 100000 100000"}, "voxels"},
		{"spacing", "MET_UCHAR", eight, []string{"ElementSpacing = 1 1 0"}, "spacing"},
		{"matrix", "MET_UCHAR", eight, []string{"TransformMatrix = 1 0 0 1 0 0 0 0 1"}, "rotation"},
		{"shear", "MET_UCHAR", eight, []string{"TransformMatrix = 1 0 0 0 1 0 0 0.5 1"}, "rotation"},
		{"not a number", "MET_UCHAR", eight, []string{"Offset = 0 NaN 0"}, "Offset"},
		{"text", "MET_UCHAR", eight, []string{"BinaryData = False"}, "text"},
		{"truth", "MET_UCHAR", eight, []string{"CompressedData = maybe"}, "neither"},
		{"not compressed", "MET_UCHAR", eight, []string{"CompressedData = True"}, "inflate"},
		{"header size", "MET_UCHAR", eight, []string{"HeaderSize = -2"}, "HeaderSize"},
		{"header size beyond", "MET_UCHAR", eight, []string{"HeaderSize = 99"}, "end before"},
		{"list", "MET_UCHAR", eight, []string{"ElementDataFile = LIST"}, "several files"},
		{"path", "MET_UCHAR", eight, []string{"ElementDataFile = ../x.raw"}, "beside"},
		{"absolute path", "MET_UCHAR", eight, []string{"ElementDataFile = /etc/passwd"}, "beside"},
		{"absent file", "MET_UCHAR", eight, []string{"ElementDataFile = x.raw"}, "x.raw"},
		{"nan", "MET_FLOAT", bytes.Repeat(nan, 8), nil, "not a number"},
		{"no equals sign", "MET_UCHAR", eight, []string{"hello"}, "no MetaImage"},
		{"long line", "MET_UCHAR", eight, []string{"Comment = " + strings.Repeat("x", 5000)}, "too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v, err := ct.ReadMetaImage(meta(t, tt.element, tt.voxels, tt.more...))
			if err == nil || v != nil || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("ReadMetaImage = %v, %v, want an error with %q", v, err, tt.words)
			}
		})
	}
}

func TestReadMetaImageHeaderSize(t *testing.T) {
	eight := []byte{9, 9, 9, 0, 1, 2, 3, 4, 5, 6, 7}
	for _, size := range []string{"3", "-1"} {
		v, err := ct.ReadMetaImage(meta(t, "MET_UCHAR", eight, "HeaderSize = "+size))
		if err != nil || v.HU[0] != 0 || v.HU[7] != 7 {
			t.Errorf("HeaderSize %s: %+v, %v", size, v, err)
		}
	}
}

// TestReadMetaImageReal reads the LUNA16 scans of the shared data.
func TestReadMetaImageReal(t *testing.T) {
	names, err := filepath.Glob(filepath.Join(dataFolder(t, "lungs"), "*.mhd"))
	if err != nil || len(names) == 0 {
		t.Fatalf("no .mhd in the data set: %v", err)
	}
	v, err := ct.ReadMetaImage(names[0])
	if err != nil {
		t.Fatal(err)
	}
	if low, high := slices.Min(v.HU), slices.Max(v.HU); low < -1100 || low > -800 || high > 160 {
		t.Errorf("%v voxels of %d to %d HU", v.Size, low, high)
	}
}

// TestMetaImageEqualsSimpleITK compares reading and writing with ITK's own.
func TestMetaImageEqualsSimpleITK(t *testing.T) {
	python := os.Getenv("HILUM_PYTHON")
	if python == "" {
		python = filepath.Join("..", "..", ".cache", "venv", "bin", "python")
	}
	if err := exec.CommandContext(t.Context(), python, "-c", "import SimpleITK").Run(); err != nil {
		t.Skipf("%s has no SimpleITK (HILUM_PYTHON names another interpreter)", python)
	}
	dir := t.TempDir()
	want := made()
	if err := ct.WriteMetaImage(filepath.Join(dir, "ours.mhd"), want, true); err != nil {
		t.Fatal(err)
	}
	// ITK reads ours, checks a voxel's place, and writes theirs as float.
	const script = `
import sys, SimpleITK as sitk
image = sitk.ReadImage(sys.argv[1] + "/ours.mhd")
print(*image.TransformIndexToPhysicalPoint((3, 2, 1)), image[3, 2, 1])
sitk.WriteImage(sitk.Cast(image, sitk.sitkFloat32), sys.argv[1] + "/theirs.mha", True)
`
	out, err := exec.CommandContext(t.Context(), python, "-c", script, dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var p [3]float64
	var value int16
	if _, err := fmt.Sscan(string(out), &p[0], &p[1], &p[2], &value); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	at := want.World(3, 2, 1)
	for a := range at {
		if math.Abs(at[a]-p[a]) > 1e-6 {
			t.Errorf("ITK places the voxel at %v, want %v", p, at)
		}
	}
	if w := want.HU[want.Index(3, 2, 1)]; value != w {
		t.Errorf("ITK reads %d, want %d", value, w)
	}
	got, err := ct.ReadMetaImage(filepath.Join(dir, "theirs.mha"))
	if err != nil || !sameVolume(got, want) {
		t.Errorf("ITK's file comes back as %+v, %v, want %+v", got, err, want)
	}
}

// FuzzReadMetaImage holds: a valid volume or an error, with memory in
// proportion to the file.
func FuzzReadMetaImage(f *testing.F) {
	dir := f.TempDir()
	for _, compress := range []bool{false, true} {
		name := filepath.Join(dir, "seed.mha")
		if err := ct.WriteMetaImage(name, made(), compress); err != nil {
			f.Fatal(err)
		}
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(t.TempDir(), "x.mha")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		v, err := ct.ReadMetaImage(name)
		runtime.ReadMemStats(&after)
		if (err == nil) != (v != nil) {
			t.Errorf("volume %v and error %v", v, err)
		}
		if err == nil && (v.Validate() != nil || len(v.HU) != v.Voxels()) {
			t.Errorf("%d voxels in %+v: %v", len(v.HU), v.Geometry, v.Validate())
		}
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(2<<20+3000*len(data)); got > limit {
			t.Errorf("%d bytes of file made %d bytes of memory, want at most %d", len(data), got, limit)
		}
	})
}
