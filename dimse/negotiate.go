package dimse

import (
	"strings"

	"hilum/dimse/dataset"
	"hilum/dimse/pdu"
)

// VerificationSOPClass is the SOP class of C-ECHO, PS3.4 annex A.
const VerificationSOPClass = "1.2.840.10008.1.1"

const (
	implicitLittleEndian = "1.2.840.10008.1.2"
	explicitLittleEndian = "1.2.840.10008.1.2.1"
	// standardRoot begins every UID of the standard itself, PS3.5 9.
	standardRoot = "1.2.840.10008."
	// storageRoot begins the storage SOP classes of the standard.
	storageRoot = "1.2.840.10008.5.1.4.1.1."
	maxUID      = 64
)

func knownTransferSyntaxes() map[string]bool {
	known := make(map[string]bool, len(dataset.TransferSyntaxes))
	for _, ts := range dataset.TransferSyntaxes {
		known[ts.UID] = true
	}
	return known
}

// defaultSOPClasses accepts Verification and, where there is a handler, storage
// and what it provides of query and retrieve.
func defaultSOPClasses(h Handler, private bool) func(string) bool {
	return func(uid string) bool {
		if uid == VerificationSOPClass || providesQuery(h, uid) {
			return true
		}
		_, known := dataset.StorageSOPClasses[uid]
		return h != nil && (known || private && privateStorage(uid))
	}
}

// stores says whether instances can be stored on contexts of this abstract
// syntax, which was accepted.
func (set *settings) stores(abstractSyntax string) bool {
	_, normalized := set.normalized[abstractSyntax]
	return set.handler != nil && abstractSyntax != VerificationSOPClass && !normalized && queryCommands[abstractSyntax] == 0
}

// privateStorage says whether uid may be a private storage SOP class, or one of
// a later edition of the standard.
func privateStorage(uid string) bool {
	return validUID(uid) && (!strings.HasPrefix(uid, standardRoot) || strings.HasPrefix(uid, storageRoot))
}

// validUID is lenient: digits and dots, at most 64, as PS3.5 9.1, but leading
// zeros and empty components pass. Nothing is ever made of a UID but a key.
func validUID(uid string) bool {
	if uid == "" || len(uid) > maxUID || uid[0] == '.' {
		return false
	}
	for i := range len(uid) {
		if c := uid[i]; c != '.' && (c < '0' || c > '9') {
			return false
		}
	}
	return true
}

// negotiate answers a request that was admitted, and returns the contexts that
// it accepts.
func (set *settings) negotiate(rq *pdu.AssociateRQ, admission Admission) (*pdu.AssociateAC, []*presentation) {
	ac := &pdu.AssociateAC{
		ProtocolVersion:    pdu.ProtocolVersion,
		CalledAETitle:      rq.CalledAETitle, // PS3.8 9.3.3: the bytes of the request
		CallingAETitle:     rq.CallingAETitle,
		Reserved:           rq.Reserved,
		ApplicationContext: pdu.ApplicationContextName,
	}
	roles := proposedRoles(rq.User.Roles)
	var accepted []*presentation
	// PS3.8 9.3.3.2: an answer to every context, in the order of the request.
	// None accepted is still an acceptance.
	for _, pc := range rq.Contexts {
		answer := set.answer(pc, admission, roles)
		ac.Contexts = append(ac.Contexts, answer)
		if answer.Result == pdu.ContextAccepted {
			accepted = append(accepted, &presentation{id: pc.ID, abstractSyntax: pc.AbstractSyntax, transferSyntax: answer.TransferSyntax,
				roles: set.grantRoles(pc.AbstractSyntax, roles, admission)})
		}
	}
	ac.User = set.answerUser(&rq.User, admission, accepted)
	return ac, accepted
}

// proposedRoles returns the proposal for each SOP class. Of several for one SOP
// class the first counts. One for neither role says nothing: the default roles
// hold, as without it.
func proposedRoles(proposals []pdu.RoleSelection) map[string]pdu.RoleSelection {
	roles := make(map[string]pdu.RoleSelection, len(proposals))
	for _, r := range proposals {
		if _, twice := roles[r.SOPClassUID]; !twice && (r.SCU || r.SCP) {
			roles[r.SOPClassUID] = r
		}
	}
	return roles
}

