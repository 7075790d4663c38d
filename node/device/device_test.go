package device_test

import (
	"context"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hilum/node/device"
)

// bench is a pool whose grants are written down in order.
type bench struct {
	*device.Pool
	t *testing.T

	mu     sync.Mutex // guards the fields below
	order  []string
	leases map[string]*device.Lease
}

func newBench(t *testing.T, devices ...device.Device) *bench {
	return &bench{Pool: device.NewPool(devices, time.Now), t: t, leases: map[string]*device.Lease{}}
}

// ask waits in the background for a lease called name.
func (b *bench) ask(name string, r device.Request) {
	if r.Since.IsZero() {
		r.Since = time.Now()
	}
	go func() {
		l, err := b.Acquire(b.t.Context(), r)
		if err != nil {
			return
		}
		b.mu.Lock()
		defer b.mu.Unlock()
		b.order = append(b.order, name+" on "+l.Device)
		b.leases[name] = l
	}()
	synctest.Wait()
}

func (b *bench) release(name string) {
	b.mu.Lock()
	l := b.leases[name]
	b.mu.Unlock()
	l.Release()
	synctest.Wait()
}

func (b *bench) want(order ...string) {
	b.t.Helper()
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Equal(b.order, order) {
		b.t.Errorf("granted %s, want %s", strings.Join(b.order, ", "), strings.Join(order, ", "))
	}
}

func run(t *testing.T, fn func(t *testing.T)) {
	synctest.Test(t, fn)
}

func TestUrgentFirst(t *testing.T) {
	run(t, func(t *testing.T) {
		b := newBench(t, device.Device{Name: "cpu", Slots: 1, Threads: 4})
		b.SetCapacity("a", 9)
		b.ask("1", device.Request{Plugin: "a", Devices: []string{"cpu"}})
		b.ask("2", device.Request{Plugin: "a", Devices: []string{"cpu"}})
		b.ask("urgent", device.Request{Plugin: "a", Devices: []string{"cpu"}, Urgent: true})
		b.want("1 on cpu")
		if b.leases["1"].Threads != 4 {
			t.Errorf("threads = %d, want 4", b.leases["1"].Threads)
		}
		b.release("1")
		b.want("1 on cpu", "urgent on cpu")
		b.release("urgent")
		b.release("urgent") // twice is harmless
		b.want("1 on cpu", "urgent on cpu", "2 on cpu")
	})
}

// TestFairness: a plugin with many long jobs does not hold up one with few.
func TestFairness(t *testing.T) {
	run(t, func(t *testing.T) {
		b := newBench(t, device.Device{Name: "cpu", Slots: 1})
		b.SetCapacity("slow", 9)
		b.SetCapacity("quick", 9)
		for _, name := range []string{"s1", "s2", "s3"} {
			b.ask(name, device.Request{Plugin: "slow", Devices: []string{"cpu"}})
		}
		for _, name := range []string{"q1", "q2", "q3"} {
			b.ask(name, device.Request{Plugin: "quick", Devices: []string{"cpu"}})
		}
		time.Sleep(10 * time.Second) // of the bubble
		b.release("s1")
		for _, name := range []string{"q1", "q2", "q3"} {
			time.Sleep(time.Second)
			b.release(name)
		}
		b.want("s1 on cpu", "q1 on cpu", "q2 on cpu", "q3 on cpu", "s2 on cpu")
	})
}

// TestNoDebt: what was idle for long does not get everything afterwards.
func TestNoDebt(t *testing.T) {
	run(t, func(t *testing.T) {
		b := newBench(t, device.Device{Name: "cpu", Slots: 1})
		b.SetCapacity("a", 9)
		b.SetCapacity("b", 9)
		b.ask("a1", device.Request{Plugin: "a", Devices: []string{"cpu"}})
		time.Sleep(time.Hour)
		b.ask("b1", device.Request{Plugin: "b", Devices: []string{"cpu"}})
		b.ask("b2", device.Request{Plugin: "b", Devices: []string{"cpu"}})
		b.ask("a2", device.Request{Plugin: "a", Devices: []string{"cpu"}})
		b.release("a1")
		time.Sleep(time.Minute)
		b.release("b1")
		b.want("a1 on cpu", "b1 on cpu", "a2 on cpu")
	})
}

