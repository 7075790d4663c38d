package dimse

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	"hilum/dimse/pdu"
)

// PresentationKey names what an accepted presentation context is good for.
type PresentationKey struct{ AbstractSyntax, TransferSyntax string }

// Conn is an association that a Client requested. Its methods may be called
// from several goroutines. As many operations run at once as the window allows
// that was negotiated (Client.Window), without one they take turns: their
// requests go out one after the other, and each gets its own response, in
// whatever order the peer answers.
type Conn struct {
	exchange
	accepted map[PresentationKey]*presentation // not changed after associate
	places   chan struct{}                     // one for each operation; not changed after Associate
	services map[string]NService               // for what the peer asks
	wanted   map[string]Roles                  // the roles proposed: many peers do not answer them
	ctx      context.Context                   // ends with the association
	cancel   context.CancelFunc

	sending   sync.Mutex // held while a message is sent; guards what follows
	buffer    []byte     // for the data set, used again
	messageID uint16     // of the last request

	reading chan struct{} // holds one: whoever reads messages; guards readErr
	readErr error         // no message can be read any more

	all sync.Mutex // held by who takes all places, so that two do not share them

	state   sync.Mutex            // guards what follows
	invoked map[uint16]invocation // that wait for their responses, by Message ID
	closed  bool
	why     error // it is closed
}

// invocation is a request that waits for its response.
type invocation struct {
	pc       *presentation
	field    uint16
	several  bool          // pending responses may come first
	response chan *command // holds one
}

func newConn(t *transport, services map[string]NService) *Conn {
	c := &Conn{exchange: exchange{transport: t}, accepted: map[PresentationKey]*presentation{}, services: services,
		places: make(chan struct{}, 1), reading: make(chan struct{}, 1), invoked: map[uint16]invocation{}}
	c.ctx, c.cancel = context.WithCancel(context.Background())
	return c
}

// do runs an operation in a place of the window, and interrupts the association
// when ctx ends. An error of the association closes the connection, after the
// A-ABORT that the error asks for.
func (c *Conn) do(ctx context.Context, operation func() error) error {
	select {
	case c.places <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-c.places }()
	return c.run(ctx, operation)
}

// doAlone is do for an operation beside which no other runs.
func (c *Conn) doAlone(ctx context.Context, operation func() error) error {
	c.takeAll()
	defer c.giveAll()
	return c.run(ctx, operation)
}

func (c *Conn) takeAll() {
	c.all.Lock()
	defer c.all.Unlock()
	for range cap(c.places) {
		c.places <- struct{}{}
	}
}

func (c *Conn) giveAll() {
	for range cap(c.places) {
		<-c.places
	}
}

