package dimse_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"

	"hilum/dimse"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
)

func newClient() *dimse.Client {
	return &dimse.Client{
		CallingAETitle: "SENDER", CalledAETitle: "HILUM", Timeout: time.Minute,
		Contexts: []dimse.PresentationContext{
			dimse.VerificationContext(),
			{AbstractSyntax: ctImage, TransferSyntaxes: []string{explicitLE}},
			{AbstractSyntax: ctImage, TransferSyntaxes: []string{jpeg2000}},
		},
	}
}

// TestRoundTrip sends data sets of every awkward size over TCP, in PDUs of
// several lengths.
func TestRoundTrip(t *testing.T) {
	for _, maxPDU := range []uint32{4096, 16384, 131072, 4 << 20} {
		t.Run(fmt.Sprint(maxPDU), func(t *testing.T) {
			h := &recorder{}
			address := listenTCP(t, &dimse.Server{Handler: h, MaxPDULength: maxPDU})
			conn, err := newClient().Dial(t.Context(), address)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			if err := conn.Echo(t.Context()); err != nil {
				t.Fatalf("Echo() = %v, want nil", err)
			}
			fragment := int(min(maxPDU, 1<<20)) - 6
			for _, size := range []int{1, 2, 100, fragment - 1, fragment, fragment + 1, 2*fragment - 1, 2 * fragment, 2*fragment + 1, 3*fragment + 77} {
				data := make([]byte, size)
				for i := range data {
					data[i] = byte(i * 7 >> 3)
				}
				want := stored{ctImage, instanceUID, jpeg2000, "SENDER", int64(size), sha256.Sum256(data)}
				for _, r := range []io.Reader{bytes.NewReader(data), iotest.DataErrReader(bytes.NewReader(data)), iotest.HalfReader(bytes.NewReader(data))} {
					if status, err := conn.Store(t.Context(), ctImage, instanceUID, jpeg2000, r); err != nil || status != dimse.StatusSuccess {
						t.Fatalf("Store(%d bytes) = %v, %v, want success", size, status, err)
					}
					if got := h.take(); len(got) != 1 || got[0] != want {
						t.Fatalf("Store(%d bytes): stored %v, want %v", size, got, want)
					}
				}
			}
			if err := conn.Release(t.Context()); err != nil {
				t.Errorf("Release() = %v, want nil", err)
			}
			if err := conn.Echo(t.Context()); !errors.Is(err, dimse.ErrConnClosed) {
				t.Errorf("Echo() after Release = %v, want ErrConnClosed", err)
			}
			if err := errors.Join(conn.Release(t.Context()), conn.Abort(), conn.Close()); err != nil {
				t.Errorf("ending again = %v, want nil", err)
			}
		})
	}
}

// TestStoreStatuses holds what Store returns for each kind of answer, and that
// the association survives it.
func TestStoreStatuses(t *testing.T) {
	var answer error
	h := &recorder{answer: func(*dimse.StoreRequest) error { return answer }}
	conn, err := newClient().Dial(t.Context(), listenTCP(t, &dimse.Server{Handler: h}))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	tests := []struct {
		answer  error
		want    dimse.Status
		failure bool
		comment string
	}{
		{nil, 0, false, ""},
		{&dimse.StatusError{Status: 0xB007, Comment: "odd"}, 0xB007, false, ""},
		{&dimse.StatusError{Status: 0xA700, Comment: "disk full"}, 0xA700, true, "disk full"},
		{errors.New("internal"), 0x0110, true, ""},
	}
	for _, tt := range tests {
		answer = tt.answer
		status, err := conn.Store(t.Context(), ctImage, instanceUID, explicitLE, bytes.NewReader([]byte("data")))
		var failure *dimse.StatusError
		if status != tt.want || errors.As(err, &failure) != tt.failure {
			t.Errorf("Store() = %v, %v, want %v", status, err, tt.want)
		}
		if failure != nil && failure.Comment != tt.comment {
			t.Errorf("comment = %q, want %q", failure.Comment, tt.comment)
		}
	}
	if _, err := conn.Store(t.Context(), mrImage, instanceUID, explicitLE, bytes.NewReader([]byte("data"))); !errors.Is(err, dimse.ErrNoContext) {
		t.Errorf("Store() of a class that was not proposed = %v, want ErrNoContext", err)
	}
	if conn.Accepted(mrImage, explicitLE) || !conn.Accepted(ctImage, jpeg2000) {
		t.Error("Accepted() does not tell what was accepted")
	}
	for _, r := range []io.Reader{bytes.NewReader(nil), iotest.ErrReader(io.ErrUnexpectedEOF)} {
		if _, err := conn.Store(t.Context(), ctImage, instanceUID, explicitLE, r); err == nil {
			t.Error("Store() without data = nil, want an error")
		}
	}
	if err := conn.Echo(t.Context()); err != nil {
		t.Errorf("Echo() afterwards = %v, want nil", err)
	}
}

