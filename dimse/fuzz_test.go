package dimse_test

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
)

// replay is a connection whose peer sends some bytes and is gone.
type replay struct {
	in     *bytes.Reader
	once   sync.Once
	closed chan struct{}
}

func (c *replay) Read(p []byte) (int, error)       { return c.in.Read(p) }
func (c *replay) Write(p []byte) (int, error)      { return len(p), nil }
func (c *replay) Close() error                     { c.once.Do(func() { close(c.closed) }); return nil }
func (c *replay) LocalAddr() net.Addr              { return dimsetest.NewListener().Addr() }
func (c *replay) RemoteAddr() net.Addr             { return dimsetest.NewListener().Addr() }
func (c *replay) SetDeadline(time.Time) error      { return nil }
func (c *replay) SetReadDeadline(time.Time) error  { return nil }
func (c *replay) SetWriteDeadline(time.Time) error { return nil }

// replays is a listener of such connections.
type replays chan net.Conn

func (l replays) Accept() (net.Conn, error) {
	c, ok := <-l
	if !ok {
		return nil, net.ErrClosed
	}
	return c, nil
}
func (l replays) Close() error   { return nil }
func (l replays) Addr() net.Addr { return dimsetest.NewListener().Addr() }

// discarding is an NHandler that reads and forgets.
type discarding struct{}

func (discarding) HandleN(_ context.Context, rq *dimse.NRequest) (dimse.NResponse, error) {
	_, err := io.Copy(io.Discard, rq.Data)
	return dimse.NResponse{}, err
}

// acceptorAllowance is what an acceptor may allocate for each byte received: the
// shortest query has some hundred bytes, and is read, run, logged and answered for them,
// which takes 83 for each.
const acceptorAllowance = 256

// FuzzAcceptor plays whole connections against a server. No bytes may make it
// panic (its recover would hide that from the fuzzer, not from the log), hang
// when the peer is gone, or use more memory than a small multiple of the bytes.
func FuzzAcceptor(f *testing.F) {
	rq := dimsetest.Encode(f, request())
	store := dimsetest.Encode(f, dimsetest.CommandPDU(3, dimsetest.StoreRQ(1, ctImage, instanceUID)),
		dimsetest.DataPDU(3, false, []byte("1234")), dimsetest.DataPDU(3, true, []byte("5678")))
	echo := dimsetest.Encode(f, dimsetest.CommandPDU(1, dimsetest.EchoRQ(2)))
	release := dimsetest.Encode(f, &pdu.ReleaseRQ{})
	join := func(parts ...[]byte) []byte { return bytes.Join(parts, nil) }
	f.Add(join(rq, echo, release))
	f.Add(join(rq, store, echo, release))
	f.Add(join(rq, store[:len(store)-9]))
	f.Add(join(rq, release, echo, rq))
	f.Add(join(rq, []byte("GET / HTTP/1.1\r\n\r\n")))
	f.Add(join(rq, dimsetest.Encode(f, &pdu.Abort{})))
	f.Add(join(dimsetest.Encode(f, fullRequest()), echo, release))
	// Queries, retrieval, and the services of DIMSE-N.
	services := request()
	services.Contexts = append(services.Contexts,
		pdu.PresentationContextRQ{ID: 7, AbstractSyntax: findClass, TransferSyntaxes: []string{implicitLE}},
		pdu.PresentationContextRQ{ID: 9, AbstractSyntax: getClass, TransferSyntaxes: []string{implicitLE}},
		pdu.PresentationContextRQ{ID: 11, AbstractSyntax: mppsClass, TransferSyntaxes: []string{explicitLE}})
	services.User.Roles = []pdu.RoleSelection{{SOPClassUID: ctImage, SCU: true, SCP: true}}
	services.User.AsyncOperations = &pdu.AsyncOperations{Invoked: 4, Performed: 1}
	all, keys := dimsetest.Encode(f, services), identifierOf(f, dataset.MustElement(dicomtag.PatientID, "P1"))
	find := dimsetest.Encode(f, dimsetest.CommandPDU(7, queryRQ(0x0020, 5, findClass)), dimsetest.DataPDU(7, true, keys))
	get := dimsetest.Encode(f, dimsetest.CommandPDU(9, queryRQ(0x0010, 6, getClass)), dimsetest.DataPDU(9, true, keys))
	stored := dimsetest.Encode(f, dimsetest.CommandPDU(3, dimsetest.Elements{dimsetest.CommandField: dimsetest.US(0x8001), dimsetest.MessageIDBeingRespondedTo: dimsetest.US(1),
		dimsetest.DataSetType: dimsetest.US(0x0101), dimsetest.Status: dimsetest.US(0)}))
	cancel := dimsetest.Encode(f, dimsetest.CommandPDU(9, cancelRQ(6)))
	create := dimsetest.Encode(f, dimsetest.CommandPDU(11, nCommand(0x0140, mppsClass, "2.25.1", true)), dimsetest.DataPDU(11, true, []byte("data")))
	f.Add(join(all, find, get, stored, cancel, create, release))
	f.Add(join(all, get, cancel, find, create, echo))

	h := &queried{
		find: func(_ context.Context, req *dimse.QueryRequest, match func(dimse.Match) error) error {
			return match(dimse.Match{Identifier: []*dataset.Element{dataset.MustElement(dicomtag.StudyInstanceUID, "1.2")}})
		},
		get: func(ctx context.Context, req *dimse.QueryRequest, progress func(dimse.SubOperations) error) (dimse.Retrieved, error) {
			status, err := req.Store(ctx, ctImage, instanceUID, explicitLE, strings.NewReader("data"))
			if err != nil && status == 0 {
				return dimse.Retrieved{SubOperations: dimse.SubOperations{Failed: 1}, FailedUIDs: []string{instanceUID}}, nil
			}
			return dimse.Retrieved{SubOperations: dimse.SubOperations{Completed: 1}}, progress(dimse.SubOperations{Completed: 1})
		},
	}
	var panics guardedBuffer
	l := make(replays)
	s := &dimse.Server{AETitle: "HILUM", Handler: h, Normalized: map[string]dimse.NService{mppsClass: {Handler: discarding{}}}, Logger: slog.New(slog.NewTextHandler(&panics, &slog.HandlerOptions{Level: slog.LevelError}))}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	f.Cleanup(func() {
		_ = s.Close()
		close(l)
		<-ended
	})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 1<<20 {
			t.Skip("the properties do not depend on the size")
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c := &replay{in: bytes.NewReader(in), closed: make(chan struct{})}
		l <- c
		<-c.closed
		runtime.ReadMemStats(&after)
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(acceptorAllowance*len(in)+1<<20); got > limit {
			t.Errorf("%d bytes allocated for %d received, want at most %d", got, len(in), limit)
		}
		h.take()
		if text := panics.take(); text != "" {
			t.Errorf("log = %s, want no error", text)
		}
	})
}

