package codec

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"hilum/models/ct"
)

// JPEG 2000 markers (ISO 15444-1 table A.2).
const (
	markerSOC = 0xFF4F
	markerSIZ = 0xFF51
	markerCOD = 0xFF52
	markerCOC = 0xFF53
	markerSOT = 0xFF90
	markerSOD = 0xFF93
	markerEOC = 0xFFD9
)

// Limits of what a codestream may ask OpenJPEG to build for one CT image.
// Encoders use one tile, or tiles of 64² at least; precincts of 32² at least;
// some ten layers.
const (
	maxTiles   = 4096
	maxPackets = 1 << 24 // layers × resolutions × precincts of a tile: two bytes each
	// maxPrecincts of all tiles; each costs about 1 KiB.
	maxPrecincts = 1 << 16
)

var (
	errCodestream = errors.New("the JPEG 2000 codestream is damaged")
	errCutShort   = errors.New("the JPEG 2000 codestream ends early")
)

// findCodestream returns the codestream in fragment. PS3.5 A.4.4 wants it bare,
// but some writers leave it in its JP2 file (ISO 15444-1 annex I).
func findCodestream(fragment []byte) ([]byte, error) {
	if len(fragment) >= 4 && binary.BigEndian.Uint32(fragment) == markerSOC<<16|markerSIZ {
		return fragment, nil
	}
	if !bytes.HasPrefix(fragment, []byte("\x00\x00\x00\x0cjP  \r\n\x87\n")) {
		return nil, errors.New("the JPEG 2000 data do not begin with a codestream")
	}
	for rest := fragment; len(rest) >= 8; {
		size, header := uint64(binary.BigEndian.Uint32(rest)), uint64(8)
		switch {
		case size == 0: // to the end
			size = uint64(len(rest))
		case size == 1 && len(rest) >= 16:
			size, header = binary.BigEndian.Uint64(rest[8:]), 16
		}
		if size < header || size > uint64(len(rest)) {
			return nil, errCutShort
		}
		if string(rest[4:8]) == "jp2c" {
			if body := rest[header:size]; len(body) >= 4 && binary.BigEndian.Uint32(body) == markerSOC<<16|markerSIZ {
				return body, nil
			}
			return nil, errCodestream
		}
		rest = rest[size:]
	}
	return nil, errors.New("the JPEG 2000 file holds no codestream")
}

// codestream is what the main header says of the tiles.
type codestream struct {
	tiles, width, height uint64 // tile size, not larger than the image
}

// checkCodestream reads every marker segment of the main header and of the
// tile-part headers that decides how much memory decoding takes, and checks it
// against the DICOM header.
func checkCodestream(data []byte, info ct.PixelInfo) error {
	var c codestream
	at := 2 // behind SOC
	for first := true; ; first = false {
		marker, body, err := segment(data, at)
		if err != nil {
			return err
		}
		if first != (marker == markerSIZ) {
			return errCodestream
		}
		switch marker {
		case markerSIZ:
			err = c.readSize(body, info)
		case markerSOT:
			return c.checkTileParts(data, at)
		default:
			err = c.checkStyle(marker, body)
		}
		if err != nil {
			return err
		}
		at += 4 + len(body)
	}
}

// segment returns the marker segment at data[at:]: its marker and its body.
func segment(data []byte, at int) (int, []byte, error) {
	if len(data)-at < 4 {
		return 0, nil, errCutShort
	}
	marker, n := int(binary.BigEndian.Uint16(data[at:])), int(binary.BigEndian.Uint16(data[at+2:]))
	if marker < 0xFF01 || n < 2 {
		return 0, nil, errCodestream
	}
	if n > len(data)-at-2 {
		return 0, nil, errCutShort
	}
	return marker, data[at+4 : at+2+n], nil
}

