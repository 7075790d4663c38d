package pdu

import (
	"bytes"
	"reflect"
	"testing"
)

// fuzzAllowance is what decoding may allocate for each byte of input: the
// tightest packing is a proposed transfer syntax of one byte, five bytes on the
// wire and a string header and its slot in a growing slice here. The constant
// part covers the reader's first buffer.
const (
	fuzzAllowance = 64
	fuzzConstant  = 64 << 10
)

// FuzzDecode holds every stream to these properties: an error or a PDU, never
// both; what was decoded encodes, and decodes again to the same; the memory
// follows the bytes received.
func FuzzDecode(f *testing.F) {
	var all []byte
	for _, b := range allFixtures {
		f.Add(b)
		all = append(all, b...)
	}
	f.Add(all)
	f.Add([]byte("GET / HTTP/1.1\r\nHost: hilum\r\n\r\n"))
	f.Add([]byte{1, 0, 0, 0x10, 0, 0, 0, 1})
	f.Add([]byte{4, 0, 0, 0, 0, 6, 0xff, 0xff, 0xff, 0xfe, 1, 3})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > 1<<20 {
			t.Skip("the properties do not depend on the size")
		}
		var pdus []PDU
		allocated := measure(func() {
			r := NewReader(bytes.NewReader(in), 1<<16)
			for {
				p, err := r.Next()
				if (p == nil) == (err == nil) {
					t.Fatalf("Next() = %v, %v, want a PDU or an error", p, err)
				}
				if err != nil {
					return
				}
				if d, ok := p.(*Data); ok {
					for _, ok := d.Next(); ok; _, ok = d.Next() {
						continue // only to walk over every PDV
					}
					continue
				}
				pdus = append(pdus, p)
			}
		})
		if limit := uint64(fuzzAllowance*len(in) + fuzzConstant); allocated > limit {
			t.Errorf("%d bytes allocated for %d received, want at most %d", allocated, len(in), limit)
		}
		for _, p := range pdus {
			roundTrip(t, p, len(in))
		}
		if p, err := Decode(in); err == nil {
			roundTrip(t, p, len(in))
		}
	})
}

func roundTrip(t *testing.T, p PDU, size int) {
	t.Helper()
	b, err := p.Append(nil)
	if err != nil && size > 1<<15 {
		return // several user information items became one, which is too long
	}
	if err != nil {
		t.Fatalf("Append() of a decoded %s = %v, want no error", p.Type(), err)
	}
	again, err := Decode(b)
	if err != nil {
		t.Fatalf("Decode() of an encoded %s = %v, want no error", p.Type(), err)
	}
	if !reflect.DeepEqual(again, p) {
		t.Fatalf("round trip of %s:\n%+v\nbecame\n%+v", p.Type(), p, again)
	}
}
