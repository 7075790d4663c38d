package access_test

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hilum/dimse"
	"hilum/dimse/dimsetest"
	"hilum/node/access"
	"hilum/node/config"
)

// TestCertificates: which certificate proves which AE title.
func TestCertificates(t *testing.T) {
	ca := dimsetest.NewAuthority(t)
	byName, byCommonName, other := ca.Issue("x", "ct1.example.org"), ca.Issue("CT1.example.org"), ca.Issue("ct2.example.org")
	sum := sha256.Sum256(other.Leaf.Raw)
	fingerprint := strings.ToUpper(hex.EncodeToString(sum[:]))
	colons := fingerprint[:2]
	for i := 2; i < len(fingerprint); i += 2 {
		colons += ":" + fingerprint[i:i+2]
	}
	for _, tt := range []struct {
		name   string
		wanted []string
		shown  *x509.Certificate
		ok     bool
	}{
		{"DNS name", []string{"ct1.example.org"}, byName.Leaf, true},
		{"common name", []string{"ct1.example.org"}, byCommonName.Leaf, true},
		{"another name", []string{"ct1.example.org"}, other.Leaf, false},
		{"fingerprint", []string{"ct1.example.org", fingerprint}, other.Leaf, true},
		{"fingerprint as openssl prints it", []string{colons}, other.Leaf, true},
		{"another fingerprint", []string{fingerprint}, byName.Leaf, false},
		{"none shown", []string{"ct1.example.org"}, nil, false},
		{"none wanted", nil, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config.Default()
			cfg.Peers = []config.Peer{{AETitle: "CT1", Certificates: tt.wanted}}
			rules, err := access.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			_, err = rules.Admit(t.Context(), &dimse.AssociationRequest{CallingAETitle: "CT1", CalledAETitle: "HILUM", Certificate: tt.shown})
			if (err == nil) != tt.ok || err != nil && !errors.Is(err, dimse.ErrCallingAETitle) {
				t.Errorf("Admit = %v, want admitted %v", err, tt.ok)
			}
		})
	}
}

// TestReload: new connections see new files, old ones go on, and files that are
// no good change nothing.
func TestReload(t *testing.T) {
	ca := dimsetest.NewAuthority(t)
	first, second := ca.Issue("first"), ca.Issue("second")
	files := config.TLS{Certificate: filepath.Join(t.TempDir(), "cert.pem"), Key: filepath.Join(t.TempDir(), "key.pem")}
	install := func(cert, key string) {
		t.Helper()
		for from, to := range map[string]string{cert: files.Certificate, key: files.Key} {
			b, err := os.ReadFile(from)
			if err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(to, b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	install(first.File, first.KeyFile)
	server, err := access.NewServerTLS(files)
	if err != nil {
		t.Fatal(err)
	}
	shown := func() string {
		t.Helper()
		here, there := net.Pipe()
		defer func() { _ = here.Close() }()
		done := make(chan struct{})
		go func() {
			defer close(done)
			_ = tls.Server(there, server.Config()).HandshakeContext(t.Context()) // the client sees what is wrong
		}()
		c := tls.Client(here, &tls.Config{RootCAs: ca.Pool, ServerName: "127.0.0.1"})
		if err := c.HandshakeContext(t.Context()); err != nil {
			t.Fatal(err)
		}
		<-done
		return c.ConnectionState().PeerCertificates[0].Subject.CommonName
	}
	if got := shown(); got != "first" {
		t.Errorf("the node shows %q, want first", got)
	}
	install(second.File, first.KeyFile) // a key of another certificate
	if err := server.Reload(); err == nil || !strings.Contains(err.Error(), files.Certificate) {
		t.Errorf("Reload() = %v, want an error that names the file", err)
	}
	if got := shown(); got != "first" {
		t.Errorf("the node shows %q after a failed reload, want first", got)
	}
	install(second.File, second.KeyFile)
	if err := server.Reload(); err != nil {
		t.Errorf("Reload() = %v, want nil", err)
	}
	if got := shown(); got != "second" {
		t.Errorf("the node shows %q, want second", got)
	}
}

// TestFilesRefused: each is one sentence that names the file.
func TestFilesRefused(t *testing.T) {
	ca := dimsetest.NewAuthority(t)
	good := ca.Issue("node")
	weak, weakKey := weakCertificate(t)
	empty := filepath.Join(t.TempDir(), "empty.pem")
	if err := os.WriteFile(empty, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name  string
		files config.TLS
		want  string
	}{
		{"no file", config.TLS{Certificate: "/nonexistent/cert.pem", Key: good.KeyFile}, "/nonexistent/cert.pem"},
		{"no certificate in it", config.TLS{Certificate: empty, Key: good.KeyFile}, empty},
		{"weak key", config.TLS{Certificate: weak, Key: weakKey}, "1024 bits"},
		{"no authorities", config.TLS{Certificate: good.File, Key: good.KeyFile, ClientCA: empty}, "no certificate in PEM"},
		{"authorities missing", config.TLS{Certificate: good.File, Key: good.KeyFile, ClientCA: "/nonexistent/ca.pem"}, "/nonexistent/ca.pem"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := access.NewServerTLS(tt.files); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("NewServerTLS = %v, want %q", err, tt.want)
			}
			if _, err := access.ClientTLS(config.DestinationTLS{Certificate: tt.files.Certificate, Key: tt.files.Key, CA: tt.files.ClientCA}); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("ClientTLS = %v, want %q", err, tt.want)
			}
		})
	}
}

func weakCertificate(t *testing.T) (file, keyFile string) {
	t.Helper()
	key, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	file, keyFile = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{file: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		if err := os.WriteFile(name, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return file, keyFile
}
