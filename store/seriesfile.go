package store

import (
	"container/list"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"go.etcd.io/bbolt"
)

const (
	seriesFolder = "series"
	seriesExt    = ".db"
	// chunkSize is the largest value in a series file: a multiple of framePay, so
	// that a chunk is filled from whole journal frames.
	chunkSize = 4 * framePay
	// groupChunks is how many chunks share a bucket in an image that has more, and
	// what one transaction writes of it: bbolt writes the last page of a bucket
	// again, through its memory map, when more is added.
	groupChunks = 8
)

// Buckets of a series file.
var (
	bucketImages = []byte("images") // image key -> imageRecord
	bucketData   = []byte("data")   // image key -> bucket of chunk number -> bytes
	keySeriesUID = []byte("series")
)

// imageRecord is what a series file keeps beside the bytes of an image: enough
// to rebuild the index.
type imageRecord struct {
	SHA256 hexSum   `json:"sha256"`
	Reason string   `json:"reason,omitempty"` // why it is in quarantine; "" otherwise
	Order  uint64   `json:"order"`
	Seq    uint64   `json:"seq,omitempty"` // see record.seq; tells which of two replacements is newer
	Image  Instance `json:"image"`
}

// imageKey names an image within its series file. Several quarantined images
// may share a UID.
func imageKey(uid string, sha [32]byte, quarantined bool) []byte {
	if !quarantined {
		return []byte(uid)
	}
	return []byte(uid + "\x00" + hex.EncodeToString(sha[:]))
}

// seriesPath is where the file of a series lies below the series folder. A UID
// comes from a peer: it is hashed and never becomes part of a path.
func seriesPath(uid string) (dir, name string) {
	sum := sha256.Sum256([]byte(uid))
	h := hex.EncodeToString(sum[:])
	return h[:2], h + seriesExt
}

// seriesFiles keeps a bounded number of series files open.
type seriesFiles struct {
	root    string
	max     int
	migrate migrator

	mu      sync.Mutex // guards what follows and the fields of seriesFile
	open    map[string]*seriesFile
	blocked map[string]blockReason
	unused  *sync.Cond // on mu: a file lost its last user, or is no longer blocked
	idle    *list.List // of *seriesFile without users, least recently used first
}

type seriesFile struct {
	uid   string
	db    *bbolt.DB
	err   error
	users int
	ready chan struct{} // closed when db or err is set
	elem  *list.Element // in idle
}

func newSeriesFiles(root string, limit int, m migrator) *seriesFiles {
	fs := &seriesFiles{root: root, max: limit, migrate: m, open: map[string]*seriesFile{}, blocked: map[string]blockReason{}, idle: list.New()}
	fs.unused = sync.NewCond(&fs.mu)
	return fs
}

// acquire opens the file of a series, which stays open until release. Without
// create, a missing file is ErrNotFound.
func (fs *seriesFiles) acquire(uid string, create bool) (*seriesFile, error) {
	fs.mu.Lock()
	for fs.blocked[uid] == fileMoved {
		fs.unused.Wait()
	}
	if fs.blocked[uid] == fileRemoved {
		fs.mu.Unlock()
		return nil, fmt.Errorf("series file: %w", ErrNotFound)
	}
	f, ok := fs.open[uid]
	if ok {
		f.users++
		if f.elem != nil {
			fs.idle.Remove(f.elem)
			f.elem = nil
		}
		fs.mu.Unlock()
		<-f.ready
		if f.err != nil {
			if create && errors.Is(f.err, ErrNotFound) {
				return fs.acquire(uid, create) // a reader looked before the file was made
			}
			return nil, f.err
		}
		return f, nil
	}
	f = &seriesFile{uid: uid, users: 1, ready: make(chan struct{})}
	fs.open[uid] = f
	fs.mu.Unlock()
	f.db, f.err = fs.openFile(uid, create)
	if f.err != nil { // the next one tries anew
		fs.mu.Lock()
		delete(fs.open, uid)
		fs.unused.Broadcast()
		fs.mu.Unlock()
	}
	close(f.ready)
	if f.err != nil {
		return nil, f.err
	}
	return f, nil
}

// release gives back what acquire returned.
func (fs *seriesFiles) release(f *seriesFile) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f.users--
	if f.users == 0 {
		f.elem = fs.idle.PushBack(f)
		fs.unused.Broadcast()
	}
	for len(fs.open) > fs.max && fs.idle.Len() > 0 {
		v := fs.idle.Remove(fs.idle.Front()).(*seriesFile)
		delete(fs.open, v.uid)
		// The lock is held while the file closes: bbolt locks files, and the next
		// user must find it free. An error loses nothing: all transactions have
		// ended and are on disk.
		_ = v.db.Close()
	}
}

// blockReason says why the file of a series is kept closed.
type blockReason int

const (
	fileRemoved blockReason = iota + 1 // who asks gets ErrNotFound
	fileMoved                          // another takes its place: who asks waits
)

