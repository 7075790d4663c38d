package dimsetest

import (
	"encoding/binary"
	"fmt"
	"sort"
	"strings"

	"hilum/dimse/pdu"
)

// Elements is a command set: element number of group 0000 to value.
type Elements map[uint16][]byte

// Element numbers of PS3.7 E.1 that tests use.
const (
	AffectedSOPClassUID       = 0x0002
	CommandField              = 0x0100
	MessageID                 = 0x0110
	MessageIDBeingRespondedTo = 0x0120
	Priority                  = 0x0700
	DataSetType               = 0x0800
	Status                    = 0x0900
	OffendingElement          = 0x0901
	ErrorComment              = 0x0902
	AffectedSOPInstanceUID    = 0x1000
)

// US encodes a 16-bit value.
func US(v uint16) []byte { return binary.LittleEndian.AppendUint16(nil, v) }

// UI encodes a UID, padded with a NUL to an even length.
func UI(s string) []byte {
	if len(s)%2 == 1 {
		s += "\x00"
	}
	return []byte(s)
}

// Bytes encodes the command set with its group length, in ascending order.
func (e Elements) Bytes() []byte {
	var numbers []int
	size := 0
	for n, v := range e {
		numbers = append(numbers, int(n))
		size += 8 + len(v)
	}
	sort.Ints(numbers)
	b := []byte{0, 0, 0, 0, 4, 0, 0, 0}
	b = binary.LittleEndian.AppendUint32(b, uint32(size))
	for _, n := range numbers {
		v := e[uint16(n)]
		b = append(b, 0, 0)
		b = binary.LittleEndian.AppendUint16(b, uint16(n))
		b = binary.LittleEndian.AppendUint32(b, uint32(len(v)))
		b = append(b, v...)
	}
	return b
}

// With returns a copy with one element changed, or removed where value is nil.
func (e Elements) With(number uint16, value []byte) Elements {
	c := Elements{}
	for n, v := range e {
		c[n] = v
	}
	if value == nil {
		delete(c, number)
	} else {
		c[number] = value
	}
	return c
}

// Number returns a 16-bit element, and -1 when it is missing or misshapen.
func (e Elements) Number(number uint16) int {
	if len(e[number]) != 2 {
		return -1
	}
	return int(binary.LittleEndian.Uint16(e[number]))
}

// Text returns an element as text without padding.
func (e Elements) Text(number uint16) string { return strings.TrimRight(string(e[number]), " \x00") }

// ParseCommand decodes a command set and checks its group length.
func ParseCommand(b []byte) (Elements, error) {
	e := Elements{}
	if len(b) < 12 || binary.LittleEndian.Uint32(b) != 0 || int(binary.LittleEndian.Uint32(b[8:])) != len(b)-12 {
		return nil, fmt.Errorf("command set of %d bytes has no or a wrong group length", len(b))
	}
	for last := -1; len(b) > 0; {
		if len(b) < 8 {
			return nil, fmt.Errorf("%d bytes after the last element", len(b))
		}
		number, n := binary.LittleEndian.Uint16(b[2:]), int(binary.LittleEndian.Uint32(b[4:]))
		if b[0] != 0 || b[1] != 0 || int(number) <= last || n%2 == 1 || n > len(b)-8 {
			return nil, fmt.Errorf("element (%02X%02X,%04X) is out of order or its length %d is wrong", b[1], b[0], number, n)
		}
		e[number], b, last = b[8:8+n], b[8+n:], int(number)
	}
	return e, nil
}

// EchoRQ is a C-ECHO-RQ.
func EchoRQ(messageID uint16) Elements {
	return Elements{
		AffectedSOPClassUID: UI("1.2.840.10008.1.1"),
		CommandField:        US(0x0030),
		MessageID:           US(messageID),
		DataSetType:         US(0x0101),
	}
}

// StoreRQ is a C-STORE-RQ.
func StoreRQ(messageID uint16, sopClass, sopInstance string) Elements {
	return Elements{
		AffectedSOPClassUID:    UI(sopClass),
		CommandField:           US(0x0001),
		MessageID:              US(messageID),
		Priority:               US(0),
		DataSetType:            US(0),
		AffectedSOPInstanceUID: UI(sopInstance),
	}
}

// CommandPDU is a command set in one P-DATA-TF.
func CommandPDU(contextID byte, e Elements) *pdu.Data {
	return pdu.NewData(pdu.PDV{ContextID: contextID, Command: true, Last: true, Fragment: e.Bytes()})
}

// DataPDU is a data set, or a fragment of one, in one P-DATA-TF.
func DataPDU(contextID byte, last bool, fragment []byte) *pdu.Data {
	return pdu.NewData(pdu.PDV{ContextID: contextID, Last: last, Fragment: fragment})
}
