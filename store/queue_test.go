package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hilum/store"
	"hilum/store/storetest"
)

func enqueue(t *testing.T, s *store.Store, queue, key string) store.Job {
	t.Helper()
	j, added, err := s.Enqueue(store.Job{Queue: queue, Key: key, Payload: json.RawMessage(`{"k":"` + key + `"}`)})
	if err != nil || !added {
		t.Fatalf("Enqueue(%s, %s) = %v, %v, want a new job", queue, key, added, err)
	}
	return j
}

func lease(t *testing.T, s *store.Store, queue, wantKey string) store.Job {
	t.Helper()
	j, ok, err := s.Lease(queue)
	if err != nil || ok != (wantKey != "") || j.Key != wantKey {
		t.Fatalf("Lease(%s) = %q, %v, %v, want %q", queue, j.Key, ok, err, wantKey)
	}
	return j
}

func TestQueueOrder(t *testing.T) {
	s := storetest.MustOpen(t)
	for i := range 12 { // more than nine: numbers must not sort as text
		enqueue(t, s, "analysis", fmt.Sprint("k", i))
	}
	enqueue(t, s, "delivery/pacs", "d")
	if old, added, err := s.Enqueue(store.Job{Queue: "analysis", Key: "k3"}); err != nil || added || old.ID != "4" {
		t.Errorf("second Enqueue of a key = job %s, %v, %v, want job 4 as it is", old.ID, added, err)
	}
	for i := range 12 {
		j := lease(t, s, "analysis", fmt.Sprint("k", i))
		if j.State != store.JobRunning || j.Attempts != 1 || string(j.Payload) != fmt.Sprintf(`{"k":"k%d"}`, i) {
			t.Errorf("leased job = %+v, want running, first attempt, its payload", j)
		}
	}
	lease(t, s, "analysis", "")
	lease(t, s, "delivery/pacs", "d")
	jobs, err := s.Jobs("analysis")
	if all, aerr := s.Jobs(""); err != nil || aerr != nil || len(jobs) != 12 || len(all) != 13 || jobs[11].ID != "12" {
		t.Errorf("Jobs = %d of %d (%v), want 12 of 13 in order", len(jobs), len(all), errors.Join(err, aerr))
	}
}

