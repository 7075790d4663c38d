// Package access decides who may have an association with the node, and for
// what: by the user that the peer names, held against the configuration.
//
// It follows PS3.7 D.3.3.7 (user identity negotiation). Nothing that a peer
// says of itself is logged but its AE title and address, which the network side
// has checked; credentials never are.
package access

import (
	"context"

	"hilum/dimse"
	"hilum/dimse/pdu"
	"hilum/node/config"
)

// Rules are the rules of a configuration. They do not change.
type Rules struct {
	identity string
	users    map[string]config.User
}

// New makes the rules of a configuration that is valid.
func New(c config.Config) *Rules {
	r := &Rules{identity: c.UserIdentity, users: map[string]config.User{}}
	for _, u := range c.Users {
		r.users[u.Name] = u
	}
	return r
}

// Admit is for dimse.Server.Admit.
func (r *Rules) Admit(_ context.Context, rq *dimse.AssociationRequest) (dimse.Admission, error) {
	identified, err := r.identify(rq.UserIdentity)
	return dimse.Admission{Identified: identified}, err
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
