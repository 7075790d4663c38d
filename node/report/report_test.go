package report_test

import (
	"bytes"
	"errors"
	"flag"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hilum/dimse/dataset"
	"hilum/node/report"
	"hilum/plugins/api"

	"github.com/grailbio/go-dicom/dicomtag"
)

var update = flag.Bool("update", false, "rewrite the golden files")

const (
	ctStorage = "1.2.840.10008.5.1.4.1.1.2"
	ctSeries  = "2.25.1005"
)

// header is that of a source image with these elements.
func header(t *testing.T, elements ...*dataset.Element) dataset.Header {
	t.Helper()
	var b bytes.Buffer
	if err := dataset.WriteDataSet(&b, dataset.ExplicitVRLittleEndian, elements); err != nil {
		t.Fatal(err)
	}
	h, err := dataset.Scan(&b, dataset.ExplicitVRLittleEndian, report.SourceTags, dataset.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func sourceElements() []*dataset.Element {
	return []*dataset.Element{
		dataset.RawElement(dicomtag.SpecificCharacterSet, "CS", []byte("ISO_IR 100")),
		dataset.RawElement(dicomtag.PatientName, "PN", []byte("M\xfcller^J\xf6rg")),
		dataset.MustElement(dicomtag.PatientID, "ID-1"),
		dataset.MustElement(dicomtag.PatientBirthDate, "19500101"),
		dataset.MustElement(dicomtag.PatientSex, "M"),
		dataset.MustElement(dicomtag.Modality, "CT"),
		dataset.MustElement(dicomtag.StudyInstanceUID, "2.25.1004"),
		dataset.MustElement(dicomtag.StudyDate, "20240131"),
		dataset.MustElement(dicomtag.StudyTime, "101500"),
		dataset.MustElement(dicomtag.StudyID, "S1"),
		dataset.MustElement(dicomtag.AccessionNumber, "A123"),
		dataset.RawElement(dicomtag.ReferringPhysicianName, "PN", []byte("Arzt^\xc4nne")),
		dataset.MustElement(dicomtag.FrameOfReferenceUID, "2.25.1006"),
		dataset.MustElement(dicomtag.Rows, 512),
		dataset.MustElement(dicomtag.Columns, 512),
		dataset.MustElement(dicomtag.PixelSpacing, 0.7, 0.65),
		dataset.MustElement(dicomtag.SliceThickness, 1.25),
	}
}

func images(n int) []report.Image {
	out := make([]report.Image, n)
	for i := range out {
		out[i] = report.Image{SOPClassUID: ctStorage, SOPInstanceUID: "2.25.2" + strconv.Itoa(i)}
	}
	return out
}

func input(t *testing.T) report.Input {
	malignancy, patient := 0.375, 0.4125
	return report.Input{
		Header:            header(t, sourceElements()...),
		SeriesInstanceUID: ctSeries,
		Images:            images(3),
		Result: api.Result{
			Findings: []api.Finding{
				{ID: "1", Center: [3]float64{-52.25, 30.5, -207.125}, Size: [3]float64{8, 9, 7}, DiameterMM: 8.300000190734863, Probability: 0.91534, Malignancy: &malignancy, Texture: api.TextureGroundGlass, TextureProbability: 0.8125},
				{ID: "2", Center: [3]float64{61, -12, -180}, Probability: 0.4, Label: "part-solid ö"},
			},
			Description: api.Description{
				Name: "lungnodule", Version: "0.1.0", Kind: api.KindDetector,
				Models:  []api.Model{{Name: "nodule-blob", Version: "1", SHA256: strings.Repeat("0123456789abcdef", 4)}},
				Runtime: "onnxruntime 1.24.1",
			},
			Device: "cpu", Malignancy: &patient,
			Notes: []string{"slices 4 and 5 interpolated"},
		},
		Revision: 2, Software: "0.1.0", Station: "node-a",
		Predecessor: &report.Image{SOPClassUID: report.Comprehensive3DSR, SOPInstanceUID: "2.25.3000"},
		Now:         time.Date(2024, 2, 1, 12, 30, 0, 0, time.UTC),
	}
}

// variants are reports that must all be valid.
func variants(t *testing.T) map[string]report.Input {
	full := input(t)
	none := input(t)
	none.Result.Findings, none.Result.Notes, none.Result.Malignancy, none.Predecessor, none.Revision = nil, nil, nil, nil, 1
	bare := input(t)
	bare.Header = header(t, dataset.MustElement(dicomtag.StudyInstanceUID, "2.25.1004"), dataset.MustElement(dicomtag.FrameOfReferenceUID, "2.25.1006"))
	bare.Station, bare.Software, bare.Predecessor = "", "", nil
	bare.Result.Findings[0].ID, bare.Result.Findings[1].ID = "", ""
	japanese := input(t)
	elements := append(slices.DeleteFunc(sourceElements()[2:], func(e *dataset.Element) bool { return e.Tag == dicomtag.ReferringPhysicianName }),
		dataset.RawElement(dicomtag.SpecificCharacterSet, "CS", []byte(`\ISO 2022 IR 87`)),
		dataset.RawElement(dicomtag.PatientName, "PN", []byte("Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B")),
		dataset.MustElement(dicomtag.PatientIdentityRemoved, "YES"))
	japanese.Header = header(t, elements...)
	return map[string]report.Input{"full": full, "none": none, "bare": bare, "japanese": japanese}
}

// write makes the report of in as a file.
func write(t *testing.T, in report.Input) (string, report.Document) {
	t.Helper()
	d, err := report.SR(in)
	if err != nil {
		t.Fatalf("SR: %v", err)
	}
	name := filepath.Join(t.TempDir(), "sr.dcm")
	if err := os.WriteFile(name, d.Bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	return name, d
}

func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed", name)
	}
	return path
}

// TestValid lets dciodvfy (dicom3tools) judge: no error in any variant.
func TestValid(t *testing.T) {
	dciodvfy := tool(t, "dciodvfy")
	for name, in := range variants(t) {
		file, _ := write(t, in)
		out, _ := exec.Command(dciodvfy, file).CombinedOutput() // its exit status says nothing
		if !bytes.Contains(out, []byte("Comprehensive3DSR")) {
			t.Errorf("%s: dciodvfy does not know the object:\n%s", name, out)
		}
		for _, line := range strings.Split(string(out), "\n") {
			if strings.HasPrefix(line, "Error") {
				t.Errorf("%s: dciodvfy: %s", name, line)
			}
		}
	}
}

// TestReadByDCMTK compares what dsrdump, which checks templates and relationships of
// its own, reads in the report with a reviewed text.
func TestReadByDCMTK(t *testing.T) {
	dsrdump := tool(t, "dsrdump")
	for name, in := range variants(t) {
		file, _ := write(t, in)
		args := []string{"+Pu", "+Pl", "+Pc", "+Pt", file}
		if name != "japanese" { // some builds of DCMTK cannot convert ISO 2022
			args = append([]string{"+U8"}, args...)
		}
		out, err := exec.Command(dsrdump, args...).Output()
		if err != nil {
			t.Errorf("%s: dsrdump: %v\n%s", name, err, out)
			continue
		}
		golden := filepath.Join("testdata", name+".dsrdump")
		if *update {
			if err := os.WriteFile(golden, out, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(golden)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(out, want) {
			t.Errorf("%s: dsrdump says\n%s\nwant\n%s", name, out, want)
		}
	}
}

// TestRoundTripDCMTK sends the report through DCMTK's own SR classes to XML and back:
// nothing may be lost.
func TestRoundTripDCMTK(t *testing.T) {
	dsr2xml, xml2dsr, dsrdump := tool(t, "dsr2xml"), tool(t, "xml2dsr"), tool(t, "dsrdump")
	file, _ := write(t, input(t))
	run := func(name string, args ...string) string {
		out, err := exec.Command(name, args...).CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v\n%s", name, err, out)
		}
		return string(out)
	}
	dir := t.TempDir()
	xml, back := filepath.Join(dir, "sr.xml"), filepath.Join(dir, "sr.dcm")
	run(dsr2xml, "+Xn", "+Wt", file, xml)
	run(xml2dsr, xml, back)
	if a, b := run(dsrdump, "+Pu", "+Pl", "+Pc", file), run(dsrdump, "+Pu", "+Pl", "+Pc", back); a != b {
		t.Errorf("after a round trip:\n%s\nwant\n%s", b, a)
	}
}

// TestNames holds promise 4: the report names the exact images, plugin, version and
// model, and is in the evidence.
func TestNames(t *testing.T) {
	for name, in := range variants(t) {
		_, d := write(t, in)
		elements, err := dataset.Decode(bytes.NewReader(d.Bytes), int64(len(d.Bytes)))
		if err != nil {
			t.Fatalf("%s: Decode: %v", name, err)
		}
		evidence := referenced(elements, dicomtag.CurrentRequestedProcedureEvidenceSequence)
		content := referenced(elements, dicomtag.ContentSequence)
		if len(evidence) != len(in.Images) || len(content) != len(in.Images) {
			t.Errorf("%s: %d images in the evidence, %d in the content, want %d", name, len(evidence), len(content), len(in.Images))
		}
		for _, image := range in.Images {
			if !evidence[image.SOPInstanceUID] || !content[image.SOPInstanceUID] {
				t.Errorf("%s: image %s is not named", name, image.SOPInstanceUID)
			}
		}
		for _, want := range []string{"lungnodule", "0.1.0", "sha256=" + in.Result.Description.Models[0].SHA256} {
			if !bytes.Contains(d.Bytes, []byte(want)) {
				t.Errorf("%s: the report does not name %q", name, want)
			}
		}
	}
}

// referenced collects the instances named below the element t.
func referenced(elements []*dataset.Element, t dataset.Tag) map[string]bool {
	out := map[string]bool{}
	var walk func([]any)
	walk = func(values []any) {
		for _, v := range values {
			if e, ok := v.(*dataset.Element); ok {
				if e.Tag == dicomtag.ReferencedSOPInstanceUID {
					out[e.Value[0].(string)] = true
				}
				walk(e.Value)
			}
		}
	}
	for _, e := range elements {
		if e.Tag == t {
			walk(e.Value)
		}
	}
	return out
}

// TestCopies holds that patient and study are those of the source, byte for byte.
func TestCopies(t *testing.T) {
	for name, in := range variants(t) {
		file, d := write(t, in)
		f, err := dataset.ReadFile(file, append([]dataset.Tag{dicomtag.SeriesInstanceUID, dicomtag.SOPInstanceUID, dicomtag.SOPClassUID, dicomtag.SeriesDescription}, report.SourceTags...))
		if err != nil {
			t.Fatalf("%s: ReadFile: %v", name, err)
		}
		for _, tag := range []dataset.Tag{
			dicomtag.SpecificCharacterSet, dicomtag.PatientName, dicomtag.PatientID, dicomtag.PatientBirthDate, dicomtag.PatientSex,
			dicomtag.StudyInstanceUID, dicomtag.StudyDate, dicomtag.StudyTime, dicomtag.StudyID, dicomtag.AccessionNumber, dicomtag.ReferringPhysicianName,
		} {
			if got, want := f.Header.Bytes(tag), in.Header.Bytes(tag); !bytes.Equal(got, want) {
				t.Errorf("%s: %v = %q, want %q", name, tag, got, want)
			}
			if !f.Header.Has(tag) && tag != dicomtag.SpecificCharacterSet {
				t.Errorf("%s: %v is missing", name, tag)
			}
		}
		if d.SOPClassUID != report.Comprehensive3DSR || f.Header.String(dicomtag.SOPInstanceUID) != d.SOPInstanceUID ||
			f.Header.String(dicomtag.SeriesInstanceUID) != d.SeriesInstanceUID || d.SeriesInstanceUID == ctSeries ||
			f.Header.String(dicomtag.StudyInstanceUID) != d.StudyInstanceUID || f.TransferSyntaxUID != d.TransferSyntaxUID {
			t.Errorf("%s: Document %+v does not fit its bytes", name, d.SOPInstanceUID)
		}
		if !strings.Contains(f.Header.String(dicomtag.SeriesDescription), "RESEARCH USE ONLY") {
			t.Errorf("%s: the series description hides that this is research", name)
		}
	}
	if got := variants(t)["full"].Header.String(dicomtag.PatientName); got != "Müller^Jörg" {
		t.Errorf("PatientName = %q", got)
	}
}

func TestStable(t *testing.T) {
	_, first := write(t, input(t))
	_, second := write(t, input(t))
	if !bytes.Equal(first.Bytes, second.Bytes) {
		t.Error("the same Input gives different reports")
	}
	later := input(t)
	later.Revision, later.Now = 3, later.Now.Add(time.Minute)
	_, third := write(t, later)
	if third.SeriesInstanceUID != first.SeriesInstanceUID || third.SOPInstanceUID == first.SOPInstanceUID {
		t.Error("a new revision must be a new instance in the same series")
	}
	tracking := dataset.StableUID("finding", ctSeries, "lungnodule", "1")
	if !bytes.Contains(first.Bytes, []byte(tracking)) || !bytes.Contains(third.Bytes, []byte(tracking)) {
		t.Error("the tracking UID of a finding changes with the revision")
	}
}

func TestTimezone(t *testing.T) {
	in := input(t)
	in.Header = header(t, append(sourceElements(), dataset.MustElement(dicomtag.TimezoneOffsetFromUTC, "-1300"))...)
	file, _ := write(t, in)
	f, err := dataset.ReadFile(file, dataset.IndexTags)
	if err != nil || f.Header.String(dicomtag.ContentDate) != "20240131" || f.Header.String(dicomtag.ContentTime) != "233000" {
		t.Errorf("content date and time = %q %q, %v, want 20240131 233000", f.Header.String(dicomtag.ContentDate), f.Header.String(dicomtag.ContentTime), err)
	}
}

func TestRefuses(t *testing.T) {
	tests := []struct {
		name   string
		change func(*report.Input)
		says   string
	}{
		{"NaN position", func(in *report.Input) { in.Result.Findings[0].Center[1] = math.NaN() }, "center"},
		{"infinite diameter", func(in *report.Input) { in.Result.Findings[0].DiameterMM = math.Inf(1) }, "diameter"},
		{"probability above 1", func(in *report.Input) { in.Result.Findings[0].Probability = 1.5 }, "probability"},
		{"NaN malignancy", func(in *report.Input) { *in.Result.Findings[0].Malignancy = math.NaN() }, "malignancy"},
		{"repeated id", func(in *report.Input) { in.Result.Findings[1].ID = "1" }, "twice"},
		{"no images", func(in *report.Input) { in.Images = nil }, "no analysed image"},
		{"image without UID", func(in *report.Input) { in.Images[1].SOPInstanceUID = "../x" }, "no UID"},
		{"predecessor without UID", func(in *report.Input) { in.Predecessor.SOPInstanceUID = "" }, "no UID"},
		{"no series", func(in *report.Input) { in.SeriesInstanceUID = "" }, "Series Instance UID"},
		{"no study", func(in *report.Input) { in.Header = dataset.Header{} }, "Study Instance UID"},
		{"no plugin", func(in *report.Input) { in.Result.Description = api.Description{} }, "plugin"},
		{"no time", func(in *report.Input) { in.Now = time.Time{} }, "no time"},
		{"no frame of reference", func(in *report.Input) {
			in.Header = header(t, dataset.MustElement(dicomtag.StudyInstanceUID, "2.25.1004"))
		}, "Frame of Reference"},
	}
	for _, tt := range tests {
		in := input(t)
		tt.change(&in)
		d, err := report.SR(in)
		if err == nil || !strings.Contains(err.Error(), tt.says) || d.Bytes != nil {
			t.Errorf("%s: SR = %v, want an error that says %q", tt.name, err, tt.says)
		}
		if tt.name == "no frame of reference" && !errors.Is(err, report.ErrNoFrameOfReference) {
			t.Errorf("%s: %v is not ErrNoFrameOfReference", tt.name, err)
		}
	}
}

// TestRealSeries makes the report of a real scan, whose header nobody tidied up.
func TestRealSeries(t *testing.T) {
	folder := os.Getenv("HILUM_DATA")
	if folder == "" {
		folder = filepath.Join("..", "..", "..", "shared", "data")
	}
	dciodvfy := tool(t, "dciodvfy")
	found := false
	for _, series := range []string{"ct-chest-siemens", "ct-chest-ge-jpegls", "lidc-0001", "lidc-0002-j2k", "lungfcp-jpegls"} {
		files, err := filepath.Glob(filepath.Join(folder, series, "*.dcm"))
		if err != nil || len(files) == 0 {
			continue
		}
		found = true
		in := input(t)
		in.Images = nil
		for _, file := range files {
			f, err := dataset.ReadHeader(file, append([]dataset.Tag{dicomtag.SOPClassUID, dicomtag.SOPInstanceUID, dicomtag.SeriesInstanceUID}, report.SourceTags...))
			if err != nil {
				t.Fatal(err)
			}
			in.Header, in.SeriesInstanceUID = f.Header, f.Header.String(dicomtag.SeriesInstanceUID)
			in.Images = append(in.Images, report.Image{SOPClassUID: f.Header.String(dicomtag.SOPClassUID), SOPInstanceUID: f.Header.String(dicomtag.SOPInstanceUID)})
		}
		file, _ := write(t, in)
		out, _ := exec.Command(dciodvfy, file).CombinedOutput()
		for _, line := range strings.Split(string(out), "\n") {
			if strings.HasPrefix(line, "Error") {
				t.Errorf("%s: dciodvfy: %s", series, line)
			}
		}
	}
	if !found {
		t.Skip("the real scans are not here: set HILUM_DATA to their folder to run this test")
	}
}
