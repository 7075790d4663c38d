package command_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestTrainLabels(t *testing.T) {
	table, scans := write(t, "a.csv", annotationsTable), write(t, "s.csv", scansTable)
	dir := filepath.Join(t.TempDir(), "labels")
	out, stderr, code := run("train", "labels", "--out", dir, "--scans", scans, table)
	if code != 1 || out != "" || !strings.Contains(stderr, "4 scans, where LUNA16 has 888, 3 nodules, where LUNA16 has 1186") || !strings.Contains(stderr, "--allow-counts") {
		t.Fatalf("other counts: %q, %q, %d", out, stderr, code)
	}
	if _, err := os.Stat(dir); !os.IsNotExist(err) {
		t.Errorf("the folder is there: %v", err)
	}
	out, stderr, code = run("train", "labels", "--out", dir, "--scans", scans, "--allow-counts", table)
	if code != 0 || !strings.Contains(out, "not LUNA16's numbers") || !strings.Contains(stderr, "not LUNA16's official ones") {
		t.Fatalf("allowed: %q, %q, %d", out, stderr, code)
	}
	text, err := os.ReadFile(filepath.Join(dir, "cases.csv"))
	if want := "seriesuid,class\na,1\nb,1\nc,0\nd,0\n"; err != nil || string(text) != want {
		t.Errorf("cases.csv = %q, %v, want %q", text, err, want)
	}
	for name, rows := range map[string]int{"nodules.csv": 4, "split.csv": 5, "folds.csv": 5} {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || strings.Count(string(text), "\n") != rows {
			t.Errorf("%s = %q, %v, want %d lines", name, text, err, rows)
		}
	}
}

// TestTrainLabelsTree: the folds of a LUNA16 folder are the official ones.
func TestTrainLabelsTree(t *testing.T) {
	tree := t.TempDir()
	for k := range 10 {
		folder := filepath.Join(tree, fmt.Sprint("subset", k))
		if err := os.Mkdir(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(folder, fmt.Sprintf("1.2.%d.mhd", 9-k)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	table := "seriesuid,coordX,coordY,coordZ,diameter_mm\n1.2.3,1,2,3,4\n"
	if err := os.WriteFile(filepath.Join(tree, "annotations.csv"), []byte(table), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	out, stderr, code := run("train", "labels", "--out", dir, "--luna", tree, "--allow-counts", "--json")
	if code != 0 {
		t.Fatalf("exit code %d: %s", code, stderr)
	}
	var s struct {
		Official bool  `json:"official_folds"`
		Folds    []int `json:"fold_scans"`
		Counts   struct{ Scans, Rows int }
	}
	if err := json.Unmarshal([]byte(out), &s); err != nil || !s.Official || s.Counts.Scans != 10 || s.Counts.Rows != 1 {
		t.Errorf("summary = %+v, %v", s, err)
	}
	folds, err := os.ReadFile(filepath.Join(dir, "folds.csv"))
	if err != nil || !strings.Contains(string(folds), "1.2.3,6\n") {
		t.Errorf("folds.csv = %q, %v", folds, err)
	}
}

func TestTrainLabelsRefuses(t *testing.T) {
	table := write(t, "a.csv", annotationsTable)
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"no folder to write to", []string{table}, 2, "--out"},
		{"no table", []string{"--out", t.TempDir()}, 2, "a table is needed"},
		{"no LUNA16 folder", []string{"--out", t.TempDir(), "--luna", t.TempDir(), table}, 1, "no folder subset0"},
		{"row of another scan", []string{"--out", t.TempDir(), "--scans", write(t, "s.csv", "a\n"), table}, 1, "a.csv:3: the scan b is not in the list"},
		{"another table", []string{"--out", t.TempDir(), write(t, "p.csv", predictionsTable)}, 1, "neither diameter_mm"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, stderr, code := run(append([]string{"train", "labels"}, tt.args...)...)
			if code != tt.code || !strings.Contains(stderr, tt.want) || out != "" {
				t.Errorf("run = %q, %q, %d, want %d and %q", out, stderr, code, tt.code, tt.want)
			}
		})
	}
}
