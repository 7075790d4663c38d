package dimse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"sync"
	"time"

	"hilum/dimse/dataset"
	"hilum/dimse/pdu"
)

// NInvocation is a DIMSE-N request that this side makes.
type NInvocation struct {
	Operation      NOperation
	SOPClassUID    string // also the abstract syntax of the presentation context
	SOPInstanceUID string // may be empty for N-CREATE
	TypeID         uint16 // Event Type ID or Action Type ID
	Attributes     []dataset.Tag
	// DataSet encodes the data set in the transfer syntax that the peer
	// accepted; nil, or an empty one, is none.
	DataSet func(transferSyntaxUID string) ([]byte, error)
}

func (i *NInvocation) encode(pc *presentation, messageID uint16) (command, body []byte, err error) {
	if i.SOPInstanceUID != "" && !validUID(i.SOPInstanceUID) {
		return nil, nil, &localError{errors.New("the SOP Instance UID is not a UID")}
	}
	if i.DataSet != nil {
		if body, err = i.DataSet(pc.transferSyntax); err != nil {
			return nil, nil, &localError{fmt.Errorf("encode the data set: %w", err)}
		}
	}
	// PS3.7 tables 10.3-1 to 10.3-11
	affected := i.Operation == NEventReport || i.Operation == NCreate
	w := &commandWriter{b: make([]byte, 0, 512)}
	w.element(elementGroupLength, make([]byte, 4)) // filled in by bytes
	if affected {
		w.uid(elementAffectedSOPClass, i.SOPClassUID)
	} else {
		w.uid(elementRequestedSOPClass, i.SOPClassUID)
	}
	w.number(elementCommandField, uint16(i.Operation))
	w.number(elementMessageID, messageID)
	if len(body) > 0 {
		w.number(elementDataSetType, dataSetFollows)
	} else {
		w.number(elementDataSetType, noDataSet)
	}
	if affected && i.SOPInstanceUID != "" {
		w.uid(elementAffectedSOPInstance, i.SOPInstanceUID)
	} else if !affected {
		w.uid(elementRequestedInstance, i.SOPInstanceUID)
	}
	switch i.Operation {
	case NEventReport:
		w.number(elementEventTypeID, i.TypeID)
	case NGet:
		if len(i.Attributes) > 0 {
			w.tags(elementAttributeList, i.Attributes)
		}
	case NAction:
		w.number(elementActionTypeID, i.TypeID)
	}
	return w.bytes(), body, nil
}

// invoke sends a request.
func (x *exchange) invoke(pc *presentation, command, body []byte) error {
	if len(body) == 0 {
		return x.writeCommand(pc, command)
	}
	return x.writeMessage(pc, command, body)
}

func appendFragment(dst []byte, pc *presentation, fragment []byte, last bool) []byte {
	dst = pdu.AppendDataHeader(dst, pc.id, false, last, len(fragment))
	return append(dst, fragment...)
}

// context finds an accepted presentation context of an abstract syntax.
func (x *exchange) context(abstractSyntax string) *presentation {
	for _, pc := range x.contexts {
		if pc != nil && pc.abstractSyntax == abstractSyntax {
			return pc
		}
	}
	return nil
}

// readReply reads the data set of a response, bounded.
func (x *exchange) readReply(pc *presentation, rsp *command) (NResponse, error) {
	var body []byte
	if rsp.hasDataSet() {
		data := &dataStream{x: x, pc: pc}
		var err error
		if body, err = io.ReadAll(io.LimitReader(data, DefaultMaxNDataSet+1)); err != nil {
			return NResponse{}, err
		}
		if len(body) > DefaultMaxNDataSet {
			return NResponse{}, userViolation("response with a data set of more than %d bytes", DefaultMaxNDataSet)
		}
	}
	return NResponse{SOPInstanceUID: rsp.sopInstance(), DataSet: body, TransferSyntaxUID: pc.transferSyntax}, nil
}

