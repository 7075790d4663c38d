package dimse_test

import (
	"context"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"hilum/dimse"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
)

// gate is a Handler whose operations wait until they are let go, each by the
// last digit of its Message ID.
type gate struct {
	recorder
	begun chan uint16
	open  [10]chan error
}

func newGate() *gate {
	g := &gate{begun: make(chan uint16, 100)}
	for i := range g.open {
		g.open[i] = make(chan error, 1)
	}
	return g
}

func (g *gate) CStore(ctx context.Context, req *dimse.StoreRequest) error {
	if _, err := io.Copy(io.Discard, req.Data); err != nil {
		return err
	}
	g.begun <- req.MessageID
	select {
	case err := <-g.open[req.MessageID%10]:
		return err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// running returns the operations that have begun since it was last asked.
func (g *gate) running() []uint16 {
	synctest.Wait()
	var ids []uint16
	for len(g.begun) > 0 {
		ids = append(ids, <-g.begun)
	}
	slices.Sort(ids)
	return ids
}

// invoke sends C-STORE requests, none of which waits for an answer.
func invoke(p *dimsetest.Peer, ids ...uint16) {
	for _, id := range ids {
		p.SendPDU(dimsetest.CommandPDU(3, dimsetest.StoreRQ(id, ctImage, instanceUID)), dimsetest.DataPDU(3, true, []byte("data")))
	}
}

func expectAnswer(t *testing.T, p *dimsetest.Peer, id uint16, status dimse.Status) {
	t.Helper()
	e := p.ExpectCommand(3)
	if got := e.Number(dimsetest.MessageIDBeingRespondedTo); got != int(id) || e.Number(dimsetest.Status) != int(status) {
		t.Errorf("response to message %d is %04XH, want to %d %v", got, e.Number(dimsetest.Status), id, status)
	}
}

// window asks for an association with so many operations at once.
func window(t *testing.T, l *dimsetest.Listener, operations uint16) *dimsetest.Peer {
	p := dial(t, l)
	rq := request()
	rq.User.AsyncOperations = &pdu.AsyncOperations{Invoked: operations, Performed: 1}
	p.Associate(rq)
	return p
}

// TestWindowNegotiation is PS3.7 D.3.3.3, where 0 is any number.
func TestWindowNegotiation(t *testing.T) {
	for _, tt := range []struct {
		server                   int
		proposed, performed      uint16
		wantInvoked, wantPerform uint16
	}{
		{0, 0, 0, dimse.DefaultMaxOperations, 1},
		{0, 1, 1, 1, 1},
		{0, 3, 5, 3, 1},
		{0, 1000, 0, dimse.DefaultMaxOperations, 1},
		{1, 0, 0, 1, 1},
		{20, 16, 1, 16, 1},
	} {
		synctest.Test(t, func(t *testing.T) {
			p := dial(t, listen(t, &dimse.Server{MaxOperations: tt.server}))
			rq := request()
			rq.User.AsyncOperations = &pdu.AsyncOperations{Invoked: tt.proposed, Performed: tt.performed}
			got := p.Associate(rq).User.AsyncOperations
			if got == nil || got.Invoked != tt.wantInvoked || got.Performed != tt.wantPerform {
				t.Errorf("answer to %d, %d with %d at once = %+v, want %d, %d", tt.proposed, tt.performed, tt.server, got, tt.wantInvoked, tt.wantPerform)
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		ac := dial(t, listen(t, &dimse.Server{})).Associate(request())
		if got := ac.User.AsyncOperations; got != nil {
			t.Errorf("answer without a proposal = %+v, want none", got)
		}
	})
}

// TestResponsesInAnyOrder performs operations at once and answers each when it
// is done.
func TestResponsesInAnyOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		p := window(t, listen(t, &dimse.Server{Handler: g}), 3)
		invoke(p, 1, 2, 3)
		if got := g.running(); !slices.Equal(got, []uint16{1, 2, 3}) {
			t.Fatalf("operations %v run at once, want 1, 2 and 3", got)
		}
		p.ExpectSilence()
		g.open[3] <- nil
		expectAnswer(t, p, 3, dimse.StatusSuccess)
		g.open[1] <- &dimse.StatusError{Status: dimse.StatusOutOfResources}
		expectAnswer(t, p, 1, dimse.StatusOutOfResources)
		p.SendPDU(dimsetest.CommandPDU(1, dimsetest.EchoRQ(9)))
		p.ExpectCommand(1)
		g.open[2] <- nil
		expectAnswer(t, p, 2, dimse.StatusSuccess)
		p.SendPDU(&pdu.ReleaseRQ{})
		p.Expect(&pdu.ReleaseRP{})
	})
}

// TestWindowViolation serialises what a peer invokes beyond the window, which is
// one operation where none was negotiated.
func TestWindowViolation(t *testing.T) {
	for _, operations := range []int{1, 2} {
		synctest.Test(t, func(t *testing.T) {
			g := newGate()
			l := listen(t, &dimse.Server{Handler: g})
			p := dial(t, l)
			rq := request()
			if operations > 1 {
				rq.User.AsyncOperations = &pdu.AsyncOperations{Invoked: uint16(operations), Performed: 1}
			}
			p.Associate(rq)
			ids := []uint16{1, 2, 3, 4}
			go invoke(p, ids...)
			if got := g.running(); !slices.Equal(got, ids[:operations]) {
				t.Fatalf("operations %v run, want the first %d", got, operations)
			}
			for i, id := range ids {
				g.open[id] <- nil
				expectAnswer(t, p, id, dimse.StatusSuccess)
				next := ids[min(i+operations, len(ids)):min(i+operations+1, len(ids))]
				if got := g.running(); !slices.Equal(got, next) {
					t.Errorf("after answer %d operations %v began, want %v", id, got, next)
				}
			}
		})
	}
}

// TestDuplicateInvocation refuses a Message ID that is in use, PS3.7 C.5.9, and
// takes it again afterwards.
func TestDuplicateInvocation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		p := window(t, listen(t, &dimse.Server{Handler: g}), 3)
		invoke(p, 1, 1)
		expectAnswer(t, p, 1, dimse.StatusDuplicateInvocation)
		g.open[1] <- nil
		expectAnswer(t, p, 1, dimse.StatusSuccess)
		invoke(p, 1)
		g.open[1] <- nil
		expectAnswer(t, p, 1, dimse.StatusSuccess)
	})
}

