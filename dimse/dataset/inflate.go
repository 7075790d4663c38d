package dataset

import (
	"bufio"
	"compress/flate"
	"errors"
	"io"
)

// inflateError is what is wrong with a deflated data set; the scanner adds the place.
type inflateError string

func (e inflateError) Error() string { return "damaged data set: " + string(e) }

// inflater inflates a data set (PS3.5 A.5, RFC 1951) and refuses one that grows out of
// proportion. It tells errors of the stream below from errors of the deflated data.
type inflater struct {
	source  *countedReader
	buffer  *bufio.Reader
	flate   io.ReadCloser
	written int64
	lim     Limits
}

type countedReader struct {
	in    io.Reader
	count int64
	err   error // of in, other than io.EOF
}

func (c *countedReader) Read(p []byte) (int, error) {
	n, err := c.in.Read(p)
	c.count += int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

func newInflater(r io.Reader, lim Limits) *inflater {
	source := &countedReader{in: r}
	buffer := readers.Get().(*bufio.Reader)
	buffer.Reset(source)
	return &inflater{source: source, buffer: buffer, flate: flate.NewReader(buffer), lim: lim}
}

func (i *inflater) close() {
	_ = i.flate.Close() // frees nothing and never fails
	i.buffer.Reset(emptyReader{})
	readers.Put(i.buffer)
}

func (i *inflater) Read(p []byte) (int, error) {
	n, err := i.flate.Read(p)
	i.written += int64(n)
	if i.written > i.lim.MaxInflateFree && i.written/i.lim.MaxInflateRatio > i.source.count {
		return 0, inflateError("its deflated form inflates out of proportion")
	}
	switch {
	case err == nil || err == io.EOF:
		return n, err
	case i.source.err != nil:
		return n, i.source.err
	case errors.Is(err, io.ErrUnexpectedEOF):
		return n, inflateError("its deflated form is cut off")
	}
	return n, inflateError("its deflated form cannot be inflated")
}

// drain reads what follows the deflated data: at least the byte that makes the
// length even.
func (i *inflater) drain() error {
	_, err := io.Copy(io.Discard, i.buffer)
	return err
}
