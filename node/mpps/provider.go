package mpps

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/store"
)

// maxDataSet bounds the data set of a step: some 25,000 images.
const maxDataSet = 4 << 20

// treeLimits bound what a data set of that size costs decoded. One is decoded at
// a time.
var treeLimits = dataset.TreeLimits{Nodes: 200_000, Bytes: maxDataSet}

// errFinal is PS3.4 F.7.2.2.4: a step may no longer be updated.
const errFinal = 0xA710

// Provider is the SCP. Its fields must not change once it is in use.
type Provider struct {
	Steps Steps
	// Changed is called after each message that names series, once it is durable,
	// with their UIDs. It must be quick.
	Changed func(series []string)
	Log     *slog.Logger
	Now     func() time.Time

	mu sync.Mutex // held while a step is decoded and changes
}

// NService is the service for a server.
func (p *Provider) NService() dimse.NService {
	return dimse.NService{Handler: p, MaxDataSet: maxDataSet}
}

// HandleN takes N-CREATE and N-SET. They are answered with success once the step
// is durable.
func (p *Provider) HandleN(_ context.Context, rq *dimse.NRequest) (dimse.NResponse, error) {
	if rq.Operation != dimse.NCreate && rq.Operation != dimse.NSet {
		return dimse.NResponse{}, dimse.ErrUnrecognized
	}
	data, err := io.ReadAll(rq.Data) // bounded by maxDataSet
	if err != nil {
		return dimse.NResponse{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	tree, err := dataset.ReadTree(bytes.NewReader(data), rq.TransferSyntaxUID, treeLimits)
	if damaged := (*dataset.Error)(nil); errors.As(err, &damaged) {
		return dimse.NResponse{}, &dimse.StatusError{Status: dimse.StatusProcessingFailure, Comment: "damaged data set: " + damaged.Problem, OffendingElements: []dataset.Tag{damaged.Tag}}
	} else if err != nil {
		return dimse.NResponse{}, err
	}
	var step Step
	if rq.Operation == dimse.NCreate {
		step, err = p.create(rq, tree)
	} else {
		step, err = p.set(rq, tree)
	}
	if err != nil {
		return dimse.NResponse{}, err
	}
	p.Log.Info("performed procedure step", "sop_instance", step.SOPInstanceUID, "status", string(step.Status), "series", len(step.Series), "images", step.Images)
	if len(step.Series) > 0 && p.Changed != nil {
		p.Changed(step.Series)
	}
	return dimse.NResponse{SOPInstanceUID: step.SOPInstanceUID}, nil
}

// create is N-CREATE, PS3.4 F.7.2.1.
func (p *Provider) create(rq *dimse.NRequest, tree dataset.Tree) (Step, error) {
	uid := rq.SOPInstanceUID
	if uid == "" {
		uid = dataset.NewUID()
	}
	if _, err := p.Steps.Step(uid); err == nil {
		return Step{}, &dimse.StatusError{Status: dimse.StatusDuplicateInstance, Comment: "this step exists"}
	} else if !errors.Is(err, store.ErrNotFound) {
		return Step{}, err
	}
	if err := required(tree, createRequired); err != nil {
		return Step{}, err
	}
	if tree.Text(dicomtag.PerformedProcedureStepStatus) != string(InProgress) {
		return Step{}, invalid(dicomtag.PerformedProcedureStepStatus, "a step begins IN PROGRESS")
	}
	now := p.Now().UTC()
	step := Step{SOPInstanceUID: uid, Source: rq.Association.CallingAETitle(), Created: now, Updated: now}
	return p.write(nil, step, tree)
}

// set is N-SET, PS3.4 F.7.2.2.
func (p *Provider) set(rq *dimse.NRequest, change dataset.Tree) (Step, error) {
	old, err := p.Steps.Step(rq.SOPInstanceUID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return Step{}, &dimse.StatusError{Status: dimse.StatusNoSuchInstance, Comment: "no such step"}
	case err != nil:
		return Step{}, err
	case old.Status != InProgress:
		return Step{}, &dimse.StatusError{Status: dimse.StatusProcessingFailure, ErrorID: errFinal, Comment: "the step is " + string(old.Status) + " and may no longer be updated"}
	}
	tree, err := dataset.ReadTree(bytes.NewReader(old.Data), dataset.ExplicitVRLittleEndian, treeLimits)
	if err != nil {
		return Step{}, fmt.Errorf("read step %s: %w", old.SOPInstanceUID, err)
	}
	// Table F.7.2-1: what N-SET may not change. Some scanners repeat it.
	var kept dataset.Tree
	for _, n := range change {
		if !fixedElements[n.Tag] {
			kept = append(kept, n)
			continue
		}
		if n.VR != "SQ" && change.Text(n.Tag) != tree.Text(n.Tag) {
			return Step{}, invalid(n.Tag, "N-SET may not change this element")
		}
	}
	tree = tree.Merge(kept)
	switch status := Status(tree.Text(dicomtag.PerformedProcedureStepStatus)); status {
	case InProgress:
	case Completed, Discontinued:
		if err := required(tree, finalRequired); err != nil {
			return Step{}, err
		}
		if status == Completed && len(tree.Items(dicomtag.PerformedSeriesSequence)) == 0 {
			return Step{}, missing(tree, dicomtag.PerformedSeriesSequence)
		}
	default:
		return Step{}, invalid(dicomtag.PerformedProcedureStepStatus, "no status of a step")
	}
	step := old
	step.Updated = p.Now().UTC()
	return p.write(&old, step, tree)
}

// write makes a step durable.
func (p *Provider) write(old *Step, step Step, tree dataset.Tree) (Step, error) {
	lists, err := step.read(tree)
	if err != nil {
		return Step{}, err
	}
	var b bytes.Buffer
	if err := dataset.WriteDataSet(&b, dataset.ExplicitVRLittleEndian, tree.Elements()); err != nil {
		return Step{}, &dimse.StatusError{Status: dimse.StatusProcessingFailure, Comment: "the data set cannot be kept"}
	}
	step.Data = b.Bytes()
	written, err := records(old, &step, lists)
	if err == nil {
		// Below the reserve nothing that peers send is kept: an association that was
		// admitted before could fill the disk with steps, too.
		err = p.Steps.Store.Room()
	}
	if err == nil {
		err = p.Steps.Store.WriteRecords(written...)
	}
	if errors.Is(err, store.ErrFull) {
		p.Log.Error("performed procedure step not kept", "error", err)
		return Step{}, &dimse.StatusError{Status: dimse.StatusResourceLimitation, Comment: "no space left, try again later"}
	}
	return step, err
}

// createRequired and finalRequired are of type 1 in table F.7.2-1, at the creation
// and for a final state.
var (
	createRequired = []dataset.Tag{
		dicomtag.ScheduledStepAttributesSequence, dicomtag.PerformedProcedureStepID, dicomtag.PerformedStationAETitle,
		dicomtag.PerformedProcedureStepStartDate, dicomtag.PerformedProcedureStepStartTime, dicomtag.PerformedProcedureStepStatus, dicomtag.Modality,
	}
	finalRequired = []dataset.Tag{dicomtag.PerformedProcedureStepEndDate, dicomtag.PerformedProcedureStepEndTime}
)

// fixedElements may not change once the step exists.
var fixedElements = map[dataset.Tag]bool{
	dicomtag.ScheduledStepAttributesSequence: true, dicomtag.PatientName: true, dicomtag.PatientID: true, dicomtag.PatientBirthDate: true,
	dicomtag.PatientSex: true, dicomtag.ReferencedPatientSequence: true, dicomtag.PerformedProcedureStepID: true,
	dicomtag.PerformedStationAETitle: true, dicomtag.PerformedStationName: true, dicomtag.PerformedLocation: true,
	dicomtag.PerformedProcedureStepStartDate: true, dicomtag.PerformedProcedureStepStartTime: true,
	dicomtag.Modality: true, dicomtag.StudyID: true,
}

// required finds an element that is missing or empty.
func required(tree dataset.Tree, tags []dataset.Tag) error {
	for _, t := range tags {
		if tree.Text(t) == "" && len(tree.Items(t)) == 0 {
			return missing(tree, t)
		}
	}
	return nil
}

func missing(tree dataset.Tree, t dataset.Tag) error {
	status := dimse.StatusMissingAttribute
	if tree.Has(t) {
		status = dimse.StatusMissingValue
	}
	return &dimse.StatusError{Status: status, Comment: "a required element is missing or empty", OffendingElements: []dataset.Tag{t}}
}

func invalid(t dataset.Tag, problem string) error {
	return &dimse.StatusError{Status: dimse.StatusInvalidAttribute, Comment: problem, OffendingElements: []dataset.Tag{t}}
}
