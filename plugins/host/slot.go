package host

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hilum/plugins/api"
)

// progressInterval is the shortest time between two calls of a caller's
// Progress: a plugin that reports every voxel costs the node nothing.
const progressInterval = 100 * time.Millisecond

// errDeadline is the cause of a job's context when Spec.Deadline has passed.
var errDeadline = errors.New("the deadline of the job has passed")

// request is one job on its way to a process. Whoever takes it from the jobs
// channel answers it once.
type request struct {
	ctx      context.Context
	job      api.Job
	progress api.Progress
	done     chan answer // has room for the answer
}

type answer struct {
	result api.Result
	err    error
}

// slot is the place of one process of a plugin. One goroutine, run, does all
// that happens in it, in order: start, idle, job, idle, …, restart, stop.
type slot struct {
	spec           Spec
	number         int
	generation     int    // of the reload that made it
	folder         string // HOME, TMPDIR and working folder of the process
	socketDir      string
	limits         api.Limits
	healthInterval time.Duration
	cancelGrace    time.Duration
	stopGrace      time.Duration
	log            *slog.Logger
	backoff        backoff
	maxFailures    int
	confine        confinement
	changed        func()
	jobs           <-chan *request // shared by all slots of the plugin
	revive         chan struct{}   // has room for one: a broken slot tries again

	// strikes counts failures in a row: starts and deaths with no answered job
	// between them. The crashes of one job count once, so that a series that
	// no plugin can bear does not look like a plugin that can bear none.
	strikes    int
	crashedJob string

	mu          sync.Mutex // guards the fields below, which Status reads
	state       State
	process     *process
	description api.Description
	restarts    int
	problem     string
	output      *output
}

// run keeps a process running until drain ends. A job that runs then may go on
// until kill ends. The outcome of the first start goes to first; unless keepGoing,
// a failed one is the end.
func (s *slot) run(drain, kill context.Context, keepGoing bool, first chan<- error) {
	defer s.set(StateStopped, nil)
	defer func() { _ = os.RemoveAll(s.folder) }() // temporary files: the next start empties what is left
	for attempt := 0; ; attempt++ {
		s.set(StateStarting, nil)
		p, err := s.start(drain)
		if err != nil {
			s.setProblem(err.Error())
		} else {
			s.set(StateReady, p)
		}
		if attempt == 0 {
			first <- err
			if err != nil && !keepGoing {
				return
			}
		}
		if err == nil {
			if attempt > 0 {
				s.log.Info("plugin restarted", "pid", p.runner.processID())
			}
			s.serve(drain, kill, p)
		} else {
			s.strikes++
		}
		if drain.Err() != nil {
			return
		}
		s.countRestart()
		wait := s.backoff.next()
		if p != nil {
			err = fmt.Errorf("it %s", p.runner.ending())
			s.setProblem(err.Error() + quoteLast(p.output.String()))
		}
		if s.strikes >= s.maxFailures {
			err = s.giveUp(err)
			s.log.Error("plugin broken: it is not started again before a reload", "failures", s.strikes, "reason", err.Error())
			s.set(StateBroken, nil)
			if !s.await(drain, nil, true, err) {
				return
			}
			s.backoff.reset()
			s.strikes = 0
			continue
		}
		s.log.Warn("plugin down", "reason", err.Error(), "restart_in", wait)
		s.set(StateWaiting, nil)
		timer := time.NewTimer(wait)
		again := s.await(drain, timer.C, p == nil, err)
		timer.Stop()
		if !again {
			return
		}
	}
}

// giveUp says why there are no more restarts.
func (s *slot) giveUp(last error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = fmt.Sprintf("failed %d times in a row, the last time: %s", s.strikes, cmp.Or(s.problem, last.Error()))
	if start, ok := errors.AsType[*StartError](last); ok {
		return start
	}
	return &StartError{Plugin: s.spec.Name, Reason: fmt.Sprintf("it failed %d times in a row: %s", s.strikes, last)}
}

