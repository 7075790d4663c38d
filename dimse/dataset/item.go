package dataset

import (
	"github.com/grailbio/go-dicom/dicomtag"
)

var dicomPixelData = dicomtag.PixelData

// Elements of the item group (PS3.5 7.5): they have no VR in any encoding.
const (
	itemElement              = 0xE000
	itemDelimiterElement     = 0xE00D
	sequenceDelimiterElement = 0xE0DD
)

// item follows what may stand in a sequence: an item or the sequence's delimiter.
func (s *scanner) item(f *frame) error {
	tag, length, err := s.itemHeader(f)
	if err != nil {
		return err
	}
	switch {
	case tag == Tag{Group: 0xFFFE, Element: itemElement}:
		next := frame{tag: f.tag, limit: f.limit, implicit: f.implicit, bigEndian: f.bigEndian}
		if length != undefinedLength {
			next.defined, next.limit = true, s.offset+int64(length)
			if next.limit > f.limit {
				return s.itemError(f, "an item reaches beyond the end of this sequence")
			}
		}
		s.stack = append(s.stack, next)
		if s.visitor != nil {
			return s.visitor.Item()
		}
		return nil
	case tag == Tag{Group: 0xFFFE, Element: sequenceDelimiterElement}:
		if f.defined {
			return s.itemError(f, "a delimiter stands in this sequence, whose length is defined")
		}
		if length != 0 {
			return s.itemError(f, "the delimiter of this sequence has a length")
		}
		return s.pop()
	}
	return s.itemError(f, "something other than an item stands in this sequence")
}

// itemEnd follows an element of the item group where data elements are expected: only
// the delimiter of the item that is open may stand there.
func (s *scanner) itemEnd(f *frame, tag Tag, length uint32) error {
	switch {
	case tag.Element != itemDelimiterElement:
		return &Error{Tag: tag, Offset: s.offset, Problem: "an item or sequence delimiter stands where a data element should"}
	case len(s.stack) == 1:
		return &Error{Tag: tag, Offset: s.offset, Problem: "an item delimiter stands outside any item"}
	case f.defined:
		return &Error{Tag: tag, Offset: s.offset, Problem: "an item delimiter stands in an item whose length is defined"}
	case length != 0:
		return &Error{Tag: tag, Offset: s.offset, Problem: "an item delimiter has a length"}
	case s.offset+8 > f.limit:
		return &Error{Tag: tag, Offset: s.offset, Problem: "an item delimiter reaches beyond the end of its sequence"}
	}
	s.advance(8)
	return s.pop()
}

// itemHeader reads the tag and length of an item or delimiter inside f.
func (s *scanner) itemHeader(f *frame) (Tag, uint32, error) {
	head, err := s.in.Peek(8)
	if len(head) < 8 {
		return Tag{}, 0, s.cut(element{tag: f.tag, offset: s.offset}, err, "the data set ends inside this sequence")
	}
	if s.offset+8 > f.limit {
		return Tag{}, 0, s.itemError(f, "an item reaches beyond the end of this sequence")
	}
	order := f.order()
	tag := Tag{Group: order.Uint16(head), Element: order.Uint16(head[2:])}
	length := order.Uint32(head[4:])
	s.advance(8)
	return tag, length, nil
}

func (s *scanner) itemError(f *frame, problem string) error {
	return &Error{Tag: f.tag, Offset: s.offset, Problem: problem}
}

// fragments follows encapsulated pixel data (PS3.5 A.4): an item with the basic offset
// table, items with the fragments, and a delimiter.
func (s *scanner) fragments(f *frame, e element) error {
	keep := s.pixels != nil && len(s.stack) == 1 && e.tag == dicomPixelData && s.pixels.start(e)
	inner := *f
	inner.tag = e.tag
	for n := 0; ; n++ {
		tag, length, err := s.itemHeader(&inner)
		if err != nil {
			return err
		}
		switch {
		case tag == Tag{Group: 0xFFFE, Element: sequenceDelimiterElement}:
			if length != 0 {
				return s.itemError(&inner, "the delimiter of this sequence has a length")
			}
			return nil
		case tag != Tag{Group: 0xFFFE, Element: itemElement}:
			return s.itemError(&inner, "something other than a fragment stands in encapsulated data")
		case length == undefinedLength:
			return s.itemError(&inner, "a fragment has an undefined length")
		case s.offset+int64(length) > inner.limit:
			return s.itemError(&inner, "a fragment reaches beyond the end of its item")
		}
		if !keep {
			if err := s.skip(e, int64(length)); err != nil {
				return err
			}
			continue
		}
		if err := s.pixels.fragment(s, e, n, int64(length)); err != nil {
			return err
		}
	}
}
