package dimse_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
)

// secureServer listens under TLS until the test ends and returns the address.
// With mutual it demands a certificate of the same authority.
func secureServer(t *testing.T, s *dimse.Server, ca *dimsetest.Authority, own dimsetest.Certificate, mutual bool) string {
	t.Helper()
	config := dimse.TLSProfile()
	config.Certificates = []tls.Certificate{own.TLS}
	if mutual {
		config.ClientAuth, config.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s, tls.NewListener(l, config))
	return l.Addr().String()
}

// TestTLS: what a client of ours and its certificate get from a server that
// demands one.
func TestTLS(t *testing.T) {
	ca, other := dimsetest.NewAuthority(t), dimsetest.NewAuthority(t)
	var seen string
	h := &recorder{}
	address := secureServer(t, &dimse.Server{Handler: h, Admit: func(_ context.Context, rq *dimse.AssociationRequest) (dimse.Admission, error) {
		seen = rq.Certificate.Subject.CommonName
		return dimse.Admission{}, nil
	}}, ca, ca.Issue("node"), true)
	tests := []struct {
		name   string
		change func(c *tls.Config)
		err    string
	}{
		{"TLS 1.3", func(*tls.Config) {}, ""},
		{"TLS 1.2", func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 }, ""},
		{"TLS 1.1", func(c *tls.Config) { c.MinVersion, c.MaxVersion = tls.VersionTLS11, tls.VersionTLS11 }, "protocol version"},
		{"CBC", func(c *tls.Config) {
			c.MaxVersion, c.CipherSuites = tls.VersionTLS12, []uint16{tls.TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA}
		}, "handshake failure"},
		{"no certificate", func(c *tls.Config) { c.Certificates = nil }, "certificate required"},
		{"certificate of another authority", func(c *tls.Config) { c.Certificates = []tls.Certificate{other.Issue("stranger").TLS} }, "tls: "},
		{"server of another authority", func(c *tls.Config) { c.RootCAs = other.Pool }, "unknown authority"},
		{"server with another name", func(c *tls.Config) { c.ServerName = "elsewhere.example.org" }, "elsewhere.example.org"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			client := newClient()
			client.TLS = dimse.TLSProfile()
			client.TLS.RootCAs, client.TLS.Certificates = ca.Pool, []tls.Certificate{ca.Issue("scanner").TLS}
			tt.change(client.TLS)
			conn, err := client.Dial(t.Context(), address)
			if tt.err != "" {
				if err == nil || !strings.Contains(err.Error(), tt.err) {
					t.Errorf("Dial() = %v, want %q", err, tt.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = conn.Close() }()
			data := image(instanceUID, 300_000)
			if status, err := conn.Store(t.Context(), ctImage, instanceUID, explicitLE, bytes.NewReader(data)); err != nil || status != dimse.StatusSuccess {
				t.Errorf("Store() = %v, %v, want success", status, err)
			}
			if err := conn.Release(t.Context()); err != nil {
				t.Errorf("Release() = %v, want nil", err)
			}
			if got := h.take(); seen != "scanner" || len(got) != 1 || got[0].size != int64(len(data)) {
				t.Errorf("Admit saw %q, stored %v, want scanner and one instance", seen, got)
			}
		})
	}
}

// TestTLSFailures: a peer without TLS, or with too little of it, is told so or
// closed, is counted as a failure, and keeps nobody else waiting.
func TestTLSFailures(t *testing.T) {
	ca := dimsetest.NewAuthority(t)
	node := ca.Issue("node")
	plain := func(b []byte) func(t *testing.T, c net.Conn) {
		return func(t *testing.T, c net.Conn) {
			if _, err := c.Write(b); err != nil {
				t.Fatal(err)
			}
		}
	}
	tests := []struct {
		name string
		do   func(t *testing.T, c net.Conn)
		told bool // with an A-ABORT in plain
	}{
		{"DICOM without TLS", plain(dimsetest.Encode(t, request())), true},
		{"HTTP", plain([]byte("GET / HTTP/1.1\r\n\r\n")), false},
		{"half a handshake", plain([]byte{0x16, 3, 1, 1, 0}), false},
		{"nothing", func(*testing.T, net.Conn) {}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			address := secureServer(t, &dimse.Server{ARTIM: 200 * time.Millisecond, MaxFailuresPerAddress: 1}, ca, node, false)
			c, err := net.Dial("tcp", address)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = c.Close() }()
			if err := c.SetDeadline(time.Now().Add(interopTimeout)); err != nil {
				t.Fatal(err)
			}
			tt.do(t, c)
			if tt.told {
				got, err := pdu.NewReader(c, 1<<16).Next()
				if abort, ok := got.(*pdu.Abort); !ok || abort.Source != pdu.AbortSourceUser {
					t.Fatalf("got %v, %v, want A-ABORT", got, err)
				}
				_ = c.Close()
			} else if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				t.Fatal("the connection is still open")
			}
			// One failure is the limit: the next is not heard.
			client := newClient()
			client.TLS = &tls.Config{RootCAs: ca.Pool}
			for {
				conn, err := client.Dial(t.Context(), address)
				if err != nil {
					break
				}
				_ = conn.Close() // the failure is counted a moment after the peer sees it
			}
		})
	}
}