// Invoke makes a DIMSE-N request and returns the response. The status is a
// success or a warning unless the error is a *StatusError. ErrNoContext means
// that the peer did not accept the SOP class. After these two the association
// goes on; after any other error it is closed.
func (c *Conn) Invoke(ctx context.Context, i *NInvocation) (NResponse, error) {
	var rsp NResponse
	err := c.do(ctx, func() (err error) {
		rsp, err = c.invokeN(i)
		return err
	})
	return rsp, err
}

func (c *Conn) invokeN(i *NInvocation) (NResponse, error) {
	pc := c.context(i.SOPClassUID)
	if pc == nil {
		return NResponse{}, ErrNoContext
	}
	c.messageID++
	command, body, err := i.encode(pc, c.messageID)
	if err != nil {
		return NResponse{}, err
	}
	if err := c.invoke(pc, command, body); err != nil {
		return NResponse{}, c.explain(err)
	}
	got, rq, err := c.nextResponse()
	if err != nil {
		return NResponse{}, err
	}
	if err := c.checkResponse(rq, got, pc, uint16(i.Operation)); err != nil {
		return NResponse{}, err
	}
	rsp, err := c.readReply(pc, rq)
	if err != nil {
		return rsp, err
	}
	rsp.Status, err = statusOf(rq)
	return rsp, err
}

// Roles are the roles of this side for a SOP class, as they were agreed upon.
// They are none where the peer accepted no presentation context for it.
func (c *Conn) Roles(sopClassUID string) Roles {
	if pc := c.context(sopClassUID); pc != nil {
		return pc.roles.Roles
	}
	return Roles{}
}

// nextResponse reads messages until one is not a request that a service of this
// side can answer.
func (c *Conn) nextResponse() (*presentation, *command, error) {
	for {
		pc, rq, err := c.readCommand()
		if err != nil || !c.serves(pc, rq) {
			return pc, rq, err
		}
		if err := c.serve(pc, rq); err != nil {
			return nil, nil, err
		}
	}
}

// serves says whether a message is a request for a service of this side.
func (c *Conn) serves(pc *presentation, rq *command) bool {
	_, ok := c.services[pc.abstractSyntax]
	return ok && rq.field.value&commandResponse == 0 && rq.messageID.present
}

// serve answers one request of the peer.
func (c *Conn) serve(pc *presentation, rq *command) error {
	data := &dataStream{x: &c.exchange, pc: pc}
	if !rq.hasDataSet() {
		data.err = io.EOF
	}
	status := ErrUnrecognized
	switch NOperation(rq.field.value) {
	case NEventReport, NGet, NSet, NAction, NCreate, NDelete:
		status = nPeer{services: c.services, log: slog.New(slog.DiscardHandler)}.perform(c.ctx, pc, rq, data)
	}
	if err := data.drain(); err != nil {
		return err
	}
	if status == nil { // c.ctx has ended
		return errStopping
	}
	return c.respond(pc, rq, status)
}

// AwaitRequest waits for a request of the peer, has it answered by its service,
// and returns true. It returns false when none came for so long; the association
// goes on then. It is for notifications, N-EVENT-REPORT.
func (c *Conn) AwaitRequest(ctx context.Context, wait time.Duration) (bool, error) {
	came := false
	err := c.do(ctx, func() error {
		quiet, err := c.silent(wait)
		if err != nil || quiet {
			return err
		}
		pc, rq, err := c.readCommand()
		if err != nil {
			return err
		}
		if !c.serves(pc, rq) {
			return userViolation("command %04XH although nothing was asked", rq.field.value)
		}
		came = true
		return c.serve(pc, rq)
	})
	return came, err
}

// silent waits for the first byte of a message, and says whether none came.
func (c *Conn) silent(wait time.Duration) (bool, error) {
	if c.data != nil && c.data.More() {
		return false, nil
	}
	c.data = nil
	if err := c.armRead(time.Now().Add(wait)); err != nil {
		return false, err
	}
	switch err := c.cause(c.pdus.Wait()); {
	case errors.Is(err, errIdle):
		return true, nil
	case err != nil:
		return false, err
	}
	return false, nil
}

