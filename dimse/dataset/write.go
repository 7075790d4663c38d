package dataset

import (
	"bufio"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	dicom "github.com/grailbio/go-dicom"
	"github.com/grailbio/go-dicom/dicomio"
	"github.com/grailbio/go-dicom/dicomtag"
)

// WriteFile writes a Part 10 file: our file meta information, then elements, which must
// have SOP Class UID and SOP Instance UID. See WriteDataSet.
func WriteFile(w io.Writer, transferSyntaxUID string, elements []*Element) error {
	sopClass, err := elementText(elements, dicomtag.SOPClassUID)
	if err != nil {
		return err
	}
	sopInstance, err := elementText(elements, dicomtag.SOPInstanceUID)
	if err != nil {
		return err
	}
	if _, err := w.Write(AppendFileMeta(nil, transferSyntaxUID, sopClass, sopInstance)); err != nil {
		return fmt.Errorf("write file meta information: %w", err)
	}
	return WriteDataSet(w, transferSyntaxUID, elements)
}

// WriteDataSet writes elements, sorted by tag, in a transfer syntax of the standard.
// Values get an even length; sequences a defined one. Group lengths (retired, and wrong
// once something has changed) are left out. A tag may be there once.
func WriteDataSet(w io.Writer, transferSyntaxUID string, elements []*Element) error {
	ts, ok := LookupTransferSyntax(transferSyntaxUID)
	if !ok {
		return fmt.Errorf("write data set: %q is not a transfer syntax of the standard", transferSyntaxUID)
	}
	var compressed *flate.Writer
	if ts.Deflated {
		var err error
		if compressed, err = flate.NewWriter(w, flate.DefaultCompression); err != nil {
			return fmt.Errorf("write data set: %w", err)
		}
		w = compressed
	}
	out := bufio.NewWriter(w)
	e := encoder{out: out, order: binary.LittleEndian, implicit: ts.ImplicitVR, encapsulated: ts.Encapsulated}
	if ts.BigEndian {
		e.order = binary.BigEndian
	}
	if err := e.elements(elements, 0); err != nil {
		return fmt.Errorf("write data set: %w", err)
	}
	err := out.Flush()
	if compressed != nil {
		err = errors.Join(err, compressed.Close())
	}
	if err != nil {
		return fmt.Errorf("write data set: %w", err)
	}
	return nil
}

// elementText returns the text of t among elements.
func elementText(elements []*Element, t Tag) (string, error) {
	for _, e := range elements {
		if e.Tag != t || len(e.Value) != 1 {
			continue
		}
		switch v := e.Value[0].(type) {
		case string:
			return v, nil
		case rawValue:
			return string(trimPadding(v)), nil
		}
	}
	return "", fmt.Errorf("write file: the data set has no element %s", dicomtag.DebugString(t))
}

// encoder writes elements in one transfer syntax.
//
// What go-dicom's writer gets right, text and numbers whose VR is the dictionary's, it
// writes. The rest is written here, because go-dicom
//   - gives a value of 64 KiB or more in a VR with a 16-bit length a wrong length,
//   - gives OL, OV, SV and UV the short form of the header,
//   - refuses an element whose VR differs from its dictionary's, so SS where the standard
//     says "US or SS", and knows no elements or VRs newer than 2017,
//   - pads every unknown VR and UN with a space, and re-encodes AT as text, which fails,
//   - panics on pixel data or fragments of odd length, and swaps no big endian OW.
type encoder struct {
	out          io.Writer
	order        binary.ByteOrder
	implicit     bool
	encapsulated bool
}

func (e *encoder) elements(elements []*Element, depth int) error {
	if depth > DefaultLimits.MaxDepth {
		return errors.New("sequences are nested too deep")
	}
	sorted := slices.Clone(elements)
	slices.SortStableFunc(sorted, func(a, b *Element) int { return a.Tag.Compare(b.Tag) })
	for i, element := range sorted {
		if element.Tag.Element == 0 {
			continue // group length
		}
		var err error
		switch {
		case i > 0 && sorted[i-1].Tag == element.Tag:
			err = errors.New("it is there twice")
		case element.Tag.Group < 0x0008 || element.Tag.Group == 0xFFFE:
			err = errors.New("it does not belong in a data set")
		default:
			err = e.element(element, depth)
		}
		if err != nil {
			return fmt.Errorf("element (%04X,%04X): %w", element.Tag.Group, element.Tag.Element, err)
		}
	}
	return nil
}

func (e *encoder) element(element *Element, depth int) error {
	v := vrOf(element.VR)
	if element.VR == "" {
		v = dictionaryVR(element.Tag)
	}
	if !v.known() {
		return fmt.Errorf("%q is no value representation", element.VR)
	}
	if v == vrSQ {
		return e.sequence(element, depth)
	}
	if image, ok := soleValue[dicom.PixelDataInfo](element); ok {
		return e.pixelData(element, v, image)
	}
	value, err := encodeValue(v, element)
	if err != nil {
		return err
	}
	if v.short() && len(value) > maxShortLength {
		return fmt.Errorf("its value of %d bytes is too long for VR %s", len(value), v)
	}
	if libraryWrites(element, v) {
		return e.library(element)
	}
	return e.write(element.Tag, v, value)
}

// soleValue returns the only value of element if it is a T.
func soleValue[T any](element *Element) (T, bool) {
	if len(element.Value) == 1 {
		v, ok := element.Value[0].(T)
		return v, ok
	}
	var none T
	return none, false
}

