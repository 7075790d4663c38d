package dimse

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"

	"hilum/dimse/pdu"
)

// TLSProfile returns a configuration that keeps to PS3.15 B.12, the BCP 195 (RFC
// 8996, 9325) TLS secure transport connection profile: TLS 1.3 and 1.2, of the
// latter only ephemeral key exchange with AES-GCM (RFC 9325 4.2). Certificates
// are for the caller to add.
func TLSProfile() *tls.Config {
	return &tls.Config{
		MinVersion: tls.VersionTLS12,
		CipherSuites: []uint16{ // of TLS 1.2; those of TLS 1.3 are all good
			tls.TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256, tls.TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
			tls.TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384, tls.TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
		},
		// A resumed session would not look at the certificates again, which may
		// have been replaced since.
		SessionTicketsDisabled: true,
	}
}

// secured is a connection under TLS, a *tls.Conn.
type secured interface {
	HandshakeContext(ctx context.Context) error
	ConnectionState() tls.ConnectionState
}

// bare returns what lies under TLS, or conn itself.
func bare(conn net.Conn) net.Conn {
	if wrapped, ok := conn.(interface{ NetConn() net.Conn }); ok {
		return wrapped.NetConn()
	}
	return conn
}

// handshake makes the connection secure, where it is under TLS, within the ARTIM
// time. It returns the certificate of the peer, if there is a verified one.
func (a *acceptor) handshake() (*x509.Certificate, error) {
	conn, ok := a.conn.(secured)
	if !ok {
		return nil, nil
	}
	deadline := time.Now().Add(a.set.artim)
	if err := a.armRead(deadline); err != nil {
		return nil, err
	}
	if err := a.conn.SetWriteDeadline(deadline); err != nil {
		return nil, err
	}
	if err := conn.HandshakeContext(a.ctx); err != nil {
		if err = a.cause(err); errors.Is(err, errIdle) {
			err = errARTIM
		}
		return nil, err
	}
	if state := conn.ConnectionState(); len(state.VerifiedChains) > 0 {
		return state.PeerCertificates[0], nil
	}
	return nil, nil
}

// plainLinger is how long a peer that does not speak TLS is waited for after it
// was told, and plainDiscard what it may still send.
const (
	plainLinger  = stoppingLinger
	plainDiscard = pdu.MaxAssociateLength
)

// insecure ends a connection whose handshake failed. A peer that spoke DICOM
// without TLS is told with an A-ABORT, in the only language that it knows.
func (a *acceptor) insecure(err error) {
	var plain tls.RecordHeaderError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, errStopping):
		a.log.Debug("connection closed before TLS was established", "error", err)
		return
	case errors.As(err, &plain) && plain.Conn != nil && plain.RecordHeader[0] == byte(pdu.TypeAssociateRQ):
		a.log.Warn("connection closed: the peer speaks DICOM without TLS")
		if b, err := (&pdu.Abort{Source: pdu.AbortSourceUser, Reason: pdu.ReasonNotSpecified}).Append(nil); err == nil {
			_ = plain.Conn.SetDeadline(time.Now().Add(plainLinger)) // the connection ends either way
			_, _ = plain.Conn.Write(b)
			_, _ = io.CopyN(io.Discard, plain.Conn, plainDiscard) // or a reset would overtake the A-ABORT
		}
	default:
		a.log.Warn("connection closed: TLS was not established", "error", err)
	}
	a.server.failed(a)
}

// secure makes a connection secure as the one who opened it.
func (c *Client) secure(ctx context.Context, conn net.Conn, address string) (net.Conn, error) {
	config := c.TLS
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(address)
		if err != nil {
			return nil, err
		}
		config = config.Clone()
		config.ServerName = host
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout())
	defer cancel()
	secure := tls.Client(conn, config)
	if err := secure.HandshakeContext(ctx); err != nil {
		if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
			err = errIdle
		}
		return nil, fmt.Errorf("TLS with %s: %w", address, err)
	}
	return secure, nil
}
