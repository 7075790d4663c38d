package main

import (
	"encoding/csv"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hilum/trainer/predict"
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
		"--classifier", filepath.Join(checkout(t), "models", "lung-nodule-classifier"),
		"--threshold", "0.05", "--out", path("p.csv"), "--json", path("p.json"), data)
	judged(t, path("p.csv"), path("p.json"))

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

// judged checks that the CSV and the JSON file of a run with a classifier say
// the same of each finding.
func judged(t *testing.T, marks, document string) {
	t.Helper()
	text, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	var doc predict.Document
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(marks)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) == 0 || strings.Join(rows[0][4:], ",") != "probability,malignancy,texture,texture_probability" {
		t.Fatalf("predict: the CSV begins with %v, %v", rows[:min(1, len(rows))], err)
	}
	rows = rows[1:]
	for _, scan := range doc.Scans {
		if scan.Malignancy == nil || !(*scan.Malignancy > 0 && *scan.Malignancy < 1) {
			t.Errorf("predict: malignancy %v of %s, want a probability", scan.Malignancy, scan.SeriesInstanceUID)
		}
		for _, f := range scan.Findings {
			if len(rows) == 0 {
				t.Fatal("predict: the CSV has fewer findings than the JSON file")
			}
			if f.Malignancy == nil || f.Texture == "" {
				t.Fatalf("predict: finding %s was not judged: %+v", f.ID, f)
			}
			want := fmt.Sprintf("%s %g %g %s %g", scan.SeriesInstanceUID, f.Probability, *f.Malignancy, f.Texture, f.TextureProbability)
			r := rows[0]
			if got := strings.Join(append([]string{r[0]}, r[4:]...), " "); got != want {
				t.Errorf("predict: the CSV has %q, the JSON file %q", got, want)
			}
			rows = rows[1:]
		}
	}
	if len(rows) > 0 {
		t.Errorf("predict: the CSV has %d findings that the JSON file has not", len(rows))
	}
}
