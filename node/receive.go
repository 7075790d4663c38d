package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/audit"
	"hilum/store"
)

// receiver stores what peers send by C-STORE.
type receiver struct {
	store     *store.Store
	assembler *assembler
	log       *slog.Logger
	audit     *audit.Trail

	mu      sync.Mutex               // guards brought
	brought map[uint64]audit.Studies // by association, until it ends
}

// headerLimits bound what an object may put into the index, which holds the header of
// each image on disk and of each arriving series in memory. PS3.5 6.2 allows 64
// characters or less for nearly all that is indexed; a longer value than this is stored
// with its image and not indexed.
var headerLimits = dataset.Limits{MaxElementBytes: 1 << 10}

// CStore streams one object into the store while its structure is checked,
// and answers success only when the store has it on disk.
func (r *receiver) CStore(_ context.Context, req *dimse.StoreRequest) error {
	w, err := r.store.NewInstance()
	if err != nil {
		return r.storeStatus(err)
	}
	defer func() { _ = w.Abort() }() // harmless after Commit

	meta := dataset.AppendFileMeta(nil, req.TransferSyntaxUID, req.SOPClassUID, req.SOPInstanceUID)
	if _, err := w.Write(meta); err != nil {
		return r.storeStatus(err)
	}
	sink := &sink{w: w}
	header, err := dataset.Scan(io.TeeReader(req.Data, sink), req.TransferSyntaxUID, dataset.IndexTags, headerLimits)
	if sink.err != nil {
		return r.storeStatus(sink.err)
	}
	if err != nil {
		return refuseDamaged(err)
	}
	inst, err := identify(header, req)
	if err != nil {
		return err
	}
	outcome, err := w.Commit(inst)
	if err != nil {
		return r.storeStatus(err)
	}
	switch outcome {
	case store.Stored, store.Replaced:
		if outcome == store.Replaced {
			r.log.Warn("an image arrived again with other bytes and replaced the first",
				"sop_instance", inst.SOPInstanceUID, "association", req.Association.ID())
		}
		r.assembler.received(inst.SeriesInstanceUID, req.Association.ID())
		r.note(req.Association, inst)
	case store.Conflict:
		r.log.Warn("an image arrived again with other bytes: the first is kept, this one is in quarantine",
			"sop_instance", inst.SOPInstanceUID, "association", req.Association.ID())
	case store.Rejected:
		r.log.Warn("an image arrived again with other bytes: the first is kept, this one was refused",
			"sop_instance", inst.SOPInstanceUID, "association", req.Association.ID())
		return &dimse.StatusError{Status: dimse.StatusDuplicateInstance, Comment: "other bytes are stored under this UID"}
	}
	return nil
}

// AssociationOpened is part of dimse.AssociationHandler; the server logs it.
func (r *receiver) AssociationOpened(*dimse.Association) {}

// AssociationClosed is part of dimse.AssociationHandler.
func (r *receiver) AssociationClosed(a *dimse.Association, _ error) {
	r.assembler.closed(a.ID())
	r.tell(a)
}

// maxBrought bounds the studies of one audit message.
const maxBrought = 100

// note counts an image for the audit trail.
func (r *receiver) note(a *dimse.Association, in store.Instance) {
	if r.audit == nil {
		return
	}
	r.mu.Lock()
	if r.brought == nil {
		r.brought = map[uint64]audit.Studies{}
	}
	if r.brought[a.ID()] == nil {
		r.brought[a.ID()] = audit.Studies{}
	}
	r.brought[a.ID()].Add(studyOf(in), in.SOPClassUID)
	full := len(r.brought[a.ID()]) >= maxBrought
	r.mu.Unlock()
	if full {
		r.tell(a)
	}
}

// tell writes what an association brought to the audit trail.
func (r *receiver) tell(a *dimse.Association) {
	r.mu.Lock()
	studies := r.brought[a.ID()]
	delete(r.brought, a.ID())
	r.mu.Unlock()
	r.audit.Received(auditPeer(a), studies)
}

func studyOf(in store.Instance) audit.Study {
	return audit.Study{StudyInstanceUID: in.StudyInstanceUID, PatientID: in.Header["PatientID"]}
}

func auditPeer(a *dimse.Association) audit.Peer {
	return audit.Peer{AETitle: a.CallingAETitle(), Address: a.RemoteAddr().String()}
}

// sink remembers the store's error, so that it is told from an error of the
// peer or of the data set.
type sink struct {
	w   *store.Writer
	err error
}

func (s *sink) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	if err != nil {
		s.err = err
	}
	return n, err
}

// storeStatus maps a failure of the store to a status that makes scanners try
// again (PS3.4 B.2.3: A7xx, out of resources).
func (r *receiver) storeStatus(err error) error {
	r.log.Error("image not stored", "error", err)
	comment := "not stored, try again later"
	if errors.Is(err, store.ErrFull) {
		comment = "no space left, try again later"
	}
	return &dimse.StatusError{Status: dimse.StatusOutOfResources, Comment: comment}
}

// refuseDamaged maps an error of the scan: a damaged data set costs this
// object (PS3.4 B.2.3: Cxxx, cannot understand), a broken association its end.
func refuseDamaged(err error) error {
	var damaged *dataset.Error
	if !errors.As(err, &damaged) {
		return err
	}
	return &dimse.StatusError{
		Status:            dimse.StatusCannotUnderstand,
		Comment:           fmt.Sprintf("byte %d: %s", damaged.Offset, damaged.Problem),
		OffendingElements: []dataset.Tag{damaged.Tag},
	}
}

// identify takes the identity of an object from its header and holds it
// against what the C-STORE request said (PS3.4 B.2.3: A9xx, data set does not
// match SOP class).
func identify(h dataset.Header, req *dimse.StoreRequest) (store.Instance, error) {
	inst := store.Instance{
		SOPClassUID:       h.String(dicomtag.SOPClassUID),
		SOPInstanceUID:    h.String(dicomtag.SOPInstanceUID),
		SeriesInstanceUID: h.String(dicomtag.SeriesInstanceUID),
		StudyInstanceUID:  h.String(dicomtag.StudyInstanceUID),
		TransferSyntaxUID: req.TransferSyntaxUID,
		Source:            req.Association.CallingAETitle(),
		Header:            h.Map(),
	}
	for _, uid := range []struct {
		tag   dataset.Tag
		name  string
		value string
		asked string // what the request said, "" if it does not say
	}{
		{dicomtag.SOPClassUID, "SOP Class UID", inst.SOPClassUID, req.SOPClassUID},
		{dicomtag.SOPInstanceUID, "SOP Instance UID", inst.SOPInstanceUID, req.SOPInstanceUID},
		{dicomtag.StudyInstanceUID, "Study Instance UID", inst.StudyInstanceUID, ""},
		{dicomtag.SeriesInstanceUID, "Series Instance UID", inst.SeriesInstanceUID, ""},
	} {
		problem := ""
		switch {
		case uid.value == "":
			problem = "is missing"
		case !dataset.ValidUID(uid.value):
			problem = "is not a UID"
		case uid.asked != "" && uid.asked != uid.value:
			problem = "differs from the C-STORE request"
		default:
			continue
		}
		return inst, &dimse.StatusError{
			Status:            dimse.StatusDataSetMismatch,
			Comment:           uid.name + " " + problem,
			OffendingElements: []dataset.Tag{uid.tag},
		}
	}
	return inst, nil
}
