package dimse

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"runtime/debug"
	"time"

	"hilum/dimse/pdu"
)

// acceptor serves one connection from Sta1 to Sta1: on one goroutine that reads,
// and one for each operation that is carried out.
type acceptor struct {
	exchange
	operations
	server      *Server
	set         *settings
	id          uint64
	address     string            // of the peer, by which it is counted
	certificate *x509.Certificate // of the peer, verified; nil without
	ctx         context.Context   // of the association
	cancel      context.CancelFunc
	log         *slog.Logger
	association *Association
	invocations invocations
	deaf        chan struct{} // closed when no message is read any more
	established bool          // guarded by server.mu
}

// newAcceptor is called with server.mu held.
func newAcceptor(s *Server, id uint64, conn net.Conn) *acceptor {
	set := s.prepared
	var end time.Time
	if set.lifetime > 0 {
		end = time.Now().Add(set.lifetime)
	}
	a := &acceptor{server: s, set: set, id: id, deaf: make(chan struct{})}
	a.ctx, a.cancel = context.WithCancel(s.ctx)
	a.transport = newTransport(conn, set.maxPDULength, set.idle, end)
	a.log = set.log.With("association", id, "remote", a.remote())
	return a
}

func (a *acceptor) stop()          { a.transport.stop() }
func (a *acceptor) interrupt()     { a.transport.interrupt() }
func (a *acceptor) closeConn()     { _ = a.conn.Close() } // whatever it says, the connection is gone
func (a *acceptor) remote() string { return a.conn.RemoteAddr().String() }

// run is the life of the connection. A panic, here or in an operation, ends this
// association and no other.
func (a *acceptor) run() {
	var err error
	defer a.cancel()
	defer a.server.forget(a)
	defer a.closeConn()
	defer func() {
		if v := recover(); v != nil {
			a.logPanic(v)
			a.sendAbort(pdu.AbortSourceUser, pdu.ReasonNotSpecified)
		}
	}()
	if a.certificate, err = a.handshake(); err != nil {
		a.insecure(err)
		return
	}
	rq, err := a.awaitRequest()
	if err != nil {
		a.refuse(err)
		return
	}
	// Sta2 -> Sta3: AE-6, ARTIM stops, the application decides.
	admission, rj := a.admit(rq)
	if rj != nil {
		// Sta3 -> Sta13: AE-8
		a.log.Warn("association rejected", "calling_ae", rq.CallingAETitle.String(), "called_ae", rq.CalledAETitle.String(), "reason", rj.String())
		if rj.Result == pdu.RejectedPermanent {
			a.server.failed(a)
		}
		if a.sendPDU(rj) == nil {
			a.awaitClose(a.set.artim)
		}
		return
	}
	// Sta3 -> Sta6: AE-7
	ac, accepted := a.set.negotiate(rq, admission)
	a.operations.open(ac.User.AsyncOperations)
	if linger := a.serve(rq, ac, accepted); linger {
		a.awaitClose(a.set.artim) // Sta13 -> Sta1
	}
}

func (a *acceptor) logPanic(v any) {
	a.log.Error("association ended by a panic", "panic", panicText(v), "stack", string(debug.Stack()))
}

// panicText describes a panic without a value that could hold patient data.
func panicText(v any) string {
	if err, ok := v.(runtime.Error); ok {
		return err.Error()
	}
	return fmt.Sprintf("%T", v)
}

// awaitRequest waits in Sta2 for the A-ASSOCIATE-RQ.
func (a *acceptor) awaitRequest() (*pdu.AssociateRQ, error) {
	// Sta1 -> Sta2: AE-5, the connection is open and ARTIM starts. It runs for
	// the whole request, however slowly its bytes come.
	if err := a.armRead(time.Now().Add(a.set.artim)); err != nil {
		return nil, err
	}
	p, err := a.pdus.Next()
	if err != nil {
		a.lost = true
		if err = a.cause(err); errors.Is(err, errIdle) {
			err = errARTIM
		}
		return nil, err
	}
	rq, ok := p.(*pdu.AssociateRQ)
	if !ok {
		if abort, ok := p.(*pdu.Abort); ok {
			return nil, &AbortError{Source: abort.Source, Reason: abort.Reason}
		}
		return nil, providerViolation(pdu.ReasonUnexpectedPDU, "%s where A-ASSOCIATE-RQ was due", p.Type())
	}
	return rq, nil
}

