package store

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"go.etcd.io/bbolt"
)

const (
	// fileBytes and fileRecords bound one transaction on a series file. bbolt
	// holds its pages in memory until they are written.
	fileBytes   = groupChunks * chunkSize
	fileRecords = 512
	// batchBytes and batchRecords bound what shares one transaction on the index.
	batchBytes   = 64 << 20
	batchRecords = 2048
	// quietTime is how long no image must have arrived before filing begins, so
	// that it does not take the disk from a burst; maxAge is when it begins anyway.
	quietTime = 100 * time.Millisecond
	maxAge    = 5 * time.Second
	// retryAfter is how long a series that cannot be filed is left alone.
	retryAfter = 5 * time.Second
)

// wakeFiler tells the filer to look again.
func (s *Store) wakeFiler() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// filer moves records from the journal into their series until the store
// closes.
func (s *Store) filer() {
	defer s.filerWG.Done()
	var arena []byte // values of a transaction; kept between batches while there is work
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		// Chosen under the lock: what DeleteSeries has dismissed is not filed.
		s.filing.Lock()
		batch, wait, closed := s.nextBatch()
		ok := true
		if len(batch) > 0 {
			if arena == nil {
				arena = make([]byte, fileBytes)
			}
			ok = s.fileBatch(batch, arena)
		}
		s.filing.Unlock()
		switch {
		case closed && (!ok || len(batch) == 0):
			return // what could not be filed stays in the journal
		case len(batch) > 0:
			continue
		}
		if wait <= 0 {
			arena = nil
			<-s.wake
			continue
		}
		timer.Reset(wait)
		select {
		case <-s.wake:
		case <-timer.C:
		}
	}
}

// nextBatch chooses what to file now, grouped by series: the series that waits
// longest first. With nothing to do now it says how long to wait, 0 for as long
// as nothing new arrives.
func (s *Store) nextBatch() (batch [][]*record, wait time.Duration, closed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.count == 0 {
		return nil, 0, s.closed
	}
	now := time.Now()
	var order []*pendingSeries
	for _, ps := range s.series {
		if left := ps.retry.Sub(now); left > 0 && !s.closed {
			if wait == 0 || left < wait {
				wait = left
			}
			continue
		}
		order = append(order, ps)
	}
	if len(order) == 0 {
		return nil, wait, s.closed
	}
	// Oldest first: a map has no order, and a peer may send as many series as images.
	slices.SortFunc(order, func(a, b *pendingSeries) int { return cmp.Compare(a.recs[0].order, b.recs[0].order) })
	hurry := s.closed || s.urgent > 0 || s.backlog >= s.o.Backlog/2 || s.count >= maxPending/2
	if !hurry {
		left := quietTime - now.Sub(s.lastSeen)
		if age := maxAge - now.Sub(order[0].recs[0].since); age < left {
			left = age
		}
		if left > 0 {
			return nil, left, false
		}
	}
	bytes, records := int64(0), 0
	for _, ps := range order {
		n := 0
		for n < len(ps.recs) && records < batchRecords && (bytes < batchBytes || n == 0 && records == 0) {
			bytes += ps.recs[n].Size
			n, records = n+1, records+1
		}
		if n > 0 {
			batch = append(batch, ps.recs[:n:n])
		}
	}
	return batch, 0, s.closed
}

// fileBatch files records and reports whether all of them were filed. The caller
// holds filing.
func (s *Store) fileBatch(batch [][]*record, arena []byte) bool {
	var (
		filed  []*record
		images []imageRecord
		failed error
	)
	for _, recs := range batch {
		list, err := s.fileSeries(recs, arena)
		if err != nil {
			failed = err
			s.log.Error("images not filed, they stay in the journal", "series", recs[0].series, "images", len(recs), "error", err)
			s.mu.Lock()
			if ps := s.series[recs[0].series]; ps != nil {
				ps.retry = time.Now().Add(retryAfter)
			}
			s.mu.Unlock()
			continue
		}
		filed, images = append(filed, recs...), append(images, list...)
	}
	if len(filed) > 0 {
		if err := s.index.update(func(tx *bbolt.Tx) error { return indexRecords(tx, filed, images) }); err != nil {
			failed, filed = err, nil
			s.log.Error("images not indexed, they stay in the journal", "error", err)
			s.mu.Lock()
			for _, recs := range batch {
				s.series[recs[0].series].retry = time.Now().Add(retryAfter)
			}
			s.mu.Unlock()
		}
	}
	s.mu.Lock()
	s.filerErr = failed
	s.dismiss(filed)
	s.mu.Unlock()
	s.removeTrash()
	return failed == nil
}

