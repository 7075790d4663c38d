package node_test

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node"
	"hilum/node/web"
)

const stepClass = "1.2.840.10008.3.1.2.3.3"

// begun is the data set of an N-CREATE.
func begun() []*dataset.Element {
	return []*dataset.Element{
		dataset.Sequence(dicomtag.ScheduledStepAttributesSequence, []*dataset.Element{dataset.MustElement(dicomtag.StudyInstanceUID, "1.2.3")}),
		dataset.MustElement(dicomtag.PatientName, "SECRET^NAME"),
		dataset.MustElement(dicomtag.PerformedProcedureStepID, "STEP1"),
		dataset.MustElement(dicomtag.PerformedStationAETitle, "CT1"),
		dataset.MustElement(dicomtag.PerformedProcedureStepStartDate, "20260102"),
		dataset.MustElement(dicomtag.PerformedProcedureStepStartTime, "101112"),
		dataset.MustElement(dicomtag.PerformedProcedureStepStatus, "IN PROGRESS"),
		dataset.MustElement(dicomtag.Modality, "CT"),
		dataset.Sequence(dicomtag.PerformedSeriesSequence),
	}
}

// ended is the data set of an N-SET that lists images of a series.
func ended(status, series string, images ...string) []*dataset.Element {
	var items [][]*dataset.Element
	for _, uid := range images {
		items = append(items, []*dataset.Element{dataset.MustElement(dicomtag.ReferencedSOPClassUID, ctImageStorage), dataset.MustElement(dicomtag.ReferencedSOPInstanceUID, uid)})
	}
	return []*dataset.Element{
		dataset.MustElement(dicomtag.PerformedProcedureStepStatus, status),
		dataset.MustElement(dicomtag.PerformedProcedureStepEndDate, "20260102"),
		dataset.MustElement(dicomtag.PerformedProcedureStepEndTime, "101212"),
		dataset.Sequence(dicomtag.PerformedSeriesSequence, []*dataset.Element{
			dataset.MustElement(dicomtag.SeriesInstanceUID, series), dataset.Sequence(dicomtag.ReferencedImageSequence, items...)}),
	}
}

func without(elements []*dataset.Element, t dataset.Tag) (out []*dataset.Element) {
	for _, e := range elements {
		if e.Tag != t {
			out = append(out, e)
		}
	}
	return out
}

