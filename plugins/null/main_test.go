package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"hilum/plugins/api"
	"hilum/plugins/apitest"
)

func TestPlugin(t *testing.T) {
	path := filepath.Join(t.TempDir(), "null")
	if out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, out)
	}
	good := t.TempDir()
	for _, name := range []string{"1.dcm", "2.dcm"} {
		if err := os.WriteFile(filepath.Join(good, name), append(make([]byte, 128), "DICM"...), 0o400); err != nil {
			t.Fatal(err)
		}
	}
	apitest.Run(t, apitest.Config{
		Path:       path,
		Args:       []string{"-findings", "3"},
		GoodFolder: good,
		Series:     map[string]string{"Modality": "CT"},
		Check: func(t *testing.T, r api.Result) {
			if len(r.Findings) != 3 || r.Attributes["files"] != "2" {
				t.Errorf("result = %+v", r)
			}
		},
	})
}
