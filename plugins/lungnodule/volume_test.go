package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hilum/models/ct"
	"hilum/plugins/lungnodule/codec"
)

func TestVolumeCommand(t *testing.T) {
	out := filepath.Join(t.TempDir(), "v.mha")
	notes := t.TempDir()
	if err := os.WriteFile(filepath.Join(notes, "a.txt"), []byte("no DICOM"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name string
		args []string
		exit int
		said string
	}{
		{"help", []string{"--help"}, 0, "Usage"},
		{"no folder", []string{"--out", out}, 2, "lungnodule volume --out"},
		{"no output", []string{notes}, 2, "lungnodule volume --out"},
		{"other output", []string{"--out", "v.mhd", notes}, 2, "lungnodule volume --out"},
		{"unknown flag", []string{"--what"}, 2, "what"},
		{"missing folder", []string{"--out", out, filepath.Join(notes, "none")}, 1, "open the folder"},
		{"no series", []string{"--out", out, notes}, exitSeries, "holds no DICOM image"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var said bytes.Buffer
			if exit := volumeMain(tt.args, &said); exit != tt.exit || !strings.Contains(said.String(), tt.said) {
				t.Errorf("exit %d, %q; want %d with %q", exit, said.String(), tt.exit, tt.said)
			}
		})
	}
	if _, err := os.Stat(out); !os.IsNotExist(err) {
		t.Errorf("a refused series left a file")
	}
}

func TestVolumeCommandDecodes(t *testing.T) {
	data := os.Getenv("HILUM_DATA")
	if data == "" {
		data = filepath.Join("..", "..", "..", "shared", "data")
	}
	folder := filepath.Join(data, "lungfcp-jpegls")
	if _, err := os.Stat(folder); err != nil {
		t.Skip("the data set lungfcp-jpegls is not beside the checkout (HILUM_DATA names another place)")
	}
	out := filepath.Join(t.TempDir(), "v.mha")
	var said bytes.Buffer
	if exit := volumeMain([]string{"--out", out, folder}, &said); exit != 0 {
		t.Fatalf("exit %d: %s", exit, said.String())
	}
	got, err := ct.ReadMetaImage(out)
	if err != nil {
		t.Fatal(err)
	}
	want, err := ct.LoadSeries(t.Context(), folder, ct.Options{Decoder: codec.Decode})
	if err != nil {
		t.Fatal(err)
	}
	if got.Size != want.Size || !slices.Equal(got.HU, want.HU) {
		t.Errorf("the volume is another than LoadSeries makes")
	}
}
