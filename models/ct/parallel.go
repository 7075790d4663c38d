package ct

import (
	"runtime"
	"sync"
	"sync/atomic"
)

// chunksPerThread is how many pieces of work each thread gets on average: some
// slices hold much lung and others none, so equal halves would not end together.
const chunksPerThread = 8

// threadCount returns the number of threads to use: threads, or one for each
// processor when threads is not positive.
func threadCount(threads int) int {
	if threads > 0 {
		return threads
	}
	return runtime.GOMAXPROCS(0)
}

// parallel calls work for consecutive ranges [lo,hi) that together are [0,n),
// on several goroutines, and returns when all calls have returned.
func parallel(n, threads int, work func(lo, hi int)) {
	threads = min(threadCount(threads), n)
	if threads <= 1 {
		if n > 0 {
			work(0, n)
		}
		return
	}
	chunk := max(1, n/(threads*chunksPerThread))
	var next atomic.Int64
	var wg sync.WaitGroup
	for range threads {
		wg.Go(func() {
			for {
				hi := int(next.Add(int64(chunk)))
				lo := hi - chunk
				if lo >= n {
					return
				}
				work(lo, min(hi, n))
			}
		})
	}
	wg.Wait()
}
