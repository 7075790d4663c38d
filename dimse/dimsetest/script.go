package dimsetest

import (
	"testing"
	"time"

	"hilum/dimse/pdu"
)

// Step is one thing a scripted peer does.
type Step func(t testing.TB, p *Peer)

// Script is what a peer does, in order.
type Script []Step

// Run plays the script.
func (s Script) Run(t testing.TB, p *Peer) {
	t.Helper()
	for _, step := range s {
		step(t, p)
	}
}

// Send writes bytes.
func Send(b ...byte) Step {
	return func(t testing.TB, p *Peer) { t.Helper(); p.Send(b) }
}

// SendPDU writes PDUs in one write.
func SendPDU(pdus ...pdu.PDU) Step {
	return func(t testing.TB, p *Peer) { t.Helper(); p.SendPDU(pdus...) }
}

// Expect waits for exactly this PDU.
func Expect(want pdu.PDU) Step {
	return func(t testing.TB, p *Peer) { t.Helper(); p.Expect(want) }
}

// ExpectType waits for a PDU of this type.
func ExpectType(want pdu.Type) Step {
	return func(t testing.TB, p *Peer) { t.Helper(); p.ExpectType(want) }
}

// ExpectClosed waits for the end of the connection.
func ExpectClosed() Step {
	return func(t testing.TB, p *Peer) { t.Helper(); p.ExpectClosed() }
}

// ExpectClosedAfter waits for the end of the connection, which must come when
// exactly d has passed since this step began. It is for fake time.
func ExpectClosedAfter(d time.Duration) Step {
	return func(t testing.TB, p *Peer) {
		t.Helper()
		begin := time.Now()
		if got := p.ExpectClosed().Sub(begin); got != d {
			t.Fatalf("connection ended after %v, want %v", got, d)
		}
	}
}

// CloseConn closes the peer's end.
func CloseConn() Step {
	return func(_ testing.TB, p *Peer) { p.Close() }
}
