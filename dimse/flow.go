package dimse

import (
	"context"
	"sync"
)

// operationCost is what an operation counts at least: the buffers of those who
// carry it out.
const operationCost = 256 << 10

// flow counts the bytes in flight, received and not answered yet, and holds back
// operations that would run beside others of their association while there are
// too many. One operation of each association always runs, so that the count
// goes down again and slow peers hold nobody up.
type flow struct {
	limit, perAddress int64 // set before the first association

	mu        sync.Mutex       // guards all below
	total     int64            // of all
	addresses map[string]int64 // of each peer address
	changed   chan struct{}    // closed when the counts go down; nil where nobody waits
}

// held is what one operation has in flight.
type held struct {
	flow    *flow
	address string
	own     *int64 // of its association, guarded by flow.mu
	bytes   int64  // received
	counted int64  // bytes, and operationCost at least
}

// room says whether the association of which own counts the bytes may begin an
// operation; f.mu is held.
func (f *flow) room(address string, own *int64) bool {
	return *own == 0 || f.total < f.limit && f.addresses[address] < f.perAddress
}

// hasRoom is room now.
func (f *flow) hasRoom(address string, own *int64) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.room(address, own)
}

// await waits until the association of which own counts the bytes may begin an
// operation, or ctx ends.
func (f *flow) await(ctx context.Context, address string, own *int64) error {
	for {
		f.mu.Lock()
		if f.room(address, own) {
			f.mu.Unlock()
			return nil
		}
		if f.changed == nil {
			f.changed = make(chan struct{})
		}
		changed := f.changed
		f.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// begin counts an operation.
func (f *flow) begin(address string, own *int64) *held {
	h := &held{flow: f, address: address, own: own}
	h.add(operationCost)
	return h
}

// count counts bytes as they are received.
func (h *held) count(n int) {
	h.bytes += int64(n)
	if h.bytes > h.counted {
		h.add(h.bytes - h.counted)
	}
}

// end gives back what the operation counted.
func (h *held) end() { h.add(-h.counted) }

func (h *held) add(n int64) {
	f := h.flow
	f.mu.Lock()
	defer f.mu.Unlock()
	h.counted += n
	*h.own += n
	f.total += n
	f.addresses[h.address] += n
	if f.addresses[h.address] == 0 {
		delete(f.addresses, h.address)
	}
	if n < 0 && f.changed != nil {
		close(f.changed)
		f.changed = nil
	}
}
