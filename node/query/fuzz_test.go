package query_test

import (
	"bytes"
	"errors"
	"runtime"
	"strings"
	"testing"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
	"hilum/node/query"
	"hilum/store"
)

// fake is a store of one image, as hostile as the fuzzer makes it.
type fake struct{ series store.Series }

func (f fake) EachStudy(fn func([]store.Series) error) error              { return fn([]store.Series{f.series}) }
func (f fake) EachPatient(fn func([]store.Series) error) error            { return fn([]store.Series{f.series}) }
func (f fake) StudySeries(string) ([]store.Series, error)                 { return []store.Series{f.series}, nil }
func (f fake) PatientSeries(string) ([]store.Series, error)               { return []store.Series{f.series}, nil }
func (f fake) Instance(string) (store.Instance, error)                    { return f.instance(), nil }
func (f fake) EachInstance(_ string, fn func(store.Instance) error) error { return fn(f.instance()) }
func (f fake) instance() store.Instance {
	return store.Instance{SOPInstanceUID: "1.2.3", SeriesInstanceUID: f.series.SeriesInstanceUID, Header: f.series.Header}
}

// FuzzIdentifier holds that an identifier is refused with an *Error or answered
// with data sets that can be written and read, in bounded memory, whatever the
// image holds.
func FuzzIdentifier(f *testing.F) {
	for _, keys := range [][]string{
		{"QueryRetrieveLevel=PATIENT", "PatientName=M*", "PatientID="}, {studyLevel, "StudyDate=20240101-20240202", "ModalitiesInStudy=CT", "SOPClassesInStudy="},
		{seriesLevel, "StudyInstanceUID=1.1", "SeriesNumber=1", "PatientName=a=b=c"}, {imageLevel, "StudyInstanceUID=1.1", "SeriesInstanceUID=1.1.1", "Rows=", "AcquisitionDateTime=2024-0500-2025+0100"},
	} {
		var b bytes.Buffer
		if err := dataset.WriteDataSet(&b, dataset.ExplicitVRLittleEndian, elements(f, keys...)); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes(), true, "Müller^Jörg", "20240131", `ISO_IR 100`)
		f.Add(b.Bytes(), false, "山田^太郎=x", "2024", `\ISO 2022 IR 87`)
	}
	f.Fuzz(func(t *testing.T, data []byte, patientRoot bool, text, date, charset string) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		h, err := dataset.ScanAll(bytes.NewReader(data), dataset.ExplicitVRLittleEndian, dataset.Limits{})
		if err != nil {
			return
		}
		root := query.StudyRoot
		if patientRoot {
			root = query.PatientRoot
		}
		_, err = query.ParseRetrieval(root, h)
		checkError(t, err)
		q, err := query.Parse(root, h, query.Options{CombinedDateTime: true})
		checkError(t, err)
		if err != nil {
			return
		}
		header := map[string]string{"SpecificCharacterSet": charset}
		for _, tag := range dataset.IndexTags {
			info, _ := dicomtag.Find(tag)
			switch info.VR {
			case "DA", "TM", "DT":
				header[info.Name] = date
			default:
				if info.Name != "SpecificCharacterSet" {
					header[info.Name] = strings.ToValidUTF8(text, "?") // as the index has it
				}
			}
		}
		s := fake{store.Series{SeriesInstanceUID: h.String(dicomtag.SeriesInstanceUID), StudyInstanceUID: "1.1", Header: header, Instances: 1}}
		err = q.Find(t.Context(), s, func(found []*dataset.Element) error {
			var b bytes.Buffer
			if err := dataset.WriteDataSet(&b, dataset.ExplicitVRLittleEndian, found); err != nil {
				t.Fatalf("a match cannot be written: %v", err)
			}
			if _, err := dataset.ScanAll(&b, dataset.ExplicitVRLittleEndian, dataset.Limits{}); err != nil {
				t.Fatalf("a match cannot be read: %v", err)
			}
			return nil
		})
		if err != nil {
			t.Fatalf("Find = %v", err)
		}
		runtime.ReadMemStats(&after)
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(8<<20+400*(len(data)+len(text)+len(date))); got > limit {
			t.Errorf("an identifier of %d bytes allocates %d", len(data), got)
		}
	})
}

func checkError(t *testing.T, err error) {
	t.Helper()
	var wrong *query.Error
	if err != nil && (!errors.As(err, &wrong) || len(wrong.Tags) == 0 || len(wrong.Problem) > 64) {
		t.Fatalf("%v is no *Error of at most 64 characters with its element", err)
	}
}
