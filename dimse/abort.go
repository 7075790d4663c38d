package dimse

import (
	"fmt"

	"hilum/dimse/pdu"
)

// RejectError is returned by Client.Dial when the peer rejected the
// association. A retry can help when Transient says so.
type RejectError struct {
	Result pdu.RejectResult
	Source pdu.RejectSource
	Reason pdu.RejectReason
}

func (e *RejectError) Error() string {
	return "association " + (&pdu.AssociateRJ{Result: e.Result, Source: e.Source, Reason: e.Reason}).String()
}

// Transient says whether the peer may accept later.
func (e *RejectError) Transient() bool { return e.Result == pdu.RejectedTransient }

// AbortError is returned when the peer aborted the association.
type AbortError struct {
	Source pdu.AbortSource
	Reason pdu.AbortReason
}

func (e *AbortError) Error() string {
	return "association " + (&pdu.Abort{Source: e.Source, Reason: e.Reason}).String()
}

// violation is a peer's breach of the protocol. This side answers it with the
// A-ABORT it describes.
type violation struct {
	source  pdu.AbortSource
	reason  pdu.AbortReason
	problem string
}

func (e *violation) Error() string { return "protocol violation by the peer: " + e.problem }

// providerViolation is a breach of PS3.8: a PDU that is unexpected or whose
// parameters are wrong.
func providerViolation(reason pdu.AbortReason, format string, args ...any) error {
	return &violation{source: pdu.AbortSourceProvider, reason: reason, problem: fmt.Sprintf(format, args...)}
}

// userViolation is a breach of PS3.7, seen by the user of the upper layer.
func userViolation(format string, args ...any) error {
	return &violation{source: pdu.AbortSourceUser, reason: pdu.ReasonNotSpecified, problem: fmt.Sprintf(format, args...)}
}
