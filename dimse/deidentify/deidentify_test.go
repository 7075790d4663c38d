package deidentify_test

import (
	"bytes"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
	"hilum/dimse/deidentify"
)

const (
	ctClass   = "1.2.840.10008.5.1.4.1.1.2"
	studyUID  = "1.2.276.0.7230010.77"
	imageUID  = "1.2.276.0.7230010.77.1"
	jpegLS    = "1.2.840.10008.1.2.4.80"
	planted   = "PLANTED"
	plantDate = "19770525"
	plantTime = "135724"
	plantUID  = "1.2.276.0.7230010.99"
)

// plants are values that a person could be found by, for each VR that can hold one.
var plants = map[string]string{
	"AE": planted, "AS": "077Y", "CS": planted, "DA": plantDate, "DT": plantDate + plantTime, "IS": "770525", "DS": "770525",
	"LO": planted, "LT": planted, "OB": planted + ".", "OW": planted + ".", "PN": planted + "^" + planted, "SH": planted, "ST": planted,
	"TM": plantTime, "UC": planted, "UI": plantUID, "UN": planted + ".", "UR": "http://" + planted, "UT": planted,
}

// marks are what must not be in any output.
var marks = []string{planted, plantDate, plantTime, "770525", "077Y", plantUID, imageUID, studyUID}

// tableTags are the elements of PS3.15 table E.1-1 that may stand in an image.
func tableTags(t testing.TB) []dataset.Tag {
	t.Helper()
	text, err := os.ReadFile("table.txt")
	if err != nil {
		t.Fatal(err)
	}
	var tags []dataset.Tag
	for line := range strings.Lines(string(text)) {
		var number uint32
		if _, err := fmt.Sscanf(line, "%x ", &number); err == nil && number >= 0x00080000 && !strings.HasPrefix(line, "#") {
			tags = append(tags, dataset.Tag{Group: uint16(number >> 16), Element: uint16(number)})
		}
	}
	if len(tags) < 600 {
		t.Fatalf("the table has %d elements", len(tags))
	}
	return tags
}

// level plants a value into every element of the table and into groups that go as a
// whole, with the VR of the dictionary, or another where vr is not "".
func level(t testing.TB, vr string) []*dataset.Element {
	t.Helper()
	var list []*dataset.Element
	for _, tag := range tableTags(t) {
		is := dataset.DictionaryVR(tag)
		if vr != "" {
			is = vr
		} else if is == "" {
			is = "LO"
		}
		if is == "SQ" {
			list = append(list, dataset.Sequence(tag, []*dataset.Element{
				dataset.RawElement(dicomtag.PatientComments, "LT", []byte(planted)),
				dataset.RawElement(dicomtag.ReferencedSOPInstanceUID, "UI", []byte(plantUID)),
			}))
			continue
		}
		list = append(list, dataset.RawElement(tag, is, []byte(plants[is])))
	}
	return append(list,
		dataset.RawElement(dataset.Tag{Group: 0x0009, Element: 0x0010}, "LO", []byte(planted)),
		dataset.RawElement(dataset.Tag{Group: 0x0009, Element: 0x1001}, "UN", []byte(planted+".")),
		dataset.RawElement(dataset.Tag{Group: 0x5004, Element: 0x3000}, "OB", []byte(planted+".")),
		dataset.RawElement(dataset.Tag{Group: 0x6002, Element: 0x4000}, "LT", []byte(planted)),
		dataset.RawElement(dataset.Tag{Group: 0x0018, Element: 0xFFF0}, "LO", []byte(planted))) // in no dictionary
}

var pixels = []byte{1, 2, 3, 4, 5, 6, 7, 8}

