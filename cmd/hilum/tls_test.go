package main

import (
	"bytes"
	"crypto/tls"
	"fmt"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/dimse/dimsetest"
)

// TestTLSNode: a node under mutual TLS takes new certificates at SIGHUP, while
// an association that was open before goes on; files that are no good change
// nothing.
func TestTLSNode(t *testing.T) {
	ca := dimsetest.NewAuthority(t)
	first, second, scanner := ca.Issue("first"), ca.Issue("second"), ca.Issue("scanner", "ct1.example.org")
	own := ca.Issue("to be replaced")
	install := func(c dimsetest.Certificate) {
		t.Helper()
		for from, to := range map[string]string{c.File: own.File, c.KeyFile: own.KeyFile} {
			b, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(to, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	install(first)
	p := newProcess(t, fmt.Sprintf(`tls: {certificate: %q, key: %q, client_ca: %q}
peers: [{ae_title: CT1, certificates: [ct1.example.org]}]
`, own.File, own.KeyFile, ca.File))
	p.start() // which asks for a C-ECHO with the node's own certificate
	address := fmt.Sprintf("127.0.0.1:%d", p.port)

	client := dimse.Client{CallingAETitle: "CT1", CalledAETitle: "HILUM", Timeout: 10 * time.Second, TLS: dimse.TLSProfile(), Contexts: []dimse.PresentationContext{
		{AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{dataset.ExplicitVRLittleEndian}}}}
	client.TLS.RootCAs, client.TLS.Certificates = ca.Pool, []tls.Certificate{scanner.TLS}
	conn, err := client.Dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()

	shown := func() string {
		c, err := tls.Dial("tcp", address, client.TLS)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	hup := func() {
		t.Helper()
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Truncate(own.KeyFile, 0); err != nil {
		t.Fatal(err)
	}
	hup()
	install(second)
	if got := shown(); got != "first" && got != "second" { // the signal may come late
		t.Errorf("the node shows %q after files that are no good, want first", got)
	}
	hup()
	poll(t, "the new certificate", time.Minute, func() bool { return shown() == "second" })
	uid, data := killImage(t, 1)
	if status, err := conn.Store(t.Context(), ctImageStorage, uid, dataset.ExplicitVRLittleEndian, bytes.NewReader(data)); err != nil || status != dimse.StatusSuccess {
		t.Errorf("Store() on the old association = %v, %v, want success", status, err)
	}
	if err := conn.Release(t.Context()); err != nil {
		t.Error(err)
	}

	to := []string{"echo", "--to", address, "--called", "HILUM"}
	certified := []string{"--tls", "--tls-ca", ca.File, "--tls-cert", scanner.File, "--tls-key", scanner.KeyFile}
	for _, tt := range []struct {
		name string
		args []string
		code int
		want string
	}{
		{"with TLS", certified, 0, ""},
		{"as the peer of the rule", append([]string{"--calling", "CT1"}, certified...), 0, ""},
		{"as that peer with another certificate", []string{"--calling", "CT1", "--tls", "--tls-ca", ca.File, "--tls-cert", second.File, "--tls-key", second.KeyFile}, 1, "calling AE title not recognized"},
		{"without a certificate", []string{"--tls", "--tls-ca", ca.File}, 1, "certificate"},
		{"without the authority", []string{"--tls"}, 1, "unknown authority"},
		{"under another name", append([]string{"--tls-name", "pacs.example.org"}, certified...), 1, "pacs.example.org"},
		{"without TLS", nil, 1, "aborted"},
		{"authority without TLS", []string{"--tls-ca", ca.File}, 2, "--tls"},
		{"certificate without key", []string{"--tls", "--tls-cert", scanner.File}, 2, "--tls-key"},
		{"no such file", []string{"--tls", "--tls-ca", "/nonexistent/ca.pem"}, 2, "/nonexistent/ca.pem"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, stderr, code := hilum(append(to, tt.args...)...)
			if code != tt.code || !strings.Contains(stderr, tt.want) {
				t.Errorf("hilum echo %v = %d, %q, want %d and %q", tt.args, code, stderr, tt.code, tt.want)
			}
		})
	}
}
