package dataset_test

import (
	"bytes"
	"slices"
	"strings"
	"testing"

	"hilum/dimse/dataset"

	"github.com/grailbio/go-dicom/dicomtag"
)

// TestScanAll: every top-level element is there, sequences by name only, nothing
// of what is inside them.
func TestScanAll(t *testing.T) {
	elements := []*dataset.Element{
		dataset.MustElement(dicomtag.PatientID, "P1"),
		dataset.MustElement(dicomtag.StudyDate),
		dataset.Sequence(dicomtag.RequestAttributesSequence, []*dataset.Element{dataset.MustElement(dicomtag.AccessionNumber, "A")}),
		dataset.Sequence(dicomtag.ProcedureCodeSequence),
		dataset.RawElement(dataset.Tag{Group: 0x0009, Element: 0x1001}, "LO", []byte("x ")),
		dataset.MustElement(dicomtag.Rows, 512),
	}
	for _, ts := range []string{dataset.ImplicitVRLittleEndian, dataset.ExplicitVRLittleEndian, dataset.ExplicitVRBigEndian, dataset.DeflatedExplicitVRLittleEndian} {
		var b bytes.Buffer
		if err := dataset.WriteDataSet(&b, ts, elements); err != nil {
			t.Fatal(err)
		}
		h, err := dataset.ScanAll(&b, ts, dataset.Limits{})
		if err != nil {
			t.Fatalf("%s: ScanAll = %v", ts, err)
		}
		want := []dataset.Tag{dicomtag.StudyDate, {Group: 0x0009, Element: 0x1001}, dicomtag.PatientID, dicomtag.ProcedureCodeSequence, dicomtag.Rows, dicomtag.RequestAttributesSequence}
		slices.SortFunc(want, dataset.Tag.Compare)
		if got := h.Tags(); !slices.Equal(got, want) {
			t.Errorf("%s: Tags() = %v, want %v", ts, got, want)
		}
		if h.VR(dicomtag.RequestAttributesSequence) != "SQ" || h.String(dicomtag.Rows) != "512" || h.String(dicomtag.PatientID) != "P1" {
			t.Errorf("%s: values are %v", ts, h.Map())
		}
	}
}

// TestEncodeText: what one character set holds comes back the same; what it does
// not hold is refused, never replaced.
func TestEncodeText(t *testing.T) {
	for _, tt := range []struct {
		text, term, want string
		ok               bool
	}{
		{"plain", "", "plain", true},
		{"plain", "no such term", "plain", true},
		{"Müller", "ISO_IR 100", "M\xfcller", true},
		{"Müller", "", "", false},
		{"Müller", "ISO_IR 192", "Müller", true},
		{"Łódź", "ISO_IR 101", "\xa3\xf3d\xbc", true},
		{"Łódź", "ISO_IR 100", "", false},
		{"Люкceмбypг", "ISO_IR 144", "\xbb\xee\xdace\xdc\xd1yp\xd3", true}, // PS3.5 annex I's example, Latin letters as there
		{"山田", "ISO_IR 100", "", false},
		{"山田", `ISO 2022 IR 87`, "", false},
		{"王^小东", "GB18030", "\xcd\xf5^\xd0\xa1\xb6\xab", true}, // PS3.5 J.3
	} {
		got, ok := dataset.EncodeText(tt.text, tt.term)
		if ok != tt.ok || string(got) != tt.want {
			t.Errorf("EncodeText(%q, %q) = %q, %v; want %q, %v", tt.text, tt.term, got, ok, tt.want, tt.ok)
		}
	}
	if _, ok := dataset.EncodeText(strings.Repeat("\xff", 3), "ISO_IR 192"); ok {
		t.Error("EncodeText took what is no UTF-8")
	}
}
