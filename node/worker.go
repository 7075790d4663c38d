package node

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"time"

	"hilum/store"
)

// worker takes the jobs of one queue, one at a time, until its context ends.
type worker struct {
	store *store.Store
	queue string
	log   *slog.Logger
	now   func() time.Time
	// run does the job and moves it to its next state in the store. An error
	// means that it could not do so; the job is then put back.
	run func(ctx context.Context, j store.Job) error
	// hold returns until when no job shall be taken; nil: never.
	hold func() time.Time
}

// retryQueue is how long a worker waits after an error of the store.
const retryQueue = 5 * time.Second

// heldPause is the least time between two looks at a job that is due and yet not to be
// had, because another of its group goes first.
const heldPause = 20 * time.Millisecond

func (w worker) work(ctx context.Context) {
	for ctx.Err() == nil {
		changed := w.store.Changed() // before Lease: a change after it is not missed
		if w.hold != nil {
			if pause := w.hold().Sub(w.now()); pause > 0 {
				w.wait(ctx, changed, pause)
				continue
			}
		}
		job, ok, err := w.store.Lease(w.queue)
		switch {
		case err != nil:
			w.log.Error("no job taken, trying again", "queue", w.queue, "error", err)
			w.wait(ctx, nil, retryQueue)
		case ok:
			if err := w.safely(ctx, job); err != nil {
				w.log.Error("job not carried to its end, trying again", "job", job.ID, "queue", w.queue, "error", err)
				w.putBack(job, err)
				w.wait(ctx, nil, retryQueue)
			}
		default:
			pause := idle
			if at, ok := w.store.NextRetry(w.queue); ok {
				pause = max(at.Sub(w.now()), heldPause)
			}
			w.wait(ctx, changed, pause)
		}
	}
}

// wait returns when ctx ends, changed is closed or the pause is over.
func (w worker) wait(ctx context.Context, changed <-chan struct{}, pause time.Duration) {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-changed:
	case <-timer.C:
	}
}

// safely turns a panic in one job into an error of that job.
func (w worker) safely(ctx context.Context, job store.Job) (err error) {
	defer func() {
		if p := recover(); p != nil {
			w.log.Error("job panicked", "job", job.ID, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("a defect of Hilum stopped this job: %v (the log has the details)", p)
		}
	}()
	return w.run(ctx, job)
}

// putBack makes a job that is still marked running eligible again.
func (w worker) putBack(job store.Job, cause error) {
	_, err := w.store.UpdateJob(job.ID, func(j *store.Job) error {
		if j.State == store.JobRunning {
			j.State, j.Reason, j.NotBefore = store.JobRetry, cause.Error(), w.now().Add(retryQueue)
		}
		return nil
	})
	if err != nil { // it stays running, and the next start of the node queues it again
		w.log.Error("job not put back", "job", job.ID, "error", err)
	}
}

// interrupted puts a job back that the end of the node stopped, as if it had
// not been tried.
func interrupted(st *store.Store, job store.Job) error {
	_, err := st.UpdateJob(job.ID, func(j *store.Job) error {
		j.State, j.Reason = store.JobQueued, "interrupted by the end of the node"
		j.Attempts = max(j.Attempts-1, 0)
		return nil
	})
	return err
}
