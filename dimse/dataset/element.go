package dataset

import (
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"

	dicom "github.com/grailbio/go-dicom"
	"github.com/grailbio/go-dicom/dicomtag"
)

// Element is one data element to be written, or decoded by Decode. Make it with
// NewElement, Sequence or RawElement.
type Element = dicom.Element

// rawValue is the value of an element that is written as it is.
type rawValue []byte

// NewElement returns the element t of the dictionary with these values. A value is what
// the VR asks for: a string for text; a number for IS, DS and the binary number VRs,
// which must be finite and fit; a Tag for AT; []byte for pixel data and other bytes,
// [][]byte for the fragments of encapsulated pixel data. No values make an empty element. Text outside ASCII must be encoded as the Specific
// Character Set says.
func NewElement(t Tag, values ...any) (*Element, error) {
	info, err := dicomtag.Find(t)
	if err != nil {
		return nil, fmt.Errorf("element (%04X,%04X) is not in the dictionary: use RawElement", t.Group, t.Element)
	}
	v := dictionaryVR(t)
	if v == vrSQ {
		return nil, fmt.Errorf("element %s is a sequence: use Sequence", info.Name)
	}
	if v == vrUS && usOrSS(t) && negative(values) {
		v = vrSS
	}
	e := &Element{Tag: t, VR: v.String()}
	if b, ok := soleBytes(values); ok {
		e.Value = []any{rawValue(b)}
		return e, nil
	}
	if len(values) == 1 && t == dicomPixelData {
		if fragments, ok := values[0].([][]byte); ok {
			e.VR, e.UndefinedLength = "OB", true
			e.Value = []any{dicom.PixelDataInfo{Frames: fragments}}
			return e, nil
		}
	}
	for _, value := range values {
		converted, err := convert(v, value)
		if err != nil {
			return nil, fmt.Errorf("element %s: %w", info.Name, err)
		}
		e.Value = append(e.Value, converted)
	}
	return e, nil
}

// MustElement is NewElement for values that are known to be right when the program is
// written; it panics if they are not.
func MustElement(t Tag, values ...any) *Element {
	e, err := NewElement(t, values...)
	if err != nil {
		panic(err)
	}
	return e
}

// Sequence returns the sequence t with these items.
func Sequence(t Tag, items ...[]*Element) *Element {
	e := &Element{Tag: t, VR: "SQ"}
	for _, elements := range items {
		item := &Element{Tag: dicomtag.Item, VR: "NA"}
		for _, element := range elements {
			item.Value = append(item.Value, element)
		}
		e.Value = append(e.Value, item)
	}
	return e
}

// RawElement returns an element whose value is written unchanged: numbers must be
// little endian, text in the characters that the Specific Character Set names. An odd
// value is padded.
func RawElement(t Tag, vr string, value []byte) *Element {
	return &Element{Tag: t, VR: vr, Value: []any{rawValue(value)}}
}

func soleBytes(values []any) ([]byte, bool) {
	if len(values) != 1 {
		return nil, false
	}
	b, ok := values[0].([]byte)
	return b, ok
}

// usOrSS reports whether the standard lets t be US or SS, as Pixel Representation
// says; go-dicom's dictionary knows US only.
func usOrSS(t Tag) bool {
	if t.Group != 0x0028 {
		return false
	}
	switch t.Element {
	case 0x0106, 0x0107, 0x0108, 0x0109, 0x0110, 0x0111, 0x0120, 0x0121, 0x1101, 0x1102, 0x1103:
		return true
	}
	return false
}

func negative(values []any) bool {
	for _, v := range values {
		if i, err := integer(v, math.MinInt64, -1); err == nil && i < 0 {
			return true
		}
	}
	return false
}

// convert returns value in the Go type that go-dicom uses for v.
func convert(v vr, value any) (any, error) {
	switch v {
	case vrUS:
		i, err := integer(value, 0, math.MaxUint16)
		return uint16(i), err
	case vrSS:
		i, err := integer(value, math.MinInt16, math.MaxInt16)
		return int16(i), err
	case vrUL:
		i, err := integer(value, 0, math.MaxUint32)
		return uint32(i), err
	case vrSL:
		i, err := integer(value, math.MinInt32, math.MaxInt32)
		return int32(i), err
	case vrFL, vrOF:
		f, err := float(value)
		if err == nil && math.Abs(f) > math.MaxFloat32 {
			err = errors.New("the number is out of range")
		}
		return float32(f), err
	case vrFD, vrOD:
		return float(value)
	case vrAT:
		if t, ok := value.(Tag); ok {
			return t, nil
		}
		return nil, fmt.Errorf("%T is not a tag", value)
	case vrIS:
		if s, ok := value.(string); ok {
			return s, nil
		}
		i, err := integer(value, math.MinInt32, math.MaxInt32)
		return strconv.FormatInt(i, 10), err
	case vrDS:
		if s, ok := value.(string); ok {
			return s, nil
		}
		f, err := float(value)
		return formatDS(f), err
	}
	if s, ok := value.(string); ok && v.text() {
		return s, nil
	}
	return nil, fmt.Errorf("a %T is no value of VR %s", value, v)
}

// integer returns value as an integer between low and high.
func integer(value any, low, high int64) (int64, error) {
	var i int64
	switch n := value.(type) {
	case int:
		i = int64(n)
	case int16:
		i = int64(n)
	case int32:
		i = int64(n)
	case int64:
		i = n
	case uint8:
		i = int64(n)
	case uint16:
		i = int64(n)
	case uint32:
		i = int64(n)
	default:
		return 0, fmt.Errorf("a %T is not an integer", value)
	}
	if i < low || i > high {
		return 0, errors.New("the number is out of range")
	}
	return i, nil
}

// float returns value as a finite number.
func float(value any) (float64, error) {
	var f float64
	switch n := value.(type) {
	case float64:
		f = n
	case float32:
		f = float64(n)
	default:
		i, err := integer(value, -1<<53, 1<<53)
		if err != nil {
			return 0, fmt.Errorf("a %T is not a number", value)
		}
		f = float64(i)
	}
	if math.IsNaN(f) || math.IsInf(f, 0) {
		return 0, errors.New("NaN and infinity are not values")
	}
	return f, nil
}

// maxDS is the length of a decimal string (PS3.5 6.2).
const maxDS = 16

// formatDS writes f with as many digits as fit in a decimal string.
func formatDS(f float64) string {
	s := strconv.FormatFloat(f, 'f', -1, 64)
	for decimals := maxDS; len(s) > maxDS && decimals > 0 && math.Abs(f) >= 1e-4 && math.Abs(f) < 1e14; decimals-- {
		s = strings.TrimSuffix(strings.TrimRight(strconv.FormatFloat(f, 'f', decimals, 64), "0"), ".")
	}
	for digits := maxDS; len(s) > maxDS; digits-- {
		s = strconv.FormatFloat(f, 'g', digits, 64)
	}
	return s
}