// refuse ends a connection that made no valid request.
func (a *acceptor) refuse(err error) {
	var bad *pdu.Error
	var breach *violation
	var aborted *AbortError
	switch {
	case errors.As(err, &bad) && bad.Reason == pdu.ReasonUnrecognizedPDU:
		// Not DICOM at all, an HTTP client for example: say so and be gone.
		a.log.Warn("connection closed: the peer does not speak DICOM", "problem", bad.Problem)
		a.server.failed(a)
		a.sendAbort(pdu.AbortSourceUser, pdu.ReasonNotSpecified)
	case errors.As(err, &bad), errors.As(err, &breach):
		// Sta2 -> Sta13: AA-1
		a.log.Warn("association request refused", "error", err)
		a.server.failed(a)
		a.sendAbort(pdu.AbortSourceUser, pdu.ReasonNotSpecified)
		a.awaitClose(a.set.artim)
	case errors.Is(err, errARTIM):
		a.log.Info("connection closed before a request", "error", err) // Sta2 -> Sta1: AA-2
		a.server.failed(a)
	case errors.Is(err, io.EOF), errors.As(err, &aborted):
		a.log.Debug("connection closed by the peer before a request") // Sta2 -> Sta1: AA-5, AA-2
	default:
		a.log.Info("connection closed before a request", "error", err) // Sta2 -> Sta1: AA-5
	}
}

// serve runs the association from its acceptance to its end. It says whether
// the peer should be waited for.
func (a *acceptor) serve(rq *pdu.AssociateRQ, ac *pdu.AssociateAC, accepted []*presentation) (linger bool) {
	defer a.server.disestablish(a)
	a.association = newAssociation(a.id, a.conn.RemoteAddr(), rq)
	defer a.ended()
	a.log = a.log.With("calling_ae", a.association.callingAETitle)
	a.peerMax = rq.User.MaxLength
	for _, pc := range accepted {
		a.contexts[pc.id] = pc
	}
	end := errPanic // until something else is known
	if h, ok := a.set.handler.(AssociationHandler); ok {
		h.AssociationOpened(a.association)
		defer func() { h.AssociationClosed(a.association, end) }()
	}
	defer a.wait() // also after a panic: nothing is stored for an association that is closed
	defer a.cancel()
	a.log.Info("association opened", "called_ae", a.association.calledAETitle,
		"contexts", len(rq.Contexts), "accepted", len(accepted), "operations", cap(a.window),
		"peer_max_pdu", a.peerMax, "peer_version", a.association.implementationVersionName)
	err := a.sendPDU(ac)
	if err == nil {
		a.association.acceptor.Store(a) // from here on it can carry requests of this side
		err = a.messages()
	}
	if errors.Is(err, errReleaseRequested) {
		err = a.answerAll() // Sta8 -> Sta8: AR-7
	}
	if errors.Is(err, errReleaseRequested) || errors.Is(err, errStopping) {
		a.wait() // what was received whole is answered
	} else {
		a.cancel() // nobody hears the answers
	}
	if a.idling() {
		// The place is free before the farewell: a peer that hears it may come back
		// at once, and must not be refused for the sake of its former association.
		a.server.disestablish(a)
	}
	linger, end = a.finish(err)
	a.cancel()
	a.wait()
	a.server.disestablish(a)
	return linger
}

// errPanic is why an association ended that a panic ended.
var errPanic = errors.New("internal error, see the log")

// messages reads one message after the other in Sta6 until something ends the
// association; it never returns nil.
func (a *acceptor) messages() error {
	defer close(a.deaf)
	for {
		pc, rq, err := a.readCommand()
		if err != nil {
			return err
		}
		if err := a.dispatch(pc, rq); err != nil {
			return err
		}
		a.setReceiving(false)
	}
}

// answerAll waits in Sta8 until every operation is answered, and listens meanwhile: a
// peer that is gone must not keep its place for as long as, for example, a C-MOVE to a
// slow destination lasts.
func (a *acceptor) answerAll() error {
	p, err := a.awaitAnswered()
	switch abort, _ := p.(*pdu.Abort); {
	case errors.Is(err, io.EOF):
		// Sta8 -> Sta1: AA-4. But perhaps only the peer's side is closed: it gets its
		// answers and its A-RELEASE-RP.
		a.cancel()
		return errReleaseRequested
	case err != nil:
		return err
	case abort != nil:
		return &AbortError{Source: abort.Source, Reason: abort.Reason} // Sta8 -> Sta1: AA-3
	case p != nil:
		return providerViolation(pdu.ReasonUnexpectedPDU, "%s after A-RELEASE-RQ", p.Type()) // Sta8 -> Sta13: AA-8
	}
	return errReleaseRequested
}

