package store

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.etcd.io/bbolt"
)

// The queue lies in three buckets of index.db:
//
//	jobs       number                                        -> Job
//	jobkeys    queue 0 key                                   -> number
//	jobstates  queue 0 state 0 [NotBefore in ns, for retry] number -> nothing
//
// Numbers and times are 8 bytes, big endian, so that keys sort by them.

// maxName bounds the names of queues and keys, well below what bbolt takes.
const maxName = 1024

// Changed returns a channel that is closed at the next change of any job, and
// when the store closes. Take it before looking for work:
//
//	for {
//		changed := s.Changed()
//		job, ok, err := s.Lease(queue)
//		…
//		<-changed
//	}
func (s *Store) Changed() <-chan struct{} {
	s.changeMu.Lock()
	defer s.changeMu.Unlock()
	return s.changed
}

// notify wakes all who wait on Changed.
func (s *Store) notify() {
	s.changeMu.Lock()
	defer s.changeMu.Unlock()
	close(s.changed)
	s.changed = make(chan struct{})
}

// Enqueue adds a job, with State queued unless it has one. When a job with the
// same Queue and Key exists, that one is returned with false.
func (s *Store) Enqueue(j Job) (Job, bool, error) {
	var added bool
	err := s.updateJobs(func(tx *bbolt.Tx) (err error) {
		j, added, err = s.enqueue(tx, j)
		return err
	})
	return j, added, err
}

// Lease takes the oldest job of a queue that is queued, or whose retry is due,
// and makes it running with one more attempt. A job is passed over while an older
// one of its group runs or waits for its retry: within a group the order is kept.
// It returns false when there is none.
func (s *Store) Lease(queue string) (Job, bool, error) {
	// Most calls find nothing: they cost no write.
	var ready bool
	err := s.index.view(func(tx *bbolt.Tx) error {
		var err error
		_, ready, err = s.nextJob(tx, queue)
		return err
	})
	if err != nil || !ready {
		return Job{}, false, unwrapLogical(err)
	}
	var j Job
	var ok bool
	err = s.updateJobs(func(tx *bbolt.Tx) error {
		var n uint64
		var err error
		if n, ok, err = s.nextJob(tx, queue); !ok || err != nil {
			return err
		}
		if j, err = getJob(tx, n); err != nil {
			ok = false
			return err
		}
		old := j
		j.State, j.NotBefore = JobRunning, time.Time{}
		j.Attempts++
		return s.putJob(tx, n, &old, &j)
	})
	if err != nil {
		return Job{}, false, err
	}
	return j, ok, nil
}

// FindJob returns the job with this Queue and Key, if there is one.
func (s *Store) FindJob(queue, key string) (j Job, ok bool, err error) {
	err = s.index.view(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketJobKeys).Get([]byte(queue + "\x00" + key))
		if len(b) != 8 {
			return nil
		}
		j, err = getJob(tx, binary.BigEndian.Uint64(b))
		ok = err == nil
		return err
	})
	return j, ok, unwrapLogical(err)
}

// Peek returns the job that Lease would take, and leaves it where it is.
func (s *Store) Peek(queue string) (j Job, ok bool, err error) {
	err = s.index.view(func(tx *bbolt.Tx) error {
		n, ready, err := s.nextJob(tx, queue)
		if !ready || err != nil {
			return err
		}
		j, err = getJob(tx, n)
		ok = err == nil
		return err
	})
	return j, ok, unwrapLogical(err)
}

// LeaseJob takes one job as Lease does, if it is still queued or its retry is due.
func (s *Store) LeaseJob(id string) (j Job, ok bool, err error) {
	n, err := jobNumber(id)
	if err != nil {
		return Job{}, false, err
	}
	err = s.updateJobs(func(tx *bbolt.Tx) (err error) {
		ok = false
		if j, err = getJob(tx, n); err != nil {
			return err
		}
		if j.State != JobQueued && (j.State != JobRetry || j.NotBefore.After(s.o.Now())) {
			return nil
		}
		old := j
		j.State, j.NotBefore = JobRunning, time.Time{}
		j.Attempts++
		ok = true
		return s.putJob(tx, n, &old, &j)
	})
	if err != nil {
		return Job{}, false, err
	}
	return j, ok, nil
}

// UpdateJob changes a job durably. ID, Queue, Key, Group and Created stay as they are.
// fn must be quick and must not call the store. An error of fn changes nothing
// and is returned.
func (s *Store) UpdateJob(id string, fn func(*Job) error) (Job, error) {
	var j Job
	err := s.updateJobs(func(tx *bbolt.Tx) (err error) {
		j, err = s.changeJob(tx, id, fn)
		return err
	})
	return j, err
}

