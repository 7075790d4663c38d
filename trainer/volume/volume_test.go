package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
	"hilum/models/ct"
	"hilum/trainer/convert"
	"hilum/trainer/volume"
)

// TestMain lets the test binary play the plugin program: its name says how it
// behaves, for the environment is not handed on.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "volume" {
		os.Exit(playProgram(filepath.Base(os.Args[0]), os.Args[3]))
	}
	os.Exit(m.Run())
}

// playProgram behaves as named and returns the exit status.
func playProgram(behaviour, out string) int {
	v := chest()
	for n := range v.HU {
		v.HU[n] = 7
	}
	switch behaviour {
	case "good":
	case "otherSize":
		v.Size[2]--
		v.HU = v.HU[:v.Voxels()]
	case "shifted":
		v.Origin[1] += 0.01
	case "nothing":
		return 0
	case "link":
		_ = os.Symlink("/dev/zero", out) // seen by the test
		return 0
	case "large":
		_ = os.WriteFile(out, make([]byte, 1<<20), 0o600)
		return 0
	case "rubbish":
		_ = os.WriteFile(out, []byte("NDims = 3\nElementDataFile = ../secret\n"), 0o600)
		return 0
	case "series":
		fmt.Fprintln(os.Stderr, "much else\nlungnodule: The pixels\x1b[31m of the image are broken.")
		return volume.ExitSeries
	case "crash":
		fmt.Fprintln(os.Stderr, strings.Repeat("x", 1<<20))
		panic("plugin")
	case "hangs":
		for {
			time.Sleep(time.Hour) // the test's deadline ends it
		}
	case "environment":
		if os.Getenv("PATH") != "" || os.Getenv("HOME") != "" {
			return 1
		}
	}
	if err := ct.WriteMetaImage(out, v, false); err != nil {
		return 1
	}
	return 0
}

func chest() *ct.Volume {
	g := ct.Geometry{Size: [3]int{4, 3, 5}, Spacing: [3]float64{1, 1, 2}, Origin: [3]float64{1, 2, 3}, Axes: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}}
	return &ct.Volume{Geometry: g, HU: make([]int16, g.Voxels())}
}

const uid = "1.2.3.4"

// series writes the chest as a DICOM series.
func series(t *testing.T, uid string) string {
	t.Helper()
	dir := t.TempDir()
	in := filepath.Join(dir, uid+".mha")
	if err := ct.WriteMetaImage(in, chest(), false); err != nil {
		t.Fatal(err)
	}
	if _, err := convert.Run(t.Context(), []string{in}, convert.Options{Out: filepath.Join(dir, "dicom"), To: convert.DICOM}); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "dicom", uid)
}

