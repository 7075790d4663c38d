package dimse

import (
	"context"
	"errors"
	"fmt"
	"io"

	"hilum/dimse/pdu"
)

// Store sends one instance with C-STORE, PS3.7 9.1.1. data is the data set,
// without file meta information, encoded in transferSyntaxUID; it is read to its
// end. The status is a success or a warning unless the error is a *StatusError.
// ErrNoContext means that the peer did not accept the SOP class in this transfer
// syntax. After these two, and after a data set that could not be read from its
// beginning, the association goes on; after any other error it is closed.
func (c *Conn) Store(ctx context.Context, sopClassUID, sopInstanceUID, transferSyntaxUID string, data io.Reader) (Status, error) {
	return c.StoreFor(ctx, MoveOriginator{}, sopClassUID, sopInstanceUID, transferSyntaxUID, data)
}

// MoveOriginator names the C-MOVE that a C-STORE is a sub-operation of. Without
// an AE title it is of none.
type MoveOriginator struct {
	AETitle   string
	MessageID uint16
}

// StoreFor is Store as a sub-operation of a C-MOVE, PS3.7 9.1.1.1.
func (c *Conn) StoreFor(ctx context.Context, origin MoveOriginator, sopClassUID, sopInstanceUID, transferSyntaxUID string, data io.Reader) (Status, error) {
	var status Status
	err := c.do(ctx, func() error {
		var err error
		status, err = c.store(origin, sopClassUID, sopInstanceUID, transferSyntaxUID, data)
		return err
	})
	return status, err
}

// commandRoom is the space in front of the first data PDU for the command PDUs,
// so that both leave in one write.
const commandRoom = 4096

func (c *Conn) store(origin MoveOriginator, sopClassUID, sopInstanceUID, transferSyntaxUID string, data io.Reader) (Status, error) {
	pc := c.accepted[PresentationKey{sopClassUID, transferSyntaxUID}]
	if pc == nil {
		return 0, ErrNoContext
	}
	if !validUID(sopInstanceUID) {
		return 0, &localError{errors.New("the SOP Instance UID is not a UID")}
	}
	c.sending.Lock()
	id, inv := c.invoke(pc, commandStoreRQ)
	defer c.forget(id)
	err := c.sendMessage(pc, storeRequest(id, sopClassUID, sopInstanceUID, origin), data)
	c.sending.Unlock()
	switch err.(type) {
	case nil:
	case *localError, *dataError: // nothing of the peer
		return 0, err
	default:
		return 0, c.explain(err)
	}
	rsp, err := c.await(inv)
	if err != nil {
		return 0, err
	}
	return statusOf(rsp)
}

// storeRequest encodes a C-STORE-RQ.
func storeRequest(messageID uint16, sopClassUID, sopInstanceUID string, origin MoveOriginator) []byte {
	w := newCommandWriter(commandStoreRQ, sopClassUID)
	w.number(elementMessageID, messageID)
	w.number(elementPriority, priorityMedium)
	w.number(elementDataSetType, dataSetFollows)
	w.uid(elementAffectedSOPInstance, sopInstanceUID)
	if origin.AETitle != "" {
		w.text(elementMoveOriginator, origin.AETitle)
		w.number(elementMoveOriginatorID, origin.MessageID)
	}
	return w.bytes()
}

// sendAtOnce is how much is written at once where the peer takes short PDUs only.
const sendAtOnce = 256 << 10

// sendMessage writes a command set and its data set, as PDUs filled up to the
// peer's maximum, several in one write where they are short. c.sending must be
// held.
func (c *Conn) sendMessage(pc *presentation, command []byte, data io.Reader) error {
	size, err := fragmentSize(c.peerMax)
	if err != nil {
		return err
	}
	const header = pdu.HeaderLength + pdu.PDVHeaderLength
	// Layout: room for the command, then headers and fragments, then the first byte
	// of the next fragment. That byte tells whether a fragment is the last.
	if c.buffer == nil {
		c.buffer = make([]byte, commandRoom+max(1, sendAtOnce/(header+size))*(header+size)+1)
	}
	begin, at := commandRoom, commandRoom // of what is not written yet, of the next PDU
	carried := 0
	for first := true; ; first = false {
		payload := c.buffer[at+header : at+header+size+1]
		if carried > 0 {
			payload[0] = c.buffer[at] // where the fragment before left it
		}
		n, last, err := fill(data, payload, carried)
		switch {
		case err != nil && first:
			return &localError{fmt.Errorf("read data set: %w", err)}
		case err != nil: // the message cannot be ended any more
			return &dataError{err}
		case n == 0:
			return &localError{errors.New("the data set is empty")}
		case first:
			prefix, err := c.appendCommand(nil, pc, command)
			if err != nil {
				return err
			}
			if len(prefix) <= commandRoom {
				begin -= copy(c.buffer[begin-len(prefix):], prefix)
			} else if err := c.send(prefix); err != nil {
				return err
			}
		}
		fragment := min(n, size)
		pdu.AppendDataHeader(c.buffer[:at], pc.id, false, last, fragment)
		at += header + fragment
		carried = n - fragment
		if !last && at+header+size < len(c.buffer) {
			continue
		}
		if err := c.send(c.buffer[begin:at]); err != nil {
			return err
		}
		if last {
			return nil
		}
		c.buffer[commandRoom] = c.buffer[at] // what is carried
		begin, at = commandRoom, commandRoom
	}
}

// dataError is a failure of the caller's data set amid a message.
type dataError struct{ err error }

func (e *dataError) Error() string { return "read data set: " + e.err.Error() }
func (e *dataError) Unwrap() error { return e.err }

// fill reads into buf behind the n bytes it holds, until it is full or r has
// ended. Only io.EOF is an end: a source that is cut off says something else,
// io.ErrUnexpectedEOF for example.
func fill(r io.Reader, buf []byte, n int) (int, bool, error) {
	empty := 0
	for n < len(buf) {
		m, err := r.Read(buf[n:])
		n += m
		switch {
		case err == io.EOF:
			return n, n < len(buf), nil // a full buffer is sorted out by the next call
		case err != nil:
			return n, false, err
		case m > 0:
			empty = 0
		default:
			if empty++; empty >= maxEmptyReads {
				return n, false, io.ErrNoProgress
			}
		}
	}
	return n, false, nil
}

// maxEmptyReads is how many reads in a row may bring nothing, as in package
// bufio.
const maxEmptyReads = 100
