package ct

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// rleHeaderSize is the number of segments and 15 offsets (PS3.5 G.5).
const rleHeaderSize = 64

var errRLEShort = errors.New("the RLE data end before the image is whole")

// decodeRLE decodes one frame of RLE Lossless (PS3.5 annex G) with 16 bits
// allocated to little-endian samples. The two byte planes, the more significant
// first, are compressed one by one.
func decodeRLE(frame []byte, info PixelInfo) ([]byte, error) {
	if len(frame) < rleHeaderSize {
		return nil, errors.New("the RLE header is cut off")
	}
	if n := binary.LittleEndian.Uint32(frame); n != 2 {
		return nil, fmt.Errorf("the RLE data have %d segments where 16-bit grey values have 2", n)
	}
	high := binary.LittleEndian.Uint32(frame[4:])
	low := binary.LittleEndian.Uint32(frame[8:])
	if high < rleHeaderSize || low < high || uint64(low) > uint64(len(frame)) {
		return nil, errors.New("the RLE header points outside the data")
	}
	out := make([]byte, info.frameBytes())
	if err := unpackBits(out, 1, frame[high:low]); err != nil {
		return nil, err
	}
	if err := unpackBits(out, 0, frame[low:]); err != nil {
		return nil, err
	}
	return out, nil
}

// unpackBits expands one segment into every second byte of out, beginning at
// start (PS3.5 G.3.2). What follows the last sample is padding.
func unpackBits(out []byte, start int, segment []byte) error {
	at := start
	for i := 0; at < len(out); {
		if i >= len(segment) {
			return errRLEShort
		}
		control := int8(segment[i])
		i++
		switch {
		case control >= 0: // a literal run of control+1 bytes
			n := int(control) + 1
			if n > len(segment)-i {
				return errRLEShort
			}
			for _, b := range segment[i : i+n] {
				if at >= len(out) {
					break
				}
				out[at] = b
				at += 2
			}
			i += n
		case control != -128: // the next byte 1-control times
			if i >= len(segment) {
				return errRLEShort
			}
			b := segment[i]
			i++
			for n := 1 - int(control); n > 0 && at < len(out); n-- {
				out[at] = b
				at += 2
			}
		}
	}
	return nil
}