func (c *Conn) run(ctx context.Context, operation func() error) error {
	if closed, _ := c.ended(); closed {
		return ErrConnClosed
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	release := context.AfterFunc(ctx, c.stop)
	err := operation()
	if !release() { // ctx ended: the association is interrupted in any case
		if err == nil || errors.Is(err, errStopping) {
			err = ctx.Err()
		}
		c.end(err)
		return err
	}
	if errors.Is(err, errStopping) {
		err = ErrConnClosed // by Abort, Close, or the context of another operation
	}
	if err != nil && !survives(err) {
		if closed, cause := c.ended(); closed && !errors.Is(err, cause) {
			// Another operation ended it while this one ran.
			return fmt.Errorf("%w: %w", ErrConnClosed, cause)
		}
		c.end(err)
	}
	return err
}

// stop interrupts whatever runs.
func (c *Conn) stop() {
	c.cancel()
	c.interrupt()
}

func (c *Conn) ended() (closed bool, why error) {
	c.state.Lock()
	defer c.state.Unlock()
	return c.closed, c.why
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

// end closes the connection, once.
func (c *Conn) end(err error) {
	c.state.Lock()
	ended := c.closed
	if !ended {
		c.closed, c.why = true, err
	}
	c.state.Unlock()
	if ended {
		return
	}
	defer c.cancel()
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
	if w := ac.User.AsyncOperations; w != nil && rq.User.AsyncOperations != nil {
		places := rq.User.AsyncOperations.Invoked
		if w.Invoked > 0 { // 0 is any number
			places = min(places, w.Invoked)
		}
		c.places = make(chan struct{}, places)
	}
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
	c.reading <- struct{}{} // whoever reads finds the same end
	defer func() { <-c.reading }()
	return c.explainAsReader(err)
}

// explainAsReader is explain for who holds c.reading.
func (c *Conn) explainAsReader(err error) error {
	if errors.Is(err, errStopping) || errors.Is(err, errIdle) {
		return err
	}
	if c.readErr != nil {
		return c.readErr
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

// invoke registers a request that is about to be sent, and returns its Message
// ID. c.sending must be held.
func (c *Conn) invoke(pc *presentation, field uint16) (uint16, invocation) {
	inv := invocation{pc: pc, field: field, several: inquires(field), response: make(chan *command, 1)}
	c.state.Lock()
	defer c.state.Unlock()
	for {
		c.messageID++
		if _, waits := c.invoked[c.messageID]; !waits { // fewer wait than there are numbers
			c.invoked[c.messageID] = inv
			return c.messageID, inv
		}
	}
}

// forget ends the wait for a response.
func (c *Conn) forget(messageID uint16) {
	c.state.Lock()
	defer c.state.Unlock()
	delete(c.invoked, messageID)
}

// await waits for the response to a request. Sta6. Of the operations that wait
// one reads, and hands to the others what is theirs.
func (c *Conn) await(inv invocation) (*command, error) {
	for {
		select {
		case rsp := <-inv.response:
			return rsp, nil
		default:
		}
		select {
		case rsp := <-inv.response:
			return rsp, nil
		case c.reading <- struct{}{}:
		}
		// The response may have come while the other was reading.
		if len(inv.response) == 0 && c.readErr == nil {
			c.readErr = c.deliver()
		}
		err := c.readErr
		<-c.reading
		if err != nil && len(inv.response) == 0 {
			return nil, err
		}
	}
}

// deliver reads one message and hands it to the invocation that waits for it.
// c.reading must be held.
func (c *Conn) deliver() error {
	got, rsp, err := c.nextResponse()
	if err != nil {
		return err
	}
	if rsp.hasDataSet() {
		if err := (&dataStream{x: &c.exchange, pc: got}).drain(); err != nil {
			return err
		}
	}
	inv, err := c.answers(got, rsp)
	if err != nil {
		return err
	}
	inv.response <- rsp
	return nil
}

// answers finds the request that a response is for, which waits no longer.
func (c *Conn) answers(got *presentation, rsp *command) (invocation, error) {
	if rsp.field.value&commandResponse == 0 || !rsp.respondedTo.present {
		return invocation{}, userViolation("command %04XH where a response was due", rsp.field.value)
	}
	c.state.Lock()
	inv, asked := c.invoked[rsp.respondedTo.value]
	c.state.Unlock()
	switch {
	case !asked:
		return inv, userViolation("response to message %d, which was not asked", rsp.respondedTo.value)
	case rsp.field.value != inv.field|commandResponse:
		return inv, userViolation("command %04XH where the response to %04XH was due", rsp.field.value, inv.field)
	case !rsp.status.present:
		return inv, userViolation("response without a Status")
	case got != inv.pc:
		return inv, mixed(inv.pc.id, got.id)
	}
	if !inv.several || !Status(rsp.status.value).Pending() {
		c.forget(rsp.respondedTo.value)
	}
	return inv, nil
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
	c.sending.Lock()
	id, inv := c.invoke(pc, commandEchoRQ)
	defer c.forget(id)
	w := newCommandWriter(commandEchoRQ, VerificationSOPClass)
	w.number(elementMessageID, id)
	w.number(elementDataSetType, noDataSet)
	err := c.writeCommand(pc, w.bytes())
	c.sending.Unlock()
	if err != nil {
		return c.explain(err)
	}
	rsp, err := c.await(inv)
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
	err := c.doAlone(ctx, func() error {
		if err := c.release(); err != nil {
			return err
		}
		c.state.Lock()
		c.closed, c.why = true, ErrConnClosed
		c.state.Unlock()
		c.cancel()
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
	c.stop()
	c.takeAll() // what runs ends
	defer c.giveAll()
	c.end(errStopping) // Sta6 -> Sta13: AA-1
	return nil
}

// Close aborts the association unless it has ended. It is meant to be deferred.
func (c *Conn) Close() error { return c.Abort() }
