package ct

import (
	"encoding/binary"
	"errors"
	"fmt"
)

// JPEG markers (ISO 10918-1 table B.1) that a lossless image of one component
// may hold.
const (
	markerSOF0 = 0xC0
	markerSOF3 = 0xC3 // lossless, sequential, Huffman
	markerDHT  = 0xC4
	markerJPG  = 0xC8
	markerDAC  = 0xCC
	markerSOF  = 0xCF // the last of the SOFn
	markerRST0 = 0xD0
	markerRST7 = 0xD7
	markerSOI  = 0xD8
	markerEOI  = 0xD9
	markerSOS  = 0xDA
	markerDRI  = 0xDD
	markerTEM  = 0x01
)

var errJPEGShort = errors.New("the JPEG data end before the image is whole")

// jpegLossless is one image while its segments are read.
type jpegLossless struct {
	data      []byte // what follows the segment read last
	info      PixelInfo
	precision int // 0 until the frame header was read
	component byte
	restart   int // samples between restart markers, 0: none
	tables    [4]*huffman
}

// decodeJPEGLossless decodes a JPEG Lossless image (ISO 10918-1 annex H,
// process 14, Huffman, any predictor; one component, 2 to 16 bits) to
// little-endian samples. Its size must be that of the DICOM header.
func decodeJPEGLossless(frame []byte, info PixelInfo) ([]byte, error) {
	j := jpegLossless{data: frame, info: info}
	if len(frame) < 2 || frame[0] != 0xFF || frame[1] != markerSOI {
		return nil, errors.New("the JPEG data do not begin with an image")
	}
	j.data = frame[2:]
	for {
		marker, err := j.nextMarker()
		if err != nil {
			return nil, err
		}
		switch {
		case marker == markerTEM || marker >= markerRST0 && marker <= markerSOI:
			continue // markers without a segment
		case marker == markerEOI:
			return nil, errors.New("the JPEG image ends before its pixels begin")
		}
		body, err := j.segment()
		if err != nil {
			return nil, err
		}
		switch {
		case marker == markerSOF3:
			err = j.readFrameHeader(body)
		case marker == markerDHT:
			err = j.readTables(body)
		case marker == markerDRI:
			err = j.readRestartInterval(body)
		case marker == markerSOS:
			return j.readScan(body)
		case marker >= markerSOF0 && marker <= markerSOF && marker != markerJPG || marker == markerDAC:
			err = errors.New("the JPEG image is not of the lossless Huffman kind that its transfer syntax names")
		}
		if err != nil {
			return nil, err
		}
	}
}

func (j *jpegLossless) nextMarker() (byte, error) {
	if len(j.data) < 2 {
		return 0, errJPEGShort
	}
	if j.data[0] != 0xFF {
		return 0, errors.New("the JPEG data are damaged: a marker is missing")
	}
	for len(j.data) > 1 && j.data[1] == 0xFF { // fill bytes (B.1.1.2)
		j.data = j.data[1:]
	}
	if len(j.data) < 2 {
		return 0, errJPEGShort
	}
	marker := j.data[1]
	j.data = j.data[2:]
	return marker, nil
}

func (j *jpegLossless) segment() ([]byte, error) {
	if len(j.data) < 2 {
		return nil, errJPEGShort
	}
	n := int(binary.BigEndian.Uint16(j.data))
	if n < 2 || n > len(j.data) {
		return nil, errJPEGShort
	}
	body := j.data[2:n]
	j.data = j.data[n:]
	return body, nil
}

// readFrameHeader reads SOF3 (B.2.2).
func (j *jpegLossless) readFrameHeader(b []byte) error {
	if j.precision != 0 || len(b) < 9 {
		return errors.New("the JPEG frame header is damaged")
	}
	precision, rows, columns, components := int(b[0]), int(binary.BigEndian.Uint16(b[1:])), int(binary.BigEndian.Uint16(b[3:])), b[5]
	if components != 1 {
		return fmt.Errorf("the JPEG image has %d components where CT has 1", components)
	}
	if rows != j.info.Rows || columns != j.info.Columns {
		return fmt.Errorf("the JPEG image has %d × %d pixels where the header says %d × %d", columns, rows, j.info.Columns, j.info.Rows)
	}
	if err := j.info.CheckPrecision(precision, false); err != nil {
		return err
	}
	j.precision, j.component = precision, b[6]
	return nil
}

