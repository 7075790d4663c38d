package store

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

// replay reads the journal of a former process and admits what was committed
// there and is not filed yet. A record may be met that was filed long ago, from
// an earlier use of its segment, even one of a series that has been deleted
// since: the index and its tombstones tell.
func (s *Store) replay() error {
	if err := s.journal.openSegments(); err != nil {
		return err
	}
	var waiting []*record
	err := s.index.view(func(tx *bbolt.Tx) error {
		s.order = getUint(tx.Bucket(bucketMeta), keyOrder)
		s.seq = getUint(tx.Bucket(bucketMeta), keySeq)
		for _, seg := range s.journal.all {
			err := scanJournal(seg.f, seg.size, func(f found) error {
				rec, err := f.record(seg)
				if err != nil {
					return fmt.Errorf("segment %s: %w", seg.name, err)
				}
				s.seq = max(s.seq, rec.seq)
				if filed, err := s.wasFiled(tx, rec); filed || err != nil {
					return err
				}
				waiting = append(waiting, rec)
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("recover the journal: %w", err)
	}
	slices.SortFunc(waiting, func(a, b *record) int { return cmp.Compare(a.seq, b.seq) })
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, rec := range waiting {
		// A sync that failed may have left an image that was sent again later.
		if s.pending[rec.uid] != nil && !rec.quarant && rec.replaces == 0 || s.conflict[string(imageKey(rec.uid, rec.sha, true))] {
			continue
		}
		img, err := rec.commitment()
		if err != nil {
			return fmt.Errorf("recover the journal: %w", err)
		}
		s.admit(rec, img.Image)
	}
	s.lastSeen = time.Time{} // file at once
	for _, seg := range slices.Clone(s.journal.all) {
		seg.writing = false
		s.journal.settle(seg)
	}
	if s.count > 0 {
		s.log.Info("journal recovered", "images", s.count, "bytes", s.backlog)
	}
	return nil
}

// record makes a record of what a scan found.
func (f found) record(seg *segment) (*record, error) {
	var c commitment
	if err := json.Unmarshal(f.Commit, &c); err != nil || c.Image.Size != f.Size ||
		c.Series == "" || c.Image.SOPInstanceUID == "" || c.Image.SeriesInstanceUID == "" {
		return nil, fmt.Errorf("a commit frame makes no sense: %w", ErrDamaged)
	}
	return &record{
		span: f.span, seg: seg, uid: c.Image.SOPInstanceUID, series: c.Series, sha: c.SHA256,
		seq: c.Seq, commitLen: len(f.Commit), quarant: c.Reason != "", replaces: c.Replaces, since: time.Now(),
	}, nil
}

// wasFiled reports whether a record of the journal is known to the index, or was
// and has been deleted since.
func (s *Store) wasFiled(tx *bbolt.Tx, rec *record) (bool, error) {
	if rec.seq <= getUint(tx.Bucket(bucketTombstones), []byte(rec.series)) {
		return true, nil
	}
	if rec.quarant {
		return tx.Bucket(bucketQuarantine).Get(imageKey(rec.uid, rec.sha, true)) != nil, nil
	}
	e, have, err := lookup(tx, rec.uid)
	if !have || err != nil || rec.replaces == 0 || e.sha == rec.sha {
		return have, err
	}
	// It replaces what the index lists, or was itself replaced by that. A series
	// file that is ahead of the index means that the last filing did not end: then
	// all is filed again, in the old order.
	f, err := s.files.acquire(rec.series, false)
	if err != nil {
		return false, err
	}
	defer s.files.release(f)
	newer := false
	err = view(f.db, func(tx *bbolt.Tx) error {
		img, err := getImage(tx, []byte(rec.uid))
		newer = err == nil && img.SHA256 == e.sha && img.Seq > rec.seq
		return nil
	})
	return newer, err
}

// wipeJournal marks the segments as empty on a clean close, when all is filed,
// so that the next Open need not read them and tombstones are not needed.
func (s *Store) wipeJournal() error {
	s.mu.Lock()
	left, segs := s.count, slices.Clone(s.journal.all)
	seq := s.seq
	for _, seg := range segs {
		if seg.writing {
			left++ // an image was given up by Close; its frames do no harm
		}
	}
	s.mu.Unlock()
	if left > 0 {
		return nil
	}
	var errs []error
	for _, seg := range segs {
		errs = append(errs, seg.wipe())
	}
	if err := errors.Join(errs...); err != nil {
		return writeError("close journal", err)
	}
	return s.index.update(func(tx *bbolt.Tx) error {
		if err := putUint(tx.Bucket(bucketMeta), keySeq, seq); err != nil {
			return err
		}
		if err := tx.DeleteBucket(bucketTombstones); err != nil {
			return err
		}
		_, err := tx.CreateBucket(bucketTombstones)
		return err
	})
}

// rebuildIndex fills a fresh index from the series files. Jobs and the states of
// series are not in there: every series counts as receiving.
func (s *Store) rebuildIndex() error {
	files := 0
	err := walkSeriesFiles(s.files.root, func(path string) error {
		files++
		return s.rebuildSeries(path)
	})
	if err != nil {
		return fmt.Errorf("rebuild the index: %w", err)
	}
	if files > 0 {
		s.log.Warn("index rebuilt from the series files, jobs are lost", "series", files)
	}
	return s.index.markCurrent()
}

func (s *Store) rebuildSeries(path string) error {
	db, err := openBolt(path)
	if err != nil {
		return fmt.Errorf("open %s: %w", filepath.Base(path), err)
	}
	defer func() { _ = db.Close() }() // all that was written is on disk
	if err := s.files.migrate.migrateSeries(db); err != nil {
		return fmt.Errorf("open %s: %w", filepath.Base(path), err)
	}
	var r seriesRecord
	var images []imageRecord
	series := ""
	err = view(db, func(tx *bbolt.Tx) error {
		if err := checkSeriesFile(tx, ""); err != nil {
			return err
		}
		series = string(tx.Bucket(bucketMeta).Get(keySeriesUID))
		return tx.Bucket(bucketImages).ForEach(func(k, b []byte) error {
			img, err := decodeImage(b)
			images = append(images, img)
			return err
		})
	})
	if err != nil {
		return fmt.Errorf("read %s: %w", filepath.Base(path), err)
	}
	slices.SortFunc(images, func(a, b imageRecord) int { return cmp.Compare(a.Order, b.Order) })
	return s.index.update(func(tx *bbolt.Tx) error {
		for _, img := range images {
			if err := indexImage(tx, series, img, &r); err != nil {
				return err
			}
		}
		meta := tx.Bucket(bucketMeta)
		if err := putUint(meta, keyOrder, max(r.Filed, getUint(meta, keyOrder))); err != nil {
			return err
		}
		return putSeries(tx, series, r)
	})
}
