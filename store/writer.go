package store

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"sync"
	"time"
)

const (
	// maxUID is twice what the standard allows; some peers send longer ones.
	maxUID = 128
	// bufferSize has room for a frame and, behind the last one of most images, for
	// the commit frame.
	bufferSize = frameSize + 16<<10
	// pieceSize is what goes to the disk at once while an image arrives: small
	// enough that little is left to do when its last byte is there, and large enough
	// that the disk is not slower for it.
	pieceSize = 128 << 10
	// spaceEvery is how often the free space is asked while a large image arrives.
	spaceEvery = 64 << 20
)

// Writer takes the bytes of one image. It is used by one goroutine at a time.
// It must be ended by Commit or Abort.
type Writer struct {
	s      *Store
	seg    *segment // nil until a frame is written
	start  int64    // of the record
	off    int64    // where the next frame goes
	record uint32
	index  uint32 // of the next frame
	size   int64  // data bytes in all
	asked  int64  // size when the free space was last asked
	buf    *[]byte
	fill   int // data bytes in buf, behind the room for a header
	sent   int // end of what is written of buf, from its second block on; 0: nothing
	hash   hash.Hash
	err    error // sticky
	done   bool
}

// buffers are kept between images: their number follows the Writers in use.
var buffers = sync.Pool{New: func() any { b := make([]byte, bufferSize); return &b }}

// NewInstance begins an image. It waits while the backlog of the store is full,
// and returns ErrFull when the disk is.
func (s *Store) NewInstance() (*Writer, error) {
	s.mu.Lock()
	for !s.closed && s.filerErr == nil && (s.backlog >= s.o.Backlog || s.count >= maxPending) {
		s.wakeFiler()
		s.cond.Wait()
	}
	full := s.backlog >= s.o.Backlog || s.count >= maxPending
	closed, ferr := s.closed, s.filerErr
	s.mu.Unlock()
	switch {
	case closed:
		return nil, ErrClosed
	case full: // and it does not get less
		return nil, fmt.Errorf("begin image: the backlog is full: %w", ferr)
	}
	if err := s.checkSpace(0); err != nil {
		return nil, err
	}
	return &Writer{s: s, buf: buffers.Get().(*[]byte), hash: sha256.New()}, nil
}

// Write takes the next bytes of the image.
func (w *Writer) Write(p []byte) (int, error) {
	n := 0
	for len(p) > 0 {
		if w.done {
			return n, errors.New("write after the end of an image")
		}
		if w.err != nil {
			return n, w.err
		}
		if w.fill == framePay {
			if w.err = w.endFrame(); w.err != nil {
				return n, w.err
			}
		}
		m := copy((*w.buf)[frameHeaderSize+w.fill:frameSize], p)
		w.fill += m
		w.size += int64(m)
		if w.err = w.writePiece(); w.err != nil {
			return n, w.err
		}
		w.hash.Write(p[:m]) // while the disk writes
		n, p = n+m, p[m:]
	}
	return n, nil
}

// writePiece begins to write what is there of the frame in buf, but for its
// first block: the header in there needs the sum of the whole frame.
func (w *Writer) writePiece() error {
	end := (frameHeaderSize + w.fill) &^ (pieceSize - 1)
	if end <= w.sent {
		return nil
	}
	if err := w.claim(); err != nil {
		return err
	}
	from := max(w.sent, blockSize)
	if err := w.write((*w.buf)[from:end], from); err != nil {
		return err
	}
	w.sent = end
	return nil
}

// write writes whole blocks that lie `from` bytes behind the start of the frame.
func (w *Writer) write(b []byte, from int) error {
	off := w.off + int64(from)
	if err := w.s.o.faults.put(w.seg, b, off); err != nil {
		return writeError("write image", err)
	}
	return nil
}

// sealFrame puts the header before the data in buf and returns the frame.
func (w *Writer) sealFrame() []byte {
	frame := (*w.buf)[:frameHeaderSize+w.fill]
	frameHeader{
		Type: frameData, Salt: w.seg.salt, Record: w.record, Index: w.index,
		Length: uint32(w.fill), Payload: crc32.Checksum(frame[frameHeaderSize:], castagnoli),
	}.put(frame)
	w.index++
	w.fill = 0
	return frame
}

