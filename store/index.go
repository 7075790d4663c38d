package store

import (
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// schemaVersion is the format that doc.go describes; migrate.go says what to do
// when it changes.
const schemaVersion = 2

const indexName = "index.db"

// Buckets of index.db.
var (
	bucketMeta       = []byte("meta")
	bucketSeries     = []byte("series")
	bucketStudies    = []byte("studies")
	bucketPatients   = []byte("patients")
	bucketInstances  = []byte("instances")
	bucketQuarantine = []byte("quarantine")
	bucketTombstones = []byte("tombstones")
	bucketJobs       = []byte("jobs")
	bucketJobKeys    = []byte("jobkeys")
	bucketJobStates  = []byte("jobstates")

	keySchema = []byte("schema")
	keyOrder  = []byte("order")
	keySeq    = []byte("seq")
)

// boltTimeout is how long to wait for a database lock that should be free,
// since the folder lock is ours.
const boltTimeout = time.Second

// index is index.db with grouped commits: callers that wait for the disk
// together share one transaction.
type index struct {
	db *bbolt.DB

	commit sync.Mutex // held by the one that commits for all
	mu     sync.Mutex // guards queue
	queue  []*change
}

type change struct {
	fn   func(*bbolt.Tx) error
	done bool
	err  error
}

// openIndex opens or creates index.db. fresh reports that it was created.
func openIndex(dir string, m migrator) (x *index, fresh bool, err error) {
	path := filepath.Join(dir, indexName)
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		db, err := createBolt(path, func(tx *bbolt.Tx) error {
			for _, name := range [][]byte{bucketMeta, bucketSeries, bucketStudies, bucketPatients, bucketInstances,
				bucketQuarantine, bucketTombstones, bucketJobs, bucketJobKeys, bucketJobStates} {
				if _, err := tx.CreateBucket(name); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil {
			return nil, false, writeError("create index "+path, err)
		}
		return &index{db: db}, true, nil
	}
	db, err := openBolt(path)
	if err != nil {
		return nil, false, fmt.Errorf("open index %s: %w (what it says of images can be rebuilt from the series files: "+
			"move it away and start again; the job queue is lost then)", path, err)
	}
	var old uint64
	err = view(db, func(tx *bbolt.Tx) error {
		meta := tx.Bucket(bucketMeta)
		if meta == nil {
			return fmt.Errorf("index %s: buckets missing: %w", path, ErrDamaged)
		}
		switch v := getUint(meta, keySchema); {
		case v == 0: // the first Open, or a rebuild, did not end
			fresh = true
		case v < schemaVersion:
			old = v
		case v > schemaVersion:
			return &schemaError{dir: dir, version: v}
		}
		return nil
	})
	if err == nil && old > 0 {
		err = m.migrateIndex(db, old)
	}
	if err != nil {
		return nil, false, errors.Join(err, db.Close())
	}
	return &index{db: db}, fresh, nil
}

// schemaError is one sentence for a person.
type schemaError struct {
	dir     string
	version uint64
}

func (e *schemaError) Error() string {
	return fmt.Sprintf("data folder %s was written in format %d and this program knows format %d: start the version that wrote it, or a newer one",
		e.dir, e.version, schemaVersion)
}

func (e *schemaError) Unwrap() error { return ErrSchema }

// createBolt makes a bbolt file that is either whole under its name or not there
// at all, whenever the machine stops.
func createBolt(path string, fill func(*bbolt.Tx) error) (*bbolt.DB, error) {
	temp := path + ".new"
	if err := os.Remove(temp); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	db, err := openBolt(temp)
	if err != nil {
		return nil, errors.Join(err, os.Remove(temp))
	}
	if err := update(db, fill); err != nil {
		return nil, errors.Join(err, db.Close(), os.Remove(temp))
	}
	err = os.Rename(temp, path)
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return nil, errors.Join(err, db.Close())
	}
	return db, nil
}

// markCurrent writes the schema version. A fresh index gets it last, so that a
// rebuild that did not end begins again.
func (x *index) markCurrent() error {
	return x.update(func(tx *bbolt.Tx) error { return putUint(tx.Bucket(bucketMeta), keySchema, schemaVersion) })
}

// openBolt opens a bbolt file; a damaged one is an error, never a panic.
func openBolt(path string) (db *bbolt.DB, err error) {
	defer catch(&err)
	return bbolt.Open(path, fileMode, &bbolt.Options{Timeout: boltTimeout, FreelistType: bbolt.FreelistMapType, NoStatistics: true})
}

// catch turns a panic of bbolt on a damaged file, or a fault of its memory map
// on a failing disk, into an error. The caller sets SetPanicOnFault.
func catch(err *error) {
	if p := recover(); p != nil {
		*err = fmt.Errorf("%w: %v", ErrDamaged, p)
	}
}

// view runs fn in a read transaction.
func view(db *bbolt.DB, fn func(*bbolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer catch(&err)
	return asClosed(db.View(fn))
}

// update runs fn in a write transaction of its own.
func update(db *bbolt.DB, fn func(*bbolt.Tx) error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer catch(&err)
	return asClosed(db.Update(fn))
}

// asClosed tells a use after Close by our own error.
func asClosed(err error) error {
	if errors.Is(err, bolterrors.ErrDatabaseNotOpen) {
		return ErrClosed
	}
	return err
}

func (x *index) view(fn func(*bbolt.Tx) error) error { return view(x.db, fn) }

// update runs fn in a write transaction that it may share with others, and
// returns when the transaction is on disk. An error of fn fails the whole
// transaction: fn returns one only when the database does.
func (x *index) update(fn func(*bbolt.Tx) error) error {
	c := &change{fn: fn}
	x.mu.Lock()
	x.queue = append(x.queue, c)
	x.mu.Unlock()

	x.commit.Lock()
	defer x.commit.Unlock()
	if c.done { // somebody before us took it along
		return c.err
	}
	x.mu.Lock()
	group := x.queue
	x.queue = nil
	x.mu.Unlock()
	err := update(x.db, func(tx *bbolt.Tx) error {
		for _, c := range group {
			if err := c.fn(tx); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		err = writeError("write index", err)
	}
	for _, c := range group {
		c.done, c.err = true, err
	}
	return err
}

func (x *index) close() error { return x.db.Close() }

// entry is what the index knows of an image; all else is in its series file.
type entry struct {
	series string
	size   int64
	sha    [32]byte
}

const entryVersion = 1

// An entry is: version, SHA-256, size (8 bytes), series UID.
func (e entry) encode() []byte {
	b := append([]byte{entryVersion}, e.sha[:]...)
	b = binary.BigEndian.AppendUint64(b, uint64(e.size))
	return append(b, e.series...)
}

func decodeEntry(b []byte) (entry, error) {
	if len(b) < 42 || b[0] != entryVersion {
		return entry{}, fmt.Errorf("index entry: %w", ErrDamaged)
	}
	e := entry{size: int64(binary.BigEndian.Uint64(b[33:])), series: string(b[41:])}
	copy(e.sha[:], b[1:])
	return e, nil
}

// lookup finds the entry of an image.
func lookup(tx *bbolt.Tx, uid string) (entry, bool, error) {
	b := tx.Bucket(bucketInstances).Get([]byte(uid))
	if b == nil {
		return entry{}, false, nil
	}
	e, err := decodeEntry(b)
	return e, err == nil, err
}

func (x *index) lookup(uid string) (e entry, ok bool, err error) {
	err = x.view(func(tx *bbolt.Tx) error {
		e, ok, err = lookup(tx, uid)
		return err
	})
	return e, ok, err
}

func getUint(b *bbolt.Bucket, key []byte) uint64 {
	if v := b.Get(key); len(v) == 8 {
		return binary.BigEndian.Uint64(v)
	}
	return 0
}

func putUint(b *bbolt.Bucket, key []byte, v uint64) error {
	return b.Put(key, binary.BigEndian.AppendUint64(nil, v))
}

// putJSON stores v under key.
func putJSON(b *bbolt.Bucket, key []byte, v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return b.Put(key, data)
}

// hexSum is a SHA-256 that reads as hexadecimal in JSON.
type hexSum [32]byte

// MarshalText implements encoding.TextMarshaler.
func (h hexSum) MarshalText() ([]byte, error) { return []byte(hex.EncodeToString(h[:])), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (h *hexSum) UnmarshalText(b []byte) error {
	if len(b) != hex.EncodedLen(len(h)) {
		return errors.New("not a SHA-256")
	}
	_, err := hex.Decode(h[:], b)
	return err
}
