package dimse

import (
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"time"

	"hilum/dimse/pdu"
)

// The reasons why this side ends an association by itself.
var (
	errIdle     = errors.New("the peer was silent for longer than the timeout")
	errLifetime = errors.New("the association lasted longer than the lifetime allows")
	errStopping = errors.New("the server is stopping")
	errARTIM    = errors.New("no association request came before the ARTIM timer expired")
)

// transport is one connection with its PDU reader and its deadlines. One
// goroutine at a time reads; any may write, and call what says so.
type transport struct {
	conn net.Conn
	pdus *pdu.Reader
	idle time.Duration // for each PDU read and each write
	end  time.Time     // of the lifetime; zero is none
	lost bool          // a read failed: what follows cannot be told apart

	writing sync.Mutex // held while whole PDUs are written
	write   []byte     // guarded by writing: the last PDU written, used again

	mu          sync.Mutex // guards all below
	receiving   bool       // a message is being received
	running     int        // operations that owe the peer an answer
	releasing   bool       // the peer has asked for the release
	stopping    bool       // end when not receiving
	interrupted bool       // end now
	muted       bool       // an A-ABORT was sent: nothing follows it
	failure     error      // what went wrong beside the goroutine that reads
}

// past is a deadline that makes a blocked read or write return at once.
var past = time.Unix(1, 0)

func newTransport(conn net.Conn, maxData uint32, idle time.Duration, end time.Time) *transport {
	t := &transport{conn: conn, idle: idle, end: end}
	if tcp, ok := tcpConn(conn); ok {
		_ = tcp.SetNoDelay(true) // Go's default; a failure costs speed only
	}
	t.pdus = pdu.NewReader(&source{conn: conn, ack: quickAck(conn)}, maxData)
	return t
}

// tcpConn finds the TCP connection, under TLS too.
func tcpConn(c net.Conn) (*net.TCPConn, bool) {
	tcp, ok := bare(c).(*net.TCPConn)
	return tcp, ok
}

// source is the connection as the PDU reader sees it.
type source struct {
	conn net.Conn
	ack  func() // quickAck, nil where it does not apply
}

// Read has what comes next acknowledged at once, and reads it.
func (s *source) Read(p []byte) (int, error) {
	if s.ack != nil {
		s.ack()
	}
	return s.conn.Read(p)
}

// next returns the next PDU. The idle timeout runs for the whole PDU, so that a
// peer cannot hold the connection by sending a byte now and then.
func (t *transport) next() (pdu.PDU, error) {
	if err := t.armRead(time.Now().Add(t.idle)); err != nil {
		return nil, err
	}
	p, err := t.pdus.Next()
	if err != nil {
		t.lost = true
	}
	return p, t.cause(err)
}

// armRead sets the read deadline, unless the association is to end. While the
// peer waits for an answer its silence has no limit.
func (t *transport) armRead(deadline time.Time) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failure != nil {
		return t.failure
	}
	if t.interrupted || t.stopping && !t.receiving {
		return errStopping
	}
	if t.running > 0 && !t.receiving {
		deadline = time.Time{} // operationEnded sets one
	}
	return t.conn.SetReadDeadline(t.earlier(deadline))
}

// earlier cuts a deadline, of which zero is none, at the end of the lifetime.
func (t *transport) earlier(deadline time.Time) time.Time {
	if !t.end.IsZero() && (deadline.IsZero() || t.end.Before(deadline)) {
		return t.end
	}
	return deadline
}

// cause names the reason behind an expired deadline.
func (t *transport) cause(err error) error {
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.failure != nil:
		return t.failure
	case t.stopping || t.interrupted:
		return errStopping
	case !t.end.IsZero() && !time.Now().Before(t.end):
		return errLifetime
	}
	return errIdle
}

// send writes bytes, whole PDUs, in one write. It may be called from any
// goroutine.
func (t *transport) send(b []byte) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	return t.sendHeld(b)
}

// sendHeld is send where t.writing is held.
func (t *transport) sendHeld(b []byte) error {
	t.mu.Lock()
	if t.interrupted || t.muted {
		t.mu.Unlock()
		return errStopping
	}
	err := t.conn.SetWriteDeadline(t.earlier(time.Now().Add(t.idle)))
	t.mu.Unlock()
	if err != nil {
		return err
	}
	if _, err := t.conn.Write(b); err != nil {
		return t.cause(err)
	}
	return nil
}

// sendPDU encodes and writes a PDU. It may be called from any goroutine.
func (t *transport) sendPDU(p pdu.PDU) error {
	t.writing.Lock()
	defer t.writing.Unlock()
	b, err := p.Append(t.write[:0])
	if err != nil {
		return err
	}
	t.write = b
	if err := t.sendHeld(b); err != nil {
		return fmt.Errorf("write %s: %w", p.Type(), err)
	}
	return nil
}

// abortWriteTimeout bounds the farewell to a peer that no longer reads.
const abortWriteTimeout = time.Second