// TestReleaseAwaitsOperations answers what runs before the release, PS3.8 Sta8
// AR-7.
func TestReleaseAwaitsOperations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		p := window(t, listen(t, &dimse.Server{Handler: g}), 2)
		invoke(p, 1, 2)
		p.SendPDU(&pdu.ReleaseRQ{})
		p.ExpectSilence()
		g.open[2] <- nil
		expectAnswer(t, p, 2, dimse.StatusSuccess)
		g.open[1] <- nil
		expectAnswer(t, p, 1, dimse.StatusSuccess)
		p.Expect(&pdu.ReleaseRP{})
	})
}

// TestSta8 is PS3.8 table 9-10 for the time between the A-RELEASE-RQ and the last answer
// that is due before the A-RELEASE-RP: what the peer does then ends the operation, which
// must not keep its place for as long as it lasts.
func TestSta8(t *testing.T) {
	breach := func(r pdu.AbortReason) dimsetest.Script { return dimsetest.Script{aa8(r), closedByARTIM} }               // AA-8
	slow := dimsetest.Script{func(testing.TB, *dimsetest.Peer) { time.Sleep(dimse.DefaultIdle) }, aa1(), closedByARTIM} // fake time
	rows := []row{
		{"Evt3", evt3, breach(pdu.ReasonUnexpectedPDU)},
		{"Evt4", evt4, breach(pdu.ReasonUnexpectedPDU)},
		{"Evt6", evt6, breach(pdu.ReasonUnexpectedPDU)},
		{"Evt10", evt10, breach(pdu.ReasonUnexpectedPDU)},
		{"Evt12", evt12, breach(pdu.ReasonUnexpectedPDU)},
		{"Evt13", evt13, breach(pdu.ReasonUnexpectedPDU)},
		{"Evt16", evt16, dimsetest.Script{closedAtOnce}}, // AA-3
		{"Evt17", evt17, dimsetest.Script{gone}},         // AA-4
		{"Evt19 unrecognized", evt19a, breach(pdu.ReasonUnrecognizedPDU)},
		{"Evt19 invalid", evt19b, breach(pdu.ReasonInvalidParameter)},
		{"Evt19 half a header", dimsetest.Send(4, 0), slow}, // AA-1
	}
	var events []string
	for _, r := range rows {
		events = append(events, r.event)
	}
	everyEvent(t, "Sta8", events)
	for _, r := range rows {
		t.Run(r.event, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate()
				l := listen(t, &dimse.Server{Handler: g, MaxAssociations: 1})
				p := window(t, l, 2)
				invoke(p, 1, 2)
				p.SendPDU(&pdu.ReleaseRQ{})
				if got := g.running(); len(got) != 2 {
					t.Fatalf("operations %v run, want two", got)
				}
				time.Sleep(10 * dimse.DefaultIdle) // fake time: its silence has no limit here
				p.ExpectSilence()
				r.do(t, p)
				r.want.Run(t, p)
				p.Close()
				synctest.Wait()
				if opened, closed := g.ends(); opened != 1 || len(closed) != 1 || (closed[0] == nil) != (r.event == "Evt17") {
					t.Errorf("opened %d, closed with %v, want one error", opened, closed)
				}
				associate(t, l) // the place is free
			})
		})
	}
}