// start makes the folder of the process anew and starts it.
func (s *slot) start(drain context.Context) (*process, error) {
	if err := remake(s.folder); err != nil {
		return nil, &StartError{Plugin: s.spec.Name, Reason: err.Error()}
	}
	return startProcess(drain, s)
}

// await waits for wait, or for a reload, before a restart and reports if there
// shall be one. With refuse it answers jobs meanwhile with why: they would wait
// for a thing that may never come, with nobody knowing.
func (s *slot) await(drain context.Context, wait <-chan time.Time, refuse bool, why error) bool {
	jobs := s.jobs
	if !refuse {
		jobs = nil
	}
	for {
		select {
		case <-wait:
			return true
		case <-s.revive:
			return true
		case <-drain.Done():
			return false
		case req := <-jobs:
			req.done <- answer{err: why}
		}
	}
}

// serve gives jobs to p until it dies, has to be killed, or drain ends.
func (s *slot) serve(drain, kill context.Context, p *process) {
	for {
		select {
		case <-p.runner.exited:
			p.abandon("")
			s.strikes++
			if time.Since(p.started) > s.backoff.max {
				s.backoff.reset()
				s.strikes = 1
			}
			return
		case <-drain.Done():
			s.set(StateStopping, p)
			p.shutDown(s.stopGrace)
			return
		case req := <-s.jobs:
			s.set(StateBusy, p)
			a, healthy := s.runJob(kill, p, req)
			if !healthy {
				p.abandon("was killed after a job that failed")
				if req.ctx.Err() == nil && (req.job.ID != s.crashedJob || s.strikes == 0) {
					s.strikes++
					s.crashedJob = req.job.ID
				}
				s.set(StateWaiting, nil) // before the answer: who is told asks for the state
				req.done <- a
				return
			}
			s.backoff.reset()
			s.strikes = 0
			s.set(StateReady, p)
			req.done <- a
		}
	}
}

// runJob does one job. healthy says if p can take another.
func (s *slot) runJob(kill context.Context, p *process, req *request) (a answer, healthy bool) {
	// What the answer of a plugin, or the caller's progress, can break ends this job only.
	defer func() {
		if v := recover(); v != nil {
			s.log.Error("panic in a plugin job", "job", req.job.ID, "panic", v, "stack", string(debug.Stack()))
			a = answer{err: &FailureError{Plugin: s.spec.Name, Reason: "the host itself failed at the job; the node's log has the stack"}}
			healthy = false
		}
	}()
	if err := req.ctx.Err(); err != nil {
		return answer{err: err}, true
	}
	ctx, cancel := context.WithTimeoutCause(req.ctx, s.spec.Deadline, errDeadline)
	defer cancel()
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	defer context.AfterFunc(kill, func() { stop(ErrStopped) })()

	job := req.job
	var identity *strings.Replacer
	job.Series, identity = withoutIdentity(job.Series)
	p.output.hide(identity)
	if job.Scratch == "" {
		job.Scratch = filepath.Join(s.folder, "job")
		if err := remake(job.Scratch); err != nil {
			return answer{err: &FailureError{Plugin: s.spec.Name, Reason: err.Error()}}, true
		}
		defer func() { _ = os.RemoveAll(job.Scratch) }() // the next job tries again and says so
	}
	result, err := p.client.Analyze(ctx, job, limitProgress(req.progress, p.output))
	if err != nil {
		err, healthy := s.judge(ctx, p, err)
		return answer{err: err}, healthy
	}
	numberFindings(result.Findings)
	result.Description = p.description
	return answer{result: result}, true
}

