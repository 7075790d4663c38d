package dimse

import "hilum/dimse/pdu"

// Roles are what the requestor of an association is for a SOP class, PS3.7
// D.3.3.4: who invokes its operations (SCU), who carries them out and sends its
// events (SCP), or both.
type Roles struct{ SCU, SCP bool }

// negotiatedRoles are those of the requestor on one presentation context.
type negotiatedRoles struct {
	Roles
	proposed bool // and not only the default
}

// grantRoles answers what was proposed for an abstract syntax. Without a
// proposal the requestor is SCU. None is granted for what is not for this peer.
func (set *settings) grantRoles(abstractSyntax string, proposals map[string]pdu.RoleSelection, admission Admission) negotiatedRoles {
	possible := Roles{SCU: true}
	if s, ok := set.normalized[abstractSyntax]; ok && s.Requestor != (Roles{}) {
		possible = s.Requestor
	}
	if !admission.allows(abstractSyntax) {
		possible = Roles{}
	}
	if set.stores(abstractSyntax) {
		possible.SCP = set.fetches(admission)
	}
	proposal, proposed := proposals[abstractSyntax]
	if !proposed {
		proposal.SCU = true
	}
	return negotiatedRoles{Roles{SCU: possible.SCU && proposal.SCU, SCP: possible.SCP && proposal.SCP}, proposed}
}

// fetches says whether a peer may retrieve with C-GET, and so be SCP of storage,
// PS3.4 C.4.3.
func (set *settings) fetches(admission Admission) bool {
	for _, get := range []string{PatientRootGet, StudyRootGet} {
		if providesQuery(set.handler, get) && admission.allows(get) {
			return true
		}
	}
	return false
}

// proposeRoles makes the proposals in the order of the contexts.
func (c *Client) proposeRoles() []pdu.RoleSelection {
	var proposals []pdu.RoleSelection
	seen := map[string]bool{}
	for _, pc := range c.Contexts {
		if r, ok := c.Roles[pc.AbstractSyntax]; ok && !seen[pc.AbstractSyntax] {
			seen[pc.AbstractSyntax] = true
			proposals = append(proposals, pdu.RoleSelection{SOPClassUID: pc.AbstractSyntax, SCU: r.SCU, SCP: r.SCP})
		}
	}
	return proposals
}

// agreedRoles are those that were proposed and accepted. A peer that answers no
// proposal leaves the default roles.
func agreedRoles(abstractSyntax string, proposals, answers []pdu.RoleSelection) negotiatedRoles {
	wanted := proposedRoles(proposals)[abstractSyntax]
	for _, a := range answers {
		if a.SOPClassUID == abstractSyntax && wanted.SOPClassUID != "" {
			return negotiatedRoles{Roles{SCU: wanted.SCU && a.SCU, SCP: wanted.SCP && a.SCP}, true}
		}
	}
	return negotiatedRoles{Roles: Roles{SCU: true}}
}