// FinishJob changes a job and enqueues others in one transaction: after a crash
// either all of it has happened or nothing. Of next, jobs that exist already are
// left as they are.
func (s *Store) FinishJob(id string, fn func(*Job) error, next ...Job) error {
	return s.updateJobs(func(tx *bbolt.Tx) error {
		for _, j := range next { // before anything is written
			if err := checkJob(j); err != nil {
				return logical(err)
			}
		}
		if _, err := s.changeJob(tx, id, fn); err != nil {
			return err
		}
		for _, j := range next {
			if _, _, err := s.enqueue(tx, j); err != nil {
				return unwrapLogical(err) // the first change must not stand alone
			}
		}
		return nil
	})
}

// Job returns a job, or ErrNotFound.
func (s *Store) Job(id string) (j Job, err error) {
	n, err := jobNumber(id)
	if err != nil {
		return Job{}, err
	}
	err = s.index.view(func(tx *bbolt.Tx) error {
		j, err = getJob(tx, n)
		return err
	})
	return j, unwrapLogical(err)
}

// Jobs returns the jobs of a queue, of all queues for "", oldest first.
func (s *Store) Jobs(queue string) ([]Job, error) {
	var jobs []Job
	err := s.index.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketJobs).ForEach(func(_, b []byte) error {
			var j Job
			if err := json.Unmarshal(b, &j); err != nil {
				return fmt.Errorf("job: %w: %w", ErrDamaged, err)
			}
			if queue == "" || j.Queue == queue {
				jobs = append(jobs, j)
			}
			return nil
		})
	})
	return jobs, err
}

// RequeueRunning queues again what ran when a former process ended, and returns
// how many jobs that were. It is called before the first Lease.
func (s *Store) RequeueRunning() (int, error) {
	count := 0
	err := s.updateJobs(func(tx *bbolt.Tx) error {
		var numbers []uint64
		err := tx.Bucket(bucketJobs).ForEach(func(k, b []byte) error {
			var j Job
			err := json.Unmarshal(b, &j)
			if j.State == JobRunning {
				numbers = append(numbers, binary.BigEndian.Uint64(k))
			}
			return err
		})
		if err != nil {
			return fmt.Errorf("job: %w: %w", ErrDamaged, err)
		}
		for _, n := range numbers {
			j, err := getJob(tx, n)
			if err != nil {
				return err
			}
			old := j
			j.State, j.Reason = JobQueued, "interrupted by a restart"
			if err := s.putJob(tx, n, &old, &j); err != nil {
				return err
			}
		}
		count = len(numbers)
		return nil
	})
	return count, err
}

// NextRetry returns the earliest time at which a retry of the queue is due.
func (s *Store) NextRetry(queue string) (at time.Time, ok bool) {
	err := s.index.view(func(tx *bbolt.Tx) error {
		prefix := statePrefix(queue, JobRetry)
		k, _ := tx.Bucket(bucketJobStates).Cursor().Seek(prefix)
		if bytes.HasPrefix(k, prefix) && len(k) == len(prefix)+16 {
			at, ok = time.Unix(0, int64(binary.BigEndian.Uint64(k[len(prefix):]))), true
		}
		return nil
	})
	return at, ok && err == nil
}

// logicalError is an error of one job that leaves the transaction, which others
// may share, as it is.
type logicalError struct{ err error }

func (e *logicalError) Error() string { return e.err.Error() }
func (e *logicalError) Unwrap() error { return e.err }

func logical(err error) error { return &logicalError{err} }

func unwrapLogical(err error) error {
	if l := (*logicalError)(nil); errors.As(err, &l) {
		return l.err
	}
	return err
}

