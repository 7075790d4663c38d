package dataset_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
)

// TestReadIdentity finds the identity without what follows it, and also behind
// elements that a sorted data set has later.
func TestReadIdentity(t *testing.T) {
	const class, instance = "1.2.840.10008.5.1.4.1.1.2", "1.2.3.4"
	c, i := dataset.MustElement(dicomtag.SOPClassUID, class), dataset.MustElement(dicomtag.SOPInstanceUID, instance)
	pixels := dataset.MustElement(dicomtag.PixelData, make([]byte, 100_000))
	for _, tt := range []struct {
		name     string
		elements []*dataset.Element
		keep     int // bytes of the file
		fails    bool
	}{
		{"whole", []*dataset.Element{c, i, pixels}, 1 << 20, false},
		{"cut behind it", []*dataset.Element{c, i, pixels}, 4000, false},
		{"out of order", []*dataset.Element{pixels, i, c}, 1 << 20, false},
		{"out of order and cut", []*dataset.Element{pixels, i, c}, 4000, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			out.Write(dataset.AppendFileMeta(nil, dataset.ExplicitVRLittleEndian, class, instance))
			for _, e := range tt.elements { // one by one: a writer sorts them
				if err := dataset.WriteDataSet(&out, dataset.ExplicitVRLittleEndian, []*dataset.Element{e}); err != nil {
					t.Fatal(err)
				}
			}
			name := filepath.Join(t.TempDir(), "image.dcm")
			if err := os.WriteFile(name, out.Bytes()[:min(tt.keep, out.Len())], 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := dataset.ReadIdentity(name)
			if (err != nil) != tt.fails {
				t.Fatalf("ReadIdentity() = %v, want an error: %v", err, tt.fails)
			}
			if err == nil && (f.Header.String(dicomtag.SOPClassUID) != class || f.Header.String(dicomtag.SOPInstanceUID) != instance) {
				t.Errorf("ReadIdentity() = %q, %q, want %s, %s", f.Header.String(dicomtag.SOPClassUID), f.Header.String(dicomtag.SOPInstanceUID), class, instance)
			}
		})
	}
	if _, err := dataset.ReadIdentity(t.TempDir()); err == nil {
		t.Error("ReadIdentity() of a folder = nil, want an error")
	}
}