// judge turns what Analyze returned into an error of this package and says if
// the process can take another job.
func (s *slot) judge(ctx context.Context, p *process, err error) (_ error, healthy bool) {
	name := s.spec.Name
	code := status.Code(err)
	if code == codes.DeadlineExceeded || code == codes.Canceled {
		// The plugin's clock, or its notice of the cancelling, may be ahead of ours.
		waitFor(ctx.Done(), exitGrace)
	}
	if input, ok := errors.AsType[*api.InputError](err); ok {
		return &api.InputError{Reason: p.output.hideIn(input.Reason)}, true
	}
	if bad, ok := errors.AsType[*api.ResultError](err); ok {
		p.runner.kill("was killed because its answer broke the plugin contract")
		return &api.ResultError{Reason: p.output.hideIn(bad.Reason)}, false
	}
	if ctx.Err() != nil {
		return s.judgeCancelled(ctx, p)
	}
	// gRPC has no better mark for its own refusal, made before the message is decoded.
	if code == codes.ResourceExhausted && strings.Contains(status.Convert(err).Message(), "larger than max") {
		p.runner.kill("was killed because its answer broke the plugin contract")
		return &api.ResultError{Reason: fmt.Sprintf("a message larger than %d bytes", api.MaxEventBytes)}, false
	}
	if code == codes.Unavailable {
		p.awaitExit()
	}
	if p.hasExited() || code == codes.Unavailable {
		p.abandon("closed its connection and was killed")
		return &CrashError{Plugin: name, Reason: p.runner.ending(), LastOutput: p.output.String()}, false
	}
	reason := api.CleanText(p.output.hideIn(status.Convert(err).Message()), maxReasonBytes)
	// Unknown is how a plugin returns an error of its own. Anything else comes
	// from a process that has lost its way.
	return &FailureError{Plugin: name, Reason: reason, LastOutput: p.output.String()}, code == codes.Unknown
}

// judgeCancelled waits until the process has let go of a job that was cancelled
// or ran out of time, and has it killed if it does not: either way the folder
// of the job is free when Analyze returns.
func (s *slot) judgeCancelled(ctx context.Context, p *process) (_ error, healthy bool) {
	drain, cancel := context.WithTimeout(context.Background(), s.cancelGrace)
	defer cancel()
	if healthy = p.client.Drain(drain) == nil; !healthy {
		p.runner.kill("did not let go of a cancelled job and was killed")
	}
	switch cause := context.Cause(ctx); {
	case errors.Is(cause, errDeadline):
		return &DeadlineError{Plugin: s.spec.Name, Deadline: s.spec.Deadline, Killed: !healthy, LastOutput: p.output.String()}, healthy
	case errors.Is(cause, ErrStopped):
		return ErrStopped, healthy
	default:
		return ctx.Err(), healthy
	}
}

// limitProgress drops what comes faster than a person can read.
func limitProgress(progress api.Progress, out *output) api.Progress {
	if progress == nil {
		return nil
	}
	var last time.Time
	return func(fraction float64, message string) {
		if now := time.Now(); now.Sub(last) >= progressInterval {
			last = now
			progress(fraction, out.hideIn(message))
		}
	}
}

// numberFindings gives an id to findings that have none.
func numberFindings(findings []api.Finding) {
	used := make(map[string]bool, len(findings))
	for _, f := range findings {
		used[f.ID] = true
	}
	next := 0
	for i := range findings {
		for findings[i].ID == "" {
			next++
			if id := strconv.Itoa(next); !used[id] {
				findings[i].ID = id
			}
		}
	}
}

// remake makes an empty folder that nobody else can read.
func remake(folder string) error {
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("empty the plugin's folder: %w", err)
	}
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return fmt.Errorf("make the plugin's folder: %w", err)
	}
	return nil
}

func (s *slot) set(state State, p *process) {
	s.mu.Lock()
	s.state, s.process = state, p
	if p != nil {
		s.description = p.description
	}
	s.mu.Unlock()
	s.changed()
}

func (s *slot) now() (State, *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state, s.process
}

func (s *slot) setProblem(problem string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.problem = problem
}

func (s *slot) setOutput(o *output) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.output = o
}

func (s *slot) countRestart() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.restarts++
}