// object makes a Part 10 file with plants at three depths.
func object(t testing.TB, transferSyntax, vr string) []byte {
	t.Helper()
	deep := dataset.Sequence(dicomtag.ReferencedImageSequence, append(level(t, vr),
		dataset.RawElement(dicomtag.ReferencedSOPClassUID, "UI", []byte(ctClass))))
	list := level(t, vr)
	keep := map[dataset.Tag]*dataset.Element{}
	for _, e := range []*dataset.Element{
		dataset.MustElement(dicomtag.SOPClassUID, ctClass),
		dataset.MustElement(dicomtag.SOPInstanceUID, imageUID),
		dataset.MustElement(dicomtag.StudyInstanceUID, studyUID),
		dataset.MustElement(dicomtag.Modality, "CT"),
		dataset.MustElement(dicomtag.Rows, 2),
		dataset.MustElement(dicomtag.Columns, 2),
		dataset.MustElement(dicomtag.BitsAllocated, 16),
		dataset.Sequence(dicomtag.ReferencedImageSequence, []*dataset.Element{
			dataset.RawElement(dicomtag.ReferencedSOPInstanceUID, "UI", []byte(imageUID)), deep}),
	} {
		keep[e.Tag] = e
	}
	list = slices.DeleteFunc(list, func(e *dataset.Element) bool { return keep[e.Tag] != nil })
	for _, e := range keep {
		list = append(list, e)
	}
	if transferSyntax == jpegLS {
		list = append(list, dataset.MustElement(dicomtag.PixelData, [][]byte{pixels, pixels}))
	} else {
		list = append(list, dataset.RawElement(dicomtag.PixelData, "OW", pixels))
	}
	var b bytes.Buffer
	if err := dataset.WriteFile(&b, transferSyntax, list); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// plain returns a file with its data set inflated.
func plain(t testing.TB, file []byte) []byte {
	t.Helper()
	f, err := dataset.ReadMeta(bytes.NewReader(file))
	if err != nil {
		t.Fatal(err)
	}
	if f.TransferSyntaxUID != dataset.DeflatedExplicitVRLittleEndian {
		return file
	}
	b, err := io.ReadAll(flate.NewReader(bytes.NewReader(file[f.DataSetOffset:])))
	if err != nil {
		t.Fatal(err)
	}
	return append(file[:f.DataSetOffset:f.DataSetOffset], b...)
}

func TestNothingPlantedIsLeft(t *testing.T) {
	p := &deidentify.Profile{Key: bytes.Repeat([]byte{7}, deidentify.KeySize)}
	for _, ts := range []string{
		dataset.ExplicitVRLittleEndian, dataset.ImplicitVRLittleEndian, dataset.ExplicitVRBigEndian,
		dataset.DeflatedExplicitVRLittleEndian, jpegLS,
	} {
		for _, vr := range []string{"", "UN", "LO"} {
			if vr != "" && ts == dataset.ImplicitVRLittleEndian {
				continue // it has the dictionary's VRs only
			}
			in := object(t, ts, vr)
			if !bytes.Contains(plain(t, in), []byte(planted)) {
				t.Fatalf("%s: nothing was planted", ts)
			}
			var out bytes.Buffer
			if err := p.Write(&out, in); err != nil {
				t.Fatalf("%s, planted as %q: %v", ts, vr, err)
			}
			for _, mark := range marks {
				if bytes.Contains(plain(t, out.Bytes()), []byte(mark)) {
					at := bytes.Index(plain(t, out.Bytes()), []byte(mark))
					t.Errorf("%s, planted as %q: %s is left, at %d behind %q", ts, vr, mark, at, plain(t, out.Bytes())[max(0, at-60):at])
				}
			}
			check(t, p, ts, out.Bytes())
		}
	}
}

// check holds what must be there.
func check(t *testing.T, p *deidentify.Profile, ts string, file []byte) {
	t.Helper()
	f, err := dataset.ReadFrom(bytes.NewReader(file), int64(len(file)), []dataset.Tag{
		dicomtag.SOPClassUID, dicomtag.SOPInstanceUID, dicomtag.StudyInstanceUID, dicomtag.Modality, dicomtag.Rows,
		dicomtag.PatientIdentityRemoved, dicomtag.LongitudinalTemporalInformationModified, dicomtag.PatientID, dicomtag.PatientName,
	})
	if err != nil {
		t.Fatalf("%s: %v", ts, err)
	}
	for tag, want := range map[dataset.Tag]string{
		dicomtag.SOPClassUID: ctClass, dicomtag.SOPInstanceUID: p.UID(imageUID), dicomtag.StudyInstanceUID: p.UID(studyUID),
		dicomtag.Modality: "CT", dicomtag.PatientIdentityRemoved: "YES", dicomtag.LongitudinalTemporalInformationModified: "REMOVED",
		dicomtag.PatientName: "",
	} {
		if got := f.Header.String(tag); got != want || !f.Header.Has(tag) {
			t.Errorf("%s: %s = %q, want %q", ts, dicomtag.DebugString(tag), got, want)
		}
	}
	if f.Header.String(dicomtag.PatientID) == "" {
		t.Errorf("%s: no pseudonym", ts)
	}
	got := f.PixelData.Native
	if ts == jpegLS {
		if len(f.PixelData.Fragments) != 2 {
			t.Fatalf("%d fragments", len(f.PixelData.Fragments))
		}
		got = f.PixelData.Fragments[1]
	}
	if !bytes.Equal(got, pixels) {
		t.Errorf("%s: pixels %v, want %v", ts, got, pixels)
	}
	tree, err := dataset.ReadTree(bytes.NewReader(file[f.DataSetOffset:]), ts, dataset.TreeLimits{Nodes: 1e6, Bytes: 1e7})
	if err != nil {
		t.Fatal(err)
	}
	refs := tree.Items(dicomtag.ReferencedImageSequence)
	if len(refs) != 1 || refs[0].Text(dicomtag.ReferencedSOPInstanceUID) != p.UID(imageUID) {
		t.Errorf("%s: the reference to the image does not lead to it any more", ts)
	}
	if deep := refs[0].Items(dicomtag.ReferencedImageSequence); len(deep) != 1 || deep[0].Text(dicomtag.ReferencedSOPClassUID) != ctClass {
		t.Errorf("%s: the class of a reference is lost", ts)
	}
}

func TestKeys(t *testing.T) {
	one, other := &deidentify.Profile{Key: []byte("one")}, &deidentify.Profile{Key: []byte("other")}
	if again := (&deidentify.Profile{Key: []byte("one")}); one.UID(studyUID) != again.UID(studyUID) || one.UID(studyUID) == other.UID(studyUID) || one.UID(studyUID) == one.UID(imageUID) {
		t.Error("UIDs do not follow the key")
	}
	if !dataset.ValidUID(one.UID(studyUID)) {
		t.Errorf("%q is no UID", one.UID(studyUID))
	}
}

func TestRefused(t *testing.T) {
	write := func(class, burned string, more ...*dataset.Element) []byte {
		list := append([]*dataset.Element{dataset.MustElement(dicomtag.SOPClassUID, class), dataset.MustElement(dicomtag.SOPInstanceUID, imageUID)}, more...)
		if burned != "" {
			list = append(list, dataset.MustElement(dicomtag.BurnedInAnnotation, burned))
		}
		var b bytes.Buffer
		if err := dataset.WriteFile(&b, dataset.ExplicitVRLittleEndian, list); err != nil {
			t.Fatal(err)
		}
		return b.Bytes()
	}
	image := dataset.RawElement(dicomtag.PixelData, "OW", pixels)
	const capture = "1.2.840.10008.5.1.4.1.1.7"
	for _, tt := range []struct {
		name  string
		in    []byte
		allow bool
		want  error
	}{
		{"burned in", write(ctClass, "YES", image), false, deidentify.ErrBurnedIn},
		{"allowed", write(ctClass, "YES", image), true, nil},
		{"secondary capture", write(capture, "", image), false, deidentify.ErrBurnedIn},
		{"clean secondary capture", write(capture, "NO", image), false, nil},
		{"multi-frame capture", write(capture+".4", "", image), false, deidentify.ErrBurnedIn},
		{"screen save", write(ctClass, "", image, dataset.MustElement(dicomtag.ImageType, "DERIVED", "SECONDARY", "SCREEN SAVE")), false, deidentify.ErrBurnedIn},
		{"report", write("1.2.840.10008.5.1.4.1.1.88.34", ""), false, deidentify.ErrNoImage},
	} {
		var out bytes.Buffer
		err := (&deidentify.Profile{Key: []byte("k"), BurnedIn: tt.allow}).Write(&out, tt.in)
		if !errors.Is(err, tt.want) || (err != nil) != (tt.want != nil) {
			t.Errorf("%s: %v, want %v", tt.name, err, tt.want)
		}
		if err != nil && out.Len() > 0 {
			t.Errorf("%s: refused, and written", tt.name)
		}
	}
	var damaged *dataset.Error
	whole := write(ctClass, "", image)
	if err := (&deidentify.Profile{}).Write(io.Discard, whole[:len(whole)-3]); !errors.As(err, &damaged) {
		t.Errorf("cut file: %v, want a *dataset.Error", err)
	}
}

// FuzzWrite holds that what comes out can be read, is of the same length of pixels, and
// has nothing that was planted, whatever the file around it looks like.
func FuzzWrite(f *testing.F) {
	for _, ts := range []string{dataset.ExplicitVRLittleEndian, dataset.ImplicitVRLittleEndian, dataset.ExplicitVRBigEndian, jpegLS} {
		f.Add(object(f, ts, ""))
	}
	for _, name := range []string{"explicit.dcm", "implicit.dcm", "bigendian.dcm", "undefined.dcm", "rle.dcm"} {
		b, err := os.ReadFile(filepath.Join("..", "dataset", "testdata", name))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		var out bytes.Buffer
		if err := (&deidentify.Profile{Key: []byte("k"), BurnedIn: true}).Write(&out, in); err != nil {
			if out.Len() > 0 {
				t.Error("an error, and something written")
			}
			return
		}
		file := out.Bytes()
		got, err := dataset.ReadFrom(bytes.NewReader(file), int64(len(file)), []dataset.Tag{dicomtag.PatientName, dicomtag.PatientIdentityRemoved})
		if err != nil {
			t.Fatalf("what was written cannot be read: %v", err)
		}
		if got.Header.String(dicomtag.PatientName) != "" || got.Header.String(dicomtag.PatientIdentityRemoved) != "YES" {
			t.Errorf("the patient's name is kept")
		}
		if got.PixelData.VR == "" {
			t.Error("the pixel data are lost")
		}
	})
}

