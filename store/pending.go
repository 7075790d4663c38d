package store

import (
	"encoding/json"
	"fmt"
	"slices"
	"sort"
	"time"

	"go.etcd.io/bbolt"
)

// pendingSeries holds the records of a series that are not filed yet, oldest
// first. Its fields are guarded by Store.mu; a copy of it may be read without:
// the slices only grow at their ends and records do not change.
type pendingSeries struct {
	recs    []*record
	first   Instance // the first kept image
	hasKept bool     // first is set
	sources []string
	classes []string  // SOP classes
	last    time.Time // when the last kept image was received
	retry   time.Time // filing failed: not before this time
}

// admit makes a durable record visible. The caller holds mu.
func (s *Store) admit(rec *record, inst Instance) {
	s.order++
	rec.order = s.order
	ps := s.series[rec.series]
	if ps == nil {
		ps = &pendingSeries{}
		s.series[rec.series] = ps
	}
	if n := len(ps.recs); n > 0 {
		rec.sumInstances, rec.sumBytes = ps.recs[n-1].sumInstances, ps.recs[n-1].sumBytes
	}
	n, bytes := rec.counts()
	rec.sumInstances += n
	rec.sumBytes += bytes
	if rec.quarant {
		s.conflict[string(imageKey(rec.uid, rec.sha, true))] = true
	} else {
		s.pending[rec.uid] = rec
		if !ps.hasKept {
			ps.first, ps.hasKept = inst, true
		}
		if !slices.Contains(ps.sources, inst.Source) {
			ps.sources = append(ps.sources, inst.Source)
		}
		if !slices.Contains(ps.classes, inst.SOPClassUID) {
			ps.classes = append(ps.classes, inst.SOPClassUID)
		}
		if inst.Received.After(ps.last) {
			ps.last = inst.Received
		}
	}
	ps.recs = append(ps.recs, rec)
	rec.seg.live++
	rec.seg.end = align(rec.commitOffset() + frameHeaderSize + int64(rec.commitLen))
	s.count++
	s.backlog += rec.Size
	s.lastSeen = time.Now()
}

// dismiss forgets records that are filed. The caller holds mu.
func (s *Store) dismiss(recs []*record) {
	for _, rec := range recs {
		ps := s.series[rec.series]
		ps.recs = ps.recs[1:] // filed in order, see nextBatch
		if len(ps.recs) == 0 {
			delete(s.series, rec.series)
		}
		if rec.quarant {
			delete(s.conflict, string(imageKey(rec.uid, rec.sha, true)))
		} else if s.pending[rec.uid] == rec { // else a replacement of it waits
			delete(s.pending, rec.uid)
		}
		rec.seg.live--
		s.journal.settle(rec.seg)
		s.count--
		s.backlog -= rec.Size
	}
	s.cond.Broadcast()
}

// seriesRecord is what index.db keeps of a series. Filed tells which records of
// the journal its counts include: those with an order up to it.
type seriesRecord struct {
	Filed uint64
	// Covered is the order up to which the last completion saw the images; one
	// that replaces another later makes the series incomplete again.
	Covered uint64 `json:",omitempty"`
	Series  Series
}

// add counts an image that is being filed; old is the index entry of the one
// that it replaces, if there is one.
func (r *seriesRecord) add(img imageRecord, old entry, replaces bool) {
	r.Filed = max(r.Filed, img.Order)
	if img.Reason != "" {
		return
	}
	r.describe(img.Image)
	r.Series.classify(img.Image.SOPClassUID)
	r.Series.Bytes += img.Image.Size
	r.Series.see(img.Image.Source, img.Image.Received)
	if !replaces {
		r.Series.Instances++
		return
	}
	r.Series.Bytes -= old.size
	if img.Order > r.Covered {
		r.Series.CompleteInstances = 0
	}
}

// describe takes the identity of the series from its first image.
func (r *seriesRecord) describe(inst Instance) {
	if r.Series.SeriesInstanceUID != "" {
		return
	}
	r.Series.SeriesInstanceUID = inst.SeriesInstanceUID
	r.Series.StudyInstanceUID = inst.StudyInstanceUID
	r.Series.Modality = inst.Header["Modality"]
	r.Series.Header = inst.Header
	r.Series.FirstReceived = inst.Received
	if r.Series.State == "" {
		r.Series.State = SeriesReceiving
	}
}

// see notes who sent an image and when.
func (v *Series) see(source string, at time.Time) {
	if !slices.Contains(v.Sources, source) {
		v.Sources = append(slices.Clip(v.Sources), source)
	}
	if at.Before(v.FirstReceived) {
		v.FirstReceived = at
	}
	if at.After(v.LastReceived) {
		v.LastReceived = at
	}
}

// classify notes the SOP class of an image, unless those of the images before are
// not known.
func (v *Series) classify(sopClass string) {
	if (v.Instances == 0 || v.SOPClasses != nil) && !slices.Contains(v.SOPClasses, sopClass) {
		v.SOPClasses = append(slices.Clip(v.SOPClasses), sopClass)
	}
}