// answer accepts the first proposed transfer syntax that the standard knows:
// data sets are stored as they come, so the sender's preference decides.
func (set *settings) answer(pc pdu.PresentationContextRQ, admission Admission, roles map[string]pdu.RoleSelection) pdu.PresentationContextAC {
	a := pdu.PresentationContextAC{ID: pc.ID, TransferSyntax: implicitLittleEndian} // not significant unless accepted
	if !set.supports(pc.AbstractSyntax) {
		a.Result = pdu.ContextAbstractNotSupported
		return a
	}
	if set.grantRoles(pc.AbstractSyntax, roles, admission).Roles == (Roles{}) {
		// Not for this peer; or it would be what it cannot be here, and a context
		// without a role for it would carry nothing.
		a.Result = pdu.ContextUserRejection
		return a
	}
	for _, ts := range pc.TransferSyntaxes {
		if set.transferSyntaxes[ts] && (queryCommands[pc.AbstractSyntax] == 0 || queryTransferSyntax(ts)) {
			a.Result, a.TransferSyntax = pdu.ContextAccepted, ts
			return a
		}
	}
	a.Result = pdu.ContextTransfersNotSupported
	return a
}

// window is how many operations the peer may invoke of which none is answered:
// what it proposes, 0 for any number, and what this side performs at once. This
// side invokes none, so that the other direction stays at one. PS3.7 D.3.3.3.
func window(proposed uint16, performed int) uint16 {
	if proposed == 0 {
		return uint16(performed)
	}
	return min(proposed, uint16(performed))
}

// answerUser answers the user information: our maximum length and identity, the
// window of asynchronous operations, the roles, and the extended negotiation of storage. The
// common extended negotiation has no answer, PS3.7 D.3.3.6.
func (set *settings) answerUser(rq *pdu.UserInformation, admission Admission, accepted []*presentation) pdu.UserInformation {
	u := pdu.UserInformation{
		MaxLength:                 set.maxPDULength,
		ImplementationClassUID:    dataset.ImplementationClassUID,
		ImplementationVersionName: dataset.ImplementationVersionName,
	}
	if rq.AsyncOperations != nil {
		u.AsyncOperations = &pdu.AsyncOperations{Invoked: window(rq.AsyncOperations.Invoked, set.maxOperations), Performed: 1}
	}
	open := map[string]bool{}
	for _, pc := range accepted {
		if pc.roles.proposed && !open[pc.abstractSyntax] {
			u.Roles = append(u.Roles, pdu.RoleSelection{SOPClassUID: pc.abstractSyntax, SCU: pc.roles.SCU, SCP: pc.roles.SCP})
		}
		open[pc.abstractSyntax] = true
	}
	for _, x := range rq.SOPClassExtended {
		information := set.extendedAnswer(x.SOPClassUID, x.Information)
		if !open[x.SOPClassUID] || information == nil {
			continue
		}
		open[x.SOPClassUID] = false // PS3.7 D.3.3.5: one answer each
		u.SOPClassExtended = append(u.SOPClassExtended, pdu.SOPClassExtended{SOPClassUID: x.SOPClassUID, Information: information})
		for _, pc := range accepted {
			if pc.abstractSyntax == x.SOPClassUID {
				pc.extended = information
			}
		}
	}
	if id := rq.UserIdentity; id != nil && id.PositiveResponseRequested && admission.Identified {
		// PS3.7 D.3.3.7.2: of length 0 for a user name, with or without passcode.
		u.UserIdentityResponse = &pdu.UserIdentityResponse{ServerResponse: []byte{}}
	}
	return u
}

// storageSupport is the answer to the extended negotiation of a storage SOP
// class, PS3.4 table B.3-2: level 2 (full), digital signatures at level 3 (every
// bit is preserved), no element is coerced.
func storageSupport() []byte { return []byte{2, 0, 3, 0, 0, 0} }