// TestTLSProfile has OpenSSL try what PS3.15 B.12 allows and what it does not.
func TestTLSProfile(t *testing.T) {
	openssl, err := exec.LookPath("openssl")
	if err != nil {
		t.Skip("openssl is not installed")
	}
	ca := dimsetest.NewAuthority(t)
	address := secureServer(t, &dimse.Server{}, ca, ca.Issue("node"), false)
	for _, tt := range []struct {
		name string
		args []string
		ok   bool
	}{
		{"TLS 1.3", []string{"-tls1_3"}, true},
		{"TLS 1.2", []string{"-tls1_2"}, true},
		{"AES 128 GCM", []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES128-GCM-SHA256"}, true},
		{"AES 256 GCM", []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-GCM-SHA384"}, true},
		{"TLS 1.1", []string{"-tls1_1", "-cipher", "ALL:@SECLEVEL=0"}, false},
		{"TLS 1.0", []string{"-tls1", "-cipher", "ALL:@SECLEVEL=0"}, false},
		{"CBC", []string{"-tls1_2", "-cipher", "ECDHE-ECDSA-AES256-SHA384:ECDHE-ECDSA-AES256-SHA"}, false},
		{"without forward secrecy", []string{"-tls1_2", "-cipher", "AES128-GCM-SHA256:AES256-SHA"}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"s_client", "-connect", address, "-CAfile", ca.File, "-verify_return_error"}, tt.args...)
			if out, err := run(t, openssl, args...); (err == nil) != tt.ok {
				t.Errorf("openssl %v = %v, want ok %v\n%s", args, err, tt.ok, out)
			}
		})
	}
}

// TestDCMTKUnderTLS: echoscu and storescu with certificates, and without.
func TestDCMTKUnderTLS(t *testing.T) {
	echoscu, storescu := dcmtk(t, "echoscu"), dcmtk(t, "storescu")
	ca := dimsetest.NewAuthority(t)
	scanner := ca.Issue("scanner")
	h := &recorder{}
	address := secureServer(t, &dimse.Server{Handler: h}, ca, ca.Issue("node"), true)
	host, port, _ := net.SplitHostPort(address)
	with := []string{"-v", "-aec", "HILUM", "+tls", scanner.KeyFile, scanner.File, "+cf", ca.File}
	if out, err := run(t, echoscu, append(with, host, port)...); err != nil {
		t.Errorf("echoscu +tls = %v\n%s", err, out)
	}
	file := writeFile(t, append(dataset.AppendFileMeta(nil, explicitLE, ctImage, instanceUID), image(instanceUID, 100_000)...))
	if out, err := run(t, storescu, append(with, host, port, file)...); err != nil || len(h.take()) != 1 {
		t.Errorf("storescu +tls = %v\n%s", err, out)
	}
	if out, err := run(t, echoscu, "-v", "-aec", "HILUM", "+tla", "+cf", ca.File, host, port); err == nil {
		t.Errorf("echoscu +tla, without a certificate = nil\n%s", out)
	}
	if out, err := run(t, echoscu, "-v", "-aec", "HILUM", host, port); err == nil || !strings.Contains(out, "Peer aborted") {
		t.Errorf("echoscu without TLS = %v, want a peer that aborted\n%s", err, out)
	}
}
