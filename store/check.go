package store

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"go.etcd.io/bbolt"
)

// maxProblems bounds a CheckReport; a disk that loses more than that needs no
// longer list.
const maxProblems = 1000

// CheckReport is what Check found.
type CheckReport struct {
	Series      int      `json:"series"`
	Instances   int      `json:"instances"`
	Quarantined int      `json:"quarantined"`
	Bytes       int64    `json:"bytes"`
	Problems    []string `json:"problems"` // one sentence each; empty when all is well
}

func (r *CheckReport) problem(format string, args ...any) {
	if len(r.Problems) < maxProblems {
		r.Problems = append(r.Problems, fmt.Sprintf(format, args...))
	}
}

// Check reads every image, compares it with its checksum, and compares series
// files, index and journal with each other. The store stays in use meanwhile; an
// image that arrives during the check may be left out. The error is that of ctx
// or of the index; what is wrong with images is in the report.
func (s *Store) Check(ctx context.Context) (CheckReport, error) {
	r := CheckReport{Problems: []string{}}
	if err := s.checkPending(ctx, &r); err != nil {
		return r, err
	}
	if err := s.checkCounts(&r); err != nil {
		return r, err
	}
	all, err := s.seriesUIDs()
	if err != nil {
		return r, err
	}
	for _, uid := range all {
		if err := s.checkSeries(ctx, uid, &r); err != nil {
			return r, err
		}
	}
	return r, s.checkOrphans(&r)
}

func (s *Store) seriesUIDs() (uids []string, err error) {
	err = s.index.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketSeries).ForEach(func(k, _ []byte) error {
			uids = append(uids, string(k))
			return nil
		})
	})
	return uids, err
}

// checkPending reads what is in the journal only.
func (s *Store) checkPending(ctx context.Context, r *CheckReport) error {
	s.mu.Lock()
	var uids []string
	for uid := range s.pending {
		uids = append(uids, uid)
	}
	s.mu.Unlock()
	buf := make([]byte, chunkSize)
	for _, uid := range uids {
		if err := ctx.Err(); err != nil {
			return err
		}
		rec := s.pin(uid)
		if rec == nil {
			continue // filed by now: it is met there
		}
		sum := sha256.New()
		var err error
		for off := int64(0); off < rec.Size && err == nil; off += chunkSize {
			part := buf[:min(chunkSize, rec.Size-off)]
			if err = rec.checked(rec.seg.f, part, off); err == nil {
				sum.Write(part)
			}
		}
		if err != nil {
			r.problem("image %s in the journal cannot be read: %v", uid, err)
		} else if [32]byte(sum.Sum(nil)) != rec.sha {
			r.problem("image %s in the journal does not match its checksum", uid)
		}
		s.unpin(rec)
	}
	return nil
}

// checkCounts compares the counts of every series with the entries of the index.
func (s *Store) checkCounts(r *CheckReport) error {
	type sum struct {
		n     int
		bytes int64
	}
	sums := map[string]sum{}
	return s.index.view(func(tx *bbolt.Tx) error {
		err := tx.Bucket(bucketInstances).ForEach(func(k, v []byte) error {
			e, err := decodeEntry(v)
			if err != nil {
				r.problem("index entry of image %q cannot be read", k)
				return nil
			}
			sums[e.series] = sum{sums[e.series].n + 1, sums[e.series].bytes + e.size}
			return nil
		})
		if err != nil {
			return err
		}
		err = tx.Bucket(bucketSeries).ForEach(func(k, _ []byte) error {
			rec, err := getSeries(tx, string(k))
			if err != nil {
				r.problem("series %s: %v", k, err)
			} else if got := sums[string(k)]; got.n != rec.Series.Instances || got.bytes != rec.Series.Bytes {
				r.problem("series %s counts %d images of %d bytes, the index lists %d of %d",
					k, rec.Series.Instances, rec.Series.Bytes, got.n, got.bytes)
			}
			delete(sums, string(k))
			return nil
		})
		for uid, got := range sums {
			r.problem("the index lists %d images of series %s, which it does not know", got.n, uid)
		}
		return err
	})
}

