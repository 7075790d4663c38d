package store

import (
	"encoding/binary"
	"fmt"

	"go.etcd.io/bbolt"
)

// Retire deletes a series together with the jobs that concern it, in one step,
// if still says so of the series as it is when no image can arrive any more, and
// if all jobs have ended. It reports whether it did. Jobs that do not exist are
// no hindrance. still must be quick and must not call the store.
func (s *Store) Retire(uid string, jobs []string, still func(Series) bool) (bool, error) {
	gone, err := s.deleteSeries(uid, still, jobs)
	if gone {
		s.notify()
	}
	return gone, err
}

// DeleteJobs removes those of the given jobs that have ended.
func (s *Store) DeleteJobs(ids []string) error {
	return s.updateJobs(func(tx *bbolt.Tx) error {
		for _, id := range ids {
			if err := s.deleteJobs(tx, []string{id}); err != nil {
				return err
			}
		}
		return nil
	})
}

// jobsEnded reports whether all of the given jobs are done, dead or gone.
func jobsEnded(tx *bbolt.Tx, ids []string) bool {
	for _, id := range ids {
		n, err := jobNumber(id)
		if err != nil || tx.Bucket(bucketJobs).Get(binary.BigEndian.AppendUint64(nil, n)) == nil {
			continue
		}
		if j, err := getJob(tx, n); err != nil || j.State != JobDone && j.State != JobDead {
			return false
		}
	}
	return true
}

// deleteJobs removes the given jobs unless one of them has not ended.
func (s *Store) deleteJobs(tx *bbolt.Tx, ids []string) error {
	if !jobsEnded(tx, ids) {
		return nil
	}
	for _, id := range ids {
		n, err := jobNumber(id)
		if err != nil {
			continue
		}
		key := binary.BigEndian.AppendUint64(nil, n)
		if tx.Bucket(bucketJobs).Get(key) == nil {
			continue
		}
		j, err := getJob(tx, n)
		if err != nil {
			return fmt.Errorf("delete job: %w", err)
		}
		if err := tx.Bucket(bucketJobStates).Delete(stateKey(n, &j)); err != nil {
			return err
		}
		if err := tx.Bucket(bucketJobKeys).Delete([]byte(j.Queue + "\x00" + j.Key)); err != nil {
			return err
		}
		if err := tx.Bucket(bucketJobs).Delete(key); err != nil {
			return err
		}
	}
	return nil
}
