package dimse

import (
	"fmt"
	"strings"

	"hilum/dimse/dataset"
)

// Status is the status of a DIMSE response, PS3.7 annex C and PS3.4 B.2.3.
type Status uint16

// The statuses that this package sends, and those that its handlers need.
const (
	StatusSuccess              Status = 0x0000
	StatusInvalidAttribute     Status = 0x0106 // invalid attribute value
	StatusProcessingFailure    Status = 0x0110
	StatusDuplicateInstance    Status = 0x0111
	StatusNoSuchInstance       Status = 0x0112
	StatusNoSuchEventType      Status = 0x0113
	StatusInvalidArgument      Status = 0x0115 // invalid argument value
	StatusInvalidInstance      Status = 0x0117 // the SOP instance UID is no UID
	StatusNoSuchClass          Status = 0x0118
	StatusClassConflict        Status = 0x0119 // the instance is of another SOP class
	StatusMissingAttribute     Status = 0x0120
	StatusMissingValue         Status = 0x0121 // missing attribute value
	StatusSOPClassNotSupported Status = 0x0122
	StatusNoSuchAction         Status = 0x0123
	StatusNotAuthorized        Status = 0x0124
	StatusDuplicateTransaction Status = 0x0131 // duplicate transaction UID, PS3.3 C.14.1.1
	StatusDuplicateInvocation  Status = 0x0210 // the Message ID is one that is in use
	StatusUnrecognized         Status = 0x0211 // unrecognized operation
	StatusMistypedArgument     Status = 0x0212
	StatusResourceLimitation   Status = 0x0213
	StatusOutOfResources       Status = 0xA700
	StatusDataSetMismatch      Status = 0xA900 // data set does not match SOP class
	StatusCannotUnderstand     Status = 0xC000
	StatusCoercion             Status = 0xB000 // stored, elements changed
	StatusElementsDiscarded    Status = 0xB006 // stored, elements dropped
	StatusMismatchWarning      Status = 0xB007 // stored, data set does not match SOP class

	// Of queries and retrievals, PS3.4 C.4.
	StatusUnableToCalculate  Status = 0xA701 // out of resources: number of matches
	StatusUnableToPerform    Status = 0xA702 // out of resources: sub-operations
	StatusUnknownDestination Status = 0xA801 // of a C-MOVE
	StatusSubOperations      Status = 0xB000 // done, but sub-operations failed or had warnings
	StatusCanceled           Status = 0xFE00 // by C-CANCEL
	StatusPending            Status = 0xFF00
	StatusPendingWarning     Status = 0xFF01 // an optional key is not supported
)

// Warning says whether the operation was done although not quite as asked.
// PS3.7 C.1.3: 0001H, 0107H, 0116H and Bxxx.
func (s Status) Warning() bool {
	return s == 0x0001 || s == 0x0107 || s == 0x0116 || s&0xF000 == 0xB000
}

// Failure says whether the operation was not done.
func (s Status) Failure() bool { return s != StatusSuccess && !s.Warning() }

// Pending says whether more responses follow.
func (s Status) Pending() bool { return s == StatusPending || s == StatusPendingWarning }

// String writes the status as the standard does, with its meaning.
func (s Status) String() string {
	return fmt.Sprintf("%04XH (%s)", uint16(s), s.meaning())
}

func (s Status) meaning() string {
	switch {
	case s == StatusSuccess:
		return "success"
	case s == StatusProcessingFailure:
		return "processing failure"
	case s == StatusDuplicateInstance:
		return "duplicate SOP instance"
	case s == StatusInvalidAttribute:
		return "invalid attribute value"
	case s == StatusNoSuchInstance:
		return "no such SOP instance"
	case s == StatusNoSuchEventType:
		return "no such event type"
	case s == StatusInvalidArgument:
		return "invalid argument value"
	case s == StatusInvalidInstance:
		return "invalid SOP instance UID"
	case s == StatusNoSuchClass:
		return "no such SOP class"
	case s == StatusClassConflict:
		return "class-instance conflict"
	case s == StatusMissingAttribute:
		return "missing attribute"
	case s == StatusMissingValue:
		return "missing attribute value"
	case s == StatusNoSuchAction:
		return "no such action type"
	case s == StatusDuplicateTransaction:
		return "duplicate transaction UID"
	case s == StatusSOPClassNotSupported:
		return "SOP class not supported"
	case s == StatusNotAuthorized:
		return "not authorized"
	case s == StatusDuplicateInvocation:
		return "duplicate invocation"
	case s == StatusUnrecognized:
		return "unrecognized operation"
	case s == StatusMistypedArgument:
		return "mistyped argument"
	case s == StatusResourceLimitation:
		return "resource limitation"
	case s&0xFF00 == 0xA700:
		return "out of resources"
	case s == StatusUnknownDestination:
		return "move destination unknown"
	case s == StatusCanceled:
		return "canceled"
	case s.Pending():
		return "pending"
	case s&0xFF00 == 0xA800:
		return "SOP class not supported"
	case s&0xFF00 == 0xA900:
		return "data set does not match SOP class"
	case s&0xF000 == 0xC000:
		return "cannot understand"
	case s.Warning():
		return "warning"
	}
	return "failure"
}

// maxErrorComment is the length of Error Comment (0000,0902), VR LO.
const maxErrorComment = 64

// StatusError is the answer to a request that was not, or not quite, carried
// out. A Handler returns one to choose what the peer is told, and Conn.Store
// returns one for what the peer told.
type StatusError struct {
	Status            Status
	Comment           string // at most 64 characters reach the peer; no patient data
	OffendingElements []dataset.Tag
	ErrorID           uint16 // Error ID (0000,0903) of a DIMSE-N response; 0 is none
}

func (e *StatusError) Error() string {
	if e.Comment == "" {
		return "status " + e.Status.String()
	}
	return fmt.Sprintf("status %s: %s", e.Status, e.Comment)
}

// wireComment makes a text fit for Error Comment: ASCII, no backslash, no
// control characters, at most 64 characters.
func wireComment(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' || r == '\\' {
			return '?'
		}
		return r
	}, s)
	return strings.TrimRight(s[:min(len(s), maxErrorComment)], " ")
}
