package dimse_test

import (
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"

	"hilum/dimse"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
)

// end is how an operation of the requestor must end.
type end string

const (
	fine     end = "nil"
	rejected end = "*RejectError"
	aborted  end = "*AbortError"
	failed   end = "another error"
)

func endOf(err error) end {
	var rj *dimse.RejectError
	var ab *dimse.AbortError
	switch {
	case err == nil:
		return fine
	case errors.As(err, &rj):
		return rejected
	case errors.As(err, &ab):
		return aborted
	}
	return failed
}

// requestorRow is one event in one state of the requestor.
type requestorRow struct {
	event string
	do    dimsetest.Step
	want  dimsetest.Script
	end   end
}

// TestRequestorStateTable is PS3.8 table 9-10 for a requestor: every state that
// lasts, every event that a peer can cause there, forbidden ones included, and
// what the peer and the caller must see. Sta4 has no PDUs; Sta9 lasts no time.
// Sta13 has no rows: this side closes the connection right behind its A-ABORT,
// and at once in all other ends.
func TestRequestorStateTable(t *testing.T) {
	const (
		unrecognized = pdu.ReasonUnrecognizedPDU
		unexpected   = pdu.ReasonUnexpectedPDU
		invalid      = pdu.ReasonInvalidParameter
	)
	var (
		evt3  = dimsetest.SendPDU(accept())
		echo  = dimsetest.SendPDU(dimsetest.CommandPDU(1, dimsetest.Elements{dimsetest.CommandField: dimsetest.US(0x8030), dimsetest.MessageIDBeingRespondedTo: dimsetest.US(1), dimsetest.DataSetType: dimsetest.US(0x0101), dimsetest.Status: dimsetest.US(0)}))
		stray = dimsetest.SendPDU(dimsetest.CommandPDU(9, dimsetest.EchoRQ(1)))
		quiet = func(testing.TB, *dimsetest.Peer) {} // until the timeout
		bye   = dimsetest.Script{closedAtOnce}
	)
	breach := func(r pdu.AbortReason) dimsetest.Script { return dimsetest.Script{aa8(r), closedAtOnce} } // AA-8
	// What is invalid is invalid in every state.
	nonsense := []requestorRow{
		{"Evt19 unrecognized", evt19a, breach(unrecognized), failed},
		{"Evt19 invalid", evt19b, breach(invalid), failed},
		{"Evt19 too long", evt19c, breach(invalid), failed},
	}
	states := []struct {
		name  string
		start func(t *testing.T) (*dimsetest.Peer, func() error) // the operation that waits in the state
		enter dimsetest.Script                                   // what brings it there
		rows  []requestorRow
	}{
		{"Sta5", requesting, dimsetest.Script{dimsetest.ExpectType(pdu.TypeAssociateRQ)}, []requestorRow{
			{"Evt3", evt3, nil, fine},                                                      // AE-3
			{"Evt4", evt4, bye, rejected},                                                  // AE-4
			{"Evt6", evt6, breach(unexpected), failed},                                     // AA-8
			{"Evt10", evt10, breach(unexpected), failed},                                   // AA-8
			{"Evt12", evt12, breach(unexpected), failed},                                   // AA-8
			{"Evt13", evt13, breach(unexpected), failed},                                   // AA-8
			{"Evt16", evt16, bye, aborted},                                                 // AA-3
			{"Evt17", evt17, dimsetest.Script{gone}, failed},                               // AA-4
			{"Evt15 by the timeout", quiet, dimsetest.Script{aa1(), closedAtOnce}, failed}, // AA-1
		}},
		{"Sta6", echoing, dimsetest.Script{dimsetest.ExpectType(pdu.TypeData)}, []requestorRow{
			{"Evt3", evt3, breach(unexpected), failed},                                                   // AA-8
			{"Evt4", evt4, breach(unexpected), failed},                                                   // AA-8
			{"Evt6", evt6, breach(unexpected), failed},                                                   // AA-8
			{"Evt10", echo, nil, fine},                                                                   // DT-2
			{"Evt10 on a context that is not open", stray, breach(invalid), failed},                      // DT-2, then AA-8
			{"Evt12", evt12, dimsetest.Script{dimsetest.Expect(&pdu.ReleaseRP{}), closedAtOnce}, failed}, // AR-2, AR-4
			{"Evt13", evt13, breach(unexpected), failed},                                                 // AA-8
			{"Evt16", evt16, bye, aborted},                                                               // AA-3
			{"Evt17", evt17, dimsetest.Script{gone}, failed},                                             // AA-4
			{"Evt15 by the timeout", quiet, dimsetest.Script{aa1(), closedAtOnce}, failed},               // AA-1
		}},
		{"Sta7", releasing, dimsetest.Script{dimsetest.Expect(&pdu.ReleaseRQ{})}, []requestorRow{
			{"Evt3", evt3, breach(unexpected), failed},                                                                                      // AA-8
			{"Evt4", evt4, breach(unexpected), failed},                                                                                      // AA-8
			{"Evt6", evt6, breach(unexpected), failed},                                                                                      // AA-8
			{"Evt10", dimsetest.SendPDU(dimsetest.CommandPDU(1, dimsetest.EchoRQ(7)), &pdu.ReleaseRP{}), bye, fine},                         // AR-6, AR-3
			{"Evt12", evt12, dimsetest.Script{dimsetest.Expect(&pdu.ReleaseRP{}), dimsetest.SendPDU(&pdu.ReleaseRP{}), closedAtOnce}, fine}, // AR-8, AR-9, AR-3
			{"Evt13", evt13, bye, fine},                                                                                                     // AR-3
			{"Evt16", evt16, bye, aborted},                                                                                                  // AA-3
			{"Evt17", evt17, dimsetest.Script{gone}, failed},                                                                                // AA-4
			{"Evt15 by the timeout", quiet, dimsetest.Script{aa1(), closedAtOnce}, failed},                                                  // AA-1
		}},
		{"Sta11", releasing, dimsetest.Script{dimsetest.Expect(&pdu.ReleaseRQ{}), evt12, dimsetest.Expect(&pdu.ReleaseRP{})}, []requestorRow{
			{"Evt3", evt3, breach(unexpected), failed},                                     // AA-8
			{"Evt4", evt4, breach(unexpected), failed},                                     // AA-8
			{"Evt6", evt6, breach(unexpected), failed},                                     // AA-8
			{"Evt10", evt10, breach(unexpected), failed},                                   // AA-8
			{"Evt12", evt12, breach(unexpected), failed},                                   // AA-8
			{"Evt13", evt13, bye, fine},                                                    // AR-3
			{"Evt16", evt16, bye, aborted},                                                 // AA-3
			{"Evt17", evt17, dimsetest.Script{gone}, failed},                               // AA-4
			{"Evt15 by the timeout", quiet, dimsetest.Script{aa1(), closedAtOnce}, failed}, // AA-1
		}},
	}
	for _, state := range states {
		rows := append(state.rows, nonsense...)
		events := make([]string, len(rows))
		for i, r := range rows {
			events[i] = r.event
		}
		everyEvent(t, state.name, events)
		for _, r := range rows {
			t.Run(state.name+" "+r.event, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					p, operation := state.start(t)
					result := make(chan error, 1)
					go func() { result <- operation() }()
					state.enter.Run(t, p)
					r.do(t, p)
					r.want.Run(t, p)
					err := <-result
					if got := endOf(err); got != r.end {
						t.Errorf("the operation ended with %v, want %s", err, r.end)
					}
				})
			})
		}
	}
}

