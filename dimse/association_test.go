package dimse_test

import (
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hilum/dimse"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
)

const artim = 30 * time.Second

// The events of PS3.8 table 9-10 that an acceptor meets, as what a peer does.
var (
	evt3    = dimsetest.SendPDU(&pdu.AssociateAC{ProtocolVersion: 1})
	evt4    = dimsetest.SendPDU(&pdu.AssociateRJ{Result: 1, Source: 1, Reason: 1})
	evt6    = dimsetest.SendPDU(request())
	evt6bad = dimsetest.SendPDU(&pdu.AssociateRQ{ProtocolVersion: 2, CalledAETitle: title("HILUM"), CallingAETitle: title("TEST")})
	evt10   = dimsetest.SendPDU(dimsetest.CommandPDU(1, dimsetest.EchoRQ(7)))
	evt12   = dimsetest.SendPDU(&pdu.ReleaseRQ{})
	evt13   = dimsetest.SendPDU(&pdu.ReleaseRP{})
	evt16   = dimsetest.SendPDU(&pdu.Abort{})
	evt16b  = dimsetest.Send(append([]byte{7, 0, 0, 0, 0, 4, 0, 0, 0, 0}, make([]byte, 1000)...)...) // and garbage behind it
	evt17   = dimsetest.CloseConn()
	evt19a  = dimsetest.Send([]byte("GET / HTTP/1.1\r\n\r\n")...) // unrecognized
	evt19b  = dimsetest.Send(5, 0, 0, 0, 0, 9)                    // invalid: A-RELEASE-RQ of 9 bytes
	evt19c  = dimsetest.Send(4, 0, 0xff, 0xff, 0xff, 0xff)        // invalid: longer than agreed
)

// What an acceptor does, as what a peer sees.
var (
	closedAtOnce  = dimsetest.ExpectClosedAfter(0)
	closedByARTIM = dimsetest.ExpectClosedAfter(artim)
	gone          = func(testing.TB, *dimsetest.Peer) {}
)

func abort(source pdu.AbortSource, reason pdu.AbortReason) dimsetest.Step {
	return dimsetest.Expect(&pdu.Abort{Source: source, Reason: reason})
}

// aa1 is the A-ABORT of the user; aa8 and aa7 that of the provider.
func aa1() dimsetest.Step { return abort(pdu.AbortSourceUser, pdu.ReasonNotSpecified) }
func aa8(r pdu.AbortReason) dimsetest.Step {
	return abort(pdu.AbortSourceProvider, r)
}

