package pdu

import (
	"encoding/binary"
	"fmt"
)

// PDV is one presentation data value, PS3.8 9.3.5.1 and annex E.2.
type PDV struct {
	ContextID byte
	Command   bool // the fragment belongs to the command set, not the data set
	Last      bool // the fragment is the last one of its command or data set
	Fragment  []byte
}

// Bits of the message control header, PS3.8 E.2; the others are not tested.
const (
	controlCommand = 0x01
	controlLast    = 0x02
)

// Data is the P-DATA-TF PDU, PS3.8 9.3.5. It holds the PDV items as they are on
// the wire, already checked, and Next takes them off one by one.
type Data struct{ items []byte }

// NewData returns a PDU of the given values.
func NewData(values ...PDV) *Data {
	d := new(Data)
	for _, v := range values {
		d.items = AppendPDVHeader(d.items, v.ContextID, v.Command, v.Last, len(v.Fragment))
		d.items = append(d.items, v.Fragment...)
	}
	return d
}

// Type returns TypeData.
func (*Data) Type() Type { return TypeData }

// Append appends the encoded PDU: what Next has not yet taken.
func (d *Data) Append(dst []byte) ([]byte, error) {
	if err := checkItems(d.items); err != nil {
		return nil, fmt.Errorf("encode P-DATA-TF: %w", err)
	}
	start := len(dst)
	dst = append(appendHeader(dst, TypeData), d.items...)
	return setLength(dst, start)
}

// Next returns the next value, and false when none is left. The fragment lives
// as long as the buffer the PDU was read into.
func (d *Data) Next() (PDV, bool) {
	if len(d.items) < PDVHeaderLength {
		return PDV{}, false
	}
	n := int(binary.BigEndian.Uint32(d.items)) // checked by checkItems
	control := d.items[5]
	v := PDV{
		ContextID: d.items[4],
		Command:   control&controlCommand != 0,
		Last:      control&controlLast != 0,
		Fragment:  d.items[PDVHeaderLength : 4+n],
	}
	d.items = d.items[4+n:]
	return v, true
}

// More says whether Next has a value left.
func (d *Data) More() bool { return len(d.items) > 0 }

func (d *Data) reset(body []byte) error {
	d.items = nil
	if err := checkItems(body); err != nil {
		return err
	}
	d.items = body
	return nil
}

// checkItems checks that the PDV lengths fill the bytes exactly. PS3.8 9.3.5.1:
// one or more items, each length counts the context id and the control header.
func checkItems(b []byte) error {
	if len(b) == 0 {
		return invalid("P-DATA-TF without a PDV")
	}
	for len(b) > 0 {
		if len(b) < PDVHeaderLength {
			return invalid("%d bytes after the last PDV", len(b))
		}
		n := binary.BigEndian.Uint32(b)
		if n < PDVHeaderLength-4 {
			return invalid("PDV length %d, the least is 2", n)
		}
		if uint64(n) > uint64(len(b)-4) {
			return invalid("PDV of %d bytes, %d are left", n, len(b)-4)
		}
		b = b[4+n:]
	}
	return nil
}

// AppendPDVHeader appends the header of a PDV whose fragment has n bytes.
func AppendPDVHeader(dst []byte, contextID byte, command, last bool, n int) []byte {
	var control byte
	if command {
		control |= controlCommand
	}
	if last {
		control |= controlLast
	}
	dst = binary.BigEndian.AppendUint32(dst, uint32(n)+PDVHeaderLength-4)
	return append(dst, contextID, control)
}

// AppendDataHeader appends the header of a P-DATA-TF that carries one PDV whose
// fragment, of n bytes, the caller appends next.
func AppendDataHeader(dst []byte, contextID byte, command, last bool, n int) []byte {
	dst = append(dst, byte(TypeData), 0)
	dst = binary.BigEndian.AppendUint32(dst, uint32(n)+PDVHeaderLength)
	return AppendPDVHeader(dst, contextID, command, last, n)
}
