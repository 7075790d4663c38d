package dataset

import (
	"bytes"
	"strings"
	"unicode/utf8"

	"golang.org/x/text/encoding"
	"golang.org/x/text/encoding/charmap"
	"golang.org/x/text/encoding/japanese"
	"golang.org/x/text/encoding/korean"
	"golang.org/x/text/encoding/simplifiedchinese"
	"golang.org/x/text/encoding/unicode"
)

// go-dicom knows a part of the character sets, ignores the escape sequences of
// ISO 2022, and panics on a name it maps to an unknown encoding; hence this file.

// characterSet returns the encoding that a defined term of Specific Character Set
// (PS3.3 C.12.1.1.2) begins with: nil for ASCII and for terms unknown to us. Spelling
// mistakes seen in the field ("ISO-IR 100", "ISO IR 192", "UTF-8") are understood.
func characterSet(term string) encoding.Encoding {
	var key strings.Builder
	for _, r := range strings.ToUpper(term) {
		if r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
			key.WriteRune(r)
		}
	}
	name := strings.TrimPrefix(key.String(), "ISO2022")
	name = strings.TrimPrefix(name, "ISO")
	switch name {
	case "IR13":
		return japanese.ShiftJIS // JIS X 0201 is its single-byte part
	case "IR100", "88591":
		return charmap.ISO8859_1
	case "IR101":
		return charmap.ISO8859_2
	case "IR109":
		return charmap.ISO8859_3
	case "IR110":
		return charmap.ISO8859_4
	case "IR144":
		return charmap.ISO8859_5
	case "IR127":
		return charmap.ISO8859_6
	case "IR126":
		return charmap.ISO8859_7
	case "IR138":
		return charmap.ISO8859_8
	case "IR148":
		return charmap.ISO8859_9
	case "IR203":
		return charmap.ISO8859_15
	case "IR166":
		return charmap.Windows874 // TIS 620 and a few quotation marks
	case "IR149":
		return korean.EUCKR
	case "IR58":
		return simplifiedchinese.GBK // GB 2312 is a part of it
	case "IR192", "UTF8":
		return unicode.UTF8
	case "GB18030":
		return simplifiedchinese.GB18030
	case "GBK":
		return simplifiedchinese.GBK
	}
	return nil
}

// decodeText returns b as valid UTF-8. pn adds the delimiters of person names (PS3.5
// 6.2.1), at which the initial character set returns.
func decodeText(b []byte, terms []string, pn bool) string {
	if ascii(b) {
		return string(b)
	}
	var initial encoding.Encoding
	if len(terms) > 0 {
		initial = characterSet(terms[0])
	}
	if bytes.IndexByte(b, escape) >= 0 && len(terms) > 0 {
		return decodeISO2022(b, initial, pn)
	}
	if initial == nil && len(terms) > 1 {
		// Without an escape sequence G1 is not designated, but Korean names are sent so.
		initial = characterSet(terms[1])
	}
	return decodeWith(initial, b)
}

const escape = 0x1B

func ascii(b []byte) bool {
	for _, c := range b {
		if c >= utf8.RuneSelf || c == escape {
			return false
		}
	}
	return true
}

// decodeWith decodes b by e. Where no character set was declared, or it does not fit,
// the bytes are UTF-8 if they can be, else Latin-1, which fits any bytes.
func decodeWith(e encoding.Encoding, b []byte) string {
	if e == nil || e == unicode.UTF8 {
		if utf8.Valid(b) {
			return string(b)
		}
		e = charmap.ISO8859_1
	}
	out, err := e.NewDecoder().Bytes(b)
	if err != nil || !utf8.Valid(out) {
		return strings.ToValidUTF8(string(b), string(utf8.RuneError))
	}
	return string(out)
}

// An escapeSequence designates a character set (PS3.3 table C.12-3 and C.12-4).
type escapeSequence struct {
	bytes  string // after the escape
	set    encoding.Encoding
	g0     bool   // it replaces ASCII (bytes below 80H)
	double bool   // in g0, two bytes a character
	prefix string // the form in which the decoder wants it
}

