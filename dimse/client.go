package dimse

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"time"

	"hilum/dimse/dataset"
	"hilum/dimse/pdu"
)

// DefaultTimeout is how long a Client waits for each answer. Peers that write
// to tape-backed archives take minutes; those that take longer are stuck.
const DefaultTimeout = 2 * time.Minute

// ErrNoContext is returned when the peer accepted no presentation context for
// the SOP class and transfer syntax. A retry does not help.
var ErrNoContext = errors.New("the peer did not accept this SOP class in this transfer syntax")

// ErrConnClosed is returned by the methods of a Conn that is released, aborted
// or closed, or that failed before.
var ErrConnClosed = errors.New("the association is closed")

// PresentationContext proposes an abstract syntax in some transfer syntaxes, of
// which the peer accepts one.
type PresentationContext struct {
	AbstractSyntax   string
	TransferSyntaxes []string
}

// VerificationContext proposes C-ECHO.
func VerificationContext() PresentationContext {
	return PresentationContext{VerificationSOPClass, []string{implicitLittleEndian, explicitLittleEndian}}
}

// Client requests associations. It may be used by several goroutines.
type Client struct {
	CallingAETitle, CalledAETitle string
	// MaxPDULength is the longest P-DATA-TF the peer may send; 0 is
	// DefaultMaxPDULength.
	MaxPDULength uint32
	// Timeout bounds the wait for the connection, for each answer and for each
	// write; 0 is DefaultTimeout.
	Timeout time.Duration
	// Window is how many operations may wait for their responses at once: what is
	// proposed as asynchronous operations window. The peer may allow fewer. 0 and 1
	// propose none.
	Window int
	// TLS makes Dial speak TLS; nil is none. TLSProfile is what to begin with.
	// Without a ServerName the host of the address must be in the certificate.
	TLS *tls.Config
	// Contexts are proposed in this order, at most 128.
	Contexts []PresentationContext
	// Roles are the roles that are asked for on this association, by abstract
	// syntax; where there is none this side is SCU, as without role selection.
	Roles map[string]Roles
	// Normalized answers the DIMSE-N requests that the peer may make, by abstract
	// syntax.
	Normalized map[string]NService
}

// Dial connects to address and requests an association. It returns *RejectError
// or *AbortError when the peer refused.
func (c *Client) Dial(ctx context.Context, address string) (*Conn, error) {
	dialer := net.Dialer{Timeout: c.timeout()}
	conn, err := dialer.DialContext(ctx, "tcp", address)
	if err != nil {
		return nil, err // names the address
	}
	if c.TLS != nil {
		secure, err := c.secure(ctx, conn, address)
		if err != nil {
			_ = conn.Close() // the handshake is what failed
			return nil, err
		}
		conn = secure
	}
	return c.Associate(ctx, conn)
}

func (c *Client) timeout() time.Duration { return orDefault(c.Timeout, DefaultTimeout) }

// Associate requests an association on a connection that is already open, a TLS
// connection for example. It takes over the connection and closes it on error.
func (c *Client) Associate(ctx context.Context, conn net.Conn) (*Conn, error) {
	rq, err := c.request()
	if err != nil {
		_ = conn.Close() // the request is what failed
		return nil, err
	}
	nc := newConn(newTransport(conn, rq.User.MaxLength, c.timeout(), time.Time{}), c.Normalized)
	nc.wanted = c.Roles
	err = nc.run(ctx, func() error { return nc.associate(rq) })
	if err != nil {
		return nil, fmt.Errorf("associate with %s at %s: %w", rq.CalledAETitle.String(), conn.RemoteAddr(), err)
	}
	return nc, nil
}

func (c *Client) request() (*pdu.AssociateRQ, error) {
	calling, err := pdu.NewAETitle(c.CallingAETitle)
	if err != nil {
		return nil, fmt.Errorf("calling %w", err)
	}
	called, err := pdu.NewAETitle(c.CalledAETitle)
	if err != nil {
		return nil, fmt.Errorf("called %w", err)
	}
	if len(c.Contexts) == 0 || len(c.Contexts) > pdu.MaxPresentationContexts {
		return nil, fmt.Errorf("%d presentation contexts proposed, an association has 1 to %d", len(c.Contexts), pdu.MaxPresentationContexts)
	}
	rq := &pdu.AssociateRQ{
		ProtocolVersion:    pdu.ProtocolVersion,
		CalledAETitle:      called,
		CallingAETitle:     calling,
		ApplicationContext: pdu.ApplicationContextName,
		User: pdu.UserInformation{
			MaxLength:                 max(orDefault(c.MaxPDULength, DefaultMaxPDULength), minMaxPDULength),
			ImplementationClassUID:    dataset.ImplementationClassUID,
			ImplementationVersionName: dataset.ImplementationVersionName,
		},
	}
	if c.Window > 1 {
		// PS3.7 D.3.3.3. This side performs nothing; 1 is the least to say.
		rq.User.AsyncOperations = &pdu.AsyncOperations{Invoked: uint16(min(c.Window, maxMaxOperations)), Performed: 1}
	}
	for i, pc := range c.Contexts {
		if !validUID(pc.AbstractSyntax) || len(pc.TransferSyntaxes) == 0 {
			return nil, fmt.Errorf("presentation context %d needs an abstract syntax UID and transfer syntaxes", i+1)
		}
		rq.Contexts = append(rq.Contexts, pdu.PresentationContextRQ{
			ID: byte(2*i + 1), AbstractSyntax: pc.AbstractSyntax, TransferSyntaxes: pc.TransferSyntaxes})
	}
	rq.User.Roles = c.proposeRoles()
	return rq, nil
}
