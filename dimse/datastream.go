package dimse

import (
	"io"

	"hilum/dimse/pdu"
)

// dataStream is the data set of one message, read straight from the PDVs as
// they come. It ends with io.EOF only after the fragment that the peer marked
// as the last; whatever else ends it is another error. It belongs to one
// goroutine, and until it has ended the reading side of the exchange does too.
type dataStream struct {
	x     *exchange
	pc    *presentation
	frag  []byte        // of the current PDV, not yet taken
	last  bool          // frag is the last one
	err   error         // sticky
	count func(n int)   // of the bytes of each fragment; nil where nobody asks
	done  chan struct{} // closed once it has ended; nil where nobody waits
}

// end ends the stream, with io.EOF or another error.
func (d *dataStream) end(err error) {
	d.err = err
	if d.done != nil {
		close(d.done)
	}
}

// Read reads from the data set.
func (d *dataStream) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := d.advance(); err != nil {
		return 0, err
	}
	n := copy(p, d.frag)
	d.frag = d.frag[n:]
	return n, nil
}

// WriteTo writes the rest of the data set to w without a buffer in between.
func (d *dataStream) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if err := d.advance(); err == io.EOF {
			return total, nil
		} else if err != nil {
			return total, err
		}
		n, err := w.Write(d.frag)
		total += int64(n)
		d.frag = d.frag[n:]
		if err != nil {
			return total, err
		}
	}
}

// drain reads what the handler left.
func (d *dataStream) drain() error {
	for {
		if err := d.advance(); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		d.frag = nil
	}
}

// broken returns the error that ended the association, if one did.
func (d *dataStream) broken() error {
	if d.err == io.EOF {
		return nil
	}
	return d.err
}

// advance makes sure that frag holds bytes.
func (d *dataStream) advance() error {
	for len(d.frag) == 0 && d.err == nil {
		if d.last {
			d.end(io.EOF)
			break
		}
		v, err := d.x.nextPDV()
		switch {
		case err != nil:
			d.end(midMessage(err, true))
		case v.ContextID != d.pc.id:
			d.end(mixed(d.pc.id, v.ContextID))
		case v.Command:
			d.end(providerViolation(pdu.ReasonUnexpectedParameter, "command fragment where the data set was due"))
		default:
			d.frag, d.last = v.Fragment, v.Last
			if d.count != nil {
				d.count(len(v.Fragment))
			}
		}
	}
	if len(d.frag) > 0 {
		return nil
	}
	return d.err
}