// step sends one message about a procedure step and returns its status.
func step(t *testing.T, n *node.Node, operation dimse.NOperation, uid string, elements []*dataset.Element) (dimse.Status, uint16) {
	t.Helper()
	c := dimse.Client{CallingAETitle: "CT1", CalledAETitle: "HILUM", Timeout: 10 * time.Second, Contexts: []dimse.PresentationContext{
		{AbstractSyntax: stepClass, TransferSyntaxes: []string{dataset.ImplicitVRLittleEndian}}}}
	conn, err := c.Dial(t.Context(), n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	_, err = conn.Invoke(t.Context(), &dimse.NInvocation{Operation: operation, SOPClassUID: stepClass, SOPInstanceUID: uid, DataSet: func(ts string) ([]byte, error) {
		var b bytes.Buffer
		err := dataset.WriteDataSet(&b, ts, elements)
		return b.Bytes(), err
	}})
	var status *dimse.StatusError
	if errors.As(err, &status) {
		return status.Status, status.ErrorID
	}
	if err != nil {
		t.Fatal(err)
	}
	return dimse.StatusSuccess, 0
}

// TestProcedureStepStates holds PS3.4 F.7.2: what a step may become, and what it
// must say.
func TestProcedureStepStates(t *testing.T) {
	n, _ := start(t, testConfig(t))
	status := func(s string) []*dataset.Element {
		return []*dataset.Element{dataset.MustElement(dicomtag.PerformedProcedureStepStatus, s)}
	}
	for _, tt := range []struct {
		name      string
		operation dimse.NOperation
		uid       string
		elements  []*dataset.Element
		want      dimse.Status
		errorID   uint16
	}{
		{"set before it exists", dimse.NSet, "2.25.1", status("COMPLETED"), 0x0112, 0},
		{"nothing in it", dimse.NCreate, "2.25.1", nil, 0x0120, 0},
		{"no station", dimse.NCreate, "2.25.1", without(begun(), dicomtag.PerformedStationAETitle), 0x0120, 0},
		{"no study", dimse.NCreate, "2.25.1", append(without(begun(), dicomtag.ScheduledStepAttributesSequence), dataset.Sequence(dicomtag.ScheduledStepAttributesSequence, nil)), 0x0106, 0},
		{"born complete", dimse.NCreate, "2.25.1", append(without(begun(), dicomtag.PerformedProcedureStepStatus), status("COMPLETED")...), 0x0106, 0},
		{"created", dimse.NCreate, "2.25.1", begun(), 0, 0},
		{"created twice", dimse.NCreate, "2.25.1", begun(), 0x0111, 0},
		{"get", dimse.NGet, "2.25.1", nil, 0x0211, 0},
		{"delete", dimse.NDelete, "2.25.1", nil, 0x0211, 0},
		{"another patient", dimse.NSet, "2.25.1", []*dataset.Element{dataset.MustElement(dicomtag.PatientName, "OTHER")}, 0x0106, 0},
		{"unknown status", dimse.NSet, "2.25.1", status("PAUSED"), 0x0106, 0},
		{"complete without an end", dimse.NSet, "2.25.1", status("COMPLETED"), 0x0120, 0},
		{"complete without a series", dimse.NSet, "2.25.1", without(ended("COMPLETED", "1.9"), dicomtag.PerformedSeriesSequence), 0x0121, 0},
		{"a series that is a path", dimse.NSet, "2.25.1", ended("COMPLETED", "../.."), 0x0106, 0},
		{"an image that is none", dimse.NSet, "2.25.1", ended("COMPLETED", "1.9", "x"), 0x0106, 0},
		{"progress", dimse.NSet, "2.25.1", status("IN PROGRESS"), 0, 0},
		{"complete", dimse.NSet, "2.25.1", ended("COMPLETED", "1.9", "1.9.1"), 0, 0},
		{"complete again", dimse.NSet, "2.25.1", ended("COMPLETED", "1.9", "1.9.1"), 0x0110, 0xA710},
		{"without a UID", dimse.NCreate, "", begun(), 0, 0},
	} {
		if got, id := step(t, n, tt.operation, tt.uid, tt.elements); got != tt.want || id != tt.errorID {
			t.Errorf("%s: status %s, error id %04X, want %s, %04X", tt.name, got, id, tt.want, tt.errorID)
		}
	}
}

// TestProcedureStepCompletes: a completed step that lists what is there ends the
// wait for a series that is otherwise hours away.
func TestProcedureStepCompletes(t *testing.T) {
	for _, order := range []string{"images first", "step first"} {
		t.Run(order, func(t *testing.T) {
			cfg := testConfig(t)
			cfg.Series.Quiet, cfg.Series.AssociationWait, cfg.Series.GapWait = time.Hour, time.Hour, time.Hour
			n, client := start(t, cfg)
			report := func() {
				if got, _ := step(t, n, dimse.NCreate, "2.25.1", begun()); got != 0 {
					t.Fatalf("N-CREATE = %s", got)
				}
				if got, _ := step(t, n, dimse.NSet, "2.25.1", ended("COMPLETED", "1.5", "1.5.1", "1.5.2", "1.5.3")); got != 0 {
					t.Fatalf("N-SET = %s", got)
				}
			}
			if order == "step first" {
				report()
			}
			send(t, n, "1.5", 1, 3)
			if order == "images first" {
				report()
			}
			studies := until(t, "completion", client.Studies, func(s []web.Study) bool {
				return len(s) > 0 && len(s[0].Series) > 0 && s[0].Series[0].State == "complete"
			})
			if reason := studies[0].Series[0].Reason; !strings.Contains(reason, "performed procedure step 2.25.1") {
				t.Errorf("reason = %q, want it to name the step", reason)
			}
		})
	}
}
