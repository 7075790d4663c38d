package dimse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"hilum/dimse/pdu"
)

// Store sends an instance to the requestor of a C-GET, as a sub-operation on the
// same association. It is Conn.Store but for this: no C-CANCEL interrupts it, and
// no error may be ignored but *StatusError, ErrNoContext, and that of a data set
// which could not be read from its beginning.
func (r *QueryRequest) Store(ctx context.Context, sopClassUID, sopInstanceUID, transferSyntaxUID string, data io.Reader) (Status, error) {
	a := r.acceptor
	pc := a.fetchContext(sopClassUID, transferSyntaxUID)
	if pc == nil {
		return 0, ErrNoContext
	}
	if !validUID(sopInstanceUID) {
		return 0, &localError{errors.New("the SOP Instance UID is not a UID")}
	}
	id, waiting, err := a.invocations.begin(pc, NOperation(commandStoreRQ))
	if err != nil {
		return 0, err
	}
	if err := a.writeStream(pc, storeRequest(id, sopClassUID, sopInstanceUID, MoveOriginator{}), data); err != nil {
		a.invocations.take(id)
		if _, unsent := err.(*localError); !unsent {
			a.fail(err) // half of a message may be out: nothing can follow it
		}
		return 0, err
	}
	// The peer owes an answer now, so its silence is limited.
	silence := time.NewTimer(a.set.idle)
	defer silence.Stop()
	select {
	case got := <-waiting.answer:
		return got.rsp.Status, got.err
	case <-a.deaf:
		return 0, errStopping
	case <-silence.C:
		a.fail(errIdle)
		return 0, errIdle
	}
}

// fetchContext finds the context on which the requestor takes instances.
func (x *exchange) fetchContext(sopClassUID, transferSyntaxUID string) *presentation {
	for _, pc := range x.contexts {
		if pc != nil && pc.roles.SCP && pc.abstractSyntax == sopClassUID && pc.transferSyntax == transferSyntaxUID {
			return pc
		}
	}
	return nil
}

// Fetches says whether the requestor of a C-GET takes instances of a SOP class in
// a transfer syntax.
func (r *QueryRequest) Fetches(sopClassUID, transferSyntaxUID string) bool {
	return r.acceptor.fetchContext(sopClassUID, transferSyntaxUID) != nil
}

// streamChunk is how much of a data set is read and written at a time.
const streamChunk = 128 << 10

// writeStream writes a command set and a data set that is read as it is written.
// A *localError is one of before anything was written.
func (x *exchange) writeStream(pc *presentation, command []byte, data io.Reader) error {
	size, err := fragmentSize(x.peerMax)
	if err != nil {
		return err
	}
	size = min(size, streamChunk)
	// A byte more than is sent: it tells whether a fragment is the last.
	payload := make([]byte, size+1)
	n, last, err := fill(data, payload, 0)
	switch {
	case err != nil:
		return &localError{fmt.Errorf("read data set: %w", err)}
	case n == 0:
		return &localError{errors.New("the data set is empty")}
	}
	x.writing.Lock()
	defer x.writing.Unlock()
	b, err := x.appendCommand(make([]byte, 0, pdu.HeaderLength+pdu.PDVHeaderLength+size+commandRoom), pc, command)
	if err != nil {
		return err
	}
	for {
		fragment := min(n, size)
		b = appendFragment(b, pc, payload[:fragment], last)
		if err := x.sendHeld(b); err != nil {
			return err
		}
		if last {
			return nil
		}
		b = b[:0]
		carried := copy(payload, payload[size:n])
		if n, last, err = fill(data, payload, carried); err != nil {
			return &dataError{err}
		}
	}
}
