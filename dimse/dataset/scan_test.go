package dataset_test

import (
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"hilum/dimse/dataset"

	"github.com/grailbio/go-dicom/dicomtag"
)

func TestScanFixtures(t *testing.T) {
	want := map[string]string{ // from testdata/ct.dump
		"SpecificCharacterSet": "ISO_IR 100", "ImageType": `ORIGINAL\PRIMARY\AXIAL`,
		"SOPClassUID": "1.2.840.10008.5.1.4.1.1.2", "SOPInstanceUID": "2.25.1001",
		"StudyDate": "20240131", "Modality": "CT", "Manufacturer": "Acme",
		"PatientName": "Müller^Jörg", "PatientID": "ID-1", "SliceThickness": "1.25",
		"StudyInstanceUID": "2.25.1004", "SeriesInstanceUID": "2.25.1005", "InstanceNumber": "7",
		"ImagePositionPatient": `-100.5\-99.25\1E2`, "ImageOrientationPatient": `1\0\0\0\1\0`,
		"FrameOfReferenceUID": "2.25.1006", "SamplesPerPixel": "1",
		"PhotometricInterpretation": "MONOCHROME2", "FrameIncrementPointer": "(0018,1063)",
		"Rows": "4", "Columns": "4", "PixelSpacing": `0.5\0.5`, "BitsAllocated": "16", "BitsStored": "12",
		"PixelRepresentation": "1", "PixelPaddingValue": "-2000", "RescaleIntercept": "-1024",
		"RescaleSlope": "1", "GraphicData": `1.5\-2.25`,
	}
	tags := append([]dataset.Tag{dicomtag.FrameIncrementPointer, dicomtag.PixelPaddingValue, dicomtag.GraphicData}, dataset.IndexTags...)
	for _, name := range fixtures {
		t.Run(name, func(t *testing.T) {
			data, ts := dataSet(t, name)
			// One byte at a time, as a slow peer would send it.
			h, err := dataset.Scan(iotest.OneByteReader(bytes.NewReader(data)), ts, tags, dataset.Limits{})
			if err != nil {
				t.Fatalf("Scan(%s): %v", name, err)
			}
			got := h.Map()
			for keyword, value := range want {
				if got[keyword] != value {
					t.Errorf("%s = %q, want %q", keyword, got[keyword], value)
				}
			}
			if len(got) != len(want) {
				t.Errorf("Map() has %d entries, want %d: %v", len(got), len(want), got)
			}
			if position, err := h.Floats(dicomtag.ImagePositionPatient); err != nil || len(position) != 3 || position[2] != 100 {
				t.Errorf("Floats(ImagePositionPatient) = %v, %v, want -100.5 -99.25 100", position, err)
			}
			if n, ok := h.Int(dicomtag.PixelPaddingValue); !ok || n != -2000 {
				t.Errorf("Int(PixelPaddingValue) = %d, %v, want -2000", n, ok)
			}
		})
	}
}

