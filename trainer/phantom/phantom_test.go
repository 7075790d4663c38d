package phantom_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
	"hilum/trainer/phantom"
)

// small is a phantom that tests can afford; the body is the same as in a large
// one.
var small = phantom.Options{Seed: 7, Rows: 128, Slices: 64, Nodules: 8}

// written is the small phantom, made once for all tests.
var written = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "phantom")
	if err != nil {
		return "", err
	}
	dir = filepath.Join(dir, "series")
	_, err = phantom.Write(context.Background(), dir, small, nil)
	return dir, err
})

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, err := written(); err == nil {
		_ = os.RemoveAll(filepath.Dir(dir)) // a left-over folder harms no result
	}
	os.Exit(code)
}

func smallPhantom(t *testing.T) (dir string, truth phantom.Truth) {
	t.Helper()
	dir, err := written()
	if err != nil {
		t.Fatal(err)
	}
	truth, err = phantom.ReadTruth(phantom.TruthFile(dir))
	if err != nil {
		t.Fatal(err)
	}
	return dir, truth
}

// image is what the tests read of one slice.
type image struct {
	file           string
	number         int
	origin         []float64
	pixel          float64
	hu             []int16
	uid, seriesUID string
}

func readImages(t *testing.T, dir string) []image {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var images []image
	for _, name := range files {
		f, err := dataset.ReadFile(name, dataset.IndexTags)
		if err != nil {
			t.Fatalf("ReadFile(%s) = %v", name, err)
		}
		im := image{file: filepath.Base(name), uid: f.Header.String(dicomtag.SOPInstanceUID), seriesUID: f.Header.String(dicomtag.SeriesInstanceUID)}
		im.number, _ = f.Header.Int(dicomtag.InstanceNumber)
		im.origin, err = f.Header.Floats(dicomtag.ImagePositionPatient)
		if err != nil || len(im.origin) != 3 {
			t.Fatalf("position in %s = %v, %v", name, im.origin, err)
		}
		spacing, err := f.Header.Floats(dicomtag.PixelSpacing)
		if err != nil {
			t.Fatal(err)
		}
		im.pixel = spacing[0]
		native := f.PixelData.Native
		for i := 0; i+1 < len(native); i += 2 {
			im.hu = append(im.hu, int16(int(binary.LittleEndian.Uint16(native[i:]))-1024))
		}
		images = append(images, im)
	}
	return images
}

func TestWriteMakesASeries(t *testing.T) {
	dir, truth := smallPhantom(t)
	images := readImages(t, dir)
	if len(images) != small.Slices {
		t.Fatalf("Write made %d files, want %d", len(images), small.Slices)
	}
	uids := map[string]bool{}
	inOrder := true
	for i, im := range images { // by file name
		uids[im.uid] = true
		if im.seriesUID != truth.SeriesInstanceUID {
			t.Errorf("%s is of series %s, want %s", im.file, im.seriesUID, truth.SeriesInstanceUID)
		}
		if len(im.hu) != small.Rows*small.Rows {
			t.Fatalf("%s has %d pixels, want %d", im.file, len(im.hu), small.Rows*small.Rows)
		}
		inOrder = inOrder && (i == 0 || im.number > images[i-1].number)
	}
	if len(uids) != len(images) {
		t.Errorf("%d different SOP Instance UIDs, want %d", len(uids), len(images))
	}
	if inOrder {
		t.Error("files are in slice order by name: a reader that trusts names would go unnoticed")
	}
	slices.SortFunc(images, func(a, b image) int { return a.number - b.number })
	step := 300.0 / float64(small.Slices)
	for i := 1; i < len(images); i++ {
		if d := images[i-1].origin[2] - images[i].origin[2]; math.Abs(d-step) > 1e-6 {
			t.Errorf("from slice %d to %d it is %g mm down, want %g", i, i+1, d, step)
		}
	}
}

// TestTruthIsInTheImages looks at the pixels where the truth says that there is
// a nodule, and beside it.
func TestTruthIsInTheImages(t *testing.T) {
	dir, truth := smallPhantom(t)
	images := readImages(t, dir)
	if len(truth.Nodules) != small.Nodules {
		t.Fatalf("truth has %d nodules, want %d", len(truth.Nodules), small.Nodules)
	}
	for _, n := range truth.Nodules {
		if n.DiameterMM < 4 || n.DiameterMM > 30 {
			t.Errorf("a nodule of %g mm, want 4 to 30", n.DiameterMM)
		}
		if n.DiameterMM < 9 {
			continue // at 2.8 mm a pixel, partial volume hides the small ones
		}
		nearest := slices.MinFunc(images, func(a, b image) int {
			return int(1000 * (math.Abs(a.origin[2]-n.Center[2]) - math.Abs(b.origin[2]-n.Center[2])))
		})
		i := int(math.Round((n.Center[0] - nearest.origin[0]) / nearest.pixel))
		j := int(math.Round((n.Center[1] - nearest.origin[1]) / nearest.pixel))
		hu := nearest.hu[j*small.Rows+i]
		low, high := int16(-250), int16(150)
		if n.Kind == phantom.KindGroundGlass {
			low, high = -780, 100
		}
		if hu < low || hu > high {
			t.Errorf("%s nodule of %g mm has %d HU in its middle, want %d to %d", n.Kind, n.DiameterMM, hu, low, high)
		}
	}
}

