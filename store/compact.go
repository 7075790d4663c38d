package store

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"go.etcd.io/bbolt"
)

// compactTx bounds a transaction of a compaction, which bbolt holds in memory.
const compactTx = 16 << 20

// CompactReport is what a compaction did.
type CompactReport struct {
	Files  int   `json:"files"`  // looked at
	Before int64 `json:"before"` // bytes of these files
	After  int64 `json:"after"`
}

// Compact copies every series file without the pages that it does not use. The
// store stays in use; who needs a file while it is copied waits. The index is
// compacted by CompactIndex, when the store is closed.
func (s *Store) Compact(ctx context.Context) (CompactReport, error) {
	var r CompactReport
	uids, err := s.seriesUIDs()
	if err != nil {
		return r, err
	}
	for _, uid := range uids {
		if err := ctx.Err(); err != nil {
			return r, err
		}
		if err := s.compactSeries(uid, &r); err != nil {
			return r, fmt.Errorf("compact series %s: %w", uid, err)
		}
	}
	return r, nil
}

func (s *Store) compactSeries(uid string, r *CompactReport) error {
	s.filing.Lock()
	defer s.filing.Unlock()
	sub, name := seriesPath(uid)
	path := filepath.Join(s.files.root, sub, name)
	st, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // all of it is in the journal, or it was deleted
	}
	if err != nil {
		return err
	}
	if err := s.checkSpace(st.Size() / 2); err != nil {
		return err
	}
	if err := s.files.block(uid, fileMoved); err != nil {
		return err
	}
	defer s.files.unblock(uid)
	return compactFile(path, r)
}

// CompactIndex compacts the index of a data folder that no process uses.
func CompactIndex(dir string) (r CompactReport, err error) {
	lock, err := lockFolder(dir)
	if err != nil {
		return r, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if err := compactFile(filepath.Join(dir, indexName), &r); err != nil {
		return r, fmt.Errorf("compact the index: %w", err)
	}
	return r, nil
}

// compactFile puts a copy without free pages in the place of a bbolt file, in one
// step, if the copy is smaller.
func compactFile(path string, r *CompactReport) (err error) {
	before, err := os.Stat(path)
	if err != nil {
		return err
	}
	temp := path + ".new"
	size, err := copyUsed(path, temp)
	if err == nil && size < before.Size() {
		if err = os.Rename(temp, path); err == nil {
			err = syncDir(filepath.Dir(path))
		}
	} else {
		size = before.Size()
		err = errors.Join(err, ignoreMissing(os.Remove(temp)))
	}
	if err != nil {
		return writeError("copy", err)
	}
	r.Files++
	r.Before += before.Size()
	r.After += size
	return nil
}

// copyUsed copies the content of a bbolt file into a new one, durably, and
// returns its size.
func copyUsed(from, to string) (size int64, err error) {
	defer catch(&err)
	if err := ignoreMissing(os.Remove(to)); err != nil {
		return 0, err
	}
	src, err := openBolt(from)
	if err != nil {
		return 0, err
	}
	defer func() { _ = src.Close() }() // only read
	dst, err := openBolt(to)
	if err != nil {
		return 0, err
	}
	err = bbolt.Compact(dst, src, compactTx)
	if err == nil {
		// bbolt makes files larger than they are full.
		err = view(dst, func(tx *bbolt.Tx) error { size = tx.Size(); return nil })
	}
	if err = errors.Join(err, dst.Close()); err != nil {
		return 0, err
	}
	f, err := os.OpenFile(to, os.O_RDWR, fileMode)
	if err != nil {
		return 0, err
	}
	return size, errors.Join(f.Truncate(size), f.Sync(), f.Close())
}