func TestScanTolerates(t *testing.T) {
	tests := []struct {
		name string
		ts   string
		data func(*builder)
		want string // of PatientID
	}{
		{"odd length", "", func(b *builder) { b.short(0x0008, 0x0060, "CS", "CTX").patientID("a") }, "a"},
		{"wrong order", "", func(b *builder) { b.patientID("a").short(0x0008, 0x0060, "CS", "CT") }, "a"},
		{"repeated element, first counts", "", func(b *builder) { b.patientID("a ").patientID("b ") }, "a"},
		{"unknown VR of a later standard", "", func(b *builder) { b.long(0x0008, 0x0001, "ZZ", 3, "abc").patientID("a") }, "a"},
		{"private elements", "", func(b *builder) {
			b.short(0x0009, 0x0010, "LO", "X").long(0x0009, 0x1001, "UN", 2, "\x00\x01").patientID("a")
		}, "a"},
		{"wrong group length", "", func(b *builder) { b.short(0x0010, 0, "UL", "\xff\xff\xff\xff").patientID("a") }, "a"},
		{"trailing padding element", "", func(b *builder) { b.patientID("a").long(0xFFFC, 0xFFFC, "OB", 4, "\x00\x00\x00\x00") }, "a"},
		{"zeros after the last element", "", func(b *builder) { b.patientID("a").WriteString(strings.Repeat("\x00", 100_001)) }, "a"},
		{"three zeros after the last element", "", func(b *builder) { b.patientID("a").WriteString("\x00\x00\x00") }, "a"},
		{"empty sequence", "", func(b *builder) { b.long(0x0008, 0x1140, "SQ", 0, "").patientID("a") }, "a"},
		{"empty sequence of undefined length", "", func(b *builder) { b.long(0x0008, 0x1140, "SQ", undefined, "").endSequence().patientID("a") }, "a"},
		{"empty item", "", func(b *builder) { b.long(0x0008, 0x1140, "SQ", 8, "").item(0).patientID("a") }, "a"},
		{"defined item in an undefined sequence", "", func(b *builder) {
			b.long(0x0008, 0x1140, "SQ", undefined, "").item(10).patientID("no").endSequence().patientID("a")
		}, "a"},
		{"undefined item in a defined sequence", "", func(b *builder) {
			b.long(0x0008, 0x1140, "SQ", 26, "").item(undefined).patientID("no").endItem().patientID("a")
		}, "a"},
		{"implicit sequence in UN", "", func(b *builder) {
			b.long(0x0009, 0x1001, "UN", undefined, "").item(undefined).implicit(0x0010, 0x0020, 2, "no").
				implicit(0x0009, 0x1002, undefined, "").item(undefined).implicit(0x0009, 0x1003, 1, "x").endItem().endSequence().
				endItem().endSequence().patientID("a")
		}, "a"},
		{"nested encapsulated icon", "", func(b *builder) {
			b.long(0x0088, 0x0200, "SQ", undefined, "").item(undefined).long(0x7FE0, 0x0010, "OB", undefined, "").
				item(0).item(2).WriteString("xx")
			b.endSequence().endItem().endSequence().patientID("a")
		}, "a"},
		{"private sequence in implicit VR", dataset.ImplicitVRLittleEndian, func(b *builder) {
			b.implicit(0x0009, 0x1001, undefined, "").item(undefined).implicit(0x0010, 0x0020, 2, "no").endItem().endSequence().
				implicit(0x0010, 0x0020, 2, "a ")
		}, "a"},
		{"unknown transfer syntax is explicit", "1.2.3.4", func(b *builder) { b.patientID("a") }, "a"},
		{"GE's private syntax is implicit", "1.2.840.113619.5.2", func(b *builder) { b.implicit(0x0010, 0x0020, 2, "a ") }, "a"},
		{"empty data set", "", func(*builder) {}, ""},
		{"64 levels", "", func(b *builder) { nest(b, 64); b.patientID("a") }, "a"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := &builder{}
			tt.data(b)
			if tt.ts == "" {
				tt.ts = dataset.ExplicitVRLittleEndian
			}
			h, err := dataset.Scan(b, tt.ts, patientIDTags(), dataset.Limits{})
			if err != nil {
				t.Fatalf("Scan: %v", err)
			}
			if got := h.String(dicomtag.PatientID); got != tt.want {
				t.Errorf("PatientID = %q, want %q", got, tt.want)
			}
		})
	}
}

// nest writes n nested sequences of undefined length.
func nest(b *builder, n int) {
	for range n {
		b.long(0x0008, 0x1140, "SQ", undefined, "").item(undefined)
	}
	for range n {
		b.endItem().endSequence()
	}
}