func TestCapacity(t *testing.T) {
	run(t, func(t *testing.T) {
		b := newBench(t, device.Device{Name: "cpu", Slots: 4})
		b.ask("broken", device.Request{Plugin: "a", Devices: []string{"cpu"}})
		b.SetCapacity("b", 1)
		b.ask("b1", device.Request{Plugin: "b", Devices: []string{"cpu"}})
		b.ask("b2", device.Request{Plugin: "b", Devices: []string{"cpu"}})
		b.want("b1 on cpu")
		b.SetCapacity("a", 1) // after a reload
		synctest.Wait()
		b.want("b1 on cpu", "broken on cpu")
		b.release("b1")
		b.want("b1 on cpu", "broken on cpu", "b2 on cpu")
	})
}

// TestMemory: a large job keeps small ones off the device that it waits for.
func TestMemory(t *testing.T) {
	run(t, func(t *testing.T) {
		b := newBench(t, device.Device{Name: "cuda:0", Slots: 8, Memory: 10}, device.Device{Name: "cpu", Slots: 1})
		b.SetCapacity("small", 9)
		b.SetCapacity("large", 9)
		b.ask("s1", device.Request{Plugin: "small", Devices: []string{"cuda:0"}, Memory: 4})
		b.ask("s2", device.Request{Plugin: "small", Devices: []string{"cuda:0"}, Memory: 4})
		b.ask("large", device.Request{Plugin: "large", Devices: []string{"cuda:0"}, Memory: 8, Urgent: true})
		b.ask("s3", device.Request{Plugin: "small", Devices: []string{"cuda:0"}, Memory: 3})
		b.ask("s4", device.Request{Plugin: "small", Devices: []string{"cuda:0", "cpu"}, Memory: 2})
		b.want("s1 on cuda:0", "s2 on cuda:0", "s4 on cpu")
		b.release("s1")
		b.want("s1 on cuda:0", "s2 on cuda:0", "s4 on cpu")
		b.release("s2")
		b.want("s1 on cuda:0", "s2 on cuda:0", "s4 on cpu", "large on cuda:0")
		b.release("large")
		b.want("s1 on cuda:0", "s2 on cuda:0", "s4 on cpu", "large on cuda:0", "s3 on cuda:0")
	})
}

// TestGiveUp: who stops waiting leaves nothing behind.
func TestGiveUp(t *testing.T) {
	run(t, func(t *testing.T) {
		b := newBench(t, device.Device{Name: "cpu", Slots: 1})
		b.SetCapacity("a", 9)
		b.ask("1", device.Request{Plugin: "a", Devices: []string{"cpu"}})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() {
			_, err := b.Acquire(ctx, device.Request{Plugin: "a", Devices: []string{"cpu"}, Urgent: true})
			done <- err
		}()
		synctest.Wait()
		b.ask("2", device.Request{Plugin: "a", Devices: []string{"cpu"}})
		cancel()
		if err := <-done; err != context.Canceled {
			t.Errorf("Acquire = %v", err)
		}
		b.release("1")
		b.want("1 on cpu", "2 on cpu")
	})
}

// TestConfigure: a reload takes a device away and brings another.
func TestConfigure(t *testing.T) {
	run(t, func(t *testing.T) {
		b := newBench(t, device.Device{Name: "cuda:0", Slots: 1})
		b.SetCapacity("a", 9)
		b.ask("1", device.Request{Plugin: "a", Devices: []string{"cuda:0"}})
		b.ask("2", device.Request{Plugin: "a", Devices: []string{"cuda:0", "cuda:1"}})
		b.Configure([]device.Device{{Name: "cuda:1", Slots: 1}})
		synctest.Wait()
		b.want("1 on cuda:0", "2 on cuda:1")
		b.release("1")
	})
}
