package dimse

import (
	"context"
	"crypto/x509"
	"errors"
	"net"

	"hilum/dimse/pdu"
)

// AssociationRequest is what is known of a peer that asks for an association.
type AssociationRequest struct {
	CallingAETitle string // trimmed; may be empty
	CalledAETitle  string // trimmed
	RemoteAddr     net.Addr
	// Certificate is that of the peer, where TLS verified one; else nil.
	Certificate *x509.Certificate
	// UserIdentity is who the peer says its user is; nil where it says nothing.
	UserIdentity *pdu.UserIdentity
}

// Admission is what an admitted peer may do.
type Admission struct {
	// SOPClasses says which of the abstract syntaxes that the Server accepts are
	// for this peer too; nil is all. The others are answered with a user
	// rejection.
	SOPClasses func(abstractSyntax string) bool
	// Identified says that the user identity was verified, which a peer may have
	// asked to be told.
	Identified bool
}

func (a Admission) allows(abstractSyntax string) bool {
	return a.SOPClasses == nil || a.SOPClasses(abstractSyntax)
}

// The rejections that an Admit has use for, PS3.8 table 9-21.
var (
	// ErrCallingAETitle rejects a peer by what it calls itself.
	ErrCallingAETitle = &RejectError{Result: pdu.RejectedPermanent, Source: pdu.RejectSourceUser, Reason: pdu.RejectCallingAETitle}
	// ErrCalledAETitle rejects a peer by whom it calls.
	ErrCalledAETitle = &RejectError{Result: pdu.RejectedPermanent, Source: pdu.RejectSourceUser, Reason: pdu.RejectCalledAETitle}
	// ErrUserIdentity rejects a peer whose user identity is missing, wrong or of
	// a kind that is not checked. PS3.7 D.3.3.7: by the ACSE, without a reason.
	ErrUserIdentity = &RejectError{Result: pdu.RejectedPermanent, Source: pdu.RejectSourceACSE, Reason: pdu.RejectNoReason}
	// ErrNoRoom rejects a peer for the moment: it may try again later.
	ErrNoRoom = &RejectError{Result: pdu.RejectedTransient, Source: pdu.RejectSourcePresentation, Reason: pdu.RejectLimitExceeded}
)

// admit is Sta3: it decides whether there is an association. It returns the
// A-ASSOCIATE-RJ when there is none.
func (a *acceptor) admit(rq *pdu.AssociateRQ) (Admission, *pdu.AssociateRJ) {
	if rj := a.set.screen(rq); rj != nil {
		return Admission{}, rj
	}
	// The place is taken before Admit is asked: it may take its time, and no
	// more peers than there are places may keep it busy.
	if !a.server.establish(a) {
		return Admission{}, &pdu.AssociateRJ{Result: pdu.RejectedTransient, Source: pdu.RejectSourcePresentation, Reason: pdu.RejectLimitExceeded}
	}
	if a.set.admit == nil {
		return Admission{}, nil
	}
	admission, err := a.set.admit(a.ctx, &AssociationRequest{
		CallingAETitle: rq.CallingAETitle.String(),
		CalledAETitle:  rq.CalledAETitle.String(),
		RemoteAddr:     a.conn.RemoteAddr(),
		Certificate:    a.certificate,
		UserIdentity:   rq.User.UserIdentity,
	})
	if err == nil {
		return admission, nil
	}
	a.server.disestablish(a)
	var rejected *RejectError
	if errors.As(err, &rejected) {
		if error(rejected) != err { // there is more to say than the peer is told
			a.log.Warn("association not admitted", "problem", err.Error())
		}
		return Admission{}, &pdu.AssociateRJ{Result: rejected.Result, Source: rejected.Source, Reason: rejected.Reason}
	}
	if a.ctx.Err() != nil && errors.Is(err, context.Canceled) {
		// The peer may ask again, perhaps the next server.
		return Admission{}, &pdu.AssociateRJ{Result: pdu.RejectedTransient, Source: pdu.RejectSourcePresentation, Reason: pdu.RejectCongestion}
	}
	a.log.Error("association not admitted", "error", err)
	return Admission{}, reject(pdu.RejectSourceUser, pdu.RejectNoReason)
}

// screen finds what PS3.8 table 9-21 rejects.
func (set *settings) screen(rq *pdu.AssociateRQ) *pdu.AssociateRJ {
	switch {
	case rq.ProtocolVersion&pdu.ProtocolVersion == 0: // PS3.8 9.3.2: only bit 0 is tested
		return reject(pdu.RejectSourceACSE, pdu.RejectProtocolVersion)
	case rq.ApplicationContext != pdu.ApplicationContextName:
		return reject(pdu.RejectSourceUser, pdu.RejectApplicationContext)
	case !rq.CallingAETitle.Valid(): // blank is accepted: some ultrasound machines send it
		return reject(pdu.RejectSourceUser, pdu.RejectCallingAETitle)
	case !rq.CalledAETitle.Valid(), !set.anyCalledAETitle && rq.CalledAETitle.String() != set.calledAETitle:
		return reject(pdu.RejectSourceUser, pdu.RejectCalledAETitle)
	}
	return nil
}

func reject(source pdu.RejectSource, reason pdu.RejectReason) *pdu.AssociateRJ {
	return &pdu.AssociateRJ{Result: pdu.RejectedPermanent, Source: source, Reason: reason}
}
