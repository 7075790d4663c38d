package ct_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
	"hilum/models/ct"
)

const (
	implicitLE = "1.2.840.10008.1.2"
	explicitLE = "1.2.840.10008.1.2.1"
	deflatedLE = "1.2.840.10008.1.2.1.99"
	explicitBE = "1.2.840.10008.1.2.2"
	rle        = "1.2.840.10008.1.2.5"
	jpegLS     = "1.2.840.10008.1.2.4.80"
	jpegSV1    = "1.2.840.10008.1.2.4.70"

	testRows, testColumns = 5, 4
	patientName           = "Secret^Person"
)

// image is one image of a test series: elements by tag.
type image map[dataset.Tag]*dataset.Element

func (m image) set(t dataset.Tag, values ...any) {
	m[t] = dataset.MustElement(t, values...)
}

// series returns n axial slices, 2.5 mm apart, whose pixels are stored value
// 100·slice + index.
func series(n int) []image {
	all := make([]image, n)
	for k := range all {
		m := image{}
		m.set(dicomtag.SOPClassUID, "1.2.840.10008.5.1.4.1.1.2")
		m.set(dicomtag.SOPInstanceUID, fmt.Sprintf("1.2.3.%d", k+1))
		m.set(dicomtag.SeriesInstanceUID, "1.2.3")
		m.set(dicomtag.FrameOfReferenceUID, "1.2.4")
		m.set(dicomtag.PatientName, patientName)
		m.set(dicomtag.Modality, "CT")
		m.set(dicomtag.ImageType, "ORIGINAL", "PRIMARY", "AXIAL")
		m.set(dicomtag.SamplesPerPixel, 1)
		m.set(dicomtag.PhotometricInterpretation, "MONOCHROME2")
		m.set(dicomtag.Rows, testRows)
		m.set(dicomtag.Columns, testColumns)
		m.set(dicomtag.BitsAllocated, 16)
		m.set(dicomtag.BitsStored, 12)
		m.set(dicomtag.HighBit, 11)
		m.set(dicomtag.PixelRepresentation, 0)
		m.set(dicomtag.RescaleSlope, "1")
		m.set(dicomtag.RescaleIntercept, "-1024")
		m.set(dicomtag.PixelSpacing, "0.7", "0.5")
		m.set(dicomtag.ImageOrientationPatient, "1", "0", "0", "0", "1", "0")
		m.set(dicomtag.ImagePositionPatient, "-10", "-20", fmt.Sprint(-100+2.5*float64(k)))
		cells := make([]uint16, testRows*testColumns)
		for i := range cells {
			cells[i] = uint16(100*k + i)
		}
		m.pixels(cells...)
		all[k] = m
	}
	return all
}

func (m image) pixels(cells ...uint16) {
	var b []byte
	for _, c := range cells {
		b = binary.LittleEndian.AppendUint16(b, c)
	}
	m[dicomtag.PixelData] = dataset.RawElement(dicomtag.PixelData, "OW", b)
}

// fill sets every pixel to one cell.
func (m image) fill(cell uint16) {
	m.pixels(slices.Repeat([]uint16{cell}, testRows*testColumns)...)
}