// TestSourceCutOff aborts when the data set cannot be read to its end: the peer
// must not take the beginning for the whole.
func TestSourceCutOff(t *testing.T) {
	for _, cause := range []error{io.ErrUnexpectedEOF, &dimse.StatusError{Status: 0xC000}, &dimse.AbortError{}} {
		h := &recorder{}
		conn, err := newClient().Dial(t.Context(), listenTCP(t, &dimse.Server{Handler: h}))
		if err != nil {
			t.Fatal(err)
		}
		r := io.MultiReader(bytes.NewReader(make([]byte, 500_000)), iotest.ErrReader(cause))
		if _, err := conn.Store(t.Context(), ctImage, instanceUID, explicitLE, r); !errors.Is(err, cause) {
			t.Errorf("Store() = %v, want %v", err, cause)
		}
		if err := conn.Echo(t.Context()); !errors.Is(err, dimse.ErrConnClosed) {
			t.Errorf("Echo() afterwards = %v, want ErrConnClosed", err)
		}
		if got := h.take(); len(got) != 0 {
			t.Errorf("stored %v, want nothing", got)
		}
	}
}

// TestManySenders stores over several associations and from several goroutines
// on each.
func TestManySenders(t *testing.T) {
	h := &recorder{}
	address := listenTCP(t, &dimse.Server{Handler: h})
	var wg sync.WaitGroup
	for range 4 {
		conn, err := newClient().Dial(t.Context(), address)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		for range 3 {
			wg.Go(func() {
				for range 5 {
					if _, err := conn.Store(t.Context(), ctImage, instanceUID, explicitLE, bytes.NewReader(make([]byte, 100_000))); err != nil {
						t.Errorf("Store() = %v, want nil", err)
					}
				}
			})
		}
	}
	wg.Wait()
	if got := len(h.take()); got != 60 {
		t.Errorf("%d instances stored, want 60", got)
	}
}

// accept is an A-ASSOCIATE-AC for newClient that accepts everything.
func accept() *pdu.AssociateAC {
	return &pdu.AssociateAC{
		ProtocolVersion: 1, ApplicationContext: pdu.ApplicationContextName,
		Contexts: []pdu.PresentationContextAC{{ID: 1, TransferSyntax: implicitLE}, {ID: 3, TransferSyntax: explicitLE}, {ID: 5, TransferSyntax: jpeg2000}},
		User:     pdu.UserInformation{MaxLength: 16384},
	}
}

