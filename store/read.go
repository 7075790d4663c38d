package store

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"go.etcd.io/bbolt"
)

// pin finds a record that is still in the journal and keeps its segment from
// being used again until unpin. It returns nil when the image is filed or
// unknown.
func (s *Store) pin(uid string) *record {
	s.mu.Lock()
	defer s.mu.Unlock()
	rec := s.pending[uid]
	if rec != nil {
		rec.seg.pins++
	}
	return rec
}

func (s *Store) unpin(rec *record) {
	s.mu.Lock()
	rec.seg.pins--
	s.journal.settle(rec.seg)
	s.mu.Unlock()
	s.removeTrash()
}

// Instance returns what is known of an image, or ErrNotFound.
func (s *Store) Instance(sopInstanceUID string) (Instance, error) {
	if rec := s.pin(sopInstanceUID); rec != nil {
		defer s.unpin(rec)
		img, err := rec.commitment()
		return img.Image, err
	}
	e, ok, err := s.index.lookup(sopInstanceUID)
	if err != nil {
		return Instance{}, err
	}
	if !ok {
		return Instance{}, fmt.Errorf("image %q: %w", sopInstanceUID, ErrNotFound)
	}
	f, err := s.files.acquire(e.series, false)
	if err != nil {
		return Instance{}, err
	}
	defer s.files.release(f)
	var img imageRecord
	err = view(f.db, func(tx *bbolt.Tx) error {
		img, err = getImage(tx, []byte(sopInstanceUID))
		return err
	})
	return img.Image, err
}

// Instances returns the images of a series, sorted by InstanceNumber, then UID.
func (s *Store) Instances(seriesUID string) ([]Instance, error) {
	// What is filed between the two steps is met twice, never missed.
	waiting, err := s.pendingImages(seriesUID)
	if err != nil {
		return nil, err
	}
	f, err := s.files.acquire(seriesUID, false)
	switch {
	case err == nil:
		defer s.files.release(f)
		err = view(f.db, func(tx *bbolt.Tx) error {
			return tx.Bucket(bucketImages).ForEach(func(_, b []byte) error {
				img, err := decodeImage(b)
				// What waits replaces what is filed.
				if _, newer := waiting[img.Image.SOPInstanceUID]; err == nil && img.Reason == "" && !newer {
					waiting[img.Image.SOPInstanceUID] = img.Image
				}
				return err
			})
		})
		if err != nil {
			return nil, err
		}
	case !errors.Is(err, ErrNotFound):
		return nil, err
	}
	if len(waiting) == 0 {
		return nil, fmt.Errorf("series %q: %w", seriesUID, ErrNotFound)
	}
	list := make([]Instance, 0, len(waiting))
	for _, inst := range waiting {
		list = append(list, inst)
	}
	slices.SortFunc(list, func(a, b Instance) int {
		return cmp.Or(cmp.Compare(instanceNumber(a), instanceNumber(b)), strings.Compare(a.SOPInstanceUID, b.SOPInstanceUID))
	})
	return list, nil
}

// instanceNumber is the InstanceNumber of the header; images without one come
// last.
func instanceNumber(inst Instance) int {
	n, err := strconv.Atoi(strings.TrimSpace(inst.Header["InstanceNumber"]))
	if err != nil {
		return int(^uint(0) >> 1)
	}
	return n
}

// pendingImages reads the images of a series that are in the journal.
func (s *Store) pendingImages(seriesUID string) (map[string]Instance, error) {
	var recs []*record
	s.mu.Lock()
	if ps := s.series[seriesUID]; ps != nil {
		for _, rec := range ps.recs {
			if !rec.quarant {
				rec.seg.pins++
				recs = append(recs, rec)
			}
		}
	}
	s.mu.Unlock()
	images := map[string]Instance{}
	var first error
	for _, rec := range recs {
		if img, err := rec.commitment(); err == nil {
			images[rec.uid] = img.Image
		} else if first == nil {
			first = err
		}
		s.unpin(rec)
	}
	return images, first
}

// OpenInstance opens the Part 10 bytes of an image, exactly as they were
// committed. It returns ErrNotFound when there is none; so do reads after the
// series has been deleted. The caller closes the reader.
func (s *Store) OpenInstance(sopInstanceUID string) (io.ReadSeekCloser, Instance, error) {
	inst, err := s.Instance(sopInstanceUID)
	if err != nil {
		return nil, Instance{}, err
	}
	r := &reader{s: s, uid: sopInstanceUID, series: inst.SeriesInstanceUID, size: inst.Size, sha: inst.SHA256}
	return struct {
		*io.SectionReader
		io.Closer
	}{io.NewSectionReader(r, 0, inst.Size), r}, inst, nil
}

// reader reads an image from wherever it lies at the moment; it holds nothing
// between two reads.
type reader struct {
	s           *Store
	uid, series string
	size        int64
	sha         [32]byte
}

// ReadAt implements io.ReaderAt.
func (r *reader) ReadAt(p []byte, off int64) (int, error) {
	if rec := r.s.pin(r.uid); rec != nil {
		defer r.s.unpin(rec)
		if rec.sha == r.sha {
			return rec.readAt(rec.seg.f, p, off)
		}
	}
	f, err := r.s.files.acquire(r.series, false)
	if err != nil {
		return 0, err
	}
	defer r.s.files.release(f)
	n := 0
	err = view(f.db, func(tx *bbolt.Tx) error {
		if r.s.o.Duplicates == Replace { // bytes of two images never mix
			if img, err := getImage(tx, []byte(r.uid)); err != nil || img.SHA256 != r.sha {
				return fmt.Errorf("image %q was replaced: %w", r.uid, ErrNotFound)
			}
		}
		n, err = readData(tx, []byte(r.uid), r.size, p, off)
		return err
	})
	if err == nil && n < len(p) {
		err = io.EOF
	}
	return n, err
}

// Close implements io.Closer.
func (r *reader) Close() error { return nil }
