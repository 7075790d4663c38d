package store

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// putPatient stores an image of a study, a series and a patient.
func putPatient(t testing.TB, s *Store, patient, study, series, image string) {
	t.Helper()
	w, err := s.NewInstance()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write([]byte("bytes of " + image)); err != nil {
		t.Fatal(err)
	}
	_, err = w.Commit(Instance{
		SOPInstanceUID: image, SOPClassUID: "1.2.840.10008.5.1.4.1.1.2", SeriesInstanceUID: series, StudyInstanceUID: study,
		TransferSyntaxUID: "1.2.840.10008.1.2.1", Header: map[string]string{"PatientID": patient, "Modality": "CT"},
	})
	if err != nil {
		t.Fatal(err)
	}
}

// walked is what a walk met: group -> sorted series, with their images.
func walked(t *testing.T, each func(func([]Series) error) error, group func(Series) string) map[string]string {
	t.Helper()
	met := map[string]string{}
	err := each(func(list []Series) error {
		var text []string
		for _, v := range list {
			text = append(text, fmt.Sprintf("%s:%d", v.SeriesInstanceUID, v.Instances))
		}
		slices.Sort(text)
		key := group(list[0])
		if _, twice := met[key]; twice {
			t.Errorf("%q was met twice", key)
		}
		met[key] = strings.Join(text, " ")
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return met
}

// TestWalk stores more studies than a transaction reads, some of them filed, some
// in the journal, one in both, and walks them by study, patient and image.
func TestWalk(t *testing.T) {
	s, err := Open(t.TempDir(), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	const studies = 3*studyBatch + 1
	byUID, byID := map[string]string{}, map[string]string{}
	put := func(i int) {
		study := fmt.Sprint("1.2.", i)
		for k := range 2 {
			putPatient(t, s, fmt.Sprint("P", i%70), study, fmt.Sprintf("%s.%d", study, k), fmt.Sprintf("%s.%d.1", study, k))
		}
		byUID[study] = study + ".0:1 " + study + ".1:1"
		id := fmt.Sprint("P", i%70)
		byID[id] = strings.TrimSpace(byID[id] + " " + byUID[study])
	}
	for i := range studies - 10 {
		put(i)
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.filing.Lock() // what follows stays in the journal
	for i := studies - 10; i < studies; i++ {
		put(i)
	}
	for i := range imageBatch + 5 {
		putPatient(t, s, "P0", "1.2.0", "1.2.0.0", fmt.Sprint("1.2.0.0.", i+2))
	}
	byUID["1.2.0"] = fmt.Sprintf("1.2.0.0:%d 1.2.0.1:1", imageBatch+6)
	byID["P0"] = strings.Replace(byID["P0"], "1.2.0.0:1", fmt.Sprintf("1.2.0.0:%d", imageBatch+6), 1)
	for id, list := range byID {
		parts := strings.Fields(list)
		slices.Sort(parts)
		byID[id] = strings.Join(parts, " ")
	}
	look := func(when string) {
		t.Helper()
		if got := walked(t, s.EachStudy, func(v Series) string { return v.StudyInstanceUID }); !maps.Equal(got, byUID) {
			t.Errorf("%s: EachStudy met %d studies: %v\nwant %v", when, len(got), got, byUID)
		}
		if got := walked(t, s.EachPatient, func(v Series) string { return v.Header["PatientID"] }); !maps.Equal(got, byID) {
			t.Errorf("%s: EachPatient met %d patients: %v\nwant %v", when, len(got), got, byID)
		}
		images := map[string]bool{}
		err := s.EachInstance("1.2.0.0", func(inst Instance) error {
			if images[inst.SOPInstanceUID] {
				t.Errorf("%s: image %s was met twice", when, inst.SOPInstanceUID)
			}
			images[inst.SOPInstanceUID] = true
			return nil
		})
		if err != nil || len(images) != imageBatch+6 {
			t.Errorf("%s: EachInstance met %d images (%v), want %d", when, len(images), err, imageBatch+6)
		}
		last := fmt.Sprint("1.2.", studies-1)
		if got, err := s.StudySeries(last); err != nil || len(got) != 2 || got[0].StudyInstanceUID != last {
			t.Errorf("%s: StudySeries(%s) = %d series, %v; want 2", when, last, len(got), err)
		}
		if got, err := s.PatientSeries("P1"); err != nil || len(got) != 2*len(strings.Fields(byID["P1"]))/2 {
			t.Errorf("%s: PatientSeries(P1) = %d series, %v; want those of %s", when, len(got), err, byID["P1"])
		}
	}
	look("journal and files")
	s.filing.Unlock()
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	look("files")

	// What is not there, a callback that ends the walk, a deleted series.
	for _, uid := range []string{"1.2", "1.2.", "9", ""} {
		if got, err := s.StudySeries(uid); err != nil || got != nil {
			t.Errorf("StudySeries(%q) = %v, %v; want none", uid, got, err)
		}
	}
	enough, n := errors.New("enough"), 0
	if err := s.EachStudy(func([]Series) error { n++; return enough }); err != enough || n != 1 {
		t.Errorf("EachStudy = %v after %d calls, want the callback's error after one", err, n)
	}
	if err := errors.Join(s.DeleteSeries("1.2.0.0"), s.DeleteSeries("1.2.0.1"), s.DeleteSeries("1.2.1.0")); err != nil {
		t.Fatal(err)
	}
	delete(byUID, "1.2.0")
	byUID["1.2.1"] = "1.2.1.1:1"
	if got := walked(t, s.EachStudy, func(v Series) string { return v.StudyInstanceUID }); !maps.Equal(got, byUID) {
		t.Errorf("after deletions EachStudy met %v, want %v", got, byUID)
	}
	mustCheck(t, s)
}

// TestSOPClasses: known of what this version stored, filed or not, and unknown
// where an older one began.
func TestSOPClasses(t *testing.T) {
	dir := crashCopy(t, filepath.Join("testdata", "v1"))
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	putPatient(t, s, "P", "1.2", "1.2.3.0", "1.2.3.77")
	putPatient(t, s, "P", "1.2", "1.2.9", "1.2.9.1")
	want := map[string]int{"1.2.3.0": 0, "1.2.9": 1}
	for _, when := range []string{"journal", "files"} {
		for uid, n := range want {
			if v, err := s.Series(uid); err != nil || len(v.SOPClasses) != n {
				t.Errorf("%s: series %s has the SOP classes %v (%v), want %d", when, uid, v.SOPClasses, err, n)
			}
		}
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	// A rebuilt index reads the images, so it knows.
	if err := errors.Join(s.Close(), os.Remove(filepath.Join(dir, indexName))); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir, Options{}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if v, err := s.Series("1.2.3.0"); err != nil || len(v.SOPClasses) == 0 {
		t.Errorf("after a rebuild: %v, %v; want its SOP classes", v.SOPClasses, err)
	}
}