// guardedBuffer is a log that several goroutines write.
type guardedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (g *guardedBuffer) Write(p []byte) (int, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.b.Write(p)
}

func (g *guardedBuffer) take() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.b.String()
	g.b.Reset()
	return s
}

// FuzzRequestor plays whole connections against a client that echoes, queries, fetches,
// stores and releases. Each of these must end, with an error or without, in bounded
// memory: a destination is a peer like any other.
func FuzzRequestor(f *testing.F) {
	client := newClient()
	client.Contexts = append(client.Contexts, dimse.QueryContext(findClass), dimse.QueryContext(getClass)) // 7 and 9
	client.Roles = map[string]dimse.Roles{ctImage: {SCU: true, SCP: true}}
	client.Window = 2
	ac := &pdu.AssociateAC{ProtocolVersion: 1, ApplicationContext: pdu.ApplicationContextName, User: pdu.UserInformation{
		MaxLength: 16384, AsyncOperations: &pdu.AsyncOperations{Invoked: 2, Performed: 1}, Roles: []pdu.RoleSelection{{SOPClassUID: ctImage, SCU: true, SCP: true}}}}
	for id, ts := range map[byte]string{1: implicitLE, 3: explicitLE, 7: explicitLE, 9: explicitLE} {
		ac.Contexts = append(ac.Contexts, pdu.PresentationContextAC{ID: id, TransferSyntax: ts})
	}
	response := func(context byte, field, id uint16, status, data int) *pdu.Data {
		return dimsetest.CommandPDU(context, dimsetest.Elements{dimsetest.CommandField: dimsetest.US(field), dimsetest.MessageIDBeingRespondedTo: dimsetest.US(id),
			dimsetest.DataSetType: dimsetest.US(uint16(data)), dimsetest.Status: dimsetest.US(uint16(status)), 0x1020: dimsetest.US(1), 0x1021: dimsetest.US(2)})
	}
	keys := dimsetest.DataPDU(7, true, []byte("\x20\x00\x0D\x00UI\x04\x001.2\x00"))
	f.Add(dimsetest.Encode(f, ac, response(1, 0x8030, 1, 0, 0x0101),
		response(7, 0x8020, 2, 0xFF00, 1), keys, response(7, 0x8020, 2, 0, 0x0101),
		dimsetest.CommandPDU(3, dimsetest.StoreRQ(1, ctImage, instanceUID)), dimsetest.DataPDU(3, true, []byte("data")),
		response(9, 0x8010, 3, 0xFF00, 0x0101), response(9, 0x8010, 3, 0xB000, 1), dimsetest.DataPDU(9, true, []byte("\x08\x00\x58\x00UI\x04\x001.2\x00")),
		response(3, 0x8001, 4, 0xA700, 0x0101), &pdu.ReleaseRP{}))
	f.Add(dimsetest.Encode(f, &pdu.AssociateRJ{Result: 2, Source: 3, Reason: 2}))
	f.Add(dimsetest.Encode(f, ac, response(1, 0x8030, 9, 0, 0x0101)))
	f.Add(dimsetest.Encode(f, ac, &pdu.Abort{}))
	f.Add(dimsetest.Encode(f, ac, &pdu.ReleaseRQ{}))
	f.Add([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 1<<20 {
			t.Skip("the properties do not depend on the size")
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		conn, err := client.Associate(t.Context(), &replay{in: bytes.NewReader(in), closed: make(chan struct{})})
		if (conn == nil) == (err == nil) {
			t.Fatalf("Associate() = %v, %v, want a connection or an error", conn, err)
		}
		if err == nil {
			identifier := []*dataset.Element{dataset.MustElement(dicomtag.PatientID, "P1")}
			_ = conn.Echo(t.Context())
			_, _ = conn.Find(t.Context(), findClass, identifier, func(dataset.Header) bool { return true })
			_, _ = conn.Get(t.Context(), getClass, identifier, fetched{}, nil)
			_, _ = conn.Store(t.Context(), ctImage, instanceUID, explicitLE, strings.NewReader("data"))
			_ = conn.Release(t.Context())
			_ = conn.Close()
		}
		runtime.ReadMemStats(&after)
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(acceptorAllowance*len(in)+2<<20); got > limit {
			t.Errorf("%d bytes allocated for %d received, want at most %d", got, len(in), limit)
		}
	})
}

// fetched is a Handler that reads and forgets.
type fetched struct{}

func (fetched) CStore(_ context.Context, req *dimse.StoreRequest) error {
	_, err := io.Copy(io.Discard, req.Data)
	return err
}
