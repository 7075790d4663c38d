package commitment

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"reflect"
	"runtime"
	"strings"
	"testing"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/task"
)

// FuzzMessage holds that a request or an outcome is read or refused with a status, never
// both; that what was read is the same when it is written and read again; and that memory
// follows the bytes.
func FuzzMessage(f *testing.F) {
	objects := []task.Object{{SOPClassUID: "1.2.840.10008.5.1.4.1.1.2", SOPInstanceUID: "2.25.1"}, {SOPClassUID: "1.2.840.10008.5.1.4.1.1.4", SOPInstanceUID: "2.25.2"}}
	for _, m := range []message{
		{transaction: "2.25.9", objects: objects},
		{transaction: "2.25.9", objects: objects[:1], failures: []Failure{{objects[1], 0x0112}}},
	} {
		for _, explicit := range []bool{true, false} {
			b, err := m.encode(syntax(explicit))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(b, explicit)
			f.Add(b[:len(b)-3], explicit)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte, explicit bool) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		m, err := readMessage(bytes.NewReader(data), syntax(explicit))
		runtime.ReadMemStats(&after)
		// The shortest reference has some forty bytes and a slot in a growing list.
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(1<<20+32*len(data)); got > limit {
			t.Errorf("%d bytes of a message allocate %d, want at most %d", len(data), got, limit)
		}
		if err != nil {
			var status *dimse.StatusError
			if !errors.As(err, &status) || status.Status == dimse.StatusSuccess || !reflect.DeepEqual(m, message{}) {
				t.Fatalf("readMessage() = %+v, %v; want a status alone", m, err)
			}
			return
		}
		b, err := m.encode(syntax(explicit))
		if err != nil {
			t.Fatalf("what was read cannot be written: %v", err)
		}
		again, err := readMessage(bytes.NewReader(b), syntax(explicit))
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("written and read again:\n%+v, %v\nwant\n%+v", again, err, m)
		}
	})
}

// TestConformance keeps the number of references in the conformance statement true;
// TestRefusedRequests sends one more.
func TestConformance(t *testing.T) {
	b, err := os.ReadFile("../../dimse/CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("up to %d references", maxReferences); !strings.Contains(string(b), want) || !strings.Contains(tooMany.Comment, fmt.Sprint(maxReferences)) {
		t.Errorf("CONFORMANCE.md does not say %q, or the peer is told %q", want, tooMany.Comment)
	}
}

func syntax(explicit bool) string {
	if explicit {
		return dataset.ExplicitVRLittleEndian
	}
	return dataset.ImplicitVRLittleEndian
}
