package dimse

import (
	"context"
	"errors"
	"fmt"

	"hilum/dimse/dataset"
)

// query carries out C-FIND, C-MOVE and C-GET as SCP, PS3.7 9.1.2 to 9.1.4 and
// PS3.4 C.4. It returns nil where the association ends instead of an answer.
func (a *acceptor) query(ctx context.Context, pc *presentation, rq *command, data *dataStream) *StatusError {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Before the identifier is read: behind it a C-CANCEL-RQ may come.
	defer a.cancelable(rq.messageID.value, cancel)()
	name := queryName(rq.field.value)
	log := a.log.With("operation", name, "sop_class", pc.abstractSyntax, "message", rq.messageID.value)
	req, refusal := a.queryRequest(pc, rq, data)
	if data.broken() != nil {
		return nil
	}
	if refusal != nil {
		log.Warn("request refused", "status", refusal.Error())
		return refusal
	}
	log.Info("request received")
	q := &queryOperation{acceptor: a, pc: pc, rq: rq}
	var err error
	switch rq.field.value {
	case commandFindRQ:
		err = a.set.handler.(Finder).CFind(ctx, req, q.match)
	case commandMoveRQ:
		q.retrieved, err = a.set.handler.(Mover).CMove(ctx, req, q.progress)
	case commandGetRQ:
		q.retrieved, err = a.set.handler.(Getter).CGet(ctx, req, q.progress)
	}
	status := q.final(ctx, err)
	if status == nil {
		return nil
	}
	if status.Status == StatusProcessingFailure || status.Status == StatusCannotUnderstand {
		log.Error("request not carried out", "error", err)
	}
	log.Info("request answered", "status", status.Error(), "matches", q.matches,
		"completed", q.retrieved.Completed, "failed", q.retrieved.Failed, "warning", q.retrieved.Warning)
	return status
}

func queryName(field uint16) string {
	switch field {
	case commandFindRQ:
		return "C-FIND"
	case commandMoveRQ:
		return "C-MOVE"
	}
	return "C-GET"
}

// queryRequest reads a request, and finds what can be refused before the handler
// is asked.
func (a *acceptor) queryRequest(pc *presentation, rq *command, data *dataStream) (*QueryRequest, *StatusError) {
	sopClass := []dataset.Tag{{Group: 0, Element: elementAffectedSOPClass}}
	switch {
	case rq.affectedSOPClass != pc.abstractSyntax || queryCommands[pc.abstractSyntax] != rq.field.value:
		return nil, &StatusError{Status: StatusSOPClassNotSupported, OffendingElements: sopClass}
	case !rq.hasDataSet():
		return nil, &StatusError{Status: StatusCannotUnderstand, Comment: "request without an identifier",
			OffendingElements: []dataset.Tag{{Group: 0, Element: elementDataSetType}}}
	case rq.field.value == commandMoveRQ && rq.moveDestination == "":
		return nil, &StatusError{Status: StatusUnknownDestination, Comment: "Move Destination is missing",
			OffendingElements: []dataset.Tag{{Group: 0, Element: elementMoveDestination}}}
	}
	identifier, err := readIdentifier(data, pc.transferSyntax)
	var damaged *dataset.Error
	switch {
	case errors.Is(err, errIdentifierTooLong):
		return nil, &StatusError{Status: StatusOutOfResources, Comment: fmt.Sprintf("the identifier has more than %d bytes", maxIdentifier)}
	case errors.As(err, &damaged):
		return nil, &StatusError{Status: StatusCannotUnderstand, Comment: fmt.Sprintf("byte %d: %s", damaged.Offset, damaged.Problem),
			OffendingElements: []dataset.Tag{damaged.Tag}}
	case err != nil: // of the association
		return nil, &StatusError{Status: StatusCannotUnderstand}
	}
	req := &QueryRequest{
		Association: a.association, MessageID: rq.messageID.value, SOPClassUID: pc.abstractSyntax,
		Identifier: identifier, MoveDestination: rq.moveDestination, acceptor: a,
	}
	if rq.field.value == commandFindRQ {
		req.CombinedDateTime = len(pc.extended) > extendedDateTime && pc.extended[extendedDateTime] == 1
	}
	return req, nil
}

