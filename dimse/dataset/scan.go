package dataset

import (
	"bufio"
	"encoding/binary"
	"io"
	"math"
	"sync"
)

const (
	// readBufferSize is the size of one read from the stream. Values smaller than it
	// cost no system call, larger ones are skipped in steps of it.
	readBufferSize = 32 << 10
	// growStep is the first allocation for a value of which nothing has arrived yet.
	growStep = 4 << 10

	undefinedLength = math.MaxUint32 // PS3.5 7.1.1
	noLimit         = math.MaxInt64
)

var readers = sync.Pool{New: func() any { return bufio.NewReaderSize(nil, readBufferSize) }}

// emptyReader lets go of the stream that a pooled buffer has read.
type emptyReader struct{}

func (emptyReader) Read([]byte) (int, error) { return 0, io.EOF }

// Scan walks the whole data set read from r, encoded in transferSyntaxUID, to the
// end of r, and returns the top-level elements named in want. An unknown transfer
// syntax is taken as Explicit VR Little Endian, which PS3.5 10 asks of every
// encapsulated one.
//
// A damaged data set ends the scan at once with an *Error; what is left in r is then
// the caller's to drain. An error of r is returned as it is.
func Scan(r io.Reader, transferSyntaxUID string, want []Tag, lim Limits) (Header, error) {
	s := scanner{lim: lim.withDefaults(), header: newHeader(want)}
	if err := s.run(r, transferSyntaxUID); err != nil {
		return Header{}, err
	}
	return s.header, nil
}

// ScanAll is Scan for every top-level element, for data sets that are small by
// what they are: identifiers of queries. Group lengths are left out. Of a
// sequence it keeps only that it is there, and of a value longer than
// lim.MaxElementBytes nothing.
func ScanAll(r io.Reader, transferSyntaxUID string, lim Limits) (Header, error) {
	s := scanner{lim: lim.withDefaults(), header: newHeader(nil)}
	s.header.all = true
	s.visit = func(e element) error {
		// The top level again: step pushes the items of a sequence later.
		if len(s.stack) == 1 && e.vr == vrSQ && s.header.wants(e.tag) {
			s.header.keep(e.tag, vrSQ, nil)
		}
		return nil
	}
	if err := s.run(r, transferSyntaxUID); err != nil {
		return Header{}, err
	}
	return s.header, nil
}

// frame is one open sequence or item; the first is the data set itself.
type frame struct {
	tag       Tag   // of the sequence
	sequence  bool  // items are expected, not elements
	defined   bool  // it ends at limit, not at a delimiter
	limit     int64 // no byte of it lies at or beyond this offset
	implicit  bool
	bigEndian bool
}

// scanner walks one data set. Its stack is the only thing that grows with nesting.
type scanner struct {
	in     *bufio.Reader
	offset int64 // of the next byte
	end    int64 // of the last element, where padding begins
	stack  []frame
	depth  int // open sequences
	lim    Limits
	header Header
	until  []Tag               // nil, or the scan ends when these are found
	pixels *pixelReader        // nil: pixel data are walked, not kept
	visit  func(element) error // nil, or called for every element at any depth

	visitor Visitor // nil, or told of everything; see Walk
}

// element is the header of one data element.
type element struct {
	tag      Tag
	vr       vr
	length   uint32
	offset   int64 // of its first byte
	implicit bool
}

func (s *scanner) run(r io.Reader, transferSyntaxUID string) error {
	ts := syntaxOf(transferSyntaxUID)
	in := readers.Get().(*bufio.Reader)
	defer func() {
		in.Reset(emptyReader{})
		readers.Put(in)
	}()
	var inflated *inflater
	if ts.Deflated {
		inflated = newInflater(r, s.lim)
		defer inflated.close()
		r = inflated
	}
	in.Reset(r)
	s.in = in
	s.stack = append(make([]frame, 0, 8), frame{limit: noLimit, implicit: ts.ImplicitVR, bigEndian: ts.BigEndian})
	for {
		done, err := s.step()
		if err != nil {
			return s.located(err)
		}
		if done {
			break
		}
		if s.until != nil && s.found() {
			return nil
		}
	}
	if inflated != nil {
		return inflated.drain()
	}
	return nil
}

// found reports whether all of until is.
func (s *scanner) found() bool {
	for _, t := range s.until {
		if !s.header.Has(t) {
			return false
		}
	}
	return true
}

// located adds the place to what an inflater found, which knows no offsets.
func (s *scanner) located(err error) error {
	if broken, ok := err.(inflateError); ok {
		return &Error{Offset: s.offset, Problem: string(broken)}
	}
	return err
}

func (s *scanner) top() *frame { return &s.stack[len(s.stack)-1] }

func (s *scanner) pop() error {
	sequence := s.top().sequence
	s.stack = s.stack[:len(s.stack)-1]
	if !sequence {
		return nil
	}
	s.depth--
	if s.visitor != nil {
		return s.visitor.Close()
	}
	return nil
}

