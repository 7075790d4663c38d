package store

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/bbolt"
)

const (
	// studyBatch is how many studies one transaction of a walk reads, and
	// imageBatch how many images: a walk may last as long as its callback takes,
	// a transaction must not.
	studyBatch = 64
	imageBatch = 256
	// patientHash is the length of a patient in the keys of its bucket: enough of
	// a SHA-256, so that no Patient ID stands in a key and none is too long.
	patientHash = 16
)

// studyKey orders series by study.
func studyKey(study, series string) []byte { return []byte(study + "\x00" + series) }

// patientKey orders series by patient, then by study.
func patientKey(patientID, study, series string) []byte {
	return append(patientPrefix(patientID), studyKey(study, series)...)
}

func patientPrefix(patientID string) []byte {
	// PS3.5 6.2: spaces around a value of VR LO mean nothing.
	sum := sha256.Sum256([]byte(strings.Trim(patientID, " ")))
	return sum[:patientHash]
}

// putSeries writes the record of a series, and enters it under its study and its
// patient.
func putSeries(tx *bbolt.Tx, uid string, r seriesRecord) error {
	if err := putJSON(tx.Bucket(bucketSeries), []byte(uid), r); err != nil {
		return err
	}
	return enterSeries(tx, uid, r)
}

// enterSeries makes the entries that lead from study and patient to a series.
func enterSeries(tx *bbolt.Tx, uid string, r seriesRecord) error {
	if r.Series.SeriesInstanceUID == "" {
		return nil // only images in quarantine: there is nothing to be found
	}
	studies, key := tx.Bucket(bucketStudies), studyKey(r.Series.StudyInstanceUID, uid)
	if studies.Get(key) != nil {
		return nil
	}
	if err := studies.Put(key, []byte{}); err != nil {
		return err
	}
	return tx.Bucket(bucketPatients).Put(patientKey(r.Series.Header[patientID], r.Series.StudyInstanceUID, uid), []byte{})
}

// patientID is the keyword of the element that tells patients apart.
const patientID = "PatientID"

// deleteSeriesRecord removes what putSeries wrote.
func deleteSeriesRecord(tx *bbolt.Tx, uid string) error {
	r, _ := getSeries(tx, uid) // of a damaged record the entries stay: they lead nowhere, which walks know
	return errors.Join(
		tx.Bucket(bucketStudies).Delete(studyKey(r.Series.StudyInstanceUID, uid)),
		tx.Bucket(bucketPatients).Delete(patientKey(r.Series.Header[patientID], r.Series.StudyInstanceUID, uid)),
		tx.Bucket(bucketSeries).Delete([]byte(uid)))
}

// migrateToStudies is the step from version 1 to 2.
func migrateToStudies(tx *bbolt.Tx) error {
	for _, name := range [][]byte{bucketStudies, bucketPatients} {
		if _, err := tx.CreateBucketIfNotExists(name); err != nil {
			return err
		}
	}
	return tx.Bucket(bucketSeries).ForEach(func(k, b []byte) error {
		var r seriesRecord
		if err := json.Unmarshal(b, &r); err != nil {
			return fmt.Errorf("series record: %w: %w", ErrDamaged, err)
		}
		return enterSeries(tx, string(k), r)
	})
}

// grouping is an order of series by what they belong to.
type grouping struct {
	bucket []byte
	prefix func(key []byte) []byte // of all keys of the same group
	group  func(v Series) []byte   // the same of a series
}

var (
	byStudy = grouping{bucketStudies,
		func(key []byte) []byte { return key[:bytes.IndexByte(key, 0)+1] },
		func(v Series) []byte { return studyKey(v.StudyInstanceUID, "") }}
	byPatient = grouping{bucketPatients,
		func(key []byte) []byte { return key[:min(patientHash, len(key))] },
		func(v Series) []byte { return patientPrefix(v.Header[patientID]) }}
)

// EachStudy calls fn with the series of every study, ordered by the time of
// their first image, until fn returns an error, which it returns. Each study is
// met once; their order has no meaning. Of what is stored or deleted meanwhile
// it may meet all, a part or nothing. It holds few studies in memory, and no
// transaction while fn runs.
func (s *Store) EachStudy(fn func(series []Series) error) error { return s.eachGroup(byStudy, nil, fn) }

// EachPatient is EachStudy with all series of a patient at a time: those with
// the same Patient ID. The empty one counts as a patient too.
func (s *Store) EachPatient(fn func(series []Series) error) error {
	return s.eachGroup(byPatient, nil, fn)
}

// StudySeries returns the series of a study; none when it is not in the store.
func (s *Store) StudySeries(studyUID string) ([]Series, error) {
	return s.oneGroup(byStudy, studyKey(studyUID, ""))
}

// PatientSeries returns the series with this Patient ID, which may be none.
func (s *Store) PatientSeries(patientID string) ([]Series, error) {
	return s.oneGroup(byPatient, patientPrefix(patientID))
}

func (s *Store) oneGroup(g grouping, prefix []byte) (list []Series, err error) {
	err = s.eachGroup(g, prefix, func(series []Series) error { list = series; return nil })
	return list, err
}

// eachGroup walks the groups, or only the one with this prefix.
func (s *Store) eachGroup(g grouping, only []byte, fn func([]Series) error) error {
	waiting, err := s.unfiledGroups(g, only)
	if err != nil {
		return err
	}
	for from := only; ; {
		batch, next, err := s.readGroups(g, from, only)
		if err != nil {
			return err
		}
		for _, series := range batch {
			group := string(g.group(series[0]))
			series, err := s.withUnfiled(series, waiting[group])
			if err != nil {
				return err
			}
			delete(waiting, group)
			if err := fn(series); err != nil {
				return err
			}
		}
		if next == nil {
			break
		}
		from = next
	}
	for _, uids := range waiting {
		series, err := s.withUnfiled(nil, uids)
		if err != nil {
			return err
		}
		if len(series) > 0 {
			if err := fn(series); err != nil {
				return err
			}
		}
	}
	return nil
}

