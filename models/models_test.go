package models_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hilum/models"
)

const blob = "nodule-blob"

// TestCommittedModels verifies every model folder beside this file.
func TestCommittedModels(t *testing.T) {
	dirs, err := filepath.Glob("*/" + models.ManifestFile)
	if err != nil || len(dirs) == 0 {
		t.Fatalf("no model folders: %v", err)
	}
	for _, name := range dirs {
		m, err := models.Load(filepath.Dir(name))
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if m.Name != filepath.Dir(name) {
			t.Errorf("the model in folder %s is called %s", filepath.Dir(name), m.Name)
		}
		if !strings.Contains(m.IntendedUse, "not a medical device") {
			t.Errorf("%s: intended_use does not say that it is not a medical device", m.Name)
		}
	}
}

// edited returns the blob's manifest with one value replaced; a nil value takes
// the key out.
func edited(t *testing.T, path string, value any) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(blob, models.ManifestFile))
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	at := root
	keys := strings.Split(path, ".")
	for _, k := range keys[:len(keys)-1] {
		at = at[k].(map[string]any)
	}
	if last := keys[len(keys)-1]; value == nil {
		delete(at, last)
	} else {
		at[last] = value
	}
	out, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestParseManifestNamesTheKey(t *testing.T) {
	tests := []struct {
		path  string
		value any
		want  string // in the message
	}{
		{"name", "Nodule Blob", "name"},
		{"name", "../x", "name"},
		{"version", "1", "version"},
		{"task", "segmentation", "task"},
		{"sha256", "abc", "sha256"},
		{"sha256", strings.Repeat("A", 64), "sha256"},
		{"licence", " ", "licence"},
		{"intended_use", "", "intended_use"},
		{"threshhold", 1, "threshhold"},
		{"input.spacing", 1, "spacing"},
		{"input.prepare.pad", 1, "pad"},
		{"input.prepare.masking", nil, "input.prepare.masking"},
		{"input.margin", nil, "input.margin"},
		{"output", nil, "output"},
		{"input.name", "", "input.name"},
		{"input.prepare.spacing_mm", []float64{0, 1, 1}, "input.prepare.spacing_mm"},
		{"input.prepare.pad_value", 256, "pad_value"},
		{"input.prepare", "1 mm", "prepare"},
		{"input.scale.divide", 0, "input.scale"},
		{"input.patch", []int{0, 0, 0}, "input.patch"},
		{"input.patch", []int{130, 128, 128}, "input.patch"},
		{"input.patch", []int{1 << 30, 1 << 30, 1 << 30}, "input.patch"},
		{"input.patch", []int{512, 512, 1024}, "input.patch"},
		{"input.margin", 96, "input.margin"},
		{"input.margin", -4, "input.margin"},
		{"input.margin", 31, "input.margin"},
		{"input.step", 6, "input.step"},
		{"input.step", 80, "input.patch"},
		{"input.batch", 0, "input.batch"},
		{"input.batch", 1000, "input.batch"},
		{"output.name", "", "output.name"},
		{"output.stride", 0, "output.stride"},
		{"output.stride", 1000, "output.stride"},
		{"output.anchors", []float64{}, "output.anchors"},
		{"output.anchors", []float64{5, 4}, "output.anchors"},
		{"output.anchors", []float64{-1}, "output.anchors"},
		{"output.anchors", make([]float64, 100), "output.anchors"},
		{"output.threshold", 0, "output.threshold"},
		{"output.threshold", 1, "output.threshold"},
		{"output.nms_iou", 0, "output.nms_iou"},
		{"output.merge", 3, "output.merge"},
		{"output.min_in_lung", -0.1, "output.min_in_lung"},
		{"output.min_in_lung", nil, "output.min_in_lung"},
		{"output.top_k", 0, "output.top_k"},
		{"output.top_k", 1e9, "output.top_k"},
		{"cpu_providers", []string{}, "cpu_providers"},
		{"cpu_providers", []string{"tpu"}, "cpu_providers"},
		{"cpu_providers", []string{"cpu", "cpu"}, "cpu_providers"},
		{"provenance.data", "", "provenance.data"},
		{"provenance.code", "", "provenance.code"},
		{"provenance.command", "", "provenance.command"},
		{"provenance.metrics", []map[string]any{{"name": "CPM"}}, "provenance.metrics"},
		{"provenance.metrics", []map[string]any{{"name": "CPM", "value": 0.9, "interval": []float64{0.91, 0.95}, "data": "d", "command": "c"}}, "provenance.metrics"},
	}
	for _, tt := range tests {
		_, err := models.ParseManifest(edited(t, tt.path, tt.value))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s = %v: error %v, want one that names %s", tt.path, tt.value, err, tt.want)
		}
	}
	if _, err := models.ParseManifest(edited(t, "provenance.metrics", []map[string]any{
		{"name": "CPM", "value": 0.9, "interval": []float64{0.88, 0.92}, "data": "d", "command": "c"}})); err != nil {
		t.Errorf("a good metric: %v", err)
	}
}

