package dataset

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"os"

	"github.com/grailbio/go-dicom/dicomtag"
)

// File is one Part 10 file (PS3.10 7).
type File struct {
	TransferSyntaxUID string
	Meta              Header // the file meta information
	Header            Header // the wanted elements of the data set
	PixelData         PixelData
	DataSetOffset     int64 // of the data set's first byte in the file
}

// PixelData is the value of Pixel Data (7FE0,0010), undecoded: either Native or
// Fragments is set, or neither if there is none.
type PixelData struct {
	VR          string   // OB or OW
	Native      []byte   // little endian in every transfer syntax
	Fragments   [][]byte // without the basic offset table
	OffsetTable []uint32 // the basic offset table (PS3.5 A.4), often empty
}

const (
	preambleSize = 128
	prefix       = "DICM"
	// maxMetaBytes bounds the file meta information; a real one has 200 bytes.
	maxMetaBytes = 1 << 20
	// identityBuffer is what is read at once where only the first elements count.
	identityBuffer = 4 << 10
	// maxInflatedPixels bounds pixel data whose size no file size bounds.
	maxInflatedPixels = 1 << 30
)

// metaTags are the elements of File.Meta.
var metaTags = []Tag{
	dicomtag.MediaStorageSOPClassUID,
	dicomtag.MediaStorageSOPInstanceUID,
	dicomtag.TransferSyntaxUID,
	dicomtag.ImplementationClassUID,
	dicomtag.ImplementationVersionName,
	dicomtag.SourceApplicationEntityTitle,
}

// ReadFile reads the Part 10 file name to its end: the elements in want and the pixel
// data, inflated if the data set is deflated. Its memory is bounded by the size of the
// file. It returns an error that is ErrNotDICOM if the file is none, and an *Error if
// it is damaged.
func ReadFile(name string, want []Tag) (*File, error) {
	return readFile(name, want, true)
}

// ReadHeader is ReadFile without the pixel data, which are walked but not kept.
func ReadHeader(name string, want []Tag) (*File, error) {
	return readFile(name, want, false)
}

// ReadIdentity reads a Part 10 file as far as its SOP Class UID and SOP Instance UID,
// which in a sorted data set is not far (PS3.5 7.1). What follows is not looked at.
func ReadIdentity(name string) (*File, error) {
	in, err := openRegular(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }() // only read from
	f, err := readIdentity(in)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

func readIdentity(r io.Reader) (*File, error) {
	in := bufio.NewReaderSize(r, identityBuffer)
	f, err := readMeta(in)
	if err != nil {
		return nil, err
	}
	s := scanner{lim: DefaultLimits, until: []Tag{dicomtag.SOPClassUID, dicomtag.SOPInstanceUID}}
	s.header = newHeader(s.until)
	if err := s.run(in, f.TransferSyntaxUID); err != nil {
		return nil, err
	}
	f.Header = s.header
	return f, nil
}

// ReadHeaderFrom is ReadHeader for a Part 10 stream, which it reads to its end.
func ReadHeaderFrom(r io.Reader, want []Tag) (*File, error) {
	return read(r, 0, want, false)
}

// ReadFrom is ReadFile for a Part 10 stream of at most size bytes.
func ReadFrom(r io.Reader, size int64, want []Tag) (*File, error) {
	return read(io.LimitReader(r, size), size, want, true)
}

// ReadMeta reads preamble and file meta information only: the File has Meta,
// TransferSyntaxUID and DataSetOffset. It reads more of r than that.
func ReadMeta(r io.Reader) (*File, error) {
	return readMeta(bufio.NewReaderSize(r, readBufferSize))
}

// openRegular opens a file for reading. A pipe would block in Open, a device has no
// end.
func openRegular(name string) (*os.File, error) {
	info, err := os.Stat(name)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%w: %s is not a regular file", ErrNotDICOM, name)
	}
	return os.Open(name)
}

