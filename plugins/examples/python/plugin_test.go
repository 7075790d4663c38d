package python_test

import (
	"encoding/binary"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"testing"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
	"hilum/plugins/api"
	"hilum/plugins/apitest"
)

// series writes a small CT: air, and a ball of 12 mm around center.
func series(t *testing.T, center [3]float64) string {
	t.Helper()
	const slices, side, thick, spacing = 16, 48, 2.5, 1.5
	folder := t.TempDir()
	for k := range slices {
		pixels := make([]byte, 0, 2*side*side)
		for y := range side {
			for x := range side {
				hu := int16(-1000)
				if math.Hypot(math.Hypot(float64(x)*spacing-center[0], float64(y)*spacing-center[1]), float64(k)*thick-center[2]) < 6 {
					hu = 40
				}
				pixels = binary.LittleEndian.AppendUint16(pixels, uint16(hu))
			}
		}
		f, err := os.Create(filepath.Join(folder, fmt.Sprintf("%02d.dcm", slices-k)))
		if err != nil {
			t.Fatal(err)
		}
		err = dataset.WriteFile(f, dataset.ExplicitVRLittleEndian, []*dataset.Element{
			dataset.MustElement(dicomtag.SOPClassUID, "1.2.840.10008.5.1.4.1.1.2"),
			dataset.MustElement(dicomtag.SOPInstanceUID, fmt.Sprintf("2.25.%d", k+1)),
			dataset.MustElement(dicomtag.Modality, "CT"),
			dataset.MustElement(dicomtag.ImagePositionPatient, "0", "0", fmt.Sprint(float64(k)*thick)),
			dataset.MustElement(dicomtag.ImageOrientationPatient, "1", "0", "0", "0", "1", "0"),
			dataset.MustElement(dicomtag.PixelSpacing, fmt.Sprint(spacing), fmt.Sprint(spacing)),
			dataset.MustElement(dicomtag.SamplesPerPixel, 1),
			dataset.MustElement(dicomtag.PhotometricInterpretation, "MONOCHROME2"),
			dataset.MustElement(dicomtag.Rows, side),
			dataset.MustElement(dicomtag.Columns, side),
			dataset.MustElement(dicomtag.BitsAllocated, 16),
			dataset.MustElement(dicomtag.BitsStored, 16),
			dataset.MustElement(dicomtag.HighBit, 15),
			dataset.MustElement(dicomtag.PixelRepresentation, 1),
			dataset.MustElement(dicomtag.RescaleIntercept, "0"),
			dataset.MustElement(dicomtag.RescaleSlope, "1"),
			dataset.MustElement(dicomtag.PixelData, pixels),
		})
		if err != nil || f.Close() != nil {
			t.Fatal(err)
		}
	}
	return folder
}

// TestPlugin runs the suite of every plugin on the one in Python, so that what an
// author of another language copies works.
func TestPlugin(t *testing.T) {
	root, err := filepath.Abs(filepath.Join("..", "..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	python := filepath.Join(root, ".cache", "venv", "bin", "python")
	if _, err := os.Stat(python); err != nil {
		t.Skip("the Python environment is not here: make setup")
	}
	// The launcher of plugins/README.md.
	path := filepath.Join(t.TempDir(), "densest")
	launcher := fmt.Sprintf("#!/bin/sh\nexec %s %s\n", python, filepath.Join(root, "plugins", "examples", "python", "densest.py"))
	if err := os.WriteFile(path, []byte(launcher), 0o755); err != nil {
		t.Fatal(err)
	}
	center := [3]float64{30, 42, 20}
	apitest.Run(t, apitest.Config{
		Path: path, GoodFolder: series(t, center), Series: map[string]string{"Modality": "CT"},
		Check: func(t *testing.T, r api.Result) {
			if len(r.Findings) != 1 {
				t.Fatalf("%d findings, want 1", len(r.Findings))
			}
			for i, want := range center {
				if got := r.Findings[0].Center[i]; math.Abs(got-want) > 2 {
					t.Errorf("the finding lies at %v, want within 2 mm of %v", r.Findings[0].Center, center)
				}
			}
		},
	})
}