// TestPeekAndLeaseJob: a job that was looked at can be taken once, and only
// while it is ready.
func TestPeekAndLeaseJob(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := storetest.MustOpenDir(t, t.TempDir(), store.Options{Now: func() time.Time { return now }})
	if _, ok, err := s.Peek("q"); ok || err != nil {
		t.Errorf("Peek of an empty queue = %v, %v", ok, err)
	}
	enqueue(t, s, "q", "first")
	second := enqueue(t, s, "q", "second")
	if j, ok, err := s.Peek("q"); !ok || err != nil || j.Key != "first" || j.State != store.JobQueued || j.Attempts != 0 {
		t.Errorf("Peek = %+v, %v, %v, want first as it is", j, ok, err)
	}
	if j, ok, err := s.LeaseJob(second.ID); !ok || err != nil || j.State != store.JobRunning || j.Attempts != 1 {
		t.Errorf("LeaseJob = %+v, %v, %v, want second running", j, ok, err)
	}
	if _, ok, err := s.LeaseJob(second.ID); ok || err != nil {
		t.Errorf("LeaseJob of a running job = %v, %v", ok, err)
	}
	if _, err := s.UpdateJob(second.ID, func(j *store.Job) error {
		j.State, j.NotBefore = store.JobRetry, now.Add(time.Minute)
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if _, ok, err := s.LeaseJob(second.ID); ok || err != nil {
		t.Errorf("LeaseJob before the retry is due = %v, %v", ok, err)
	}
	now = now.Add(time.Minute)
	if j, ok, err := s.LeaseJob(second.ID); !ok || err != nil || j.Attempts != 2 {
		t.Errorf("LeaseJob of a due retry = %+v, %v, %v", j, ok, err)
	}
	if _, _, err := s.LeaseJob("99"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("LeaseJob of no job = %v", err)
	}
	if j, ok, err := s.FindJob("q", "first"); !ok || err != nil || j.ID != "1" {
		t.Errorf("FindJob = %+v, %v, %v", j, ok, err)
	}
	if _, ok, err := s.FindJob("q", "third"); ok || err != nil {
		t.Errorf("FindJob of no job = %v, %v", ok, err)
	}
}

func TestRetryAndWaiting(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := storetest.MustOpenDir(t, t.TempDir(), store.Options{Now: func() time.Time { return now }})
	first := enqueue(t, s, "q", "first")
	second := enqueue(t, s, "q", "second")
	lease(t, s, "q", "first")
	lease(t, s, "q", "second")
	retry := func(id string, in time.Duration) {
		t.Helper()
		if _, err := s.UpdateJob(id, func(j *store.Job) error {
			j.State, j.Reason, j.NotBefore = store.JobRetry, "peer away", now.Add(in)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	retry(first.ID, time.Minute)
	retry(second.ID, time.Second)
	if at, ok := s.NextRetry("q"); !ok || !at.Equal(now.Add(time.Second)) {
		t.Errorf("NextRetry = %v, %v, want in one second", at, ok)
	}
	if _, ok := s.NextRetry("other"); ok {
		t.Error("NextRetry of an empty queue says there is one")
	}
	lease(t, s, "q", "")
	now = now.Add(2 * time.Second)
	if j := lease(t, s, "q", "second"); j.Attempts != 2 || j.Reason != "peer away" || !j.NotBefore.IsZero() {
		t.Errorf("retried job = %+v, want a second attempt with its reason", j)
	}
	now = now.Add(time.Hour)
	lease(t, s, "q", "first")
	// Waiting jobs are not handed out until somebody queues them.
	w, _, err := s.Enqueue(store.Job{Queue: "q", Key: "w", State: store.JobWaiting})
	if err != nil {
		t.Fatal(err)
	}
	lease(t, s, "q", "")
	if _, err := s.UpdateJob(w.ID, func(j *store.Job) error { j.State = store.JobQueued; j.Key = "x"; return nil }); err != nil {
		t.Fatal(err)
	}
	lease(t, s, "q", "w") // the key is not the caller's to change
}

func TestUpdateJobErrors(t *testing.T) {
	s := storetest.MustOpen(t)
	j := enqueue(t, s, "q", "k")
	refuse := errors.New("no")
	if _, err := s.UpdateJob(j.ID, func(j *store.Job) error { j.State = store.JobDead; return refuse }); !errors.Is(err, refuse) {
		t.Errorf("UpdateJob = %v, want the error of fn", err)
	}
	for _, id := range []string{"99", "x", ""} {
		if _, err := s.UpdateJob(id, func(*store.Job) error { return nil }); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("UpdateJob(%q) = %v, want ErrNotFound", id, err)
		}
		if _, err := s.Job(id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("Job(%q) = %v, want ErrNotFound", id, err)
		}
	}
	for _, bad := range []store.Job{{Queue: "q"}, {Key: "k"}, {Queue: "q\x00", Key: "k"}, {Queue: "q", Key: "z", Payload: json.RawMessage("{")}} {
		if _, _, err := s.Enqueue(bad); err == nil {
			t.Errorf("Enqueue(%+v) succeeded", bad)
		}
		if err := s.FinishJob(j.ID, func(j *store.Job) error { j.State = store.JobDone; return nil }, bad); err == nil {
			t.Errorf("FinishJob with next %+v succeeded", bad)
		}
	}
	if got, err := s.Job(j.ID); err != nil || got.State != store.JobQueued {
		t.Errorf("Job = %+v (%v), want it unchanged", got, err)
	}
}

func TestRestartMidJob(t *testing.T) {
	dir := t.TempDir()
	s := storetest.MustOpenDir(t, dir, store.Options{})
	enqueue(t, s, "analysis", "a")
	enqueue(t, s, "analysis", "b")
	done := enqueue(t, s, "analysis", "c")
	running := lease(t, s, "analysis", "a")
	lease(t, s, "analysis", "b")
	lease(t, s, "analysis", "c")
	err := s.FinishJob(done.ID, func(j *store.Job) error {
		j.State, j.Result = store.JobDone, json.RawMessage(`[1]`)
		return nil
	}, store.Job{Queue: "delivery/pacs", Key: "c"}, store.Job{Queue: "analysis", Key: "a"})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = storetest.MustOpenDir(t, dir, store.Options{})
	lease(t, s, "analysis", "")
	if n, err := s.RequeueRunning(); n != 2 || err != nil {
		t.Errorf("RequeueRunning = %d, %v, want 2", n, err)
	}
	j := lease(t, s, "analysis", "a")
	if j.ID != running.ID || j.Attempts != 2 || j.Reason != "interrupted by a restart" {
		t.Errorf("job after a restart = %+v, want job %s, second attempt, with the reason", j, running.ID)
	}
	lease(t, s, "delivery/pacs", "c")
	if j, err := s.Job(done.ID); err != nil || j.State != store.JobDone || string(j.Result) != "[1]" {
		t.Errorf("finished job = %+v (%v), want done with its result", j, err)
	}
}

// TestChanged wakes workers that wait for work, and when the store closes.
func TestChanged(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := store.Open(dir, store.Options{})
		if err != nil {
			t.Fatal(err)
		}
		took := make(chan string)
		stop := make(chan struct{})
		var wg sync.WaitGroup
		for range 3 {
			wg.Add(1)
			go func() {
				defer wg.Done()
				for {
					changed := s.Changed()
					j, ok, err := s.Lease("q")
					switch {
					case errors.Is(err, store.ErrClosed):
						return
					case err != nil:
						t.Error(err)
						return
					case ok:
						took <- j.Key
						continue
					}
					select {
					case <-changed:
					case <-stop:
						return
					}
				}
			}()
		}
		synctest.Wait() // all of them wait now
		for i := range 5 {
			enqueue(t, s, "q", fmt.Sprint(i))
			if got := <-took; got != fmt.Sprint(i) {
				t.Errorf("worker took %q, want %d", got, i)
			}
		}
		synctest.Wait()
		if err := s.Close(); err != nil { // wakes them, or stop does
			t.Error(err)
		}
		close(stop)
		wg.Wait()
	})
}

// TestLeaseOnce leases from many goroutines at once: no job runs twice.
func TestLeaseOnce(t *testing.T) {
	s := storetest.MustOpen(t)
	const jobs = 40
	var wg sync.WaitGroup
	for i := range jobs {
		wg.Add(1)
		go func() {
			defer wg.Done()
			if _, _, err := s.Enqueue(store.Job{Queue: "q", Key: fmt.Sprint(i)}); err != nil {
				t.Error(err)
			}
		}()
	}
	wg.Wait()
	var mu sync.Mutex
	seen := map[string]int{}
	for range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for {
				j, ok, err := s.Lease("q")
				if err != nil || !ok {
					return
				}
				mu.Lock()
				seen[j.ID]++
				mu.Unlock()
			}
		}()
	}
	wg.Wait()
	for id, n := range seen {
		if n != 1 {
			t.Errorf("job %s was leased %d times", id, n)
		}
	}
	if len(seen) != jobs {
		t.Errorf("%d jobs were leased, want %d", len(seen), jobs)
	}
}

