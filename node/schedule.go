package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"hilum/node/config"
	"hilum/node/device"
	"hilum/node/task"
	"hilum/plugins/host"
	"hilum/store"
)

// scheduler runs the analyses: for each pipeline as many goroutines as its
// plugins have processes. Each looks at the job that is next, waits for a
// lease on a process and a device, and only then takes the job out of the
// queue; so a job whose plugin is broken waits there, where a person sees it,
// and an urgent one that comes meanwhile goes first.
type scheduler struct {
	*dispatcher

	take context.Context // ends when the node takes no more jobs
	work context.Context // ends when running jobs are to be put back
	all  sync.WaitGroup

	mu        sync.Mutex // guards pipelines
	pipelines map[string]crew
}

// crew is what works for one pipeline.
type crew struct {
	size int
	stop context.CancelFunc // when the job under way is done
}

// arrange starts and ends goroutines so that they fit the routing of now.
func (s *scheduler) arrange() {
	now := s.router.now.Load()
	s.mu.Lock()
	defer s.mu.Unlock()
	for name, c := range s.pipelines {
		if p, ok := now.pipeline(name); !ok || now.workers(p) != c.size {
			c.stop()
			delete(s.pipelines, name)
		}
	}
	for _, p := range now.pipelines {
		if _, ok := s.pipelines[p.Name]; ok {
			continue
		}
		ctx, stop := context.WithCancel(s.take)
		c := crew{size: now.workers(p), stop: stop}
		s.pipelines[p.Name] = c
		w := worker{store: s.store, queue: task.AnalysisQueue(p.Name), log: s.log, now: s.now}
		for range c.size {
			s.all.Go(func() { s.attend(ctx, p.Name, w) })
		}
	}
}

// attend takes the jobs of one pipeline, one at a time, until ctx ends.
func (s *scheduler) attend(ctx context.Context, pipeline string, w worker) {
	for ctx.Err() == nil {
		changed := s.store.Changed() // before the look: a change after it is not missed
		job, pause, err := s.next(pipeline)
		switch {
		case err != nil:
			s.log.Error("no job taken, trying again", "pipeline", pipeline, "error", err)
			w.wait(ctx, nil, retryQueue)
			continue
		case job.ID == "":
			w.wait(ctx, changed, pause)
			continue
		}
		lease, err := s.leaseFor(ctx, changed, job)
		if lease == nil {
			if err != nil {
				s.log.Error("job not started, trying again", "job", job.ID, "error", err)
				w.wait(ctx, changed, retryQueue)
			}
			continue // something changed: perhaps another job is next
		}
		holder := &holder{lease: lease}
		job, ok, err := s.store.LeaseJob(job.ID)
		if err == nil && ok {
			w.run = func(_ context.Context, j store.Job) error { return s.run(s.work, j, holder) }
			err = w.safely(ctx, job)
		}
		holder.release()
		if err != nil {
			s.log.Error("job not carried to its end, trying again", "job", job.ID, "pipeline", pipeline, "error", err)
			w.putBack(job, err)
			w.wait(ctx, nil, retryQueue)
		}
	}
}

// next returns the job of a pipeline that is to be run next, or how long to
// wait for one.
func (s *scheduler) next(pipeline string) (store.Job, time.Duration, error) {
	pause := idle
	for _, queue := range task.AnalysisQueues(pipeline) {
		job, ok, err := s.store.Peek(queue)
		if err != nil || ok {
			return job, 0, err
		}
		if at, ok := s.store.NextRetry(queue); ok {
			pause = min(pause, max(at.Sub(s.now()), 0))
		}
	}
	return store.Job{}, pause, nil
}

// leaseFor waits for the lease of the first plugin that the job needs, until
// ctx ends or something changes: then it returns nil.
func (s *scheduler) leaseFor(ctx context.Context, changed <-chan struct{}, job store.Job) (*device.Lease, error) {
	a, err := task.DecodeAnalysis(job)
	if err != nil {
		return nil, err
	}
	request, err := s.request(job, a)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-changed:
			cancel()
		case <-ctx.Done():
		}
	}()
	lease, _ := s.pool.Acquire(ctx, request) // only the end of ctx fails it
	return lease, nil
}

// request is what the next plugin of a job needs.
func (s *scheduler) request(job store.Job, a task.Analysis) (device.Request, error) {
	now := s.router.now.Load()
	kept, err := s.kept(job.ID)
	if err != nil {
		return device.Request{}, err
	}
	p, ok := now.pipeline(a.Plugin)
	if !ok {
		return device.Request{}, fmt.Errorf("pipeline %s is not configured any more", a.Plugin)
	}
	plugin, ok := now.plugin(p.Plugins[min(len(kept.Steps), len(p.Plugins)-1)])
	if !ok {
		return device.Request{}, fmt.Errorf("a plugin of pipeline %s is not configured any more", a.Plugin)
	}
	return s.requestFor(plugin, job, a), nil
}

func (d *dispatcher) requestFor(p config.Plugin, job store.Job, a task.Analysis) device.Request {
	return device.Request{
		Plugin:  p.Name,
		Devices: devicesFor(p, d.host.Description(p.Name).Devices, a.Failures(p.Name)),
		Memory:  int64(p.DeviceMemory),
		Urgent:  a.Urgent,
		Since:   job.Created,
	}
}

// holder holds the lease of a job, which changes from plugin to plugin.
type holder struct{ lease *device.Lease }

func (h *holder) release() {
	if h.lease != nil {
		h.lease.Release()
		h.lease = nil
	}
}

// capacities tells the pool what the host can do whenever that changes.
type capacities struct {
	host   *host.Host
	pool   *device.Pool
	router *router
	log    *slog.Logger
	wake   chan struct{} // has room for one
}

// changed is called by the host, which does not wait.
func (c *capacities) changed() {
	select {
	case c.wake <- struct{}{}:
	default: // the loop is about to look anyway
	}
}

func (c *capacities) run(ctx context.Context) {
	for {
		for _, p := range c.router.now.Load().plugins {
			c.pool.SetCapacity(p.Name, c.host.Capacity(p.Name))
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		}
	}
}