// sendAbort writes an A-ABORT, also when the association was interrupted, and
// sees to it that nothing follows it. The connection ends either way, so nobody
// needs the error.
func (t *transport) sendAbort(source pdu.AbortSource, reason pdu.AbortReason) {
	b, err := (&pdu.Abort{Source: source, Reason: reason}).Append(nil)
	if err != nil {
		return
	}
	t.mu.Lock()
	t.muted = true
	_ = t.conn.SetWriteDeadline(time.Now().Add(abortWriteTimeout)) // also of a write under way
	t.mu.Unlock()
	t.writing.Lock()
	defer t.writing.Unlock()
	_ = t.conn.SetWriteDeadline(time.Now().Add(abortWriteTimeout))
	_, _ = t.conn.Write(b)
}

// setReceiving marks the begin and the end of the reception of a message.
func (t *transport) setReceiving(receiving bool) {
	t.mu.Lock()
	t.receiving = receiving
	t.mu.Unlock()
}

// operationBegun counts an operation that owes the peer an answer.
func (t *transport) operationBegun() {
	t.mu.Lock()
	t.running++
	t.mu.Unlock()
}

// operationEnded undoes operationBegun. With the last answer it is the peer's
// turn again. It may be called from any goroutine.
func (t *transport) operationEnded() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running--
	if t.running == 0 && t.releasing && !t.receiving {
		_ = t.conn.SetReadDeadline(past) // wakes awaitAnswered
		return
	}
	if t.running == 0 && !t.receiving && !t.stopping && !t.interrupted && t.failure == nil {
		_ = t.conn.SetReadDeadline(t.earlier(time.Now().Add(t.idle))) // a closed connection needs none
	}
}

// awaitAnswered waits until no operation owes the peer an answer, and returns nil and
// nil; or the PDU that the peer sends before, or what ends the connection.
func (t *transport) awaitAnswered() (pdu.PDU, error) {
	t.mu.Lock()
	t.releasing = true
	t.mu.Unlock()
	for {
		t.mu.Lock()
		switch {
		case t.failure != nil:
			defer t.mu.Unlock()
			return nil, t.failure
		case t.interrupted:
			t.mu.Unlock()
			return nil, errStopping
		case t.running == 0 || t.stopping: // which awaits the answers, too
			t.mu.Unlock()
			return nil, nil
		case !t.end.IsZero() && !time.Now().Before(t.end):
			t.mu.Unlock()
			return nil, errLifetime
		}
		err := t.conn.SetReadDeadline(t.earlier(time.Time{}))
		t.mu.Unlock()
		if err == nil {
			err = t.pdus.Wait()
		}
		switch {
		case err == nil:
			t.setReceiving(true) // it has the idle time to send the rest
			return t.next()
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return nil, err
		}
	}
}

// idling says whether no operation owes the peer an answer.
func (t *transport) idling() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.running == 0
}

// fail ends the association by what went wrong beside the goroutine that reads.
// It may be called from any goroutine; the first failure counts.
func (t *transport) fail(err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.failure == nil {
		t.failure = err
		_ = t.conn.SetReadDeadline(past) // a closed connection needs no waking
	}
}

// failing says whether fail was called.
func (t *transport) failing() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.failure != nil
}

// stop ends the association once the message that is being received, if any, is
// there; what was received is answered. It may be called from any goroutine.
func (t *transport) stop() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stopping = true
	if !t.receiving {
		_ = t.conn.SetReadDeadline(past) // a closed connection needs no waking
	}
}

// interrupt ends the association at the next read or write, or the one that
// waits now. It may be called from any goroutine.
func (t *transport) interrupt() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.interrupted = true
	_ = t.conn.SetDeadline(past) // as above
}

// cut closes the connection without a farewell. It may be called from any
// goroutine, and unlike a close under TLS never waits for the peer.
func (t *transport) cut() { _ = bare(t.conn).Close() }

// stoppingLinger is how long a stopping server waits for a peer to take notice
// of an A-ABORT.
const stoppingLinger = 500 * time.Millisecond

// awaitClose is Sta13: wait for the peer to close the connection, at most for
// the ARTIM time, so that what was written last is not lost in a reset.
// PS3.8 table 9-10: AA-6 ignores PDUs, AA-7 answers an A-ASSOCIATE-RQ and an
// invalid PDU with A-ABORT (here once), AA-2 and AR-5 close on A-ABORT and at
// the end of the connection.
func (t *transport) awaitClose(artim time.Duration) {
	t.mu.Lock()
	t.receiving = false // stop may wake this
	if t.stopping || t.interrupted {
		artim = min(artim, stoppingLinger)
	}
	err := t.conn.SetReadDeadline(time.Now().Add(artim))
	t.mu.Unlock()
	if err != nil {
		return
	}
	if t.lost {
		_ = t.pdus.Discard() // ends with the connection or ARTIM
		return
	}
	aborted := false
	for {
		p, err := t.pdus.Next()
		if bad := (*pdu.Error)(nil); errors.As(err, &bad) {
			if !aborted {
				t.sendAbort(pdu.AbortSourceProvider, bad.Reason) // AA-7
			}
			_ = t.pdus.Discard() // as above
			return
		}
		if err != nil {
			return // AR-5, or AA-2 when ARTIM expired
		}
		switch p.(type) {
		case *pdu.Abort:
			return // AA-2
		case *pdu.AssociateRQ:
			if !aborted {
				t.sendAbort(pdu.AbortSourceProvider, pdu.ReasonUnexpectedPDU) // AA-7
			}
			aborted = true
		}
	}
}
