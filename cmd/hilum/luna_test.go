package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLuna takes a simulated LUNA16 through labels, prepare, predict and
// evaluate: every command that stands between the data and an exact measure.
func TestLuna(t *testing.T) {
	program, library := lungnodule(t)
	scans := 20
	if testing.Short() {
		scans = 6
	}
	dir := t.TempDir()
	data := filepath.Join(dir, "luna")
	path := func(name string) string { return filepath.Join(dir, name) }
	do := func(args ...string) string {
		t.Helper()
		out, stderr, code := hilum(args...)
		if code != 0 {
			t.Fatalf("hilum %s: exit code %d: %s", strings.Join(args, " "), code, stderr)
		}
		return out
	}
	answer := func(v any, args ...string) {
		t.Helper()
		if out := do(append(args, "--json")...); json.Unmarshal([]byte(out), v) != nil {
			t.Fatalf("hilum %s: no JSON: %s", strings.Join(args, " "), out)
		}
	}

	// A part of the chest, 120 mm: the networks' time goes with the lungs' volume.
	var made struct{ Scans, Positive, Nodules, Excluded int }
	answer(&made, "train", "phantom", "--luna", data, "--scans", fmt.Sprint(scans), "--rows", "128", "--slices", "60", "--height", "120", "--seed", "11")
	if made.Scans != scans || made.Positive == 0 || made.Positive == scans {
		t.Fatalf("phantom: %+v, want %d scans, some of them without nodules", made, scans)
	}

	var labels struct {
		Counts struct {
			Scans         int `json:"scans"`
			Positive      int `json:"positive"`
			PositiveScans int `json:"positive_scans"`
		}
	}
	answer(&labels, "train", "labels", "--luna", data, "--allow-counts", "--out", path("labels"), filepath.Join(data, "annotations.csv"))
	if c := labels.Counts; c.Scans != scans || c.Positive != made.Nodules || c.PositiveScans != made.Positive {
		t.Errorf("labels: %+v, want the counts of %+v", c, made)
	}
	if text, err := os.ReadFile(path("labels/cases.csv")); err != nil || strings.Count(string(text), "\n") != scans+1 || strings.Count(string(text), ",1\n") != made.Positive {
		t.Errorf("labels: cases.csv is %s, %v; want %d scans, %d of class 1", text, err, scans, made.Positive)
	}

	do("train", "prepare", "--out", path("prepared"), "--annotations", filepath.Join(data, "annotations.csv"), data)
	clean, err := filepath.Glob(path("prepared/*_clean.npy"))
	if err != nil || len(clean) != scans {
		t.Errorf("prepare: %d scans, %v; want %d", len(clean), err, scans)
	}

	do("train", "predict", "--model", filepath.Join(checkout(t), "models", "nodule-blob"), "--plugin", program, "--runtime", library,
		"--threshold", "0.05", "--out", path("p.csv"), "--json", path("p.json"), data)

	var result struct {
		CPM         float64   `json:"cpm"`
		Low         float64   `json:"cpm_low"`
		High        float64   `json:"cpm_high"`
		Sensitivity []float64 `json:"sensitivity"`
		TP, FN, FP  int
		Scans       int
	}
	answer(&result, "train", "evaluate", "--predictions", path("p.csv"), "--annotations", filepath.Join(data, "annotations.csv"),
		"--excluded", filepath.Join(data, "annotations_excluded.csv"), "--scans", filepath.Join(data, "seriesuids.csv"))
	t.Logf("%d scans, %d nodules: %+v", scans, made.Nodules, result)
	if result.Scans != scans || result.TP+result.FN != made.Nodules || len(result.Sensitivity) != 7 {
		t.Errorf("evaluate: %+v, want %d scans and %d nodules", result, scans, made.Nodules)
	}
	// A turned axis or a slip in coordinates would find next to nothing. Of the 37
	// nodules of the whole test 33 are found (CPM 0.73), in pixels of 2.8 mm.
	if 2*result.TP < made.Nodules || !(result.Low <= result.CPM && result.CPM <= result.High) {
		t.Errorf("evaluate: %+v, want at least half of %d nodules found and the CPM in its interval", result, made.Nodules)
	}
	if !testing.Short() && result.CPM < 0.5 {
		t.Errorf("evaluate: CPM %g, want 0.5 at least", result.CPM)
	}
}