// TestGroup: within a group an older job that waits for its retry holds up the younger;
// other groups, and jobs of none, pass; what is done, dead or waiting holds up nobody.
func TestGroup(t *testing.T) {
	now := time.Unix(1_000_000, 0)
	s := storetest.MustOpenDir(t, t.TempDir(), store.Options{Now: func() time.Time { return now }})
	put := func(key, group string) store.Job {
		j, _, err := s.Enqueue(store.Job{Queue: "q", Key: key, Group: group})
		if err != nil {
			t.Fatal(err)
		}
		return j
	}
	set := func(j store.Job, state store.JobState, in time.Duration) {
		if _, err := s.UpdateJob(j.ID, func(j *store.Job) error {
			j.State, j.NotBefore, j.Group = state, now.Add(in), "a group stays what it was"
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	put("a1", "a")
	put("a2", "a")
	put("b1", "b")
	put("none", "")
	a1 := lease(t, s, "q", "a1")
	lease(t, s, "q", "b1") // a2 is held up by a1, which runs
	set(a1, store.JobRetry, time.Minute)
	lease(t, s, "q", "none")
	lease(t, s, "q", "")
	now = now.Add(time.Minute)
	lease(t, s, "q", "a1") // due again, and the oldest
	lease(t, s, "q", "")
	set(a1, store.JobWaiting, 0)
	a2 := lease(t, s, "q", "a2")
	set(a1, store.JobQueued, 0) // by hand
	set(a2, store.JobRetry, 0)
	lease(t, s, "q", "a1")
	lease(t, s, "q", "")
	set(a1, store.JobDead, 0)
	lease(t, s, "q", "a2")
}
