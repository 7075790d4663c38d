package dataset_test

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"

	"hilum/dimse/dataset"

	"github.com/grailbio/go-dicom/dicomtag"
)

var fixtures = []string{"explicit.dcm", "implicit.dcm", "bigendian.dcm", "deflated.dcm", "undefined.dcm", "rle.dcm"}

// dataFolder is the folder of real scans beside the checkout; it need not exist.
func dataFolder(t testing.TB) string {
	t.Helper()
	folder := os.Getenv("HILUM_DATA")
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "shared", "data")
	}
	if _, err := os.Stat(folder); err != nil {
		t.Skip("the real scans are not here: set HILUM_DATA to their folder to run this test")
	}
	return folder
}

// dataSet returns the data set of a fixture and its transfer syntax.
func dataSet(t testing.TB, name string) ([]byte, string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	f, err := dataset.ReadHeader(path, nil)
	if err != nil {
		t.Fatalf("ReadHeader(%s): %v", path, err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b[f.DataSetOffset:], f.TransferSyntaxUID
}

// builder makes data sets that no correct writer would, in Explicit VR Little Endian.
type builder struct{ bytes.Buffer }

func (b *builder) short(group, element uint16, vr, value string) *builder {
	b.tag(group, element)
	b.WriteString(vr)
	_ = binary.Write(b, binary.LittleEndian, uint16(len(value)))
	b.WriteString(value)
	return b
}

func (b *builder) long(group, element uint16, vr string, length uint32, value string) *builder {
	b.tag(group, element)
	b.WriteString(vr + "\x00\x00")
	_ = binary.Write(b, binary.LittleEndian, length)
	b.WriteString(value)
	return b
}

func (b *builder) implicit(group, element uint16, length uint32, value string) *builder {
	b.tag(group, element)
	_ = binary.Write(b, binary.LittleEndian, length)
	b.WriteString(value)
	return b
}

func (b *builder) tag(group, element uint16) {
	_ = binary.Write(b, binary.LittleEndian, [2]uint16{group, element})
}

const undefined = 0xFFFFFFFF

func (b *builder) item(length uint32) *builder  { return b.implicit(0xFFFE, 0xE000, length, "") }
func (b *builder) endItem() *builder            { return b.implicit(0xFFFE, 0xE00D, 0, "") }
func (b *builder) endSequence() *builder        { return b.implicit(0xFFFE, 0xE0DD, 0, "") }
func (b *builder) patientID(id string) *builder { return b.short(0x0010, 0x0020, "LO", id) }

func patientIDTags() []dataset.Tag { return []dataset.Tag{dicomtag.PatientID} }
