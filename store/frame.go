package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
)

// A journal segment is a chain of records, a record a chain of frames: data
// frames, all but the last of them full, then one commit frame. The format is
// described in doc.go.
const (
	frameMagic      = "HJF1"
	frameHeaderSize = 48
	// frameSize is the size of a full data frame, and what a Writer keeps in memory.
	frameSize = 256 << 10
	framePay  = frameSize - frameHeaderSize
	// recordAlign has every write begin and end at the border of a block.
	recordAlign = blockSize
	// blockSize is what disks write at once, or a multiple of it.
	blockSize = 4096
	// maxCommit bounds the metadata of an image; it is far above what the
	// indexed elements of a header can hold.
	maxCommit = 1 << 20

	frameData   = 1
	frameCommit = 2
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// frameHeader stands before every piece of the journal. Salt is drawn at random
// each time a segment starts again from its beginning, so that neither frames
// left over from an earlier use nor bytes sent by a peer are taken for frames.
type frameHeader struct {
	Type    byte
	Salt    uint64
	Record  uint32 // counts the records begun in a segment, also those given up
	Index   uint32 // counts the frames of a record
	Length  uint32 // of the payload
	Payload uint32 // CRC-32C of the payload
}

// put writes the header into b, which must hold frameHeaderSize bytes.
func (h frameHeader) put(b []byte) {
	copy(b, frameMagic)
	b[4], b[5], b[6], b[7] = h.Type, 0, 0, 0
	binary.LittleEndian.PutUint64(b[8:], h.Salt)
	binary.LittleEndian.PutUint32(b[16:], h.Record)
	binary.LittleEndian.PutUint32(b[20:], h.Index)
	binary.LittleEndian.PutUint32(b[24:], h.Length)
	binary.LittleEndian.PutUint32(b[28:], h.Payload)
	clear(b[32:44])
	binary.LittleEndian.PutUint32(b[44:], crc32.Checksum(b[:44], castagnoli))
}

// parseFrameHeader reads a header and reports whether it is whole.
func parseFrameHeader(b []byte) (frameHeader, bool) {
	if len(b) < frameHeaderSize || string(b[:4]) != frameMagic ||
		binary.LittleEndian.Uint32(b[44:]) != crc32.Checksum(b[:44], castagnoli) {
		return frameHeader{}, false
	}
	h := frameHeader{
		Type:    b[4],
		Salt:    binary.LittleEndian.Uint64(b[8:]),
		Record:  binary.LittleEndian.Uint32(b[16:]),
		Index:   binary.LittleEndian.Uint32(b[20:]),
		Length:  binary.LittleEndian.Uint32(b[24:]),
		Payload: binary.LittleEndian.Uint32(b[28:]),
	}
	switch h.Type {
	case frameData:
		return h, h.Length > 0 && h.Length <= framePay
	case frameCommit:
		return h, h.Length <= maxCommit
	}
	return h, false
}

// span says where the data of a record lies in its segment.
type span struct {
	Off  int64 // of the first frame
	Size int64 // of the data, without frame headers
}

// commitOffset is where the commit frame of the record begins.
func (s span) commitOffset() int64 {
	frames := (s.Size + framePay - 1) / framePay
	return s.Off + s.Size + frames*frameHeaderSize
}

// readAt reads data of the record at off, without checking sums.
func (s span) readAt(r io.ReaderAt, p []byte, off int64) (int, error) {
	n := 0
	for len(p) > 0 {
		if off >= s.Size {
			return n, io.EOF
		}
		within := off % framePay
		part := min(int64(len(p)), framePay-within, s.Size-off)
		at := s.Off + off/framePay*frameSize + frameHeaderSize + within
		m, err := r.ReadAt(p[:part], at)
		n, off, p = n+m, off+int64(m), p[m:]
		if int64(m) < part {
			if err == nil || err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return n, err
		}
	}
	return n, nil
}

// checked copies the data of the record into dst frame by frame, and fails with
// ErrDamaged if a frame no longer matches its sum. It reads at most len(dst)
// bytes from off on, which must lie on a frame border, as must the end of what is
// read unless it is the end of the record.
func (s span) checked(r io.ReaderAt, dst []byte, off int64) error {
	var head [frameHeaderSize]byte
	for len(dst) > 0 {
		at := s.Off + off/framePay*frameSize
		if _, err := r.ReadAt(head[:], at); err != nil {
			return fmt.Errorf("read journal: %w", err)
		}
		h, ok := parseFrameHeader(head[:])
		want := min(framePay, s.Size-off)
		if !ok || int64(h.Length) != want || want > int64(len(dst)) {
			return fmt.Errorf("journal frame: %w", ErrDamaged)
		}
		if _, err := r.ReadAt(dst[:want], at+frameHeaderSize); err != nil {
			return fmt.Errorf("read journal: %w", err)
		}
		if crc32.Checksum(dst[:want], castagnoli) != h.Payload {
			return fmt.Errorf("journal frame: %w", ErrDamaged)
		}
		dst, off = dst[want:], off+want
	}
	return nil
}

// align rounds up to the border at which records begin.
func align(off int64) int64 { return (off + recordAlign - 1) &^ (recordAlign - 1) }

// found is a complete record met by scanJournal.
type found struct {
	span
	End    int64  // where the next record begins
	Commit []byte // payload of the commit frame
}

// scanJournal walks the chain of records from the beginning of a segment of the
// given size and calls visit for each complete one. It ends without error at the
// first thing that is not a frame of the chain: what follows was never
// acknowledged. Errors are those of r and of visit. It holds one frame in
// memory, whatever the bytes say.
func scanJournal(r io.ReaderAt, size int64, visit func(found) error) error {
	var (
		head [frameHeaderSize]byte
		buf  []byte
		salt uint64
		off  int64
	)
	for last := int64(-1); ; {
		rec := found{span: span{Off: off}}
		record := uint32(0)
		short := false // a frame that was not full must be the last
		for index := uint32(0); rec.Commit == nil; index++ {
			if off > size-frameHeaderSize {
				return nil
			}
			if err := readFull(r, head[:], off); err != nil {
				return err
			}
			h, ok := parseFrameHeader(head[:])
			if last < 0 && index == 0 {
				salt = h.Salt
			}
			if index == 0 {
				record = h.Record
			}
			if !ok || h.Salt != salt || h.Record != record || h.Index != index || int64(record) <= last ||
				int64(h.Length) > size-off-frameHeaderSize || (short && h.Type == frameData) {
				return nil
			}
			// Grown only by lengths that the file really holds.
			if int(h.Length) > cap(buf) {
				buf = make([]byte, max(int(h.Length), min(framePay, int(size))))
			}
			buf = buf[:h.Length]
			if err := readFull(r, buf, off+frameHeaderSize); err != nil {
				return err
			}
			if crc32.Checksum(buf, castagnoli) != h.Payload {
				return nil
			}
			off += frameHeaderSize + int64(h.Length)
			if h.Type == frameCommit {
				rec.Commit = append([]byte{}, buf...)
			} else {
				rec.Size += int64(h.Length)
				short = h.Length < framePay
			}
		}
		off = align(off)
		rec.End, last = off, int64(record)
		if err := visit(rec); err != nil {
			return err
		}
	}
}

// readFull reads exactly len(b) bytes; the caller has checked that they exist.
func readFull(r io.ReaderAt, b []byte, off int64) error {
	n, err := r.ReadAt(b, off)
	if n == len(b) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("read journal: %w", err)
}