// everyEvent fails the test when a state leaves out an event that a peer can
// cause: Evt3 A-ASSOCIATE-AC, Evt4 -RJ, Evt6 -RQ, Evt10 P-DATA-TF, Evt12
// A-RELEASE-RQ, Evt13 -RP, Evt16 A-ABORT, Evt17 the end of the connection, Evt19
// anything that is no valid PDU.
func everyEvent(t *testing.T, state string, rows []string) {
	t.Helper()
	for _, event := range []string{"Evt3", "Evt4", "Evt6", "Evt10", "Evt12", "Evt13", "Evt16", "Evt17", "Evt19"} {
		found := false
		for _, row := range rows {
			found = found || row == event || strings.HasPrefix(row, event+" ")
		}
		if !found {
			t.Errorf("%s has no row for %s", state, event)
		}
	}
}

// requesting is Sta5: the A-ASSOCIATE-RQ is sent.
func requesting(t *testing.T) (*dimsetest.Peer, func() error) {
	near, far := net.Pipe()
	return dimsetest.NewPeer(t, far), func() error {
		conn, err := newClient().Associate(t.Context(), near)
		if err == nil {
			t.Cleanup(func() { _ = conn.Close() })
		}
		return err
	}
}

// echoing is Sta6: a C-ECHO-RQ is sent.
func echoing(t *testing.T) (*dimsetest.Peer, func() error) {
	conn, p := open(t)
	return p, func() error { return conn.Echo(t.Context()) }
}

// releasing is Sta7: the A-RELEASE-RQ is sent.
func releasing(t *testing.T) (*dimsetest.Peer, func() error) {
	conn, p := open(t)
	return p, func() error { return conn.Release(t.Context()) }
}