// The bytes of the extended negotiation of C-FIND, PS3.4 table C.5-3: relational
// queries, combined date and time matching, fuzzy semantic matching, timezone
// adjustment, and more that is not known here.
const (
	extendedBytes    = 4
	extendedDateTime = 1
)

// extendedAnswer is the answer to the extended negotiation of an accepted SOP
// class; nil is none.
func (set *settings) extendedAnswer(abstractSyntax string, proposed []byte) []byte {
	switch queryCommands[abstractSyntax] {
	case commandFindRQ:
		answer := make([]byte, min(max(len(proposed), 1), extendedBytes))
		if len(proposed) > extendedDateTime && proposed[extendedDateTime] == 1 {
			answer[extendedDateTime] = 1
		}
		return answer
	case commandMoveRQ, commandGetRQ:
		return []byte{0} // hierarchical retrieval only, PS3.4 C.5.2.1
	}
	if set.stores(abstractSyntax) {
		return storageSupport()
	}
	return nil
}

// queryOperation is a query or a retrieval that is being answered.
type queryOperation struct {
	acceptor  *acceptor
	pc        *presentation
	rq        *command
	broken    error // a response could not be written
	matches   int
	retrieved Retrieved
}

// match sends a pending response of C-FIND.
func (q *queryOperation) match(m Match) error {
	body, err := encodeIdentifier(q.pc.transferSyntax, m.Identifier)
	if err != nil {
		return err
	}
	status := StatusPending
	if m.Unsupported {
		status = StatusPendingWarning
	}
	q.matches++
	rsp := *q.rq
	rsp.reply = body
	return q.wrote(q.acceptor.respond(q.pc, &rsp, &StatusError{Status: status}))
}

// progress sends a pending response of C-MOVE or C-GET.
func (q *queryOperation) progress(n SubOperations) error {
	rsp := *q.rq
	rsp.numbers = &n
	return q.wrote(q.acceptor.respond(q.pc, &rsp, &StatusError{Status: StatusPending}))
}

func (q *queryOperation) wrote(err error) error {
	if err != nil && q.broken == nil {
		q.broken = err
	}
	return err
}

// final is the final status. It returns nil where the association ends instead of
// an answer.
func (q *queryOperation) final(ctx context.Context, err error) *StatusError {
	a := q.acceptor
	var failure *StatusError
	status := &StatusError{}
	retrieval := q.rq.field.value != commandFindRQ
	switch {
	case q.broken != nil:
		a.fail(q.broken)
		return nil
	case a.failing():
		return nil
	case a.ctx.Err() != nil || errors.Is(err, errStopping):
		a.fail(errStopping) // an abort makes the peer try again
		return nil
	case ctx.Err() != nil: // and the association goes on
		status.Status = StatusCanceled
	case errors.As(err, &failure):
		status = failure
	case err != nil && retrieval:
		status.Status = StatusProcessingFailure
	case err != nil:
		status.Status = StatusCannotUnderstand // PS3.4 table C.4-1: unable to process
	case retrieval:
		status.Status = q.retrieved.status()
	}
	if retrieval && failure == nil {
		q.rq.numbers = &q.retrieved.SubOperations
		status.Comment = q.retrieved.Comment
		if status.Status != StatusSuccess {
			// What cannot be encoded is left out: the numbers say it, too.
			q.rq.reply, _ = q.retrieved.failedList(q.pc.transferSyntax)
		}
	}
	return status
}

// write adds the numbers to a response; those that remain only where the
// operation is not over, or was canceled (PS3.7 9.1.4.1.7).
func (n *SubOperations) write(w *commandWriter, remaining bool) {
	if remaining {
		w.number(elementRemaining, clamp(n.Remaining))
	}
	w.number(elementCompleted, clamp(n.Completed))
	w.number(elementFailed, clamp(n.Failed))
	w.number(elementWarning, clamp(n.Warning))
}

// clamp fits a number into the 16 bits that the standard gives it.
func clamp(n int) uint16 { return uint16(min(max(n, 0), 0xFFFF)) }
