package store

import (
	"bytes"
	"fmt"
	"slices"
	"strings"

	"go.etcd.io/bbolt"
)

// Records are what the services of the node must not forget beside images and
// jobs: requests for storage commitment, performed procedure steps. They lie in one
// bucket of index.db:
//
//	records   kind 0 key -> value
//
// The bucket is made when a folder is opened that has none; it is part of no schema
// version, since older programs leave it as it is.
var bucketRecords = []byte("records")

// Record is one of them. Kind must hold no zero byte.
type Record struct {
	Kind, Key string
	Value     []byte // nil in WriteRecords deletes
}

// WriteRecords writes and deletes records, all or none, and returns when they are
// on disk.
func (s *Store) WriteRecords(records ...Record) error {
	for _, r := range records {
		if r.Kind == "" || r.Key == "" || len(r.Kind)+len(r.Key) > maxName || strings.ContainsRune(r.Kind, 0) {
			return fmt.Errorf("write record: its kind and key are empty or longer than %d characters", maxName)
		}
	}
	return s.index.update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketRecords)
		for _, r := range records {
			var err error
			if r.Value == nil {
				err = b.Delete(recordKey(r.Kind, r.Key))
			} else {
				err = b.Put(recordKey(r.Kind, r.Key), r.Value)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func recordKey(kind, key string) []byte { return []byte(kind + "\x00" + key) }

// Record returns the value of a record, or ErrNotFound.
func (s *Store) Record(kind, key string) ([]byte, error) {
	var value []byte
	err := s.index.view(func(tx *bbolt.Tx) error {
		v := tx.Bucket(bucketRecords).Get(recordKey(kind, key))
		if v == nil {
			return fmt.Errorf("%s %q: %w", kind, key, ErrNotFound)
		}
		value = slices.Clone(v)
		return nil
	})
	return value, err
}

// Records calls fn for every record of a kind whose key begins with prefix, in the
// order of the keys. The value lives until fn returns; fn must be quick and must not
// call the store.
func (s *Store) Records(kind, prefix string, fn func(key string, value []byte) error) error {
	return s.index.view(func(tx *bbolt.Tx) error {
		start := recordKey(kind, prefix)
		c := tx.Bucket(bucketRecords).Cursor()
		for k, v := c.Seek(start); bytes.HasPrefix(k, start); k, v = c.Next() {
			if err := fn(string(k[len(kind)+1:]), v); err != nil {
				return err
			}
		}
		return nil
	})
}

// makeRecords makes the bucket where it is missing.
func (x *index) makeRecords() error {
	missing := false
	err := x.view(func(tx *bbolt.Tx) error {
		missing = tx.Bucket(bucketRecords) == nil
		return nil
	})
	if err != nil || !missing {
		return err
	}
	return x.update(func(tx *bbolt.Tx) error {
		_, err := tx.CreateBucketIfNotExists(bucketRecords)
		return err
	})
}
