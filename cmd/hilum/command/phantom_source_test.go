package command

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestParseFold(t *testing.T) {
	for text, want := range map[string][2]int{"0/5": {0, 5}, "4/5": {4, 5}, "0/1": {0, 1}} {
		if k, n, err := parseFold(text); err != nil || k != want[0] || n != want[1] {
			t.Errorf("parseFold(%q) = %d, %d, %v, want %v", text, k, n, err, want)
		}
	}
	for _, text := range []string{"", "5", "5/5", "-1/5", "0/0", "0/5x", "a/b", "0/9999"} {
		if k, n, err := parseFold(text); err == nil {
			t.Errorf("parseFold(%q) = %d, %d, want an error", text, k, n)
		}
	}
}

func TestReadPatients(t *testing.T) {
	name := filepath.Join(t.TempDir(), "patients.txt")
	if err := os.WriteFile(name, []byte("LIDC-IDRI-0004\r\n\n LIDC-IDRI-0007 \n"), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readPatients(name)
	if err != nil || len(got) != 2 || !got["LIDC-IDRI-0004"] || !got["LIDC-IDRI-0007"] {
		t.Errorf("readPatients = %v, %v, want two", got, err)
	}
	if err := os.WriteFile(name, []byte("\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readPatients(name); err == nil || !strings.Contains(err.Error(), "names no patient") {
		t.Errorf("an empty list: %v", err)
	}
}
