package command_test

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hilum/cmd/hilum/command"
)

// TestRuleTest tries rules on a phantom: one applies, one does not for its
// thickness, one for who sent it.
func TestRuleTest(t *testing.T) {
	folder := t.TempDir()
	run := func(args ...string) (string, string, int) {
		var stdout, stderr bytes.Buffer
		code := command.Main(args, &stdout, &stderr)
		return stdout.String(), stderr.String(), code
	}
	series := filepath.Join(folder, "ct")
	if _, stderr, code := run("phantom", "--out", series, "--rows", "64", "--slices", "16", "--nodules", "1"); code != 0 {
		t.Fatal(stderr)
	}
	file := filepath.Join(folder, "hilum.yaml")
	const text = `plugins: [{name: a, path: a}, {name: b, path: b}]
pipelines: [{name: both, plugins: [a, b]}]
rules:
  - {name: chest, pipeline: both, modality: [CT]}
  - {name: thick, pipeline: a, slice_thickness: [">1000"]}
  - {name: emergency, pipeline: both, priority: urgent, calling_ae: ["ER*"], header: ["Rows=64"]}
  - {name: rest, pipeline: b, fallback: true}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	stdout, stderr, code := run("rule", "test", series, "--config", file)
	for _, want := range []string{", 16 files", `goes to both, routine, by rule "chest"`, "not >1000", "calling AE title is nothing, not ER*", "it is a fallback, and another rule applies"} {
		if !strings.Contains(stdout, want) {
			t.Errorf("stdout has no %q:\n%s", want, stdout)
		}
	}
	if code != 0 {
		t.Errorf("exit code %d, stderr %s", code, stderr)
	}
	if stdout, _, _ := run("rule", "test", series, "--config", file, "--calling-ae", "ER1"); !strings.Contains(stdout, "goes to both, urgent") {
		t.Errorf("sent by ER1:\n%s", stdout)
	}
	if _, stderr, code := run("rule", "test", file, "--config", file); code != 1 || !strings.Contains(stderr, "no DICOM file") {
		t.Errorf("a text file: exit code %d, %s", code, stderr)
	}
}
