package volume

import (
	"context"
	"fmt"
	"runtime"
	"sync"
)

// maxJobs is how many scans are worked on at once unless somebody asks for
// more: each needs some 500 MB.
const maxJobs = 4

// Each calls work for every scan, jobs of them at once (below 1: as many as
// there are processors, at most 4), and tells it how many threads are its
// share. The first error ends the others, names its scan and is returned.
// done is called after each scan, from one goroutine at a time; nil is allowed.
func Each(ctx context.Context, scans []Scan, jobs int, done func(), work func(ctx context.Context, s Scan, threads int) error) error {
	processors := runtime.GOMAXPROCS(0)
	if jobs < 1 {
		jobs = min(maxJobs, processors)
	}
	jobs = min(jobs, len(scans))
	if jobs == 0 {
		return nil
	}
	threads := max(1, processors/jobs)
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var mu sync.Mutex // guards next and the calls of done
	next := 0
	var group sync.WaitGroup
	for range jobs {
		group.Go(func() {
			for {
				mu.Lock()
				n := next
				next++
				mu.Unlock()
				if n >= len(scans) || ctx.Err() != nil {
					return
				}
				if err := work(ctx, scans[n], threads); err != nil {
					cancel(fmt.Errorf("scan %s (%s): %w", scans[n].UID, scans[n].Path, err)) // the first is kept
					return
				}
				if done != nil {
					mu.Lock()
					done()
					mu.Unlock()
				}
			}
		})
	}
	group.Wait()
	return context.Cause(ctx)
}
