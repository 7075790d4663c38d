package mpps_test

import (
	"bytes"
	"errors"
	"log/slog"
	"runtime"
	"testing"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/mpps"
	"hilum/store"
	"hilum/store/storetest"
)

const class = dimse.PerformedProcedureStepSOPClass

// seed is a data set of a step.
func seed(f *testing.F, elements ...*dataset.Element) []byte {
	var b bytes.Buffer
	if err := dataset.WriteDataSet(&b, dataset.ExplicitVRLittleEndian, elements); err != nil {
		f.Fatal(err)
	}
	return b.Bytes()
}

// FuzzStep plays an N-CREATE and an N-SET with any data sets: each is answered with a
// status or kept, never both; what is kept can be read again with what it says of each
// series; memory follows the bytes.
func FuzzStep(f *testing.F) {
	text := func(tag dataset.Tag, value string) *dataset.Element { return dataset.MustElement(tag, value) }
	created := seed(f,
		dataset.Sequence(dicomtag.ScheduledStepAttributesSequence, []*dataset.Element{text(dicomtag.StudyInstanceUID, "1.2.3")}),
		text(dicomtag.PatientName, "Doe^Jane"), text(dicomtag.PerformedProcedureStepID, "STEP1"), text(dicomtag.PerformedStationAETitle, "CT1"),
		text(dicomtag.PerformedProcedureStepStartDate, "20260102"), text(dicomtag.PerformedProcedureStepStartTime, "101112"),
		text(dicomtag.PerformedProcedureStepStatus, "IN PROGRESS"), text(dicomtag.Modality, "CT"), dataset.Sequence(dicomtag.PerformedSeriesSequence))
	ended := seed(f,
		text(dicomtag.PerformedProcedureStepStatus, "COMPLETED"), text(dicomtag.PerformedProcedureStepEndDate, "20260102"), text(dicomtag.PerformedProcedureStepEndTime, "101212"),
		dataset.Sequence(dicomtag.PerformedSeriesSequence, []*dataset.Element{text(dicomtag.SeriesInstanceUID, "1.9"), dataset.Sequence(dicomtag.ReferencedImageSequence,
			[]*dataset.Element{text(dicomtag.ReferencedSOPClassUID, "1.2.840.10008.5.1.4.1.1.2"), text(dicomtag.ReferencedSOPInstanceUID, "1.9.1")})}))
	f.Add(created, ended)
	f.Add(created, created)
	f.Add(created, []byte{})
	f.Add(ended, created[:40])
	st := storetest.MustOpen(f)
	steps := mpps.Steps{Store: st}
	var changed []string
	p := &mpps.Provider{Steps: steps, Log: slog.New(slog.DiscardHandler), Now: time.Now, Changed: func(series []string) { changed = series }}
	f.Fuzz(func(t *testing.T, first, second []byte) {
		const uid = "2.25.1"
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		for i, data := range [][]byte{first, second} {
			changed = nil
			rsp, err := p.HandleN(t.Context(), &dimse.NRequest{
				Operation: []dimse.NOperation{dimse.NCreate, dimse.NSet}[i], Association: new(dimse.Association),
				SOPClassUID: class, SOPInstanceUID: uid, TransferSyntaxUID: dataset.ExplicitVRLittleEndian, Data: bytes.NewReader(data), HasData: len(data) > 0,
			})
			var status *dimse.StatusError
			switch {
			case err != nil && (!errors.As(err, &status) || rsp.SOPInstanceUID != "" || len(changed) > 0):
				t.Fatalf("message %d: %+v, %v, changed %v; want a status alone", i, rsp, err, changed)
			case err != nil:
				continue
			}
			step, err := steps.Step(uid)
			if err != nil {
				t.Fatalf("message %d: the step that was kept cannot be read: %v", i, err)
			}
			images := 0
			for _, series := range step.Series {
				lists, err := steps.OfSeries(series)
				if err != nil || len(lists) != 1 || lists[0].Step != uid || lists[0].Status != step.Status {
					t.Fatalf("message %d: of series %s it says %+v, %v", i, series, lists, err)
				}
				images += len(lists[0].Objects)
			}
			if images != step.Images || len(step.Series) != len(changed) {
				t.Errorf("message %d: %d images in lists, %d in the step; %v changed, series %v", i, images, step.Images, changed, step.Series)
			}
		}
		runtime.ReadMemStats(&after)
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(8<<20+400*(len(first)+len(second))); got > limit {
			t.Errorf("%d and %d bytes allocate %d, want at most %d", len(first), len(second), got, limit)
		}
		if step, err := steps.Step(uid); err == nil {
			if _, err := steps.Forget(step.Updated.Add(time.Hour), time.Minute); err != nil {
				t.Fatal(err)
			}
			for _, series := range step.Series {
				if lists, err := steps.OfSeries(series); err != nil || len(lists) != 0 {
					t.Fatalf("a forgotten step still says %+v of series %s (%v)", lists, series, err)
				}
			}
		}
		if _, err := steps.Step(uid); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("a forgotten step: %v, want ErrNotFound", err)
		}
	})
}
