package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// DeleteSeries removes a series with its images, and what is in quarantine
// because of them; the space returns to the file system. Jobs stay. It waits
// for commits of the series that are under way; readers of its images get
// ErrNotFound.
func (s *Store) DeleteSeries(uid string) error {
	_, err := s.deleteSeries(uid, nil, nil)
	return err
}

// deleteSeries deletes a series, and jobs that have all ended, if still, where
// given, agrees. It reports whether it did.
func (s *Store) deleteSeries(uid string, still func(Series) bool, jobs []string) (bool, error) {
	s.mu.Lock()
	for s.deleting[uid] && !s.closed {
		s.cond.Wait()
	}
	if s.closed {
		s.mu.Unlock()
		return false, ErrClosed
	}
	s.deleting[uid] = true // new commits wait from here on
	for s.commits[uid] > 0 {
		s.cond.Wait()
	}
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		delete(s.deleting, uid)
		s.cond.Broadcast()
		s.mu.Unlock()
	}()

	s.filing.Lock() // nothing is filed from here on
	defer s.filing.Unlock()
	if still != nil {
		v, err := s.Series(uid)
		if err != nil || !still(v) {
			return false, err
		}
	}
	uids, err := s.filedUIDs(uid)
	if err != nil {
		return false, fmt.Errorf("delete series: %w", err)
	}
	s.mu.Lock()
	var waiting []*record
	if ps := s.series[uid]; ps != nil {
		waiting = ps.recs
	}
	s.seq++
	seq := s.seq
	s.mu.Unlock()
	found, refused := len(waiting) > 0, false
	err = s.index.update(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(bucketSeries)
		if bucket.Get([]byte(uid)) == nil && !found {
			return nil
		}
		found = true
		if refused = !jobsEnded(tx, jobs); refused {
			return nil
		}
		if err := s.deleteJobs(tx, jobs); err != nil {
			return err
		}
		instances := tx.Bucket(bucketInstances)
		for _, u := range uids {
			e, have, err := lookup(tx, u)
			if err != nil {
				return err
			}
			if have && e.series == uid {
				if err := instances.Delete([]byte(u)); err != nil {
					return err
				}
			}
		}
		if err := forgetQuarantine(tx, uid); err != nil {
			return err
		}
		meta := tx.Bucket(bucketMeta)
		if err := putUint(meta, keySeq, max(seq, getUint(meta, keySeq))); err != nil {
			return err
		}
		if err := putUint(tx.Bucket(bucketTombstones), []byte(uid), seq); err != nil {
			return err
		}
		return deleteSeriesRecord(tx, uid)
	})
	if err != nil {
		return false, fmt.Errorf("delete series: %w", err)
	}
	if refused {
		return false, nil
	}
	if !found {
		return false, fmt.Errorf("series %q: %w", uid, ErrNotFound)
	}
	s.mu.Lock()
	s.dismiss(waiting)
	s.mu.Unlock()
	s.removeTrash()
	return true, s.removeSeriesFile(uid)
}

// filedUIDs returns the UIDs that the index lists under a series. It asks the
// series file, and reads the whole index only when that file is damaged.
func (s *Store) filedUIDs(series string) (uids []string, err error) {
	f, err := s.files.acquire(series, false)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err == nil {
		defer s.files.release(f)
		err = view(f.db, func(tx *bbolt.Tx) error {
			return tx.Bucket(bucketImages).ForEach(func(k, _ []byte) error {
				uids = append(uids, string(k)) // keys of quarantined images are in no index
				return nil
			})
		})
	}
	if err == nil {
		return uids, nil
	}
	s.log.Warn("damaged series file, its images are looked up in the index", "series", series, "error", err)
	uids = nil
	err = s.index.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketInstances).ForEach(func(k, v []byte) error {
			e, err := decodeEntry(v)
			if e.series == series {
				uids = append(uids, string(k))
			}
			return err
		})
	})
	return uids, err
}

// removeSeriesFile unlinks the file of a series that the index has forgotten.
func (s *Store) removeSeriesFile(uid string) error {
	if err := s.files.block(uid, fileRemoved); err != nil {
		return fmt.Errorf("delete series file: %w", err)
	}
	defer s.files.unblock(uid)
	sub, name := seriesPath(uid)
	dir := filepath.Join(s.files.root, sub)
	err := os.Remove(filepath.Join(dir, name))
	if errors.Is(err, os.ErrNotExist) {
		return nil // never filed, or removed before
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return fmt.Errorf("delete series file: %w", err)
	}
	return nil
}

// finishDeletions removes files whose series was deleted just before a crash.
func (s *Store) finishDeletions() error {
	var uids []string
	err := s.index.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketTombstones).ForEach(func(k, _ []byte) error {
			if tx.Bucket(bucketSeries).Get(k) == nil {
				uids = append(uids, string(k))
			}
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, uid := range uids {
		if err := s.removeSeriesFile(uid); err != nil {
			return err
		}
	}
	return nil
}