// TestStateTable is PS3.8 table 9-10 for an acceptor: every state it is found
// in, every event that can come there, forbidden ones included, and what the
// peer must see. Sta8 lasts only while operations run: see TestSta8.
func TestStateTable(t *testing.T) {
	const (
		unrecognized = pdu.ReasonUnrecognizedPDU
		unexpected   = pdu.ReasonUnexpectedPDU
		invalid      = pdu.ReasonInvalidParameter
	)
	ac := dimsetest.ExpectType(pdu.TypeAssociateAC)
	associated := dimsetest.Script{evt6, ac}
	rejected := dimsetest.Script{evt6bad, dimsetest.ExpectType(pdu.TypeAssociateRJ)}
	released := append(associated[:2:2], evt12, dimsetest.Expect(&pdu.ReleaseRP{}))
	aborted := append(associated[:2:2], evt13, aa8(unexpected))
	data := append(associated[:2:2], dimsetest.SendPDU(
		dimsetest.CommandPDU(3, dimsetest.StoreRQ(1, ctImage, instanceUID)), dimsetest.DataPDU(3, false, []byte("1234"))))
	states := []struct {
		name  string
		enter dimsetest.Script
		rows  []row
	}{
		{"Sta2", nil, []row{
			{"Evt3", evt3, dimsetest.Script{aa1(), closedByARTIM}},                      // AA-1
			{"Evt4", evt4, dimsetest.Script{aa1(), closedByARTIM}},                      // AA-1
			{"Evt6", evt6, dimsetest.Script{dimsetest.ExpectType(pdu.TypeAssociateAC)}}, // AE-6, AE-7
			{"Evt6 not acceptable", evt6bad, dimsetest.Script{ // AE-6
				dimsetest.Expect(&pdu.AssociateRJ{Result: 1, Source: 2, Reason: 2}), closedByARTIM}},
			{"Evt10", evt10, dimsetest.Script{aa1(), closedByARTIM}},          // AA-1
			{"Evt12", evt12, dimsetest.Script{aa1(), closedByARTIM}},          // AA-1
			{"Evt13", evt13, dimsetest.Script{aa1(), closedByARTIM}},          // AA-1
			{"Evt16", evt16, dimsetest.Script{closedAtOnce}},                  // AA-2
			{"Evt16 and garbage", evt16b, dimsetest.Script{closedAtOnce}},     // AA-2
			{"Evt17", evt17, dimsetest.Script{gone}},                          // AA-5
			{"Evt18", dimsetest.Send(1, 0), dimsetest.Script{closedByARTIM}},  // AA-2
			{"Evt19 no DICOM", evt19a, dimsetest.Script{aa1(), closedAtOnce}}, // AA-1, but nothing is waited for
			{"Evt19 TLS", dimsetest.Send(0x16, 3, 1, 1, 0x2E, 1), dimsetest.Script{aa1(), closedAtOnce}},
			{"Evt19 one byte", dimsetest.Send('S'), dimsetest.Script{aa1(), closedAtOnce}},
			{"Evt19 type 0", dimsetest.Send(0, 0, 0, 0, 0, 0), dimsetest.Script{aa1(), closedAtOnce}},
			{"Evt19 type 8", dimsetest.Send(8, 0, 0, 0, 0, 4), dimsetest.Script{aa1(), closedAtOnce}},
			{"Evt19 invalid", evt19b, dimsetest.Script{aa1(), closedByARTIM}},  // AA-1
			{"Evt19 too long", evt19c, dimsetest.Script{aa1(), closedByARTIM}}, // AA-1
		}},
		// What comes before the answer is read behind it: Sta3 shows as Sta6.
		{"Sta3", nil, []row{
			{"Evt3", early(&pdu.AssociateAC{ProtocolVersion: 1}), dimsetest.Script{ac, aa8(unexpected), closedByARTIM}},              // AA-8
			{"Evt4", early(&pdu.AssociateRJ{Result: 1, Source: 1, Reason: 1}), dimsetest.Script{ac, aa8(unexpected), closedByARTIM}}, // AA-8
			{"Evt6", early(request()), dimsetest.Script{ac, aa8(unexpected), closedByARTIM}},                                         // AA-8
			{"Evt10", early(dimsetest.CommandPDU(1, dimsetest.EchoRQ(7))), dimsetest.Script{ac, dimsetest.ExpectType(pdu.TypeData)}}, // for Sta6, DT-2
			{"Evt12", early(&pdu.ReleaseRQ{}), dimsetest.Script{ac, dimsetest.Expect(&pdu.ReleaseRP{}), closedByARTIM}},              // for Sta6, AR-2
			{"Evt13", early(&pdu.ReleaseRP{}), dimsetest.Script{ac, aa8(unexpected), closedByARTIM}},                                 // AA-8
			{"Evt16", early(&pdu.Abort{}), dimsetest.Script{ac, closedAtOnce}},                                                       // AA-3
			{"Evt17", func(t testing.TB, p *dimsetest.Peer) { p.SendPDU(request()); p.Close() }, dimsetest.Script{gone}},             // AA-4
			{"Evt19 unrecognized", func(t testing.TB, p *dimsetest.Peer) {
				p.Send(append(dimsetest.Encode(t, request()), "GET / HTTP/1.1\r\n\r\n"...))
			}, dimsetest.Script{ac, aa8(unrecognized), closedByARTIM}}, // AA-8
		}},
		{"Sta6", associated, []row{
			{"Evt3", evt3, dimsetest.Script{aa8(unexpected), closedByARTIM}},                      // AA-8
			{"Evt4", evt4, dimsetest.Script{aa8(unexpected), closedByARTIM}},                      // AA-8
			{"Evt6", evt6, dimsetest.Script{aa8(unexpected), closedByARTIM}},                      // AA-8
			{"Evt10", evt10, dimsetest.Script{dimsetest.ExpectType(pdu.TypeData)}},                // DT-2
			{"Evt12", evt12, dimsetest.Script{dimsetest.Expect(&pdu.ReleaseRP{}), closedByARTIM}}, // AR-2, AR-4
			{"Evt13", evt13, dimsetest.Script{aa8(unexpected), closedByARTIM}},                    // AA-8
			{"Evt16", evt16, dimsetest.Script{closedAtOnce}},                                      // AA-3
			{"Evt16 and garbage", evt16b, dimsetest.Script{closedAtOnce}},                         // AA-3
			{"Evt17", evt17, dimsetest.Script{gone}},                                              // AA-4
			{"Evt19 unrecognized", evt19a, dimsetest.Script{aa8(unrecognized), closedByARTIM}},    // AA-8
			{"Evt19 invalid", evt19b, dimsetest.Script{aa8(invalid), closedByARTIM}},              // AA-8
			{"Evt19 too long", evt19c, dimsetest.Script{aa8(invalid), closedByARTIM}},             // AA-8
		}},
		{"Sta6 within a data set", data, []row{
			{"Evt3", evt3, dimsetest.Script{aa8(unexpected), closedByARTIM}},
			{"Evt4", evt4, dimsetest.Script{aa8(unexpected), closedByARTIM}},
			{"Evt6", evt6, dimsetest.Script{aa8(unexpected), closedByARTIM}},
			{"Evt13", evt13, dimsetest.Script{aa8(unexpected), closedByARTIM}},
			{"Evt10 command", evt10, dimsetest.Script{aa8(invalid), closedByARTIM}}, // another context
			{"Evt12", evt12, dimsetest.Script{aa1(), closedByARTIM}},                // the application aborts
			{"Evt16", evt16, dimsetest.Script{closedAtOnce}},
			{"Evt16 and garbage", evt16b, dimsetest.Script{closedAtOnce}},
			{"Evt17", evt17, dimsetest.Script{gone}},
			{"Evt19 unrecognized", evt19a, dimsetest.Script{aa8(unrecognized), closedByARTIM}},
			{"Evt19 too long", evt19c, dimsetest.Script{aa8(invalid), closedByARTIM}},
		}},
		{"Sta13 after a rejection", rejected, sta13()},
		{"Sta13 after a release", released, sta13()},
		{"Sta13 after an abort", aborted, sta13()},
	}
	for _, state := range states {
		events := make([]string, len(state.rows))
		for i, r := range state.rows {
			events[i] = r.event
		}
		everyEvent(t, state.name, events)
		for _, r := range state.rows {
			t.Run(state.name+" "+r.event, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := &recorder{}
					l := listen(t, &dimse.Server{Handler: h})
					p := dial(t, l)
					state.enter.Run(t, p)
					r.do(t, p)
					r.want.Run(t, p)
					p.Close()
					synctest.Wait()
					if opened, closed := h.ends(); opened != len(closed) {
						t.Errorf("%d associations opened, %d closed", opened, len(closed))
					}
					if got := h.take(); len(got) != 0 {
						t.Errorf("stored %v, want nothing", got)
					}
				})
			})
		}
	}
}

