package audit_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"hilum/dimse/dimsetest"
	"hilum/node/audit"
	"hilum/node/config"
)

var self = audit.Peer{AETitle: "HILUM", Address: "127.0.0.1:11112"}

func open(t *testing.T, rules config.Audit) *audit.Trail {
	t.Helper()
	trail, err := audit.Open(rules, self, slog.New(slog.NewTextHandler(t.Output(), nil)), time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return trail
}

func closed(t *testing.T, trail *audit.Trail) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	if err := trail.Close(ctx); err != nil {
		t.Error(err)
	}
}

// TestNothing: a node without an audit trail calls it all the same.
func TestNothing(t *testing.T) {
	trail := open(t, config.Audit{})
	trail.Started()
	trail.Received(self, audit.Studies{{StudyInstanceUID: "1.2"}: {"1.2.3": 1}})
	trail.Configured(nil)
	if err := trail.Reopen(); err != nil {
		t.Error(err)
	}
	closed(t, trail)
}

// TestHostile: what a peer calls itself ends neither a line nor an element.
func TestHostile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	trail := open(t, config.Audit{File: file})
	trail.Refused(audit.Peer{AETitle: "A\"/><x>\n<85>1", Address: "[::1]:5"}, "no\x00 \xff ]]>")
	closed(t, trail)
	trail.Stopped() // after the end: nothing
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Count(string(text), "\n") != 1 || strings.Contains(string(text), "<x>") || !strings.Contains(string(text), `NetworkAccessPointID="::1"`) {
		t.Errorf("audit trail %q", text)
	}
}

// TestUDP: a datagram for each message.
func TestUDP(t *testing.T) {
	l, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	trail := open(t, config.Audit{Server: l.LocalAddr().String()})
	defer closed(t, trail)
	trail.Started()
	if err := l.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1<<16)
	n, _, err := l.ReadFrom(b)
	if got := string(b[:n]); err != nil || !strings.HasPrefix(got, "<85>1 ") || !strings.HasSuffix(got, "</AuditMessage>") {
		t.Errorf("%q, %v; want a message", got, err)
	}
}

// TestTLS: messages wait for a server that is down, and go on to the one that comes in
// its place, in their order.
func TestTLS(t *testing.T) {
	ca := dimsetest.NewAuthority(t)
	certificate := ca.Issue("syslog")
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	trail := open(t, config.Audit{Server: address, TLS: config.DestinationTLS{Enabled: true, CA: ca.File}})
	trail.Started() // nobody is there

	receive := func(want string) {
		t.Helper()
		l, err := tls.Listen("tcp", address, &tls.Config{Certificates: []tls.Certificate{certificate.TLS}})
		if err != nil {
			t.Skipf("the port is taken by another program meanwhile: %v", err)
		}
		defer l.Close()
		conn, err := l.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
			t.Fatal(err)
		}
		r := bufio.NewReader(conn)
		length, err := r.ReadString(' ')
		if err != nil {
			t.Fatal(err)
		}
		n, err := strconv.Atoi(strings.TrimSpace(length))
		if err != nil {
			t.Fatalf("the frame begins with %q", length)
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(r, b); err != nil || !strings.Contains(string(b), want) || !strings.HasSuffix(string(b), "</AuditMessage>") {
			t.Errorf("%q, %v; want %s", b, err, want)
		}
	}
	receive("Application Start")
	time.Sleep(100 * time.Millisecond) // its end arrives
	trail.Queried(audit.Peer{AETitle: "WS1", Address: "10.1.2.3:104"}, "1.2.840.10008.5.1.4.1.2.2.1")
	receive(`"Query"`)
	closed(t, trail)
}

// TestOpenFails names what is wrong before the node runs.
func TestOpenFails(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "nowhere", "audit.log")
	for _, rules := range []config.Audit{
		{File: missing},
		{Server: "127.0.0.1:6514", TLS: config.DestinationTLS{Enabled: true, CA: missing}},
	} {
		if _, err := audit.Open(rules, self, slog.New(slog.DiscardHandler), time.Now); err == nil || !strings.Contains(err.Error(), missing) {
			t.Errorf("Open(%+v) = %v, want an error that names the file", rules, err)
		}
	}
}
