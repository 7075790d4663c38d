// Package host runs analysis plugins as processes and gives them jobs.
//
// Every process gets a folder and a process group of its own and an environment
// with nothing of the node's in it. It is started through go-plugin (gRPC only,
// mutual TLS with one-time certificates, sha256 of the executable checked at
// every start), watched by the health service, never by the state of a
// connection, and killed with its group when it crashes, hangs, breaks the
// contract or outlives the node. A dead process is replaced by a new one with
// back-off; the last 64 KiB of what it printed are kept.
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

	SocketDir      string        // for the sockets of the plugins, a short path; "": the temporary folder of the system
	HealthInterval time.Duration // between two health checks, and for the answer to one; 0: 10 s
	CancelGrace    time.Duration // for a plugin to let go of a cancelled job before it is killed; 0: 5 s
	StopGrace      time.Duration // for a process to end when asked before it is killed; 0: 2 s
	BackoffMin     time.Duration // wait before the second restart in a row; 0: 1 s
	BackoffMax     time.Duration // longest wait before a restart; 0: 2 min
}

// Host runs the processes of a set of plugins.
type Host struct {
	log     *slog.Logger
	names   []string // in the order of the configuration
	plugins map[string]*plugin
	scratch string

	draining context.Context // ends when Stop is called: no new jobs
	drain    context.CancelCauseFunc
	killing  context.Context // ends when Stop runs out of patience
	kill     context.CancelCauseFunc
	running  sync.WaitGroup // the slots

	mu       sync.Mutex // guards the fields below
	started  bool
	stopped  bool
	ownsTemp bool // scratch was made by Start
}

// plugin is all slots of one Spec.
type plugin struct {
	jobs  chan *request // no buffer: a job is taken only by a process that is free
	slots []*slot
}

// New checks every plugin: name, file, permission, hash. It starts nothing.
// Its error is one sentence on the first thing that is wrong.
func New(o Options) (*Host, error) {
	limits := api.DefaultLimits()
	if o.Limits != nil {
		limits = *o.Limits
	}
	log := o.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	sockets := cmp.Or(o.SocketDir, os.TempDir())
	if len(sockets) > maxSocketDir {
		return nil, fmt.Errorf("folder %s is too long for a socket: set TMPDIR to a path of at most %d bytes", sockets, maxSocketDir)
	}
	h := &Host{log: log, plugins: map[string]*plugin{}, scratch: o.Scratch}
	h.draining, h.drain = context.WithCancelCause(context.Background())
	h.killing, h.kill = context.WithCancelCause(context.Background())
	for _, spec := range o.Plugins {
		spec, err := spec.check()
		if err != nil {
			return nil, err
		}
		if h.plugins[spec.Name] != nil {
			return nil, fmt.Errorf("two plugins are named %s: give each its own name", spec.Name)
		}
		p := &plugin{jobs: make(chan *request)}
		for n := range spec.Processes {
			p.slots = append(p.slots, &slot{
				spec:           spec,
				number:         n,
				socketDir:      sockets,
				limits:         limits,
				healthInterval: cmp.Or(o.HealthInterval, 10*time.Second),
				cancelGrace:    cmp.Or(o.CancelGrace, 5*time.Second),
				stopGrace:      cmp.Or(o.StopGrace, 2*time.Second),
				backoff:        backoff{min: cmp.Or(o.BackoffMin, time.Second), max: cmp.Or(o.BackoffMax, 2*time.Minute)},
				log:            log.With("plugin", spec.Name, "process", n),
				jobs:           p.jobs,
				state:          StateStopped,
			})
		}
		h.plugins[spec.Name] = p
		h.names = append(h.names, spec.Name)
	}
	return h, nil
}

// Start starts all processes and asks each what it is. If one cannot be
// started, or ctx ends, all are stopped and the first failure, in the order of
// the configuration, is returned. A Host is started once.
func (h *Host) Start(ctx context.Context) error {
	h.mu.Lock()
	if h.started || h.stopped {
		h.mu.Unlock()
		return errors.New("the plugin host was started or stopped before: make a new one")
	}
	h.started = true
	if h.scratch == "" {
		dir, err := os.MkdirTemp("", "hilum-plugins-")
		if err != nil {
			h.mu.Unlock()
			return fmt.Errorf("make a folder for the plugins: %w", err)
		}
		h.scratch, h.ownsTemp = dir, true
	}
	scratch, err := filepath.Abs(h.scratch)
	if err != nil {
		h.mu.Unlock()
		return fmt.Errorf("folder for the plugins: %w", err)
	}
	var outcomes []chan error
	for _, name := range h.names {
		for _, s := range h.plugins[name].slots {
			s.folder = filepath.Join(scratch, fmt.Sprintf("%s-%d", s.spec.Name, s.number))
			first := make(chan error, 1)
			outcomes = append(outcomes, first)
			h.running.Go(func() { s.run(h.draining, h.killing, first) })
		}
	}
	h.mu.Unlock()

	stop := context.AfterFunc(ctx, func() { h.drain(ErrStopped) })
	var failure error
	for _, first := range outcomes {
		if err := <-first; err != nil && failure == nil {
			failure = err
			h.drain(ErrStopped) // the others need not finish their starts
		}
	}
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

// Analyze has a process of the named plugin do the job. It waits for a free
// process until ctx ends, also while a crashed one is being replaced.
//
// When it returns, no process uses job.Folder any more. Its errors, apart from
// those of ctx:
//
//   - *api.InputError: the series cannot be analysed; do not try again.
//   - *CrashError, *DeadlineError, *FailureError, *api.ResultError: this
//     attempt failed; another may work.
//   - *StartError: the plugin could not be started again; ask later.
//   - ErrStopped, ErrUnknownPlugin.
//
// progress may be nil. It is called at most ten times a second, and not after
// Analyze has returned.
func (h *Host) Analyze(ctx context.Context, name string, job api.Job, progress api.Progress) (api.Result, error) {
	p := h.plugins[name]
	if p == nil {
		return api.Result{}, fmt.Errorf("%w: %q", ErrUnknownPlugin, name)
	}
	if !h.hasStarted() {
		return api.Result{}, ErrStopped
	}
	folder, err := filepath.Abs(job.Folder) // a plugin runs in another folder
	if err != nil {
		return api.Result{}, fmt.Errorf("folder of the job: %w", err)
	}
	job.Folder = folder
	req := &request{ctx: ctx, job: job, progress: progress, done: make(chan answer, 1)}
	select {
	case p.jobs <- req:
	case <-ctx.Done():
		return api.Result{}, ctx.Err()
	case <-h.draining.Done():
		return api.Result{}, ErrStopped
	}
	a := <-req.done
	return a.result, a.err
}

func (h *Host) hasStarted() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.started
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
	for _, name := range h.names {
		for _, s := range h.plugins[name].slots {
			if s.folder != "" {
				_ = os.RemoveAll(s.folder) // temporary files: the next start empties what is left
			}
		}
	}
	if owns {
		_ = os.RemoveAll(h.scratch)
	}
	return err
}
