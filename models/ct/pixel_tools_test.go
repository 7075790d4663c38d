package ct_test

import (
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
)

var update = flag.Bool("update", false, "write testdata/*.frame again, with DCMTK and GDCM")

// dataFolder returns a folder of the shared data, or skips the test.
func dataFolder(t testing.TB, name string) string {
	t.Helper()
	root := os.Getenv("HILUM_DATA")
	if root == "" {
		root = filepath.Join("..", "..", "..", "shared", "data")
	}
	dir := filepath.Join(root, name)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("the data set %s is not beside the checkout (HILUM_DATA names another place)", name)
	}
	return dir
}

// compressors are programs that write the transfer syntaxes decoded in Go.
var compressors = []struct {
	name    string
	command []string
}{
	{"dcmcrle", []string{"dcmcrle"}},
	{"gdcm-rle", []string{"gdcmconv", "--rle"}},
	{"gdcm-sv1", []string{"gdcmconv", "--jpeg"}},
	{"dcmcjpeg-sv1", []string{"dcmcjpeg", "+e1"}},
	{"dcmcjpeg-sv2", []string{"dcmcjpeg", "+el", "+sv", "2"}},
	{"dcmcjpeg-sv3", []string{"dcmcjpeg", "+el", "+sv", "3"}},
	{"dcmcjpeg-sv4", []string{"dcmcjpeg", "+el", "+sv", "4"}},
	{"dcmcjpeg-sv5", []string{"dcmcjpeg", "+el", "+sv", "5"}},
	{"dcmcjpeg-sv6", []string{"dcmcjpeg", "+el", "+sv", "6"}},
	{"dcmcjpeg-sv7", []string{"dcmcjpeg", "+el", "+sv", "7"}},
}

// smooth is a series like CT: a slope, noise and a black rim, in signed cells.
func smooth(rows, columns, slices int) []image {
	r := rand.New(rand.NewPCG(3, 4))
	all := series(slices)
	for k, m := range all {
		m.set(dicomtag.Rows, rows)
		m.set(dicomtag.Columns, columns)
		m.set(dicomtag.BitsStored, 16)
		m.set(dicomtag.HighBit, 15)
		m.set(dicomtag.PixelRepresentation, 1)
		m.set(dicomtag.PixelPaddingValue, -2000)
		cells := make([]uint16, rows*columns)
		for i := range cells {
			y, x := i/columns, i%columns
			v := 20*x - 30*y + 100*k + r.IntN(50) - 500
			if x+y < columns/4 {
				v = -2000
			}
			cells[i] = uint16(int16(v))
		}
		m.pixels(cells...)
	}
	return all
}

// TestCompressedByOthers compares series that DCMTK and GDCM have compressed
// with what they were made of: a made one and three slices of a real one.
func TestCompressedByOthers(t *testing.T) {
	made := writeSeries(t, explicitLE, smooth(24, 32, 3))
	t.Run("made", func(t *testing.T) { compareCompressed(t, made, *update) })
	t.Run("real", func(t *testing.T) {
		all := dataFolder(t, "ct-chest-siemens")
		dir := t.TempDir()
		for n, name := range neighbours(t, all) {
			if err := os.Symlink(name, filepath.Join(dir, fmt.Sprint(n))); err != nil {
				t.Fatal(err)
			}
		}
		compareCompressed(t, dir, false)
	})
}

// neighbours returns the files of the three lowest slices.
func neighbours(t *testing.T, dir string) []string {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(dir, "*.dcm"))
	if err != nil {
		t.Fatal(err)
	}
	height := map[string]float64{}
	for n, name := range names {
		f, err := dataset.ReadHeader(name, []dataset.Tag{dicomtag.ImagePositionPatient})
		if err != nil {
			t.Fatal(err)
		}
		position, err := f.Header.Floats(dicomtag.ImagePositionPatient)
		if err != nil || len(position) != 3 {
			t.Fatal(err)
		}
		if names[n], err = filepath.Abs(name); err != nil {
			t.Fatal(err)
		}
		height[names[n]] = position[2]
	}
	slices.SortFunc(names, func(a, b string) int { return int(1000 * (height[a] - height[b])) })
	return names[:3]
}

func compareCompressed(t *testing.T, plain string, write bool) {
	want := mustLoad(t, plain)
	for _, c := range compressors {
		t.Run(c.name, func(t *testing.T) {
			if _, err := exec.LookPath(c.command[0]); err != nil {
				t.Skipf("%s is not installed", c.command[0])
			}
			dir := t.TempDir()
			files, err := os.ReadDir(plain)
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				args := append(c.command[1:len(c.command):len(c.command)], filepath.Join(plain, f.Name()), filepath.Join(dir, f.Name()))
				if out, err := exec.CommandContext(t.Context(), c.command[0], args...).CombinedOutput(); err != nil {
					t.Fatalf("%s %s: %v\n%s", c.command[0], strings.Join(args, " "), err, out)
				}
			}
			got := mustLoad(t, dir)
			if got.Geometry != want.Geometry || !slices.Equal(got.HU, want.HU) {
				t.Errorf("the compressed series has other voxels than the plain one")
			}
			f, err := dataset.ReadFile(filepath.Join(dir, files[0].Name()), nil)
			if err != nil || len(f.PixelData.Fragments) == 0 {
				t.Fatalf("%s compressed nothing: %v", c.command[0], err)
			}
			if write {
				if err := os.WriteFile(filepath.Join("testdata", c.name+".frame"), f.PixelData.Fragments[0], 0o600); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestFrames decodes the frames in testdata, which DCMTK and GDCM have written
// of the made series, where those programs are not installed.
func TestFrames(t *testing.T) {
	all := smooth(24, 32, 3)
	want := mustLoad(t, writeSeries(t, explicitLE, all))
	for _, c := range compressors {
		syntax := map[string]string{"rle": rle, "sv1": jpegSV1}[c.name[len(c.name)-3:]]
		if syntax == "" {
			syntax = "1.2.840.10008.1.2.4.57"
		}
		frame, err := os.ReadFile(filepath.Join("testdata", c.name+".frame"))
		if err != nil {
			t.Fatal(err)
		}
		all := smooth(24, 32, 3)
		for _, m := range all {
			m.set(dicomtag.PixelData, [][]byte{frame})
		}
		got := mustLoad(t, writeSeries(t, syntax, all))
		area := 24 * 32
		// The frame is of the first file in name order, which is the last slice.
		if !slices.Equal(got.HU[:area], want.HU[2*area:]) {
			t.Errorf("%s: other pixels come back", c.name)
		}
	}
}
