package prepare

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"hilum/models/ct"
	"hilum/trainer/npy"
)

// Format names the manifest's form; a reader refuses another one.
const Format = "hilum-prepared-1"

// Names of the files beside the arrays.
const (
	ManifestFile = "manifest.json"
	journalFile  = "manifest.partial" // a line for each case, until the run is done
)

// Where the lungs come from.
const (
	lungsOwn   = "hilum"
	lungsGiven = "segmentation"
)

// Manifest describes a folder of prepared scans.
type Manifest struct {
	Format   string   `json:"format"`
	Software string   `json:"software"`
	Settings Settings `json:"settings"`
	Counts   Counts   `json:"counts"`
	Cases    []Case   `json:"cases"` // by UID
}

// Settings are what all cases of a folder have in common.
type Settings struct {
	Prepare ct.PrepareSpec `json:"prepare"`
	Lungs   string         `json:"lungs"` // "hilum": found by us; "segmentation": given
}

// Counts are those of the whole folder.
type Counts struct {
	Cases    int `json:"cases"`
	Positive int `json:"positive"` // cases with a nodule
	Nodules  int `json:"nodules"`
	Outside  int `json:"outside"` // nodules that are not whole in their box
}

// Case is one prepared scan.
type Case struct {
	UID      string   `json:"uid"`
	Source   Source   `json:"source"`
	Clean    File     `json:"clean"`
	Label    File     `json:"label"`
	Grid     Grid     `json:"grid"` // of the box: a voxel's place in the patient
	LungML   float64  `json:"lung_ml"`
	Positive bool     `json:"positive"`
	Nodules  []Nodule `json:"nodules"`
}

// Source is what a case was made of.
type Source struct {
	Path        string   `json:"path"`
	Fingerprint string   `json:"fingerprint"` // of the files; see volume.Scan.Fingerprint
	Grid        Grid     `json:"grid"`
	Notes       []string `json:"notes,omitempty"`
}

// Grid is a geometry with the order of its numbers named: voxel (x, y, z) lies
// at origin + x·spacing[0]·axes[0] + y·spacing[1]·axes[1] + z·spacing[2]·axes[2].
type Grid struct {
	Size    [3]int        `json:"size_xyz"`
	Spacing [3]float64    `json:"spacing_xyz_mm"`
	Origin  [3]float64    `json:"origin_lps_mm"`
	Axes    [3][3]float64 `json:"axes_lps"`
}

func gridOf(g ct.Geometry) Grid { return Grid{g.Size, g.Spacing, g.Origin, g.Axes} }

// Geometry returns the grid as models/ct has it.
func (g Grid) Geometry() ct.Geometry {
	return ct.Geometry{Size: g.Size, Spacing: g.Spacing, Origin: g.Origin, Axes: g.Axes}
}

// File is one array of a case.
type File struct {
	Name   string `json:"name"`
	Bytes  int64  `json:"bytes"`
	SHA256 string `json:"sha256"`
}

// writeArray writes an array and takes its hash.
func writeArray[T npy.Value](dir, name string, a npy.Array[T]) (File, error) {
	if err := npy.WriteFile(filepath.Join(dir, name), a); err != nil {
		return File{}, err
	}
	h := sha256.New()
	counted := &counter{w: h}
	if err := npy.Write(counted, a); err != nil {
		return File{}, err
	}
	return File{Name: name, Bytes: counted.n, SHA256: hex.EncodeToString(h.Sum(nil))}, nil
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// whole tells whether the two files of a case are what was written.
func (c Case) whole(dir string) (bool, error) {
	for _, f := range []File{c.Clean, c.Label} {
		same, err := f.same(dir)
		if err != nil || !same {
			return false, err
		}
	}
	return true, nil
}

func (f File) same(dir string) (bool, error) {
	in, err := os.Open(filepath.Join(dir, f.Name))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = in.Close() }() // only read
	info, err := in.Stat()
	if err != nil || info.Size() != f.Bytes {
		return false, err
	}
	h := sha256.New()
	if _, err := io.Copy(h, in); err != nil {
		return false, err
	}
	return hex.EncodeToString(h.Sum(nil)) == f.SHA256, nil
}

// ReadManifest reads the manifest of a folder of prepared scans.
func ReadManifest(dir string) (Manifest, error) {
	var m Manifest
	data, err := os.ReadFile(filepath.Join(dir, ManifestFile))
	if err != nil {
		return m, err
	}
	if err := decode(data, &m); err != nil {
		return m, fmt.Errorf("read %s: %w", filepath.Join(dir, ManifestFile), err)
	}
	if m.Format != Format {
		return m, fmt.Errorf("%s is of form %.40q, and %q is read: prepare the scans again", filepath.Join(dir, ManifestFile), m.Format, Format)
	}
	for _, c := range m.Cases {
		if err := c.check(); err != nil {
			return m, fmt.Errorf("read %s: %w", filepath.Join(dir, ManifestFile), err)
		}
	}
	return m, nil
}

// check refuses a case whose files could be anywhere else.
func (c Case) check() error {
	if c.UID == "" || filepath.Base(c.UID) != c.UID || c.Clean.Name != c.UID+"_clean.npy" || c.Label.Name != c.UID+"_label.npy" {
		return fmt.Errorf("the case %.80q does not name its files", c.UID)
	}
	return nil
}

func decode(data []byte, to any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(to); err != nil {
		return err
	}
	if d.More() {
		return errors.New("text after its end")
	}
	return nil
}
