package dataset_test

import (
	"bytes"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hilum/dimse/dataset"

	"github.com/grailbio/go-dicom/dicomtag"
)

func must(t testing.TB, tag dataset.Tag, values ...any) *dataset.Element {
	t.Helper()
	e, err := dataset.NewElement(tag, values...)
	if err != nil {
		t.Fatalf("NewElement(%v, %v): %v", tag, values, err)
	}
	return e
}

// sampleElements has a value of every kind, out of order.
func sampleElements(t testing.TB) []*dataset.Element {
	return []*dataset.Element{
		must(t, dicomtag.PixelData, []byte{1, 2, 3}),
		must(t, dicomtag.SOPClassUID, "1.2.840.10008.5.1.4.1.1.2"),
		must(t, dicomtag.SOPInstanceUID, "2.25.1001"),
		dataset.RawElement(dicomtag.SpecificCharacterSet, "CS", []byte("ISO_IR 100")),
		dataset.RawElement(dicomtag.PatientName, "PN", []byte("M\xfcller^J\xf6rg")),
		must(t, dicomtag.ImageType, "ORIGINAL", "PRIMARY", "AXIAL"),
		must(t, dicomtag.InstanceNumber, 7),
		must(t, dicomtag.SliceThickness, 1.25),
		must(t, dicomtag.ImagePositionPatient, -100.5, 1.0/3, 1e-20),
		must(t, dicomtag.Rows, 512),
		must(t, dicomtag.PixelPaddingValue, -2000),
		must(t, dicomtag.FrameIncrementPointer, dataset.Tag{Group: 0x18, Element: 0x1063}),
		must(t, dicomtag.GraphicData, 1.5, -2.25),
		must(t, dicomtag.SimpleFrameList, 1, 70000),
		must(t, dicomtag.DisplayedAreaTopLeftHandCorner, -5, 6),
		must(t, dicomtag.RealWorldValueSlope, 0.1),
		must(t, dicomtag.StudyID),
		must(t, dicomtag.TextValue, strings.Repeat("long text ", 10_000)),
		dataset.RawElement(dataset.Tag{Group: 0x0009, Element: 0x0010}, "LO", []byte("ACME")),
		dataset.RawElement(dataset.Tag{Group: 0x0009, Element: 0x1001}, "UN", []byte{1, 2, 3}),
		dataset.RawElement(dataset.Tag{Group: 0x0009, Element: 0x1002}, "OV", []byte{1, 2, 3, 4, 5, 6, 7, 8}),
		dataset.Sequence(dicomtag.ReferencedImageSequence,
			[]*dataset.Element{
				must(t, dicomtag.ReferencedSOPInstanceUID, "2.25.1003"),
				must(t, dicomtag.ReferencedSOPClassUID, "1.2.840.10008.5.1.4.1.1.2"),
				dataset.Sequence(dicomtag.PurposeOfReferenceCodeSequence, []*dataset.Element{must(t, dicomtag.CodeValue, "121311")}),
			},
			nil),
	}
}

// sampleValues is what sampleElements says, as DCMTK and Scan both show it.
var sampleValues = map[string]string{
	"SOPInstanceUID": "2.25.1001", "ImageType": `ORIGINAL\PRIMARY\AXIAL`, "InstanceNumber": "7", "SliceThickness": "1.25",
	"ImagePositionPatient": `-100.5\0.33333333333333\1e-20`, "Rows": "512", "GraphicData": `1.5\-2.25`, "SimpleFrameList": `1\70000`,
	"DisplayedAreaTopLeftHandCorner": `-5\6`, "RealWorldValueSlope": "0.1", "StudyID": "", "PatientName": "Müller^Jörg",
	"FrameIncrementPointer": "(0018,1063)", "PixelPaddingValue": "-2000",
}

