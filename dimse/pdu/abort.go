package pdu

import "fmt"

// AbortSource says who aborted.
type AbortSource byte

// AbortReason says why the provider aborted; it is 0 when the user did.
type AbortReason byte

// The values of PS3.8 table 9-26.
const (
	AbortSourceUser     AbortSource = 0 // the DICOM application
	AbortSourceProvider AbortSource = 2 // the upper layer

	ReasonNotSpecified          AbortReason = 0
	ReasonUnrecognizedPDU       AbortReason = 1
	ReasonUnexpectedPDU         AbortReason = 2
	ReasonUnrecognizedParameter AbortReason = 4
	ReasonUnexpectedParameter   AbortReason = 5
	ReasonInvalidParameter      AbortReason = 6
)

// String says the reason in words.
func (r AbortReason) String() string {
	switch r {
	case ReasonNotSpecified:
		return "no reason given"
	case ReasonUnrecognizedPDU:
		return "unrecognized PDU"
	case ReasonUnexpectedPDU:
		return "unexpected PDU"
	case ReasonUnrecognizedParameter:
		return "unrecognized PDU parameter"
	case ReasonUnexpectedParameter:
		return "unexpected PDU parameter"
	case ReasonInvalidParameter:
		return "invalid PDU parameter value"
	}
	return fmt.Sprintf("reason %d", byte(r))
}

// Abort is the A-ABORT PDU, PS3.8 9.3.8.
type Abort struct {
	Source AbortSource
	Reason AbortReason
}

// Type returns TypeAbort.
func (*Abort) Type() Type { return TypeAbort }

// Append appends the encoded PDU.
func (p *Abort) Append(dst []byte) ([]byte, error) {
	return append(dst, byte(TypeAbort), 0, 0, 0, 0, fixedLength, 0, 0, byte(p.Source), byte(p.Reason)), nil
}

// String says in words what the PDU means.
func (p *Abort) String() string {
	if p.Source == AbortSourceUser {
		return "aborted by the application"
	}
	return fmt.Sprintf("aborted by the upper layer: %s", p.Reason)
}

// ReleaseRQ is the A-RELEASE-RQ PDU, PS3.8 9.3.6.
type ReleaseRQ struct{}

// Type returns TypeReleaseRQ.
func (*ReleaseRQ) Type() Type { return TypeReleaseRQ }

// Append appends the encoded PDU.
func (*ReleaseRQ) Append(dst []byte) ([]byte, error) {
	return append(dst, byte(TypeReleaseRQ), 0, 0, 0, 0, fixedLength, 0, 0, 0, 0), nil
}

// ReleaseRP is the A-RELEASE-RP PDU, PS3.8 9.3.7.
type ReleaseRP struct{}

// Type returns TypeReleaseRP.
func (*ReleaseRP) Type() Type { return TypeReleaseRP }

// Append appends the encoded PDU.
func (*ReleaseRP) Append(dst []byte) ([]byte, error) {
	return append(dst, byte(TypeReleaseRP), 0, 0, 0, 0, fixedLength, 0, 0, 0, 0), nil
}