// TestRealImages de-identifies a slice of each real scan and compares with what
// dciodvfy makes of it before and after.
func TestRealImages(t *testing.T) {
	folder := os.Getenv("HILUM_DATA")
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "shared", "data")
	}
	if _, err := os.Stat(folder); err != nil {
		t.Skip("the real scans are not here: set HILUM_DATA to their folder to run this test")
	}
	dciodvfy, err := exec.LookPath("dciodvfy")
	if err != nil {
		t.Fatal("dciodvfy (dicom3tools) is not installed: make setup")
	}
	problems := func(name string) map[string]bool {
		out, _ := exec.Command(dciodvfy, name).CombinedOutput() // its exit status says nothing
		found := map[string]bool{}
		for line := range strings.Lines(string(out)) {
			if strings.HasPrefix(line, "Error") {
				found[line] = true
			}
		}
		return found
	}
	for _, series := range []string{"lidc-0001", "lidc-0002-j2k", "ct-chest-siemens", "ct-chest-ge-jpegls", "lungfcp-jpegls"} {
		files, err := filepath.Glob(filepath.Join(folder, series, "*.dcm"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", series, len(files), err)
		}
		in, err := os.ReadFile(files[0])
		if err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := (&deidentify.Profile{Key: []byte("k")}).Write(&out, in); err != nil {
			t.Fatalf("%s: %v", series, err)
		}
		name := filepath.Join(t.TempDir(), "clean.dcm")
		if err := os.WriteFile(name, out.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
		before := problems(files[0])
		for line := range problems(name) {
			if !before[line] {
				t.Errorf("%s: new for dciodvfy: %s", series, line)
			}
		}
		want := []dataset.Tag{dicomtag.ImagePositionPatient, dicomtag.ImageOrientationPatient, dicomtag.PixelSpacing, dicomtag.RescaleSlope,
			dicomtag.RescaleIntercept, dicomtag.Rows, dicomtag.Columns, dicomtag.BitsAllocated, dicomtag.PixelRepresentation, dicomtag.ConvolutionKernel}
		a, errA := dataset.ReadFile(files[0], want)
		b, errB := dataset.ReadFile(name, want)
		if errA != nil || errB != nil {
			t.Fatal(errA, errB)
		}
		if !reflect.DeepEqual(a.Header.Map(), b.Header.Map()) {
			t.Errorf("%s: what makes the volume is %v, want %v", series, b.Header.Map(), a.Header.Map())
		}
		if !bytes.Equal(a.PixelData.Native, b.PixelData.Native) || !reflect.DeepEqual(a.PixelData.Fragments, b.PixelData.Fragments) {
			t.Errorf("%s: the pixel data differ", series)
		}
	}
}
