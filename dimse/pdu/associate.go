package pdu

import (
	"encoding/binary"
	"fmt"
)

// ProtocolVersion is the only version of the protocol: bit 0 set, PS3.8 9.3.2.
const ProtocolVersion uint16 = 1

// ApplicationContextName is the only application context, PS3.7 A.2.1.
const ApplicationContextName = "1.2.840.10008.3.1.1.1"

// Item types of the variable items, PS3.8 9.3.2 and 9.3.3.
const (
	itemApplicationContext    = 0x10
	itemPresentationContextRQ = 0x20
	itemPresentationContextAC = 0x21
	itemAbstractSyntax        = 0x30
	itemTransferSyntax        = 0x40
	itemUserInformation       = 0x50
)

const (
	// MaxPresentationContexts is the number of odd ids from 1 to 255.
	MaxPresentationContexts = 128
	// maxTransferSyntaxes caps the proposals within one context. The standard
	// has about sixty.
	maxTransferSyntaxes = 256
	reservedLength      = 32
)

// PresentationContextRQ is a proposed presentation context, PS3.8 9.3.2.2.
type PresentationContextRQ struct {
	ID               byte
	AbstractSyntax   string
	TransferSyntaxes []string
}

// ContextResult is the answer to a proposed presentation context.
type ContextResult byte

// The values of PS3.8 table 9-18.
const (
	ContextAccepted              ContextResult = 0
	ContextUserRejection         ContextResult = 1
	ContextNoReason              ContextResult = 2
	ContextAbstractNotSupported  ContextResult = 3
	ContextTransfersNotSupported ContextResult = 4
)

// PresentationContextAC is the answer to a proposed presentation context,
// PS3.8 9.3.3.2. TransferSyntax counts only where Result is ContextAccepted.
type PresentationContextAC struct {
	ID             byte
	Result         ContextResult
	TransferSyntax string
}

// AssociateRQ is the A-ASSOCIATE-RQ PDU, PS3.8 9.3.2.
type AssociateRQ struct {
	ProtocolVersion    uint16
	CalledAETitle      AETitle
	CallingAETitle     AETitle
	Reserved           [reservedLength]byte // echoed in the A-ASSOCIATE-AC
	ApplicationContext string
	Contexts           []PresentationContextRQ
	User               UserInformation
}

// AssociateAC is the A-ASSOCIATE-AC PDU, PS3.8 9.3.3. Its AE titles and reserved
// bytes repeat those of the A-ASSOCIATE-RQ and are not tested.
type AssociateAC struct {
	ProtocolVersion    uint16
	CalledAETitle      AETitle
	CallingAETitle     AETitle
	Reserved           [reservedLength]byte
	ApplicationContext string
	Contexts           []PresentationContextAC
	User               UserInformation
}

// Type returns TypeAssociateRQ.
func (*AssociateRQ) Type() Type { return TypeAssociateRQ }

// Type returns TypeAssociateAC.
func (*AssociateAC) Type() Type { return TypeAssociateAC }

// Append appends the encoded PDU.
func (p *AssociateRQ) Append(dst []byte) ([]byte, error) {
	if len(p.Contexts) > MaxPresentationContexts {
		return nil, fmt.Errorf("encode A-ASSOCIATE-RQ: %d presentation contexts, at most %d fit", len(p.Contexts), MaxPresentationContexts)
	}
	start := len(dst)
	e := encoder{b: appendHeader(dst, TypeAssociateRQ)}
	e.fixed(p.ProtocolVersion, p.CalledAETitle, p.CallingAETitle, p.Reserved)
	e.text(itemApplicationContext, p.ApplicationContext)
	for _, pc := range p.Contexts {
		e.item(itemPresentationContextRQ, func() {
			e.b = append(e.b, pc.ID, 0, 0, 0)
			e.text(itemAbstractSyntax, pc.AbstractSyntax)
			for _, ts := range pc.TransferSyntaxes {
				e.text(itemTransferSyntax, ts)
			}
		})
	}
	p.User.encode(&e)
	return e.finish(start)
}

// Append appends the encoded PDU.
func (p *AssociateAC) Append(dst []byte) ([]byte, error) {
	start := len(dst)
	e := encoder{b: appendHeader(dst, TypeAssociateAC)}
	e.fixed(p.ProtocolVersion, p.CalledAETitle, p.CallingAETitle, p.Reserved)
	e.text(itemApplicationContext, p.ApplicationContext)
	for _, pc := range p.Contexts {
		e.item(itemPresentationContextAC, func() {
			e.b = append(e.b, pc.ID, 0, byte(pc.Result), 0)
			e.text(itemTransferSyntax, pc.TransferSyntax)
		})
	}
	p.User.encode(&e)
	return e.finish(start)
}

// fixedPart is what precedes the variable items of both PDUs.
type fixedPart struct {
	version         uint16
	called, calling AETitle
	reserved        [reservedLength]byte
}

func decodeFixed(c *cursor) (f fixedPart, err error) {
	if f.version, err = c.u16("protocol version"); err != nil {
		return f, err
	}
	b, err := c.bytes(2+len(f.called)+len(f.calling)+len(f.reserved), "fixed fields")
	if err != nil {
		return f, err
	}
	b = b[2:] // reserved, not tested
	b = b[copy(f.called[:], b):]
	b = b[copy(f.calling[:], b):]
	copy(f.reserved[:], b)
	return f, nil
}