// libraryWrites reports whether go-dicom writes element right: see encoder.
func libraryWrites(element *Element, v vr) bool {
	info, err := dicomtag.Find(element.Tag)
	if err != nil || info.VR != v.String() || element.UndefinedLength {
		return false
	}
	if _, raw := soleValue[rawValue](element); raw {
		return false
	}
	switch v {
	case vrUS, vrUL, vrSS, vrSL, vrFL, vrFD:
		return true
	case vrUC, vrUR:
		return false
	}
	return v.text()
}

// library lets go-dicom write element.
func (e *encoder) library(element *Element) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("go-dicom cannot write it: %v", r)
		}
	}()
	implicit := dicomio.ExplicitVR
	if e.implicit {
		implicit = dicomio.ImplicitVR
	}
	out := dicomio.NewEncoder(e.out, e.order, implicit)
	dicom.WriteElement(out, element)
	return out.Error()
}

// encodeValue returns the little endian bytes of a value, padded to an even length.
func encodeValue(v vr, element *Element) ([]byte, error) {
	var out []byte
	var texts []string
	for _, value := range element.Value {
		switch value := value.(type) {
		case rawValue:
			out = append(out, value...)
		case []byte:
			out = append(out, value...)
		case string:
			texts = append(texts, value)
		case Tag:
			out = binary.LittleEndian.AppendUint16(out, value.Group)
			out = binary.LittleEndian.AppendUint16(out, value.Element)
		case uint16, int16, uint32, int32, float32, float64:
			var err error
			if out, err = binary.Append(out, binary.LittleEndian, value); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("a %T is no value of VR %s", value, v)
		}
	}
	if len(texts) > 0 {
		if len(out) > 0 {
			return nil, errors.New("it mixes text and other values")
		}
		out = []byte(strings.Join(texts, `\`))
	}
	if len(out)%2 == 1 {
		out = append(out, pad(v))
	}
	return out, nil
}

// write writes an element header and a little endian value of even length.
func (e *encoder) write(t Tag, v vr, value []byte) error {
	if err := e.header(t, v, uint64(len(value))); err != nil {
		return err
	}
	if e.order == binary.BigEndian && v.word() > 1 {
		value = slices.Clone(value)
		swapWords(value, v.word())
	}
	_, err := e.out.Write(value)
	return err
}

func (e *encoder) header(t Tag, v vr, length uint64) error {
	if length > undefinedLength {
		return errors.New("its value is longer than 4 GiB")
	}
	var b [12]byte
	out := appendUint16(b[:0], e.order, t.Group)
	out = appendUint16(out, e.order, t.Element)
	switch {
	case e.implicit || t.Group == 0xFFFE:
		out = appendUint32(out, e.order, uint32(length))
	case v.short():
		out = append(out, byte(v>>8), byte(v))
		out = appendUint16(out, e.order, uint16(length))
	default:
		out = append(out, byte(v>>8), byte(v), 0, 0)
		out = appendUint32(out, e.order, uint32(length))
	}
	_, err := e.out.Write(out)
	return err
}

func appendUint16(b []byte, order binary.ByteOrder, n uint16) []byte {
	b = append(b, 0, 0)
	order.PutUint16(b[len(b)-2:], n)
	return b
}

func appendUint32(b []byte, order binary.ByteOrder, n uint32) []byte {
	b = append(b, 0, 0, 0, 0)
	order.PutUint32(b[len(b)-4:], n)
	return b
}

func (e *encoder) sequence(element *Element, depth int) error {
	var body strings.Builder
	inner := *e
	for _, value := range element.Value {
		item, ok := value.(*Element)
		if !ok || item.Tag != dicomtag.Item {
			return errors.New("a sequence holds something other than items")
		}
		elements := make([]*Element, 0, len(item.Value))
		for _, v := range item.Value {
			child, ok := v.(*Element)
			if !ok {
				return errors.New("an item holds something other than elements")
			}
			elements = append(elements, child)
		}
		var content strings.Builder
		inner.out = &content
		if err := inner.elements(elements, depth+1); err != nil {
			return err
		}
		inner.out = &body
		if err := inner.header(dicomtag.Item, 0, uint64(content.Len())); err != nil {
			return err
		}
		body.WriteString(content.String())
	}
	if err := e.header(element.Tag, vrSQ, uint64(body.Len())); err != nil {
		return err
	}
	_, err := io.WriteString(e.out, body.String())
	return err
}

// pixelData writes pixel data as go-dicom represents them.
func (e *encoder) pixelData(element *Element, v vr, image dicom.PixelDataInfo) error {
	if !e.encapsulated {
		if element.UndefinedLength || len(image.Frames) != 1 {
			return errors.New("fragments can only be written in an encapsulated transfer syntax")
		}
		value, err := encodeValue(v, &Element{Value: []any{image.Frames[0]}})
		if err != nil {
			return err
		}
		return e.write(element.Tag, v, value)
	}
	// PS3.5 A.4
	if err := e.header(element.Tag, vrOB, undefinedLength); err != nil {
		return err
	}
	var table []byte
	if len(image.Offsets) > 1 || len(image.Offsets) == 1 && image.Offsets[0] != 0 {
		for _, offset := range image.Offsets {
			table = binary.LittleEndian.AppendUint32(table, offset)
		}
	}
	for _, fragment := range append([][]byte{table}, image.Frames...) {
		padded, err := encodeValue(vrOB, &Element{Value: []any{fragment}})
		if err != nil {
			return err
		}
		if err := e.write(dicomtag.Item, 0, padded); err != nil {
			return err
		}
	}
	return e.header(dicomtag.SequenceDelimitationItem, 0, 0)
}
