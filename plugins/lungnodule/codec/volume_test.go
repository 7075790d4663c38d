package codec_test

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"hilum/models/ct"
	"hilum/plugins/lungnodule/codec"
)

const root = "../../.."

// seriesFolder returns a series of the shared data, or skips the test.
func seriesFolder(t testing.TB, name string) string {
	t.Helper()
	data := os.Getenv("HILUM_DATA")
	if data == "" {
		data = filepath.Join(root, "..", "shared", "data")
	}
	dir := filepath.Join(data, name)
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("the data set %s is not beside the checkout (HILUM_DATA names another place)", name)
	}
	return dir
}

// python returns an interpreter with pydicom and NumPy, or skips the test.
func python(t *testing.T) string {
	t.Helper()
	name := os.Getenv("HILUM_PYTHON")
	if name == "" {
		name = filepath.Join(root, ".cache", "venv", "bin", "python")
	}
	if err := exec.CommandContext(t.Context(), name, "-c", "import pydicom, numpy").Run(); err != nil {
		t.Skipf("%s has no pydicom and NumPy (make setup; HILUM_PYTHON names another interpreter)", name)
	}
	return name
}

// TestVolumesEqualPydicom holds that every voxel of real series is the one that
// pydicom and NumPy make of it.
func TestVolumesEqualPydicom(t *testing.T) {
	interpreter := python(t)
	for _, tt := range []struct {
		series     string
		compressed bool
	}{
		{"ct-chest-siemens", false},
		{"lidc-0001", false},
		{"ct-chest-ge-jpegls", true},
		{"lungfcp-jpegls", true},
		{"lidc-0002-j2k", true},
	} {
		t.Run(tt.series, func(t *testing.T) {
			dir := seriesFolder(t, tt.series)
			if _, err := exec.LookPath("gdcmconv"); err != nil && tt.compressed {
				t.Skip("gdcmconv is not installed (Debian: libgdcm-tools)")
			}
			v, err := ct.LoadSeries(t.Context(), dir, ct.Options{Decoder: codec.Decode})
			if err != nil {
				t.Fatal(err)
			}
			out := t.TempDir()
			raw, description := filepath.Join(out, "volume.raw"), filepath.Join(out, "volume.json")
			var voxels bytes.Buffer
			if err := binary.Write(&voxels, binary.LittleEndian, v.HU); err != nil {
				t.Fatal(err)
			}
			v.HU = nil
			text, err := json.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			for name, b := range map[string][]byte{raw: voxels.Bytes(), description: text} {
				if err := os.WriteFile(name, b, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			script := filepath.Join(root, "trainer", "torch", "compare_volume.py")
			said, err := exec.CommandContext(t.Context(), interpreter, script, dir, raw, description).CombinedOutput()
			if err != nil {
				t.Fatalf("compare_volume.py: %v\n%s", err, said)
			}
			t.Logf("%s", said)
		})
	}
}

// BenchmarkLoadSeries measures whole series; the files are in the page cache.
func BenchmarkLoadSeries(b *testing.B) {
	for _, name := range []string{"lidc-0001", "ct-chest-ge-jpegls", "lidc-0002-j2k"} {
		b.Run(name, func(b *testing.B) {
			dir := seriesFolder(b, name)
			for b.Loop() {
				v, err := ct.LoadSeries(b.Context(), dir, ct.Options{Decoder: codec.Decode})
				if err != nil {
					b.Fatal(err)
				}
				b.SetBytes(int64(2 * len(v.HU)))
			}
		})
	}
}
