package dimse

import (
	"context"
	"errors"
	"slices"
	"sync"

	"hilum/dimse/pdu"
)

// PresentationKey names what an accepted presentation context is good for.
type PresentationKey struct{ AbstractSyntax, TransferSyntax string }

// Conn is an association that a Client requested. Its methods may be called
// from several goroutines; they take turns, as one operation at a time is what
// the association negotiated.
type Conn struct {
	exchange
	accepted  map[PresentationKey]*presentation // not changed after associate
	buffer    []byte                            // for the data set, used again
	messageID uint16                            // of the last request
	services  map[string]NService               // for what the peer asks
	wanted    map[string]Roles                  // the roles proposed: many peers do not answer them
	ctx       context.Context                   // of the running operation

	turn   sync.Mutex // held during an operation; guards all above
	closed bool       // guarded by turn
}

// do runs an operation alone, and interrupts it when ctx ends. An error of the
// association closes the connection, after the A-ABORT that the error asks for.
func (c *Conn) do(ctx context.Context, operation func() error) error {
	c.turn.Lock()
	defer c.turn.Unlock()
	if c.closed {
		return ErrConnClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	c.ctx = ctx
	release := context.AfterFunc(ctx, c.interrupt)
	err := operation()
	if errors.Is(err, errStopping) && ctx.Err() == nil {
		err = ErrConnClosed // by Abort or Close
	}
	if !release() { // ctx ended: the association is interrupted in any case
		if err == nil || errors.Is(err, errStopping) {
			err = ctx.Err()
		}
		c.end(err)
		return err
	}
	if err != nil && !survives(err) {
		c.end(err)
	}
	return err
}

// survives says whether the association lasts although an operation failed.
func survives(err error) bool {
	switch err := err.(type) { // the outermost: a data set may fail with any error
	case *StatusError, *localError:
		return true
	default:
		return err == ErrNoContext
	}
}

// ErrUnsent is returned where nothing was sent because of what was to be sent: a
// data set that could not be read from its beginning, for example. The
// association goes on.
var ErrUnsent = errors.New("nothing was sent")

// localError is a failure from before anything was sent.
type localError struct{ err error }

func (e *localError) Error() string { return e.err.Error() }
func (e *localError) Unwrap() error { return e.err }

// Is says that it is an ErrUnsent, whatever the reason.
func (e *localError) Is(target error) bool { return target == ErrUnsent }

// end closes the connection. c.turn must be held.
func (c *Conn) end(err error) {
	c.closed = true
	var data *dataError
	var bad *pdu.Error
	var breach *violation
	var aborted *AbortError
	var rejected *RejectError
	switch {
	case errors.As(err, &data): // its cause says nothing about this association
		c.sendAbort(pdu.AbortSourceUser, pdu.ReasonNotSpecified)
	case errors.As(err, &aborted), errors.As(err, &rejected):
	case errors.Is(err, errReleaseRequested):
		_ = c.sendPDU(&pdu.ReleaseRP{}) // Sta8 -> Sta13: AR-4; the peer is leaving anyway
	case errors.As(err, &bad):
		c.sendAbort(pdu.AbortSourceProvider, bad.Reason)
	case errors.As(err, &breach):
		c.sendAbort(breach.source, breach.reason)
	default:
		c.sendAbort(pdu.AbortSourceUser, pdu.ReasonNotSpecified)
	}
	_ = c.conn.Close() // whatever it says, the connection is gone
}

// associate is Sta4 to Sta6 of PS3.8: the connection is open.
func (c *Conn) associate(rq *pdu.AssociateRQ) error {
	// Sta4 -> Sta5: AE-2
	if err := c.sendPDU(rq); err != nil {
		return c.explain(err)
	}
	p, err := c.next()
	if err != nil {
		return err
	}
	switch p := p.(type) {
	case *pdu.AssociateAC:
		return c.accept(rq, p) // Sta5 -> Sta6: AE-3
	case *pdu.AssociateRJ:
		return &RejectError{Result: p.Result, Source: p.Source, Reason: p.Reason} // Sta5 -> Sta1: AE-4
	case *pdu.Abort:
		return &AbortError{Source: p.Source, Reason: p.Reason} // Sta5 -> Sta1: AA-3
	}
	// Sta5 -> Sta13: AA-8
	return providerViolation(pdu.ReasonUnexpectedPDU, "%s as the answer to A-ASSOCIATE-RQ", p.Type())
}

// accept takes over what the peer accepted of what was proposed.
func (c *Conn) accept(rq *pdu.AssociateRQ, ac *pdu.AssociateAC) error {
	if ac.ProtocolVersion&pdu.ProtocolVersion == 0 {
		return providerViolation(pdu.ReasonInvalidParameter, "protocol version %04XH accepted", ac.ProtocolVersion)
	}
	c.peerMax = ac.User.MaxLength
	for _, answer := range ac.Contexts {
		if answer.Result != pdu.ContextAccepted {
			continue
		}
		i := slices.IndexFunc(rq.Contexts, func(p pdu.PresentationContextRQ) bool { return p.ID == answer.ID })
		if i < 0 || !slices.Contains(rq.Contexts[i].TransferSyntaxes, answer.TransferSyntax) {
			return providerViolation(pdu.ReasonInvalidParameter, "presentation context %d accepted with what was not proposed", answer.ID)
		}
		pc := &presentation{id: answer.ID, abstractSyntax: rq.Contexts[i].AbstractSyntax, transferSyntax: answer.TransferSyntax}
		pc.roles = agreedRoles(pc.abstractSyntax, rq.User.Roles, ac.User.Roles)
		c.contexts[pc.id] = pc
		key := PresentationKey{pc.abstractSyntax, pc.transferSyntax}
		if c.accepted[key] == nil {
			c.accepted[key] = pc
		}
	}
	return nil
}

// explain finds out whether a write failed because the peer had aborted or
// answered: then that is the error.
func (c *Conn) explain(err error) error {
	if errors.Is(err, errStopping) || errors.Is(err, errIdle) {
		return err
	}
	for { // ends: every turn takes a PDU that was already sent, or an error
		p, readErr := c.next()
		if readErr != nil {
			return err
		}
		switch p := p.(type) {
		case *pdu.Abort:
			return &AbortError{Source: p.Source, Reason: p.Reason}
		case *pdu.AssociateRJ:
			return &RejectError{Result: p.Result, Source: p.Source, Reason: p.Reason}
		}
	}
}

// Accepted says whether the peer accepted the SOP class in this transfer syntax.
func (c *Conn) Accepted(sopClassUID, transferSyntaxUID string) bool {
	return c.accepted[PresentationKey{sopClassUID, transferSyntaxUID}] != nil
}

// AcceptedContexts returns everything the peer accepted.
func (c *Conn) AcceptedContexts() []PresentationKey {
	keys := make([]PresentationKey, 0, len(c.accepted))
	for _, pc := range c.contexts {
		if pc != nil {
			keys = append(keys, PresentationKey{pc.abstractSyntax, pc.transferSyntax})
		}
	}
	return keys
}

// readResponse reads messages until the response to the request. Sta6.
func (c *Conn) readResponse(pc *presentation, field uint16) (*command, error) {
	got, rsp, err := c.nextResponse()
	if err != nil {
		return nil, err
	}
	if rsp.hasDataSet() {
		if err := (&dataStream{x: &c.exchange, pc: got}).drain(); err != nil {
			return nil, err
		}
	}
	return rsp, c.checkResponse(rsp, got, pc, field)
}

// checkResponse finds a response that is not the one to the request of the
// running operation.
func (c *Conn) checkResponse(rsp *command, got, pc *presentation, field uint16) error {
	switch {
	case rsp.field.value != field|commandResponse:
		return userViolation("command %04XH where the response to %04XH was due", rsp.field.value, field)
	case !rsp.respondedTo.present || rsp.respondedTo.value != c.messageID:
		return userViolation("response to message %d where %d was asked", rsp.respondedTo.value, c.messageID)
	case !rsp.status.present:
		return userViolation("response without a Status")
	case got != pc:
		return mixed(pc.id, got.id)
	}
	return nil
}

// Echo asks the peer with C-ECHO, PS3.7 9.1.5, whether it is there. A context
// for Verification must have been proposed.
func (c *Conn) Echo(ctx context.Context) error {
	return c.do(ctx, c.echo)
}

func (c *Conn) echo() error {
	var pc *presentation
	for _, candidate := range c.contexts {
		if candidate != nil && candidate.abstractSyntax == VerificationSOPClass {
			pc = candidate
			break
		}
	}
	if pc == nil {
		return ErrNoContext
	}
	c.messageID++
	w := newCommandWriter(commandEchoRQ, VerificationSOPClass)
	w.number(elementMessageID, c.messageID)
	w.number(elementDataSetType, noDataSet)
	if err := c.writeCommand(pc, w.bytes()); err != nil {
		return c.explain(err)
	}
	rsp, err := c.readResponse(pc, commandEchoRQ)
	if err != nil {
		return err
	}
	_, err = statusOf(rsp)
	return err
}

// statusOf returns the status, and a *StatusError when it is a failure.
func statusOf(rsp *command) (Status, error) {
	status := Status(rsp.status.value)
	if status.Failure() {
		return status, &StatusError{Status: status, Comment: rsp.errorComment, OffendingElements: rsp.offending, ErrorID: rsp.errorID.value}
	}
	return status, nil
}

// Release ends the association in order and closes the connection. PS3.8 7.2.
func (c *Conn) Release(ctx context.Context) error {
	err := c.do(ctx, func() error {
		if err := c.release(); err != nil {
			return err
		}
		c.closed = true
		return c.conn.Close()
	})
	if errors.Is(err, ErrConnClosed) {
		return nil // it is released, or its end was reported
	}
	return err
}

// release is Sta7 to Sta1 of PS3.8.
func (c *Conn) release() error {
	// Sta6 -> Sta7: AR-1
	if err := c.sendPDU(&pdu.ReleaseRQ{}); err != nil {
		return c.explain(err)
	}
	collision := false // Sta11
	for {
		p, err := c.next()
		if err != nil {
			return err
		}
		if abort, ok := p.(*pdu.Abort); ok {
			return &AbortError{Source: abort.Source, Reason: abort.Reason} // Sta7, Sta11 -> Sta1: AA-3
		}
		switch t := p.Type(); {
		case t == pdu.TypeReleaseRP:
			return nil // Sta7, Sta11 -> Sta1: AR-3
		case t == pdu.TypeReleaseRQ && !collision:
			// Both asked at once. Sta7 -> Sta9: AR-8; Sta9 -> Sta11: AR-9
			if err := c.sendPDU(&pdu.ReleaseRP{}); err != nil {
				return err
			}
			collision = true
		case t == pdu.TypeData && !collision: // Sta7 -> Sta7: AR-6, data on its way: nobody waits for it
		default:
			return providerViolation(pdu.ReasonUnexpectedPDU, "%s where A-RELEASE-RP was due", t) // Sta7, Sta11 -> Sta13: AA-8
		}
	}
}

// Abort ends the association at once with A-ABORT and closes the connection. A
// running operation is interrupted. It may be called any number of times.
func (c *Conn) Abort() error {
	c.interrupt()
	c.turn.Lock()
	defer c.turn.Unlock()
	if !c.closed {
		c.end(errStopping) // Sta6 -> Sta13: AA-1
	}
	return nil
}

// Close aborts the association unless it has ended. It is meant to be deferred.
func (c *Conn) Close() error { return c.Abort() }
