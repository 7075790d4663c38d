// Package dimsetest helps to test the DICOM network side: a raw peer that sends
// bytes and expects PDUs, scripts of such steps, an in-memory listener for fake
// time (testing/synctest), and command sets encoded by a second hand.
//
// It knows nothing of package dimse, so that what it sends and expects comes
// from the standard and not from the code under test.
package dimsetest

import (
	"bytes"
	"errors"
	"io"
	"net"
	"testing"
	"time"

	"hilum/dimse/pdu"
)

// peerQueue is how many PDUs a peer keeps for a test that does not look.
const peerQueue = 1024

// maxPDU is what a peer reads: more than any server under test sends.
const maxPDU = 4 << 20

// Peer is one end of a connection, played by a test. It reads all the time, so
// that the other end never waits for the test.
type Peer struct {
	t      testing.TB
	conn   net.Conn
	events chan event
	done   chan struct{}
}

// event is a PDU, encoded again, or the error that ended the connection.
type event struct {
	kind pdu.Type
	raw  []byte
	err  error
	at   time.Time
}

// NewPeer plays the peer on conn until the test ends.
func NewPeer(t testing.TB, conn net.Conn) *Peer {
	p := &Peer{t: t, conn: conn, events: make(chan event, peerQueue), done: make(chan struct{})}
	go p.read()
	t.Cleanup(p.Close)
	return p
}

func (p *Peer) read() {
	defer close(p.done)
	defer close(p.events)
	r := pdu.NewReader(p.conn, maxPDU)
	for {
		got, err := r.Next()
		if err != nil {
			p.events <- event{err: err, at: time.Now()}
			return
		}
		raw, err := got.Append(nil)
		p.events <- event{kind: got.Type(), raw: raw, err: err, at: time.Now()}
	}
}

// Close closes the connection; it may be called several times.
func (p *Peer) Close() {
	_ = p.conn.Close() // the other end may have been first
	<-p.done
}

// Send writes bytes. It fails the test when the other end does not take them.
func (p *Peer) Send(b []byte) {
	p.t.Helper()
	if _, err := p.conn.Write(b); err != nil {
		p.t.Fatalf("Send(%d bytes) = %v, want no error", len(b), err)
	}
}

// SendPDU encodes and writes PDUs, all in one write.
func (p *Peer) SendPDU(pdus ...pdu.PDU) {
	p.t.Helper()
	p.Send(Encode(p.t, pdus...))
}

// Encode returns the PDUs one behind the other.
func Encode(t testing.TB, pdus ...pdu.PDU) []byte {
	t.Helper()
	var b []byte
	for _, one := range pdus {
		var err error
		if b, err = one.Append(b); err != nil {
			t.Fatal(err)
		}
	}
	return b
}

func (p *Peer) next(want string) event {
	p.t.Helper()
	e, ok := <-p.events
	if !ok {
		p.t.Fatalf("connection already ended, want %s", want)
	}
	return e
}

// ExpectType waits for the next PDU, which must be of this type, and returns it.
func (p *Peer) ExpectType(want pdu.Type) pdu.PDU {
	p.t.Helper()
	e := p.next(want.String())
	if e.err != nil {
		p.t.Fatalf("connection ended with %v, want %s", e.err, want)
	}
	got, err := pdu.Decode(e.raw)
	if err != nil {
		p.t.Fatal(err)
	}
	if e.kind != want {
		p.t.Fatalf("got %s %v, want %s", e.kind, got, want)
	}
	return got
}

// Expect waits for the next PDU, which must be exactly this one.
func (p *Peer) Expect(want pdu.PDU) {
	p.t.Helper()
	got := p.ExpectType(want.Type())
	if g, w := Encode(p.t, got), Encode(p.t, want); !bytes.Equal(g, w) {
		p.t.Fatalf("got %s %v, want %v", want.Type(), got, want)
	}
}

// ExpectClosed waits for the end of the connection, with no PDU before it, and
// returns when it came.
func (p *Peer) ExpectClosed() time.Time {
	p.t.Helper()
	e := p.next("the end of the connection")
	if e.err == nil {
		got, err := pdu.Decode(e.raw)
		p.t.Fatalf("got %s %v (%v), want the end of the connection", e.kind, got, err)
	}
	var invalid *pdu.Error
	if errors.As(e.err, &invalid) || errors.Is(e.err, io.ErrUnexpectedEOF) {
		p.t.Fatalf("connection ended with %v, want a clean end", e.err)
	}
	return e.at
}

// ExpectSilence fails when anything has come that was not looked at. Under
// testing/synctest, call synctest.Wait first.
func (p *Peer) ExpectSilence() {
	p.t.Helper()
	select {
	case e := <-p.events:
		p.t.Fatalf("got %s (%v), want nothing", e.kind, e.err)
	default:
	}
}

// Associate sends rq and returns the acceptance.
func (p *Peer) Associate(rq *pdu.AssociateRQ) *pdu.AssociateAC {
	p.t.Helper()
	p.SendPDU(rq)
	return p.ExpectType(pdu.TypeAssociateAC).(*pdu.AssociateAC)
}

// ExpectCommand waits for a P-DATA-TF with one whole command set and returns
// its elements.
func (p *Peer) ExpectCommand(contextID byte) Elements {
	p.t.Helper()
	d := p.ExpectType(pdu.TypeData).(*pdu.Data)
	v, ok := d.Next()
	if !ok || !v.Command || !v.Last || v.ContextID != contextID {
		p.t.Fatalf("got a PDV with context %d, command %v, last %v, want a whole command on context %d", v.ContextID, v.Command, v.Last, contextID)
	}
	if _, more := d.Next(); more {
		p.t.Fatal("got a second PDV, want one")
	}
	e, err := ParseCommand(v.Fragment)
	if err != nil {
		p.t.Fatal(err)
	}
	return e
}
