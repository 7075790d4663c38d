package task

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"

	"hilum/store"
)

// Retry says how often and when a job that failed is tried again.
type Retry struct {
	Attempts            int // 0: as long as it takes
	Backoff, MaxBackoff time.Duration
}

// Settle moves a job on after a try: done with this reason where err is nil;
// queued again, as if not tried, where ctx has ended; dead where permanent says so
// or the attempts are used up; else tried again after the back-off, with a jitter
// that keeps peers that return from being met by all at once.
func (r Retry) Settle(ctx context.Context, st *store.Store, job store.Job, now time.Time, done string, err error, permanent bool) error {
	_, updateErr := st.UpdateJob(job.ID, func(j *store.Job) error {
		switch {
		case err == nil:
			j.State, j.Reason = store.JobDone, done
		case ctx.Err() != nil:
			j.State, j.Reason = store.JobQueued, "interrupted by the end of the node"
			j.Attempts = max(j.Attempts-1, 0)
		case permanent:
			j.State, j.Reason = store.JobDead, err.Error()
		case r.Attempts > 0 && job.Attempts >= r.Attempts:
			j.State, j.Reason = store.JobDead, fmt.Sprintf("given up after %d attempts: %v", job.Attempts, err)
		default:
			wait := Backoff(job.Attempts, r.Backoff, r.MaxBackoff)
			wait += time.Duration(rand.Int64N(int64(wait)/4 + 1))
			j.State, j.Reason, j.NotBefore = store.JobRetry, err.Error(), now.Add(wait)
		}
		return nil
	})
	return updateErr
}
