package dimse

import (
	"errors"
	"fmt"
	"io"

	"hilum/dimse/pdu"
)

// errReleaseRequested is how an A-RELEASE-RQ shows between two messages.
var errReleaseRequested = errors.New("the peer released the association")

// presentation is an accepted presentation context.
type presentation struct {
	id             byte
	abstractSyntax string
	transferSyntax string
	roles          negotiatedRoles
	extended       []byte // the answer to the SOP class extended negotiation
}

// exchange reads and writes DIMSE messages on an established association
// (Sta6), for the acceptor and the requestor alike.
type exchange struct {
	*transport
	contexts [256]*presentation // by id; nil is not accepted
	peerMax  uint32             // the peer's maximum PDU length, 0 is none
	data     *pdu.Data          // the P-DATA-TF being taken apart
	command  []byte             // the command set being gathered, used again
}

// nextPDV returns the next presentation data value, of this PDU or a later one.
func (x *exchange) nextPDV() (pdu.PDV, error) {
	for {
		if x.data != nil {
			if v, ok := x.data.Next(); ok {
				return v, nil
			}
			x.data = nil
		}
		p, err := x.next()
		if err != nil {
			return pdu.PDV{}, err
		}
		switch p := p.(type) {
		case *pdu.Data:
			x.data = p // Sta6 -> Sta6: DT-2
		case *pdu.ReleaseRQ:
			return pdu.PDV{}, errReleaseRequested // Sta6 -> Sta8: AR-2
		case *pdu.Abort:
			return pdu.PDV{}, &AbortError{Source: p.Source, Reason: p.Reason} // Sta6 -> Sta1: AA-3
		default:
			// Sta6 -> Sta13: AA-8
			return pdu.PDV{}, providerViolation(pdu.ReasonUnexpectedPDU, "%s within an association", p.Type())
		}
	}
}

// readCommand gathers one command set. It returns errReleaseRequested only
// between two messages.
func (x *exchange) readCommand() (*presentation, *command, error) {
	x.command = x.command[:0]
	var pc *presentation
	for {
		v, err := x.nextPDV()
		if err != nil {
			return nil, nil, midMessage(err, pc != nil)
		}
		if pc == nil {
			if pc = x.contexts[v.ContextID]; pc == nil {
				return nil, nil, providerViolation(pdu.ReasonInvalidParameter, "PDV on presentation context %d, which was not accepted", v.ContextID)
			}
			x.setReceiving(true)
		}
		if v.ContextID != pc.id {
			return nil, nil, mixed(pc.id, v.ContextID)
		}
		if !v.Command {
			return nil, nil, providerViolation(pdu.ReasonUnexpectedParameter, "data set fragment where a command was due")
		}
		if len(x.command)+len(v.Fragment) > maxCommandLength {
			return nil, nil, userViolation("command set longer than %d bytes", maxCommandLength)
		}
		x.command = append(x.command, v.Fragment...)
		if v.Last {
			break
		}
	}
	c, err := decodeCommand(x.command)
	if err != nil {
		return nil, nil, userViolation("%v", err)
	}
	return pc, c, nil
}

// midMessage turns what may come between two messages into what it means within
// one.
func midMessage(err error, within bool) error {
	if !within {
		return err
	}
	if errors.Is(err, errReleaseRequested) {
		return userViolation("A-RELEASE-RQ within a message")
	}
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

func mixed(want, got byte) error {
	return providerViolation(pdu.ReasonInvalidParameter, "PDV on presentation context %d within a message on context %d", got, want)
}

// writeCommand writes a command set, in one PDU where the peer's maximum allows
// it, and in one write. It may be called from any goroutine.
func (x *exchange) writeCommand(pc *presentation, command []byte) error {
	x.writing.Lock()
	defer x.writing.Unlock()
	b, err := x.appendCommand(x.write[:0], pc, command)
	if err != nil {
		return err
	}
	x.write = b
	return x.sendHeld(b)
}

func (x *exchange) appendCommand(dst []byte, pc *presentation, command []byte) ([]byte, error) {
	size, err := fragmentSize(x.peerMax)
	if err != nil {
		return nil, err
	}
	for len(command) > 0 {
		n := min(len(command), size)
		dst = pdu.AppendDataHeader(dst, pc.id, true, n == len(command), n)
		dst = append(dst, command[:n]...)
		command = command[n:]
	}
	return dst, nil
}

const (
	// unlimitedPDU is the PDU length used for a peer that names no limit.
	unlimitedPDU = 256 << 10
	// maxSendPDU caps what is used of a larger limit: it is a buffer per
	// association, and longer PDUs are no faster.
	maxSendPDU = 1 << 20
)

// fragmentSize is the longest fragment that fits a PDU of the peer's maximum
// length: an even number, PS3.8 E.2.
func fragmentSize(peerMax uint32) (int, error) {
	switch {
	case peerMax == 0:
		peerMax = unlimitedPDU
	case peerMax > maxSendPDU:
		peerMax = maxSendPDU
	case peerMax < pdu.PDVHeaderLength+2:
		return 0, fmt.Errorf("the peer takes PDUs of at most %d bytes, too few for any data", peerMax)
	}
	return int(peerMax-pdu.PDVHeaderLength) &^ 1, nil
}
