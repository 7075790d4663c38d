package phantom

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
)

// maxTruthBytes bounds a truth file; one with 60 nodules has 10 KiB.
const maxTruthBytes = 1 << 20

// Truth is what is known of a series that Write made.
type Truth struct {
	SeriesInstanceUID string       `json:"series_instance_uid"`
	Seed              int64        `json:"seed"`
	Nodules           []TrueNodule `json:"nodules"`
}

// TrueNodule is one nodule as it is, not as it was found.
type TrueNodule struct {
	Center     [3]float64 `json:"center_lps_mm"` // DICOM patient coordinates
	DiameterMM float64    `json:"diameter_mm"`   // of the ball of the same volume
	Kind       string     `json:"kind"`          // solid, part-solid, ground-glass
	Place      string     `json:"place"`         // isolated, juxta-pleural, juxta-vascular
}

// TruthFile returns where Write puts the truth of the series in dir: beside
// the folder and not in it, so that the folder holds nothing but DICOM.
func TruthFile(dir string) string {
	return filepath.Clean(dir) + ".truth.json"
}

// ReadTruth reads a truth file.
func ReadTruth(file string) (Truth, error) {
	f, err := os.Open(file)
	if err != nil {
		return Truth{}, fmt.Errorf("open the truth of a phantom: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxTruthBytes+1))
	if err != nil {
		return Truth{}, fmt.Errorf("read the truth of a phantom: %w", err)
	}
	if len(text) > maxTruthBytes {
		return Truth{}, fmt.Errorf("%s is larger than %d bytes: it is not the truth of a phantom", file, maxTruthBytes)
	}
	t, err := parseTruth(text)
	if err != nil {
		return Truth{}, fmt.Errorf("%s: %w", file, err)
	}
	return t, nil
}

func parseTruth(text []byte) (Truth, error) {
	var t Truth
	d := json.NewDecoder(bytes.NewReader(text))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return Truth{}, fmt.Errorf("not the truth of a phantom: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return Truth{}, fmt.Errorf("not the truth of a phantom: there is more after its end")
	}
	if t.SeriesInstanceUID == "" {
		return Truth{}, fmt.Errorf("not the truth of a phantom: series_instance_uid is missing")
	}
	for i, n := range t.Nodules {
		for _, v := range append(n.Center[:], n.DiameterMM) {
			if math.IsNaN(v) || math.Abs(v) > 1e6 {
				return Truth{}, fmt.Errorf("nodule %d has an impossible place or size", i)
			}
		}
		if n.DiameterMM <= 0 {
			return Truth{}, fmt.Errorf("nodule %d has no size", i)
		}
	}
	return t, nil
}

// writeTruth writes the file in one piece: it is there whole or not at all.
func writeTruth(file string, t Truth) error {
	text, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the truth of the phantom: %w", err)
	}
	return writeWhole(file, append(text, '\n'))
}

// writeWhole writes a file in one piece.
func writeWhole(file string, text []byte) error {
	temp, err := os.CreateTemp(filepath.Dir(file), ".phantom-*")
	if err != nil {
		return fmt.Errorf("write a file of the phantom: %w", err)
	}
	defer os.Remove(temp.Name()) // after the rename there is nothing left to remove
	_, err = temp.Write(text)
	if err == nil {
		err = temp.Chmod(0o644)
	}
	if err == nil {
		err = temp.Sync()
	}
	if errClose := temp.Close(); err == nil {
		err = errClose
	}
	if err == nil {
		err = os.Rename(temp.Name(), file)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", filepath.Base(file), err)
	}
	return nil
}