func writeSeries(t testing.TB, syntax string, all []image) string {
	t.Helper()
	dir := t.TempDir()
	for n, m := range all {
		var elements []*dataset.Element
		for _, e := range m {
			elements = append(elements, e)
		}
		var file bytes.Buffer
		if err := dataset.WriteFile(&file, syntax, elements); err != nil {
			t.Fatal(err)
		}
		// The last slice first: name order is not slice order.
		name := filepath.Join(dir, fmt.Sprintf("%04d", len(all)-n))
		if err := os.WriteFile(name, file.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func load(t testing.TB, dir string) (*ct.Volume, error) {
	t.Helper()
	return ct.LoadSeries(context.Background(), dir, ct.Options{Threads: 2})
}

func mustLoad(t testing.TB, dir string) *ct.Volume {
	t.Helper()
	v, err := load(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Validate(); err != nil {
		t.Fatal(err)
	}
	return v
}

func TestLoadSeriesGeometry(t *testing.T) {
	v := mustLoad(t, writeSeries(t, explicitLE, series(4)))
	want := ct.Geometry{
		Size: [3]int{testColumns, testRows, 4}, Spacing: [3]float64{0.5, 0.7, 2.5},
		Origin: [3]float64{-10, -20, -100}, Axes: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
	}
	if v.Geometry != want {
		t.Errorf("geometry = %+v, want %+v", v.Geometry, want)
	}
	if v.SeriesInstanceUID != "1.2.3" || v.FrameOfReferenceUID != "1.2.4" || !slices.Equal(v.SOPInstanceUIDs, []string{"1.2.3.1", "1.2.3.2", "1.2.3.3", "1.2.3.4"}) {
		t.Errorf("identity = %q, %q, %q", v.SeriesInstanceUID, v.FrameOfReferenceUID, v.SOPInstanceUIDs)
	}
	for k := range 4 {
		if got, want := v.HU[v.Index(3, 2, k)], int16(100*k+11-1024); got != want {
			t.Errorf("voxel (3,2,%d) = %d, want %d", k, got, want)
		}
	}
	if len(v.Notes) != 0 {
		t.Errorf("notes = %q, want none", v.Notes)
	}
}

// TestLoadSeriesOrientation holds the meaning of the axes: a voxel's world
// position is what PS3.3 C.7.6.2.1.1 makes of its image, column and row.
func TestLoadSeriesOrientation(t *testing.T) {
	c, s := math.Cos(0.3), math.Sin(0.3)
	for name, axes := range map[string][2][3]float64{
		"axial":        {{1, 0, 0}, {0, 1, 0}},
		"prone":        {{-1, 0, 0}, {0, -1, 0}},
		"mirrored":     {{-1, 0, 0}, {0, 1, 0}},
		"sagittal":     {{0, 1, 0}, {0, 0, -1}},
		"oblique":      {{c, s, 0}, {-s, c, 0}},
		"four figures": {{0.9553, 0, 0.2955}, {0, 1, 0}},
	} {
		t.Run(name, func(t *testing.T) {
			row, column := axes[0], axes[1]
			normal := [3]float64{row[1]*column[2] - row[2]*column[1], row[2]*column[0] - row[0]*column[2], row[0]*column[1] - row[1]*column[0]}
			all := series(5)
			position := map[string][3]float64{}
			for k, m := range all {
				p := [3]float64{10, 20, 30}
				for a := range p {
					p[a] -= 1.5 * float64(k) * normal[a] // written from the last to the first
				}
				position[fmt.Sprintf("1.2.3.%d", k+1)] = p
				m.set(dicomtag.ImageOrientationPatient, fmt.Sprint(row[0]), fmt.Sprint(row[1]), fmt.Sprint(row[2]), fmt.Sprint(column[0]), fmt.Sprint(column[1]), fmt.Sprint(column[2]))
				m.set(dicomtag.ImagePositionPatient, ds(p[0]), ds(p[1]), ds(p[2]))
			}
			v := mustLoad(t, writeSeries(t, implicitLE, all))
			for k, uid := range v.SOPInstanceUIDs {
				want := position[uid]
				for a := range want {
					want[a] += 3*0.5*row[a] + 2*0.7*column[a]
				}
				got := v.World(3, 2, float64(k))
				for a := range got {
					if math.Abs(got[a]-want[a]) > 2e-3 {
						t.Fatalf("World(3,2,%d) = %v, want %v", k, got, want)
					}
				}
				i, j, kk := v.Voxel(got)
				if math.Abs(i-3) > 1e-9 || math.Abs(j-2) > 1e-9 || math.Abs(kk-float64(k)) > 1e-9 {
					t.Fatalf("Voxel(World(3,2,%d)) = %v %v %v", k, i, j, kk)
				}
			}
		})
	}
}

// ds formats a decimal string of at most 16 characters.
func ds(x float64) string { return strings.TrimSpace(fmt.Sprintf("%.10f", x)) }

// TestLoadSeriesPixels holds the way from a cell to a Hounsfield unit.
func TestLoadSeriesPixels(t *testing.T) {
	for _, tt := range []struct {
		name             string
		stored, high     int
		signed           int
		slope, intercept string
		padding, limit   any
		cell             uint16
		want             int16
	}{
		{"unsigned", 12, 11, 0, "1", "-1024", nil, nil, 1064, 40},
		{"unused bits are cut off", 12, 11, 0, "1", "-1024", nil, nil, 0xF000 | 1064, 40},
		{"signed", 12, 11, 1, "1", "0", nil, nil, 0x0FFF, -1},
		{"signed in 16 bits", 16, 15, 1, "1", "0", nil, nil, 0xFC18, -1000},
		{"high bit not at stored", 12, 15, 1, "1", "0", nil, nil, 0xFFF0, -1},
		{"high bit unsigned", 12, 13, 0, "1", "0", nil, nil, 0x3FFC, 4095},
		{"half to even", 12, 11, 0, "0.5", "0", nil, nil, 5, 2},
		{"half to even, up", 12, 11, 0, "0.5", "0", nil, nil, 7, 4},
		{"clamped above", 16, 15, 0, "1", "0", nil, nil, 0xFFFF, math.MaxInt16},
		{"clamped below", 16, 15, 1, "10", "0", nil, nil, 0x8000, math.MinInt16},
		{"padding", 16, 15, 1, "1", "0", -3024, nil, 0xF430, ct.AirHU},
		{"padding unsigned", 12, 11, 0, "1", "-1024", 0, nil, 0, ct.AirHU},
		{"padding range", 16, 15, 1, "1", "0", -2000, -1500, 0xF9C0, ct.AirHU},
		{"outside the padding range", 16, 15, 1, "1", "0", -2000, -1500, 0xFC18, -1000},
	} {
		t.Run(tt.name, func(t *testing.T) {
			all := series(3)
			m := all[1]
			m.set(dicomtag.BitsStored, tt.stored)
			m.set(dicomtag.HighBit, tt.high)
			m.set(dicomtag.PixelRepresentation, tt.signed)
			m.set(dicomtag.RescaleSlope, tt.slope)
			m.set(dicomtag.RescaleIntercept, tt.intercept)
			if tt.padding != nil {
				m.set(dicomtag.PixelPaddingValue, tt.padding)
			}
			if limit, ok := tt.limit.(int); ok {
				m[dicomtag.PixelPaddingRangeLimit] = dataset.RawElement(dicomtag.PixelPaddingRangeLimit, "SS", binary.LittleEndian.AppendUint16(nil, uint16(limit)))
			}
			m.fill(tt.cell)
			for _, syntax := range []string{explicitLE, implicitLE, explicitBE, deflatedLE} {
				v := mustLoad(t, writeSeries(t, syntax, all))
				if got := v.HU[v.Index(1, 1, 1)]; got != tt.want {
					t.Errorf("%s: cell %#x = %d HU, want %d", syntax, tt.cell, got, tt.want)
				}
				if got := v.HU[v.Index(1, 1, 2)]; got != 205-1024 {
					t.Errorf("%s: the next slice = %d HU, want %d: it has its own rescale", syntax, got, 205-1024)
				}
			}
		})
	}
}

// TestLoadSeriesRefuses holds each kind of error and that the sentence is one,
// without patient data.
func TestLoadSeriesRefuses(t *testing.T) {
	tests := []struct {
		name   string
		kind   ct.ErrorKind
		words  string // part of the reason
		syntax string
		slices int
		change func(all []image) []image
	}{
		{name: "localizers", kind: ct.Localizer, words: "localizer", change: each(func(_ int, m image) { m.set(dicomtag.ImageType, "ORIGINAL", "PRIMARY", "LOCALIZER") })},
		{name: "not CT", kind: ct.NotCT, words: "not a CT image", change: one(func(m image) { m.set(dicomtag.SOPClassUID, "1.2.840.10008.5.1.4.1.1.4") })},
		{name: "no rescale", kind: ct.NotCT, words: "RescaleSlope", change: one(func(m image) { delete(m, dicomtag.RescaleSlope) })},
		{name: "not HU", kind: ct.NotCT, words: "RescaleType", change: one(func(m image) { m.set(dicomtag.RescaleType, "Z_EFF") })},
		{name: "enhanced", kind: ct.MultiFrame, words: "Enhanced CT", change: one(func(m image) { m.set(dicomtag.SOPClassUID, "1.2.840.10008.5.1.4.1.1.2.1") })},
		{name: "frames", kind: ct.MultiFrame, words: "2 frames", change: one(func(m image) { m.set(dicomtag.NumberOfFrames, "2") })},
		{name: "one orientation", kind: ct.MixedOrientation, words: "more than one orientation", change: one(func(m image) { m.set(dicomtag.ImageOrientationPatient, "0", "1", "0", "0", "0", "-1") })},
		{name: "cosines", kind: ct.BadGeometry, words: "direction cosines", change: one(func(m image) { m.set(dicomtag.ImageOrientationPatient, "1", "0", "0", "1", "0", "0") })},
		{name: "no position", kind: ct.BadGeometry, words: "position", change: one(func(m image) { delete(m, dicomtag.ImagePositionPatient) })},
		{name: "spacing zero", kind: ct.BadGeometry, words: "pixel spacing", change: one(func(m image) { m.set(dicomtag.PixelSpacing, "0", "0.5") })},
		{name: "gap", kind: ct.Gap, words: "2 slices are missing between slices 3 and 4 of 8", slices: 10, change: func(all []image) []image { return slices.Delete(all, 3, 5) }},
		{name: "uneven", kind: ct.Gap, words: "unevenly", change: one(func(m image) { m.set(dicomtag.ImagePositionPatient, "-10", "-20", "-94.2") })},
		{name: "drift", kind: ct.Gap, words: "unevenly", slices: 60, change: each(func(k int, m image) {
			z := 2.3 * float64(k)
			if k > 30 {
				z = 2.3*30 + 2.6*float64(k-30)
			}
			m.set(dicomtag.ImagePositionPatient, "-10", "-20", ds(z))
		})},
		{name: "tilted", kind: ct.Tilted, words: "tilted gantry", slices: 5, change: each(func(k int, m image) {
			m.set(dicomtag.ImagePositionPatient, "-10", ds(-20+float64(k)), ds(2.5*float64(k)))
		})},
		{name: "duplicate", kind: ct.Duplicate, words: "different pixels at one position (slice 2 of 5)", change: func(all []image) []image {
			again := series(5)[1]
			again.set(dicomtag.SOPInstanceUID, "1.2.3.99")
			again.fill(7)
			return append(all, again)
		}},
		{name: "two series", kind: ct.MixedSeries, words: "more than one series", change: one(func(m image) { m.set(dicomtag.SeriesInstanceUID, "1.2.9") })},
		{name: "two frames of reference", kind: ct.MixedSeries, words: "frame of reference", change: one(func(m image) { m.set(dicomtag.FrameOfReferenceUID, "1.2.9") })},
		{name: "size", kind: ct.MixedSize, words: "4 × 5 and 5 × 4", change: one(func(m image) { m.set(dicomtag.Rows, 4); m.set(dicomtag.Columns, 5) })},
		{name: "pixel spacing", kind: ct.MixedSize, words: "pixel spacing", change: one(func(m image) { m.set(dicomtag.PixelSpacing, "0.7", "0.6") })},
		{name: "two slices", kind: ct.TooFew, words: "2 slices", slices: 2, change: each(func(int, image) {})},
		{name: "huge", kind: ct.TooLarge, words: "voxels", change: each(func(_ int, m image) { m.set(dicomtag.Rows, 65535); m.set(dicomtag.Columns, 65535) })},
		{name: "short", kind: ct.Pixel, words: "38 bytes", change: one(func(m image) { m.pixels(make([]uint16, 19)...) })},
		{name: "no pixels", kind: ct.Pixel, words: "no pixels", change: one(func(m image) { delete(m, dicomtag.PixelData) })},
		{name: "inverted", kind: ct.Pixel, words: "MONOCHROME2", change: one(func(m image) { m.set(dicomtag.PhotometricInterpretation, "MONOCHROME1") })},
		{name: "colour", kind: ct.Pixel, words: "samples", change: one(func(m image) { m.set(dicomtag.SamplesPerPixel, 3) })},
		{name: "8 bits", kind: ct.Pixel, words: "16 bits", change: one(func(m image) { m.set(dicomtag.BitsAllocated, 8) })},
		{name: "high bit", kind: ct.Pixel, words: "high bit 16", change: one(func(m image) { m.set(dicomtag.HighBit, 16) })},
		{name: "no sign", kind: ct.Pixel, words: "signed", change: one(func(m image) { delete(m, dicomtag.PixelRepresentation) })},
		{name: "no decoder", kind: ct.Pixel, words: "transfer syntax " + jpegLS, syntax: jpegLS, change: each(fragments("xx"))},
		{name: "damaged RLE", kind: ct.Pixel, words: "RLE", syntax: rle, change: each(fragments("xx"))},
		{name: "damaged JPEG", kind: ct.Pixel, words: "JPEG", syntax: jpegSV1, change: each(fragments("xx"))},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.slices == 0 {
				tt.slices = 5
			}
			if tt.syntax == "" {
				tt.syntax = explicitLE
			}
			v, err := load(t, writeSeries(t, tt.syntax, tt.change(series(tt.slices))))
			var refused *ct.SeriesError
			if !errors.As(err, &refused) || v != nil {
				t.Fatalf("LoadSeries = %v, %v, want a SeriesError", v, err)
			}
			if refused.Kind != tt.kind || !strings.Contains(refused.Reason, tt.words) {
				t.Errorf("error = %s: %s, want %s with %q", refused.Kind, refused.Reason, tt.kind, tt.words)
			}
			if strings.Contains(refused.Reason, "Secret") || !strings.HasSuffix(refused.Reason, ".") || strings.Count(refused.Reason, ". ") > 0 {
				t.Errorf("reason = %q, want one sentence without patient data", refused.Reason)
			}
		})
	}
}

func each(change func(k int, m image)) func([]image) []image {
	return func(all []image) []image {
		for k, m := range all {
			change(k, m)
		}
		return all
	}
}

func one(change func(m image)) func([]image) []image {
	return func(all []image) []image {
		change(all[2])
		return all
	}
}

func fragments(frame string) func(int, image) {
	return func(_ int, m image) { m.set(dicomtag.PixelData, [][]byte{[]byte(frame)}) }
}

func TestLoadSeriesTolerates(t *testing.T) {
	for _, tt := range []struct {
		name   string
		slices int // of the volume
		note   string
		change func(all []image) []image
	}{
		{"a second copy", 5, "1 second copies", func(all []image) []image {
			again := series(5)[1]
			again.set(dicomtag.SOPInstanceUID, "1.2.3.99")
			return append(all, again)
		}},
		{"a localizer beside the slices", 5, "1 localizer", func(all []image) []image {
			m := image{}
			m.set(dicomtag.SOPClassUID, "1.2.840.10008.5.1.4.1.1.2")
			m.set(dicomtag.SOPInstanceUID, "1.2.3.99")
			m.set(dicomtag.SeriesInstanceUID, "1.2.3")
			m.set(dicomtag.ImageType, "ORIGINAL", "PRIMARY", "LOCALIZER")
			return append(all, m)
		}},
		{"positions rounded to 0.1 mm", 40, "", func([]image) []image {
			all := series(40)
			for k, m := range all {
				m.set(dicomtag.ImagePositionPatient, "-10", "-20", fmt.Sprintf("%.1f", 0.625*float64(k)))
			}
			return all
		}},
		{"no frame of reference", 5, "", func(all []image) []image {
			for _, m := range all {
				delete(m, dicomtag.FrameOfReferenceUID)
			}
			return all
		}},
		{"bytes behind the pixels", 5, "", func(all []image) []image {
			all[0].pixels(make([]uint16, testRows*testColumns+3)...)
			return all
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			v := mustLoad(t, writeSeries(t, explicitLE, tt.change(series(5))))
			if v.Size[2] != tt.slices || len(v.SOPInstanceUIDs) != tt.slices {
				t.Errorf("the volume has %d slices, want %d", v.Size[2], tt.slices)
			}
			if notes := strings.Join(v.Notes, "\n"); !strings.Contains(notes, tt.note) || (tt.note == "") != (notes == "") {
				t.Errorf("notes = %q, want %q", notes, tt.note)
			}
		})
	}
}

func TestLoadSeriesOtherFiles(t *testing.T) {
	dir := writeSeries(t, explicitLE, series(3))
	for name, content := range map[string]string{"truth.json": "{}", ".hidden": "x", "empty": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o700); err != nil {
		t.Fatal(err)
	}
	v := mustLoad(t, dir)
	if want := []string{"2 files of the folder are not DICOM images and were left out"}; !slices.Equal(v.Notes, want) {
		t.Errorf("notes = %q, want %q", v.Notes, want)
	}

	var refused *ct.SeriesError
	if _, err := load(t, t.TempDir()); !errors.As(err, &refused) || refused.Kind != ct.NoImages {
		t.Errorf("LoadSeries(empty folder) = %v, want %s", err, ct.NoImages)
	}
	if _, err := load(t, filepath.Join(dir, "absent")); err == nil || errors.As(err, &refused) && refused.Kind != ct.NoImages {
		t.Errorf("LoadSeries(no folder) = %v, want an error that is not of the series", err)
	}

	cut, err := os.ReadFile(filepath.Join(dir, "0002"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "0002"), cut[:len(cut)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := load(t, dir); !errors.As(err, &refused) || refused.Kind != ct.Damaged {
		t.Errorf("LoadSeries(cut file) = %v, want %s", err, ct.Damaged)
	}
}

func TestLoadSeriesDecoder(t *testing.T) {
	all := series(3)
	for k, m := range all {
		m.set(dicomtag.PixelData, [][]byte{{byte(k), 0}, {1, 0}}) // two fragments, one frame
	}
	dir := writeSeries(t, jpegLS, all)
	decode := func(syntax string, fragment []byte, info ct.PixelInfo) ([]byte, error) {
		if syntax != jpegLS || len(fragment) != 4 || info.Rows != testRows || info.Columns != testColumns || info.BitsStored != 12 || info.Signed {
			return nil, fmt.Errorf("called with %s, %v, %+v", syntax, fragment, info)
		}
		return bytes.Repeat([]byte{fragment[0], 4}, testRows*testColumns), nil
	}
	v, err := ct.LoadSeries(t.Context(), dir, ct.Options{Decoder: decode})
	if err != nil {
		t.Fatal(err)
	}
	if got := v.HU[v.Index(0, 0, 2)]; got != 2 {
		t.Errorf("voxel = %d, want 2", got)
	}
	short := func(string, []byte, ct.PixelInfo) ([]byte, error) { return make([]byte, 7), nil }
	var refused *ct.SeriesError
	if _, err := ct.LoadSeries(t.Context(), dir, ct.Options{Decoder: short}); !errors.As(err, &refused) || refused.Kind != ct.Pixel {
		t.Errorf("LoadSeries with a decoder that returns too little = %v, want %s", err, ct.Pixel)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := ct.LoadSeries(ended, dir, ct.Options{Decoder: decode}); !errors.Is(err, context.Canceled) {
		t.Errorf("LoadSeries with an ended context = %v, want %v", err, context.Canceled)
	}
}
