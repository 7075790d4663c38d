package dataset

import (
	"encoding/binary"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/grailbio/go-dicom/dicomtag"
)

// Header holds the wanted top-level elements of a data set. The zero Header is empty
// and ready to use. A Header holds patient data: it must not be logged.
type Header struct {
	all    bool // every element is wanted
	want   map[Tag]struct{}
	values map[Tag]value
}

// value is one element as found, except that numbers are always little endian.
type value struct {
	vr    vr
	bytes []byte
}

func newHeader(want []Tag) Header {
	h := Header{want: make(map[Tag]struct{}, len(want)+1), values: make(map[Tag]value, len(want)+1)}
	// No text can be read without knowing its characters.
	h.want[dicomtag.SpecificCharacterSet] = struct{}{}
	for _, t := range want {
		h.want[t] = struct{}{}
	}
	return h
}

// wants reports whether t is still to be found. A repeated element is damage that
// every reader sees differently; here the first one counts.
func (h Header) wants(t Tag) bool {
	if _, ok := h.want[t]; !ok && (!h.all || t.Element == 0) {
		return false
	}
	_, found := h.values[t]
	return !found
}

func (h Header) keep(t Tag, v vr, b []byte) {
	if v == vrUN {
		// PS3.5 6.2.2: a gateway that did not know the VR; the bytes are little endian.
		v = dictionaryVR(t)
	}
	h.values[t] = value{vr: v, bytes: b}
}

// signed reports whether Pixel Representation, if it was wanted, says that pixels are
// signed, which decides VRs that the dictionary leaves open (PS3.5 A.1).
func (h Header) signed() bool {
	b := h.values[dicomtag.PixelRepresentation].bytes
	return len(b) == 2 && b[0] == 1
}

// Has reports whether t is present, be its value empty.
func (h Header) Has(t Tag) bool {
	_, ok := h.values[t]
	return ok
}

// Tags returns the elements that are present, in ascending order.
func (h Header) Tags() []Tag {
	return slices.SortedFunc(maps.Keys(h.values), Tag.Compare)
}

// VR returns the value representation of t as found, or that of the dictionary where
// the encoding has none or says UN; "" if absent.
func (h Header) VR(t Tag) string { return h.values[t].vr.String() }

// Bytes returns the value of t as found, without the padding of PS3.5 6.2; numbers are
// little endian in every transfer syntax. The caller must not change it.
func (h Header) Bytes(t Tag) []byte {
	v := h.values[t]
	if !v.vr.text() {
		return v.bytes
	}
	return trimPadding(v.bytes)
}

// trimPadding cuts trailing NULs and spaces off a text value.
func trimPadding(b []byte) []byte {
	for len(b) > 0 && (b[len(b)-1] == 0 || b[len(b)-1] == ' ') {
		b = b[:len(b)-1]
	}
	return b
}

// String returns the whole value of t as UTF-8 text without its padding: characters
// decoded by Specific Character Set, several values separated by a backslash, numbers
// in decimal. It returns "" if t is absent or is neither text nor numbers.
func (h Header) String(t Tag) string {
	v, ok := h.values[t]
	if !ok {
		return ""
	}
	switch {
	case v.vr.charset():
		return decodeText(trimPadding(v.bytes), h.characterSets(), v.vr == vrPN)
	case v.vr.text():
		return strings.TrimLeft(decodeText(trimPadding(v.bytes), nil, false), " ")
	}
	return strings.Join(v.numbers(), `\`)
}

// Strings returns the values of t, without surrounding spaces; nil if t is absent or
// empty.
func (h Header) Strings(t Tag) []string {
	s := h.String(t)
	if s == "" {
		return nil
	}
	if h.values[t].vr.single() {
		return []string{s}
	}
	parts := strings.Split(s, `\`)
	for i := range parts {
		parts[i] = strings.Trim(parts[i], " \x00")
	}
	return parts
}

// Float returns the first number of t.
func (h Header) Float(t Tag) (float64, bool) {
	all, err := h.Floats(t)
	if err != nil || len(all) == 0 {
		return 0, false
	}
	return all[0], true
}

// Floats returns the numbers of t, whatever VR they are in. It returns none and no
// error if t is absent or empty, and an error if one of the values is no finite number.
func (h Header) Floats(t Tag) ([]float64, error) {
	parts := h.Strings(t)
	out := make([]float64, 0, len(parts))
	for i, p := range parts {
		f, err := strconv.ParseFloat(p, 64)
		if err != nil || math.IsNaN(f) || math.IsInf(f, 0) {
			return nil, fmt.Errorf("value %d of element (%04X,%04X) is not a number", i+1, t.Group, t.Element)
		}
		out = append(out, f)
	}
	return out, nil
}

// Int returns the first number of t if it is a whole one.
func (h Header) Int(t Tag) (int, bool) {
	f, ok := h.Float(t)
	if !ok || f != math.Trunc(f) || math.Abs(f) > 1<<53 {
		return 0, false
	}
	return int(f), true
}

// Map returns every kept element that is text or numbers as keyword → text, in the
// form of String. It holds patient data.
func (h Header) Map() map[string]string {
	out := make(map[string]string, len(h.values))
	for t := range h.values {
		info, err := dicomtag.Find(t)
		if err != nil {
			continue // no keyword: private, or newer than the dictionary
		}
		out[info.Name] = h.String(t)
	}
	return out
}

// Element returns t as found, to be written again unchanged, and whether it is there.
func (h Header) Element(t Tag) (*Element, bool) {
	v, ok := h.values[t]
	if !ok {
		return nil, false
	}
	return RawElement(t, v.vr.String(), v.bytes), true
}

func (h Header) characterSets() []string {
	v := h.values[dicomtag.SpecificCharacterSet]
	if len(v.bytes) == 0 {
		return nil
	}
	return strings.Split(string(trimPadding(v.bytes)), `\`)
}

// numbers formats the binary numbers of v; nil for bytes without a meaning.
func (v value) numbers() []string {
	var out []string
	word := v.vr.word()
	for b := v.bytes; len(b) >= word; b = b[word:] {
		var s string
		switch v.vr {
		case vrUS:
			s = strconv.FormatUint(uint64(binary.LittleEndian.Uint16(b)), 10)
		case vrSS:
			s = strconv.FormatInt(int64(int16(binary.LittleEndian.Uint16(b))), 10)
		case vrUL:
			s = strconv.FormatUint(uint64(binary.LittleEndian.Uint32(b)), 10)
		case vrSL:
			s = strconv.FormatInt(int64(int32(binary.LittleEndian.Uint32(b))), 10)
		case vrUV:
			s = strconv.FormatUint(binary.LittleEndian.Uint64(b), 10)
		case vrSV:
			s = strconv.FormatInt(int64(binary.LittleEndian.Uint64(b)), 10)
		case vrFL:
			s = strconv.FormatFloat(float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), 'g', -1, 32)
		case vrFD:
			s = strconv.FormatFloat(math.Float64frombits(binary.LittleEndian.Uint64(b)), 'g', -1, 64)
		case vrAT:
			if len(b) < 4 {
				return out
			}
			s = fmt.Sprintf("(%04X,%04X)", binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:]))
			b = b[2:]
		default:
			return nil
		}
		out = append(out, s)
	}
	return out
}