// TestChestIsPlausible holds what algorithms on chest CT rely on: air around
// the body, lungs of a usual size and density, bone.
func TestChestIsPlausible(t *testing.T) {
	dir, _ := smallPhantom(t)
	lung, bone, sum := 0, 0, 0.0
	for _, im := range readImages(t, dir) {
		if corner := im.hu[0]; corner > -900 {
			t.Errorf("%s: corner has %d HU, want air", im.file, corner)
		}
		for _, hu := range im.hu {
			switch {
			case hu > -940 && hu < -780:
				lung++
				sum += float64(hu)
			case hu > 300:
				bone++
			}
		}
	}
	voxel := 2.8 * 2.8 * 300 / 64 / 1e6 // litres
	if volume := float64(lung) * voxel; volume < 2.5 || volume > 7 {
		t.Errorf("lungs of %.1f l, want 2.5 to 7", volume)
	}
	if mean := sum / float64(lung); mean < -890 || mean > -820 {
		t.Errorf("lungs of %.0f HU, want about -855", mean)
	}
	if volume := float64(bone) * voxel; volume < 0.2 || volume > 2 {
		t.Errorf("bone of %.2f l, want 0.2 to 2", volume)
	}
}

func TestSameSeedSameBytes(t *testing.T) {
	o := phantom.Options{Seed: 3, Rows: 64, Slices: 16, Nodules: 2}
	write := func(o phantom.Options) (files [][]byte, truth phantom.Truth) {
		dir := filepath.Join(t.TempDir(), "x")
		truth, err := phantom.Write(t.Context(), dir, o, nil)
		if err != nil {
			t.Fatal(err)
		}
		names, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range append(names, phantom.TruthFile(dir)) {
			b, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, b)
		}
		return files, truth
	}
	o.Threads = 1
	first, truth := write(o)
	o.Threads = 3
	again, _ := write(o)
	if !slices.EqualFunc(first, again, bytes.Equal) {
		t.Error("the same options made other bytes")
	}
	if _, other := smallPhantom(t); other.SeriesInstanceUID == truth.SeriesInstanceUID {
		t.Error("another seed made the same series UID")
	}
}

func TestWriteRefusals(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "a"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name, dir string
		o         phantom.Options
		want      string
	}{
		{"folder in use", full, phantom.Options{}, "is not empty"},
		{"few rows", filepath.Join(full, "b"), phantom.Options{Rows: 8}, "a phantom of 8 rows is not possible: choose 64 to 2048"},
		{"negative rows", filepath.Join(full, "b"), phantom.Options{Rows: -1}, "-1 rows"},
		{"many slices", filepath.Join(full, "b"), phantom.Options{Slices: 1 << 20}, "1048576 slices"},
		{"many nodules", filepath.Join(full, "b"), phantom.Options{Nodules: 500}, "choose at most 60"},
		{"noise", filepath.Join(full, "b"), phantom.Options{Noise: 1e6}, "noise"},
		{"not a folder", filepath.Join(full, "a", "c"), phantom.Options{}, "make the folder of the phantom"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := phantom.Write(t.Context(), test.dir, test.o, nil)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Write = %v, want an error with %q", err, test.want)
			}
		})
	}
}

// TestCancel: a phantom that was not finished has no truth file.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	dir := filepath.Join(t.TempDir(), "x")
	_, err := phantom.Write(ctx, dir, phantom.Options{Rows: 64, Slices: 40, Nodules: -1}, func(done, total int) {
		if done == 3 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("Write = %v, want context.Canceled", err)
	}
	if _, err := os.Stat(phantom.TruthFile(dir)); err == nil {
		t.Error("there is a truth file for an unfinished series")
	}
}

// TestDciodvfy asks David Clunie's checker about the IOD.
func TestDciodvfy(t *testing.T) {
	checker, err := exec.LookPath("dciodvfy")
	if err != nil {
		t.Skip("dciodvfy is not installed: make setup installs it (Debian package dicom3tools)")
	}
	dir, _ := smallPhantom(t)
	out, err := exec.Command(checker, filepath.Join(dir, "IM0001.dcm")).CombinedOutput()
	if err != nil || strings.Contains(string(out), "Error") {
		t.Errorf("dciodvfy: %v\n%s", err, out)
	}
}

func BenchmarkWriteSmall(b *testing.B) {
	for b.Loop() {
		if _, err := phantom.Write(b.Context(), filepath.Join(b.TempDir(), "x"), small, nil); err != nil {
			b.Fatal(err)
		}
	}
}
