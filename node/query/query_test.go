package query_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
	"hilum/node/query"
	"hilum/store"
	"hilum/store/storetest"
)

const ctImage, srReport = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.34"

// header is what the index knows of an image: keyword -> text.
type header map[string]string

func (h header) with(more header) header {
	all := header{}
	for _, part := range []header{h, more} {
		for k, v := range part {
			all[k] = v
		}
	}
	return all
}

// put stores an image. Its series is study.k, its UID series.number.
func put(t testing.TB, s *store.Store, class, study string, k, number int, h header) {
	t.Helper()
	series := fmt.Sprintf("%s.%d", study, k)
	uid := fmt.Sprintf("%s.%d", series, number)
	h = h.with(header{"SOPClassUID": class, "SOPInstanceUID": uid, "SeriesInstanceUID": series, "StudyInstanceUID": study, "InstanceNumber": fmt.Sprint(number)})
	w, err := s.NewInstance()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte(uid)); err != nil {
		t.Fatal(err)
	}
	_, err = w.Commit(store.Instance{SOPInstanceUID: uid, SOPClassUID: class, SeriesInstanceUID: series, StudyInstanceUID: study,
		TransferSyntaxUID: dataset.ExplicitVRLittleEndian, Header: h})
	if err != nil {
		t.Fatal(err)
	}
}

// archive holds three patients, four studies, five series.
func archive(t testing.TB) *store.Store {
	t.Helper()
	s := storetest.MustOpen(t)
	ct := header{"Modality": "CT", "Rows": "512", "ImageType": `ORIGINAL\PRIMARY\AXIAL`, "SeriesDescription": "Lung [B60]", "SeriesNumber": "2",
		"SliceThickness": "1.250", "AcquisitionDateTime": "20240131101500.5+0100"}
	mueller := header{"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Jörg", "PatientID": "P1", "PatientBirthDate": "19500102", "PatientSex": "M"}
	first := mueller.with(header{"StudyDate": "20240131", "StudyTime": "101500.25", "AccessionNumber": "A1", "StudyDescription": "Thorax nativ"})
	for n := range 3 {
		put(t, s, ctImage, "1.1", 1, n+1, first.with(ct))
	}
	put(t, s, srReport, "1.1", 2, 1, first.with(header{"Modality": "SR", "SeriesNumber": "99"}))
	put(t, s, ctImage, "1.2", 1, 1, mueller.with(ct).with(header{"StudyDate": "20240215", "StudyTime": "0801"}))
	put(t, s, ctImage, "1.3", 1, 1, ct.with(header{"SpecificCharacterSet": `\ISO 2022 IR 87`, "PatientName": "YAMADA^TAROU=山田^太郎=やまだ^たろう", "PatientID": "P2",
		"StudyDate": "2024.03.01", "StudyTime": "23:59:59"}))
	put(t, s, ctImage, "1.4", 1, 1, ct.with(header{"PatientName": "DOE^JANE^^", "PatientID": "", "StudyDate": "", "StudyTime": ""}))
	return s
}

