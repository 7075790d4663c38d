package pdu

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"
)

func aeTitle(t *testing.T, s string) AETitle {
	t.Helper()
	title, err := NewAETitle(s)
	if err != nil {
		t.Fatal(err)
	}
	return title
}

const (
	dcmtkUID         = "1.2.276.0.7230010.3.0.3.6.7"
	ctImage          = "1.2.840.10008.5.1.4.1.1.2"
	implicitLE       = "1.2.840.10008.1.2"
	explicitLE       = "1.2.840.10008.1.2.1"
	explicitBE       = "1.2.840.10008.1.2.2"
	deflated         = "1.2.840.10008.1.2.1.99"
	dcmtkVersionName = "OFFIS_DCMTK_367"
)

func TestDecodeAssociate(t *testing.T) {
	four := []string{implicitLE, explicitLE, deflated, explicitBE}
	tests := []struct {
		name string
		in   []byte
		want PDU
	}{
		{"dcmtk echo", dcmtkEcho, &AssociateRQ{
			ProtocolVersion: 1, CalledAETitle: aeTitle(t, "HILUM"), CallingAETitle: aeTitle(t, "ECHOSCU"),
			ApplicationContext: ApplicationContextName,
			Contexts:           []PresentationContextRQ{{1, "1.2.840.10008.1.1", []string{implicitLE}}},
			User:               UserInformation{MaxLength: 16384, ImplementationClassUID: dcmtkUID, ImplementationVersionName: dcmtkVersionName},
		}},
		{"dcmtk store", dcmtkStore, &AssociateRQ{
			ProtocolVersion: 1, CalledAETitle: aeTitle(t, "ANY-SCP"), CallingAETitle: aeTitle(t, "STORESCU"),
			ApplicationContext: ApplicationContextName,
			Contexts:           []PresentationContextRQ{{1, ctImage, []string{explicitLE}}, {3, ctImage, []string{explicitBE, implicitLE}}},
			User:               UserInformation{MaxLength: 16384, ImplementationClassUID: dcmtkUID, ImplementationVersionName: dcmtkVersionName},
		}},
		{"pynetdicom", pynetdicomAll, &AssociateRQ{
			ProtocolVersion: 1, CalledAETitle: aeTitle(t, "HILUM"), CallingAETitle: aeTitle(t, "PYNETDICOM"),
			ApplicationContext: ApplicationContextName,
			Contexts:           []PresentationContextRQ{{1, "1.2.840.10008.1.1", four}, {3, ctImage, four}},
			User: UserInformation{
				MaxLength: 16382, ImplementationClassUID: "1.2.826.0.1.3680043.9.3811.3.0.4", ImplementationVersionName: "PYNETDICOM_304",
				AsyncOperations:  &AsyncOperations{5, 5},
				Roles:            []RoleSelection{{ctImage, true, true}},
				SOPClassExtended: []SOPClassExtended{{ctImage, []byte{2, 0, 3, 0, 1, 0}}},
				SOPClassCommonExtended: []SOPClassCommonExtended{{0, "1.2.840.10008.5.1.4.1.1.88.40", "1.2.840.10008.4.2",
					[]string{"1.2.840.10008.5.1.4.1.1.88.22"}}},
				UserIdentity: &UserIdentity{2, true, []byte("user"), []byte("pass")},
			},
		}},
		{"dcmtk accept", dcmtkAccept, &AssociateAC{
			ProtocolVersion: 1, CalledAETitle: aeTitle(t, "HILUM"), CallingAETitle: aeTitle(t, "STORESCU"),
			ApplicationContext: ApplicationContextName,
			Contexts:           []PresentationContextAC{{1, ContextAccepted, explicitLE}, {3, ContextTransfersNotSupported, implicitLE}},
			User: UserInformation{MaxLength: 16384, ImplementationClassUID: dcmtkUID, ImplementationVersionName: dcmtkVersionName,
				UserIdentityResponse: &UserIdentityResponse{[]byte{}}},
		}},
		{"reject", rejectLimit, &AssociateRJ{RejectedTransient, RejectSourcePresentation, RejectLimitExceeded}},
		{"release request", releaseRequest, &ReleaseRQ{}},
		{"release reply", releaseReply, &ReleaseRP{}},
		{"abort", abortPDU, &Abort{AbortSourceProvider, ReasonInvalidParameter}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Decode(tt.in)
			if err != nil {
				t.Fatalf("Decode() = %v, want no error", err)
			}
			if !reflect.DeepEqual(got, tt.want) {
				t.Fatalf("Decode() =\n%+v\nwant\n%+v", got, tt.want)
			}
		})
	}
}