// endFrame writes what is left of the full frame in buf and begins another one.
func (w *Writer) endFrame() error {
	if w.size-w.asked >= spaceEvery {
		w.asked = w.size
		if err := w.s.checkSpace(0); err != nil {
			return err
		}
	}
	return w.writeRest(w.sealFrame())
}

// writeRest writes a frame, and what follows it, but for what is written already.
func (w *Writer) writeRest(b []byte) error {
	end := w.off + int64(len(b))
	if w.sent > 0 {
		if w.sent < len(b) {
			if err := w.write(b[w.sent:], w.sent); err != nil {
				return err
			}
		}
		b = b[:blockSize]
	}
	if err := w.write(b, 0); err != nil {
		return err
	}
	w.off, w.sent = end, 0
	return nil
}

// claim takes a segment, unless the Writer has one.
func (w *Writer) claim() error {
	if w.seg != nil {
		return nil
	}
	s := w.s
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return ErrClosed
	}
	seg := s.journal.take()
	s.mu.Unlock()
	if seg == nil {
		var err error
		if err = s.o.faults.onWrite(); err == nil {
			seg, err = s.journal.create()
		}
		if err != nil {
			return writeError("begin image", err)
		}
		s.mu.Lock()
		s.journal.all = append(s.journal.all, seg)
		s.mu.Unlock()
	}
	w.seg, w.start, w.off, w.record = seg, seg.end, seg.end, seg.next
	return nil
}

// Commit ends the image and makes it durable: when it returns without error the
// outcome survives a crash or a power failure. Size and SHA256 of inst are
// filled in; a zero Received becomes now. With an error, nothing is kept that
// this process will show; a retry may follow.
func (w *Writer) Commit(inst Instance) (Outcome, error) {
	if w.done {
		return 0, errors.New("commit after the end of an image")
	}
	defer func() { _ = w.Abort() }() // gives back what a success has not; cannot fail then
	switch {
	case w.err != nil:
		return 0, w.err
	case w.size == 0:
		return 0, errors.New("commit image: it has no bytes")
	case inst.SOPInstanceUID == "" || inst.SeriesInstanceUID == "":
		return 0, errors.New("commit image: it has no SOP instance UID or no series instance UID")
	case !plainUID(inst.SOPInstanceUID) || !plainUID(inst.SeriesInstanceUID):
		return 0, fmt.Errorf("commit image: a UID is longer than %d characters or has characters that no UID has", maxUID)
	}
	inst.Size = w.size
	w.hash.Sum(inst.SHA256[:0])
	if inst.Received.IsZero() {
		inst.Received = w.s.o.Now()
	}
	return w.s.commit(w, inst)
}

// plainUID reports whether a UID is one that can be kept and shown as it is. The
// grammar of PS3.5 9.1 is narrower; refusing what breaks it is up to the caller.
func plainUID(uid string) bool {
	for _, c := range []byte(uid) {
		if c <= ' ' || c > '~' {
			return false
		}
	}
	return len(uid) <= maxUID
}

// commit decides the outcome while no other commit of the same UID runs.
func (s *Store) commit(w *Writer, inst Instance) (Outcome, error) {
	uid, target := inst.SOPInstanceUID, inst.SeriesInstanceUID
	key := string(imageKey(uid, inst.SHA256, true))
	s.mu.Lock()
	for !s.closed && (s.inflight[uid] || s.deleting[target]) {
		s.cond.Wait()
	}
	if s.closed {
		s.mu.Unlock()
		return 0, ErrClosed
	}
	s.inflight[uid] = true
	s.commits[target]++
	waiting, known := s.pending[uid], s.conflict[key]
	s.mu.Unlock()
	series := []string{target}
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.inflight, uid)
		for _, t := range series {
			if s.commits[t]--; s.commits[t] == 0 {
				delete(s.commits, t)
			}
		}
		s.cond.Broadcast()
	}()

	var kept entry
	have := waiting != nil
	if have {
		kept = entry{series: waiting.series, size: waiting.Size, sha: waiting.sha}
	} else {
		var err error
		if kept, have, err = s.index.lookup(uid); err != nil {
			return 0, fmt.Errorf("commit image: %w", err)
		}
	}
	reason, replaces := "", int64(0)
	switch {
	case !have:
	case kept.sha == inst.SHA256:
		return Duplicate, nil
	case s.o.Duplicates == Reject:
		return Rejected, nil
	case s.o.Duplicates == Replace && kept.series == target:
		// The first stays until this one is durable and filed. An image that moves
		// to another series is a sender's mistake and goes to quarantine.
		replaces = kept.size
	default:
		reason = "other bytes are stored under this SOP instance UID"
		if kept.series != target {
			reason = "other bytes are stored under this SOP instance UID, in another series"
			// The series that takes it must not be deleted meanwhile.
			s.mu.Lock()
			if s.deleting[kept.series] {
				s.mu.Unlock()
				return 0, errors.New("commit image: the image stored under this UID is being deleted: send it again")
			}
			s.commits[kept.series]++
			series = append(series, kept.series)
			s.mu.Unlock()
		}
		target = kept.series
		if !known {
			var err error
			if known, err = s.index.quarantined(key); err != nil {
				return 0, fmt.Errorf("commit image: %w", err)
			}
		}
		if known {
			return Conflict, nil // these very bytes are in quarantine
		}
	}
	rec, err := w.persist(inst, target, reason, replaces)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	s.admit(rec, inst)
	s.mu.Unlock()
	s.wakeFiler()
	switch {
	case rec.quarant:
		return Conflict, nil
	case rec.replaces > 0:
		return Replaced, nil
	}
	return Stored, nil
}