// readTables reads DHT (B.2.4.2). A lossless table holds at most 17 codes.
func (j *jpegLossless) readTables(b []byte) error {
	for len(b) > 0 {
		if len(b) < 17 || b[0] > 3 {
			return errors.New("a JPEG Huffman table is damaged")
		}
		n := 0
		for _, c := range b[1:17] {
			n += int(c)
		}
		if n > len(b)-17 {
			return errors.New("a JPEG Huffman table is damaged")
		}
		table, err := newHuffman(b[1:17], b[17:17+n])
		if err != nil {
			return err
		}
		j.tables[b[0]] = table
		b = b[17+n:]
	}
	return nil
}

// readRestartInterval reads DRI (B.2.4.4). In lossless images an interval is a
// whole number of lines (H.1.1).
func (j *jpegLossless) readRestartInterval(b []byte) error {
	if len(b) < 2 {
		return errors.New("the JPEG restart interval is damaged")
	}
	j.restart = int(binary.BigEndian.Uint16(b))
	return nil
}

// readScan reads SOS (B.2.3) and decodes the samples that follow it.
func (j *jpegLossless) readScan(b []byte) ([]byte, error) {
	if j.precision == 0 {
		return nil, errors.New("the JPEG image has no frame header before its pixels")
	}
	if len(b) < 6 || b[0] != 1 || b[1] != j.component || b[2]>>4 > 3 {
		return nil, errors.New("the JPEG scan header is damaged")
	}
	table, predictor, transform := j.tables[b[2]>>4], int(b[3]), uint(b[5]&15)
	if table == nil {
		return nil, errors.New("the JPEG image has no Huffman table for its pixels")
	}
	if predictor < 1 || predictor > 7 || int(transform) >= j.precision {
		return nil, errors.New("the JPEG scan header is damaged")
	}
	rows, columns := j.info.Rows, j.info.Columns
	lines := rows // per restart interval
	if j.restart > 0 {
		if j.restart%columns != 0 {
			return nil, errors.New("the JPEG restart interval is not a whole number of lines")
		}
		lines = min(rows, j.restart/columns)
	}
	samples := make([]uint16, rows*columns)
	clean := make([]byte, 0, len(j.data)+bitPadding)
	for row := 0; row < rows; row += lines {
		clean = j.entropySegment(clean[:0])
		n := min(lines, rows-row)
		first := uint16(1) << (uint(j.precision) - transform - 1) // H.1.2.1
		if err := decodeLines(samples[row*columns:(row+n)*columns], columns, clean, table, predictor, first); err != nil {
			return nil, err
		}
		if row+n < rows {
			marker, err := j.nextMarker()
			if err != nil {
				return nil, err
			}
			if want := markerRST0 + byte(row/lines%8); marker != want {
				return nil, errors.New("the JPEG data are damaged: a restart marker is missing")
			}
		}
	}
	out := make([]byte, 2*len(samples))
	for i, s := range samples {
		binary.LittleEndian.PutUint16(out[2*i:], s<<transform)
	}
	return out, nil
}

// entropySegment appends the entropy-coded bytes up to the next marker to dst,
// without the zero bytes stuffed after 0xFF, then bitPadding zeros.
func (j *jpegLossless) entropySegment(dst []byte) []byte {
	in := j.data
	i := 0
	for ; i < len(in); i++ {
		if in[i] != 0xFF {
			dst = append(dst, in[i])
			continue
		}
		if i+1 < len(in) && in[i+1] != 0 {
			break // a marker
		}
		dst = append(dst, 0xFF)
		i++ // the stuffed zero
	}
	j.data = in[min(i, len(in)):]
	var zeros [bitPadding]byte
	return append(dst, zeros[:]...)
}