// TestEncodeEqualsCapture holds the encoder against bytes that others made.
// DCMTK fills a reserved byte of its contexts with FFH; that one differs.
func TestEncodeEqualsCapture(t *testing.T) {
	for i, in := range allFixtures {
		p, err := Decode(in)
		if err != nil {
			t.Fatal(err)
		}
		got, err := p.Append([]byte("before"))
		if err != nil {
			t.Fatal(err)
		}
		got = got[len("before"):]
		if reflect.DeepEqual(in, pynetdicomAll) { // the order of its sub-items is its own
			if len(got) != len(in) {
				t.Errorf("fixture %d: %d bytes, want %d", i, len(got), len(in))
			}
			continue
		}
		want := bytes.ReplaceAll(in, []byte{0x00, 0xff, 0x00}, []byte{0, 0, 0})
		if !bytes.Equal(got, want) {
			t.Errorf("fixture %d: Append() =\n%x\nwant\n%x", i, got, want)
		}
	}
}

func TestDataNext(t *testing.T) {
	p, err := Decode(manyPDVs)
	if err != nil {
		t.Fatal(err)
	}
	want := []PDV{
		{1, true, false, []byte{0xaa, 0xbb}},
		{1, true, true, []byte{}},
		{1, false, true, []byte{1, 2, 3, 4}},
	}
	for i, w := range want {
		if got, ok := p.(*Data).Next(); !ok || !reflect.DeepEqual(got, w) {
			t.Errorf("Next() %d = %v, %v, want %v", i, got, ok, w)
		}
	}
	if v, ok := p.(*Data).Next(); ok {
		t.Errorf("Next() = %v, want the end", v)
	}
}

// with returns a copy of b with some bytes changed.
func with(b []byte, at int, to ...byte) []byte {
	c := bytes.Clone(b)
	copy(c[at:], to)
	return c
}

// item encodes an item or sub-item.
func item(kind byte, value ...byte) []byte {
	return append([]byte{kind, 0, byte(len(value) >> 8), byte(len(value))}, value...)
}

// request is an A-ASSOCIATE-RQ of the given variable items.
func request(items ...[]byte) []byte {
	b := bytes.Clone(dcmtkEcho[:74])
	for _, i := range items {
		b = append(b, i...)
	}
	binary.BigEndian.PutUint32(b[2:], uint32(len(b)-HeaderLength))
	return b
}

func TestDecodeInvalid(t *testing.T) {
	pc := func(id byte) []byte { return item(0x20, append([]byte{id, 0, 0, 0}, item(0x30, '1')...)...) }
	tests := []struct {
		name   string
		in     []byte
		reason AbortReason
	}{
		{"empty", nil, ReasonInvalidParameter},
		{"http", []byte("GET / HTTP/1.1\r\n\r\n"), ReasonUnrecognizedPDU},
		{"type 0", []byte{0, 0, 0, 0, 0, 4, 0, 0, 0, 0}, ReasonUnrecognizedPDU},
		{"type 8", []byte{8, 0, 0, 0, 0, 4, 0, 0, 0, 0}, ReasonUnrecognizedPDU},
		{"length beyond the bytes", with(dcmtkEcho, 2, 0xff, 0xff, 0xff, 0xff), ReasonInvalidParameter},
		{"release of 5 bytes", []byte{5, 0, 0, 0, 0, 5, 0, 0, 0, 0, 0}, ReasonInvalidParameter},
		{"release of 0 bytes", []byte{5, 0, 0, 0, 0, 0}, ReasonInvalidParameter},
		{"fixed fields cut", []byte{1, 0, 0, 0, 0, 3, 0, 1, 0}, ReasonInvalidParameter},
		{"item header cut", request([]byte{0x10, 0, 0}), ReasonInvalidParameter},
		{"item longer than the PDU", request([]byte{0x10, 0, 0xff, 0xfe, '1'}), ReasonInvalidParameter},
		{"unknown item longer than the PDU", request([]byte{0x99, 0, 0xff, 0xfe}), ReasonInvalidParameter}, // DCMTK: wrapped 16 bits
		{"context cut", request(item(0x20, 1, 0)), ReasonInvalidParameter},
		{"context id even", request(pc(2)), ReasonInvalidParameter},
		{"context id 0", request(pc(0)), ReasonInvalidParameter},
		{"context id twice", request(pc(1), pc(1)), ReasonInvalidParameter},
		{"sub-item longer than its context", request(item(0x20, 1, 0, 0, 0, 0x30, 0, 0, 9, '1')), ReasonInvalidParameter},
		{"maximum length of 2 bytes", request(item(0x50, item(0x51, 0, 1)...)), ReasonInvalidParameter},
		{"async window of 3 bytes", request(item(0x50, item(0x53, 0, 1, 0)...)), ReasonInvalidParameter},
		{"role UID beyond its item", request(item(0x50, item(0x54, 0, 200, '1', 1, 1)...)), ReasonInvalidParameter},
		{"role without roles", request(item(0x50, item(0x54, 0, 1, '1')...)), ReasonInvalidParameter},
		{"extended UID beyond its item", request(item(0x50, item(0x56, 0, 9, '1')...)), ReasonInvalidParameter},
		{"common extended list beyond its item", request(item(0x50, item(0x57, 0, 1, '1', 0, 1, '2', 0, 9, 0)...)), ReasonInvalidParameter},
		{"common extended UID beyond the list", request(item(0x50, item(0x57, 0, 1, '1', 0, 1, '2', 0, 3, 0, 9, '3')...)), ReasonInvalidParameter},
		{"user identity cut", request(item(0x50, item(0x58, 2, 0, 0, 4, 'u')...)), ReasonInvalidParameter},
		{"257 transfer syntaxes", request(item(0x20, append([]byte{1, 0, 0, 0}, bytes.Repeat(item(0x40, '1'), 257)...)...)), ReasonInvalidParameter},
		{"data without PDV", []byte{4, 0, 0, 0, 0, 0}, ReasonInvalidParameter}, // dicom-rs #768
		{"PDV length 0", []byte{4, 0, 0, 0, 0, 6, 0, 0, 0, 0, 1, 3}, ReasonInvalidParameter},
		{"PDV length 1", []byte{4, 0, 0, 0, 0, 6, 0, 0, 0, 1, 1, 3}, ReasonInvalidParameter},
		{"PDV longer than the PDU", []byte{4, 0, 0, 0, 0, 6, 0, 0, 0, 3, 1, 3}, ReasonInvalidParameter},
		{"PDV of 4 GiB", []byte{4, 0, 0, 0, 0, 6, 0xff, 0xff, 0xff, 0xfe, 1, 3}, ReasonInvalidParameter}, // DCMTK: wrapped
		{"bytes behind the PDV", []byte{4, 0, 0, 0, 0, 8, 0, 0, 0, 2, 1, 3, 0, 0}, ReasonInvalidParameter},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Decode(tt.in)
			var invalid *Error
			if !errors.As(err, &invalid) || p != nil {
				t.Fatalf("Decode() = %v, %v, want an *Error and no PDU", p, err)
			}
			if invalid.Reason != tt.reason {
				t.Errorf("Decode() reason = %v, want %v", invalid.Reason, tt.reason)
			}
		})
	}
}

