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

// defaultSOPClasses accepts Verification and, where there is a handler, storage.
func defaultSOPClasses(storage, private bool) func(string) bool {
	return func(uid string) bool {
		if uid == VerificationSOPClass {
			return true
		}
		_, known := dataset.StorageSOPClasses[uid]
		return storage && (known || private && privateStorage(uid))
	}
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

// negotiate answers a request: with an A-ASSOCIATE-AC and the accepted contexts,
// or with an A-ASSOCIATE-RJ.
func (set *settings) negotiate(rq *pdu.AssociateRQ) (*pdu.AssociateAC, []*presentation, *pdu.AssociateRJ) {
	if rj := set.screen(rq); rj != nil {
		return nil, nil, rj
	}
	ac := &pdu.AssociateAC{
		ProtocolVersion:    pdu.ProtocolVersion,
		CalledAETitle:      rq.CalledAETitle, // PS3.8 9.3.3: the bytes of the request
		CallingAETitle:     rq.CallingAETitle,
		Reserved:           rq.Reserved,
		ApplicationContext: pdu.ApplicationContextName,
	}
	var accepted []*presentation
	// PS3.8 9.3.3.2: an answer to every context, in the order of the request.
	// None accepted is still an acceptance.
	for _, pc := range rq.Contexts {
		answer := set.answer(pc)
		ac.Contexts = append(ac.Contexts, answer)
		if answer.Result == pdu.ContextAccepted {
			accepted = append(accepted, &presentation{id: pc.ID, abstractSyntax: pc.AbstractSyntax, transferSyntax: answer.TransferSyntax})
		}
	}
	ac.User = set.answerUser(&rq.User, accepted)
	return ac, accepted, nil
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

// answer accepts the first proposed transfer syntax that the standard knows:
// data sets are stored as they come, so the sender's preference decides.
func (set *settings) answer(pc pdu.PresentationContextRQ) pdu.PresentationContextAC {
	a := pdu.PresentationContextAC{ID: pc.ID, TransferSyntax: implicitLittleEndian} // not significant unless accepted
	if !set.supports(pc.AbstractSyntax) {
		a.Result = pdu.ContextAbstractNotSupported
		return a
	}
	for _, ts := range pc.TransferSyntaxes {
		if set.transferSyntaxes[ts] {
			a.Result, a.TransferSyntax = pdu.ContextAccepted, ts
			return a
		}
	}
	a.Result = pdu.ContextTransfersNotSupported
	return a
}

// answerUser answers the user information: our maximum length and identity, a
// synchronous window, and the default roles. Extended negotiation and user
// identity are not answered, which PS3.7 D.3.3 lets a peer take as unsupported.
func (set *settings) answerUser(rq *pdu.UserInformation, accepted []*presentation) pdu.UserInformation {
	u := pdu.UserInformation{
		MaxLength:                 set.maxPDULength,
		ImplementationClassUID:    dataset.ImplementationClassUID,
		ImplementationVersionName: dataset.ImplementationVersionName,
	}
	if rq.AsyncOperations != nil {
		u.AsyncOperations = &pdu.AsyncOperations{Invoked: 1, Performed: 1}
	}
	open := map[string]bool{}
	for _, pc := range accepted {
		open[pc.abstractSyntax] = true
	}
	for _, r := range rq.Roles {
		if open[r.SOPClassUID] {
			open[r.SOPClassUID] = false // one answer each
			// PS3.7 D.3.3.4: the requestor may be SCU; this side never is.
			u.Roles = append(u.Roles, pdu.RoleSelection{SOPClassUID: r.SOPClassUID, SCU: r.SCU})
		}
	}
	return u
}