func TestWriteThenScan(t *testing.T) {
	elements := sampleElements(t)
	tags := make([]dataset.Tag, 0, len(elements)+1)
	for _, e := range elements {
		tags = append(tags, e.Tag)
	}
	tags = append(tags, dicomtag.PixelRepresentation)
	for _, ts := range []string{dataset.ExplicitVRLittleEndian, dataset.ImplicitVRLittleEndian, dataset.ExplicitVRBigEndian, dataset.DeflatedExplicitVRLittleEndian} {
		t.Run(ts, func(t *testing.T) {
			elements := append([]*dataset.Element{must(t, dicomtag.PixelRepresentation, 1)}, elements...)
			var b bytes.Buffer
			if err := dataset.WriteFile(&b, ts, elements); err != nil {
				t.Fatalf("WriteFile: %v", err)
			}
			name := filepath.Join(t.TempDir(), "x.dcm")
			if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := dataset.ReadFile(name, tags)
			if err != nil {
				t.Fatalf("ReadFile: %v", err)
			}
			if !bytes.Equal(f.PixelData.Native, []byte{1, 2, 3, 0}) && ts != dataset.ExplicitVRBigEndian {
				t.Errorf("PixelData = %v, want 1 2 3 and a padding byte", f.PixelData.Native)
			}
			got := f.Header.Map()
			for keyword, want := range sampleValues {
				if got[keyword] != want {
					t.Errorf("%s = %q, want %q", keyword, got[keyword], want)
				}
			}
			dcmdump, err := exec.LookPath("dcmdump")
			if err != nil {
				t.Skip("DCMTK is not installed")
			}
			out, err := exec.Command(dcmdump, "-E", "+L", "-Un", "+U8", name).CombinedOutput()
			if err != nil || bytes.Contains(out, []byte("W:")) {
				t.Fatalf("dcmdump: %v\n%.2000s", err, out)
			}
			for keyword, want := range sampleValues {
				if want != "" && !strings.Contains(string(out), want) {
					t.Errorf("dcmdump does not show %s %q:\n%.3000s", keyword, want, out)
				}
			}
		})
	}
}

func TestWriteFragments(t *testing.T) {
	elements := []*dataset.Element{
		must(t, dicomtag.SOPClassUID, "1.2"), must(t, dicomtag.SOPInstanceUID, "1.3"),
		must(t, dicomtag.PixelData, [][]byte{{1, 2, 3}, {4}}),
	}
	var b bytes.Buffer
	if err := dataset.WriteFile(&b, "1.2.840.10008.1.2.4.80", elements); err != nil {
		t.Fatalf("WriteFile: %v", err)
	}
	name := filepath.Join(t.TempDir(), "x.dcm")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := dataset.ReadFile(name, nil)
	if err != nil || len(f.PixelData.Fragments) != 2 || !bytes.Equal(f.PixelData.Fragments[0], []byte{1, 2, 3, 0}) || len(f.PixelData.OffsetTable) != 0 {
		t.Errorf("ReadFile = %+v, %v", f, err)
	}
	if err := dataset.WriteFile(&b, dataset.ExplicitVRLittleEndian, elements); err == nil {
		t.Error("fragments were written in a native transfer syntax")
	}
}

func TestWriteRefuses(t *testing.T) {
	uids := []*dataset.Element{must(t, dicomtag.SOPClassUID, "1.2"), must(t, dicomtag.SOPInstanceUID, "1.3")}
	tests := []struct {
		name    string
		ts      string
		element *dataset.Element
		says    string
	}{
		{"repeated", dataset.ExplicitVRLittleEndian, uids[0], "twice"},
		{"too long for its VR", dataset.ExplicitVRLittleEndian, must(t, dicomtag.StudyDescription, strings.Repeat("x", 65535)), "too long"},
		{"file meta", dataset.ExplicitVRLittleEndian, must(t, dicomtag.TransferSyntaxUID, "1.2"), "does not belong"},
		{"no VR", dataset.ExplicitVRLittleEndian, dataset.RawElement(dicomtag.StudyID, "??", nil), "no value representation"},
		{"unknown transfer syntax", "1.2.3", must(t, dicomtag.StudyID, "1"), "not a transfer syntax"},
		{"too deep", dataset.ExplicitVRLittleEndian, deep(100), "too deep"},
	}
	for _, tt := range tests {
		err := dataset.WriteFile(&bytes.Buffer{}, tt.ts, append([]*dataset.Element{tt.element}, uids...))
		if err == nil || !strings.Contains(err.Error(), tt.says) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.says)
		}
	}
	if err := dataset.WriteFile(&bytes.Buffer{}, dataset.ExplicitVRLittleEndian, uids[:1]); err == nil {
		t.Error("a file without SOP Instance UID was written")
	}
}

