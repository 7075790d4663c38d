package pdu

import "fmt"

// RejectResult is the result field of an A-ASSOCIATE-RJ.
type RejectResult byte

// RejectSource is the source field of an A-ASSOCIATE-RJ.
type RejectSource byte

// RejectReason is the reason field of an A-ASSOCIATE-RJ. The same number means
// different things for different sources.
type RejectReason byte

// The values of PS3.8 table 9-21.
const (
	RejectedPermanent RejectResult = 1
	RejectedTransient RejectResult = 2

	RejectSourceUser         RejectSource = 1 // the DICOM application
	RejectSourceACSE         RejectSource = 2 // the association control of the provider
	RejectSourcePresentation RejectSource = 3 // the presentation part of the provider

	RejectNoReason           RejectReason = 1 // source user or ACSE
	RejectApplicationContext RejectReason = 2 // source user
	RejectCallingAETitle     RejectReason = 3 // source user
	RejectCalledAETitle      RejectReason = 7 // source user
	RejectProtocolVersion    RejectReason = 2 // source ACSE
	RejectCongestion         RejectReason = 1 // source presentation
	RejectLimitExceeded      RejectReason = 2 // source presentation
)

// AssociateRJ is the A-ASSOCIATE-RJ PDU, PS3.8 9.3.4.
type AssociateRJ struct {
	Result RejectResult
	Source RejectSource
	Reason RejectReason
}

// Type returns TypeAssociateRJ.
func (*AssociateRJ) Type() Type { return TypeAssociateRJ }

// Append appends the encoded PDU.
func (p *AssociateRJ) Append(dst []byte) ([]byte, error) {
	return append(dst, byte(TypeAssociateRJ), 0, 0, 0, 0, fixedLength, 0, byte(p.Result), byte(p.Source), byte(p.Reason)), nil
}

// String says in words what the PDU means.
func (p *AssociateRJ) String() string {
	kind := "permanently"
	if p.Result == RejectedTransient {
		kind = "for now"
	}
	return fmt.Sprintf("rejected %s: %s (result %d, source %d, reason %d)", kind, p.reasonText(), p.Result, p.Source, p.Reason)
}

func (p *AssociateRJ) reasonText() string {
	switch p.Source {
	case RejectSourceUser:
		switch p.Reason {
		case RejectNoReason:
			return "no reason given"
		case RejectApplicationContext:
			return "application context not supported"
		case RejectCallingAETitle:
			return "calling AE title not recognized"
		case RejectCalledAETitle:
			return "called AE title not recognized"
		}
	case RejectSourceACSE:
		switch p.Reason {
		case RejectNoReason:
			return "no reason given"
		case RejectProtocolVersion:
			return "protocol version not supported"
		}
	case RejectSourcePresentation:
		switch p.Reason {
		case RejectCongestion:
			return "temporary congestion"
		case RejectLimitExceeded:
			return "local limit exceeded"
		}
	}
	return "unknown reason"
}
