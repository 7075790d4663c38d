package dataset

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	dicom "github.com/grailbio/go-dicom"
	"github.com/grailbio/go-dicom/dicomio"
)

// Decode reads the Part 10 file r of size bytes and decodes every element of its data
// set with go-dicom. It takes about twenty times size in memory: it is for reports and
// other small objects. Text stays in the characters of the file, so that elements can
// be written again. File meta information is not among the elements.
//
// It refuses what go-dicom would read wrongly (odd lengths, VRs that it does not know,
// sequences hidden in UN), which Scan tolerates.
func Decode(r io.Reader, size int64) (elements []*Element, err error) {
	in := bufio.NewReaderSize(io.LimitReader(r, size), readBufferSize)
	f, err := readMeta(in)
	if err != nil {
		return nil, err
	}
	ts := syntaxOf(f.TransferSyntaxUID)
	var body io.Reader = in
	limit := size
	if ts.Deflated {
		inflated := newInflater(in, DefaultLimits)
		defer inflated.close()
		body, limit = inflated, DefaultLimits.MaxInflateFree
		ts.Deflated = false
	}
	data, err := io.ReadAll(io.LimitReader(body, limit+1))
	if err != nil {
		if broken, ok := err.(inflateError); ok {
			return nil, &Error{Problem: string(broken)}
		}
		return nil, err
	}
	if int64(len(data)) > limit {
		return nil, &Error{Problem: "its deflated form inflates out of proportion"}
	}
	// The library recurses and trusts lengths: nothing reaches it that was not walked.
	s := scanner{lim: DefaultLimits, header: newHeader(nil), visit: misread}
	if err := s.run(bytes.NewReader(data), plainSyntax(ts)); err != nil {
		return nil, err
	}
	return decodeWalked(data[:s.end], ts)
}

// plainSyntax names an undeflated transfer syntax that is read like ts.
func plainSyntax(ts TransferSyntax) string {
	switch {
	case ts.ImplicitVR:
		return ImplicitVRLittleEndian
	case ts.BigEndian:
		return ExplicitVRBigEndian
	}
	return ExplicitVRLittleEndian
}

// misread refuses an element that go-dicom would read wrongly.
func misread(e element) error {
	problem := ""
	switch {
	case e.length != undefinedLength && e.length%2 == 1:
		problem = "its length is odd"
	case !e.implicit && e.vr == vrUN && e.length == undefinedLength:
		problem = "it hides a sequence in VR UN"
	case e.vr == vrOV || e.vr == vrSV || e.vr == vrUV || !e.vr.known():
		problem = "its value representation is too new"
	case !e.implicit && e.vr.short() && e.length == 0xFFFF:
		problem = "its length is odd"
	default:
		return nil
	}
	return &Error{Tag: e.tag, Offset: e.offset, Problem: problem + ", so this program cannot decode the data set in full"}
}

// decodeWalked lets go-dicom decode data, which Scan has walked. The library's own
// ReadDataSet is not used: it turns text into UTF-8 but leaves the character set that
// the text then no longer has.
func decodeWalked(data []byte, ts TransferSyntax) (elements []*Element, err error) {
	defer func() {
		if r := recover(); r != nil {
			elements, err = nil, errors.New("go-dicom cannot decode this data set")
		}
	}()
	var order binary.ByteOrder = binary.LittleEndian
	if ts.BigEndian {
		order = binary.BigEndian
	}
	implicit := dicomio.ExplicitVR
	if ts.ImplicitVR {
		implicit = dicomio.ImplicitVR
	}
	d := dicomio.NewBytesDecoder(data, order, implicit)
	for !d.EOF() {
		e := dicom.ReadElement(d, dicom.ReadOptions{})
		if d.Error() != nil {
			return nil, fmt.Errorf("go-dicom cannot decode this data set: %w", d.Error())
		}
		elements = append(elements, e)
	}
	if d.Error() != nil {
		return nil, fmt.Errorf("go-dicom cannot decode this data set: %w", d.Error())
	}
	return elements, nil
}