// persist writes the rest of the record and makes it durable.
func (w *Writer) persist(inst Instance, target, reason string, replaces int64) (*record, error) {
	s := w.s
	if err := w.claim(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	s.seq++
	seq := s.seq
	s.mu.Unlock()
	payload, err := json.Marshal(commitment{Seq: seq, Series: target, Reason: reason, Replaces: replaces, SHA256: inst.SHA256, Image: inst})
	if err != nil {
		return nil, fmt.Errorf("commit image: %w", err)
	}
	if len(payload) > maxCommit {
		return nil, fmt.Errorf("commit image: its header takes %d bytes, the limit is %d", len(payload), maxCommit)
	}
	// Last data and commit frame leave in one call, padded to the next record.
	frame := w.sealFrame()
	need := len(frame) + frameHeaderSize + len(payload)
	padded := int(align(w.off+int64(need)) - w.off)
	tail := frame
	if padded > cap(tail) {
		tail = append(make([]byte, 0, padded), frame...)
	}
	head := len(tail)
	tail = tail[:padded]
	copy(tail[head+frameHeaderSize:], payload)
	clear(tail[need:])
	frameHeader{
		Type: frameCommit, Salt: w.seg.salt, Record: w.record, Index: w.index,
		Length: uint32(len(payload)), Payload: crc32.Checksum(payload, castagnoli),
	}.put(tail[head:])
	if err = w.writeRest(tail); err == nil {
		if err = s.o.faults.flush(w.seg); err != nil {
			err = writeError("write image to disk", err)
		}
	}
	if err != nil {
		// The commit frame may or may not reach the disk: a retry of the sender must
		// not meet it after a restart. Where the disk takes not even this, the
		// caller already knows.
		if _, werr := w.seg.f.WriteAt(make([]byte, frameHeaderSize), w.start); werr == nil {
			_ = fdatasync(w.seg.f)
		}
		w.err = err
		return nil, err
	}
	return &record{
		span: span{Off: w.start, Size: w.size}, seg: w.seg, uid: inst.SOPInstanceUID, series: target,
		sha: inst.SHA256, seq: seq, commitLen: len(payload), quarant: reason != "", replaces: replaces, since: time.Now(),
	}, nil
}

// Abort gives the image up. It may be called at any time, also after Commit.
func (w *Writer) Abort() error {
	if w.done {
		return nil
	}
	w.done = true
	buffers.Put(w.buf)
	w.buf = nil
	if w.seg != nil {
		w.s.giveBack(w)
	}
	return nil
}

// giveBack returns the segment of a Writer. admit has moved its end when the
// record is complete.
func (s *Store) giveBack(w *Writer) {
	seg := w.seg
	s.mu.Lock()
	seg.size = max(seg.size, w.off+int64(w.sent))
	seg.next = w.record + 1 // also when given up: frames of two tries never mix
	seg.writing = false
	if w.err != nil {
		// After a failed write or sync the system forgets what it lost: nothing is
		// built on this file any more, and its room is given back.
		seg.bad = true
	}
	s.journal.settle(seg)
	s.mu.Unlock()
	s.removeTrash()
}