func (f *frame) order() binary.ByteOrder {
	if f.bigEndian {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// step follows one element, item or delimiter header, or one end of a defined length.
func (s *scanner) step() (done bool, err error) {
	f := s.top()
	if f.defined && s.offset >= f.limit {
		return false, s.pop()
	}
	if f.sequence {
		return false, s.item(f)
	}
	head, err := s.in.Peek(8)
	if len(head) < 8 {
		return s.ending(f, head, err)
	}
	order := f.order()
	tag := Tag{Group: order.Uint16(head), Element: order.Uint16(head[2:])}
	if tag == (Tag{}) && len(s.stack) == 1 {
		// Some writers fill a file up to a block size. No element has this tag in a
		// data set (PS3.5 7.1.1: group 0000 is for commands).
		s.end = s.offset
		return true, s.zeros()
	}
	if tag.Group == 0xFFFE {
		return false, s.itemEnd(f, tag, order.Uint32(head[4:]))
	}
	e := element{tag: tag, offset: s.offset, implicit: f.implicit}
	if err := s.elementHeader(f, head, &e); err != nil {
		return false, err
	}
	if s.visit != nil {
		if err := s.visit(e); err != nil {
			return false, err
		}
	}
	return false, s.value(f, e)
}

// ending judges a stream that ends before another element header.
func (s *scanner) ending(f *frame, rest []byte, err error) (bool, error) {
	if err != io.EOF {
		return false, err
	}
	if len(s.stack) > 1 {
		return false, &Error{Tag: f.tag, Offset: s.offset, Problem: "the data set ends inside this sequence"}
	}
	for _, b := range rest {
		// A big endian tag begins with a zero, so there zeros may be a cut element.
		if b != 0 || f.bigEndian {
			return false, &Error{Offset: s.offset, Problem: "the data set ends inside the header of an element"}
		}
	}
	s.end = s.offset
	s.advance(len(rest))
	return true, nil
}

// zeros reads zero bytes to the end of the stream.
func (s *scanner) zeros() error {
	for {
		chunk, err := s.in.Peek(1)
		if len(chunk) == 0 {
			if err == io.EOF {
				return nil
			}
			return err
		}
		chunk, _ = s.in.Peek(s.in.Buffered())
		for i, b := range chunk {
			if b != 0 {
				return &Error{Offset: s.offset + int64(i), Problem: "bytes that are no element follow the padding after the last element"}
			}
		}
		s.advance(len(chunk))
	}
}

// advance consumes n bytes that have been peeked at.
func (s *scanner) advance(n int) {
	_, _ = s.in.Discard(n) // cannot fail: the bytes are in the buffer
	s.offset += int64(n)
}

// elementHeader completes e from its header, of which head is the beginning, and
// consumes it.
func (s *scanner) elementHeader(f *frame, head []byte, e *element) error {
	order := f.order()
	size := 8
	if f.implicit {
		// PS3.5 7.1.3
		e.vr = dictionaryVR(e.tag)
		e.length = order.Uint32(head[4:])
	} else {
		// PS3.5 7.1.2
		e.vr = makeVR(head[4], head[5])
		switch {
		case e.vr.short():
			e.length = uint32(order.Uint16(head[6:]))
		case e.vr.long() || plausibleVR(head):
			size = 12
			head, err := s.in.Peek(size)
			if len(head) < size {
				return s.cut(*e, err, "the data set ends inside the header of this element")
			}
			e.length = order.Uint32(head[8:])
		default:
			return &Error{Tag: e.tag, Offset: e.offset, Problem: "it has no valid value representation"}
		}
	}
	if s.offset+int64(size) > f.limit {
		return &Error{Tag: e.tag, Offset: e.offset, Problem: "its header reaches beyond the end of its item"}
	}
	s.advance(size)
	return nil
}

// plausibleVR reports whether an element header with an unknown VR may be one of a
// later standard: PS3.5 6.2 promises two capital letters, two reserved zero bytes and
// a 32-bit length for every VR to come.
func plausibleVR(head []byte) bool {
	return 'A' <= head[4] && head[4] <= 'Z' && 'A' <= head[5] && head[5] <= 'Z' && head[6] == 0 && head[7] == 0
}

// cut turns the end of the stream into an Error about e.
func (s *scanner) cut(e element, err error, problem string) error {
	if err != io.EOF {
		return err
	}
	return &Error{Tag: e.tag, Offset: e.offset, Problem: problem}
}

// value follows the value of e: into it if it is a sequence, past it otherwise.
func (s *scanner) value(f *frame, e element) error {
	if e.length == undefinedLength {
		return s.undefined(f, e)
	}
	if e.vr != vrSQ && !e.vr.short() && !e.vr.long() && f.limit == noLimit && e.length > maxUnknownVR {
		return &Error{Tag: e.tag, Offset: e.offset, Problem: "it has an unknown value representation and an implausible length"}
	}
	end := s.offset + int64(e.length)
	if end > f.limit {
		return &Error{Tag: e.tag, Offset: e.offset, Problem: "its length reaches beyond the end of its item"}
	}
	if e.vr == vrSQ {
		return s.push(e, frame{tag: e.tag, sequence: true, defined: true, limit: end, implicit: f.implicit, bigEndian: f.bigEndian})
	}
	if s.visitor != nil && e.tag != dicomPixelData && int64(e.length) <= s.lim.MaxElementBytes && s.visitor.Wants(e.tag) {
		return s.visitValue(f, e)
	}
	if len(s.stack) == 1 {
		if s.pixels != nil && e.tag == dicomPixelData {
			return s.pixels.native(s, f, e)
		}
		if s.header.wants(e.tag) && int64(e.length) <= s.lim.MaxElementBytes {
			value, err := s.read(e, int64(e.length))
			if err != nil {
				return err
			}
			if f.bigEndian {
				swapWords(value, e.vr.word())
			}
			if f.implicit && usOrSS(e.tag) && s.header.signed() {
				e.vr = vrSS
			}
			s.header.keep(e.tag, e.vr, value)
			return nil
		}
	}
	return s.skip(e, int64(e.length))
}

// visitValue reads the value of e for the visitor.
func (s *scanner) visitValue(f *frame, e element) error {
	value, err := s.read(e, int64(e.length))
	if err != nil {
		return err
	}
	v := e.vr
	if v == vrUN { // as Header.keep
		v = dictionaryVR(e.tag)
	}
	if f.bigEndian {
		swapWords(value, e.vr.word())
	}
	return s.visitor.Value(e.tag, v.String(), value)
}

// maxUnknownVR is the largest value believed of an element whose VR we do not know,
// where no enclosing length confirms it.
const maxUnknownVR = 64 << 20

// undefined follows a value that ends at a delimiter.
func (s *scanner) undefined(f *frame, e element) error {
	next := frame{tag: e.tag, sequence: true, limit: f.limit, implicit: f.implicit, bigEndian: f.bigEndian}
	switch {
	case e.tag == dicomPixelData || !f.implicit && (e.vr == vrOB || e.vr == vrOW):
		return s.fragments(f, e)
	case e.vr == vrSQ:
		return s.push(e, next)
	case e.vr == vrUN:
		// PS3.5 6.2.2 note 6: a sequence whose VR the sender did not know, in
		// Implicit VR Little Endian whatever surrounds it.
		next.implicit, next.bigEndian = true, false
		return s.push(e, next)
	}
	return &Error{Tag: e.tag, Offset: e.offset, Problem: "it has an undefined length, which its value representation " + e.vr.String() + " does not allow"}
}

func (s *scanner) push(e element, f frame) error {
	if s.depth >= s.lim.MaxDepth {
		return &Error{Tag: e.tag, Offset: e.offset, Problem: "sequences are nested too deep"}
	}
	s.depth++
	s.stack = append(s.stack, f)
	if s.visitor != nil {
		return s.visitor.Open(e.tag)
	}
	return nil
}

// skip walks over n bytes of e without keeping them.
func (s *scanner) skip(e element, n int64) error {
	const step = 1 << 30 // Discard takes an int, which may have 32 bits
	for n > 0 {
		skipped, err := s.in.Discard(int(min(n, step)))
		s.offset += int64(skipped)
		n -= int64(skipped)
		if err != nil {
			return s.cut(e, err, "the data set ends inside this element")
		}
	}
	return nil
}

// read reads n bytes of e. It allocates as bytes arrive, never what is announced.
func (s *scanner) read(e element, n int64) ([]byte, error) {
	return s.readHint(e, n, growStep)
}

// readHint is read where hint bytes are known to be at hand.
func (s *scanner) readHint(e element, n, hint int64) ([]byte, error) {
	if n == 0 {
		return nil, nil
	}
	size := min(n, max(growStep, hint, int64(s.in.Buffered())))
	value := make([]byte, 0, size)
	for {
		room := value[len(value):cap(value)]
		if int64(len(room)) > n-int64(len(value)) {
			room = room[:n-int64(len(value))]
		}
		got, err := io.ReadFull(s.in, room)
		s.offset += int64(got)
		value = value[:len(value)+got]
		if err != nil {
			if err == io.ErrUnexpectedEOF && s.ended() {
				err = io.EOF
			}
			return nil, s.cut(e, err, "the data set ends inside this element")
		}
		if int64(len(value)) == n {
			return value, nil
		}
		grown := make([]byte, len(value), min(n, 2*int64(cap(value))))
		copy(grown, value)
		value = grown
	}
}

// ended reports whether the stream is at its end, which tells the io.ErrUnexpectedEOF
// that io.ReadFull makes of it from one that the stream itself returned.
func (s *scanner) ended() bool {
	_, err := s.in.Peek(1)
	return err == io.EOF
}
