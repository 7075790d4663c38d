package access

import (
	"crypto/rsa"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"

	"hilum/dimse"
	"hilum/node/config"
)

// minRSA is the shortest RSA key that RFC 9325 4.5 allows.
const minRSA = 2048

// ServerTLS is the listening side of TLS, with files that can be read again
// while associations go on.
type ServerTLS struct {
	files   config.TLS
	current atomic.Pointer[tls.Config]
}

// NewServerTLS reads the files of a configuration that names a certificate.
func NewServerTLS(c config.TLS) (*ServerTLS, error) {
	s := &ServerTLS{files: c}
	return s, s.Reload()
}

// Reload reads the files again. New connections use what they hold; on an error
// everything stays as it is.
func (s *ServerTLS) Reload() error {
	certificate, err := loadCertificate(s.files.Certificate, s.files.Key)
	if err != nil {
		return err
	}
	c := dimse.TLSProfile()
	c.Certificates = []tls.Certificate{certificate}
	if s.files.ClientCA != "" {
		if c.ClientCAs, err = loadAuthorities(s.files.ClientCA); err != nil {
			return err
		}
		c.ClientAuth = tls.RequireAndVerifyClientCert
	}
	s.current.Store(c)
	return nil
}

// Config returns the configuration of a listener. It follows each Reload.
func (s *ServerTLS) Config() *tls.Config {
	c := dimse.TLSProfile()
	c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) { return s.current.Load(), nil }
	return c
}

// ClientTLS reads the files for a connection to a peer.
func ClientTLS(d config.DestinationTLS) (*tls.Config, error) {
	c := dimse.TLSProfile()
	c.ServerName = d.ServerName
	var err error
	if d.CA != "" {
		if c.RootCAs, err = loadAuthorities(d.CA); err != nil {
			return nil, err
		}
	}
	if d.Certificate != "" {
		certificate, err := loadCertificate(d.Certificate, d.Key)
		if err != nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{certificate}
	}
	return c, nil
}

// SelfTLS is ClientTLS for a connection to the node that t configures, from its
// own machine: it trusts the very certificate of the node and no other, to
// whatever name that is made out.
func SelfTLS(t config.TLS) (*tls.Config, error) {
	certificate, err := loadCertificate(t.Certificate, t.Key)
	if err != nil {
		return nil, err
	}
	c := dimse.TLSProfile()
	c.Certificates = []tls.Certificate{certificate}
	c.InsecureSkipVerify = true // the next line verifies more
	c.VerifyConnection = func(state tls.ConnectionState) error {
		if len(state.PeerCertificates) == 0 || !state.PeerCertificates[0].Equal(certificate.Leaf) {
			return errors.New("whoever listens there does not have the certificate of the configured node")
		}
		return nil
	}
	return c, nil
}

func loadCertificate(file, key string) (tls.Certificate, error) {
	c, err := tls.LoadX509KeyPair(file, key)
	if err != nil {
		return c, fmt.Errorf("certificate %s with key %s: %w", file, key, err)
	}
	if public, ok := c.Leaf.PublicKey.(*rsa.PublicKey); ok && public.N.BitLen() < minRSA {
		return c, fmt.Errorf("certificate %s: its RSA key has %d bits, at least %d are needed", file, public.N.BitLen(), minRSA)
	}
	return c, nil
}

func loadAuthorities(file string) (*x509.CertPool, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read the authorities: %w", err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(text) {
		return nil, fmt.Errorf("%s holds no certificate in PEM format", file)
	}
	return pool, nil
}

// proves says whether a certificate is one of those that a rule names.
func proves(c *x509.Certificate, wanted []string) bool {
	if c == nil {
		return false
	}
	sum := sha256.Sum256(c.Raw)
	for _, w := range wanted {
		// openssl prints a fingerprint with colons between its bytes.
		if b, err := hex.DecodeString(strings.ReplaceAll(w, ":", "")); err == nil && len(b) == len(sum) {
			if [sha256.Size]byte(b) == sum {
				return true
			}
			continue
		}
		for _, name := range append([]string{c.Subject.CommonName}, c.DNSNames...) {
			if name != "" && strings.EqualFold(name, w) {
				return true
			}
		}
	}
	return false
}
