package dataset_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"unicode/utf8"

	"hilum/dimse/dataset"

	"github.com/grailbio/go-dicom/dicomtag"
)

var fuzzSyntaxes = []string{
	dataset.ExplicitVRLittleEndian, dataset.ImplicitVRLittleEndian, dataset.ExplicitVRBigEndian,
	dataset.DeflatedExplicitVRLittleEndian, "1.2.840.10008.1.2.5",
}

func fuzzSeeds(f *testing.F, add func(name string, syntax byte, data []byte)) {
	for _, name := range fixtures {
		data, ts := dataSet(f, name)
		for i, s := range fuzzSyntaxes {
			if s == ts {
				add(name, byte(i), data)
			}
		}
	}
}

// FuzzScan holds that a scan ends in a header or an *Error, never both, that text is
// valid UTF-8, and that memory grows with the bytes given, not with what they claim.
func FuzzScan(f *testing.F) {
	fuzzSeeds(f, func(_ string, syntax byte, data []byte) { f.Add(syntax, data) })
	b := &builder{}
	nest(b, 64)
	f.Add(byte(0), b.Bytes())
	f.Add(byte(0), (&builder{}).long(0x0009, 0x1001, "UN", undefined, "").item(undefined).implicit(0x10, 0x20, 2, "no").endItem().endSequence().Bytes())
	f.Fuzz(func(t *testing.T, syntax byte, data []byte) {
		ts := fuzzSyntaxes[int(syntax)%len(fuzzSyntaxes)]
		var h dataset.Header
		var err error
		got := allocated(func() {
			h, err = dataset.Scan(bytes.NewReader(data), ts, dataset.IndexTags, dataset.Limits{})
		})
		if ts != dataset.DeflatedExplicitVRLittleEndian && got > scanAllocations(len(data)) {
			t.Errorf("Scan of %d bytes allocates %d", len(data), got)
		}
		var damage *dataset.Error
		if err != nil {
			if !errors.As(err, &damage) {
				t.Errorf("Scan: %v, want an *Error", err)
			}
			if len(h.Map()) != 0 {
				t.Error("Scan returns a header and an error")
			}
			return
		}
		for keyword, text := range h.Map() {
			if !utf8.ValidString(text) {
				t.Errorf("%s = %q is not UTF-8", keyword, text)
			}
		}
		_, _ = h.Floats(dicomtag.ImagePositionPatient)
		_, _ = h.Int(dicomtag.Rows)
	})
}

// FuzzDecode holds that what Decode accepts can be written, decoded again, and written
// to the same bytes, and that go-dicom neither panics nor takes memory without bound.
func FuzzDecode(f *testing.F) {
	for _, name := range fixtures {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var elements []*dataset.Element
		var err error
		got := allocated(func() { elements, err = dataset.Decode(bytes.NewReader(data), int64(len(data))) })
		if bound := uint64(64<<20 + 400*len(data)); got > bound {
			t.Errorf("Decode of %d bytes allocates %d", len(data), got)
		}
		if err != nil {
			return
		}
		var first, second bytes.Buffer
		const ts = "1.2.840.10008.1.2.5" // explicit, and can hold fragments
		if err := dataset.WriteDataSet(&first, ts, elements); err != nil {
			return // repeated tags, values of another VR: Scan tolerates them, a writer must not
		}
		file := append(dataset.AppendFileMeta(nil, ts, "1.2", "1.3"), first.Bytes()...)
		again, err := dataset.Decode(bytes.NewReader(file), int64(len(file)))
		if err != nil {
			t.Fatalf("Decode of what was written: %v", err)
		}
		if err := dataset.WriteDataSet(&second, ts, again); err != nil || !bytes.Equal(first.Bytes(), second.Bytes()) {
			t.Errorf("written twice: %v\n%x\n%x", err, first.Bytes(), second.Bytes())
		}
	})
}

// FuzzReadFile holds that a file gives a File or an error, that its pixel data are no
// larger than itself unless deflated, and that memory follows its size.
func FuzzReadFile(f *testing.F) {
	for _, name := range fixtures {
		data, err := os.ReadFile(filepath.Join("testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		name := filepath.Join(t.TempDir(), "x.dcm")
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
		var file *dataset.File
		var err error
		got := allocated(func() { file, err = dataset.ReadFile(name, dataset.IndexTags) })
		if (file == nil) == (err == nil) {
			t.Fatalf("ReadFile = %v, %v", file, err)
		}
		inflated := file != nil && file.TransferSyntaxUID == dataset.DeflatedExplicitVRLittleEndian || err != nil && bytes.Contains(data, []byte(dataset.DeflatedExplicitVRLittleEndian))
		// An empty fragment has eight bytes and a slot in a growing list.
		if limit := scanAllocations(len(data)) + 32*uint64(len(data)); !inflated && got > limit {
			t.Errorf("ReadFile of %d bytes allocates %d, want at most %d", len(data), got, limit)
		}
		var damage *dataset.Error
		if err != nil {
			if !errors.As(err, &damage) && !errors.Is(err, dataset.ErrNotDICOM) {
				t.Errorf("ReadFile: %v, want an *Error or ErrNotDICOM", err)
			}
			return
		}
		size := len(file.PixelData.Native)
		for _, fragment := range file.PixelData.Fragments {
			size += len(fragment)
		}
		if size > len(data) && file.TransferSyntaxUID != dataset.DeflatedExplicitVRLittleEndian {
			t.Errorf("%d bytes of pixel data from a file of %d", size, len(data))
		}
	})
}