// unfiledGroups returns the series of which all images are still in the journal.
func (s *Store) unfiledGroups(g grouping, only []byte) (map[string][]string, error) {
	waiting := s.snapshots()
	groups := map[string][]string{}
	err := s.index.view(func(tx *bbolt.Tx) error {
		for uid, ps := range waiting {
			r, err := getSeries(tx, uid)
			if err != nil {
				return err
			}
			if !ps.hasKept || r.Series.SeriesInstanceUID != "" {
				continue
			}
			if group := g.group(r.with(ps)); only == nil || bytes.Equal(group, only) {
				groups[string(group)] = append(groups[string(group)], uid)
			}
		}
		return nil
	})
	return groups, err
}

// snapshots copies what is pending of all series.
func (s *Store) snapshots() map[string]*pendingSeries {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := make(map[string]*pendingSeries, len(s.series))
	for uid, ps := range s.series {
		c := *ps
		all[uid] = &c
	}
	return all
}

// readGroups reads some whole groups from the index, and says where to go on.
func (s *Store) readGroups(g grouping, from, only []byte) (batch [][]Series, next []byte, err error) {
	waiting := s.snapshots() // before the records, as in Series
	err = s.index.view(func(tx *bbolt.Tx) error {
		var group []byte
		cursor := tx.Bucket(g.bucket).Cursor()
		for key, _ := cursor.Seek(from); key != nil; key, _ = cursor.Next() {
			if only != nil && !bytes.HasPrefix(key, only) {
				return nil
			}
			uid := string(key[bytes.LastIndexByte(key, 0)+1:])
			r, err := getSeries(tx, uid)
			if err != nil {
				return err
			}
			v := r.with(waiting[uid])
			if v.SeriesInstanceUID == "" {
				continue // its record is gone
			}
			if prefix := g.prefix(key); !bytes.Equal(prefix, group) {
				if len(batch) == studyBatch {
					// No UID begins with this byte: it is behind all of the last group.
					next = append(group, 0xFF)
					return nil
				}
				group = bytes.Clone(prefix)
				batch = append(batch, nil)
			}
			last := len(batch) - 1
			batch[last] = append(batch[last], v)
		}
		return nil
	})
	return batch, next, err
}

// withUnfiled adds series that the index may not have had, and sorts.
func (s *Store) withUnfiled(series []Series, uids []string) ([]Series, error) {
	for _, uid := range uids {
		if slices.ContainsFunc(series, func(v Series) bool { return v.SeriesInstanceUID == uid }) {
			continue // filed meanwhile
		}
		v, err := s.Series(uid)
		switch {
		case err == nil:
			series = append(series, v)
		case !errors.Is(err, ErrNotFound): // else deleted meanwhile
			return nil, err
		}
	}
	slices.SortFunc(series, func(a, b Series) int {
		return cmp.Or(a.FirstReceived.Compare(b.FirstReceived), strings.Compare(a.SeriesInstanceUID, b.SeriesInstanceUID))
	})
	return series, nil
}

// EachInstance calls fn for every image of a series until fn returns an error,
// which it returns. Their order has no meaning. Of what is stored or deleted
// meanwhile it may meet all, a part or nothing. It holds few images in memory,
// and no transaction while fn runs.
func (s *Store) EachInstance(seriesUID string, fn func(Instance) error) error {
	// What is filed while this runs is met where it was first: here.
	waiting := s.pendingUIDs(seriesUID)
	for from := []byte(nil); ; {
		batch, next, err := s.readImages(seriesUID, from)
		if err != nil {
			return err
		}
		for _, inst := range batch {
			if waiting[inst.SOPInstanceUID] {
				continue
			}
			if err := fn(inst); err != nil {
				return err
			}
		}
		if next == nil {
			break
		}
		from = next
	}
	for uid := range waiting {
		inst, err := s.Instance(uid)
		if errors.Is(err, ErrNotFound) {
			continue // deleted meanwhile
		}
		if err != nil {
			return err
		}
		if err := fn(inst); err != nil {
			return err
		}
	}
	return nil
}

// pendingUIDs returns the images of a series that are in the journal.
func (s *Store) pendingUIDs(seriesUID string) map[string]bool {
	uids := map[string]bool{}
	s.mu.Lock()
	defer s.mu.Unlock()
	if ps := s.series[seriesUID]; ps != nil {
		for _, rec := range ps.recs {
			if !rec.quarant {
				uids[rec.uid] = true
			}
		}
	}
	return uids
}

// readImages reads some images of a series file, and says where to go on.
func (s *Store) readImages(seriesUID string, from []byte) (batch []Instance, next []byte, err error) {
	f, err := s.files.acquire(seriesUID, false)
	if errors.Is(err, ErrNotFound) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	defer s.files.release(f)
	err = view(f.db, func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(bucketImages).Cursor()
		for key, b := cursor.Seek(from); key != nil; key, b = cursor.Next() {
			if len(batch) == imageBatch {
				next = bytes.Clone(key)
				return nil
			}
			img, err := decodeImage(b)
			if err != nil {
				return err
			}
			if img.Reason == "" {
				batch = append(batch, img.Image)
			}
		}
		return nil
	})
	return batch, next, err
}