// TestHalfClose: a peer that closes its side behind what it sends gets its answers all
// the same, with a release and without.
func TestHalfClose(t *testing.T) {
	for _, release := range []bool{true, false} {
		h := &recorder{}
		conn, err := net.Dial("tcp", listenTCP(t, &dimse.Server{Handler: h}))
		if err != nil {
			t.Fatal(err)
		}
		p := dimsetest.NewPeer(t, conn)
		p.Associate(request())
		p.SendPDU(dimsetest.CommandPDU(3, dimsetest.StoreRQ(1, ctImage, instanceUID)), dimsetest.DataPDU(3, true, []byte("data")))
		if release {
			p.SendPDU(&pdu.ReleaseRQ{})
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		expectAnswer(t, p, 1, dimse.StatusSuccess)
		if release {
			p.Expect(&pdu.ReleaseRP{})
		}
		p.ExpectClosed()
		if got := h.take(); len(got) != 1 {
			t.Errorf("stored %v, want one", got)
		}
	}
}

// TestAbortEndsOperations notices an abort, and a breach, while an operation
// runs; its context ends, and nothing follows the A-ABORT.
func TestAbortEndsOperations(t *testing.T) {
	for name, end := range map[string]dimsetest.Script{
		"by the peer":     {evt16, closedAtOnce},
		"lost connection": {evt17, gone},
		"breach":          {evt13, aa8(pdu.ReasonUnexpectedPDU), closedByARTIM},
		"no DICOM":        {evt19a, aa8(pdu.ReasonUnrecognizedPDU), closedByARTIM},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate()
				p := window(t, listen(t, &dimse.Server{Handler: g, MaxAssociations: 1}), 2)
				invoke(p, 1, 2)
				if got := g.running(); len(got) != 2 {
					t.Fatalf("operations %v run, want two", got)
				}
				end.Run(t, p)
				p.Close()
				synctest.Wait()
				if opened, closed := g.ends(); opened != 1 || len(closed) != 1 || closed[0] == nil {
					t.Errorf("opened %d, closed with %v, want one error", opened, closed)
				}
			})
		})
	}
}

// TestSilenceWhileAnAnswerIsDue is no fault of the peer; behind the last answer
// the idle time begins.
func TestSilenceWhileAnAnswerIsDue(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const idle = time.Minute
		g := newGate()
		p := window(t, listen(t, &dimse.Server{Handler: g, Idle: idle}), 2)
		invoke(p, 1, 2)
		time.Sleep(10 * idle) // fake time
		p.ExpectSilence()
		g.open[1] <- nil
		expectAnswer(t, p, 1, dimse.StatusSuccess)
		time.Sleep(10 * idle)
		p.ExpectSilence()
		g.open[2] <- nil
		expectAnswer(t, p, 2, dimse.StatusSuccess)
		time.Sleep(idle - time.Nanosecond)
		p.ExpectSilence()
		time.Sleep(time.Nanosecond)
		p.Expect(&pdu.Abort{})
		closedByARTIM(t, p)
	})
}