func TestScanRefuses(t *testing.T) {
	pixels := dicomtag.PixelData
	sequence := dataset.Tag{Group: 0x0008, Element: 0x1140}
	tests := []struct {
		name    string
		data    func(*builder)
		tag     dataset.Tag
		problem string
	}{
		{"65 levels", func(b *builder) { nest(b, 65) }, sequence, "nested too deep"},
		{"100,000 levels", func(b *builder) { nest(b, 100_000) }, sequence, "nested too deep"},
		{"no VR", func(b *builder) { b.short(0x0008, 0x0060, "c?", "CT") }, dicomtag.Modality, "no valid value representation"},
		{"unknown VR with a short length", func(b *builder) { b.short(0x0008, 0x0060, "ZZ", "CT") }, dicomtag.Modality, "no valid value representation"},
		{"unknown VR of an implausible length", func(b *builder) { b.long(0x0008, 0x0060, "ZZ", 0xF0000000, "") }, dicomtag.Modality, "implausible length"},
		{"length beyond the item", func(b *builder) {
			b.long(0x0008, 0x1140, "SQ", 18, "").item(10).short(0x0010, 0x0020, "LO", "abcd").patientID("a")
		}, dicomtag.PatientID, "beyond the end of its item"},
		{"element header beyond the item", func(b *builder) {
			b.long(0x0008, 0x1140, "SQ", 12, "").item(4).patientID("abcd")
		}, dicomtag.PatientID, "header reaches beyond"},
		{"item beyond the sequence", func(b *builder) { b.long(0x0008, 0x1140, "SQ", 18, "").item(100).patientID("a") }, sequence, "item reaches beyond"},
		{"item header beyond the sequence", func(b *builder) { b.long(0x0008, 0x1140, "SQ", 4, "").item(0) }, sequence, "item reaches beyond"},
		{"stray item delimiter", func(b *builder) { b.patientID("a").endItem() }, dataset.Tag{Group: 0xFFFE, Element: 0xE00D}, "outside any item"},
		{"stray item", func(b *builder) { b.item(0) }, dataset.Tag{Group: 0xFFFE, Element: 0xE000}, "stands where a data element should"},
		{"stray sequence delimiter", func(b *builder) { b.endSequence() }, dataset.Tag{Group: 0xFFFE, Element: 0xE0DD}, "stands where a data element should"},
		{"element in a sequence", func(b *builder) { b.long(0x0008, 0x1140, "SQ", undefined, "").patientID("a") }, sequence, "other than an item"},
		{"item delimiter in a sequence", func(b *builder) { b.long(0x0008, 0x1140, "SQ", undefined, "").endItem() }, sequence, "other than an item"},
		{"delimiter in a defined item", func(b *builder) { b.long(0x0008, 0x1140, "SQ", 16, "").item(8).endItem() }, dataset.Tag{Group: 0xFFFE, Element: 0xE00D}, "length is defined"},
		{"delimiter in a defined sequence", func(b *builder) { b.long(0x0008, 0x1140, "SQ", 8, "").endSequence() }, sequence, "length is defined"},
		{"delimiter with a length", func(b *builder) {
			b.long(0x0008, 0x1140, "SQ", undefined, "").implicit(0xFFFE, 0xE0DD, 2, "ab")
		}, sequence, "has a length"},
		{"open sequence at the end", func(b *builder) { b.long(0x0008, 0x1140, "SQ", undefined, "").item(0) }, sequence, "ends inside"},
		{"open item at the end", func(b *builder) { b.long(0x0008, 0x1140, "SQ", undefined, "").item(undefined).patientID("a") }, sequence, "ends inside"},
		{"undefined length of text", func(b *builder) { b.long(0x0008, 0x0001, "UT", undefined, "") }, dataset.Tag{Group: 0x0008, Element: 0x0001}, "does not allow"},
		{"undefined fragment", func(b *builder) { b.long(0x7FE0, 0x0010, "OB", undefined, "").item(undefined) }, pixels, "fragment has an undefined length"},
		{"no fragment", func(b *builder) { b.long(0x7FE0, 0x0010, "OB", undefined, "").patientID("a") }, pixels, "other than a fragment"},
		{"no end of fragments", func(b *builder) { b.long(0x7FE0, 0x0010, "OB", undefined, "").item(0) }, pixels, "ends inside"},
		{"cut fragment", func(b *builder) { b.long(0x7FE0, 0x0010, "OB", undefined, "").item(100).WriteString("x") }, pixels, "ends inside"},
		{"value cut off", func(b *builder) { b.short(0x0008, 0x0060, "CS", "CT").Truncate(9) }, dicomtag.Modality, "ends inside this element"},
		{"4 GB claimed", func(b *builder) { b.long(0x7FE0, 0x0010, "OW", 0xFFFFFFFE, "x") }, pixels, "ends inside this element"},
		{"wanted value of 4 GB claimed", func(b *builder) { b.long(0x0010, 0x0020, "UT", 0xFFFFFFFE, "x") }, dicomtag.PatientID, "ends inside this element"},
		{"header cut off", func(b *builder) { b.WriteString("\x08\x00\x60") }, dataset.Tag{}, "inside the header"},
		{"long header cut off", func(b *builder) { b.long(0x0008, 0x1140, "SQ", 0, "").Truncate(10) }, sequence, "inside the header"},
		{"something after the padding", func(b *builder) { b.WriteString(strings.Repeat("\x00", 20) + "x") }, dataset.Tag{}, "no element follow"},
		{"text", func(b *builder) { b.WriteString("GET / HTTP/1.1\r\n\r\n") }, dataset.Tag{Group: 0x4547, Element: 0x2054}, "no valid value representation"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := &builder{}
			tt.data(b)
			_, err := dataset.Scan(b, dataset.ExplicitVRLittleEndian, patientIDTags(), dataset.Limits{})
			var damage *dataset.Error
			if !errors.As(err, &damage) {
				t.Fatalf("Scan: %v, want a *dataset.Error", err)
			}
			if damage.Tag != tt.tag || !strings.Contains(damage.Problem, tt.problem) {
				t.Errorf("Scan: %v, want tag %v and %q", damage, tt.tag, tt.problem)
			}
		})
	}
}

