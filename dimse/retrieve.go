package dimse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"hilum/dimse/dataset"
)

// Find asks the peer with C-FIND, PS3.7 9.1.2, by one of the Find SOP classes, and
// calls match with the identifier of every match, which it may keep. Once match
// returns false the peer is told to stop (C-CANCEL) and match is not called again.
// The status is Success or Canceled unless the error is a *StatusError. ErrNoContext
// means that the peer did not accept the SOP class. After these two the
// association goes on; after any other error it is closed. match must not use the
// Conn.
func (c *Conn) Find(ctx context.Context, sopClassUID string, identifier []*dataset.Element, match func(dataset.Header) bool) (Status, error) {
	var status Status
	err := c.doAlone(ctx, func() error {
		q, err := c.ask(commandFindRQ, sopClassUID, "", identifier)
		if err != nil {
			return err
		}
		defer c.forget(q.messageID)
		status, err = q.read(nil, func(_ *command, h dataset.Header) bool { return match(h) })
		return err
	})
	return status, err
}

// Move asks the peer with C-MOVE, PS3.7 9.1.4, by one of the Move SOP classes, to
// send instances to the destination, an AE title that it knows. progress, which
// may be nil, is called with every pending response; once it returns false the
// peer is told to stop. What was done is returned also with a *StatusError. Errors
// are those of Find.
func (c *Conn) Move(ctx context.Context, sopClassUID, destination string, identifier []*dataset.Element, progress func(SubOperations) bool) (Retrieved, error) {
	return c.retrieve(ctx, commandMoveRQ, sopClassUID, destination, identifier, nil, progress)
}

// Get asks the peer with C-GET, PS3.7 9.1.3, by one of the Get SOP classes, to send
// instances on this association: h stores them, with no Association in its
// requests. The role of SCP must have been proposed for their SOP classes
// (Client.Roles). The rest is as with Move.
func (c *Conn) Get(ctx context.Context, sopClassUID string, identifier []*dataset.Element, h Handler, progress func(SubOperations) bool) (Retrieved, error) {
	return c.retrieve(ctx, commandGetRQ, sopClassUID, "", identifier, h, progress)
}

func (c *Conn) retrieve(ctx context.Context, field uint16, sopClassUID, destination string, identifier []*dataset.Element, h Handler, progress func(SubOperations) bool) (Retrieved, error) {
	var done Retrieved
	err := c.doAlone(ctx, func() error {
		q, err := c.ask(field, sopClassUID, destination, identifier)
		if err != nil {
			return err
		}
		defer c.forget(q.messageID)
		q.ctx = ctx
		done.Status, err = q.read(h, func(rsp *command, list dataset.Header) bool {
			done.SubOperations = SubOperations{Remaining: int(rsp.remaining.value), Completed: int(rsp.completed.value),
				Failed: int(rsp.failed.value), Warning: int(rsp.warning.value)}
			done.Comment = rsp.errorComment
			done.FailedUIDs = list.Strings(failedSOPInstanceUIDList)
			return progress == nil || !Status(rsp.status.value).Pending() || progress(done.SubOperations)
		})
		return err
	})
	return done, err
}

// inquiry is a C-FIND, C-MOVE or C-GET that waits for its responses.
type inquiry struct {
	c         *Conn
	ctx       context.Context
	pc        *presentation
	messageID uint16
	canceled  time.Time // when the peer was told to stop; zero if it was not
}

// ask sends a request.
func (c *Conn) ask(field uint16, sopClassUID, destination string, identifier []*dataset.Element) (*inquiry, error) {
	pc := c.context(sopClassUID)
	if pc == nil {
		return nil, ErrNoContext
	}
	if queryCommands[sopClassUID] != field {
		return nil, &localError{fmt.Errorf("SOP class %s has no such operation", sopClassUID)}
	}
	body, err := encodeIdentifier(pc.transferSyntax, identifier)
	if err != nil {
		return nil, &localError{err}
	}
	if len(body) == 0 {
		return nil, &localError{errors.New("the identifier is empty")}
	}
	c.sending.Lock()
	id, _ := c.invoke(pc, field)
	w := newCommandWriter(field, sopClassUID)
	w.number(elementMessageID, id)
	if field == commandMoveRQ {
		w.text(elementMoveDestination, destination)
	}
	w.number(elementPriority, priorityMedium)
	w.number(elementDataSetType, dataSetFollows)
	err = c.writeMessage(pc, w.bytes(), body)
	c.sending.Unlock()
	if err != nil {
		c.forget(id)
		return nil, c.explain(err)
	}
	return &inquiry{c: c, pc: pc, messageID: id}, nil
}