// TestShutdownAwaitsOperations answers all that runs and aborts.
func TestShutdownAwaitsOperations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		s := &dimse.Server{Handler: g}
		p := window(t, listen(t, s), 3)
		invoke(p, 1, 2)
		g.running()
		ended := make(chan error, 1)
		go func() { ended <- s.Shutdown(t.Context()) }()
		synctest.Wait()
		p.ExpectSilence()
		g.open[2] <- nil
		expectAnswer(t, p, 2, dimse.StatusSuccess)
		g.open[1] <- nil
		expectAnswer(t, p, 1, dimse.StatusSuccess)
		p.Expect(&pdu.Abort{})
		p.Close()
		if err := <-ended; err != nil {
			t.Errorf("Shutdown() = %v, want nil", err)
		}
	})
}

// TestBytesInFlight holds operations back that would run beside others while too
// many bytes wait for their answers; the only one of an association never.
func TestBytesInFlight(t *testing.T) {
	const small = 600 << 10 // two operations
	for _, tt := range []struct {
		name   string
		server *dimse.Server
	}{
		{"of one address", &dimse.Server{MaxBytesInFlightPerAddress: small}},
		{"of all", &dimse.Server{MaxBytesInFlight: small}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				g := newGate()
				tt.server.Handler = g
				l := listen(t, tt.server)
				p, other := window(t, l, 8), window(t, l, 8)
				go invoke(p, 1, 2, 3, 4, 5)
				if got := g.running(); !slices.Equal(got, []uint16{1, 2, 3}) {
					t.Fatalf("operations %v run, want as many as the limit has room for", got)
				}
				go invoke(other, 6, 7)
				if got := g.running(); !slices.Equal(got, []uint16{6}) {
					t.Errorf("operations %v of another association run, want one", got)
				}
				for _, id := range []uint16{1, 2} {
					g.open[id] <- nil
					expectAnswer(t, p, id, dimse.StatusSuccess)
				}
				if got := g.running(); len(got) == 0 {
					t.Error("no operation began although there is room again")
				}
				for _, id := range []uint16{3, 4, 5, 6, 7} {
					g.open[id] <- nil
				}
				for range 3 {
					p.ExpectCommand(3)
				}
				for range 2 {
					other.ExpectCommand(3)
				}
			})
		})
	}
}

// TestPanicAmidOperations ends the association and every operation on it.
func TestPanicAmidOperations(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &recorder{}
		first := make(chan struct{})
		l := listen(t, &dimse.Server{Handler: handlerFunc(func(ctx context.Context, req *dimse.StoreRequest) error {
			if req.MessageID == 2 {
				close(first)
				panic("Doe^Jane")
			}
			if err := h.CStore(ctx, req); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		})})
		p := window(t, l, 2)
		invoke(p, 1, 2)
		<-first
		p.Expect(&pdu.Abort{})
		closedAtOnce(t, p)
	})
}

// TestHandlerErrorWithoutReading drains what the handler left, also while others
// run.
func TestHandlerErrorWithoutReading(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := listen(t, &dimse.Server{Handler: handlerFunc(func(context.Context, *dimse.StoreRequest) error { return errors.New("no") })})
		p := window(t, l, 4)
		invoke(p, 1, 2, 3)
		seen := map[int]bool{}
		for range 3 {
			e := p.ExpectCommand(3)
			seen[e.Number(dimsetest.MessageIDBeingRespondedTo)] = e.Number(dimsetest.Status) == int(dimse.StatusProcessingFailure)
		}
		if !seen[1] || !seen[2] || !seen[3] {
			t.Errorf("answers %v, want a failure for each of 1, 2 and 3", seen)
		}
	})
}
