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
		m, err := models.Verify(filepath.Dir(name), "")
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
func edited(t testing.TB, path string, value any) []byte {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(blob, models.ManifestFile))
	if err != nil {
		t.Fatal(err)
	}
	var root map[string]any
	if err := json.Unmarshal(data, &root); err != nil {
		t.Fatal(err)
	}
	set(root, path, value)
	out, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// set replaces the value at a path; nil takes the key out.
func set(root map[string]any, path string, value any) {
	keys := strings.Split(path, ".")
	for _, k := range keys[:len(keys)-1] {
		root = root[k].(map[string]any)
	}
	if last := keys[len(keys)-1]; value == nil {
		delete(root, last)
	} else {
		root[last] = value
	}
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
		{"input.reach_mm", -1, "input.reach_mm"},
		{"input.reach_mm", 51, "input.reach_mm"},
		{"input.reach_mm", nil, "input.reach_mm"},
		{"rescore", map[string]any{}, "rescore.sha256"},
		{"rescore", 7, "rescore"},
		{"output.name", "", "output.name"},
		{"input.place", "volume", "place"},
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

// classifier is a good classifier's manifest with one value replaced; a nil
// value takes the key out.
func classifier(t testing.TB, path string, value any) []byte {
	t.Helper()
	root := map[string]any{}
	if err := json.Unmarshal(edited(t, "task", models.TaskNoduleClassification), &root); err != nil {
		t.Fatal(err)
	}
	delete(root, "output")
	root["input"] = map[string]any{
		"crops": "crops", "diameter": "diameter_mm", "spacing_mm": 1, "window_hu": []float64{-1000, 400}, "pad_value_hu": -1000, "size": 32,
	}
	root["outputs"] = map[string]any{
		"malignancy": "malignancy", "texture": "texture", "texture_names": []string{"solid", "part-solid", "ground-glass"}, "leak": 0.01,
	}
	set(root, path, value)
	out, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func TestParseClassifierManifestNamesTheKey(t *testing.T) {
	tests := []struct {
		path  string
		value any
		want  string // in the message
	}{
		{"name", "X", "name"},
		{"task", "segmentation", "task"},
		{"task", models.TaskNoduleDetection, "is a model for"},
		{"cpu_providers", []string{}, "cpu_providers"},
		{"input.crops", "", "input.crops"},
		{"input.diameter", "crops", "input.diameter"},
		{"input.diameter", nil, "input.diameter"},
		{"input.spacing_mm", 0, "input.spacing_mm"},
		{"input.spacing_mm", 11, "input.spacing_mm"},
		{"input.window_hu", []float64{400, 400}, "input.window_hu"},
		{"input.pad_value_hu", 1e6, "input.pad_value_hu"},
		{"input.size", 0, "input.size"},
		{"input.size", 1000, "input.size"},
		{"input.prepare", 1, "prepare"},
		{"outputs", nil, "outputs"},
		{"outputs.malignancy", "", "outputs.malignancy"},
		{"outputs.texture", "malignancy", "outputs.texture"},
		{"outputs.texture_names", []string{}, "outputs.texture_names"},
		{"outputs.texture_names", []string{"solid", "solid"}, "outputs.texture_names"},
		{"outputs.texture_names", []string{"hairy"}, "outputs.texture_names"},
		{"outputs.leak", 1, "outputs.leak"},
		{"outputs.leak", nil, "outputs.leak"},
	}
	for _, tt := range tests {
		_, err := models.ParseClassifierManifest(classifier(t, tt.path, tt.value))
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s = %v: error %v, want one that names %s", tt.path, tt.value, err, tt.want)
		}
	}
}

func TestRescoreNamesTheKey(t *testing.T) {
	good := func() map[string]any {
		return map[string]any{
			"sha256": strings.Repeat("0", 64), "input": "crops", "output": "logit", "size": 32, "batch": 16, "threshold": 0.02, "weight": 0.5,
		}
	}
	if _, err := models.ParseManifest(edited(t, "rescore", good())); err != nil {
		t.Fatal(err)
	}
	for key, values := range map[string][]any{
		"sha256": {"", nil}, "input": {""}, "output": {""}, "size": {0, 999}, "batch": {0, 999},
		"threshold": {0, 1}, "weight": {-0.1, 1.1, nil}, "seed": {1},
	} {
		for _, value := range values {
			bad := good()
			set(bad, key, value)
			if _, err := models.ParseManifest(edited(t, "rescore", bad)); err == nil || !strings.Contains(err.Error(), key) {
				t.Errorf("rescore.%s = %v: error %v, want one that names it", key, value, err)
			}
		}
	}
}

func TestAgainNamesTheKey(t *testing.T) {
	good := func() map[string]any { return map[string]any{"from": 0.3, "mirrors": []any{"zyx", "y"}} }
	m, err := models.ParseManifest(edited(t, "again", good()))
	if err != nil {
		t.Fatal(err)
	}
	if m.Again.From != 0.3 || m.Again.Mirrors[0].Axes() != [3]bool{true, true, true} || m.Again.Mirrors[1].Axes() != [3]bool{false, true, false} {
		t.Errorf("again is %+v", m.Again)
	}
	for key, values := range map[string][]any{
		"from": {0, 1, nil}, "mirrors": {[]any{}, []any{"xz"}, []any{"z", "z"}, []any{""}, "z", nil}, "times": {2},
	} {
		for _, value := range values {
			bad := good()
			set(bad, key, value)
			if _, err := models.ParseManifest(edited(t, "again", bad)); err == nil || !strings.Contains(err.Error(), key) {
				t.Errorf("again.%s = %v: error %v, want one that names it", key, value, err)
			}
		}
	}
	var root map[string]any
	if err := json.Unmarshal(edited(t, "again", good()), &root); err != nil {
		t.Fatal(err)
	}
	set(root["input"].(map[string]any), "place", "place")
	data, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := models.ParseManifest(data); err == nil || !strings.Contains(err.Error(), "again") {
		t.Errorf("a network with a place that looks again: error %v, want one that names again", err)
	}
}

// TestVerify knows both tasks, and every file of a folder.
func TestVerify(t *testing.T) {
	network, rescoring := []byte("a network"), []byte("another")
	hash := func(b []byte) string { sum := sha256.Sum256(b); return hex.EncodeToString(sum[:]) }
	detector := edited(t, "sha256", hash(network))
	if c, err := models.Verify(folder(t, detector, network), ""); err != nil || c.Task != models.TaskNoduleDetection {
		t.Errorf("Verify of a detector = %+v, %v", c, err)
	}
	judge := classifier(t, "sha256", hash(network))
	dir := folder(t, judge, network)
	if c, err := models.Verify(dir, ""); err != nil || c.Task != models.TaskNoduleClassification {
		t.Errorf("Verify of a classifier = %+v, %v", c, err)
	}
	if _, err := models.Load(dir); !errors.Is(err, models.ErrManifest) || !strings.Contains(err.Error(), models.TaskNoduleClassification) {
		t.Errorf("Load of a classifier = %v, want one that names its task", err)
	}
	if _, err := models.Verify(folder(t, detector, network), models.TaskNoduleClassification); !errors.Is(err, models.ErrManifest) {
		t.Errorf("Verify of a detector as a classifier = %v, want ErrManifest", err)
	}
	var wrong *models.HashError
	if _, err := models.Verify(folder(t, judge, rescoring), ""); !errors.As(err, &wrong) {
		t.Errorf("Verify of a classifier with another network = %v, want a HashError", err)
	}

	var root map[string]any
	if err := json.Unmarshal(detector, &root); err != nil {
		t.Fatal(err)
	}
	root["rescore"] = map[string]any{
		"sha256": hash(rescoring), "input": "crops", "output": "logit", "size": 32, "batch": 16, "threshold": 0.02, "weight": 0.5,
	}
	two, err := json.Marshal(root)
	if err != nil {
		t.Fatal(err)
	}
	dir = folder(t, two, network)
	if _, err := models.Verify(dir, ""); !errors.Is(err, models.ErrMissing) || !strings.Contains(err.Error(), models.RescoreFile) {
		t.Errorf("Verify without the second network = %v, want ErrMissing", err)
	}
	if err := os.WriteFile(filepath.Join(dir, models.RescoreFile), network, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := models.Verify(dir, ""); !errors.As(err, &wrong) || filepath.Base(wrong.File) != models.RescoreFile {
		t.Errorf("Verify with another second network = %v, want a HashError", err)
	}
	if err := os.WriteFile(filepath.Join(dir, models.RescoreFile), rescoring, 0o600); err != nil {
		t.Fatal(err)
	}
	if m, err := models.Load(dir); err != nil || !bytes.Equal(m.Rescoring, rescoring) {
		t.Errorf("Load = %v, want the second network's bytes", err)
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

func FuzzParseClassifierManifest(f *testing.F) {
	f.Add(classifier(f, "version", "1.0.0"))
	f.Add([]byte("{}"))
	f.Fuzz(func(t *testing.T, data []byte) {
		if m, err := models.ParseClassifierManifest(data); err == nil && (m.Input.Size < 1 || m.Outputs.Leak < 0) {
			t.Errorf("accepted %s", data)
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
