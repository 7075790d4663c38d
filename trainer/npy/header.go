package npy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// arrayHeader is what the header says.
type arrayHeader struct {
	kind      byte // u, i, f
	size      int
	bigEndian bool
	shape     []int
}

var errHeader = errors.New("its header is not one that NumPy writes")

// readHeader reads everything before the data.
func readHeader(r io.Reader) (arrayHeader, error) {
	var start [8]byte
	if _, err := io.ReadFull(r, start[:]); err != nil || string(start[:6]) != magic {
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return arrayHeader{}, err
		}
		return arrayHeader{}, errors.New("it is no .npy file")
	}
	var length int
	switch {
	case start[6] == 1 && start[7] == 0:
		var b [2]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return arrayHeader{}, errHeader
		}
		length = int(binary.LittleEndian.Uint16(b[:]))
	case start[6] == 2 && start[7] == 0:
		var b [4]byte
		if _, err := io.ReadFull(r, b[:]); err != nil {
			return arrayHeader{}, errHeader
		}
		n := binary.LittleEndian.Uint32(b[:])
		if n > maxHeader {
			return arrayHeader{}, fmt.Errorf("its header has %d bytes, more than %d", n, maxHeader)
		}
		length = int(n)
	default:
		return arrayHeader{}, fmt.Errorf("it is of version %d.%d, and only 1.0 and 2.0 are read", start[6], start[7])
	}
	text := make([]byte, length)
	if _, err := io.ReadFull(r, text); err != nil {
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			err = errHeader
		}
		return arrayHeader{}, err
	}
	return parseHeader(string(text))
}

// parseHeader reads the dictionary of the header: its three keys in any order,
// each once.
func parseHeader(text string) (h arrayHeader, err error) {
	if !strings.HasSuffix(text, "\n") {
		return h, errHeader
	}
	p := parser{strings.TrimRight(text, " \n")}
	seen := map[string]bool{}
	if !p.take("{") {
		return h, errHeader
	}
	for !p.take("}") {
		key, ok := p.quoted()
		if !ok || !p.take(":") || seen[key] {
			return h, errHeader
		}
		seen[key] = true
		switch key {
		case "descr":
			err = h.parseDescr(&p)
		case "fortran_order":
			switch {
			case p.take("False"):
			case p.take("True"):
				err = errors.New("it is in Fortran order, which is not read: save numpy.ascontiguousarray of it")
			default:
				err = errHeader
			}
		case "shape":
			err = h.parseShape(&p)
		default:
			err = errHeader
		}
		if err != nil {
			return h, err
		}
		if !p.take(",") {
			if !p.take("}") {
				return h, errHeader
			}
			break
		}
	}
	if p.rest != "" || len(seen) != 3 {
		return h, errHeader
	}
	return h, nil
}

func (h *arrayHeader) parseDescr(p *parser) error {
	d, ok := p.quoted()
	if !ok {
		return errors.New("it holds records, which are not read")
	}
	if len(d) != 3 || !strings.Contains("<>|=", d[:1]) {
		return fmt.Errorf("its type %.20q is not read", d)
	}
	h.kind, h.size, h.bigEndian = d[1], int(d[2]-'0'), d[0] == '>'
	switch d[1:] {
	case "u1", "i1":
	case "u2", "i2", "u4", "i4", "u8", "i8", "f4", "f8":
		if d[0] != '<' && d[0] != '>' {
			return fmt.Errorf("its type %.20q does not tell the order of bytes", d)
		}
	default:
		return fmt.Errorf("its type %.20q is not read", d)
	}
	return nil
}

func (h *arrayHeader) parseShape(p *parser) error {
	if !p.take("(") {
		return errHeader
	}
	h.shape = []int{}
	for !p.take(")") {
		n, ok := p.number()
		if !ok || len(h.shape) == maxDimensions {
			return errHeader
		}
		h.shape = append(h.shape, n)
		if !p.take(",") {
			if len(h.shape) == 1 || !p.take(")") {
				return errHeader // (3) is a number, not a tuple
			}
			break
		}
	}
	return nil
}

// parser reads the few forms of a Python literal that occur.
type parser struct{ rest string }

func (p *parser) take(s string) bool {
	rest, ok := strings.CutPrefix(strings.TrimLeft(p.rest, " "), s)
	if ok {
		p.rest = rest
	}
	return ok
}

// quoted reads a string without escapes.
func (p *parser) quoted() (string, bool) {
	if !p.take("'") {
		return "", false
	}
	s, rest, ok := strings.Cut(p.rest, "'")
	p.rest = rest
	return s, ok
}

func (p *parser) number() (int, bool) {
	s := strings.TrimLeft(p.rest, " ")
	end := 0
	for end < len(s) && '0' <= s[end] && s[end] <= '9' {
		end++
	}
	if end > 1 && s[0] == '0' {
		return 0, false
	}
	n, err := strconv.Atoi(s[:end])
	p.rest = s[end:]
	return n, err == nil
}
