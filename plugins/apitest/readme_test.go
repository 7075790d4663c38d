package apitest_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hilum/plugins/apitest"
)

// TestReadme builds the plugin of plugins/README.md and runs the suite on it,
// so that what a new author copies works.
func TestReadme(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, ok := strings.Cut(string(readme), "```go\n")
	program, _, end := strings.Cut(rest, "```\n")
	if !ok || !end {
		t.Fatal("the README has no program")
	}
	if n := strings.Count(program, "\n"); n > 50 {
		t.Errorf("the program of the README has %d lines", n)
	}
	dir := t.TempDir()
	source, path := filepath.Join(dir, "main.go"), filepath.Join(dir, "counter")
	if err := os.WriteFile(source, []byte(program), 0o600); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command("go", "build", "-o", path, source).CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	good := t.TempDir()
	if err := os.WriteFile(filepath.Join(good, "1.dcm"), append(make([]byte, 128), "DICM"...), 0o400); err != nil {
		t.Fatal(err)
	}
	apitest.Run(t, apitest.Config{Path: path, GoodFolder: good})
}