// identifier encodes keys as a peer sends them: keyword=value; a value of several
// parts is split at the backslash by the receiver.
func identifier(t testing.TB, keys ...string) dataset.Header {
	t.Helper()
	var b bytes.Buffer
	if err := dataset.WriteDataSet(&b, dataset.ExplicitVRLittleEndian, elements(t, keys...)); err != nil {
		t.Fatal(err)
	}
	h, err := dataset.ScanAll(&b, dataset.ExplicitVRLittleEndian, dataset.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	return h
}

func elements(t testing.TB, keys ...string) []*dataset.Element {
	t.Helper()
	elements := []*dataset.Element{dataset.MustElement(dicomtag.SpecificCharacterSet, "ISO_IR 192")}
	for _, k := range keys {
		name, value, _ := strings.Cut(k, "=")
		info, err := dicomtag.FindByName(name)
		if err != nil {
			t.Fatal(err)
		}
		if info.Tag == dicomtag.SpecificCharacterSet {
			elements = elements[1:]
		}
		if info.VR == "SQ" {
			elements = append(elements, dataset.Sequence(info.Tag))
			continue
		}
		if n, err := strconv.Atoi(value); err == nil && info.VR == "US" {
			elements = append(elements, dataset.MustElement(info.Tag, n))
			continue
		}
		elements = append(elements, dataset.RawElement(info.Tag, info.VR, []byte(value)))
	}
	return elements
}

// find returns the matches, decoded again.
func find(t testing.TB, s query.Store, root query.Root, o query.Options, keys ...string) ([]dataset.Header, *query.Query) {
	t.Helper()
	o.RetrieveAETitle = "HILUM"
	q, err := query.Parse(root, identifier(t, keys...), o)
	if err != nil {
		t.Fatalf("Parse(%v) = %v", keys, err)
	}
	var found []dataset.Header
	err = q.Find(t.Context(), s, func(elements []*dataset.Element) error {
		var b bytes.Buffer
		if err := dataset.WriteDataSet(&b, dataset.ImplicitVRLittleEndian, elements); err != nil {
			return err
		}
		h, err := dataset.ScanAll(&b, dataset.ImplicitVRLittleEndian, dataset.Limits{})
		found = append(found, h)
		return err
	})
	if err != nil {
		t.Fatalf("Find(%v) = %v", keys, err)
	}
	return found, q
}

const studyLevel, seriesLevel, imageLevel = "QueryRetrieveLevel=STUDY", "QueryRetrieveLevel=SERIES", "QueryRetrieveLevel=IMAGE"

// TestMatching asks for studies by one key, and names those that match.
func TestMatching(t *testing.T) {
	s := archive(t)
	for _, tt := range []struct{ key, want string }{
		{"StudyInstanceUID=", "1.1 1.2 1.3 1.4"},
		{"StudyInstanceUID=*", "1.1 1.2 1.3 1.4"},
		{"StudyInstanceUID=1.2", "1.2"},
		{`StudyInstanceUID=1.2\1.4\1.9`, "1.2 1.4"},
		{"PatientID=P1", "1.1 1.2"}, {"PatientID= P1 ", "1.1 1.2"}, {"PatientID=p1", ""}, {"PatientID=P?", "1.1 1.2 1.3"}, {"PatientID=*1", "1.1 1.2"}, {`PatientID=P2\P9`, "1.3"},
		// PS3.4 C.2.2.2.1: names without regard to case and accents, by component group.
		{"PatientName=Müller^Jörg", "1.1 1.2"}, {"PatientName=MULLER^jorg", "1.1 1.2"}, {"PatientName=mu*", "1.1 1.2"}, {"PatientName=*?^J*", "1.1 1.2 1.4"},
		{"PatientName=Mueller*", ""}, {"PatientName=YAMADA^TAROU", "1.3"}, {"PatientName=山田*", "1.3"}, {"PatientName=yamada*=山田^太郎", "1.3"}, {"PatientName==山田*", "1.3"},
		{"PatientName=DOE*=山田*", ""}, {"PatientName=やまた^たろう", ""}, {"PatientName=DOE^JANE", "1.4"}, {"PatientName=DOE^JANE^*", "1.4"}, {"PatientName=DOE", ""}, {"PatientName=?OE^JANE", "1.4"},
		// PS3.4 C.2.2.2.5: ranges, of which both ends belong to them.
		{"StudyDate=20240131", "1.1"}, {"StudyDate=20240131-20240215", "1.1 1.2"}, {"StudyDate=20240201-", "1.2 1.3"}, {"StudyDate=-20240131", "1.1"}, {"StudyDate=20240301", "1.3"},
		{"StudyDate=20240216-20240229", ""}, {"StudyDate=*", "1.1 1.2 1.3 1.4"}, {"StudyDate=20240131 - 20240215", "1.1 1.2"}, {`StudyDate=20240131\20240301`, "1.1 1.3"},
		{"StudyTime=101500.25", "1.1"}, {"StudyTime=1015", "1.1"}, {"StudyTime=10", "1.1"}, {"StudyTime=0801-1015", "1.1 1.2"}, {"StudyTime=0802-101459", ""}, {"StudyTime=2359-", "1.3"}, {"StudyTime=-0801", "1.2"},
		// PS3.4 C.2.2.2.4: wildcards; case counts everywhere but in names.
		{"StudyDescription=Thorax*", "1.1"}, {"StudyDescription=thorax*", ""}, {"StudyDescription=*nativ", "1.1"}, {"StudyDescription=T?orax nativ", "1.1"}, {"AccessionNumber=A1", "1.1"}, {"AccessionNumber=A", ""},
		{"ModalitiesInStudy=SR", "1.1"}, {`ModalitiesInStudy=SR\MR`, "1.1"}, {"ModalitiesInStudy=C*", "1.1 1.2 1.3 1.4"}, {"ModalitiesInStudy=MR", ""},
		{"SOPClassesInStudy=" + srReport, "1.1"}, {"NumberOfStudyRelatedInstances=4", "1.1"}, {"PatientBirthDate=1950.01.02", "1.1 1.2"},
		// Of a level below: it is not supported, so nothing is asked.
		{"Modality=SR", "1.1 1.2 1.3 1.4"},
	} {
		found, _ := find(t, s, query.StudyRoot, query.Options{}, studyLevel, tt.key)
		var got []string
		for _, h := range found {
			got = append(got, h.String(dicomtag.StudyInstanceUID))
		}
		slices.Sort(got)
		if strings.Join(got, " ") != tt.want {
			t.Errorf("%s: found %v, want %s", tt.key, got, tt.want)
		}
	}
}

// TestLevels asks on each level of both models, with the unique keys above it.
func TestLevels(t *testing.T) {
	s := archive(t)
	for _, tt := range []struct {
		name string
		root query.Root
		keys []string
		want []string // of the keys, in this order, those without a value
	}{
		{"patients", query.PatientRoot, []string{"QueryRetrieveLevel=PATIENT", "PatientID=", "NumberOfPatientRelatedStudies=", "NumberOfPatientRelatedSeries=", "NumberOfPatientRelatedInstances="},
			[]string{" 1 1 1", "P1 2 3 5", "P2 1 1 1"}},
		{"a patient", query.PatientRoot, []string{"QueryRetrieveLevel=PATIENT", "PatientID=P1", "PatientName=", "PatientSex="}, []string{"Müller^Jörg M"}},
		{"patients by birth date", query.PatientRoot, []string{"QueryRetrieveLevel=PATIENT", "PatientBirthDate=-19991231", "PatientID="}, []string{"P1"}},
		{"studies of a patient", query.PatientRoot, []string{studyLevel, "PatientID=P1", "StudyInstanceUID=", "NumberOfStudyRelatedSeries=", "NumberOfStudyRelatedInstances=", "ModalitiesInStudy=", "NumberOfPatientRelatedStudies="},
			[]string{`1.1 2 4 CT\SR 2`, "1.2 1 1 CT 2"}},
		{"a study of another patient", query.PatientRoot, []string{studyLevel, "PatientID=P1", "StudyInstanceUID=1.3"}, nil},
		{"studies and what the patient has beyond", query.StudyRoot, []string{studyLevel, "StudyInstanceUID=1.1", "NumberOfPatientRelatedInstances=", "SOPClassesInStudy="}, []string{`5 ` + ctImage + `\` + srReport}},
		{"series", query.StudyRoot, []string{seriesLevel, "StudyInstanceUID=1.1", "SeriesInstanceUID=", "Modality=", "SeriesNumber=", "NumberOfSeriesRelatedInstances=", "StudyDate="},
			[]string{"1.1.1 CT 2 3 20240131", "1.1.2 SR 99 1 20240131"}},
		{"series by number", query.StudyRoot, []string{seriesLevel, "StudyInstanceUID=1.1", "SeriesNumber=099", "SeriesInstanceUID="}, []string{"1.1.2"}},
		{"series of a patient", query.PatientRoot, []string{seriesLevel, "PatientID=P1", "StudyInstanceUID=1.1", "SeriesInstanceUID=1.1.2", "Modality="}, []string{"SR"}},
		{"series of another patient", query.PatientRoot, []string{seriesLevel, "PatientID=P2", "StudyInstanceUID=1.1", "SeriesInstanceUID="}, nil},
		{"images", query.StudyRoot, []string{imageLevel, "StudyInstanceUID=1.1", "SeriesInstanceUID=1.1.1", "SOPInstanceUID=", "InstanceNumber=", "Rows=", "ImageType=", "SliceThickness="},
			[]string{`1.1.1.1 1 512 ORIGINAL\PRIMARY\AXIAL 1.250`, `1.1.1.2 2 512 ORIGINAL\PRIMARY\AXIAL 1.250`, `1.1.1.3 3 512 ORIGINAL\PRIMARY\AXIAL 1.250`}},
		{"images by a list", query.StudyRoot, []string{imageLevel, "StudyInstanceUID=1.1", "SeriesInstanceUID=1.1.1", `SOPInstanceUID=1.1.1.3\1.1.2.1\1.9`, "InstanceNumber="}, []string{"3"}},
		{"images by numbers and one of several values", query.StudyRoot, []string{imageLevel, "StudyInstanceUID=1.1", "SeriesInstanceUID=1.1.1", "SliceThickness=1.25", "ImageType=AXIAL", "Rows=512", "InstanceNumber=2", "SOPInstanceUID="}, []string{"1.1.1.2"}},
		{"images by a moment in another zone", query.StudyRoot, []string{imageLevel, "StudyInstanceUID=1.1", "SeriesInstanceUID=1.1.1", "AcquisitionDateTime=202401310914+0000-202401310916+0000", "InstanceNumber=1", "SOPInstanceUID="}, []string{"1.1.1.1"}},
		{"images by a moment too late", query.StudyRoot, []string{imageLevel, "StudyInstanceUID=1.1", "SeriesInstanceUID=1.1.1", "AcquisitionDateTime=202401310916+0000-"}, nil},
		{"images of no series", query.StudyRoot, []string{imageLevel, "StudyInstanceUID=1.1", "SeriesInstanceUID=1.2.1", "SOPInstanceUID="}, nil},
		{"where they are", query.StudyRoot, []string{studyLevel, "StudyInstanceUID=1.2", "RetrieveAETitle=", "InstanceAvailability="}, []string{"HILUM ONLINE"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := identifier(t, tt.keys...)
			found, _ := find(t, s, tt.root, query.Options{}, tt.keys...)
			var got []string
			for _, f := range found {
				var values []string
				for _, k := range tt.keys[1:] {
					name, _, _ := strings.Cut(k, "=")
					info, _ := dicomtag.FindByName(name)
					if h.String(info.Tag) == "" {
						values = append(values, f.String(info.Tag))
					}
				}
				got = append(got, strings.Join(values, " "))
				if !f.Has(dicomtag.QueryRetrieveLevel) || f.String(dicomtag.RetrieveAETitle) != "HILUM" {
					t.Errorf("a match without its level or where to retrieve it")
				}
			}
			slices.Sort(got)
			if !slices.Equal(got, tt.want) {
				t.Errorf("found %q, want %q", got, tt.want)
			}
		})
	}
}

// TestCombinedDateTime is PS3.4 C.2.2.2.5.4: one range where it was negotiated, two
// where it was not.
func TestCombinedDateTime(t *testing.T) {
	s := archive(t)
	keys := []string{studyLevel, "StudyInstanceUID=", "StudyDate=20240131-20240215", "StudyTime=0900-0830"}
	if found, _ := find(t, s, query.StudyRoot, query.Options{CombinedDateTime: true}, keys...); len(found) != 2 {
		t.Errorf("combined: found %d, want 2", len(found))
	}
	if found, _ := find(t, s, query.StudyRoot, query.Options{}, keys...); len(found) != 0 {
		t.Errorf("apart: found %d, want none: no time lies between 0900 and 0830", len(found))
	}
	keys[3] = "StudyTime=1016-0830"
	if found, _ := find(t, s, query.StudyRoot, query.Options{CombinedDateTime: true}, keys...); len(found) != 1 {
		t.Errorf("combined, later: found %d, want 1", len(found))
	}
}

// TestCharacterSets: the characters of the image where they suffice, UTF-8 where
// they do not or where the peer writes it, none where ASCII does.
func TestCharacterSets(t *testing.T) {
	s := archive(t)
	for _, tt := range []struct{ study, asked, want, name string }{
		{"1.1", "ISO_IR 100", "ISO_IR 100", "Müller^Jörg"},
		{"1.1", "", "ISO_IR 100", "Müller^Jörg"},
		{"1.1", "ISO_IR 192", "ISO_IR 192", "Müller^Jörg"},
		{"1.3", "ISO_IR 100", "ISO_IR 192", "YAMADA^TAROU=山田^太郎=やまだ^たろう"},
		{"1.4", "ISO_IR 192", "", "DOE^JANE^^"},
	} {
		found, _ := find(t, s, query.StudyRoot, query.Options{}, "SpecificCharacterSet="+tt.asked, studyLevel, "StudyInstanceUID="+tt.study, "PatientName=")
		if len(found) != 1 || found[0].String(dicomtag.SpecificCharacterSet) != tt.want || found[0].String(dicomtag.PatientName) != tt.name {
			t.Errorf("study %s asked in %q: %v, want %q in %q", tt.study, tt.asked, found[0].Map(), tt.name, tt.want)
		}
	}
	if h := must(query.Parse(query.StudyRoot, identifier(t, "SpecificCharacterSet=ISO_IR 100", studyLevel, "PatientName=M\xfcller*"), query.Options{})); h != nil {
		n := 0
		if err := h.Find(t.Context(), s, func([]*dataset.Element) error { n++; return nil }); err != nil || n != 2 {
			t.Errorf("a name in Latin-1 matches %d studies (%v), want 2", n, err)
		}
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestUnsupported: keys that are not indexed are left out and told of.
func TestUnsupported(t *testing.T) {
	s := archive(t)
	for key, want := range map[string]bool{
		"PatientName=": false, "TimezoneOffsetFromUTC=": false, "SpecificCharacterSet=ISO_IR 100": false,
		"PatientComments=": true, "ProcedureCodeSequence=": true, "Modality=": true, "PatientAddress=": true,
	} {
		found, q := find(t, s, query.StudyRoot, query.Options{}, studyLevel, "StudyInstanceUID=1.2", key)
		if len(found) != 1 || q.Unsupported != want {
			t.Errorf("%s: %d matches, unsupported %v; want 1, %v", key, len(found), q.Unsupported, want)
		}
		name, _, _ := strings.Cut(key, "=")
		if info, _ := dicomtag.FindByName(name); want && found[0].Has(info.Tag) {
			t.Errorf("%s is returned although it is not supported", name)
		}
	}
}

// TestRefusals: PS3.4 C.4.1.1.4 and C.4.2.1.5, with the element that is to blame.
func TestRefusals(t *testing.T) {
	long := strings.Repeat("x", 1025)
	many := strings.Repeat(`x\`, 256) + "x"
	for _, tt := range []struct {
		name string
		root query.Root
		keys []string
		tag  dataset.Tag
		find bool // only C-FIND refuses it
	}{
		{"no level", query.StudyRoot, []string{"StudyInstanceUID=1.1"}, dicomtag.QueryRetrieveLevel, false},
		{"an unknown level", query.StudyRoot, []string{"QueryRetrieveLevel=FRAME", "StudyInstanceUID=1.1"}, dicomtag.QueryRetrieveLevel, false},
		{"a level in small letters", query.StudyRoot, []string{"QueryRetrieveLevel=study", "StudyInstanceUID=1.1"}, dicomtag.QueryRetrieveLevel, false},
		{"patients in Study Root", query.StudyRoot, []string{"QueryRetrieveLevel=PATIENT", "PatientID=P1"}, dicomtag.QueryRetrieveLevel, false},
		{"no patient in Patient Root", query.PatientRoot, []string{studyLevel, "StudyInstanceUID=1.1"}, dicomtag.PatientID, false},
		{"any patient in Patient Root", query.PatientRoot, []string{studyLevel, "PatientID=P*", "StudyInstanceUID=1.1"}, dicomtag.PatientID, false},
		{"series without a study", query.StudyRoot, []string{seriesLevel, "SeriesInstanceUID=1.1.1"}, dicomtag.StudyInstanceUID, false},
		{"series of an empty study", query.StudyRoot, []string{seriesLevel, "StudyInstanceUID=", "SeriesInstanceUID=1.1.1"}, dicomtag.StudyInstanceUID, false},
		{"series of two studies", query.StudyRoot, []string{seriesLevel, `StudyInstanceUID=1.1\1.2`, "SeriesInstanceUID=1.1.1"}, dicomtag.StudyInstanceUID, false},
		{"series of any study", query.StudyRoot, []string{seriesLevel, "StudyInstanceUID=*", "SeriesInstanceUID=1.1.1"}, dicomtag.StudyInstanceUID, false},
		{"images without a series", query.StudyRoot, []string{imageLevel, "StudyInstanceUID=1.1", "SOPInstanceUID=1.1.1.1"}, dicomtag.SeriesInstanceUID, false},
		{"a UID that is none", query.StudyRoot, []string{studyLevel, "StudyInstanceUID=1.1;drop"}, dicomtag.StudyInstanceUID, false},
		{"a UID with a wildcard", query.StudyRoot, []string{studyLevel, "StudyInstanceUID=1.*"}, dicomtag.StudyInstanceUID, false},
		{"a date that is none", query.StudyRoot, []string{studyLevel, "StudyInstanceUID=1.1", "StudyDate=20241301"}, dicomtag.StudyDate, true},
		{"a range of three", query.StudyRoot, []string{studyLevel, "StudyInstanceUID=1.1", "StudyDate=20240101-20240102-20240103"}, dicomtag.StudyDate, true},
		{"a range of nothing", query.StudyRoot, []string{studyLevel, "StudyInstanceUID=1.1", "StudyTime=-"}, dicomtag.StudyTime, true},
		{"a key that is too long", query.StudyRoot, []string{studyLevel, "StudyInstanceUID=1.1", "StudyDescription=" + long}, dicomtag.StudyDescription, true},
		{"too many alternatives", query.StudyRoot, []string{studyLevel, "StudyInstanceUID=1.1", "AccessionNumber=" + many}, dicomtag.AccessionNumber, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			h := identifier(t, tt.keys...)
			check := func(what string, err error, wanted bool) {
				t.Helper()
				var wrong *query.Error
				if !wanted {
					if err != nil {
						t.Errorf("%s = %v, want no error", what, err)
					}
					return
				}
				if !errors.As(err, &wrong) || !slices.Equal(wrong.Tags, []dataset.Tag{tt.tag}) || len(wrong.Problem) > 64 || strings.Contains(wrong.Problem, "P1") {
					t.Errorf("%s = %v, want an *Error of at most 64 characters for %v", what, err, tt.tag)
				}
			}
			_, err := query.Parse(tt.root, h, query.Options{})
			check("Parse", err, true)
			_, err = query.ParseRetrieval(tt.root, h)
			check("ParseRetrieval", err, !tt.find)
		})
	}
	for _, keys := range [][]string{{studyLevel, "StudyInstanceUID="}, {studyLevel, "StudyInstanceUID=*"}, {studyLevel}, {seriesLevel, "StudyInstanceUID=1.1"}} {
		if _, err := query.ParseRetrieval(query.StudyRoot, identifier(t, keys...)); err == nil {
			t.Errorf("ParseRetrieval(%v) = nil, want an error: it asks for everything", keys)
		}
	}
}

// TestRetrieval names the images that a retrieval is for.
func TestRetrieval(t *testing.T) {
	s := archive(t)
	for _, tt := range []struct {
		root query.Root
		keys []string
		want string
	}{
		{query.PatientRoot, []string{"QueryRetrieveLevel=PATIENT", "PatientID=P1"}, "1.1.1.1 1.1.1.2 1.1.1.3 1.1.2.1 1.2.1.1"},
		{query.PatientRoot, []string{studyLevel, "PatientID=P1", "StudyInstanceUID=1.2"}, "1.2.1.1"},
		{query.PatientRoot, []string{studyLevel, "PatientID=P2", "StudyInstanceUID=1.2"}, ""},
		{query.StudyRoot, []string{studyLevel, `StudyInstanceUID=1.2\1.3\9`}, "1.2.1.1 1.3.1.1"},
		{query.StudyRoot, []string{seriesLevel, "StudyInstanceUID=1.1", `SeriesInstanceUID=1.1.2\1.2.1`}, "1.1.2.1"},
		{query.StudyRoot, []string{imageLevel, "StudyInstanceUID=1.1", "SeriesInstanceUID=1.1.1", `SOPInstanceUID=1.1.1.1\1.1.1.3\1.1.2.1`}, "1.1.1.1 1.1.1.3"},
		{query.StudyRoot, []string{imageLevel, "StudyInstanceUID=1.2", "SeriesInstanceUID=1.1.1", "SOPInstanceUID=1.1.1.1"}, ""},
		{query.PatientRoot, []string{"QueryRetrieveLevel=PATIENT", "PatientID=P7"}, ""},
	} {
		r, err := query.ParseRetrieval(tt.root, identifier(t, tt.keys...))
		if err != nil {
			t.Fatalf("%v: %v", tt.keys, err)
		}
		var got []string
		err = r.Each(t.Context(), s, func(in store.Instance) error { got = append(got, in.SOPInstanceUID); return nil })
		slices.Sort(got)
		if err != nil || strings.Join(got, " ") != tt.want {
			t.Errorf("%v: %v (%v), want %s", tt.keys, got, err, tt.want)
		}
	}
}

// TestEnds: the error of the callback and of the context end a walk.
func TestEnds(t *testing.T) {
	s := archive(t)
	q := must(query.Parse(query.StudyRoot, identifier(t, studyLevel), query.Options{}))
	enough, n := errors.New("enough"), 0
	if err := q.Find(t.Context(), s, func([]*dataset.Element) error { n++; return enough }); err != enough || n != 1 {
		t.Errorf("Find = %v after %d matches, want the callback's error after one", err, n)
	}
	ctx, cancel := context.WithCancel(t.Context())
	n = 0
	if err := q.Find(ctx, s, func([]*dataset.Element) error { n++; cancel(); return nil }); !errors.Is(err, context.Canceled) || n != 1 {
		t.Errorf("Find = %v after %d matches, want canceled after one", err, n)
	}
	r := must(query.ParseRetrieval(query.PatientRoot, identifier(t, "QueryRetrieveLevel=PATIENT", "PatientID=P1")))
	if err := r.Each(ctx, s, func(store.Instance) error { return nil }); !errors.Is(err, context.Canceled) {
		t.Errorf("Each = %v, want canceled", err)
	}
}