func readFile(name string, want []Tag, pixels bool) (*File, error) {
	in, err := openRegular(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = in.Close() }() // only read from
	info, err := in.Stat()
	if err != nil {
		return nil, err
	}
	f, err := read(in, info.Size(), want, pixels)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// read reads a Part 10 stream that is expected to have size bytes.
func read(r io.Reader, size int64, want []Tag, pixels bool) (*File, error) {
	in := bufio.NewReaderSize(r, readBufferSize)
	f, err := readMeta(in)
	if err != nil {
		return nil, err
	}
	s := scanner{lim: DefaultLimits, header: newHeader(want)}
	if pixels {
		s.pixels = &pixelReader{out: &f.PixelData, hint: size - f.DataSetOffset, max: size}
		if syntaxOf(f.TransferSyntaxUID).Deflated {
			s.pixels.hint, s.pixels.max = growStep, maxInflatedPixels
		}
	}
	if err := s.run(in, f.TransferSyntaxUID); err != nil {
		return nil, err
	}
	f.Header = s.header
	return f, nil
}

// readMeta reads preamble, prefix and file meta information, and leaves r at the data
// set. Files without a preamble exist; they are read if they begin with file meta
// information.
func readMeta(r *bufio.Reader) (*File, error) {
	head, err := r.Peek(preambleSize + len(prefix))
	if err != nil && err != io.EOF {
		return nil, err
	}
	f := &File{Meta: newHeader(metaTags)}
	switch {
	case len(head) == preambleSize+len(prefix) && string(head[preambleSize:]) == prefix:
		_, _ = r.Discard(len(head)) // cannot fail: it was peeked at
		f.DataSetOffset = int64(len(head))
	case len(head) >= 8 && head[0] == 2 && head[1] == 0 && head[3] == 0 && makeVR(head[4], head[5]).known():
	case len(head) >= 8 && head[0] == 8 && head[1] == 0 && head[3] == 0:
		return nil, fmt.Errorf("%w file: it looks like a bare data set without file meta information, which names the transfer syntax; make a Part 10 file of it first (DCMTK: dcmconv)", ErrNotDICOM)
	default:
		return nil, fmt.Errorf("%w: it has no DICM prefix", ErrNotDICOM)
	}
	if err := readMetaElements(r, f); err != nil {
		return nil, err
	}
	f.TransferSyntaxUID = f.Meta.String(dicomtag.TransferSyntaxUID)
	if !ValidUID(f.TransferSyntaxUID) {
		return nil, &Error{Tag: dicomtag.TransferSyntaxUID, Offset: f.DataSetOffset, Problem: "the file meta information names no transfer syntax"}
	}
	return f, nil
}

func (v vr) known() bool { return v.short() || v.long() }

// readMetaElements reads group 2, always Explicit VR Little Endian (PS3.10 7.1). Where
// it ends is seen from the next group: its group length is wrong in some files.
func readMetaElements(r *bufio.Reader, f *File) error {
	start := f.DataSetOffset
	for {
		head, err := r.Peek(12)
		if err != nil && err != io.EOF {
			return err
		}
		if len(head) < 8 || binary.LittleEndian.Uint16(head) != dicomtag.MetadataGroup {
			return nil
		}
		e := element{
			tag:    Tag{Group: dicomtag.MetadataGroup, Element: binary.LittleEndian.Uint16(head[2:])},
			vr:     makeVR(head[4], head[5]),
			offset: f.DataSetOffset,
		}
		size := 8
		e.length = uint32(binary.LittleEndian.Uint16(head[6:]))
		if e.vr.long() {
			size = 12
			if len(head) < size {
				return &Error{Tag: e.tag, Offset: e.offset, Problem: "the file ends inside the header of this element"}
			}
			e.length = binary.LittleEndian.Uint32(head[8:])
		}
		switch {
		case !e.vr.known() || e.vr == vrSQ:
			return &Error{Tag: e.tag, Offset: e.offset, Problem: "it has no valid value representation for file meta information"}
		case e.offset+int64(size)+int64(e.length) > start+maxMetaBytes:
			return &Error{Tag: e.tag, Offset: e.offset, Problem: "the file meta information is implausibly long"}
		}
		_, _ = r.Discard(size) // cannot fail: it was peeked at
		f.DataSetOffset += int64(size)
		s := scanner{in: r, offset: f.DataSetOffset}
		if !f.Meta.wants(e.tag) || int64(e.length) > DefaultLimits.MaxElementBytes {
			if err := s.skip(e, int64(e.length)); err != nil {
				return err
			}
		} else {
			value, err := s.read(e, int64(e.length))
			if err != nil {
				return err
			}
			f.Meta.keep(e.tag, e.vr, value)
		}
		f.DataSetOffset = s.offset
	}
}

// pixelReader keeps the first top-level pixel data that a scanner meets.
type pixelReader struct {
	out   *PixelData
	found bool
	hint  int64 // bytes that are known to be at hand: what may be allocated at once
	max   int64 // bytes that are kept at most
	kept  int64
}

// start reports whether e is the pixel data to keep.
func (p *pixelReader) start(e element) bool {
	if p.found {
		return false
	}
	p.found = true
	p.out.VR = e.vr.String()
	return true
}

func (p *pixelReader) native(s *scanner, f *frame, e element) error {
	if !p.start(e) {
		return s.skip(e, int64(e.length))
	}
	value, err := p.read(s, e, int64(e.length))
	if err != nil {
		return err
	}
	if f.bigEndian {
		swapWords(value, e.vr.word())
	}
	p.out.Native = value
	return nil
}

func (p *pixelReader) fragment(s *scanner, e element, n int, length int64) error {
	value, err := p.read(s, e, length)
	if err != nil {
		return err
	}
	if n > 0 {
		p.out.Fragments = append(p.out.Fragments, value)
		return nil
	}
	for ; len(value) >= 4; value = value[4:] {
		p.out.OffsetTable = append(p.out.OffsetTable, binary.LittleEndian.Uint32(value))
	}
	return nil
}

func (p *pixelReader) read(s *scanner, e element, n int64) ([]byte, error) {
	if p.kept+n > p.max {
		problem := "its length reaches beyond the end of the file"
		if p.max == maxInflatedPixels { // where that is, only inflating tells
			problem = "its pixel data are said to be larger than 4 GiB, which cannot be held in memory"
		}
		return nil, &Error{Tag: e.tag, Offset: e.offset, Problem: problem}
	}
	p.kept += n
	return s.readHint(e, n, p.hint)
}

// AppendFileMeta appends to dst what stands before the data set in a Part 10 file: a
// preamble of zeros (whatever a sender's preamble may have held, CVE-2019-11687), the
// prefix and the file meta information (PS3.10 7.1).
func AppendFileMeta(dst []byte, transferSyntaxUID, sopClassUID, sopInstanceUID string) []byte {
	dst = append(dst, make([]byte, preambleSize)...)
	dst = append(dst, prefix...)
	dst = append(dst, 0x02, 0, 0, 0, 'U', 'L', 4, 0)
	lengthAt := len(dst)
	dst = append(dst, 0, 0, 0, 0)
	dst = append(dst, 0x02, 0, 0x01, 0, 'O', 'B', 0, 0, 2, 0, 0, 0, 0, 1)
	dst = appendMetaText(dst, 0x02, vrUI, sopClassUID)
	dst = appendMetaText(dst, 0x03, vrUI, sopInstanceUID)
	dst = appendMetaText(dst, 0x10, vrUI, transferSyntaxUID)
	dst = appendMetaText(dst, 0x12, vrUI, ImplementationClassUID)
	dst = appendMetaText(dst, 0x13, vrSH, ImplementationVersionName)
	binary.LittleEndian.PutUint32(dst[lengthAt:], uint32(len(dst)-lengthAt-4))
	return dst
}

// maxShortLength is the longest even value that a 16-bit length holds.
const maxShortLength = 0xFFFE

func appendMetaText(dst []byte, number byte, v vr, s string) []byte {
	s = s[:min(len(s), maxShortLength)]
	size := len(s) + len(s)%2
	dst = append(dst, 0x02, 0, number, 0, byte(v>>8), byte(v), byte(size), byte(size>>8))
	dst = append(dst, s...)
	if len(s)%2 == 1 {
		dst = append(dst, pad(v))
	}
	return dst
}

// pad is the byte that makes a value of v even (PS3.5 6.2): a space after text, but a
// NUL after a UID and after bytes.
func pad(v vr) byte {
	if v.text() && v != vrUI {
		return ' '
	}
	return 0
}