// fileSeries writes records of one series into its file, in few transactions of
// bounded size, and returns what the index needs. Filing a record that is
// there already changes nothing, so a crash in between is harmless.
func (s *Store) fileSeries(recs []*record, arena []byte) (images []imageRecord, err error) {
	f, err := s.files.acquire(recs[0].series, true)
	if err != nil {
		return nil, err
	}
	defer s.files.release(f)
	for i := 0; i < len(recs); {
		if recs[i].Size > groupChunks*chunkSize {
			img, err := s.fileLarge(f.db, recs[i], arena)
			if err != nil {
				return nil, err
			}
			images = append(images, img)
			i++
			continue
		}
		free, n := arena, 0
		list := make([]imageRecord, 0, len(recs)-i)
		err := s.updateFile(f.db, func(tx *bbolt.Tx) error {
			for ; i+n < len(recs) && n < fileRecords && recs[i+n].Size <= int64(len(free)); n++ {
				rec := recs[i+n]
				img, err := rec.commitment()
				if err != nil {
					return err
				}
				list = append(list, img)
				key := imageKey(rec.uid, rec.sha, rec.quarant)
				if rec.filedIn(tx, key) {
					continue
				}
				if err := rec.putChunks(tx, key, 0, rec.Size, free); err != nil {
					return err
				}
				free = free[rec.Size:]
				if err := putJSON(tx.Bucket(bucketImages), key, img); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, err
		}
		images = append(images, list...)
		i += n
	}
	return images, nil
}

// filedIn reports whether a series file holds the record already.
func (rec *record) filedIn(tx *bbolt.Tx, key []byte) bool {
	b := tx.Bucket(bucketImages).Get(key)
	if b == nil || rec.replaces == 0 {
		return b != nil
	}
	img, err := decodeImage(b)
	return err == nil && img.SHA256 == rec.sha
}

// fileLarge files one record in several transactions; the image exists once the
// last one is on disk.
func (s *Store) fileLarge(db *bbolt.DB, rec *record, arena []byte) (imageRecord, error) {
	img, err := rec.commitment()
	if err != nil {
		return img, err
	}
	key := imageKey(rec.uid, rec.sha, rec.quarant)
	const step = groupChunks * chunkSize
	for off := int64(0); off < rec.Size; off += step {
		there := false
		err := s.updateFile(db, func(tx *bbolt.Tx) error {
			if off == 0 {
				if there = rec.filedIn(tx, key); !there {
					// What it replaces is given up: this one is durable in the journal.
					if err := tx.Bucket(bucketImages).Delete(key); err != nil {
						return err
					}
				}
			}
			if there {
				return nil
			}
			end := min(off+step, rec.Size)
			if err := rec.putChunks(tx, key, off, end, arena); err != nil || end < rec.Size {
				return err
			}
			return putJSON(tx.Bucket(bucketImages), key, img)
		})
		if err != nil || there {
			return img, err
		}
	}
	return img, nil
}

// updateFile is a transaction on a series file.
func (s *Store) updateFile(db *bbolt.DB, fn func(*bbolt.Tx) error) error {
	err := s.o.faults.onFile()
	if err == nil {
		err = update(db, fn)
	}
	if err != nil {
		return writeError("write series file", err)
	}
	return nil
}

// commitment reads the commit frame of a record.
func (rec *record) commitment() (imageRecord, error) {
	b := make([]byte, rec.commitLen)
	if err := readFull(rec.seg.f, b, rec.commitOffset()+frameHeaderSize); err != nil {
		return imageRecord{}, err
	}
	var c commitment
	if err := json.Unmarshal(b, &c); err != nil {
		return imageRecord{}, fmt.Errorf("journal: %w: %w", ErrDamaged, err)
	}
	c.Image.SHA256 = c.SHA256
	return imageRecord{SHA256: c.SHA256, Reason: c.Reason, Order: rec.order, Seq: c.Seq, Image: c.Image}, nil
}

// putChunks copies the bytes from..to of a record, at most groupChunks chunks,
// into the bucket of its image. from lies on the border of a group. The bytes stay in arena until the transaction
// ends. A bucket for each image keeps bbolt from writing neighbours again.
func (rec *record) putChunks(tx *bbolt.Tx, key []byte, from, to int64, arena []byte) error {
	data := tx.Bucket(bucketData)
	if from == 0 && data.Bucket(key) != nil { // of a try that did not end
		if err := data.DeleteBucket(key); err != nil {
			return err
		}
	}
	b, err := data.CreateBucketIfNotExists(key)
	if err != nil {
		return err
	}
	if rec.Size > groupChunks*chunkSize {
		if b, err = b.CreateBucket(chunkKey(from / chunkSize / groupChunks)); err != nil {
			return err
		}
	}
	b.FillPercent = 1 // chunks arrive in order and never change
	for off := from; off < to; off += chunkSize {
		n := min(chunkSize, to-off)
		if err := rec.checked(rec.seg.f, arena[:n], off); err != nil {
			return err
		}
		if err := b.Put(chunkKey(off/chunkSize), arena[:n]); err != nil {
			return err
		}
		arena = arena[n:]
	}
	return nil
}

// indexRecords enters filed records into the index.
func indexRecords(tx *bbolt.Tx, recs []*record, images []imageRecord) error {
	series := map[string]*seriesRecord{}
	meta := tx.Bucket(bucketMeta)
	top, seq := getUint(meta, keyOrder), getUint(meta, keySeq)
	for i, rec := range recs {
		r := series[rec.series]
		if r == nil {
			v, err := getSeries(tx, rec.series)
			if err != nil {
				return err
			}
			r = &v
			series[rec.series] = r
		}
		if err := indexImage(tx, rec.series, images[i], r); err != nil {
			return err
		}
		top, seq = max(top, rec.order), max(seq, rec.seq)
	}
	for uid, r := range series {
		if err := putSeries(tx, uid, *r); err != nil {
			return err
		}
	}
	if err := putUint(meta, keySeq, seq); err != nil {
		return err
	}
	return putUint(meta, keyOrder, top)
}

// indexImage enters one image, or one image in quarantine, and counts it in the
// record of its series.
func indexImage(tx *bbolt.Tx, series string, img imageRecord, r *seriesRecord) error {
	uid, sha := img.Image.SOPInstanceUID, img.SHA256
	old, have, err := lookup(tx, uid)
	if err != nil {
		return err
	}
	r.add(img, old, have)
	if img.Reason != "" {
		q := Quarantine{Instance: img.Image, Reason: img.Reason, KeptSeries: series}
		return putJSON(tx.Bucket(bucketQuarantine), imageKey(uid, sha, true), quarantineRecord{sha, q})
	}
	e := entry{series: series, size: img.Image.Size, sha: sha}
	return tx.Bucket(bucketInstances).Put([]byte(uid), e.encode())
}