// readSize reads SIZ (A.5.1).
func (c *codestream) readSize(b []byte, info ct.PixelInfo) error {
	if len(b) < 36 {
		return errCodestream
	}
	number := func(n int) uint64 { return uint64(binary.BigEndian.Uint32(b[2+4*n:])) }
	x1, y1, x0, y0 := number(0), number(1), number(2), number(3)
	tileWidth, tileHeight, tileX, tileY := number(4), number(5), number(6), number(7)
	if x1 <= x0 || y1 <= y0 {
		return errCodestream
	}
	if err := info.CheckSize(x1-x0, y1-y0); err != nil {
		return err
	}
	if n := binary.BigEndian.Uint16(b[34:]); n != 1 {
		return fmt.Errorf("the JPEG 2000 image has %d components where CT has 1", n)
	}
	if len(b) != 39 || b[37] != 1 || b[38] != 1 {
		return errCodestream
	}
	if err := info.CheckPrecision(int(b[36]&0x7F)+1, b[36]&0x80 != 0); err != nil {
		return err
	}
	if tileWidth == 0 || tileHeight == 0 || tileX > x0 || tileY > y0 || tileX+tileWidth <= x0 || tileY+tileHeight <= y0 {
		return errCodestream
	}
	// Sizes and sums are below 2³³, so nothing wraps.
	across, down := ceilDiv(x1-tileX, tileWidth), ceilDiv(y1-tileY, tileHeight)
	if across > maxTiles || down > maxTiles || across*down > maxTiles {
		return errors.New("the JPEG 2000 image has more tiles than an image of its size can need")
	}
	c.tiles, c.width, c.height = across*down, min(tileWidth, x1-x0), min(tileHeight, y1-y0)
	return nil
}

// checkStyle checks COD and COC (A.6.1, A.6.2): with them a few bytes may ask
// for millions of precincts or layers. Other markers are left to the library.
func (c *codestream) checkStyle(marker int, b []byte) error {
	var style byte
	layers := uint64(1)
	switch {
	case marker == markerCOD && len(b) >= 10:
		style, layers, b = b[0], uint64(binary.BigEndian.Uint16(b[2:])), b[5:]
	case marker == markerCOC && len(b) >= 7:
		// The layers of COD hold for it; the strictest case is assumed.
		style, layers, b = b[1], maxLayersWithCOC, b[2:]
	case marker == markerCOD || marker == markerCOC:
		return errCodestream
	default:
		return nil
	}
	levels := int(b[0])
	if levels > 32 || style&1 != 0 && len(b) < 5+levels+1 {
		return errCodestream
	}
	var all, most uint64
	for r := 0; r <= levels; r++ {
		precinct := byte(0xFF) // 2¹⁵ × 2¹⁵
		if style&1 != 0 {
			precinct = b[5+r]
		}
		shrink := uint(levels - r)
		width, height := c.width>>shrink+2, c.height>>shrink+2 // rounded up at both edges
		// A precinct that is cut by a tile's edges counts on both sides.
		n := (width>>(precinct&15) + 2) * (height>>(precinct>>4) + 2)
		all += n
		most = max(most, n)
	}
	if all*c.tiles > maxPrecincts+uint64(levels+1)*9*c.tiles || layers*uint64(levels+1)*most > maxPackets {
		return errors.New("the JPEG 2000 image has more precincts or layers than an image of its size can need")
	}
	return nil
}

// maxLayersWithCOC is the number of layers assumed where a component brings its
// own coding style.
const maxLayersWithCOC = 256

// checkTileParts walks the tile-parts (A.4.2), beginning with the SOT at at.
func (c *codestream) checkTileParts(data []byte, at int) error {
	for {
		start := at
		marker, body, err := segment(data, at)
		if err != nil {
			return err
		}
		if marker != markerSOT || len(body) != 8 {
			return errCodestream
		}
		length := uint64(binary.BigEndian.Uint32(body[2:]))
		if length == 0 { // to the end of the codestream
			length = uint64(len(data) - start)
		}
		if length < 14 {
			return errCodestream
		}
		if length > uint64(len(data)-start) {
			return errCutShort
		}
		for at += 4 + len(body); ; at += 4 + len(body) {
			if len(data)-at >= 2 && binary.BigEndian.Uint16(data[at:]) == markerSOD {
				break
			}
			if marker, body, err = segment(data, at); err != nil {
				return err
			}
			if err := c.checkStyle(marker, body); err != nil {
				return err
			}
		}
		end := start + int(length)
		if at+2 > end {
			return errCodestream
		}
		at = end
		// A missing EOC is forgiven; one byte is padding to an even length.
		if len(data)-at < 2 || binary.BigEndian.Uint16(data[at:]) == markerEOC {
			return nil
		}
	}
}

func ceilDiv(a, b uint64) uint64 { return (a + b - 1) / b }
