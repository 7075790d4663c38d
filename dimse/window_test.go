package dimse_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"

	"hilum/dimse"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
)

// openWindow returns an association with a scripted acceptor, on which the
// client proposed and the acceptor granted so many operations at once.
func openWindow(t *testing.T, proposed int, granted *pdu.AsyncOperations) (*dimse.Conn, *dimsetest.Peer) {
	near, far := net.Pipe()
	p := dimsetest.NewPeer(t, far)
	var conn *dimse.Conn
	ready := make(chan error, 1)
	go func() {
		client := newClient()
		client.Window = proposed
		var err error
		conn, err = client.Associate(t.Context(), near)
		ready <- err
	}()
	rq := p.ExpectType(pdu.TypeAssociateRQ).(*pdu.AssociateRQ)
	if w := rq.User.AsyncOperations; proposed > 1 && (w == nil || int(w.Invoked) != proposed) || proposed <= 1 && w != nil {
		t.Errorf("window proposed = %+v, want %d", w, proposed)
	}
	ac := accept()
	ac.User.AsyncOperations = granted
	p.SendPDU(ac)
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn, p
}

// storeEach begins a C-STORE for each UID and returns where their ends come.
func storeEach(ctx context.Context, conn *dimse.Conn, uids ...string) map[string]chan error {
	ends := map[string]chan error{}
	for _, uid := range uids {
		end := make(chan error, 1)
		ends[uid] = end
		go func() {
			_, err := conn.Store(ctx, ctImage, uid, explicitLE, bytes.NewReader([]byte("data")))
			end <- err
		}()
	}
	return ends
}

// takeStore reads one C-STORE-RQ with its data set.
func takeStore(t *testing.T, p *dimsetest.Peer) (messageID uint16, uid string) {
	t.Helper()
	d := p.ExpectType(pdu.TypeData).(*pdu.Data)
	v, _ := d.Next()
	e, err := dimsetest.ParseCommand(v.Fragment)
	if err != nil {
		t.Fatal(err)
	}
	if _, more := d.Next(); !more {
		p.ExpectType(pdu.TypeData)
	}
	return uint16(e.Number(dimsetest.MessageID)), e.Text(dimsetest.AffectedSOPInstanceUID)
}

func storeRSP(id uint16, status dimse.Status) *pdu.Data {
	return dimsetest.CommandPDU(3, dimsetest.Elements{dimsetest.CommandField: dimsetest.US(0x8001), dimsetest.MessageIDBeingRespondedTo: dimsetest.US(id),
		dimsetest.DataSetType: dimsetest.US(0x0101), dimsetest.Status: dimsetest.US(uint16(status))})
}

// TestPipelinedStores sends on without an answer as far as the window goes, and
// gives every operation its own answer, in whatever order they come.
func TestPipelinedStores(t *testing.T) {
	for _, tt := range []struct {
		proposed int
		granted  *pdu.AsyncOperations
		want     int // operations at once
	}{
		{0, nil, 1},
		{4, nil, 1}, // no answer is no window
		{4, &pdu.AsyncOperations{Invoked: 1, Performed: 1}, 1},
		{4, &pdu.AsyncOperations{Invoked: 3, Performed: 1}, 3},
		{4, &pdu.AsyncOperations{Invoked: 100, Performed: 1}, 4},
		{4, &pdu.AsyncOperations{Invoked: 0, Performed: 1}, 4}, // any number
		{0, &pdu.AsyncOperations{Invoked: 9, Performed: 1}, 1}, // not asked for
	} {
		t.Run(fmt.Sprint(tt.proposed, tt.granted), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, p := openWindow(t, tt.proposed, tt.granted)
				ends := storeEach(t.Context(), conn, "1.1", "1.2", "1.3", "1.4", "1.5", "1.6")
				ids := map[string]uint16{}
				var order []string
				for len(ids) < len(ends) {
					for range min(tt.want, len(ends)-len(ids)) {
						id, uid := takeStore(t, p)
						order, ids[uid] = append(order, uid), id
					}
					synctest.Wait()
					p.ExpectSilence()
					slices.Reverse(order)
					for _, uid := range order {
						status := dimse.StatusSuccess
						if uid == "1.3" {
							status = dimse.StatusOutOfResources
						}
						p.SendPDU(storeRSP(ids[uid], status))
						var failure *dimse.StatusError
						if err := <-ends[uid]; errors.As(err, &failure) != (uid == "1.3") || err != nil && failure == nil {
							t.Errorf("Store(%s) = %v, want %v", uid, err, status)
						}
					}
					order = nil
				}
			})
		})
	}
}

