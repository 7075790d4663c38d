// Package host runs analysis plugins as processes and gives them jobs.
//
// Every process gets a folder of its own, an environment with nothing of the
// node's in it, and what isolation the kernel has to offer (see Isolation). It
// is started through go-plugin (gRPC only, mutual TLS with one-time
// certificates, sha256 of the executable checked at every start), watched by
// the health service, never by the state of a connection, and killed with all
// that it has started when it crashes, hangs, breaks the contract, uses too
// much memory or outlives the node. A dead process is replaced by a new one
// with back-off, until it has failed too often: then it is broken until a
// reload. The last 64 KiB of what it printed are kept, and never logged.
//
// A process runs one job at a time; Spec.Processes of them run at once. Jobs
// wait in their callers: the host has no queue and forgets nothing in a crash.
// It refuses every answer that breaks the contract of package api.
package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"hilum/plugins/api"
)

// maxSocketDir leaves room, in the 107 bytes that Linux has for the path of a
// socket, for what go-plugin adds: /plugin-dir0123456789/plugin0123456789.
const maxSocketDir = 107 - 39

// Options configure a Host. Zero values mean the defaults.
type Options struct {
	Plugins []Spec
	Scratch string // where the folders of the processes are made; "": a new temporary folder
	Logger  *slog.Logger
	Limits  *api.Limits // nil: api.DefaultLimits

	Hide []string // folders and files that no plugin may see, where the kernel can do that
	Jobs string   // a folder inside Hide: a plugin reads the folder there that has its name; "": none

	// KeepGoing has Start succeed when a plugin does not start: it is then tried
	// again as after a crash. Not set: all plugins start, or none.
	KeepGoing bool

	// Changed is called when a process may have become free, busy, better or
	// worse. It must return at once. nil: nobody wants to know.
	Changed func()

	SocketDir      string        // for the sockets of the plugins, a short path; "": the temporary folder of the system
	HealthInterval time.Duration // between two health checks, and for the answer to one; 0: 10 s
	CancelGrace    time.Duration // for a plugin to let go of a cancelled job before it is killed; 0: 5 s
	StopGrace      time.Duration // for a process to end when asked before it is killed; 0: 2 s
	BackoffMin     time.Duration // wait before the second restart in a row; 0: 1 s
	BackoffMax     time.Duration // longest wait before a restart; 0: 2 min
	MaxFailures    int           // failures in a row, without an answered job, after which a process is broken; 0: 10
}

// Host runs the processes of a set of plugins.
type Host struct {
	o      Options // with all defaults
	limits api.Limits

	draining context.Context // ends when Stop is called: no new jobs
	drain    context.CancelCauseFunc
	killing  context.Context // ends when Stop runs out of patience
	kill     context.CancelCauseFunc
	running  sync.WaitGroup // the slots

	reloading sync.Mutex // one Reload at a time

	mu         sync.Mutex // guards the fields below
	plugins    []*plugin  // in the order of the configuration
	generation int        // of processes: a reload makes a new one
	started    bool
	stopped    bool
	ownsTemp   bool // o.Scratch was made by Start
}

// plugin is all slots of one Spec.
type plugin struct {
	spec  Spec
	jobs  chan *request // no buffer: a job is taken only by a process that is free
	slots []*slot

	retired context.Context // ends when a reload takes the plugin away: running jobs end
	retire  context.CancelCauseFunc
}

