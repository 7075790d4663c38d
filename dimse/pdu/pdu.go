// Package pdu encodes and decodes the protocol data units of the DICOM upper
// layer, PS3.8 section 9.3: A-ASSOCIATE-RQ, -AC and -RJ, P-DATA-TF,
// A-RELEASE-RQ and -RP, and A-ABORT, with every user-information sub-item of
// PS3.7 annex D.
//
// It believes nothing that a peer says: the type byte is checked before the
// length is read, the length before the body, and every item length against
// the bytes that are really there. Buffers grow with the bytes received, never
// with the bytes promised. It knows no states and no timers; package dimse has
// those.
package pdu

import (
	"encoding/binary"
	"fmt"
)

// Type is the first byte of a PDU.
type Type byte

// The PDU types of PS3.8 9.3.1.
const (
	TypeAssociateRQ Type = 0x01
	TypeAssociateAC Type = 0x02
	TypeAssociateRJ Type = 0x03
	TypeData        Type = 0x04
	TypeReleaseRQ   Type = 0x05
	TypeReleaseRP   Type = 0x06
	TypeAbort       Type = 0x07
)

// String names the PDU as the standard does.
func (t Type) String() string {
	switch t {
	case TypeAssociateRQ:
		return "A-ASSOCIATE-RQ"
	case TypeAssociateAC:
		return "A-ASSOCIATE-AC"
	case TypeAssociateRJ:
		return "A-ASSOCIATE-RJ"
	case TypeData:
		return "P-DATA-TF"
	case TypeReleaseRQ:
		return "A-RELEASE-RQ"
	case TypeReleaseRP:
		return "A-RELEASE-RP"
	case TypeAbort:
		return "A-ABORT"
	}
	return fmt.Sprintf("PDU type %02XH", byte(t))
}

const (
	// HeaderLength is the size of what precedes every PDU's variable field:
	// type, reserved byte and length.
	HeaderLength = 6
	// MaxAssociateLength caps an A-ASSOCIATE-RQ or -AC. The largest honest one
	// (128 contexts, every transfer syntax) is near 400 KiB; DCMTK refuses
	// above the same 1 MiB.
	MaxAssociateLength = 1 << 20
	// DataSlack is how much longer than the advertised maximum a P-DATA-TF may
	// be, because some peers count headers wrongly.
	DataSlack = 4096
	// PDVHeaderLength is what a presentation data value adds to its fragment:
	// a 4-byte length, the context id and the message control header.
	PDVHeaderLength = 6
	// fixedLength is the length field of RJ, RELEASE-RQ, RELEASE-RP and ABORT.
	fixedLength = 4
)

// PDU is one protocol data unit. Append appends its encoding, header included,
// to dst; it returns an error only when a value does not fit its field.
type PDU interface {
	Type() Type
	Append(dst []byte) ([]byte, error)
}

// Error is returned for bytes that are not a valid PDU. Reason is what the
// A-ABORT that answers them should carry.
type Error struct {
	Reason  AbortReason
	Problem string
}

func (e *Error) Error() string { return "invalid PDU: " + e.Problem }

func invalid(format string, args ...any) error {
	return &Error{Reason: ReasonInvalidParameter, Problem: fmt.Sprintf(format, args...)}
}

// checkHeader says whether a PDU of this type may have this length.
func checkHeader(t Type, length uint32, maxData uint32) error {
	switch t {
	case TypeAssociateRQ, TypeAssociateAC:
		if length > MaxAssociateLength {
			return invalid("%s of %d bytes, at most %d are accepted", t, length, MaxAssociateLength)
		}
	case TypeData:
		if uint64(length) > uint64(maxData)+DataSlack {
			return invalid("P-DATA-TF of %d bytes, at most %d were offered", length, maxData)
		}
	default:
		if length != fixedLength {
			return invalid("%s of %d bytes, must be %d", t, length, fixedLength)
		}
	}
	return nil
}

// checkType refuses what is no PDU at all, an HTTP request for example.
func checkType(b byte) error {
	if b < byte(TypeAssociateRQ) || b > byte(TypeAbort) {
		return &Error{Reason: ReasonUnrecognizedPDU, Problem: fmt.Sprintf("first byte %02XH is no PDU type", b)}
	}
	return nil
}

// Decode decodes exactly one PDU, header included. A *Data that it returns
// refers to b.
func Decode(b []byte) (PDU, error) {
	if len(b) < HeaderLength {
		return nil, invalid("%d bytes, a header has %d", len(b), HeaderLength)
	}
	if err := checkType(b[0]); err != nil {
		return nil, err
	}
	length := binary.BigEndian.Uint32(b[2:])
	if uint64(length) != uint64(len(b)-HeaderLength) {
		return nil, invalid("length field %d with %d bytes present", length, len(b)-HeaderLength)
	}
	t := Type(b[0])
	if err := checkHeader(t, length, length); err != nil {
		return nil, err
	}
	if t == TypeData {
		d := new(Data)
		if err := d.reset(b[HeaderLength:]); err != nil {
			return nil, err
		}
		return d, nil
	}
	return decodeBody(t, b[HeaderLength:])
}

// decodeBody decodes every type but P-DATA-TF from its variable field.
func decodeBody(t Type, body []byte) (PDU, error) {
	switch t {
	case TypeAssociateRQ:
		return decodeAssociateRQ(body)
	case TypeAssociateAC:
		return decodeAssociateAC(body)
	case TypeAssociateRJ:
		return &AssociateRJ{Result: RejectResult(body[1]), Source: RejectSource(body[2]), Reason: RejectReason(body[3])}, nil
	case TypeReleaseRQ:
		return &ReleaseRQ{}, nil
	case TypeReleaseRP:
		return &ReleaseRP{}, nil
	case TypeAbort:
		return &Abort{Source: AbortSource(body[2]), Reason: AbortReason(body[3])}, nil
	}
	return nil, invalid("%s has no body", t)
}

// appendHeader appends a header whose length setLength fills in later.
func appendHeader(dst []byte, t Type) []byte {
	return append(dst, byte(t), 0, 0, 0, 0, 0)
}

// setLength fills in the length of the PDU that starts at start.
func setLength(dst []byte, start int) ([]byte, error) {
	n := len(dst) - start - HeaderLength
	if uint64(n) > 0xFFFFFFFF {
		return nil, fmt.Errorf("encode %s: %d bytes exceed a PDU", Type(dst[start]), n)
	}
	binary.BigEndian.PutUint32(dst[start+2:], uint32(n))
	return dst, nil
}