// block closes the file of a series once nobody uses it, and keeps it closed
// until unblock. The caller holds Store.filing: one block at a time.
func (fs *seriesFiles) block(uid string, reason blockReason) error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.blocked[uid] = reason
	for fs.open[uid] != nil && fs.open[uid].users > 0 {
		fs.unused.Wait()
	}
	f := fs.open[uid]
	if f == nil {
		return nil
	}
	fs.idle.Remove(f.elem)
	delete(fs.open, uid)
	return f.db.Close()
}

func (fs *seriesFiles) unblock(uid string) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.blocked, uid)
	fs.unused.Broadcast()
}

func (fs *seriesFiles) close() error {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	var errs []error
	for uid, f := range fs.open {
		if f.db != nil {
			errs = append(errs, f.db.Close()) // waits for running transactions
		}
		delete(fs.open, uid)
	}
	fs.idle.Init()
	return errors.Join(errs...)
}

func (fs *seriesFiles) openFile(uid string, create bool) (*bbolt.DB, error) {
	sub, name := seriesPath(uid)
	path := filepath.Join(fs.root, sub, name)
	what := "open series file " + filepath.Join(sub, name)
	_, err := os.Stat(path)
	if errors.Is(err, os.ErrNotExist) {
		if !create {
			return nil, fmt.Errorf("series file: %w", ErrNotFound)
		}
		if _, err := makeDir(fs.root, sub); err != nil {
			return nil, writeError("create series folder", err)
		}
		db, err := createBolt(path, func(tx *bbolt.Tx) error {
			for _, b := range [][]byte{bucketMeta, bucketImages, bucketData} {
				if _, err := tx.CreateBucket(b); err != nil {
					return err
				}
			}
			meta := tx.Bucket(bucketMeta)
			return errors.Join(putUint(meta, keySchema, schemaVersion), meta.Put(keySeriesUID, []byte(uid)))
		})
		if err != nil {
			return nil, writeError(what, err)
		}
		return db, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", what, err)
	}
	db, err := openBolt(path)
	if err != nil {
		return nil, writeError(what, err)
	}
	if err = fs.migrate.migrateSeries(db); err == nil {
		err = view(db, func(tx *bbolt.Tx) error { return checkSeriesFile(tx, uid) })
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("%s: %w", what, err), db.Close())
	}
	return db, nil
}

// checkSeriesFile refuses a file that a newer version wrote or that is not what
// its name says. uid is "" when it is not known.
func checkSeriesFile(tx *bbolt.Tx, uid string) error {
	meta := tx.Bucket(bucketMeta)
	if meta == nil || tx.Bucket(bucketImages) == nil || tx.Bucket(bucketData) == nil {
		return fmt.Errorf("buckets missing: %w", ErrDamaged)
	}
	if v := getUint(meta, keySchema); v != schemaVersion {
		return fmt.Errorf("format %d: %w", v, ErrSchema)
	}
	if got := string(meta.Get(keySeriesUID)); uid != "" && got != uid {
		return fmt.Errorf("belongs to another series: %w", ErrDamaged)
	}
	return nil
}

// chunkKey orders the chunks of an image.
func chunkKey(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }

// chunkBucket finds the bucket that holds chunk n of an image of the given size,
// below the bucket of the image. It returns nil when it is missing.
func chunkBucket(image *bbolt.Bucket, size, n int64) *bbolt.Bucket {
	if image == nil || size <= groupChunks*chunkSize {
		return image
	}
	return image.Bucket(chunkKey(n / groupChunks))
}

// readData reads image bytes at off from the chunks of an image.
func readData(tx *bbolt.Tx, key []byte, size int64, p []byte, off int64) (int, error) {
	if off >= size {
		return 0, io.EOF
	}
	data := tx.Bucket(bucketData).Bucket(key)
	if data == nil {
		return 0, fmt.Errorf("image bytes: %w", ErrNotFound)
	}
	n := 0
	for n < len(p) && off < size {
		within := off % chunkSize
		var chunk []byte
		if b := chunkBucket(data, size, off/chunkSize); b != nil {
			chunk = b.Get(chunkKey(off / chunkSize))
		}
		if int64(len(chunk)) <= within {
			return n, fmt.Errorf("image bytes end early: %w", ErrDamaged)
		}
		m := copy(p[n:], chunk[within:])
		n, off = n+m, off+int64(m)
	}
	return n, nil
}

// getImage reads the record of an image.
func getImage(tx *bbolt.Tx, key []byte) (imageRecord, error) {
	b := tx.Bucket(bucketImages).Get(key)
	if b == nil {
		return imageRecord{}, fmt.Errorf("image record: %w", ErrNotFound)
	}
	return decodeImage(b)
}

func decodeImage(b []byte) (imageRecord, error) {
	var r imageRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return r, fmt.Errorf("image record: %w: %w", ErrDamaged, err)
	}
	r.Image.SHA256 = r.SHA256
	return r, nil
}

// walkSeriesFiles calls fn with the path of every series file.
func walkSeriesFiles(root string, fn func(path string) error) error {
	return filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || !strings.HasSuffix(path, seriesExt) {
			return err
		}
		return fn(path)
	})
}
