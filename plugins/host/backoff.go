package host

import "time"

// backoff says how long to wait before a restart: not at all after the first
// failure, then min, 2 min, 4 min, …, at most max. A process that has answered
// a job (whatever the answer), or has lived longer than max, resets it.
type backoff struct {
	min, max time.Duration
	failures int
}

func (b *backoff) next() time.Duration {
	b.failures++
	if b.failures == 1 {
		return 0
	}
	wait := b.min
	for i := 2; i < b.failures && wait < b.max; i++ {
		wait *= 2
	}
	return min(wait, b.max)
}

func (b *backoff) reset() { b.failures = 0 }
