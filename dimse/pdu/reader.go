package pdu

import (
	"encoding/binary"
	"errors"
	"io"
)

// initialBuffer is what a reader allocates for its first bytes. Most
// A-ASSOCIATE-RQs fit, and a peer that says nothing costs no more.
const initialBuffer = 4096

// maxEmptyReads is how many reads in a row may bring neither bytes nor an
// error before the reader gives up, as in package bufio.
const maxEmptyReads = 100

// Reader reads PDUs from a stream into one buffer that it uses again for each.
// It reads ahead. It is not safe for use by several goroutines.
type Reader struct {
	src     io.Reader
	maxData uint32
	buf     []byte
	r, w    int // buf[r:w] is read and not yet taken
	data    Data
	err     error
}

// NewReader returns a reader that accepts P-DATA-TF PDUs up to maxData bytes,
// the maximum length this side advertised, plus DataSlack.
func NewReader(src io.Reader, maxData uint32) *Reader {
	return &Reader{src: src, maxData: maxData}
}

// Next returns the next PDU. A *Data is valid until the next call. The error is
// io.EOF when the stream ended between two PDUs, io.ErrUnexpectedEOF when it
// ended within one, *Error when the bytes are no valid PDU, and otherwise what
// the stream returned. Any error is final: the framing may be lost.
func (r *Reader) Next() (PDU, error) {
	if r.err != nil {
		return nil, r.err
	}
	p, err := r.next()
	if err != nil {
		r.err = err
	}
	return p, err
}

func (r *Reader) next() (PDU, error) {
	r.data.items = nil
	if err := r.fill(1); err != nil {
		return nil, err
	}
	// The first byte decides before five more are waited for: what speaks
	// another protocol is found out at once.
	if err := checkType(r.buf[r.r]); err != nil {
		return nil, err
	}
	if err := r.fill(HeaderLength); err != nil {
		return nil, err
	}
	t := Type(r.buf[r.r])
	length := binary.BigEndian.Uint32(r.buf[r.r+2:])
	if err := checkHeader(t, length, r.maxData); err != nil {
		return nil, err
	}
	size := HeaderLength + int(length)
	if err := r.fill(size); err != nil {
		return nil, err
	}
	body := r.buf[r.r+HeaderLength : r.r+size]
	r.r += size
	if t == TypeData {
		if err := r.data.reset(body); err != nil {
			return nil, err
		}
		return &r.data, nil
	}
	return decodeBody(t, body)
}

// Wait returns when a byte of the next PDU is there. Unlike those of Next, its
// errors are not final. It ends the life of the *Data that Next returned.
func (r *Reader) Wait() error {
	if r.err != nil {
		return r.err
	}
	return r.fill(1)
}

// fill makes sure that buf[r:w] holds at least n bytes.
func (r *Reader) fill(n int) error {
	empty := 0
	for r.w-r.r < n {
		r.makeRoom(n)
		m, err := r.src.Read(r.buf[r.w:])
		r.w += m
		if r.w-r.r >= n {
			return nil // an error that came with the bytes comes again
		}
		if err != nil {
			if errors.Is(err, io.EOF) && r.w > r.r {
				return io.ErrUnexpectedEOF
			}
			return err
		}
		if m > 0 {
			empty = 0
		} else if empty++; empty >= maxEmptyReads {
			return io.ErrNoProgress
		}
	}
	return nil
}

// makeRoom leaves free space behind w. The buffer doubles only when bytes that
// were received fill it, so its size follows what came, not what was promised.
func (r *Reader) makeRoom(n int) {
	switch {
	case r.buf == nil:
		r.buf = make([]byte, initialBuffer)
	case r.r == r.w:
		r.r, r.w = 0, 0
	case r.r+n > len(r.buf) && r.r > 0:
		r.w = copy(r.buf, r.buf[r.r:r.w])
		r.r = 0
	}
	if r.w == len(r.buf) {
		grown := make([]byte, 2*len(r.buf))
		copy(grown, r.buf[:r.w])
		r.buf = grown
	}
}

// Discard reads and drops everything up to the end of the stream or its first
// error, which it returns. It is for a connection that only waits to be closed.
func (r *Reader) Discard() error {
	r.r, r.w = 0, 0
	if r.buf == nil {
		r.buf = make([]byte, initialBuffer)
	}
	for {
		if _, err := r.src.Read(r.buf); err != nil {
			return err
		}
	}
}
