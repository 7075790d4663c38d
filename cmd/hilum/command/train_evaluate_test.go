package command_test

import (
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// Tables of three scans: one nodule is found before, one after the only false
// positive, one never.
const (
	scansTable       = "a\nb\nc\nd\n"
	annotationsTable = "seriesuid,coordX,coordY,coordZ,diameter_mm\na,0,0,0,10\nb,0,0,0,5\nb,50,0,0,20\n"
	excludedTable    = "seriesuid,coordX,coordY,coordZ,diameter_mm\nc,9,0,0,-1\n"
	predictionsTable = "seriesuid,coordX,coordY,coordZ,probability\na,1,0,0,0.9\nc,5,0,0,0.95\nd,5,0,0,0.8\nb,0,1,0,0.7\nz,0,0,0,1\n"
)

// evaluation writes the tables and returns the flags that name them.
func evaluation(t *testing.T) []string {
	t.Helper()
	return []string{
		"train", "evaluate", "--predictions", write(t, "p.csv", predictionsTable), "--annotations", write(t, "a.csv", annotationsTable),
		"--excluded", write(t, "e.csv", excludedTable), "--scans", write(t, "s.csv", scansTable),
	}
}

// measured are the keys of --json that others rely on.
type measured struct {
	CPM         *float64   `json:"cpm"`
	CPMLow      *float64   `json:"cpm_low"`
	CPMHigh     *float64   `json:"cpm_high"`
	Sensitivity []float64  `json:"sensitivity"`
	TP          *int       `json:"tp"`
	FN          *int       `json:"fn"`
	FP          *int       `json:"fp"`
	Ignored     *int       `json:"ignored"`
	Scans       *int       `json:"scans"`
	ByFold      []struct{} `json:"by_fold"`
	Misses      []struct{} `json:"misses"`
}

func evaluateJSON(t *testing.T, args ...string) measured {
	t.Helper()
	out, stderr, code := run(append(args, "--json")...)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var m measured
	if err := json.Unmarshal([]byte(out), &m); err != nil {
		t.Fatal(err)
	}
	if m.CPM == nil || m.CPMLow == nil || m.CPMHigh == nil || m.TP == nil || m.FN == nil || m.FP == nil || m.Ignored == nil || m.Scans == nil {
		t.Fatalf("a key is missing in %s", out)
	}
	return m
}

func TestTrainEvaluate(t *testing.T) {
	folds := write(t, "folds.csv", "seriesuid,fold\na,0\nb,1\nc,0\nd,1\n")
	m := evaluateJSON(t, append(evaluation(t), "--folds", folds)...)
	// (0, 1/3), then a false positive in four scans: (1/4, 1/3), then (1/4, 2/3).
	third := 1.0 / 3
	want := []float64{third, 2 * third, 2 * third, 2 * third, 2 * third, 2 * third, 2 * third}
	if !slices.EqualFunc(m.Sensitivity, want, func(a, b float64) bool { return math.Abs(a-b) < 1e-12 }) {
		t.Errorf("sensitivity = %v, want %v", m.Sensitivity, want)
	}
	got := [5]int{*m.TP, *m.FN, *m.FP, *m.Ignored, *m.Scans}
	if wanted := [5]int{2, 1, 1, 1, 4}; got != wanted {
		t.Errorf("tp, fn, fp, ignored, scans = %v, want %v", got, wanted)
	}
	if math.Abs(*m.CPM-13*third/7) > 1e-12 || *m.CPMLow > *m.CPM || *m.CPMHigh < *m.CPM || len(m.ByFold) != 2 || len(m.Misses) != 1 {
		t.Errorf("cpm %v (%v to %v), %d folds, %d misses", *m.CPM, *m.CPMLow, *m.CPMHigh, len(m.ByFold), len(m.Misses))
	}
}

func TestTrainEvaluateTextAndReport(t *testing.T) {
	page := filepath.Join(t.TempDir(), "report.html")
	out, stderr, code := run(append(evaluation(t), "--html", page, "--title", "a detector")...)
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	for _, want := range []string{"CPM 0.6190", "2 of 3 nodules found, 1 missed", "1 false positive (0.2 per scan), 1 ignored", "15 mm and more"} {
		if !strings.Contains(out, want) {
			t.Errorf("the text lacks %q:\n%s", want, out)
		}
	}
	if !strings.Contains(stderr, "took no part: 1 predictions") {
		t.Errorf("standard error = %q", stderr)
	}
	text, err := os.ReadFile(page)
	if err != nil || !strings.Contains(string(text), "a detector") {
		t.Errorf("the report: %v, %d bytes", err, len(text))
	}
	if entries, err := os.ReadDir(filepath.Dir(page)); err != nil || len(entries) != 1 {
		t.Errorf("%d files beside the report, %v", len(entries), err)
	}
}

func TestTrainEvaluateRefuses(t *testing.T) {
	good := evaluation(t)
	with := func(flag, value string) []string { return append(slices.Clone(good), flag, value) }
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no predictions", []string{"train", "evaluate"}, 2, "--predictions is needed"},
		{"no scans", good[:8], 2, "--scans is needed"},
		{"volumes without report", with("--volumes", t.TempDir()), 2, "give --html too"},
		{"negative bootstrap", with("--bootstrap", "-1"), 2, "--bootstrap -1"},
		{"missing file", with("--predictions", "/nonexistent.csv"), 1, "/nonexistent.csv"},
		{"broken table", with("--predictions", write(t, "p.csv", "seriesuid,coordX,coordY,coordZ,probability\na,1,2,x,1\n")), 1, "p.csv:2: coordz"},
		{"scans without nodules", with("--scans", write(t, "s.csv", "d\n")), 1, "none of the scans has a nodule"},
		{"folds without a scan", with("--folds", write(t, "f.csv", "seriesuid,fold\na,1\n")), 1, "the scan b is in no fold"},
		{"report in no folder", with("--html", "/nonexistent/r.html"), 1, "/nonexistent"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, stderr, code := run(tt.args...)
			if code != tt.code || !strings.Contains(stderr, tt.want) || out != "" {
				t.Errorf("run = %q, %q, %d, want %d and %q", out, stderr, code, tt.code, tt.want)
			}
		})
	}
}

// TestTrainEvaluateGolden: the golden case, from the command line, in time.
func TestTrainEvaluateGolden(t *testing.T) {
	dir := os.Getenv("HILUM_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "..", "shared", "data")
	}
	dir = filepath.Join(dir, "luna16")
	if _, err := os.Stat(dir); err != nil {
		t.Skip("LUNA16's tables are not here: they are looked for in ../shared/data/luna16 beside the checkout, or in $HILUM_DATA/luna16")
	}
	start := time.Now()
	m := evaluateJSON(t, "train", "evaluate", "--predictions", filepath.Join(dir, "deeplung-dpn26-predictions.csv"),
		"--annotations", filepath.Join(dir, "annotations.csv"), "--excluded", filepath.Join(dir, "annotations_excluded.csv"),
		"--scans", filepath.Join(dir, "seriesuids.csv"))
	t.Logf("took %v", time.Since(start))
	got := fmt.Sprintf("%.5f %d %d %d %d %d", *m.CPM, *m.TP, *m.FN, *m.FP, *m.Ignored, *m.Scans)
	if want := "0.84197 1136 50 48907 5444 888"; got != want {
		t.Errorf("cpm, tp, fn, fp, ignored, scans = %s, want %s", got, want)
	}
}
