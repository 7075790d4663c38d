package main

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"hilum/models/ct"
	"hilum/plugins/api"
)

func TestLoadScanMetaImage(t *testing.T) {
	v := &ct.Volume{Geometry: ct.Geometry{Size: [3]int{4, 3, 5}, Spacing: [3]float64{1, 1, 2}, Axes: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}}}
	v.HU = make([]int16, v.Voxels())
	v.HU[7] = -321
	data, link := t.TempDir(), t.TempDir()
	name := filepath.Join(data, "1.2.3.mhd")
	if err := ct.WriteMetaImage(name, v, false); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(name, filepath.Join(link, "1.2.3.mhd")); err != nil {
		t.Fatal(err)
	}
	got, err := loadScan(t.Context(), api.Job{Folder: link}, 1)
	if err != nil {
		t.Fatal(err)
	}
	if got.SeriesInstanceUID != "1.2.3" || got.HU[7] != -321 || got.Geometry != v.Geometry {
		t.Errorf("loadScan = %q with %v, want 1.2.3 with the voxels written", got.SeriesInstanceUID, got.HU)
	}

	var series *ct.SeriesError
	// Two files are a series, and these no images.
	if _, err := loadScan(t.Context(), api.Job{Folder: data}, 1); !errors.As(err, &series) {
		t.Errorf("header and voxels in the folder: %v, want a *ct.SeriesError", err)
	}
	if err := os.Truncate(filepath.Join(data, "1.2.3.raw"), 9); err != nil {
		t.Fatal(err)
	}
	if _, err := loadScan(t.Context(), api.Job{Folder: link}, 1); !errors.As(err, &series) {
		t.Errorf("voxels cut off: %v, want a *ct.SeriesError", err)
	}
}
