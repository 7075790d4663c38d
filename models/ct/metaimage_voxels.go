package ct

import (
	"bufio"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
)

// metaElement is an ElementType: how a voxel is written.
type metaElement struct {
	bytes   int
	convert func(cell []byte, order binary.ByteOrder) float64
	small   bool // one or two bytes: converted by a table
}

// metaElementOf returns the element of a MetaImage type that can hold a volume.
func metaElementOf(name string) (metaElement, error) {
	switch name {
	case "MET_CHAR":
		return metaElement{1, func(c []byte, _ binary.ByteOrder) float64 { return float64(int8(c[0])) }, true}, nil
	case "MET_UCHAR":
		return metaElement{1, func(c []byte, _ binary.ByteOrder) float64 { return float64(c[0]) }, true}, nil
	case "MET_SHORT":
		return metaElement{2, func(c []byte, o binary.ByteOrder) float64 { return float64(int16(o.Uint16(c))) }, true}, nil
	case "MET_USHORT":
		return metaElement{2, func(c []byte, o binary.ByteOrder) float64 { return float64(o.Uint16(c)) }, true}, nil
	case "MET_INT":
		return metaElement{4, func(c []byte, o binary.ByteOrder) float64 { return float64(int32(o.Uint32(c))) }, false}, nil
	case "MET_UINT":
		return metaElement{4, func(c []byte, o binary.ByteOrder) float64 { return float64(o.Uint32(c)) }, false}, nil
	case "MET_FLOAT":
		return metaElement{4, func(c []byte, o binary.ByteOrder) float64 { return float64(math.Float32frombits(o.Uint32(c))) }, false}, nil
	case "MET_DOUBLE":
		return metaElement{8, func(c []byte, o binary.ByteOrder) float64 { return math.Float64frombits(o.Uint64(c)) }, false}, nil
	}
	return metaElement{}, fmt.Errorf("its ElementType %.20q is not read", name)
}

// metaChunk is how many voxels are read at once.
const metaChunk = 64 << 10

// maxZlibRatio is how much smaller than its contents a zlib stream can be.
const maxZlibRatio = 1032

var errMetaShort = errors.New("its voxels end before the volume is full")

// readVoxels reads the voxels from in, of which size bytes are left.
func (h metaHeader) readVoxels(in *bufio.Reader, size int64) ([]int16, error) {
	voxels := h.geometry.Voxels()
	need := int64(voxels) * int64(h.element.bytes)
	skip := h.skip
	if skip == -1 {
		if h.compressed {
			return nil, errors.New("its HeaderSize is -1, which compressed voxels cannot have")
		}
		skip = size - need
	}
	if skip < 0 || skip > size {
		return nil, errMetaShort
	}
	if _, err := io.CopyN(io.Discard, in, skip); err != nil {
		return nil, err
	}
	size -= skip
	var from io.Reader = in
	if h.compressed {
		if size < need/maxZlibRatio {
			return nil, errMetaShort
		}
		inflated, err := zlib.NewReader(in)
		if err != nil {
			return nil, fmt.Errorf("inflate its voxels: %w", err)
		}
		defer func() { _ = inflated.Close() }() // only read
		from = inflated
	} else if size < need {
		return nil, errMetaShort
	}
	// The volume is at most some 2,000 times the file from here on.
	hu := make([]int16, voxels)
	if err := h.fill(hu, from); err != nil {
		return nil, err
	}
	if h.compressed { // the end brings the check sum
		if _, err := io.ReadFull(from, make([]byte, 1)); !errors.Is(err, io.EOF) {
			return nil, errors.New("its compressed voxels are damaged or more than the volume holds")
		}
	}
	return hu, nil
}

// fill reads and converts the voxels.
func (h metaHeader) fill(hu []int16, from io.Reader) error {
	var order binary.ByteOrder = binary.LittleEndian
	if h.bigEndian {
		order = binary.BigEndian
	}
	table := h.table(order)
	buffer := make([]byte, metaChunk*h.element.bytes)
	for len(hu) > 0 {
		n := min(metaChunk, len(hu))
		cells := buffer[:n*h.element.bytes]
		if _, err := io.ReadFull(from, cells); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return errMetaShort
			}
			return fmt.Errorf("read its voxels: %w", err)
		}
		switch {
		case table == nil:
			for i := range n {
				value := h.element.convert(cells[i*h.element.bytes:], order)
				if math.IsNaN(value) {
					return errors.New("a voxel is not a number")
				}
				hu[i] = clampHU(value)
			}
		case h.element.bytes == 1:
			for i, c := range cells {
				hu[i] = table[c]
			}
		default:
			for i := range n {
				hu[i] = table[binary.LittleEndian.Uint16(cells[2*i:])]
			}
		}
		hu = hu[n:]
	}
	return nil
}

// table returns the value of every cell of a type of one or two bytes, the
// cell taken as little endian; nil for larger types.
func (h metaHeader) table(order binary.ByteOrder) *hounsfieldTable {
	if !h.element.small {
		return nil
	}
	var t hounsfieldTable
	var cell [2]byte
	for n := range t {
		binary.LittleEndian.PutUint16(cell[:], uint16(n))
		t[n] = clampHU(h.element.convert(cell[:], order))
	}
	return &t
}