// TestAssociateAnswers plays an acceptor that answers the request somehow.
func TestAssociateAnswers(t *testing.T) {
	stranger := accept()
	stranger.Contexts[0].ID = 99
	swapped := accept()
	swapped.Contexts[1].TransferSyntax = jpeg2000
	tests := []struct {
		name   string
		answer dimsetest.Script
		check  func(error) bool
		then   dimsetest.Step
	}{
		{"accept", dimsetest.Script{dimsetest.SendPDU(accept())}, func(err error) bool { return err == nil }, nil},
		{"reject", dimsetest.Script{dimsetest.SendPDU(&pdu.AssociateRJ{Result: 2, Source: 3, Reason: 2})}, func(err error) bool {
			var r *dimse.RejectError
			return errors.As(err, &r) && r.Transient() && r.Source == 3 && r.Reason == 2
		}, closedAtOnce},
		{"abort", dimsetest.Script{dimsetest.SendPDU(&pdu.Abort{Source: 2, Reason: 1})}, func(err error) bool {
			var a *dimse.AbortError
			return errors.As(err, &a) && a.Reason == 1
		}, closedAtOnce},
		{"close", dimsetest.Script{dimsetest.CloseConn()}, func(err error) bool { return err != nil }, nil},
		{"silence", nil, func(err error) bool { return err != nil }, aa1()},
		{"release", dimsetest.Script{dimsetest.SendPDU(&pdu.ReleaseRP{})}, func(err error) bool { return err != nil }, aa8(pdu.ReasonUnexpectedPDU)},
		{"no PDU", dimsetest.Script{dimsetest.Send([]byte("SSH-2.0-OpenSSH\r\n")...)}, func(err error) bool { return err != nil }, aa8(pdu.ReasonUnrecognizedPDU)},
		{"context not proposed", dimsetest.Script{dimsetest.SendPDU(stranger)}, func(err error) bool { return err != nil }, aa8(pdu.ReasonInvalidParameter)},
		{"transfer syntax not proposed", dimsetest.Script{dimsetest.SendPDU(swapped)}, func(err error) bool { return err != nil }, aa8(pdu.ReasonInvalidParameter)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				near, far := net.Pipe()
				p := dimsetest.NewPeer(t, far)
				result := make(chan error, 1)
				go func() {
					conn, err := newClient().Associate(t.Context(), near)
					if err == nil {
						_ = conn.Close()
					}
					result <- err
				}()
				p.ExpectType(pdu.TypeAssociateRQ)
				tt.answer.Run(t, p)
				if err := <-result; !tt.check(err) {
					t.Errorf("Associate() = %v", err)
				}
				if tt.then != nil {
					tt.then(t, p)
				}
			})
		})
	}
}

// open returns an association with a scripted acceptor.
func open(t *testing.T) (*dimse.Conn, *dimsetest.Peer) {
	near, far := net.Pipe()
	p := dimsetest.NewPeer(t, far)
	type result struct {
		conn *dimse.Conn
		err  error
	}
	ready := make(chan result, 1)
	go func() {
		conn, err := newClient().Associate(t.Context(), near)
		ready <- result{conn, err}
	}()
	p.ExpectType(pdu.TypeAssociateRQ)
	p.SendPDU(accept())
	r := <-ready
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { _ = r.conn.Close() })
	return r.conn, p
}

// TestReleaseAnswers plays an acceptor in Sta7 and, at a collision, Sta9 to 11
// of the requestor.
func TestReleaseAnswers(t *testing.T) {
	tests := []struct {
		name   string
		answer dimsetest.Script
		ok     bool
	}{
		{"reply", dimsetest.Script{dimsetest.SendPDU(&pdu.ReleaseRP{}), closedAtOnce}, true},
		{"data on its way", dimsetest.Script{dimsetest.SendPDU(dimsetest.CommandPDU(1, dimsetest.EchoRQ(1)), &pdu.ReleaseRP{}), closedAtOnce}, true},
		{"collision", dimsetest.Script{dimsetest.SendPDU(&pdu.ReleaseRQ{}), dimsetest.Expect(&pdu.ReleaseRP{}), dimsetest.SendPDU(&pdu.ReleaseRP{}), closedAtOnce}, true},
		{"abort", dimsetest.Script{dimsetest.SendPDU(&pdu.Abort{}), closedAtOnce}, false},
		{"accept", dimsetest.Script{dimsetest.SendPDU(accept()), aa8(pdu.ReasonUnexpectedPDU), closedAtOnce}, false},
		{"silence", dimsetest.Script{aa1(), closedAtOnce}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, p := open(t)
				result := make(chan error, 1)
				go func() { result <- conn.Release(t.Context()) }()
				p.Expect(&pdu.ReleaseRQ{})
				tt.answer.Run(t, p)
				if err := <-result; (err == nil) != tt.ok {
					t.Errorf("Release() = %v, want ok %v", err, tt.ok)
				}
			})
		})
	}
}