// New checks every plugin: name, file, permission, hash. It starts nothing.
// Its error is one sentence on the first thing that is wrong.
func New(o Options) (*Host, error) {
	o.SocketDir = cmp.Or(o.SocketDir, os.TempDir())
	if len(o.SocketDir) > maxSocketDir {
		return nil, fmt.Errorf("folder %s is too long for a socket: set TMPDIR to a path of at most %d bytes", o.SocketDir, maxSocketDir)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Changed == nil {
		o.Changed = func() {}
	}
	o.HealthInterval = cmp.Or(o.HealthInterval, 10*time.Second)
	o.CancelGrace = cmp.Or(o.CancelGrace, 5*time.Second)
	o.StopGrace = cmp.Or(o.StopGrace, 2*time.Second)
	o.BackoffMin = cmp.Or(o.BackoffMin, time.Second)
	o.BackoffMax = cmp.Or(o.BackoffMax, 2*time.Minute)
	o.MaxFailures = cmp.Or(o.MaxFailures, 10)
	hide := make([]string, 0, len(o.Hide))
	for _, path := range o.Hide {
		path, err := realPath(path)
		if err != nil {
			return nil, fmt.Errorf("find what plugins must not see: %w", err)
		}
		hide = append(hide, path)
	}
	o.Hide = hide
	h := &Host{o: o, limits: api.DefaultLimits()}
	if o.Limits != nil {
		h.limits = *o.Limits
	}
	h.draining, h.drain = context.WithCancelCause(context.Background())
	h.killing, h.kill = context.WithCancelCause(context.Background())
	specs, err := checkSpecs(o.Plugins)
	if err != nil {
		return nil, err
	}
	for _, spec := range specs {
		h.plugins = append(h.plugins, h.newPlugin(spec, 0))
	}
	return h, nil
}

// realPath returns the absolute path without links, also of a file that is not there.
func realPath(path string) (string, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(path); err == nil {
		return real, nil
	}
	return path, nil
}

func checkSpecs(specs []Spec) ([]Spec, error) {
	checked := make([]Spec, 0, len(specs))
	for _, spec := range specs {
		spec, err := spec.check()
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(checked, func(other Spec) bool { return other.Name == spec.Name }) {
			return nil, fmt.Errorf("two plugins are named %s: give each its own name", spec.Name)
		}
		checked = append(checked, spec)
	}
	return checked, nil
}

func (h *Host) newPlugin(spec Spec, generation int) *plugin {
	p := &plugin{spec: spec, jobs: make(chan *request)}
	p.retired, p.retire = context.WithCancelCause(h.draining)
	for n := range spec.Processes {
		s := &slot{
			spec:           spec,
			number:         n,
			generation:     generation,
			socketDir:      h.o.SocketDir,
			limits:         h.limits,
			healthInterval: h.o.HealthInterval,
			cancelGrace:    h.o.CancelGrace,
			stopGrace:      h.o.StopGrace,
			backoff:        backoff{min: h.o.BackoffMin, max: h.o.BackoffMax},
			maxFailures:    h.o.MaxFailures,
			confine:        confinement{Isolation: Detect().For(spec), hide: h.o.Hide, memory: spec.Memory},
			changed:        h.o.Changed,
			log:            h.o.Logger.With("plugin", spec.Name, "process", n),
			jobs:           p.jobs,
			revive:         make(chan struct{}, 1),
			state:          StateStopped,
		}
		s.confine.read = append([]string{spec.Path}, spec.Read...)
		if h.o.Jobs != "" {
			s.confine.read = append(s.confine.read, filepath.Join(h.o.Jobs, spec.Name))
		}
		p.slots = append(p.slots, s)
	}
	return p
}

// Start starts all processes and asks each what it is. If one cannot be
// started and the host shall not keep going, or ctx ends, all are stopped and
// the first failure, in the order of the configuration, is returned. A Host is
// started once.
func (h *Host) Start(ctx context.Context) error {
	h.mu.Lock()
	if h.started || h.stopped {
		h.mu.Unlock()
		return errors.New("the plugin host was started or stopped before: make a new one")
	}
	h.started = true
	if err := h.makeScratch(); err != nil {
		h.mu.Unlock()
		return err
	}
	plugins := h.plugins
	h.mu.Unlock()

	stop := context.AfterFunc(ctx, func() { h.drain(ErrStopped) })
	failure := h.launch(plugins, h.o.KeepGoing, func() { h.drain(ErrStopped) })
	if !stop() && failure == nil {
		failure = ErrStopped
	}
	if failure == nil {
		return nil
	}
	if ctx.Err() != nil && errors.Is(failure, ErrStopped) {
		failure = fmt.Errorf("start the plugins: %w", ctx.Err())
	}
	return errors.Join(failure, h.Stop(context.Background())) // no job can run
}

// makeScratch finds the folder of the processes; h.mu is held.
func (h *Host) makeScratch() error {
	if h.o.Scratch == "" {
		dir, err := os.MkdirTemp("", "hilum-plugins-")
		if err != nil {
			return fmt.Errorf("make a folder for the plugins: %w", err)
		}
		h.o.Scratch, h.ownsTemp = dir, true
	}
	scratch, err := filepath.Abs(h.o.Scratch)
	if err != nil {
		return fmt.Errorf("folder for the plugins: %w", err)
	}
	h.o.Scratch = scratch
	if h.o.Jobs == "" {
		return nil
	}
	for _, p := range h.plugins {
		if err := h.makeJobs(p.spec.Name); err != nil {
			return err
		}
	}
	return nil
}

// makeJobs makes the folder of the plugin's jobs, which must be there before
// its process: a rule of the kernel's belongs to a folder, not to a name.
func (h *Host) makeJobs(name string) error {
	if err := os.MkdirAll(filepath.Join(h.o.Jobs, name), 0o700); err != nil {
		return fmt.Errorf("make the folder of the plugin's jobs: %w", err)
	}
	return nil
}

// launch starts the processes of plugins and waits for the outcome of each. The
// first failure, in their order, is returned after abort was called; with
// keepGoing, only one that trying again cannot mend.
func (h *Host) launch(plugins []*plugin, keepGoing bool, abort func()) error {
	var outcomes []chan error
	for _, p := range plugins {
		for _, s := range p.slots {
			name := fmt.Sprintf("%s-%d", s.spec.Name, s.number)
			if s.generation > 0 { // the process before it may still run
				name += fmt.Sprintf(".%d", s.generation)
			}
			s.folder = filepath.Join(h.o.Scratch, name)
			s.confine.write = []string{s.folder}
			first := make(chan error, 1)
			outcomes = append(outcomes, first)
			h.running.Go(func() { s.run(p.retired, h.killing, keepGoing, first) })
		}
	}
	var failure error
	for _, first := range outcomes {
		err := <-first
		if _, ok := errors.AsType[*StartError](err); ok && keepGoing {
			continue // it is in the log and in the status
		}
		if err != nil && failure == nil {
			failure = err
			abort() // the others need not finish their starts
		}
	}
	return failure
}

// Reload takes over another list of plugins. A plugin that is as before goes
// on, and is tried again if it was broken. The others are started first; if one
// of them does not start, nothing changes and the error says why. Then the
// processes that the list no longer has end, each after its job.
func (h *Host) Reload(ctx context.Context, specs []Spec) error {
	h.reloading.Lock()
	defer h.reloading.Unlock()
	specs, err := checkSpecs(specs)
	if err != nil {
		return err
	}
	h.mu.Lock()
	if !h.started || h.stopped {
		h.mu.Unlock()
		return ErrStopped
	}
	h.generation++
	var next, fresh []*plugin
	for _, spec := range specs {
		i := slices.IndexFunc(h.plugins, func(p *plugin) bool { return p.spec.equal(spec) })
		if i >= 0 {
			next = append(next, h.plugins[i])
			continue
		}
		p := h.newPlugin(spec, h.generation)
		next, fresh = append(next, p), append(fresh, p)
		if h.o.Jobs != "" {
			if err := h.makeJobs(spec.Name); err != nil {
				h.mu.Unlock()
				return err
			}
		}
	}
	h.mu.Unlock()

	abort := func() {
		for _, p := range fresh {
			p.retire(ErrStopped)
		}
	}
	stop := context.AfterFunc(ctx, abort)
	err = h.launch(fresh, false, abort)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		abort()
		return err
	}
	h.mu.Lock()
	old := h.plugins
	h.plugins = next
	h.mu.Unlock()
	for _, p := range old {
		if !slices.Contains(next, p) {
			p.retire(errRetired)
			continue
		}
		for _, s := range p.slots {
			if state, _ := s.now(); state == StateBroken || state == StateWaiting {
				select {
				case s.revive <- struct{}{}:
				default: // it is about to try anyway
				}
			}
		}
	}
	h.o.Changed()
	return nil
}

