package ct

import (
	"encoding/binary"
	"errors"
)

const (
	// lookupBits is the length of the codes found with one look-up. CT codes
	// are rarely longer; the table of 2¹⁰ stays in the first-level cache.
	lookupBits = 10
	// bitPadding zeros follow the bytes of decodeLines, so that it may load
	// eight bytes at once near the end.
	bitPadding = 16
)

var errJPEGCode = errors.New("the JPEG data are damaged: a code is in no Huffman table")

// huffman is a canonical Huffman table (ISO 10918-1 annex C) of difference
// categories 0 to 16.
type huffman struct {
	lookup  [1 << lookupBits]uint16 // category<<8 | code length; 0: longer or no code
	maxCode [17]int32               // largest code of each length, -1: none
	offset  [17]int32               // index of the first category of that length minus its first code
	values  []byte
}

func newHuffman(counts, values []byte) (*huffman, error) {
	h := &huffman{values: append([]byte(nil), values...)}
	code, index := int32(0), int32(0)
	for length := 1; length <= 16; length++ {
		n := int32(counts[length-1])
		h.offset[length] = index - code
		h.maxCode[length] = code + n - 1
		if n == 0 {
			h.maxCode[length] = -1
		}
		if code+n > 1<<length {
			return nil, errors.New("a JPEG Huffman table has more codes than fit its lengths")
		}
		for ; n > 0; n-- {
			category := values[index]
			if category > 16 {
				return nil, errors.New("a JPEG Huffman table holds a category over 16")
			}
			if length <= lookupBits {
				low := code << (lookupBits - length)
				for k := low; k < low+1<<(lookupBits-length); k++ {
					h.lookup[k] = uint16(category)<<8 | uint16(length)
				}
			}
			code++
			index++
		}
		code <<= 1
	}
	return h, nil
}

// long finds a code of more than lookupBits bits at the top of acc.
func (h *huffman) long(acc uint64) (category, length uint, ok bool) {
	for n := lookupBits + 1; n <= 16; n++ {
		if code := int32(acc >> (64 - n)); h.maxCode[n] >= 0 && code <= h.maxCode[n] {
			at := code + h.offset[n]
			if at < 0 || int(at) >= len(h.values) {
				return 0, 0, false
			}
			return uint(h.values[at]), uint(n), true
		}
	}
	return 0, 0, false
}

// decodeLines decodes whole lines of samples from in, which ends with
// bitPadding zeros. The first line is predicted from the left, beginning with
// first; the first sample of every other line from above (H.1.2.1).
func decodeLines(out []uint16, columns int, in []byte, h *huffman, predictor int, first uint16) error {
	end := (len(in) - bitPadding) * 8 // bits there are
	var (
		acc  uint64 // the next bits, left aligned
		have uint   // how many of them are loaded
		next int    // index in in of the byte after them
	)
	for start := 0; start < len(out); start += columns {
		line := out[start : start+columns]
		var above []uint16
		kind := 1 // the first line: the sample to the left
		left := first
		if start > 0 {
			above = out[start-columns : start]
			kind = predictor
			left = above[0] // only for the first sample of the line
		}
		for x := range line {
			// At least 33 bits: a code of 16 and a difference of 16.
			if have < 33 {
				if next > len(in)-8 {
					return errJPEGShort
				}
				acc |= binary.BigEndian.Uint64(in[next:]) >> have
				loaded := (63 - have) >> 3
				next += int(loaded)
				have += loaded * 8
				// Bits past have are those of the byte at next; they come again.
				acc &= ^uint64(0) << (64 - have)
			}
			entry := h.lookup[acc>>(64-lookupBits)]
			category, length := uint(entry>>8), uint(entry&0xFF)
			if length == 0 {
				var ok bool
				if category, length, ok = h.long(acc); !ok {
					return errJPEGCode
				}
			}
			acc <<= length
			have -= length
			var diff int32
			switch category {
			case 0:
			case 16: // no further bits (H.1.2.2)
				diff = 1 << 15
			default:
				diff = int32(acc >> (64 - category))
				if diff < 1<<(category-1) {
					diff += -1<<category + 1
				}
				acc <<= category
				have -= category
			}

			var p int32
			switch {
			case x == 0 || kind == 1:
				p = int32(left)
			case kind == 2:
				p = int32(above[x])
			case kind == 3:
				p = int32(above[x-1])
			case kind == 4:
				p = int32(left) + int32(above[x]) - int32(above[x-1])
			case kind == 5:
				p = int32(left) + (int32(above[x])-int32(above[x-1]))>>1
			case kind == 6:
				p = int32(above[x]) + (int32(left)-int32(above[x-1]))>>1
			default:
				p = (int32(left) + int32(above[x])) >> 1
			}
			left = uint16(p + diff) // modulo 2¹⁶ (H.1.2.1)
			line[x] = left
		}
	}
	if next*8-int(have) > end {
		return errJPEGShort
	}
	return nil
}