var escapeSequences = []escapeSequence{
	{bytes: "(B", g0: true},
	{bytes: "(J", g0: true}, // JIS X 0201 romaji: yen for backslash, overline for tilde; kept as ASCII
	{bytes: "$B", g0: true, double: true, set: japanese.ISO2022JP, prefix: "\x1b$B"},
	{bytes: "$@", g0: true, double: true, set: japanese.ISO2022JP, prefix: "\x1b$@"},
	{bytes: "$(D", g0: true, double: true, set: japanese.ISO2022JP, prefix: "\x1b$(D"},
	{bytes: ")I", set: japanese.ShiftJIS},
	{bytes: "$)C", set: korean.EUCKR},
	{bytes: "$)A", set: simplifiedchinese.GBK},
	{bytes: "-A", set: charmap.ISO8859_1},
	{bytes: "-B", set: charmap.ISO8859_2},
	{bytes: "-C", set: charmap.ISO8859_3},
	{bytes: "-D", set: charmap.ISO8859_4},
	{bytes: "-L", set: charmap.ISO8859_5},
	{bytes: "-G", set: charmap.ISO8859_6},
	{bytes: "-F", set: charmap.ISO8859_7},
	{bytes: "-H", set: charmap.ISO8859_8},
	{bytes: "-M", set: charmap.ISO8859_9},
	{bytes: "-b", set: charmap.ISO8859_15},
	{bytes: "-T", set: charmap.Windows874},
}

// decodeISO2022 decodes text with escape sequences (PS3.5 6.1.2.5).
func decodeISO2022(b []byte, initial encoding.Encoding, pn bool) string {
	var out strings.Builder
	g0, g1 := escapeSequence{g0: true}, initial
	for len(b) > 0 {
		if b[0] == escape {
			next, ok := matchEscape(b[1:])
			if !ok {
				out.WriteRune(utf8.RuneError)
				b = b[1:]
				continue
			}
			if next.g0 {
				g0 = next
			} else {
				g1 = next.set
			}
			b = b[1+len(next.bytes):]
			continue
		}
		if !g0.double && delimiter(b[0], pn) {
			// PS3.5 6.1.2.5.3: the initial sets are active again after a delimiter.
			out.WriteByte(b[0])
			g0, g1 = escapeSequence{g0: true}, initial
			b = b[1:]
			continue
		}
		n := runLength(b, g0.double, pn)
		if g0.double && b[0] < utf8.RuneSelf {
			out.WriteString(decodeWith(g0.set, append([]byte(g0.prefix), b[:n]...)))
		} else {
			out.WriteString(decodeWith(g1, b[:n]))
		}
		b = b[n:]
	}
	return out.String()
}

func matchEscape(b []byte) (escapeSequence, bool) {
	for _, s := range escapeSequences {
		if bytes.HasPrefix(b, []byte(s.bytes)) {
			return s, true
		}
	}
	return escapeSequence{}, false
}

func delimiter(c byte, pn bool) bool {
	switch c {
	case '\\', '\r', '\n', '\f', '\t':
		return true
	case '^', '=':
		return pn
	}
	return false
}

// runLength is how many bytes are decoded alike: to the next escape, delimiter, or,
// where the lower half has two bytes a character, change of half.
func runLength(b []byte, double, pn bool) int {
	low := b[0] < utf8.RuneSelf
	for i, c := range b {
		if c == escape || !double && delimiter(c, pn) || double && (c < utf8.RuneSelf) != low {
			return i
		}
	}
	return len(b)
}

// EncodeText returns UTF-8 text in the characters of one defined term of Specific
// Character Set, without code extensions, and whether that can hold it. The empty
// term is ASCII.
func EncodeText(s, term string) ([]byte, bool) {
	if ascii([]byte(s)) {
		return []byte(s), true
	}
	e := characterSet(term)
	if e == nil || strings.Contains(strings.ToUpper(term), "2022") {
		return nil, false
	}
	if e == unicode.UTF8 {
		return []byte(s), utf8.ValidString(s)
	}
	out, err := e.NewEncoder().Bytes([]byte(s))
	if err != nil || decodeWith(e, out) != s {
		return nil, false
	}
	return out, true
}