// updateJobs runs fn in a grouped transaction and tells the workers.
func (s *Store) updateJobs(fn func(*bbolt.Tx) error) error {
	var own error
	err := s.index.update(func(tx *bbolt.Tx) error {
		own = nil
		err := fn(tx)
		if l := (*logicalError)(nil); errors.As(err, &l) {
			own = l.err
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	if own == nil {
		s.notify()
	}
	return own
}

func checkJob(j Job) error {
	switch {
	case j.Queue == "" || j.Key == "":
		return errors.New("enqueue job: it has no queue or no key")
	case len(j.Queue) > maxName || len(j.Key) > maxName || strings.ContainsRune(j.Queue, 0):
		return fmt.Errorf("enqueue job: the name of its queue or its key is longer than %d characters or holds a zero byte", maxName)
	case j.Payload != nil && !json.Valid(j.Payload) || j.Result != nil && !json.Valid(j.Result):
		return errors.New("enqueue job: its payload is not JSON")
	}
	return nil
}

func (s *Store) enqueue(tx *bbolt.Tx, j Job) (Job, bool, error) {
	if err := checkJob(j); err != nil {
		return Job{}, false, logical(err)
	}
	keys := tx.Bucket(bucketJobKeys)
	key := []byte(j.Queue + "\x00" + j.Key)
	if b := keys.Get(key); len(b) == 8 {
		old, err := getJob(tx, binary.BigEndian.Uint64(b))
		return old, false, err
	}
	n, err := tx.Bucket(bucketJobs).NextSequence()
	if err != nil {
		return Job{}, false, err
	}
	if err := putUint(keys, key, n); err != nil {
		return Job{}, false, err
	}
	j.ID = strconv.FormatUint(n, 10)
	if j.State == "" {
		j.State = JobQueued
	}
	j.Created = s.o.Now().UTC()
	return j, true, s.putJob(tx, n, nil, &j)
}

// nextJob finds the job that Lease takes.
func (s *Store) nextJob(tx *bbolt.Tx, queue string) (uint64, bool, error) {
	// What runs or waits for its retry holds up its group.
	held := map[string]uint64{}
	hold := func(n uint64) error {
		j, err := getJob(tx, n)
		if err != nil || j.Group == "" {
			return err
		}
		if first, ok := held[j.Group]; !ok || n < first {
			held[j.Group] = n
		}
		return nil
	}
	var due []uint64
	c := tx.Bucket(bucketJobStates).Cursor()
	prefix := statePrefix(queue, JobRetry)
	now := uint64(max(0, s.o.Now().UnixNano()))
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix) && len(k) == len(prefix)+16; k, _ = c.Next() {
		n := binary.BigEndian.Uint64(k[len(prefix)+8:])
		if binary.BigEndian.Uint64(k[len(prefix):]) <= now {
			due = append(due, n)
		} else if err := hold(n); err != nil {
			return 0, false, err
		}
	}
	prefix = statePrefix(queue, JobRunning)
	for k, _ := c.Seek(prefix); bytes.HasPrefix(k, prefix) && len(k) == len(prefix)+8; k, _ = c.Next() {
		if err := hold(binary.BigEndian.Uint64(k[len(prefix):])); err != nil {
			return 0, false, err
		}
	}
	free := func(n uint64) (bool, error) {
		if len(held) == 0 {
			return true, nil
		}
		j, err := getJob(tx, n)
		first, isHeld := held[j.Group]
		return !isHeld || n < first, err
	}
	slices.Sort(due)
	prefix = statePrefix(queue, JobQueued)
	k, _ := c.Seek(prefix)
	for {
		queued := bytes.HasPrefix(k, prefix) && len(k) == len(prefix)+8
		if !queued && len(due) == 0 {
			return 0, false, nil
		}
		var n uint64
		if queued {
			n = binary.BigEndian.Uint64(k[len(prefix):])
		}
		if len(due) > 0 && (!queued || due[0] < n) {
			n, due = due[0], due[1:]
		} else {
			k, _ = c.Next()
		}
		if ok, err := free(n); ok || err != nil {
			return n, ok, err
		}
	}
}

func (s *Store) changeJob(tx *bbolt.Tx, id string, fn func(*Job) error) (Job, error) {
	n, err := jobNumber(id)
	if err != nil {
		return Job{}, logical(err)
	}
	j, err := getJob(tx, n)
	if err != nil {
		return Job{}, err
	}
	old := j
	if err := fn(&j); err != nil {
		return Job{}, logical(err)
	}
	j.ID, j.Queue, j.Key, j.Group, j.Created = old.ID, old.Queue, old.Key, old.Group, old.Created
	if err := checkJob(j); err != nil {
		return Job{}, logical(err)
	}
	return j, s.putJob(tx, n, &old, &j)
}

// putJob writes a job and keeps the state index in step. old is nil for a new
// job.
func (s *Store) putJob(tx *bbolt.Tx, n uint64, old, j *Job) error {
	j.Updated = s.o.Now().UTC()
	states := tx.Bucket(bucketJobStates)
	if old != nil {
		if err := states.Delete(stateKey(n, old)); err != nil {
			return err
		}
	}
	if err := states.Put(stateKey(n, j), nil); err != nil {
		return err
	}
	return putJSON(tx.Bucket(bucketJobs), binary.BigEndian.AppendUint64(nil, n), j)
}

func statePrefix(queue string, state JobState) []byte {
	return []byte(queue + "\x00" + string(state) + "\x00")
}

func stateKey(n uint64, j *Job) []byte {
	k := statePrefix(j.Queue, j.State)
	if j.State == JobRetry {
		k = binary.BigEndian.AppendUint64(k, uint64(max(0, j.NotBefore.UnixNano())))
	}
	return binary.BigEndian.AppendUint64(k, n)
}

func jobNumber(id string) (uint64, error) {
	n, err := strconv.ParseUint(id, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("job %q: %w", id, ErrNotFound)
	}
	return n, nil
}

// getJob reads a job; one that is missing is a logical error.
func getJob(tx *bbolt.Tx, n uint64) (Job, error) {
	b := tx.Bucket(bucketJobs).Get(binary.BigEndian.AppendUint64(nil, n))
	if b == nil {
		return Job{}, logical(fmt.Errorf("job %d: %w", n, ErrNotFound))
	}
	var j Job
	if err := json.Unmarshal(b, &j); err != nil {
		return Job{}, logical(fmt.Errorf("job %d: %w: %w", n, ErrDamaged, err))
	}
	return j, nil
}
