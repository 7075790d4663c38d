package command

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hilum/trainer/prepare"
)

// TestConvertAndPrepare takes a phantom over MetaImage and back to DICOM, and
// prepares both.
func TestConvertAndPrepare(t *testing.T) {
	dir := t.TempDir()
	command := func(args ...string) (int, string, string) {
		var out, said bytes.Buffer
		code := Main(args, &out, &said)
		return code, out.String(), said.String()
	}
	ok := func(args ...string) string {
		t.Helper()
		code, out, said := command(args...)
		if code != exitOK {
			t.Fatalf("hilum %s: exit %d: %s", strings.Join(args, " "), code, said)
		}
		return out
	}
	phantom, images, series := filepath.Join(dir, "phantom"), filepath.Join(dir, "images"), filepath.Join(dir, "series")
	ok("phantom", "--out", phantom, "--slices", "60", "--rows", "96", "--nodules", "2")
	if out := ok("train", "convert", "--out", images, phantom); !strings.Contains(out, "1 scan in") || !strings.Contains(out, "60 slices") {
		t.Errorf("convert says %q", out)
	}
	ok("train", "convert", "--out", series, "--to", "dicom", images)
	if out := ok("train", "convert", "--out", series, "--to", "dicom", images); !strings.Contains(out, "1 were there") {
		t.Errorf("convert again says %q", out)
	}
	var hashes []string
	for _, in := range []string{phantom, images, series} {
		out := filepath.Join(dir, "prepared", filepath.Base(in))
		var sum prepare.Summary
		if err := json.Unmarshal([]byte(ok("train", "prepare", "--json", "--spacing", "2,2,2", "--out", out, in)), &sum); err != nil {
			t.Fatal(err)
		}
		if sum.Prepared != 1 || sum.Cases != 1 || sum.Seconds["lungs"] <= 0 {
			t.Errorf("summary = %+v", sum)
		}
		m, err := prepare.ReadManifest(out)
		if err != nil {
			t.Fatal(err)
		}
		if m.Settings.Prepare.SpacingMM != [3]float64{2, 2, 2} || m.Software == "" {
			t.Errorf("manifest = %+v", m)
		}
		hashes = append(hashes, m.Cases[0].Clean.SHA256)
	}
	if hashes[0] != hashes[1] || hashes[1] != hashes[2] {
		t.Errorf("the forms of one scan are prepared otherwise: %v", hashes)
	}
	uid, err := filepath.Glob(filepath.Join(images, "*.mhd"))
	if err != nil || len(uid) != 1 {
		t.Fatal(uid, err)
	}
	csv := filepath.Join(dir, "annotations.csv")
	text := "seriesuid,coordX,coordY,coordZ,diameter_mm\n" + strings.TrimSuffix(filepath.Base(uid[0]), ".mhd") + ",5000,0,0,10\n"
	if err := os.WriteFile(csv, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		code int
		want string
	}{
		{[]string{"train", "convert", images}, exitUsage, "--out"},
		{[]string{"train", "convert", "--out", series}, exitUsage, "arg"},
		{[]string{"train", "convert", "--out", series, "--to", "nifti", images}, exitUsage, "nifti"},
		{[]string{"train", "convert", "--out", images, images}, exitFailed, "choose another folder"},
		{[]string{"train", "prepare", images}, exitUsage, "--out"},
		{[]string{"train", "prepare", "--out", series, "--spacing", "1,1", images}, exitUsage, "three numbers"},
		{[]string{"train", "prepare", "--out", series, "--spacing", "1,1,99", images}, exitUsage, "spacing_mm"},
		{[]string{"train", "prepare", "--out", series, "--spacing", "1,1,1", "--anisotropic", images}, exitUsage, "choose"},
		{[]string{"train", "prepare", "--out", filepath.Join(dir, "lost"), "--spacing", "3,3,3", "--annotations", csv, images}, exitSkipped, "1 nodule of 1 not whole"},
	} {
		if code, _, said := command(tt.args...); code != tt.code || !strings.Contains(said, tt.want) {
			t.Errorf("hilum %s: exit %d, %q; want %d with %q", strings.Join(tt.args, " "), code, said, tt.code, tt.want)
		}
	}
}
