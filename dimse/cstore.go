package dimse

import (
	"context"
	"errors"

	"hilum/dimse/dataset"
)

// store provides C-STORE as SCP, PS3.7 9.1.1 and PS3.4 annex B. It returns nil
// where the association ends instead of an answer.
func (a *acceptor) store(ctx context.Context, pc *presentation, rq *command, data *dataStream) *StatusError {
	if refusal := a.checkStore(pc, rq); refusal != nil {
		a.log.Warn("instance refused", "sop_instance", loggableUID(rq.affectedSOPInstance), "status", refusal.Error())
		return refusal
	}
	req := &StoreRequest{
		Association:       a.association,
		MessageID:         rq.messageID.value,
		SOPClassUID:       rq.affectedSOPClass,
		SOPInstanceUID:    rq.affectedSOPInstance,
		TransferSyntaxUID: pc.transferSyntax,
		Data:              data,
	}
	err := a.set.handler.CStore(ctx, req)
	if data.broken() != nil {
		return nil // the handler's error is only its echo
	}
	if err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled) {
		// An abort makes the peer try again; a failure status may be final.
		a.fail(errStopping)
		return nil
	}
	return a.storeStatus(req, err)
}

// storeStatus maps what the handler returned to what the peer is told.
func (a *acceptor) storeStatus(req *StoreRequest, err error) *StatusError {
	if err == nil {
		return &StatusError{Status: StatusSuccess}
	}
	var status *StatusError
	if errors.As(err, &status) {
		a.log.Warn("instance answered", "sop_instance", req.SOPInstanceUID, "status", status.Error())
		return status
	}
	a.log.Error("instance not stored", "sop_instance", req.SOPInstanceUID, "error", err)
	return &StatusError{Status: StatusProcessingFailure}
}

// checkStore finds what can be refused before the data set is looked at.
func (a *acceptor) checkStore(pc *presentation, rq *command) *StatusError {
	sopClass := []dataset.Tag{{Group: 0, Element: elementAffectedSOPClass}}
	sopInstance := []dataset.Tag{{Group: 0, Element: elementAffectedSOPInstance}}
	switch {
	case !pc.roles.SCU: // accepted for C-GET alone
		return &StatusError{Status: StatusNotAuthorized, Comment: "not in the role negotiated for this SOP class"}
	case !a.set.stores(pc.abstractSyntax),
		rq.affectedSOPClass != "" && rq.affectedSOPClass != pc.abstractSyntax && !a.set.supports(rq.affectedSOPClass):
		return &StatusError{Status: StatusSOPClassNotSupported, OffendingElements: sopClass}
	case rq.affectedSOPClass != pc.abstractSyntax:
		// PS3.4 B.2.1: the context's abstract syntax is the SOP class.
		return &StatusError{Status: StatusDataSetMismatch, Comment: "Affected SOP Class is not that of the presentation context", OffendingElements: sopClass}
	case !validUID(rq.affectedSOPInstance):
		return &StatusError{Status: StatusCannotUnderstand, Comment: "Affected SOP Instance UID is not a UID", OffendingElements: sopInstance}
	case !rq.hasDataSet():
		return &StatusError{Status: StatusCannotUnderstand, Comment: "C-STORE-RQ without a data set",
			OffendingElements: []dataset.Tag{{Group: 0, Element: elementDataSetType}}}
	}
	return nil
}

// loggableUID keeps what is no UID out of the log.
func loggableUID(uid string) string {
	if !validUID(uid) {
		return "(not a UID)"
	}
	return uid
}
