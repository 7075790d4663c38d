package query

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
)

// identifier encodes a match: the keys that were asked for and are supported.
func (q *Query) identifier(e *entity) ([]*dataset.Element, error) {
	texts := make([]string, len(q.returned))
	for i, a := range q.returned {
		values, err := e.values(a)
		if err != nil {
			return nil, err
		}
		texts[i] = strings.Join(values, `\`)
	}
	term := responseTerm(q.returned, texts, e.header["SpecificCharacterSet"], q.scope.utf8Asked)
	level := q.scope.level.String()
	elements := []*dataset.Element{dataset.MustElement(dicomtag.QueryRetrieveLevel, level)}
	if term != "" {
		elements = append(elements, dataset.MustElement(dicomtag.SpecificCharacterSet, term))
	}
	for i, a := range q.returned {
		element, err := encode(a, texts[i], term)
		if err != nil {
			return nil, err
		}
		elements = append(elements, element)
	}
	return elements, nil
}

// oneTerm are the defined terms without code extensions, PS3.3 C.12.1.1.2.
var oneTerm = regexp.MustCompile(`^(ISO_IR [0-9]{2,3}|GB18030|GBK)$`)

// responseTerm chooses the character set of a response: none for ASCII; that of
// the image, as whoever asks for it can show that; else UTF-8, as when the peer
// wrote so itself, or where code extensions (ISO 2022) would be needed.
func responseTerm(attributes []attribute, texts []string, own string, utf8Asked bool) string {
	term := ""
	for i, a := range attributes {
		if !localized(a.vr) {
			continue
		}
		if _, plain := dataset.EncodeText(texts[i], ""); plain {
			continue
		}
		if _, fits := dataset.EncodeText(texts[i], own); utf8Asked || !fits || !oneTerm.MatchString(own) {
			return utf8Term
		}
		term = own
	}
	return term
}

// localized says whether Specific Character Set applies to a VR, PS3.5 6.1.2.3.
func localized(vr string) bool {
	switch vr {
	case "LO", "LT", "PN", "SH", "ST", "UC", "UT":
		return true
	}
	return false
}

// encode makes an element of the text of its values.
func encode(a attribute, text, term string) (*dataset.Element, error) {
	switch a.vr {
	case "US", "UL", "SS", "SL":
		return encodeNumbers(a, text)
	}
	b, ok := []byte(text), true
	if localized(a.vr) {
		b, ok = dataset.EncodeText(text, term)
	}
	if !ok {
		return nil, fmt.Errorf("the value of %s does not fit the character set %q", a.keyword, term)
	}
	if len(b) >= math.MaxUint16 {
		b = nil // longer than most VRs hold, and than any image should have it
	}
	return dataset.RawElement(a.tag, a.vr, b), nil
}

func encodeNumbers(a attribute, text string) (*dataset.Element, error) {
	var values []any
	for _, part := range strings.Split(text, `\`) {
		if part == "" {
			continue
		}
		n, err := strconv.Atoi(part)
		if err != nil {
			return dataset.NewElement(a.tag) // not what it should be: no value
		}
		values = append(values, n)
	}
	if element, err := dataset.NewElement(a.tag, values...); err == nil {
		return element, nil
	}
	return dataset.NewElement(a.tag)
}