// checkSeries reads the file of a series while nothing is filed.
func (s *Store) checkSeries(ctx context.Context, uid string, r *CheckReport) error {
	s.filing.Lock()
	defer s.filing.Unlock()
	return s.index.view(func(index *bbolt.Tx) error {
		rec, err := getSeries(index, uid)
		if err != nil || rec.Series.SeriesInstanceUID == "" {
			return nil // deleted meanwhile, or reported by checkCounts
		}
		r.Series++
		if rec.Filed == 0 {
			return nil // all of it is in the journal
		}
		f, err := s.files.acquire(uid, false)
		if err != nil {
			r.problem("series %s: %v", uid, err)
			return nil
		}
		defer s.files.release(f)
		count := 0
		err = view(f.db, func(tx *bbolt.Tx) error {
			images := tx.Bucket(bucketImages)
			err := images.ForEach(func(k, v []byte) error {
				if err := ctx.Err(); err != nil {
					return err
				}
				n, err := s.checkImage(index, tx, uid, k, v)
				if err != nil {
					r.problem("image %q of series %s: %v", k, uid, err)
					return nil
				}
				if n {
					r.Quarantined++
				} else {
					count++
					r.Instances++
				}
				return nil
			})
			if err != nil {
				return err
			}
			return tx.Bucket(bucketData).ForEach(func(k, _ []byte) error {
				if images.Get(k) == nil && !s.isPending(k) {
					r.problem("series %s holds bytes of %q, which it does not know", uid, k)
				}
				return nil
			})
		})
		if err != nil && ctx.Err() == nil {
			r.problem("series %s: %v", uid, err)
			err = nil
		}
		if err == nil && count != rec.Series.Instances {
			r.problem("series %s counts %d images, %d are good in its file", uid, rec.Series.Instances, count)
		}
		r.Bytes += rec.Series.Bytes
		return err
	})
}

// checkImage compares one image of a series file with its checksum and the
// index.
func (s *Store) checkImage(index, tx *bbolt.Tx, series string, key, value []byte) (quarantined bool, err error) {
	img, err := decodeImage(value)
	if err != nil {
		return false, err
	}
	data := tx.Bucket(bucketData).Bucket(key)
	if data == nil {
		return false, fmt.Errorf("its bytes are missing: %w", ErrDamaged)
	}
	sum, size := sha256.New(), int64(0)
	for n := int64(0); n*chunkSize < img.Image.Size; n++ {
		if b := chunkBucket(data, img.Image.Size, n); b != nil {
			chunk := b.Get(chunkKey(n))
			sum.Write(chunk)
			size += int64(len(chunk))
		}
	}
	switch {
	case size != img.Image.Size || [32]byte(sum.Sum(nil)) != img.SHA256:
		return false, fmt.Errorf("its bytes do not match its checksum: %w", ErrDamaged)
	case s.isPending(key):
		return img.Reason != "", nil // the index follows
	case img.Reason != "":
		if index.Bucket(bucketQuarantine).Get(key) == nil {
			return true, errors.New("it is in quarantine and the index does not list it")
		}
		return true, nil
	}
	e, ok, err := lookup(index, img.Image.SOPInstanceUID)
	if err == nil && (!ok || e.series != series || e.sha != img.SHA256 || e.size != size) {
		err = errors.New("the index does not list it, or says something else of it")
	}
	return false, err
}

// isPending reports whether the image of a key waits in the journal.
func (s *Store) isPending(key []byte) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pending[string(key)] != nil || s.conflict[string(key)]
}

// checkOrphans finds files that belong to no series.
func (s *Store) checkOrphans(r *CheckReport) error {
	s.filing.Lock()
	defer s.filing.Unlock()
	known := map[string]bool{}
	uids, err := s.seriesUIDs()
	if err != nil {
		return err
	}
	s.mu.Lock()
	for uid := range s.series {
		uids = append(uids, uid)
	}
	s.mu.Unlock()
	for _, uid := range uids {
		_, name := seriesPath(uid)
		known[name] = true
	}
	var orphans []string
	err = walkSeriesFiles(s.files.root, func(path string) error {
		if !known[filepath.Base(path)] {
			orphans = append(orphans, filepath.Base(path))
		}
		return nil
	})
	slices.Sort(orphans)
	for _, name := range orphans {
		r.problem("file %s belongs to no series", name)
	}
	return err
}
