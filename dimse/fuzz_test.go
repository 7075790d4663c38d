package dimse_test

import (
	"bytes"
	"log/slog"
	"net"
	"runtime"
	"sync"
	"testing"
	"time"

	"hilum/dimse"
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

	h := &recorder{}
	var panics guardedBuffer
	l := make(replays)
	s := &dimse.Server{AETitle: "HILUM", Handler: h, Logger: slog.New(slog.NewTextHandler(&panics, &slog.HandlerOptions{Level: slog.LevelError}))}
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
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(256*len(in)+1<<20); got > limit {
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