// early sends a PDU right behind the A-ASSOCIATE-RQ, before it can be answered.
func early(p pdu.PDU) dimsetest.Step {
	return dimsetest.SendPDU(request(), p)
}

// row is one event in one state.
type row struct {
	event string
	do    dimsetest.Step
	want  dimsetest.Script
}

// sta13 is the same however the state was reached.
func sta13() []row {
	ignored := dimsetest.Script{closedByARTIM}                                // AA-6
	answered := dimsetest.Script{aa8(pdu.ReasonUnexpectedPDU), closedByARTIM} // AA-7
	return []row{
		{"Evt3", evt3, ignored},
		{"Evt4", evt4, ignored},
		{"Evt6", evt6, answered},
		{"Evt10", evt10, ignored},
		{"Evt12", evt12, ignored},
		{"Evt13", evt13, ignored},
		{"Evt16", evt16, dimsetest.Script{closedAtOnce}}, // AA-2
		{"Evt16 and garbage", evt16b, dimsetest.Script{closedAtOnce}},
		{"Evt17", evt17, dimsetest.Script{gone}},                 // AR-5
		{"Evt18", func(testing.TB, *dimsetest.Peer) {}, ignored}, // AA-2
		{"Evt19", evt19a, dimsetest.Script{aa8(pdu.ReasonUnrecognizedPDU), closedByARTIM}}, // AA-7
		{"Evt19 and more", dimsetest.Send(make([]byte, 100_000)...), dimsetest.Script{aa8(pdu.ReasonUnrecognizedPDU), closedByARTIM}},
	}
}