// invocations are the requests that an acceptor has made and that the peer has
// not answered.
type invocations struct {
	mu      sync.Mutex // guards all below
	lastID  uint16
	waiting map[uint16]*invocation
	ended   bool
}

type invocation struct {
	pc        *presentation
	operation NOperation
	answer    chan answer // holds one
}

type answer struct {
	rsp NResponse
	err error
}

// maxInvocations bounds what one association waits for at a time.
const maxInvocations = 16

// begin takes a message ID.
func (v *invocations) begin(pc *presentation, operation NOperation) (uint16, *invocation, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ended {
		return 0, nil, ErrConnClosed
	}
	if len(v.waiting) >= maxInvocations {
		return 0, nil, errors.New("the peer leaves too many requests unanswered")
	}
	if v.waiting == nil {
		v.waiting = map[uint16]*invocation{}
	}
	for {
		if v.lastID == math.MaxUint16 {
			v.lastID = 0
		}
		v.lastID++
		if v.waiting[v.lastID] == nil {
			i := &invocation{pc, operation, make(chan answer, 1)}
			v.waiting[v.lastID] = i
			return v.lastID, i, nil
		}
	}
}

// take finds the request that a response is for.
func (v *invocations) take(id uint16) *invocation {
	v.mu.Lock()
	defer v.mu.Unlock()
	i := v.waiting[id]
	delete(v.waiting, id)
	return i
}

// ended is the end of the association: nothing is answered any more.
func (a *acceptor) ended() {
	a.association.acceptor.Store(nil)
	v := &a.invocations
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ended = true
	for _, i := range v.waiting {
		i.answer <- answer{err: ErrConnClosed}
	}
	v.waiting = nil
}

// Invoke makes a DIMSE-N request on an association that the peer requested, for
// N-EVENT-REPORT above all, and returns the response. The errors are those of
// Conn.Invoke; when ctx ends first, the association goes on, and an answer that
// comes late is dropped. It must not be called by a handler of the association,
// which is what reads the response.
func (a *Association) Invoke(ctx context.Context, i *NInvocation) (NResponse, error) {
	acceptor := a.acceptor.Load()
	if acceptor == nil {
		return NResponse{}, ErrConnClosed
	}
	return acceptor.invokeN(ctx, i)
}

func (a *acceptor) invokeN(ctx context.Context, i *NInvocation) (NResponse, error) {
	pc := a.context(i.SOPClassUID)
	if pc == nil {
		return NResponse{}, ErrNoContext
	}
	id, waiting, err := a.invocations.begin(pc, i.Operation)
	if err != nil {
		return NResponse{}, err
	}
	command, body, err := i.encode(pc, id)
	if err != nil {
		a.invocations.take(id)
		return NResponse{}, err
	}
	if err := a.invoke(pc, command, body); err != nil {
		// Half of a message may be out: nothing can follow it.
		a.interrupt()
		return NResponse{}, fmt.Errorf("%w: %w", ErrConnClosed, err)
	}
	select {
	case got := <-waiting.answer:
		return got.rsp, got.err
	case <-ctx.Done():
		return NResponse{}, ctx.Err()
	}
}

// responded hands a response to whoever waits for it. An error ends the
// association.
func (a *acceptor) responded(pc *presentation, rsp *command) error {
	i := a.invocations.take(rsp.respondedTo.value)
	switch {
	case i == nil || !rsp.respondedTo.present:
		return userViolation("response %04XH although nothing was asked", rsp.field.value)
	case rsp.field.value != uint16(i.operation)|commandResponse, i.pc != pc, !rsp.status.present:
		i.answer <- answer{err: ErrConnClosed}
		return userViolation("response %04XH that does not fit the request", rsp.field.value)
	}
	got, err := a.readReply(pc, rsp)
	if err != nil {
		i.answer <- answer{err: ErrConnClosed}
		return err
	}
	got.Status, err = statusOf(rsp)
	i.answer <- answer{got, err}
	return nil
}
