package store

import (
	"encoding/json"
	"errors"

	"go.etcd.io/bbolt"
)

// Quarantine is an image that was not kept because other bytes were stored under
// its UID before.
type Quarantine struct {
	Instance   Instance
	Reason     string
	KeptSeries string // SeriesInstanceUID of the image that was kept
}

type quarantineRecord struct {
	SHA256 hexSum
	Quarantine
}

// Quarantined returns the images in quarantine that are filed; one that was just
// committed appears within seconds.
func (s *Store) Quarantined() ([]Quarantine, error) {
	var list []Quarantine
	err := s.index.view(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketQuarantine).ForEach(func(_, b []byte) error {
			var r quarantineRecord
			if err := json.Unmarshal(b, &r); err != nil {
				return errors.Join(ErrDamaged, err)
			}
			r.Instance.SHA256 = r.SHA256
			list = append(list, r.Quarantine)
			return nil
		})
	})
	return list, err
}

// quarantined reports whether an image key is in quarantine and filed.
func (x *index) quarantined(key string) (ok bool, err error) {
	err = x.view(func(tx *bbolt.Tx) error {
		ok = tx.Bucket(bucketQuarantine).Get([]byte(key)) != nil
		return nil
	})
	return ok, err
}

// forgetQuarantine takes the images out of the quarantine list that lie in the
// file of a series.
func forgetQuarantine(tx *bbolt.Tx, series string) error {
	quarantine := tx.Bucket(bucketQuarantine)
	var keys [][]byte
	err := quarantine.ForEach(func(k, v []byte) error {
		var q quarantineRecord
		if err := json.Unmarshal(v, &q); err != nil {
			return errors.Join(ErrDamaged, err)
		}
		if q.KeptSeries == series {
			keys = append(keys, k)
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, k := range keys {
		if err := quarantine.Delete(k); err != nil {
			return err
		}
	}
	return nil
}
