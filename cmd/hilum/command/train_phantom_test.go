package command_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestPhantomUsage(t *testing.T) {
	for _, tt := range []struct {
		args string
		want string
	}{
		{"phantom", "--out is needed"},
		{"phantom --out x y", "unknown argument"},
		{"phantom --luna x --out y", "--luna goes without --out"},
		{"phantom --luna x --nodules 3", "--nodules goes with"},
		{"phantom --luna x --scans 0", "--scans must be"},
		{"phantom --out x --scans 3", "--scans goes with --luna"},
		{"phantom --out x --source y", "--source goes with --into"},
		{"phantom --into x --out y --rows 9", "--rows goes with synthetic scans"},
		{"phantom --into x", "--out is needed"},
		{"phantom --into x --out y --real-only", "--real-only needs --source"},
		{"phantom --into x --out y --real-only --simulated-only --source z", "exclude each other"},
		{"phantom --into x --out y --nodules 0", "--nodules must be"},
		{"train predict x", "--model is needed"},
		{"train predict --model m x", "--out is needed"},
		{"train predict --model m --out p.csv", "at least 1 arg"},
		{"train predict --model m --out p.csv --threshold 1 x", "--threshold 1"},
		{"train predict --model m --out p.csv --deadline 0s x", "--deadline"},
	} {
		_, stderr, code := run(strings.Fields(tt.args)...)
		if code != 2 || !strings.Contains(stderr, tt.want) {
			t.Errorf("hilum %s: exit code %d, %q; want %d and %q", tt.args, code, stderr, 2, tt.want)
		}
	}
}

func TestTrainPhantomLuna(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "luna")
	args := []string{"train", "phantom", "--luna", dir, "--scans", "2", "--rows", "64", "--slices", "24", "--height", "120", "--json"}
	for _, made := range []int{2, 0} {
		out, stderr, code := run(args...)
		var sum struct{ Scans, Made, Positive int }
		if err := json.Unmarshal([]byte(out), &sum); err != nil || code != 0 || sum.Scans != 2 || sum.Made != made || sum.Positive != 1 {
			t.Fatalf("hilum %v: exit code %d, %s%s; want 2 scans, %d made, 1 with nodules", args, code, out, stderr, made)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "annotations.csv")); err != nil {
		t.Error(err)
	}
}
