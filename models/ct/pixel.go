package ct

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
)

// PixelInfo is what the header of an image says of its pixels (PS3.3 C.7.6.3,
// C.8.2.1): one grey value of 16 allocated bits for each pixel.
type PixelInfo struct {
	Rows, Columns       int
	BitsStored, HighBit int
	Signed              bool
}

// Decoder decodes one compressed image of a transfer syntax that this package
// does not decode itself (JPEG-LS, JPEG 2000). It must return exactly
// Rows × Columns little-endian samples of 16 bits, must refuse a codestream of
// another size before it decodes it (see CheckSize), and may be called from
// several goroutines at once. fragment is not kept or changed.
type Decoder func(transferSyntaxUID string, fragment []byte, info PixelInfo) ([]byte, error)

const bitsAllocated = 16

func (p PixelInfo) frameBytes() int { return 2 * p.Rows * p.Columns }

// CheckSize compares the size that a codestream declares with the header's.
func (p PixelInfo) CheckSize(columns, rows uint64) error {
	if columns != uint64(p.Columns) || rows != uint64(p.Rows) {
		return fmt.Errorf("the compressed image has %d × %d pixels where the header says %d × %d", columns, rows, p.Columns, p.Rows)
	}
	return nil
}

// CheckPrecision compares the bits of a codestream with the header's. A
// codestream of signed samples extends its own sign; without one, the sign bit
// of signed pixels must be where Bits Stored puts it.
func (p PixelInfo) CheckPrecision(bits int, signed bool) error {
	if bits < 2 || bits > bitsAllocated {
		return fmt.Errorf("the compressed image has %d bits for a pixel where CT has 2 to 16", bits)
	}
	if p.Signed && !signed && bits < p.BitsStored {
		return fmt.Errorf("the compressed image has %d bits for a signed pixel where the header says %d", bits, p.BitsStored)
	}
	return nil
}

func (p PixelInfo) validate() error {
	switch {
	case p.Rows < 1 || p.Columns < 1 || p.Rows > math.MaxUint16 || p.Columns > math.MaxUint16:
		return fmt.Errorf("its size is %d × %d pixels", p.Columns, p.Rows)
	case p.BitsStored < 2 || p.BitsStored > bitsAllocated || p.HighBit >= bitsAllocated || p.HighBit+1 < p.BitsStored:
		return fmt.Errorf("its bits do not fit together: %d allocated, %d stored, high bit %d", bitsAllocated, p.BitsStored, p.HighBit)
	}
	return nil
}

// rescale is all that turns a 16-bit cell of the pixel data into a Hounsfield
// unit. Two images with equal values share one table.
type rescale struct {
	slope, intercept    float64
	bitsStored, highBit int
	signed              bool
	padded              bool
	padLow, padHigh     int // stored values from padLow to padHigh are padding
}

// hounsfieldTable is the Hounsfield unit of every possible cell.
type hounsfieldTable [1 << bitsAllocated]int16

// table computes the Hounsfield unit of each cell: unused bits are cut off, the
// sign is extended, padding becomes AirHU, all else is rescaled, rounded to the
// nearest even integer and clamped to 16 bits.
func (r rescale) table() *hounsfieldTable {
	var t hounsfieldTable
	up := 15 - r.highBit // shift that brings the high bit to the top
	down := bitsAllocated - r.bitsStored
	for cell := range t {
		v := int(uint16(cell) << up >> down)
		if r.signed {
			v = int(int16(cell<<up) >> down)
		}
		if r.padded && r.padLow <= v && v <= r.padHigh {
			t[cell] = AirHU
			continue
		}
		t[cell] = clampHU(float64(v)*r.slope + r.intercept)
	}
	return &t
}

// clampHU rounds to the nearest even integer within int16. NaN is not handed in.
func clampHU(value float64) int16 {
	return int16(max(math.MinInt16, min(math.MaxInt16, math.RoundToEven(value))))
}

// apply writes the Hounsfield units of the cells, two little-endian bytes each.
// Bytes after the last pixel are padding.
func (t *hounsfieldTable) apply(hu []int16, cells []byte) error {
	if len(cells) < 2*len(hu) {
		return fmt.Errorf("the pixel data have %d bytes where the size of the image needs %d", len(cells), 2*len(hu))
	}
	cells = cells[:2*len(hu)]
	for i := range hu {
		hu[i] = t[binary.LittleEndian.Uint16(cells[2*i:2*i+2])]
	}
	return nil
}

// Transfer syntaxes (PS3.6 table A-1) that mean something to this package.
const (
	jpegLosslessP14    = "1.2.840.10008.1.2.4.57"
	jpegLosslessSV1    = "1.2.840.10008.1.2.4.70"
	jpegLSLossless     = "1.2.840.10008.1.2.4.80"
	jpegLSNearLossless = "1.2.840.10008.1.2.4.81"
	jpeg2000Lossless   = "1.2.840.10008.1.2.4.90"
	jpeg2000           = "1.2.840.10008.1.2.4.91"
	rleLossless        = "1.2.840.10008.1.2.5"
)

var errNoDecoder = errors.New("no decoder")

// decompress turns one compressed image into little-endian cells.
func decompress(transferSyntaxUID string, frame []byte, info PixelInfo, other Decoder) ([]byte, error) {
	switch transferSyntaxUID {
	case rleLossless:
		return decodeRLE(frame, info)
	case jpegLosslessP14, jpegLosslessSV1:
		return decodeJPEGLossless(frame, info)
	case jpegLSLossless, jpegLSNearLossless, jpeg2000Lossless, jpeg2000:
		if other != nil {
			cells, err := other(transferSyntaxUID, frame, info)
			if err == nil && len(cells) != info.frameBytes() {
				err = fmt.Errorf("the decoder returned %d bytes where the size of the image needs %d", len(cells), info.frameBytes())
			}
			return cells, err
		}
	}
	return nil, errNoDecoder
}
