package api

import (
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Bounds of a Description, which is asked for once per process.
const (
	maxNameBytes = 64  // plugin, model and device names
	maxListItems = 100 // modalities, models, devices
)

// Limits bound what one Result may hold. They are wide for medicine and tight
// for a program that goes wrong.
type Limits struct {
	Findings     int     // findings of one result
	ResultBytes  int     // all findings of one result as they cross the border, masks included
	DiameterMM   float64 // diameter and box edges
	CoordinateMM float64 // distance of a coordinate from the origin of the frame of reference
	MaskVoxels   int     // voxels of one mask
	TextBytes    int     // one label, note, attribute name or attribute value
	Texts        int     // notes, and attributes
}

// DefaultLimits returns the limits of the host.
func DefaultLimits() Limits {
	return Limits{
		Findings:     10_000,
		ResultBytes:  64 << 20,
		DiameterMM:   500,    // a chest is narrower
		CoordinateMM: 10_000, // a patient table is shorter, whatever the origin
		MaskVoxels:   4 << 20,
		TextBytes:    1024,
		Texts:        200,
	}
}

// Validate reports the first thing in d that breaks the contract.
func (d Description) Validate() error {
	if err := checkName("name", d.Name); err != nil {
		return err
	}
	if err := checkName("version", d.Version); err != nil {
		return err
	}
	if d.Kind != KindDetector && d.Kind != KindClassifier {
		return fmt.Errorf("kind is %q, want %q or %q", shorten(d.Kind), KindDetector, KindClassifier)
	}
	if len(d.Modalities) > maxListItems || len(d.Models) > maxListItems || len(d.Devices) > maxListItems {
		return fmt.Errorf("more than %d modalities, models or devices", maxListItems)
	}
	for _, s := range d.Modalities {
		if err := checkName("modality", s); err != nil {
			return err
		}
	}
	for _, s := range d.Devices {
		if err := checkName("device", s); err != nil {
			return err
		}
	}
	for _, m := range d.Models {
		if err := checkName("model name", m.Name); err != nil {
			return err
		}
		if err := checkText("model version", m.Version, maxNameBytes); err != nil {
			return err
		}
		if b, err := hex.DecodeString(m.SHA256); err != nil || m.SHA256 != "" && len(b) != 32 {
			return fmt.Errorf("sha256 of model %s is not 64 hexadecimal digits", m.Name)
		}
	}
	return checkText("runtime", d.Runtime, 4*maxNameBytes)
}

// Validate reports the first thing in r that breaks the contract or exceeds
// the limits. It does not look at r.Description, which the host sets.
func (r Result) Validate(lim Limits) error {
	if len(r.Findings) > lim.Findings {
		return fmt.Errorf("%d findings, at most %d are allowed", len(r.Findings), lim.Findings)
	}
	seen := make(map[string]bool, len(r.Findings))
	for i, f := range r.Findings {
		if err := f.validate(lim); err != nil {
			return fmt.Errorf("finding %d: %w", i+1, err)
		}
		if f.ID != "" && seen[f.ID] {
			return fmt.Errorf("finding %d: id %q is used twice", i+1, f.ID)
		}
		seen[f.ID] = true
	}
	if r.Malignancy != nil {
		if err := checkRange("malignancy", *r.Malignancy, 0, 1); err != nil {
			return err
		}
	}
	if err := checkText("device", r.Device, maxNameBytes); err != nil {
		return err
	}
	if len(r.Notes) > lim.Texts || len(r.Attributes) > lim.Texts {
		return fmt.Errorf("%d notes and %d attributes, at most %d of each are allowed", len(r.Notes), len(r.Attributes), lim.Texts)
	}
	for _, s := range r.Notes {
		if err := checkText("note", s, lim.TextBytes); err != nil {
			return err
		}
	}
	for k, v := range r.Attributes {
		if err := checkText("attribute name", k, lim.TextBytes); err != nil {
			return err
		}
		if err := checkText("attribute value", v, lim.TextBytes); err != nil {
			return err
		}
	}
	return nil
}

// Validate reports the first thing in f that breaks the contract, within DefaultLimits.
func (f Finding) Validate() error { return f.validate(DefaultLimits()) }

func (f Finding) validate(lim Limits) error {
	if err := checkText("id", f.ID, maxNameBytes); err != nil {
		return err
	}
	for _, v := range f.Center {
		if err := checkRange("center", v, -lim.CoordinateMM, lim.CoordinateMM); err != nil {
			return err
		}
	}
	for _, v := range f.Size {
		if err := checkRange("size", v, 0, lim.DiameterMM); err != nil {
			return err
		}
	}
	if err := checkRange("diameter_mm", f.DiameterMM, 0, lim.DiameterMM); err != nil {
		return err
	}
	if err := checkRange("probability", f.Probability, 0, 1); err != nil {
		return err
	}
	if f.Malignancy != nil {
		if err := checkRange("malignancy", *f.Malignancy, 0, 1); err != nil {
			return err
		}
	}
	switch f.Texture {
	case "", TextureSolid, TexturePartSolid, TextureGroundGlass:
	default:
		return fmt.Errorf("texture is %q, want %q, %q or %q", shorten(f.Texture), TextureSolid, TexturePartSolid, TextureGroundGlass)
	}
	if err := checkRange("texture_probability", f.TextureProbability, 0, 1); err != nil {
		return err
	}
	if err := checkText("label", f.Label, lim.TextBytes); err != nil {
		return err
	}
	if !knownSite(f.Site) {
		return fmt.Errorf("site %q is none of those of the contract", shorten(string(f.Site)))
	}
	if err := checkRange("long_axis_mm", f.LongAxisMM, 0, lim.DiameterMM); err != nil {
		return err
	}
	if err := checkRange("short_axis_mm", f.ShortAxisMM, 0, f.LongAxisMM); err != nil {
		return err
	}
	if err := checkRange("volume_mm3", f.VolumeMM3, 0, lim.DiameterMM*lim.DiameterMM*lim.DiameterMM); err != nil {
		return err
	}
	if len(f.Views) > MaxViews {
		return fmt.Errorf("%d views, at most %d are allowed", len(f.Views), MaxViews)
	}
	for i, v := range f.Views {
		if err := v.validate(lim); err != nil {
			return fmt.Errorf("view %d: %w", i+1, err)
		}
	}
	if f.Mask != nil {
		return f.Mask.validate(lim)
	}
	return nil
}

// MaxViews are the views of one finding: one for each plane.
const MaxViews = 3

// maxViewSide is far beyond what a finding fills, in pixels.
const maxViewSide = 512

func knownSite(s Site) bool {
	switch s {
	case "", SiteRightLung, SiteLeftLung, SiteRightUpperLobe, SiteRightMiddleLobe, SiteRightLowerLobe, SiteLeftUpperLobe, SiteLeftLowerLobe:
		return true
	}
	return false
}

func (v View) validate(lim Limits) error {
	if v.Columns < 1 || v.Columns > maxViewSide || v.Rows < 1 || v.Rows > maxViewSide {
		return fmt.Errorf("it has %d columns and %d rows, want 1 to %d", v.Columns, v.Rows, maxViewSide)
	}
	if len(v.Pixels) != v.Columns*v.Rows {
		return fmt.Errorf("it has %d bytes, want %d", len(v.Pixels), v.Columns*v.Rows)
	}
	if err := checkRange("spacing", v.Spacing, 1e-3, lim.DiameterMM); err != nil {
		return err
	}
	for _, o := range v.Origin {
		if err := checkRange("origin", o, -lim.CoordinateMM, lim.CoordinateMM); err != nil {
			return err
		}
	}
	if err := checkUnit("column axis", v.ColumnAxis); err != nil {
		return err
	}
	return checkUnit("row axis", v.RowAxis)
}

// checkUnit refuses what is no unit vector.
func checkUnit(what string, v [3]float64) error {
	length := math.Hypot(math.Hypot(v[0], v[1]), v[2])
	if !(math.Abs(length-1) < 1e-3) { // also catches NaN
		return fmt.Errorf("%s has length %g, want 1", what, length)
	}
	return nil
}

func (m *Mask) validate(lim Limits) error {
	voxels := 1
	for _, n := range m.Size {
		if n < 1 || n > lim.MaskVoxels/voxels { // never overflows: voxels stays below the limit
			return fmt.Errorf("mask size %v is empty or above %d voxels", m.Size, lim.MaskVoxels)
		}
		voxels *= n
	}
	if want := (voxels + 7) / 8; len(m.Bits) != want {
		return fmt.Errorf("mask of %d voxels has %d bytes, want %d", voxels, len(m.Bits), want)
	}
	for a := range 3 {
		if err := checkRange("mask origin", m.Origin[a], -lim.CoordinateMM, lim.CoordinateMM); err != nil {
			return err
		}
		if err := checkRange("mask spacing", m.Spacing[a], 1e-3, lim.DiameterMM); err != nil {
			return err
		}
		if err := checkUnit(fmt.Sprintf("mask axis %d", a+1), m.Axes[a]); err != nil {
			return err
		}
	}
	return nil
}

// checkRange refuses NaN and infinities too.
func checkRange(what string, v, low, high float64) error {
	if !(v >= low && v <= high) {
		return fmt.Errorf("%s is %g, want %g to %g", what, v, low, high)
	}
	return nil
}

// checkName holds names to what is safe in a log line, a file name or a table.
func checkName(what, s string) error {
	if s == "" {
		return fmt.Errorf("%s is empty", what)
	}
	if err := checkText(what, s, maxNameBytes); err != nil {
		return err
	}
	if strings.ContainsAny(s, `/\`) {
		return fmt.Errorf("%s %q holds a slash", what, s)
	}
	return nil
}

var errText = errors.New("holds control characters or is not UTF-8")

// checkText refuses what could disturb a terminal, a log or a DICOM value.
func checkText(what, s string, limit int) error {
	if len(s) > limit {
		return fmt.Errorf("%s is longer than %d bytes", what, limit)
	}
	if !utf8.ValidString(s) || strings.ContainsFunc(s, unprintable) {
		return fmt.Errorf("%s %w", what, errText)
	}
	return nil
}

// unprintable covers escape sequences and, with category Cf, the marks that
// reverse the direction of text.
func unprintable(r rune) bool { return unicode.IsControl(r) || unicode.Is(unicode.Cf, r) }

// CleanText makes any bytes safe to show on one line: invalid UTF-8, control
// characters and what exceeds limit bytes are dropped.
func CleanText(s string, limit int) string {
	s = strings.ToValidUTF8(s[:min(len(s), 4*limit)], "")
	s = strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t' || r == '\r':
			return ' '
		case unprintable(r):
			return -1
		}
		return r
	}, s)
	if len(s) > limit {
		s = strings.ToValidUTF8(s[:limit], "")
	}
	return strings.TrimSpace(s)
}

func shorten(s string) string { return CleanText(s, maxNameBytes) }