func decodeAssociateRQ(body []byte) (PDU, error) {
	c := cursor{body}
	f, err := decodeFixed(&c)
	if err != nil {
		return nil, err
	}
	p := &AssociateRQ{ProtocolVersion: f.version, CalledAETitle: f.called, CallingAETitle: f.calling, Reserved: f.reserved}
	var ids contextIDs
	for !c.empty() {
		kind, item, err := c.item()
		if err != nil {
			return nil, err
		}
		switch kind {
		case itemApplicationContext:
			p.ApplicationContext = trimUID(item.b)
		case itemPresentationContextRQ:
			pc, err := decodeContextRQ(item)
			if err != nil {
				return nil, err
			}
			if err := ids.add(pc.ID); err != nil {
				return nil, err
			}
			p.Contexts = append(p.Contexts, pc)
		case itemUserInformation:
			if err := p.User.decode(item, true); err != nil {
				return nil, err
			}
		}
		// PS3.8 9.3.1: unrecognized items are ignored.
	}
	return p, nil
}

func decodeContextRQ(c cursor) (PresentationContextRQ, error) {
	var pc PresentationContextRQ
	head, err := c.bytes(4, "presentation context")
	if err != nil {
		return pc, err
	}
	pc.ID = head[0]
	for !c.empty() {
		kind, item, err := c.item()
		if err != nil {
			return pc, err
		}
		switch kind {
		case itemAbstractSyntax:
			pc.AbstractSyntax = trimUID(item.b)
		case itemTransferSyntax:
			if len(pc.TransferSyntaxes) == maxTransferSyntaxes {
				return pc, invalid("presentation context %d proposes more than %d transfer syntaxes", pc.ID, maxTransferSyntaxes)
			}
			pc.TransferSyntaxes = append(pc.TransferSyntaxes, trimUID(item.b))
		}
	}
	return pc, nil
}

func decodeAssociateAC(body []byte) (PDU, error) {
	c := cursor{body}
	f, err := decodeFixed(&c)
	if err != nil {
		return nil, err
	}
	p := &AssociateAC{ProtocolVersion: f.version, CalledAETitle: f.called, CallingAETitle: f.calling, Reserved: f.reserved}
	var ids contextIDs
	for !c.empty() {
		kind, item, err := c.item()
		if err != nil {
			return nil, err
		}
		switch kind {
		case itemApplicationContext:
			p.ApplicationContext = trimUID(item.b)
		case itemPresentationContextAC:
			pc, err := decodeContextAC(item)
			if err != nil {
				return nil, err
			}
			if err := ids.add(pc.ID); err != nil {
				return nil, err
			}
			p.Contexts = append(p.Contexts, pc)
		case itemUserInformation:
			if err := p.User.decode(item, false); err != nil {
				return nil, err
			}
		}
	}
	return p, nil
}

func decodeContextAC(c cursor) (PresentationContextAC, error) {
	var pc PresentationContextAC
	head, err := c.bytes(4, "presentation context")
	if err != nil {
		return pc, err
	}
	pc.ID, pc.Result = head[0], ContextResult(head[2])
	for !c.empty() {
		kind, item, err := c.item()
		if err != nil {
			return pc, err
		}
		if kind == itemTransferSyntax {
			pc.TransferSyntax = trimUID(item.b)
		}
	}
	return pc, nil
}

// contextIDs holds the ids seen so far. PS3.8 9.3.2.2: odd, and each used once.
type contextIDs [256]bool

func (ids *contextIDs) add(id byte) error {
	if id%2 == 0 {
		return invalid("presentation context id %d is even", id)
	}
	if ids[id] {
		return invalid("presentation context id %d twice", id)
	}
	ids[id] = true
	return nil
}

// encoder appends items and keeps the first value that does not fit.
type encoder struct {
	b   []byte
	err error
}

func (e *encoder) fixed(version uint16, called, calling AETitle, reserved [reservedLength]byte) {
	e.b = binary.BigEndian.AppendUint16(e.b, version)
	e.b = append(e.b, 0, 0)
	e.b = append(e.b, called[:]...)
	e.b = append(e.b, calling[:]...)
	e.b = append(e.b, reserved[:]...)
}

// item appends an item whose value body appends.
func (e *encoder) item(kind byte, body func()) {
	e.b = append(e.b, kind, 0)
	e.sized("item", body)
}

// sized appends what body appends behind its 16-bit length.
func (e *encoder) sized(what string, body func()) {
	at := len(e.b)
	e.b = append(e.b, 0, 0)
	body()
	n := len(e.b) - at - 2
	if n > 0xFFFF && e.err == nil {
		e.err = fmt.Errorf("encode association: %s of %d bytes exceeds 65535", what, n)
	}
	binary.BigEndian.PutUint16(e.b[at:], uint16(n))
}

func (e *encoder) text(kind byte, s string) {
	e.item(kind, func() { e.b = append(e.b, s...) })
}

func (e *encoder) field16(s string) {
	e.sized("field", func() { e.b = append(e.b, s...) })
}

func (e *encoder) finish(start int) ([]byte, error) {
	if e.err != nil {
		return nil, e.err
	}
	if n := len(e.b) - start - HeaderLength; n > MaxAssociateLength {
		return nil, fmt.Errorf("encode association: %d bytes, peers accept at most %d", n, MaxAssociateLength)
	}
	return setLength(e.b, start)
}
