package dataset_test

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"testing"

	"hilum/dimse/dataset"
)

// slice is a data set like a scanner's: the header of a fixture and 512 × 512 pixels.
func slice(b *testing.B) []byte {
	data, _ := dataSet(b, "explicit.dcm")
	head := data[:len(data)-44]
	return (&builder{*bytes.NewBuffer(bytes.Clone(head))}).long(0x7FE0, 0x0010, "OW", 512*512*2, string(make([]byte, 512*512*2))).Bytes()
}

// onlyReader hides every other method of a reader, as a network stream has none.
type onlyReader struct{ io.Reader }

func BenchmarkScan(b *testing.B) {
	data := slice(b)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := dataset.Scan(onlyReader{bytes.NewReader(data)}, dataset.ExplicitVRLittleEndian, dataset.IndexTags, dataset.Limits{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkReadOnly is what the bytes cost without a scan: the yardstick of BenchmarkScan.
func BenchmarkReadOnly(b *testing.B) {
	data := slice(b)
	buffer := make([]byte, 32<<10)
	b.SetBytes(int64(len(data)))
	for b.Loop() {
		r := onlyReader{bytes.NewReader(data)}
		for {
			if _, err := r.Read(buffer); err != nil {
				break
			}
		}
	}
}

func BenchmarkReadFile(b *testing.B) {
	files, err := filepath.Glob(filepath.Join(dataFolder(b), "ct-chest-siemens", "*.dcm"))
	if err != nil || len(files) == 0 {
		b.Skip("the real scans are not here")
	}
	info, err := os.Stat(files[0])
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(info.Size())
	b.ReportAllocs()
	for b.Loop() {
		if _, err := dataset.ReadFile(files[0], dataset.IndexTags); err != nil {
			b.Fatal(err)
		}
	}
}
