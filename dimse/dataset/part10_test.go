package dataset_test

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"hilum/dimse/dataset"

	"github.com/grailbio/go-dicom/dicomtag"
)

func TestReadFile(t *testing.T) {
	var native []byte
	for i := range uint16(16) {
		native = binary.LittleEndian.AppendUint16(native, i)
	}
	for _, name := range fixtures {
		t.Run(name, func(t *testing.T) {
			f, err := dataset.ReadFile(filepath.Join("testdata", name), dataset.IndexTags)
			if err != nil {
				t.Fatalf("ReadFile: %v", err)
			}
			if got := f.Header.String(dicomtag.PatientName); got != "Müller^Jörg" {
				t.Errorf("PatientName = %q", got)
			}
			if got := f.Meta.String(dicomtag.MediaStorageSOPInstanceUID); got != "2.25.1001" {
				t.Errorf("MediaStorageSOPInstanceUID = %q", got)
			}
			if name == "rle.dcm" {
				// PS3.5 G.5: a header of 64 bytes, two segments.
				if len(f.PixelData.Fragments) != 1 || f.PixelData.Native != nil || len(f.PixelData.Fragments[0]) < 64 || f.PixelData.Fragments[0][0] != 2 {
					t.Errorf("PixelData = %+v", f.PixelData)
				}
			} else if !bytes.Equal(f.PixelData.Native, native) || f.PixelData.VR != "OW" || f.PixelData.Fragments != nil {
				t.Errorf("PixelData = %+v, want %x", f.PixelData, native)
			}
			h, err := dataset.ReadHeader(filepath.Join("testdata", name), dataset.IndexTags)
			if err != nil || h.PixelData.Native != nil || h.PixelData.Fragments != nil || h.DataSetOffset != f.DataSetOffset {
				t.Errorf("ReadHeader = %+v, %v", h, err)
			}
		})
	}
}

func TestReadFileRefuses(t *testing.T) {
	good, err := os.ReadFile(filepath.Join("testdata", "explicit.dcm"))
	if err != nil {
		t.Fatal(err)
	}
	body, _ := dataSet(t, "explicit.dcm")
	meta := dataset.AppendFileMeta(nil, dataset.ExplicitVRLittleEndian, "1.2", "1.3")
	noSyntax := bytes.ReplaceAll(meta, []byte("\x02\x00\x10\x00UI"), []byte("\x02\x00\x16\x00AE"))
	tests := []struct {
		name     string
		data     []byte
		notDICOM bool
		says     string
	}{
		{"empty", nil, true, "DICM"},
		{"text", []byte(strings.Repeat("hello ", 100)), true, "DICM"},
		{"bare data set", body, true, "file meta information"},
		{"preamble only", make([]byte, 128), true, "DICM"},
		{"prefix only", good[:132], false, "transfer syntax"},
		{"no transfer syntax", append(noSyntax, body...), false, "transfer syntax"},
		{"meta cut off", good[:200], false, "ends inside"},
		{"data set cut off", good[:len(good)-1], false, "ends inside this element"},
		{"meta length of 4 GB", append(good[:132:132], "\x02\x00\x02\x01OB\x00\x00\xff\xff\xff\xff"...), false, "implausibly long"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "x.dcm")
			if err := os.WriteFile(name, tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := dataset.ReadFile(name, nil)
			var damage *dataset.Error
			if errors.Is(err, dataset.ErrNotDICOM) != tt.notDICOM || errors.As(err, &damage) == tt.notDICOM || !strings.Contains(err.Error(), tt.says) {
				t.Errorf("ReadFile: %v, want ErrNotDICOM %v and %q", err, tt.notDICOM, tt.says)
			}
		})
	}
	if _, err := dataset.ReadFile(t.TempDir(), nil); !errors.Is(err, dataset.ErrNotDICOM) {
		t.Errorf("ReadFile(folder): %v, want ErrNotDICOM", err)
	}
	if _, err := dataset.ReadFile("testdata/absent.dcm", nil); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("ReadFile(absent): %v, want ErrNotExist", err)
	}
}

