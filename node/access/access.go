// Package access decides who may have an association with the node, and for
// what: by the AE titles, the address and the certificate of the peer, and by the
// user that it names, held against the configuration. It reads the files of TLS
// for both ends.
//
// It follows PS3.8 9.3.4 (the reasons of a rejection), PS3.7 D.3.3.7 (user
// identity negotiation) and PS3.15 B.12 (TLS). An AE title proves nothing: anybody
// can call himself by it; a certificate does. Credentials are never logged.
package access

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"hilum/dimse"
	"hilum/dimse/pdu"
	"hilum/node/config"
)

// Rules are the rules of a configuration. They do not change.
type Rules struct {
	aeTitle       string // of the node
	anyCalled     bool
	refuseUnknown bool
	unknown       peer            // the rule for those
	peers         map[string]peer // by calling AE title
	identity      string
	users         map[string]config.User
}

// peer is the rule for one calling AE title; what is empty is not asked for.
type peer struct {
	networks     []netip.Prefix
	certificates []string
	called       []string
	services     []string
}

// New makes the rules of a configuration that is valid.
func New(c config.Config) (*Rules, error) {
	r := &Rules{
		aeTitle: c.AETitle, anyCalled: c.AnyCalledAETitle,
		refuseUnknown: c.UnknownPeers == config.UnknownRefuse, unknown: peer{services: c.UnknownServices}, peers: map[string]peer{},
		identity: c.UserIdentity, users: map[string]config.User{},
	}
	for _, p := range c.Peers {
		rule := peer{certificates: p.Certificates, called: p.Called, services: p.Services}
		for _, a := range p.Addresses {
			network, err := config.ParseNetwork(a)
			if err != nil {
				return nil, fmt.Errorf("peer %s: %w", p.AETitle, err)
			}
			rule.networks = append(rule.networks, network)
		}
		r.peers[p.AETitle] = rule
	}
	for _, u := range c.Users {
		r.users[u.Name] = u
	}
	return r, nil
}

// Admit is for dimse.Server.Admit. It looks at the called AE title too, so the
// server must accept any.
func (r *Rules) Admit(_ context.Context, rq *dimse.AssociationRequest) (dimse.Admission, error) {
	rule, known := r.peers[rq.CallingAETitle]
	if !known {
		rule = r.unknown
	}
	switch {
	case !known && r.refuseUnknown:
		return dimse.Admission{}, fmt.Errorf("%w: `peers` has no such calling AE title, and unknown ones are refused", dimse.ErrCallingAETitle)
	case known && !rule.from(rq.RemoteAddr):
		return dimse.Admission{}, fmt.Errorf("%w: its rule in `peers` does not have this address", dimse.ErrCallingAETitle)
	case len(rule.certificates) > 0 && !proves(rq.Certificate, rule.certificates):
		return dimse.Admission{}, fmt.Errorf("%w: its rule in `peers` does not have this certificate", dimse.ErrCallingAETitle)
	case !r.calledRight(rule, rq.CalledAETitle):
		return dimse.Admission{}, dimse.ErrCalledAETitle
	}
	identified, err := r.identify(rq.UserIdentity)
	if err != nil {
		return dimse.Admission{}, err
	}
	admission := dimse.Admission{Identified: identified}
	if len(rule.services) > 0 {
		admission.SOPClasses = func(uid string) bool { return slices.Contains(rule.services, serviceOf(uid)) }
	}
	return admission, nil
}

// serviceOf names the service of an abstract syntax that the node accepts.
func serviceOf(abstractSyntax string) string {
	switch abstractSyntax {
	case dimse.VerificationSOPClass:
		return config.ServiceEcho
	case dimse.StorageCommitmentSOPClass:
		return config.ServiceCommitment
	case dimse.PerformedProcedureStepSOPClass:
		return config.ServiceMPPS
	case dimse.PatientRootFind, dimse.StudyRootFind:
		return config.ServiceFind
	case dimse.PatientRootMove, dimse.StudyRootMove:
		return config.ServiceMove
	case dimse.PatientRootGet, dimse.StudyRootGet:
		return config.ServiceGet
	}
	return config.ServiceStore
}

// from says whether the peer may come from there.
func (p peer) from(a net.Addr) bool {
	if len(p.networks) == 0 {
		return true
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return false
	}
	ip := ap.Addr().Unmap().WithZone("")
	return slices.ContainsFunc(p.networks, func(n netip.Prefix) bool { return n.Contains(ip) })
}

func (r *Rules) calledRight(p peer, called string) bool {
	if len(p.called) > 0 {
		return slices.Contains(p.called, called)
	}
	return r.anyCalled || called == r.aeTitle
}

// identify holds the user identity against the users.
func (r *Rules) identify(id *pdu.UserIdentity) (bool, error) {
	switch {
	case r.identity == config.IdentityIgnored:
		return false, nil
	case id == nil && r.identity == config.IdentityChecked:
		return false, nil
	case id == nil:
		return false, dimse.ErrUserIdentity
	}
	user, known := r.users[string(id.Primary)]
	if !known {
		user = config.Nobody
	}
	right := false
	switch id.IdentityType {
	case pdu.IdentityUsername:
		right = user.Passcode == ""
	case pdu.IdentityPasscode:
		// A passcode that nobody asked for does no harm.
		right = user.Passcode == "" || user.Verify(id.Secondary)
	}
	if !known || !right {
		return false, dimse.ErrUserIdentity
	}
	return true, nil
}
