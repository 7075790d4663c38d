// Package device shares the machine between plugins.
//
// A job runs with a lease: a free process of its plugin, and room on a device.
// A Pool hands leases out, urgent jobs first, then the plugin that has had
// least of the machine's time, then the oldest job. A job that waits for room
// on a device keeps later ones off it, so that small jobs cannot starve a
// large one.
package device

import (
	"cmp"
	"context"
	"math"
	"slices"
	"sync"
	"time"
)

// Device is a piece of the machine.
type Device struct {
	Name    string
	Slots   int   // leases at a time
	Memory  int64 // bytes that leases share; 0: not counted
	Threads int   // of the CPU, that the slots share
}

// Request says what a job needs.
type Request struct {
	Plugin  string
	Devices []string // that will do, the best first
	Memory  int64    // of a device that counts it
	Urgent  bool
	Since   time.Time // when the job began to wait
}

// Pool hands out leases. It is safe for concurrent use.
type Pool struct {
	now func() time.Time

	mu      sync.Mutex // guards the fields below
	devices []Device
	plugins map[string]*plugin
	leases  map[*Lease]struct{}
	waiting []*waiter
}

// plugin is what the pool knows of a plugin.
type plugin struct {
	capacity int           // processes that can take a job
	used     time.Duration // of all leases that have ended
}

type waiter struct {
	Request
	granted chan *Lease // has room for one
}

// Lease is the right to run one job. It must be released.
type Lease struct {
	Device  string
	Threads int // of the CPU; at least 1

	pool   *Pool
	plugin string
	memory int64
	since  time.Time
}

// NewPool returns a pool of devices, in which no plugin has a process yet.
func NewPool(devices []Device, now func() time.Time) *Pool {
	return &Pool{now: now, devices: devices, plugins: map[string]*plugin{}, leases: map[*Lease]struct{}{}}
}

// Configure replaces the devices. Leases on those before stay until released.
func (p *Pool) Configure(devices []Device) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.devices = devices
	p.grant()
}

// SetCapacity says how many processes of a plugin can have a job now.
func (p *Pool) SetCapacity(name string, processes int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plugin(name).capacity = processes
	p.grant()
}

// Acquire waits for a lease until ctx ends.
func (p *Pool) Acquire(ctx context.Context, r Request) (*Lease, error) {
	w := &waiter{Request: r, granted: make(chan *Lease, 1)}
	p.mu.Lock()
	p.catchUp(r.Plugin)
	p.waiting = append(p.waiting, w)
	p.grant()
	p.mu.Unlock()
	select {
	case l := <-w.granted:
		return l, nil
	case <-ctx.Done():
	}
	p.mu.Lock()
	p.waiting = slices.DeleteFunc(p.waiting, func(other *waiter) bool { return other == w })
	p.grant() // it may have kept others off a device
	p.mu.Unlock()
	select {
	case l := <-w.granted: // at the same moment
		l.Release()
	default:
	}
	return nil, ctx.Err()
}

// Release gives the lease back. It may be called twice.
func (l *Lease) Release() {
	p := l.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	if _, held := p.leases[l]; !held {
		return
	}
	delete(p.leases, l)
	p.plugin(l.plugin).used += p.now().Sub(l.since)
	p.grant()
}

// plugin returns the entry of a plugin; p.mu is held.
func (p *Pool) plugin(name string) *plugin {
	if p.plugins[name] == nil {
		p.plugins[name] = &plugin{}
	}
	return p.plugins[name]
}

// usage is the time that a plugin has had, with what it is having; p.mu is held.
func (p *Pool) usage(name string) time.Duration {
	sum := p.plugin(name).used
	for l := range p.leases {
		if l.plugin == name {
			sum += p.now().Sub(l.since)
		}
	}
	return sum
}

// catchUp keeps a plugin that had nothing to do from being owed the time that
// others used meanwhile; p.mu is held.
func (p *Pool) catchUp(name string) {
	least := time.Duration(math.MaxInt64)
	active := func(plugin string) {
		if plugin != name {
			least = min(least, p.usage(plugin))
		}
	}
	for l := range p.leases {
		if l.plugin == name {
			return
		}
		active(l.plugin)
	}
	for _, w := range p.waiting {
		if w.Plugin == name {
			return
		}
		active(w.Plugin)
	}
	if entry := p.plugin(name); least != math.MaxInt64 {
		entry.used = max(entry.used, least)
	}
}

// grant hands out what can be handed out; p.mu is held.
func (p *Pool) grant() {
	for p.grantOne() {
	}
}

func (p *Pool) grantOne() bool {
	usage := map[string]time.Duration{}
	for _, w := range p.waiting {
		usage[w.Plugin] = p.usage(w.Plugin)
	}
	slices.SortStableFunc(p.waiting, func(a, b *waiter) int {
		if a.Urgent != b.Urgent {
			if a.Urgent {
				return -1
			}
			return 1
		}
		return cmp.Or(cmp.Compare(usage[a.Plugin], usage[b.Plugin]), a.Since.Compare(b.Since))
	})
	claimed := map[string]bool{} // by a job before
	for i, w := range p.waiting {
		if p.running(w.Plugin) >= p.plugin(w.Plugin).capacity {
			continue // it holds nobody up
		}
		for _, name := range w.Devices {
			d, ok := p.device(name)
			if !ok || claimed[name] || !p.room(d, w.Memory) {
				continue
			}
			l := &Lease{Device: name, Threads: max(d.Threads/max(d.Slots, 1), 1), pool: p, plugin: w.Plugin, memory: w.Memory, since: p.now()}
			p.leases[l] = struct{}{}
			p.waiting = slices.Delete(p.waiting, i, i+1)
			w.granted <- l
			return true
		}
		for _, name := range w.Devices {
			claimed[name] = true
		}
	}
	return false
}

func (p *Pool) running(plugin string) int {
	n := 0
	for l := range p.leases {
		if l.plugin == plugin {
			n++
		}
	}
	return n
}

func (p *Pool) device(name string) (Device, bool) {
	i := slices.IndexFunc(p.devices, func(d Device) bool { return d.Name == name })
	if i < 0 {
		return Device{}, false
	}
	return p.devices[i], true
}

func (p *Pool) room(d Device, memory int64) bool {
	slots, left := d.Slots, d.Memory
	for l := range p.leases {
		if l.Device == d.Name {
			slots--
			left -= l.memory
		}
	}
	return slots > 0 && (d.Memory == 0 || left >= memory)
}