func TestReadFileWithoutPreamble(t *testing.T) {
	good, err := os.ReadFile(filepath.Join("testdata", "explicit.dcm"))
	if err != nil {
		t.Fatal(err)
	}
	name := filepath.Join(t.TempDir(), "x.dcm")
	if err := os.WriteFile(name, good[132:], 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := dataset.ReadFile(name, dataset.IndexTags)
	if err != nil || f.Header.String(dicomtag.PatientID) != "ID-1" {
		t.Errorf("ReadFile = %v", err)
	}
}

func TestAppendFileMeta(t *testing.T) {
	body, _ := dataSet(t, "explicit.dcm")
	meta := dataset.AppendFileMeta([]byte("x"), dataset.ExplicitVRLittleEndian, "1.2.840.10008.5.1.4.1.1.2", "2.25.1001")
	if meta[0] != 'x' || !bytes.Equal(meta[1:129], make([]byte, 128)) {
		t.Error("the preamble is not zero")
	}
	name := filepath.Join(t.TempDir(), "x.dcm")
	if err := os.WriteFile(name, append(meta[1:], body...), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := dataset.ReadFile(name, nil)
	if err != nil || f.TransferSyntaxUID != dataset.ExplicitVRLittleEndian || f.DataSetOffset != int64(len(meta)-1) {
		t.Fatalf("ReadFile = %+v, %v", f, err)
	}
	if got := f.Meta.String(dicomtag.ImplementationClassUID); got != dataset.ImplementationClassUID || !dataset.ValidUID(got) {
		t.Errorf("ImplementationClassUID = %q", got)
	}
	dcmftest, err := exec.LookPath("dcmftest")
	if err != nil {
		t.Skip("DCMTK is not installed")
	}
	if out, err := exec.Command(dcmftest, name).CombinedOutput(); err != nil || !bytes.HasPrefix(out, []byte("yes")) {
		t.Errorf("dcmftest: %s, %v", out, err)
	}
}

func TestDeflateBomb(t *testing.T) {
	var bomb bytes.Buffer
	w, err := flate.NewWriter(&bomb, flate.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	b := &builder{}
	_, _ = w.Write(b.long(0x7FE0, 0x0010, "OB", 16<<20, "").Bytes())
	zeros := make([]byte, 1<<20)
	for range 16 {
		_, _ = w.Write(zeros)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	scan := func(lim dataset.Limits) error {
		_, err := dataset.Scan(bytes.NewReader(bomb.Bytes()), dataset.DeflatedExplicitVRLittleEndian, nil, lim)
		return err
	}
	if err := scan(dataset.Limits{MaxInflateFree: 17 << 20}); err != nil {
		t.Errorf("Scan below the free size: %v", err)
	}
	var damage *dataset.Error
	if err := scan(dataset.Limits{MaxInflateFree: 1 << 20}); !errors.As(err, &damage) || !strings.Contains(damage.Problem, "out of proportion") {
		t.Errorf("Scan of a bomb: %v, want an *Error", err)
	}
	for name, data := range map[string][]byte{"no deflated data": []byte("\xff\xff\xff"), "cut off": bomb.Bytes()[:bomb.Len()/2], "empty": nil} {
		if _, err := dataset.Scan(bytes.NewReader(data), dataset.DeflatedExplicitVRLittleEndian, nil, dataset.Limits{}); !errors.As(err, &damage) {
			t.Errorf("Scan of %s: %v, want an *Error", name, err)
		}
	}
}

// TestAgainstDCMTK compares every header value with what dcmdump says, on real scans.
func TestAgainstDCMTK(t *testing.T) {
	folder := dataFolder(t)
	dcmdump, err := exec.LookPath("dcmdump")
	if err != nil {
		t.Skip("DCMTK is not installed")
	}
	files, err := filepath.Glob(filepath.Join(folder, "*", "*.dcm"))
	if err != nil || len(files) == 0 {
		t.Skip("the real scans are not here")
	}
	line := regexp.MustCompile(`^\(([0-9a-f]{4}),([0-9a-f]{4})\) ([A-Z]{2}) (.*?) +# +\d+, ?\d+ (\w+)`)
	compared := 0
	for i := 0; i < len(files); i += max(1, len(files)/20) {
		out, err := exec.Command(dcmdump, "-q", "+L", "-Un", files[i]).Output()
		if err != nil {
			t.Fatalf("dcmdump %s: %v", files[i], err)
		}
		want := map[string]string{}
		for _, l := range strings.Split(string(out), "\n") {
			if len(l) > 10_000 {
				continue // pixel data
			}
			m := line.FindStringSubmatch(l)
			if m == nil || m[1] == "0002" {
				continue
			}
			value := strings.TrimSpace(strings.TrimSuffix(strings.TrimPrefix(m[4], "["), "]"))
			if m[4] == "(no value available)" {
				value = ""
			}
			want[m[5]] = value
		}
		f, err := dataset.ReadFile(files[i], dataset.IndexTags)
		if err != nil {
			t.Errorf("ReadFile: %v", err)
			continue
		}
		for keyword, got := range f.Header.Map() {
			if expected, ok := want[keyword]; !ok || strings.TrimSpace(got) != expected {
				t.Errorf("%s: %s = %q, dcmdump says %q", files[i], keyword, got, expected)
			}
			compared++
		}
		for _, tag := range dataset.IndexTags {
			info, _ := dicomtag.Find(tag)
			if _, there := want[info.Name]; there != f.Header.Has(tag) {
				t.Errorf("%s: Has(%s) = %v, dcmdump says %v", files[i], info.Name, !there, there)
			}
		}
	}
	t.Logf("%d values compared", compared)
}