// TestScanEveryCut cuts whole data sets at every byte: only at the end of a top-level
// element may what is left pass for whole.
func TestScanEveryCut(t *testing.T) {
	for _, name := range fixtures {
		data, ts := dataSet(t, name)
		passed := 0
		for n := range data {
			_, err := dataset.Scan(bytes.NewReader(data[:n]), ts, dataset.IndexTags, dataset.Limits{})
			var damage *dataset.Error
			if err == nil {
				passed++
			} else if !errors.As(err, &damage) {
				t.Errorf("%s cut at %d: %v, want a *dataset.Error", name, n, err)
			}
		}
		// 36 elements at the top level; a deflated data set has no such place but the
		// padding byte after it.
		want := 36
		if name == "deflated.dcm" {
			want = 1
		}
		if passed > want {
			t.Errorf("%s: %d of %d cuts pass for whole data sets, want at most %d", name, passed, len(data), want)
		}
	}
}

func TestScanReturnsTheReadersError(t *testing.T) {
	broken := errors.New("association aborted")
	for _, name := range fixtures {
		data, ts := dataSet(t, name)
		for _, n := range []int{0, 1, 9, len(data) / 2, len(data) - 1, len(data)} {
			for _, cause := range []error{broken, io.ErrUnexpectedEOF} {
				r := io.MultiReader(bytes.NewReader(data[:n]), iotest.ErrReader(cause))
				if _, err := dataset.Scan(r, ts, dataset.IndexTags, dataset.Limits{}); !errors.Is(err, cause) {
					t.Errorf("Scan(%s cut at %d by %v) = %v", name, n, cause, err)
				}
			}
		}
	}
}

func TestScanReadsToTheEnd(t *testing.T) {
	for _, name := range fixtures {
		data, ts := dataSet(t, name)
		r := bytes.NewReader(data)
		if _, err := dataset.Scan(r, ts, nil, dataset.Limits{}); err != nil || r.Len() != 0 {
			t.Errorf("Scan(%s) = %v and leaves %d bytes", name, err, r.Len())
		}
	}
}

func TestScanKeepsNoLargeValue(t *testing.T) {
	b := &builder{}
	b.long(0x0010, 0x0020, "UT", 100, strings.Repeat("x", 100)).short(0x0008, 0x0060, "CS", "CT")
	h, err := dataset.Scan(b, dataset.ExplicitVRLittleEndian, dataset.IndexTags, dataset.Limits{MaxElementBytes: 99})
	if err != nil || h.Has(dicomtag.PatientID) || h.String(dicomtag.Modality) != "CT" {
		t.Errorf("Scan = %v, Has(PatientID) %v, Modality %q; want nil, false, CT", err, h.Has(dicomtag.PatientID), h.String(dicomtag.Modality))
	}
}

// allocated is how many bytes f allocates.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// scanAllocations is what a scan of n bytes may allocate: buffers, the wanted values
// twice while they grow, and the stack.
func scanAllocations(n int) uint64 { return 1<<20 + 8*uint64(n) }

func TestScanMemory(t *testing.T) {
	tests := []struct {
		name string
		data func(*builder)
	}{
		{"wanted 4 GB claimed", func(b *builder) { b.long(0x0010, 0x0020, "UT", 0xFFFFFFFE, "x") }},
		{"deep nesting", func(b *builder) { nest(b, 100_000) }},
		{"many empty items", func(b *builder) {
			b.long(0x0008, 0x1140, "SQ", undefined, "")
			for range 100_000 {
				b.item(0)
			}
			b.endSequence()
		}},
		{"many fragments", func(b *builder) {
			b.long(0x7FE0, 0x0010, "OB", undefined, "")
			for range 100_000 {
				b.item(0)
			}
			b.endSequence()
		}},
	}
	lim := dataset.Limits{MaxElementBytes: 1 << 40}
	for _, tt := range tests {
		b := &builder{}
		tt.data(b)
		got := allocated(func() {
			_, _ = dataset.Scan(bytes.NewReader(b.Bytes()), dataset.ExplicitVRLittleEndian, patientIDTags(), lim)
		})
		if got > 1<<20 {
			t.Errorf("%s: Scan allocates %d bytes, want at most 1 MiB", tt.name, got)
		}
	}
}
