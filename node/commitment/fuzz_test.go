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
		m, err := readMessage(bytes.NewReader(data), syntax(explicit), nil)
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
		again, err := readMessage(bytes.NewReader(b), syntax(explicit), nil)
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Errorf("written and read again:\n%+v, %v\nwant\n%+v", again, err, m)
		}
	})
}

// TestReading: one address has two of the largest requests in memory at a time; what it
// begins beside them is refused for the moment, and others are not.
func TestReading(t *testing.T) {
	p := &Provider{}
	first, second, other := &reading{p: p, address: "10.0.0.1"}, &reading{p: p, address: "10.0.0.1"}, &reading{p: p, address: "10.0.0.2"}
	for range maxReading {
		if err := first.take(); err != nil {
			t.Fatal(err)
		}
	}
	request, err := message{transaction: "2.25.9", objects: []task.Object{{SOPClassUID: "1.2", SOPInstanceUID: "1.3"}}}.encode(syntax(true))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readMessage(bytes.NewReader(request), syntax(true), second.take); !errors.Is(err, tooManyAtOnce) {
		t.Errorf("readMessage() = %v, want it refused for the moment", err)
	}
	if err := other.take(); err != nil {
		t.Errorf("take() of another address = %v", err)
	}
	first.end()
	if _, err := readMessage(bytes.NewReader(request), syntax(true), second.take); err != nil {
		t.Errorf("readMessage() with room again = %v", err)
	}
	second.end()
	other.end()
	if len(p.read) != 0 {
		t.Errorf("%v is counted still", p.read)
	}
}

// TestConformance keeps the number of references in the conformance statement true;
// TestRefusedRequests sends one more.
func TestConformance(t *testing.T) {
	b, err := os.ReadFile("../../dimse/CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("up to %d references, %d of one address at a time", maxReferences, maxReading); !strings.Contains(string(b), want) || !strings.Contains(tooMany.Comment, fmt.Sprint(maxReferences)) {
		t.Errorf("CONFORMANCE.md does not say %q, or the peer is told %q", want, tooMany.Comment)
	}
}

func syntax(explicit bool) string {
	if explicit {
		return dataset.ExplicitVRLittleEndian
	}
	return dataset.ImplicitVRLittleEndian
}
