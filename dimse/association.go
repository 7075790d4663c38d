package dimse

import (
	"net"
	"sync/atomic"
	"time"

	"hilum/dimse/pdu"
)

// Association describes an association that a Server accepted. It does not
// change while the association lasts, and may be kept afterwards.
type Association struct {
	acceptor                  atomic.Pointer[acceptor] // nil once the association has ended
	id                        uint64
	callingAETitle            string
	calledAETitle             string
	remote                    net.Addr
	opened                    time.Time
	implementationClassUID    string
	implementationVersionName string
}

func newAssociation(id uint64, remote net.Addr, rq *pdu.AssociateRQ) *Association {
	return &Association{
		id:                        id,
		callingAETitle:            rq.CallingAETitle.String(),
		calledAETitle:             rq.CalledAETitle.String(),
		remote:                    remote,
		opened:                    time.Now(),
		implementationClassUID:    clip(rq.User.ImplementationClassUID, maxUID),
		implementationVersionName: clip(rq.User.ImplementationVersionName, maxVersionName),
	}
}

// maxVersionName is the longest implementation version name, PS3.7 D.3.3.2.3. The log
// gets no more of it: it could have 64 KiB.
const maxVersionName = 16

func clip(s string, limit int) string { return s[:min(len(s), limit)] }

// ID returns a number that no other association of the Server has.
func (a *Association) ID() uint64 { return a.id }

// CallingAETitle returns the peer's title, trimmed; it may be empty.
func (a *Association) CallingAETitle() string { return a.callingAETitle }

// CalledAETitle returns the title that the peer called, trimmed.
func (a *Association) CalledAETitle() string { return a.calledAETitle }

// RemoteAddr returns the peer's address.
func (a *Association) RemoteAddr() net.Addr { return a.remote }

// Opened returns when the association was accepted.
func (a *Association) Opened() time.Time { return a.opened }

// ImplementationClassUID returns what the peer says it is; it may be empty.
func (a *Association) ImplementationClassUID() string { return a.implementationClassUID }

// ImplementationVersionName returns the version the peer says it has; it may be
// empty.
func (a *Association) ImplementationVersionName() string { return a.implementationVersionName }