// TestPipelineEnds ends every operation when the association ends, with why.
func TestPipelineEnds(t *testing.T) {
	window := &pdu.AsyncOperations{Invoked: 4, Performed: 1}
	uids := []string{"1.1", "1.2", "1.3"}
	for name, end := range map[string]func(*testing.T, *dimse.Conn, *dimsetest.Peer){
		"abort by the peer": func(t *testing.T, _ *dimse.Conn, p *dimsetest.Peer) { p.SendPDU(&pdu.Abort{Source: 2, Reason: 1}) },
		"lost":              func(t *testing.T, _ *dimse.Conn, p *dimsetest.Peer) { p.Close() },
		"abort":             func(t *testing.T, c *dimse.Conn, _ *dimsetest.Peer) { _ = c.Abort() },
		"answer to nothing": func(t *testing.T, _ *dimse.Conn, p *dimsetest.Peer) { p.SendPDU(storeRSP(999, 0)) },
		"silence":           func(t *testing.T, _ *dimse.Conn, p *dimsetest.Peer) { p.Expect(&pdu.Abort{}) }, // after the timeout
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, p := openWindow(t, 4, window)
				ends := storeEach(t.Context(), conn, uids...)
				for range uids {
					takeStore(t, p)
				}
				synctest.Wait()
				end(t, conn, p)
				for _, uid := range uids {
					err := <-ends[uid]
					var aborted *dimse.AbortError
					if err == nil || errors.As(err, &aborted) != (name == "abort by the peer") {
						t.Errorf("Store(%s) = %v", uid, err)
					}
				}
				if err := conn.Echo(t.Context()); !errors.Is(err, dimse.ErrConnClosed) {
					t.Errorf("Echo() afterwards = %v, want ErrConnClosed", err)
				}
			})
		})
	}
}

// TestPipelineContext ends the association with the context of one operation.
func TestPipelineContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, p := openWindow(t, 4, &pdu.AsyncOperations{Invoked: 4, Performed: 1})
		ctx, cancel := context.WithCancel(t.Context())
		first := storeEach(ctx, conn, "1.1")["1.1"]
		takeStore(t, p)
		second := storeEach(t.Context(), conn, "1.2")["1.2"]
		takeStore(t, p)
		synctest.Wait()
		cancel()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("Store() whose context ended = %v, want context.Canceled", err)
		}
		if err := <-second; !errors.Is(err, dimse.ErrConnClosed) {
			t.Errorf("Store() beside it = %v, want ErrConnClosed", err)
		}
	})
}

// TestReleaseWaitsForAnswers releases only when nothing is asked any more.
func TestReleaseWaitsForAnswers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, p := openWindow(t, 4, &pdu.AsyncOperations{Invoked: 4, Performed: 1})
		ends := storeEach(t.Context(), conn, "1.1")
		id, _ := takeStore(t, p)
		released := make(chan error, 1)
		go func() { released <- conn.Release(t.Context()) }()
		synctest.Wait()
		p.ExpectSilence()
		p.SendPDU(storeRSP(id, 0))
		if err := <-ends["1.1"]; err != nil {
			t.Errorf("Store() = %v, want nil", err)
		}
		p.Expect(&pdu.ReleaseRQ{})
		p.SendPDU(&pdu.ReleaseRP{})
		if err := <-released; err != nil {
			t.Errorf("Release() = %v, want nil", err)
		}
	})
}

// TestPipelineOverTCP stores many instances of many sizes at once, both sides
// ours, and every byte arrives.
func TestPipelineOverTCP(t *testing.T) {
	h := &recorder{}
	client := newClient()
	client.Window = 16
	conn, err := client.Dial(t.Context(), listenTCP(t, &dimse.Server{Handler: h}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	want := map[[32]byte]bool{}
	var group sync.WaitGroup
	for i := range 40 {
		data := bytes.Repeat([]byte{byte(i)}, 1+i*7919)
		want[sha256.Sum256(data)] = true
		group.Go(func() {
			if _, err := conn.Store(t.Context(), ctImage, fmt.Sprintf("1.2.%d", i), explicitLE, bytes.NewReader(data)); err != nil {
				t.Errorf("Store(%d) = %v, want nil", i, err)
			}
		})
	}
	group.Wait()
	if err := conn.Release(t.Context()); err != nil {
		t.Errorf("Release() = %v, want nil", err)
	}
	for _, s := range h.take() {
		if !want[s.sum] {
			t.Errorf("stored %v, which was not sent", s.sopInstance)
		}
		delete(want, s.sum)
	}
	if len(want) > 0 {
		t.Errorf("%d instances are missing", len(want))
	}
}