// current returns the plugins of the last reload.
func (h *Host) current() []*plugin {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.plugins)
}

// errRetired is the cause that ends a plugin which a reload took away.
var errRetired = errors.New("the plugin was taken away or replaced")

// Analyze has a process of the named plugin do the job. It waits for a free
// process until ctx ends, also while a crashed one is being replaced.
//
// When it returns, no process uses job.Folder any more. Its errors, apart from
// those of ctx:
//
//   - *api.InputError: the series cannot be analysed; do not try again.
//   - *CrashError, *DeadlineError, *FailureError, *api.ResultError: this
//     attempt failed; another may work.
//   - *StartError: the plugin could not be started again, or is broken; ask later.
//   - ErrStopped, ErrUnknownPlugin.
//
// progress may be nil. It is called at most ten times a second, and not after
// Analyze has returned.
func (h *Host) Analyze(ctx context.Context, name string, job api.Job, progress api.Progress) (api.Result, error) {
	folder, err := filepath.Abs(job.Folder) // a plugin runs in another folder
	if err != nil {
		return api.Result{}, fmt.Errorf("folder of the job: %w", err)
	}
	job.Folder = folder
	for {
		p, err := h.find(name)
		if err != nil {
			return api.Result{}, err
		}
		req := &request{ctx: ctx, job: job, progress: progress, done: make(chan answer, 1)}
		select {
		case p.jobs <- req:
			a := <-req.done
			return a.result, a.err
		case <-ctx.Done():
			return api.Result{}, ctx.Err()
		case <-p.retired.Done():
			if h.draining.Err() != nil {
				return api.Result{}, ErrStopped
			} // else a reload replaced it
		}
	}
}

func (h *Host) find(name string) (*plugin, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	i := slices.IndexFunc(h.plugins, func(p *plugin) bool { return p.spec.Name == name })
	switch {
	case i < 0:
		return nil, fmt.Errorf("%w: %q", ErrUnknownPlugin, name)
	case !h.started:
		return nil, ErrStopped
	}
	return h.plugins[i], nil
}

// Stop takes no new jobs, lets running ones end until ctx ends, then kills. It
// returns when every process and goroutine of the host is gone, with the error
// of ctx if jobs had to be cut off. It may be called at any time, and twice.
func (h *Host) Stop(ctx context.Context) error {
	h.mu.Lock()
	h.stopped = true
	owns := h.ownsTemp
	h.mu.Unlock()
	h.drain(ErrStopped)
	gone := make(chan struct{})
	go func() {
		h.running.Wait()
		close(gone)
	}()
	var err error
	select {
	case <-gone:
	case <-ctx.Done():
		err = ctx.Err()
		h.kill(ErrStopped)
		<-gone
	}
	if owns {
		_ = os.RemoveAll(h.o.Scratch) // temporary files
	}
	return err
}