// finish says good-bye as the reason for the end asks, and returns nil as the
// reason after a release.
func (a *acceptor) finish(err error) (linger bool, reason error) {
	var bad *pdu.Error
	var breach *violation
	var aborted *AbortError
	switch {
	case errors.Is(err, errReleaseRequested):
		// Sta8 -> Sta13: AR-4
		if err := a.sendPDU(&pdu.ReleaseRP{}); err != nil {
			a.log.Info("association released", "error", err)
			return false, nil
		}
		a.log.Info("association released")
		return true, nil
	case errors.As(err, &aborted): // Sta6 -> Sta1: AA-3
		a.log.Warn("association aborted by the peer", "error", err)
		return false, err
	case errors.As(err, &bad): // Sta6 -> Sta13: AA-8
		a.log.Warn("association aborted", "error", err)
		a.sendAbort(pdu.AbortSourceProvider, bad.Reason)
		return true, err
	case errors.As(err, &breach): // Sta6 -> Sta13: AA-8 or, for the application, AA-1
		a.log.Warn("association aborted", "error", err)
		a.sendAbort(breach.source, breach.reason)
		return true, err
	case errors.Is(err, errPanic): // the log has it
		a.sendAbort(pdu.AbortSourceUser, pdu.ReasonNotSpecified) // Sta6 -> Sta13: AA-1
		return false, err
	case errors.Is(err, errIdle), errors.Is(err, errLifetime), errors.Is(err, errStopping), errors.Is(err, context.Canceled):
		a.log.Warn("association aborted", "error", err)
		a.sendAbort(pdu.AbortSourceUser, pdu.ReasonNotSpecified) // Sta6 -> Sta13: AA-1
		return true, err
	}
	a.log.Warn("connection lost", "error", err) // Sta6 -> Sta1: AA-4
	return false, err
}

// dispatch takes one request: it carries it out, or sees that it is carried out.
// It returns when the message has been read to its end. An error ends the
// association.
func (a *acceptor) dispatch(pc *presentation, rq *command) error {
	field := rq.field.value
	if field&commandResponse != 0 {
		return a.responded(pc, rq)
	}
	if field != commandCancelRQ && !rq.messageID.present {
		return userViolation("command %04XH without a Message ID", field)
	}
	data := &dataStream{x: &a.exchange, pc: pc}
	if !rq.hasDataSet() {
		data.err = io.EOF
	}
	switch field {
	case commandStoreRQ:
		return a.perform(pc, rq, data, func(ctx context.Context) *StatusError { return a.store(ctx, pc, rq, data) })
	case commandEchoRQ:
		return a.answer(pc, rq, data, &StatusError{Status: echoStatus(pc)})
	case commandCancelRQ: // which has no response
		if rq.respondedTo.present {
			a.cancelOne(rq.respondedTo.value)
		}
		return data.drain()
	case commandFindRQ, commandMoveRQ, commandGetRQ:
		if queryCommands[pc.abstractSyntax] != 0 {
			return a.perform(pc, rq, data, func(ctx context.Context) *StatusError { return a.query(ctx, pc, rq, data) })
		}
	case commandEventReportRQ, commandGetNRQ, commandSetRQ, commandActionRQ, commandCreateRQ, commandDeleteRQ:
		if _, ok := a.set.normalized[pc.abstractSyntax]; ok {
			return a.perform(pc, rq, data, func(ctx context.Context) *StatusError { return a.normalized(ctx, pc, rq, data) })
		}
	}
	a.log.Warn("unrecognized operation refused", "command", fmt.Sprintf("%04XH", field))
	return a.answer(pc, rq, data, &StatusError{Status: StatusUnrecognized})
}

// echoStatus refuses C-ECHO outside Verification, PS3.4 A.4.
func echoStatus(pc *presentation) Status {
	if pc.abstractSyntax != VerificationSOPClass {
		return StatusSOPClassNotSupported
	}
	return StatusSuccess
}

// answer drains what is left of a request and sends its response, both on the
// goroutine that reads.
func (a *acceptor) answer(pc *presentation, rq *command, data *dataStream, status *StatusError) error {
	if err := data.drain(); err != nil {
		return err
	}
	return a.writeCommand(pc, response(rq, status))
}