// TestTimers holds each deadline to its time.
func TestTimers(t *testing.T) {
	const idle, lifetime = 2 * time.Minute, 5 * time.Minute
	echo := func(p *dimsetest.Peer) {
		p.SendPDU(dimsetest.CommandPDU(1, dimsetest.EchoRQ(1)))
		p.ExpectCommand(1)
	}
	tests := []struct {
		name string
		play func(t *testing.T, p *dimsetest.Peer)
		want time.Duration // from the connection to the A-ABORT, or the close
		end  dimsetest.Script
	}{
		{"ARTIM with nothing sent", func(*testing.T, *dimsetest.Peer) {}, artim, dimsetest.Script{closedAtOnce}},
		{"ARTIM with a byte now and then", func(t *testing.T, p *dimsetest.Peer) {
			for _, b := range dimsetest.Encode(t, request())[:6] {
				p.Send([]byte{b})
				time.Sleep(artim / 8) // fake time
			}
		}, artim, dimsetest.Script{closedAtOnce}},
		{"idle between messages", func(_ *testing.T, p *dimsetest.Peer) {
			p.Associate(request())
			time.Sleep(time.Minute)
			echo(p)
		}, time.Minute + idle, dimsetest.Script{aa1(), closedByARTIM}},
		{"idle within a PDU, byte by byte", func(_ *testing.T, p *dimsetest.Peer) {
			p.Associate(request())
			for _, b := range []byte{4, 0, 0, 0} {
				p.Send([]byte{b})
				time.Sleep(idle / 5)
			}
		}, idle, dimsetest.Script{aa1(), closedByARTIM}},
		{"idle within a data set", func(_ *testing.T, p *dimsetest.Peer) {
			p.Associate(request())
			p.SendPDU(dimsetest.CommandPDU(3, dimsetest.StoreRQ(1, ctImage, instanceUID)), dimsetest.DataPDU(3, false, []byte("1234")))
		}, idle, dimsetest.Script{aa1(), closedByARTIM}},
		{"lifetime of a busy association", func(_ *testing.T, p *dimsetest.Peer) {
			p.Associate(request())
			for range 4 {
				time.Sleep(time.Minute)
				echo(p)
			}
		}, lifetime, dimsetest.Script{aa1(), closedByARTIM}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := listen(t, &dimse.Server{Handler: &recorder{}, Idle: idle, Lifetime: lifetime})
				begin := time.Now()
				p := dial(t, l)
				tt.play(t, p)
				if early := time.Until(begin.Add(tt.want)) - time.Nanosecond; early > 0 {
					time.Sleep(early)
				}
				synctest.Wait()
				p.ExpectSilence()
				time.Sleep(time.Nanosecond)
				tt.end.Run(t, p)
			})
		})
	}
}

// TestLongVersion: the log gets as much of an implementation version name as may be in
// one, however much the peer sends.
func TestLongVersion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log guardedBuffer
		rq := request()
		rq.User.ImplementationVersionName = strings.Repeat("x", 60_000)
		p := dial(t, listen(t, &dimse.Server{Logger: slog.New(slog.NewTextHandler(&log, nil))}))
		p.Associate(rq)
		p.Close()
		synctest.Wait()
		if text := log.take(); !strings.Contains(text, "peer_version="+strings.Repeat("x", 16)+"\n") || len(text) > 2000 {
			t.Errorf("log of %d bytes, want 16 of the version name in it", len(text))
		}
	})
}