func deep(n int) *dataset.Element {
	e := dataset.Sequence(dicomtag.ReferencedImageSequence)
	for range n {
		e = dataset.Sequence(dicomtag.ReferencedImageSequence, []*dataset.Element{e})
	}
	return e
}

func TestNewElementRefuses(t *testing.T) {
	tests := []struct {
		tag   dataset.Tag
		value any
	}{
		{dicomtag.Rows, -1},
		{dicomtag.Rows, 65536},
		{dicomtag.Rows, "512"},
		{dicomtag.PixelPaddingValue, -40000},
		{dicomtag.SliceThickness, math.NaN()},
		{dicomtag.SliceThickness, math.Inf(1)},
		{dicomtag.GraphicData, 1e300},
		{dicomtag.GraphicData, float32(math.NaN())},
		{dicomtag.RealWorldValueSlope, math.NaN()},
		{dicomtag.InstanceNumber, int64(1) << 40},
		{dicomtag.PatientName, 1},
		{dicomtag.FrameIncrementPointer, "0018"},
		{dicomtag.PixelData, 5},
		{dicomtag.ReferencedImageSequence, "x"},
		{dataset.Tag{Group: 9, Element: 9}, "x"},
	}
	for _, tt := range tests {
		if e, err := dataset.NewElement(tt.tag, tt.value); err == nil {
			t.Errorf("NewElement(%v, %v) = %v, want an error", tt.tag, tt.value, e)
		}
	}
}

func TestDecode(t *testing.T) {
	for _, name := range fixtures {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			t.Fatal(err)
		}
		elements, err := dataset.Decode(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			t.Errorf("Decode(%s): %v", name, err)
			continue
		}
		// What was decoded can be written again, and says the same.
		ts := dataset.ExplicitVRLittleEndian
		if name == "rle.dcm" {
			ts = "1.2.840.10008.1.2.5"
		}
		var b bytes.Buffer
		if err := dataset.WriteDataSet(&b, ts, elements); err != nil {
			t.Errorf("WriteDataSet(Decode(%s)): %v", name, err)
			continue
		}
		h, err := dataset.Scan(&b, ts, dataset.IndexTags, dataset.Limits{})
		if err != nil || h.String(dicomtag.PatientName) != "Müller^Jörg" || h.String(dicomtag.ImagePositionPatient) != `-100.5\-99.25\1E2` || h.String(dicomtag.Rows) != "4" {
			t.Errorf("Scan(WriteDataSet(Decode(%s))) = %v, %v", name, h.Map(), err)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	tests := map[string]func(*builder){
		"odd length":     func(b *builder) { b.patientID("abc") },
		"UN sequence":    func(b *builder) { b.long(9, 0x1001, "UN", undefined, "").endSequence() },
		"new VR":         func(b *builder) { b.long(9, 0x1001, "SV", 8, "12345678") },
		"too deep":       func(b *builder) { nest(b, 1000) },
		"damaged":        func(b *builder) { b.patientID("abcd").Truncate(9) },
		"no AT value":    func(b *builder) { b.short(0x28, 9, "AT", "ab") },
		"cut number":     func(b *builder) { b.short(0x28, 0x10, "UL", "ab") },
		"undefined text": func(b *builder) { b.short(0x10, 0x20, "LO", strings.Repeat("x", 65535)) },
	}
	for name, write := range tests {
		b := &builder{}
		b.Write(dataset.AppendFileMeta(nil, dataset.ExplicitVRLittleEndian, "1.2", "1.3"))
		write(b)
		if elements, err := dataset.Decode(b, int64(b.Len())); err == nil {
			t.Errorf("%s: Decode = %v, want an error", name, elements)
		}
	}
}