// TestStoreAnswers plays an acceptor that answers a C-STORE-RQ somehow.
func TestStoreAnswers(t *testing.T) {
	rsp := func(id uint16) dimsetest.Elements {
		return dimsetest.Elements{dimsetest.CommandField: dimsetest.US(0x8001), dimsetest.MessageIDBeingRespondedTo: dimsetest.US(id),
			dimsetest.DataSetType: dimsetest.US(0x0101), dimsetest.Status: dimsetest.US(0)}
	}
	send := func(id byte, e dimsetest.Elements) dimsetest.Step {
		return dimsetest.SendPDU(dimsetest.CommandPDU(id, e))
	}
	var aborted *dimse.AbortError
	tests := []struct {
		name   string
		answer dimsetest.Script
		check  func(error) bool
	}{
		{"success", dimsetest.Script{send(3, rsp(1))}, func(err error) bool { return err == nil }},
		{"other message", dimsetest.Script{send(3, rsp(2)), aa1()}, func(err error) bool { return err != nil }},
		{"other context", dimsetest.Script{send(1, rsp(1)), aa8(pdu.ReasonInvalidParameter)}, func(err error) bool { return err != nil }},
		{"no status", dimsetest.Script{send(3, rsp(1).With(dimsetest.Status, nil)), aa1()}, func(err error) bool { return err != nil }},
		{"a request", dimsetest.Script{send(3, dimsetest.EchoRQ(1)), aa1()}, func(err error) bool { return err != nil }},
		{"abort", dimsetest.Script{dimsetest.SendPDU(&pdu.Abort{Source: 2, Reason: 6})}, func(err error) bool { return errors.As(err, &aborted) }},
		{"release", dimsetest.Script{dimsetest.SendPDU(&pdu.ReleaseRQ{}), dimsetest.Expect(&pdu.ReleaseRP{})}, func(err error) bool { return err != nil }},
		{"silence", dimsetest.Script{aa1(), closedAtOnce}, func(err error) bool { return err != nil }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				conn, p := open(t)
				result := make(chan error, 1)
				go func() {
					_, err := conn.Store(t.Context(), ctImage, instanceUID, explicitLE, bytes.NewReader(make([]byte, 20000)))
					result <- err
				}()
				rq := p.ExpectCommand(3)
				if rq.Text(dimsetest.AffectedSOPInstanceUID) != instanceUID || rq.Number(dimsetest.DataSetType) == 0x0101 {
					t.Errorf("C-STORE-RQ = %v", rq)
				}
				for n, last := 0, false; !last; {
					d := p.ExpectType(pdu.TypeData).(*pdu.Data)
					v, _ := d.Next()
					n, last = n+len(v.Fragment), v.Last
					if want := min(16378, 20000-n+len(v.Fragment)); len(v.Fragment) != want || last != (n == 20000) {
						t.Errorf("fragment of %d bytes, last %v, want %d", len(v.Fragment), last, want)
					}
				}
				tt.answer.Run(t, p)
				if err := <-result; !tt.check(err) {
					t.Errorf("Store() = %v", err)
				}
			})
		})
	}
}

// TestContextEnds interrupts operations by their context and by Abort.
func TestContextEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		conn, p := open(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := conn.Echo(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Echo() = %v, want context.DeadlineExceeded", err)
		}
		p.ExpectCommand(1)
		aa1()(t, p)
	})
	synctest.Test(t, func(t *testing.T) {
		conn, p := open(t)
		result := make(chan error, 1)
		go func() { result <- conn.Echo(t.Context()) }()
		p.ExpectCommand(1)
		if err := conn.Abort(); err != nil {
			t.Errorf("Abort() = %v, want nil", err)
		}
		if err := <-result; !errors.Is(err, dimse.ErrConnClosed) {
			t.Errorf("Echo() = %v, want ErrConnClosed", err)
		}
		aa1()(t, p)
	})
}

func TestDialRefuses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	closed := l.Addr().String()
	_ = l.Close() // nobody listens there now
	if _, err := newClient().Dial(t.Context(), closed); err == nil {
		t.Error("Dial() where nobody listens = nil, want an error")
	}
	address := listenTCP(t, &dimse.Server{})
	for name, change := range map[string]func(*dimse.Client){
		"no calling AE title": func(c *dimse.Client) { c.CallingAETitle = "" },
		"no called AE title":  func(c *dimse.Client) { c.CalledAETitle = "" },
		"no contexts":         func(c *dimse.Client) { c.Contexts = nil },
		"129 contexts":        func(c *dimse.Client) { c.Contexts = make([]dimse.PresentationContext, 129) },
		"no transfer syntax":  func(c *dimse.Client) { c.Contexts[0].TransferSyntaxes = nil },
	} {
		c := newClient()
		change(c)
		if _, err := c.Dial(t.Context(), address); err == nil {
			t.Errorf("Dial() with %s = nil, want an error", name)
		}
	}
}
