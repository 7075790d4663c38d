package command_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hilum/store"
)

// filled makes a data folder with images of two series and a configuration for it.
func filled(t *testing.T) (config, data string) {
	t.Helper()
	config = write(t, "hilum.yaml", "data: ./data\n")
	data = filepath.Join(filepath.Dir(config), "data")
	s, err := store.Open(data, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 6 {
		w, err := s.NewInstance()
		if err == nil {
			_, err = w.Write(bytes.Repeat([]byte{byte(i + 1)}, 50_000))
		}
		if err == nil {
			_, err = w.Commit(store.Instance{SOPInstanceUID: fmt.Sprint("1.2.", i/2), SeriesInstanceUID: fmt.Sprint("1.", i%4/2), Source: "CT1"})
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	return config, data
}

func TestStoreCommands(t *testing.T) {
	config, _ := filled(t)
	if out, stderr, code := run("store", "check", "--config", config); code != 0 || !strings.Contains(out, "3 good images") || !strings.Contains(out, "3 in quarantine") {
		t.Fatalf("store check = %d\n%s%s", code, out, stderr)
	}
	for _, name := range []string{"b.tar", "b"} {
		backup := filepath.Join(t.TempDir(), name)
		if _, stderr, code := run("store", "backup", "--out", backup, "--config", config); code != 0 || !strings.Contains(stderr, "3 series, 6 images") && !strings.Contains(stderr, "2 series, 6 images") {
			t.Fatalf("store backup = %d\n%s", code, stderr)
		}
		if _, stderr, code := run("store", "backup", "--out", backup, "--config", config); code != 1 || !strings.Contains(stderr, "exists") {
			t.Errorf("second store backup = %d\n%s, want that it exists", code, stderr)
		}
		if out, stderr, code := run("store", "check", "--backup", backup, "--json"); code != 0 || !strings.Contains(out, `"index.db"`) {
			t.Errorf("store check --backup = %d\n%s%s", code, out, stderr)
		}
		other := write(t, "hilum.yaml", "data: ./restored\n")
		if _, stderr, code := run("store", "restore", backup, "--config", other); code != 0 || !strings.Contains(stderr, "restored") {
			t.Errorf("store restore = %d\n%s", code, stderr)
		}
		if _, stderr, code := run("store", "restore", backup, "--config", other); code != 1 || !strings.Contains(stderr, "not empty") {
			t.Errorf("second store restore = %d\n%s, want that the folder is not empty", code, stderr)
		}
		if _, stderr, code := run("store", "compact", "--config", other); code != 0 || !strings.Contains(stderr, "after") {
			t.Errorf("store compact = %d\n%s", code, stderr)
		}
		var report store.CheckReport
		out, _, code := run("store", "check", "--json", "--config", other)
		if err := json.Unmarshal([]byte(out), &report); code != 0 || err != nil || report.Instances != 3 || report.Quarantined != 3 {
			t.Errorf("store check --json after the restore = %d, %v\n%s", code, err, out)
		}
	}
	var list []struct {
		UID    string `json:"sop_instance_uid"`
		SHA256 string `json:"sha256"`
		Source string `json:"source"`
		Reason string `json:"reason"`
	}
	out, _, code := run("store", "quarantine", "list", "--json", "--config", config)
	if err := json.Unmarshal([]byte(out), &list); err != nil || code != 0 || len(list) != 3 || list[0].Source != "CT1" || list[0].Reason == "" || len(list[0].SHA256) != 64 {
		t.Errorf("store quarantine list --json = %d, %v\n%s", code, err, out)
	}
}

// TestStoreCheckDamage: one byte of one image is wrong; the image is named, the
// exit code is 1, and a backup carries it along for who may repair it.
func TestStoreCheckDamage(t *testing.T) {
	config, data := filled(t)
	damaged := 0
	err := filepath.WalkDir(filepath.Join(data, "series"), func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if at := bytes.Index(text, bytes.Repeat([]byte{1}, 40_000)); at >= 0 {
			text[at+100], damaged = 0, damaged+1
		}
		return os.WriteFile(path, text, 0o600)
	})
	if err != nil || damaged != 1 {
		t.Fatalf("damaged %d files: %v", damaged, errors.Join(err))
	}
	out, stderr, code := run("store", "check", "--config", config)
	if code != 1 || !strings.Contains(out, `image "1.2.0"`) || !strings.Contains(stderr, "found") {
		t.Errorf("store check = %d\n%s%s, want exit code 1 and the image's name", code, out, stderr)
	}
}