func TestParseManifestSyntax(t *testing.T) {
	good := edited(t, "name", blob)
	for name, tt := range map[string]struct {
		data []byte
		want string
	}{
		"empty":      {nil, "empty"},
		"cut off":    {good[:len(good)/2], "cut off"},
		"two values": {append(bytes.Clone(good), "{}"...), "after the end"},
		"wrong type": {[]byte("{\n\"name\": 5}"), "line 2"},
		"a list":     {[]byte("[]"), "array"},
		"too large":  {make([]byte, 2<<20), "bytes"},
	} {
		if _, err := models.ParseManifest(tt.data); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: error %v, want one with %q", name, err, tt.want)
		}
	}
}

// folder makes a model folder with these two files; nil leaves one out.
func folder(t *testing.T, manifest, network []byte) string {
	t.Helper()
	dir := t.TempDir()
	for name, data := range map[string][]byte{models.ManifestFile: manifest, models.NetworkFile: network} {
		if data == nil {
			continue
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestLoad(t *testing.T) {
	network := []byte("a network")
	sum := sha256.Sum256(network)
	manifest := edited(t, "sha256", hex.EncodeToString(sum[:]))
	dir := folder(t, manifest, network)
	m, err := models.Load(dir)
	if err != nil || !bytes.Equal(m.Network, network) || m.Dir != dir || m.Name != blob {
		t.Fatalf("Load = %+v, %v", m, err)
	}

	_, err = models.Load(folder(t, manifest, []byte("another network")))
	var hash *models.HashError
	other := sha256.Sum256([]byte("another network"))
	if !errors.As(err, &hash) || hash.Want != hex.EncodeToString(sum[:]) || hash.Got != hex.EncodeToString(other[:]) {
		t.Errorf("Load of a changed network = %v, want a HashError with both hashes", err)
	}
	if _, err := models.Load(folder(t, nil, network)); !errors.Is(err, models.ErrMissing) || !strings.Contains(err.Error(), models.ManifestFile) {
		t.Errorf("Load without manifest = %v, want ErrMissing", err)
	}
	if _, err := models.Load(folder(t, manifest, nil)); !errors.Is(err, models.ErrMissing) || !strings.Contains(err.Error(), models.NetworkFile) {
		t.Errorf("Load without network = %v, want ErrMissing", err)
	}
	if _, err := models.Load(filepath.Join(dir, "nowhere")); !errors.Is(err, models.ErrMissing) {
		t.Errorf("Load of no folder = %v, want ErrMissing", err)
	}
	if _, err := models.Load(folder(t, []byte("{}"), network)); !errors.Is(err, models.ErrManifest) {
		t.Errorf("Load of an empty manifest = %v, want ErrManifest", err)
	}
	dir = folder(t, manifest, nil)
	if err := os.Mkdir(filepath.Join(dir, models.NetworkFile), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := models.Load(dir); !errors.Is(err, models.ErrMissing) {
		t.Errorf("Load of a folder as network = %v, want ErrMissing", err)
	}
}

func FuzzParseManifest(f *testing.F) {
	data, err := os.ReadFile(filepath.Join(blob, models.ManifestFile))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(data)
	f.Add([]byte("{}"))
	f.Add([]byte(`{"input":{"patch":[1,2]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := models.ParseManifest(data)
		if err != nil {
			return
		}
		// What is accepted is accepted again, the same.
		again, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := models.ParseManifest(again); err != nil {
			t.Errorf("accepted %s but not its own %s: %v", data, again, err)
		}
	})
}

// TestBlobIsReproducible writes the blob detector again and compares.
func TestBlobIsReproducible(t *testing.T) {
	python := filepath.Join("..", ".cache", "venv", "bin", "python")
	if _, err := os.Stat(python); err != nil {
		t.Skip("the project's Python environment is not there (make setup makes it)")
	}
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), python, filepath.Join("..", "trainer", "torch", "nodule_blob.py"), dir)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nodule_blob.py: %v\n%s", err, out)
	}
	for _, name := range []string{models.ManifestFile, models.NetworkFile} {
		want, err := os.ReadFile(filepath.Join(blob, name))
		if err != nil {
			t.Fatal(err)
		}
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("%s is not the file that nodule_blob.py writes (%d bytes, written %d)", name, len(want), len(got))
		}
	}
}
