package store_test

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hilum/store"
)

const benchSize = 526_000 // a CT slice of 512 x 512 with its header

// spread runs do(i, worker) for i in 0..n-1 on several goroutines.
func spread(n, workers int, do func(i, worker int) error) error {
	var next atomic.Int64
	var wg sync.WaitGroup
	errs := make(chan error, workers)
	for w := range workers {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				if err := do(i, w); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	wg.Wait()
	close(errs)
	return <-errs
}

// BenchmarkCommit commits images of 526 kB from several writers, each into its
// own series, and compares with the same bytes written to files of their own
// with one fdatasync each, by as many writers, just before. The metric x-raw is
// their ratio.
func BenchmarkCommit(b *testing.B) {
	data := image(1, benchSize)
	for _, writers := range []int{1, 4, 8} {
		b.Run(fmt.Sprintf("writers=%d", writers), func(b *testing.B) {
			dir := b.TempDir()
			begin := time.Now()
			err := spread(b.N, writers, func(i, _ int) error {
				f, err := os.Create(filepath.Join(dir, fmt.Sprint(i)))
				if err != nil {
					return err
				}
				defer f.Close()
				if _, err := f.Write(data); err != nil {
					return err
				}
				return unix.Fdatasync(int(f.Fd()))
			})
			raw := time.Since(begin)
			if err != nil {
				b.Fatal(err)
			}
			s, err := store.Open(b.TempDir(), store.Options{})
			if err != nil {
				b.Fatal(err)
			}
			b.SetBytes(benchSize)
			b.ResetTimer()
			err = spread(b.N, writers, func(i, w int) error { return benchPut(s, w, i, data) })
			b.StopTimer()
			took := b.Elapsed()
			if err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/took.Seconds(), "images/s")
			b.ReportMetric(raw.Seconds()/took.Seconds(), "x-raw")
			if err := s.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

func benchPut(s *store.Store, series, i int, data []byte) error {
	w, err := s.NewInstance()
	if err != nil {
		return err
	}
	defer w.Abort()
	for part := data; len(part) > 0; { // as PDUs bring them
		n := min(len(part), 128<<10)
		if _, err := w.Write(part[:n]); err != nil {
			return err
		}
		part = part[n:]
	}
	_, err = w.Commit(instance(fmt.Sprint("1.2.3.", series), fmt.Sprintf("1.2.3.%d.%d", series, i), i))
	return err
}

// BenchmarkFilled commits small images into stores that hold 1, 10 and 100
// thousand already, to the end of their filing: what it costs must not grow.
func BenchmarkFilled(b *testing.B) {
	data := image(1, 4000)
	for _, stored := range []int{1_000, 10_000, 100_000} {
		b.Run(fmt.Sprintf("stored=%d", stored), func(b *testing.B) {
			s, err := store.Open(b.TempDir(), store.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer s.Close()
			fill := func(from, n int) error {
				err := spread(n, 8, func(i, w int) error { return benchPut(s, (from+i)/500, from+i, data) })
				if err != nil {
					return err
				}
				return s.Flush(b.Context())
			}
			if err := fill(0, stored); err != nil {
				b.Fatal(err)
			}
			b.ResetTimer()
			if err := fill(stored, b.N); err != nil {
				b.Fatal(err)
			}
			b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "images/s")
		})
	}
}
