package dimse

import (
	"cmp"
	"reflect"
	"runtime"
	"testing"

	"hilum/dimse/dataset"
)

// FuzzDecodeCommand holds decodeCommand to an error or a command, and its memory
// to the bytes given.
func FuzzDecodeCommand(f *testing.F) {
	w := newCommandWriter(commandStoreRQ, "1.2.840.10008.5.1.4.1.1.2")
	w.number(elementMessageID, 1)
	w.number(elementPriority, priorityMedium)
	w.number(elementDataSetType, dataSetFollows)
	w.uid(elementAffectedSOPInstance, "2.25.1")
	f.Add(w.bytes())
	rq := &command{field: optional{commandStoreRQ, true}, messageID: optional{1, true}, affectedSOPClass: "1.2", affectedSOPInstance: "1.3"}
	f.Add(response(rq, &StatusError{Status: 0xA900, Comment: "comment", OffendingElements: []dataset.Tag{{Group: 8, Element: 0x18}}}))
	f.Add([]byte{0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x30, 0})
	f.Add([]byte{0, 0, 0, 1, 2, 0, 0, 0, 0x30, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		if len(in) > maxCommandLength {
			t.Skip("such a command set is refused before it is decoded")
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c, err := decodeCommand(in)
		runtime.ReadMemStats(&after)
		if (c == nil) == (err == nil) {
			t.Fatalf("decodeCommand() = %v, %v, want a command or an error", c, err)
		}
		// An element has at least 8 bytes and may cost a slot in a growing map.
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(16*len(in)+64<<10); got > limit {
			t.Errorf("%d bytes allocated for %d, want at most %d", got, len(in), limit)
		}
		if err != nil {
			return
		}
		again, err := decodeCommand(response(c, &StatusError{Status: StatusSuccess}))
		if err != nil {
			t.Fatalf("the response does not decode: %v", err)
		}
		instance := cmp.Or(c.affectedSOPInstance, c.requestedSOPInstance) // PS3.7 10.1: a response affects what was requested
		if again.respondedTo.value != c.messageID.value || again.field.value != c.field.value|commandResponse || again.affectedSOPInstance != instance {
			t.Fatalf("response %+v does not answer %+v", again, c)
		}
	})
}

func TestFirstElementCounts(t *testing.T) {
	b := []byte{0, 0, 0, 1, 2, 0, 0, 0, 0x30, 0, 0, 0, 0, 1, 2, 0, 0, 0, 1, 0}
	c, err := decodeCommand(b)
	if err != nil || c.field.value != commandEchoRQ {
		t.Errorf("decodeCommand() = %+v, %v, want the first Command Field", c, err)
	}
}

func TestWireComment(t *testing.T) {
	if got, want := wireComment("M\u00fcller\\x\ty  "), "M?ller?x?y"; got != want {
		t.Errorf("wireComment() = %q, want %q", got, want)
	}
}

func TestFragmentSize(t *testing.T) {
	tests := []struct {
		peerMax uint32
		want    int // 0: an error
	}{
		{0, unlimitedPDU - 6}, {1, 0}, {7, 0}, {8, 2}, {9, 2}, {10, 4}, {16384, 16378}, {16385, 16378},
		{131072, 131066}, {maxSendPDU, maxSendPDU - 6}, {0xffffffff, maxSendPDU - 6},
	}
	for _, tt := range tests {
		got, err := fragmentSize(tt.peerMax)
		if got != tt.want || (err != nil) != (tt.want == 0) {
			t.Errorf("fragmentSize(%d) = %d, %v, want %d", tt.peerMax, got, err, tt.want)
		}
	}
}

func TestValidUID(t *testing.T) {
	tests := map[string]bool{
		"1.2.840": true, "0": true, "1.02": true, "": false, ".": false, "..": false, "../x": false, "1.2.a": false, "1 2": false,
		"1234567890123456789012345678901234567890123456789012345678901234":  true,
		"12345678901234567890123456789012345678901234567890123456789012345": false,
	}
	for in, want := range tests {
		if got := validUID(in); got != want {
			t.Errorf("validUID(%q) = %v, want %v", in, got, want)
		}
	}
}

func TestStatusKinds(t *testing.T) {
	tests := []struct {
		s                Status
		warning, failure bool
	}{
		{0x0000, false, false}, {0x0001, true, false}, {0x0107, true, false}, {0x0116, true, false}, {0xB000, true, false}, {0xBFFF, true, false},
		{0x0110, false, true}, {0xA700, false, true}, {0xA900, false, true}, {0xC000, false, true}, {0xFE00, false, true},
	}
	for _, tt := range tests {
		if got := []bool{tt.s.Warning(), tt.s.Failure()}; !reflect.DeepEqual(got, []bool{tt.warning, tt.failure}) {
			t.Errorf("%v warning, failure = %v, want %v, %v", tt.s, got, tt.warning, tt.failure)
		}
	}
}