// with adds what is pending to what is filed.
func (r seriesRecord) with(ps *pendingSeries) Series {
	if ps == nil || !ps.hasKept {
		return r.Series
	}
	r.describe(ps.first)
	v := r.Series
	for _, src := range ps.sources {
		v.see(src, ps.last)
	}
	for _, class := range ps.classes {
		v.classify(class)
	}
	if ps.first.Received.Before(v.FirstReceived) {
		v.FirstReceived = ps.first.Received
	}
	i := sort.Search(len(ps.recs), func(i int) bool { return ps.recs[i].order > r.Filed })
	if i < len(ps.recs) {
		from, to := ps.recs[i], ps.recs[len(ps.recs)-1]
		v.Instances += to.sumInstances - from.sumInstances
		v.Bytes += to.sumBytes - from.sumBytes
		n, bytes := from.counts()
		v.Instances += n
		v.Bytes += bytes
		for _, rec := range ps.recs[i:] {
			if rec.replaces > 0 && rec.order > r.Covered {
				v.CompleteInstances = 0
			}
		}
	}
	return v
}

// snapshot copies what is pending of a series, nil when nothing is.
func (s *Store) snapshot(uid string) *pendingSeries {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ps := s.series[uid]; ps != nil {
		c := *ps
		return &c
	}
	return nil
}

// getSeries reads the record of a series; the zero value when there is none.
func getSeries(tx *bbolt.Tx, uid string) (seriesRecord, error) {
	var r seriesRecord
	if b := tx.Bucket(bucketSeries).Get([]byte(uid)); b != nil {
		if err := json.Unmarshal(b, &r); err != nil {
			return r, fmt.Errorf("series record: %w: %w", ErrDamaged, err)
		}
	}
	return r, nil
}

// Series returns what is stored of a series, or ErrNotFound.
func (s *Store) Series(uid string) (Series, error) {
	// The order matters: what is filed between the two steps is counted once,
	// because the record says up to where it counts.
	ps := s.snapshot(uid)
	var v Series
	err := s.index.view(func(tx *bbolt.Tx) error {
		r, err := getSeries(tx, uid)
		v = r.with(ps)
		return err
	})
	if err == nil && v.SeriesInstanceUID == "" {
		err = fmt.Errorf("series %q: %w", uid, ErrNotFound)
	}
	return v, err
}

// AllSeries returns every series, ordered by the time of its first image.
func (s *Store) AllSeries() ([]Series, error) {
	waiting := map[string]*pendingSeries{}
	s.mu.Lock()
	for uid, ps := range s.series {
		c := *ps
		waiting[uid] = &c
	}
	s.mu.Unlock()
	var all []Series
	err := s.index.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketSeries).ForEach(func(k, b []byte) error {
			var r seriesRecord
			if err := json.Unmarshal(b, &r); err != nil {
				return fmt.Errorf("series record: %w: %w", ErrDamaged, err)
			}
			v := r.with(waiting[string(k)])
			delete(waiting, string(k))
			if v.SeriesInstanceUID != "" {
				all = append(all, v)
			}
			return nil
		})
	})
	for _, ps := range waiting {
		if v := (seriesRecord{}).with(ps); v.SeriesInstanceUID != "" {
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b Series) int {
		if c := a.FirstReceived.Compare(b.FirstReceived); c != 0 {
			return c
		}
		if a.SeriesInstanceUID < b.SeriesInstanceUID {
			return -1
		}
		return 1
	})
	return all, err
}

// UpdateSeries changes State, Reason, Revision and CompleteInstances of a series
// durably. fn sees the series as Series returns it; what else it changes is not
// kept. It must be quick, and must not call the store. An error of fn changes
// nothing and is returned.
func (s *Store) UpdateSeries(uid string, fn func(*Series) error) error {
	var fnErr error
	err := s.index.update(func(tx *bbolt.Tx) error {
		ps := s.snapshot(uid)
		r, err := getSeries(tx, uid)
		if err != nil {
			fnErr = err
			return nil
		}
		v := r.with(ps)
		if v.SeriesInstanceUID == "" {
			fnErr = fmt.Errorf("series %q: %w", uid, ErrNotFound)
			return nil
		}
		if fnErr = fn(&v); fnErr != nil {
			return nil
		}
		if ps != nil && ps.hasKept {
			r.describe(ps.first) // its images may not be filed yet
		}
		if v.Revision != r.Series.Revision {
			r.Covered = r.Filed
			if ps != nil {
				r.Covered = max(r.Covered, ps.recs[len(ps.recs)-1].order)
			}
			meta := tx.Bucket(bucketMeta) // orders go on above it after a crash
			if err := putUint(meta, keyOrder, max(r.Covered, getUint(meta, keyOrder))); err != nil {
				return err
			}
		}
		r.Series.State, r.Series.Reason = v.State, v.Reason
		r.Series.Revision, r.Series.CompleteInstances = v.Revision, v.CompleteInstances
		return putSeries(tx, uid, r)
	})
	if err != nil {
		return err
	}
	return fnErr
}