// compressed returns the series as if its pixels were in JPEG-LS.
func compressed(t *testing.T) string {
	t.Helper()
	from, to := series(t, uid), t.TempDir()
	entries, err := os.ReadDir(from)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(from, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		elements, err := dataset.Decode(bytes.NewReader(b), int64(len(b)))
		if err != nil {
			t.Fatal(err)
		}
		f, err := dataset.ReadHeader(filepath.Join(from, e.Name()), []dataset.Tag{dicomtag.SOPClassUID, dicomtag.SOPInstanceUID})
		if err != nil {
			t.Fatal(err)
		}
		elements = slices.DeleteFunc(elements, func(e *dataset.Element) bool {
			return e.Tag.Group == 2 || e.Tag == dicomtag.PixelData
		})
		var data bytes.Buffer
		if err := dataset.WriteDataSet(&data, "1.2.840.10008.1.2.1", elements); err != nil {
			t.Fatal(err)
		}
		// PS3.5 A.4: basic offset table, one fragment, delimiter.
		data.WriteString("\xe0\x7f\x10\x00OB\x00\x00\xff\xff\xff\xff" + "\xfe\xff\x00\xe0\x00\x00\x00\x00" +
			"\xfe\xff\x00\xe0\x04\x00\x00\x00\xff\xd8\xff\xd9" + "\xfe\xff\xdd\xe0\x00\x00\x00\x00")
		file := dataset.AppendFileMeta(nil, "1.2.840.10008.1.2.4.80", f.Header.String(dicomtag.SOPClassUID), f.Header.String(dicomtag.SOPInstanceUID))
		if err := os.WriteFile(filepath.Join(to, e.Name()), append(file, data.Bytes()...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return to
}

func TestCompressedPixelsComeFromTheProgram(t *testing.T) {
	folder := compressed(t)
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct{ behaviour, want string }{
		{"good", ""},
		{"environment", ""},
		{"otherSize", "its size is"},
		{"shifted", "a corner of it"},
		{"nothing", "wrote no volume"},
		{"link", "no regular file"},
		{"large", "at most"},
		{"rubbish", "read MetaImage"},
		{"series", "The pixels[31m of the image are broken."},
		{"crash", "cannot decode the series: exit status 2"},
		{"hangs", "within 1s and was ended"},
	} {
		t.Run(tt.behaviour, func(t *testing.T) {
			t.Parallel()
			program := filepath.Join(t.TempDir(), tt.behaviour)
			if err := os.Symlink(self, program); err != nil {
				t.Fatal(err)
			}
			o := volume.Options{Program: program, Scratch: t.TempDir()}
			if tt.behaviour == "hangs" {
				o.Deadline = time.Second
			}
			v, err := volume.Load(t.Context(), folder, o)
			if tt.want == "" {
				if err != nil {
					t.Fatal(err)
				}
				if v.HU[0] != 7 || v.SeriesInstanceUID != uid || len(v.SOPInstanceUIDs) != 5 {
					t.Errorf("Load = %+v", v)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Load = %v, want an error with %q", err, tt.want)
			}
			var series *ct.SeriesError
			if errors.As(err, &series) != (tt.behaviour == "series") {
				t.Errorf("%v is a SeriesError: %v", err, series)
			}
			if left, _ := os.ReadDir(o.Scratch); len(left) != 0 {
				t.Errorf("%v was left behind", left)
			}
		})
	}
	if _, err := volume.Load(t.Context(), folder, volume.Options{}); !errors.Is(err, volume.ErrCompressed) {
		t.Errorf("Load without a program = %v, want ErrCompressed", err)
	}
	if _, err := volume.Load(t.Context(), folder, volume.Options{Program: filepath.Join(t.TempDir(), "none")}); err == nil || !strings.Contains(err.Error(), "cannot be run") {
		t.Errorf("Load with a missing program = %v", err)
	}
}

func TestFind(t *testing.T) {
	root := t.TempDir()
	write := func(name string, b []byte) {
		name = filepath.Join(root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), os.WriteFile(name, b, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	image, err := os.ReadFile(filepath.Join(series(t, "1.2.9"), "000001.dcm"))
	if err != nil {
		t.Fatal(err)
	}
	other := dataset.AppendFileMeta(nil, "1.2.840.10008.1.2.1", "1.2.840.10008.5.1.4.1.1.1.1", "1.2.7")
	other = append(other, "\x08\x00\x16\x00UI\x1c\x001.2.840.10008.5.1.4.1.1.1.1\x00"...)
	write("subset0/1.2.5.mhd", nil)
	write("subset0/1.2.5.raw", nil)
	write("subset0/.1.2.6.mhd.123", nil)
	write("subset1/1.2.4.mha", nil)
	write("seg-lungs-LUNA16/1.2.5.mhd", nil)
	write("patient/study/ct/IM1", image)
	write("patient/study/ct/IM2", []byte("later files are not looked at"))
	write("patient/study/ct/.DS_Store", nil)
	write("patient/study/dx/IM1", other)
	write("patient/study/notes.txt", nil)
	write(".1.2.8.partial/000001.dcm", image)
	found, err := volume.Find(root)
	if err != nil {
		t.Fatal(err)
	}
	want := []volume.Scan{
		{UID: "1.2.4", Path: filepath.Join(root, "subset1/1.2.4.mha"), MetaImage: true},
		{UID: "1.2.5", Path: filepath.Join(root, "subset0/1.2.5.mhd"), MetaImage: true},
		{UID: "1.2.9", Path: filepath.Join(root, "patient/study/ct")},
	}
	if !slices.Equal(found.Scans, want) {
		t.Errorf("scans = %v, want %v", found.Scans, want)
	}
	left := []volume.Left{
		{Path: filepath.Join(root, "patient/study/dx"), Reason: "DICOM objects that are not CT images"},
		{Path: filepath.Join(root, "seg-lungs-LUNA16"), Reason: "lung segmentations"},
	}
	if !slices.Equal(found.Left, left) {
		t.Errorf("left = %v, want %v", found.Left, left)
	}
	for _, tt := range []struct {
		paths []string
		want  string
	}{
		{[]string{root, filepath.Join(root, "subset1")}, "there twice"},
		{[]string{filepath.Join(root, "patient/study/dx")}, "not CT images"},
		{[]string{filepath.Join(root, "patient/study/notes.txt")}, "not a scan"},
		{[]string{filepath.Join(root, "nowhere")}, "nowhere"},
	} {
		if _, err := volume.Find(tt.paths...); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Find(%v) = %v, want an error with %q", tt.paths, err, tt.want)
		}
	}
	if _, err := volume.Load(t.Context(), filepath.Join(root, "subset0/1.2.5.raw"), volume.Options{}); err == nil || !strings.Contains(err.Error(), ".mhd") {
		t.Errorf("Load of a .raw = %v, want what to give instead", err)
	}
}

func TestFingerprintTellsChanges(t *testing.T) {
	dir := t.TempDir()
	s := volume.Scan{UID: uid, Path: filepath.Join(dir, uid+".mhd"), MetaImage: true}
	if err := ct.WriteMetaImage(s.Path, chest(), false); err != nil {
		t.Fatal(err)
	}
	print := func() string {
		p, err := s.Fingerprint()
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	before := print()
	if err := os.WriteFile(filepath.Join(dir, "1.2.3.40.raw"), nil, 0o600); err != nil { // another scan's
		t.Fatal(err)
	}
	if print() != before {
		t.Errorf("another scan's file changed the fingerprint")
	}
	if err := os.Truncate(filepath.Join(dir, uid+".raw"), 3); err != nil {
		t.Fatal(err)
	}
	if print() == before {
		t.Errorf("a change of the voxels left the fingerprint")
	}
}

func TestEachStopsAtTheFirstError(t *testing.T) {
	scans := make([]volume.Scan, 50)
	for n := range scans {
		scans[n].UID = fmt.Sprint("case-", n)
	}
	wrong := errors.New("wrong")
	done := 0
	err := volume.Each(t.Context(), scans, 3, func() { done++ }, func(_ context.Context, s volume.Scan, threads int) error {
		if threads < 1 {
			t.Errorf("threads = %d", threads)
		}
		if s.UID == "case-7" {
			return wrong
		}
		return nil
	})
	if !errors.Is(err, wrong) || !strings.Contains(err.Error(), "scan case-7 ") || done >= len(scans) {
		t.Errorf("Each = %v after %d", err, done)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := volume.Each(ended, scans, 0, nil, func(context.Context, volume.Scan, int) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Each after the end of ctx = %v", err)
	}
}