// read reads until the final response, and has got told of each response with its
// identifier, which may be empty. Of a C-FIND those are the matches only. got says
// whether to go on. h stores what comes on the way.
func (q *inquiry) read(h Handler, got func(*command, dataset.Header) bool) (Status, error) {
	q.c.reading <- struct{}{}
	defer func() { <-q.c.reading }()
	for {
		pc, rsp, err := q.c.readCommand()
		if err != nil {
			return 0, err
		}
		if h != nil && rsp.field.value == commandStoreRQ {
			if err := q.store(h, pc, rsp); err != nil {
				return 0, err
			}
			continue
		}
		inv, err := q.c.answers(pc, rsp)
		if err != nil {
			return 0, err
		}
		identifier, err := q.identifier(rsp)
		if err != nil {
			return 0, err
		}
		status := Status(rsp.status.value)
		switch {
		case status.Pending() && !q.canceled.IsZero():
			if time.Since(q.canceled) > q.c.idle {
				return 0, errIdle // it heard C-CANCEL, if ever
			}
			continue
		case status.Pending():
			if !got(rsp, identifier) {
				if err := q.cancel(); err != nil {
					return 0, err
				}
			}
			continue
		case inv.field != commandFindRQ:
			got(rsp, identifier)
		}
		if status == StatusCanceled {
			return status, nil
		}
		return statusOf(rsp)
	}
}

// identifier reads the data set of a response. One that is damaged ends the
// association: what the peer says next cannot be trusted more.
func (q *inquiry) identifier(rsp *command) (dataset.Header, error) {
	if !rsp.hasDataSet() {
		return dataset.Header{}, nil
	}
	data := &dataStream{x: &q.c.exchange, pc: q.pc}
	h, err := readIdentifier(data, q.pc.transferSyntax)
	if broken := data.broken(); broken != nil {
		return h, broken
	}
	var damaged *dataset.Error
	if errors.As(err, &damaged) || errors.Is(err, errIdentifierTooLong) {
		return h, userViolation("a response with an identifier that cannot be read: %v", err)
	}
	return h, err
}

// cancel sends a C-CANCEL-RQ, PS3.7 9.3.2.3.
func (q *inquiry) cancel() error {
	w := newCommandWriter(commandCancelRQ, "")
	w.number(elementMessageIDRespondedTo, q.messageID)
	w.number(elementDataSetType, noDataSet)
	q.c.sending.Lock()
	err := q.c.writeCommand(q.pc, w.bytes())
	q.c.sending.Unlock()
	if err != nil {
		return q.c.explainAsReader(err)
	}
	q.canceled = time.Now()
	return nil
}

// store is a C-STORE sub-operation of a C-GET.
func (q *inquiry) store(h Handler, pc *presentation, rq *command) error {
	data := &dataStream{x: &q.c.exchange, pc: pc}
	if !rq.hasDataSet() {
		data.err = io.EOF
	}
	status := q.refusal(pc, rq)
	if status == nil {
		err := h.CStore(q.ctx, &StoreRequest{
			MessageID: rq.messageID.value, SOPClassUID: rq.affectedSOPClass, SOPInstanceUID: rq.affectedSOPInstance,
			TransferSyntaxUID: pc.transferSyntax, Data: data,
		})
		if broken := data.broken(); broken != nil {
			return broken
		}
		if !errors.As(err, &status) {
			status = &StatusError{Status: StatusProcessingFailure}
		}
		if err == nil {
			status = &StatusError{Status: StatusSuccess}
		}
	}
	if err := data.drain(); err != nil {
		return err
	}
	q.c.sending.Lock()
	err := q.c.respond(pc, rq, status)
	q.c.sending.Unlock()
	if err != nil {
		return q.c.explainAsReader(err)
	}
	return nil
}

// refusal finds what can be refused before the data set is looked at.
func (q *inquiry) refusal(pc *presentation, rq *command) *StatusError {
	switch {
	case rq.affectedSOPClass != pc.abstractSyntax, !q.c.wanted[pc.abstractSyntax].SCP:
		return &StatusError{Status: StatusSOPClassNotSupported}
	case !validUID(rq.affectedSOPInstance), !rq.hasDataSet(), !rq.messageID.present:
		return &StatusError{Status: StatusCannotUnderstand}
	}
	return nil
}
