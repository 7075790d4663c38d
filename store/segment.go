package store

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	// segmentSize is where a segment counts as full. A record larger than that
	// makes its segment larger. Segments are used again: overwriting blocks that
	// a file already has makes fdatasync about twice as fast as appending.
	segmentSize = 64 << 20
	segmentExt  = ".journal"
)

// segment is one file of the journal. One Writer at a time appends to it.
// Its fields are guarded by Store.mu; a Writer that holds it may read f and salt.
type segment struct {
	f       *os.File
	name    string
	salt    uint64
	next    uint32 // number of the next record
	end     int64  // where the next record begins
	size    int64  // most the file has held
	live    int    // records committed and not yet filed
	pins    int    // reads under way
	writing bool   // held by a Writer
	sealed  bool   // takes no further record until it starts again
	bad     bool   // a write or sync failed: never written again
}

func newSalt() uint64 {
	var b [8]byte
	_, _ = rand.Read(b[:]) // never fails: crypto/rand ends the program instead
	return binary.LittleEndian.Uint64(b[:])
}

// journal is the folder of segments. All methods but create and openSegments
// need Store.mu.
type journal struct {
	dir   string
	keep  int        // most free segments kept for use again
	all   []*segment // every segment that is not in trash
	free  []*segment // empty, not held
	open  []*segment // not held, room left behind their last record
	gone  bool       // the store is closed: the files are not ours any more
	trash []*segment // to be removed, without the lock, by emptyTrash
}

// take hands out a segment with room for a record, or nil: then create one.
func (j *journal) take() *segment {
	for _, list := range []*[]*segment{&j.open, &j.free} {
		if n := len(*list); n > 0 {
			seg := (*list)[n-1]
			*list = (*list)[:n-1]
			seg.writing = true
			return seg
		}
	}
	return nil
}

// create makes a new segment, already taken, without the lock.
func (j *journal) create() (*segment, error) {
	name := fmt.Sprintf("%016x%s", newSalt(), segmentExt)
	f, err := os.OpenFile(filepath.Join(j.dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return nil, writeError("create journal segment", err)
	}
	if err := syncDir(j.dir); err != nil {
		return nil, errors.Join(writeError("create journal segment", err), f.Close(), os.Remove(f.Name()))
	}
	readExactly(f)
	return &segment{f: f, name: name, salt: newSalt(), writing: true}, nil
}

// writeAt writes, and has the disk begin with it at once: what it has done when
// the last byte of an image arrives, fdatasync need not wait for.
func (seg *segment) writeAt(b []byte, off int64) error {
	if _, err := seg.f.WriteAt(b, off); err != nil {
		return err
	}
	beginWriteBack(seg.f, off, int64(len(b)))
	return nil
}

// settle puts a segment where it belongs after a Writer gave it back, a read
// ended, or a record was filed.
func (j *journal) settle(seg *segment) {
	if j.gone || seg.writing || seg.pins > 0 {
		return
	}
	if seg.live > 0 {
		if !seg.sealed && !seg.bad && seg.end < segmentSize && !contains(j.open, seg) {
			j.open = append(j.open, seg)
		}
		return
	}
	j.open = remove(j.open, seg)
	if contains(j.free, seg) {
		return
	}
	if seg.bad || seg.size > 2*segmentSize || len(j.free) >= j.keep {
		j.all = remove(j.all, seg)
		j.trash = append(j.trash, seg)
		return
	}
	seg.salt, seg.next, seg.end, seg.sealed = newSalt(), 0, 0, false
	j.free = append(j.free, seg)
}

// shed gives up every free segment, to make room on the disk.
func (j *journal) shed() {
	for _, seg := range j.free {
		j.all = remove(j.all, seg)
		j.trash = append(j.trash, seg)
	}
	j.free = nil
}

// takeTrash returns the segments to remove.
func (j *journal) takeTrash() []*segment {
	t := j.trash
	j.trash = nil
	return t
}

// removeSegments closes and removes files that nothing needs any more.
func removeSegments(dir string, segs []*segment) error {
	var errs []error
	for _, seg := range segs {
		errs = append(errs, seg.f.Close(), os.Remove(filepath.Join(dir, seg.name)))
	}
	return errors.Join(errs...)
}

// wipe makes a segment with no live record say so on disk, so that the next
// Open need not read it.
func (seg *segment) wipe() error {
	if _, err := seg.f.WriteAt(make([]byte, frameHeaderSize), 0); err != nil {
		return err
	}
	return fdatasync(seg.f)
}

// openSegments opens what a former process left in the folder.
func (j *journal) openSegments() error {
	entries, err := os.ReadDir(j.dir)
	if err != nil {
		return fmt.Errorf("read journal folder: %w", err)
	}
	for _, e := range entries {
		if !strings.HasSuffix(e.Name(), segmentExt) {
			continue
		}
		f, err := os.OpenFile(filepath.Join(j.dir, e.Name()), os.O_RDWR, fileMode)
		if err != nil {
			return fmt.Errorf("open journal segment: %w", err)
		}
		st, err := f.Stat()
		if err != nil {
			return errors.Join(fmt.Errorf("open journal segment: %w", err), f.Close())
		}
		readExactly(f)
		j.all = append(j.all, &segment{f: f, name: e.Name(), size: st.Size(), sealed: true, writing: true})
	}
	return nil
}

// closeSegments closes every file.
func (j *journal) closeSegments() error {
	var errs []error
	for _, seg := range j.all {
		errs = append(errs, seg.f.Close())
	}
	j.all, j.free, j.open, j.gone = nil, nil, nil, true
	return errors.Join(errs...)
}

func contains(list []*segment, seg *segment) bool {
	for _, s := range list {
		if s == seg {
			return true
		}
	}
	return false
}

func remove(list []*segment, seg *segment) []*segment {
	for i, s := range list {
		if s == seg {
			return append(list[:i], list[i+1:]...)
		}
	}
	return list
}

// record is an image, complete in the journal and not yet filed. It does not
// change once it is known to others.
type record struct {
	span
	seg       *segment
	uid       string // SOPInstanceUID
	series    string // the series whose file takes it: that of the kept image for quarantine
	sha       [32]byte
	seq       uint64 // commit order, kept in the journal; see tombstones
	order     uint64 // order in which records became visible; see seriesRecord.Filed
	commitLen int    // payload of the commit frame
	quarant   bool
	replaces  int64 // size of the image that this one replaces; 0: none
	since     time.Time

	// Running sums over the records of the series, this one included.
	sumInstances int
	sumBytes     int64
}

// counts is what the record adds to the images and bytes of its series.
func (rec *record) counts() (instances int, bytes int64) {
	switch {
	case rec.quarant:
		return 0, 0
	case rec.replaces > 0:
		return 0, rec.Size - rec.replaces
	}
	return 1, rec.Size
}

// commitment is the payload of a commit frame.
type commitment struct {
	Seq    uint64 `json:"seq"`
	Series string `json:"series"` // see record.series
	Reason string `json:"reason,omitempty"`
	// Replaces is the size of the image whose place this one takes, 0 for none.
	Replaces int64    `json:"replaces,omitempty"`
	SHA256   hexSum   `json:"sha256"`
	Image    Instance `json:"image"`
}