func TestUnknownItemsAreIgnored(t *testing.T) {
	in := request(item(0x99, 1, 2, 3), item(0x50, item(0x5a, 1, 2)...), item(0x10, []byte(ApplicationContextName+"\x00 ")...))
	p, err := Decode(in)
	if err != nil {
		t.Fatal(err)
	}
	if got := p.(*AssociateRQ).ApplicationContext; got != ApplicationContextName {
		t.Errorf("ApplicationContext = %q, want it without padding", got)
	}
}

func TestAETitle(t *testing.T) {
	tests := []struct {
		in   string
		want string
		ok   bool
	}{
		{"HILUM", "HILUM", true},
		{"  HILUM  ", "HILUM", true},
		{"SIXTEEN_LETTERS_", "SIXTEEN_LETTERS_", true},
		{"TWO WORDS", "TWO WORDS", true},
		{"SEVENTEEN_LETTERS", "", false},
		{"", "", false},
		{"   ", "", false},
		{`BACK\SLASH`, "", false},
		{"TAB\t", "", false},
		{"UMLÄUT", "", false},
	}
	for _, tt := range tests {
		got, err := NewAETitle(tt.in)
		if (err == nil) != tt.ok || tt.ok && got.String() != tt.want {
			t.Errorf("NewAETitle(%q) = %q, %v, want %q, ok %v", tt.in, got.String(), err, tt.want, tt.ok)
		}
		if err != nil && !errors.Is(err, ErrAETitle) {
			t.Errorf("NewAETitle(%q) = %v, want ErrAETitle", tt.in, err)
		}
	}
	if got := (AETitle{'A', 'E'}).String(); got != "AE" {
		t.Errorf("a title padded with NULs = %q, want AE", got)
	}
}

func TestEncodeTooLong(t *testing.T) {
	many := &AssociateRQ{Contexts: make([]PresentationContextRQ, 129)}
	long := &AssociateRQ{ApplicationContext: strings.Repeat("1", 70000)}
	for _, p := range []PDU{many, long, NewData()} {
		if b, err := p.Append(nil); err == nil {
			t.Errorf("Append() = %d bytes, want an error", len(b))
		}
	}
}

func TestReader(t *testing.T) {
	var stream []byte
	for _, f := range allFixtures {
		stream = append(stream, f...)
	}
	wrappers := map[string]func(io.Reader) io.Reader{
		"whole":          func(r io.Reader) io.Reader { return r },
		"byte by byte":   iotest.OneByteReader,
		"halves":         iotest.HalfReader,
		"error with end": iotest.DataErrReader,
	}
	for name, wrap := range wrappers {
		t.Run(name, func(t *testing.T) {
			r := NewReader(wrap(bytes.NewReader(stream)), 16384)
			for i, f := range allFixtures {
				got, err := r.Next()
				if err != nil {
					t.Fatalf("Next() %d = %v, want no error", i, err)
				}
				want, _ := Decode(f)
				gotBytes, _ := got.Append(nil)
				wantBytes, _ := want.Append(nil)
				if !bytes.Equal(gotBytes, wantBytes) {
					t.Fatalf("Next() %d = %x, want %x", i, gotBytes, wantBytes)
				}
			}
			if _, err := r.Next(); err != io.EOF {
				t.Fatalf("Next() = %v, want io.EOF", err)
			}
		})
	}
}

func TestReaderRefuses(t *testing.T) {
	tests := []struct {
		name string
		in   []byte
		want error // nil: an *Error
	}{
		{"one byte of another protocol", []byte("G"), nil},
		{"request over 1 MiB", []byte{1, 0, 0, 0x10, 0, 1}, nil},
		{"accept over 1 MiB", []byte{2, 0, 0xff, 0xff, 0xff, 0xff}, nil},
		{"data over the maximum and slack", []byte{4, 0, 0, 0, 0x50, 1}, nil},
		{"abort of 4 GiB", []byte{7, 0, 0xff, 0xff, 0xff, 0xff}, nil},
		{"header cut", []byte{5, 0, 0, 0}, io.ErrUnexpectedEOF},
		{"body cut", dcmtkEcho[:100], io.ErrUnexpectedEOF},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r := NewReader(bytes.NewReader(tt.in), 16384)
			for range 2 { // the error stays
				_, err := r.Next()
				var invalid *Error
				if tt.want == nil && !errors.As(err, &invalid) || tt.want != nil && err != tt.want {
					t.Fatalf("Next() = %v, want %v", err, tt.want)
				}
			}
		})
	}
}

// TestReaderSlack takes a P-DATA-TF that is longer than agreed by DataSlack, as some
// peers count, and none that is longer.
func TestReaderSlack(t *testing.T) {
	const agreed = 16384
	for size, ok := range map[int]bool{agreed: true, agreed + DataSlack: true, agreed + DataSlack + 1: false} {
		b, err := NewData(PDV{ContextID: 1, Fragment: make([]byte, size-PDVHeaderLength)}).Append(nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := NewReader(bytes.NewReader(b), agreed).Next(); (err == nil) != ok {
			t.Errorf("Next() of a P-DATA-TF of %d bytes = %v, want it taken %v", size, err, ok)
		}
	}
}

// TestReaderGrowsWithBytes promises the largest PDUs and sends little.
func TestReaderGrowsWithBytes(t *testing.T) {
	for _, in := range [][]byte{
		append([]byte{1, 0, 0, 0x10, 0, 0}, make([]byte, 1000)...),
		append([]byte{4, 0, 0x10, 0, 0, 0}, make([]byte, 1000)...),
	} {
		allocated := measure(func() {
			if _, err := NewReader(bytes.NewReader(in), 1<<30).Next(); err != io.ErrUnexpectedEOF {
				t.Fatalf("Next() = %v, want io.ErrUnexpectedEOF", err)
			}
		})
		if allocated > 64<<10 {
			t.Errorf("Next() allocated %d bytes for %d received", allocated, len(in))
		}
	}
}

// TestReaderAllocatesNothing holds the receive path to its buffer.
func TestReaderAllocatesNothing(t *testing.T) {
	frame, err := NewData(PDV{ContextID: 1, Fragment: make([]byte, 16378)}).Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	r := NewReader(&repeat{b: frame}, 16384)
	if _, err := r.Next(); err != nil { // makes the buffer
		t.Fatal(err)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := r.Next(); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("Next() allocates %v times, want 0", n)
	}
}

// repeat is an endless stream of b.
type repeat struct {
	b  []byte
	at int
}

func (r *repeat) Read(p []byte) (int, error) {
	n := copy(p, r.b[r.at:])
	r.at = (r.at + n) % len(r.b)
	return n, nil
}

// measure returns the bytes allocated by f.
func measure(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func BenchmarkReader(b *testing.B) {
	frame, err := NewData(PDV{ContextID: 1, Fragment: make([]byte, 131066)}).Append(nil)
	if err != nil {
		b.Fatal(err)
	}
	r := NewReader(&repeat{b: frame}, 131072)
	b.SetBytes(int64(len(frame)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := r.Next(); err != nil {
			b.Fatal(err)
		}
	}
}
