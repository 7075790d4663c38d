package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"go.etcd.io/bbolt"
)

// held opens a store whose filer never succeeds, so that all stays in the
// journal.
func held(t testing.TB, dir string) *Store {
	t.Helper()
	s, err := Open(dir, Options{faults: &faults{file: func() error { return errors.New("held") }}})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func commit(t testing.TB, s *Store, series, uid string, data []byte) error {
	t.Helper()
	w, err := s.NewInstance()
	if err != nil {
		return err
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		return err
	}
	_, err = w.Commit(Instance{SOPInstanceUID: uid, SeriesInstanceUID: series, Source: "S"})
	return err
}

func testBytes(seed byte, n int) []byte {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// crashCopy copies a data folder as a crash would leave it.
func crashCopy(t testing.TB, from string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(from)); err != nil {
		t.Fatal(err)
	}
	return to
}

func readImage(s *Store, uid string) ([]byte, error) {
	r, _, err := s.OpenInstance(uid)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

// TestTornTail cuts and corrupts the last of three records at every border and
// at its bytes in between: the two before it stay, it is whole or gone.
func TestTornTail(t *testing.T) {
	dir := t.TempDir()
	s := held(t, dir)
	sizes := []int{5000, 300_000, 600_000}
	for i, n := range sizes {
		if err := commit(t, s, "1", fmt.Sprint("1.", i), testBytes(byte(i), n)); err != nil {
			t.Fatal(err)
		}
	}
	if len(s.journal.all) != 1 {
		t.Fatalf("%d segments, want the one used three times", len(s.journal.all))
	}
	rec, name := s.pending["1.2"], s.journal.all[0].name
	last := rec.commitOffset() + frameHeaderSize + int64(rec.commitLen)
	base := crashCopy(t, dir)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	whole, err := os.ReadFile(filepath.Join(base, journalFolder, name))
	if err != nil {
		t.Fatal(err)
	}
	offsets := map[int64]bool{rec.Off: true, rec.commitOffset(): true, last: true, int64(len(whole)): true}
	for off := rec.Off; off < last; off += frameSize {
		offsets[off] = true
	}
	for off := range offsets {
		for _, d := range []int64{-1, 1, 4, 20, 30, frameHeaderSize, frameHeaderSize + 1, 500} {
			if o := off + d; o >= rec.Off && o < int64(len(whole)) {
				offsets[o] = true
			}
		}
	}
	scan := func(b []byte) (sizes []int64) {
		err := scanJournal(bytes.NewReader(b), int64(len(b)), func(f found) error {
			sizes = append(sizes, f.Size)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		return sizes
	}
	for off := range offsets {
		want := 2
		if off >= last {
			want = 3
		}
		if got := scan(whole[:off]); len(got) != want {
			t.Errorf("journal cut at %d of %d holds %d records, want %d", off, last, len(got), want)
		}
		if off < last {
			torn := bytes.Clone(whole)
			torn[off] ^= 0x20
			if got := scan(torn); len(got) != 2 {
				t.Errorf("journal with a wrong byte at %d holds %d records, want 2", off, len(got))
			}
			torn = append(bytes.Clone(whole[:off]), make([]byte, len(whole)-int(off))...)
			// Zeros may be what stood there.
			if got := scan(torn); len(got) != 2 && !bytes.Equal(torn, whole) {
				t.Errorf("journal with zeros from %d on holds %d records, want 2", off, len(got))
			}
		}
	}
	// And through Open, at a few of them.
	for _, off := range []int64{rec.Off, rec.Off + 100, rec.commitOffset(), last - 1, last} {
		dir := crashCopy(t, base)
		if err := os.Truncate(filepath.Join(dir, journalFolder, name), off); err != nil {
			t.Fatal(err)
		}
		s, err := Open(dir, Options{})
		if err != nil {
			t.Fatal(err)
		}
		for i, n := range sizes {
			b, err := readImage(s, fmt.Sprint("1.", i))
			switch {
			case i == 2 && off < last:
				if !errors.Is(err, ErrNotFound) {
					t.Errorf("cut at %d: torn image = %v, want ErrNotFound", off, err)
				}
			case err != nil || !bytes.Equal(b, testBytes(byte(i), n)):
				t.Errorf("cut at %d: image %d is not what was stored (%v)", off, i, err)
			}
		}
		mustCheck(t, s)
	}
}

func mustCheck(t testing.TB, s *Store) {
	t.Helper()
	if err := s.Flush(t.Context()); err != nil {
		t.Errorf("flush: %v", err)
	}
	r, err := s.Check(t.Context())
	if err != nil || len(r.Problems) > 0 {
		t.Errorf("check: %v %v", r.Problems, err)
	}
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// TestStaleRecords recovers a folder whose segments still hold records that were
// filed long ago, and of a series that has been deleted.
func TestStaleRecords(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 4 {
		if err := commit(t, s, fmt.Sprint(i%2), fmt.Sprint("1.", i), testBytes(byte(i), 10_000)); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := s.DeleteSeries("1"); err != nil {
		t.Fatal(err)
	}
	// The first record of the segment is written over, the others stay behind it.
	if err := commit(t, s, "2", "2.1", testBytes(9, 10_000)); err != nil {
		t.Fatal(err)
	}
	crashed := crashCopy(t, dir)
	mustCheck(t, s)
	for range 2 {
		s, err := Open(crashed, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := s.Series("1"); !errors.Is(err, ErrNotFound) {
			t.Errorf("deleted series = %v, want ErrNotFound", err)
		}
		for _, series := range []string{"0", "2"} {
			if v, err := s.Series(series); err != nil || v.Instances != map[string]int{"0": 2, "2": 1}[series] {
				t.Errorf("series %s has %d images (%v)", series, v.Instances, err)
			}
		}
		again := crashCopy(t, crashed)
		mustCheck(t, s)
		crashed = again
	}
}

// TestCrashWhileFiling copies the folder between the two transactions that file
// an image.
func TestCrashWhileFiling(t *testing.T) {
	dir := t.TempDir()
	s := held(t, dir)
	data := testBytes(1, 9<<20)
	for _, img := range []struct {
		uid  string
		data []byte
	}{{"1.1", data[:1000]}, {"1.2", data}} {
		if err := commit(t, s, "1", img.uid, img.data); err != nil {
			t.Fatal(err)
		}
	}
	s.filing.Lock()
	recs := s.series["1"].recs
	for step := range 3 { // transactions that still reach the disk
		n := 0
		s.o.faults.file = func() error {
			if n++; n > step {
				return errors.New("crash")
			}
			return nil
		}
		if _, err := s.fileSeries(recs, make([]byte, fileBytes)); step < 3 && err == nil {
			t.Errorf("step %d: no error", step)
		}
		crashed := crashCopy(t, dir)
		other, err := Open(crashed, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if v, err := other.Series("1"); err != nil || v.Instances != 2 {
			t.Errorf("step %d: series has %d images (%v), want 2", step, v.Instances, err)
		}
		if b, err := readImage(other, "1.2"); err != nil || !bytes.Equal(b, data) {
			t.Errorf("step %d: large image is not what was stored (%v)", step, err)
		}
		mustCheck(t, other)
	}
	s.o.faults.file = nil
	s.filing.Unlock()
	mustCheck(t, s)
}

// TestWriteErrors fails each write and sync in turn: the image is refused with a
// typed error, nothing of it shows, also after a restart, and the store goes on.
func TestWriteErrors(t *testing.T) {
	tests := []struct {
		name string
		sync bool
		at   int
		err  error
		full bool
	}{
		{"new segment", false, 1, syscall.ENOSPC, true},
		{"first write", false, 2, syscall.ENOSPC, true},
		{"second write", false, 3, syscall.EIO, false},
		{"last write", false, 4, syscall.EDQUOT, true},
		{"short first write", false, 2, &shortWrite{3, syscall.ENOSPC}, true},
		{"short second write", false, 3, &shortWrite{1, syscall.EIO}, false},
		{"short last write, without the commit frame", false, 4, &shortWrite{1, syscall.ENOSPC}, true},
		{"short last write, with all but its last block", false, 4, &shortWrite{18, syscall.ENOSPC}, true},
		{"sync", true, 1, syscall.EIO, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			n := 0
			fail := func() error {
				if n++; n == tt.at {
					return tt.err
				}
				return nil
			}
			f := &faults{write: fail}
			if tt.sync {
				f = &faults{sync: fail}
			}
			s, err := Open(dir, Options{faults: f})
			if err != nil {
				t.Fatal(err)
			}
			data := testBytes(1, 600_000)
			if err := commit(t, s, "1", "1.1", data); !errors.Is(err, tt.err) || errors.Is(err, ErrFull) != tt.full {
				t.Errorf("commit = %v, want %v, ErrFull %v", err, tt.err, tt.full)
			}
			crashed := crashCopy(t, dir)
			if err := commit(t, s, "1", "1.1", data[1:]); err != nil { // the sender tries again
				t.Errorf("second commit: %v", err)
			}
			if b, err := readImage(s, "1.1"); err != nil || !bytes.Equal(b, data[1:]) {
				t.Errorf("image is not what was stored (%v)", err)
			}
			mustCheck(t, s)
			if s, err = Open(crashed, Options{}); err != nil {
				t.Fatal(err)
			}
			if _, err := s.Instance("1.1"); !errors.Is(err, ErrNotFound) {
				t.Errorf("refused image after a restart = %v, want ErrNotFound", err)
			}
			mustCheck(t, s)
		})
	}
}

// TestFilerError keeps images readable while they cannot be filed, and files them
// when that ends.
func TestFilerError(t *testing.T) {
	broken := true
	s, err := Open(t.TempDir(), Options{Backlog: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	s.filing.Lock()
	s.o.faults = &faults{file: func() error {
		if broken {
			return syscall.ENOSPC
		}
		return nil
	}}
	s.filing.Unlock()
	data := testBytes(1, 600_000)
	for i := range 2 {
		if err := commit(t, s, "1", fmt.Sprint("1.", i), data); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Flush(t.Context()); !errors.Is(err, ErrFull) {
		t.Errorf("Flush = %v, want ErrFull", err)
	}
	if err := commit(t, s, "1", "1.9", data); !errors.Is(err, ErrFull) {
		t.Errorf("commit with a full backlog = %v, want ErrFull", err)
	}
	if b, err := readImage(s, "1.1"); err != nil || !bytes.Equal(b, data) {
		t.Errorf("image is not what was stored (%v)", err)
	}
	s.filing.Lock()
	broken = false
	s.filing.Unlock()
	mustCheck(t, s)
}

// TestNewerSchema refuses a folder of a newer version, and leaves it alone.
func TestNewerSchema(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	err = s.index.update(func(tx *bbolt.Tx) error {
		return putUint(tx.Bucket(bucketMeta), keySchema, schemaVersion+1)
	})
	if err := errors.Join(err, s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(dir, Options{}); !errors.Is(err, ErrSchema) {
		t.Errorf("Open = %v, want ErrSchema", err)
	}
}

// TestCheckFindsDamage changes one byte of a stored image on disk.
func TestCheckFindsDamage(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	data := testBytes(1, 100_000)
	if err := errors.Join(commit(t, s, "1", "1.1", data), commit(t, s, "2", "2.1", data), s.Close()); err != nil {
		t.Fatal(err)
	}
	sub, name := seriesPath("1")
	path := filepath.Join(dir, seriesFolder, sub, name)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.Index(b, data[:1000])
	b[at+5000] ^= 1
	orphan := filepath.Join(dir, seriesFolder, sub, "0"+name[1:])
	if err := errors.Join(os.WriteFile(path, b, fileMode), os.WriteFile(orphan, nil, fileMode)); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir, Options{}); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := s.Check(t.Context())
	if err != nil || len(r.Problems) != 3 || r.Series != 2 || r.Instances != 1 {
		t.Errorf("Check = %+v (%v), want the image, the count of its series, and the orphan", r, err)
	}
}

// FuzzScanJournal gives the decoder any bytes: it must end, hold no more memory
// than a frame and the metadata, and find only records whose data can be read
// again with their sums.
func FuzzScanJournal(f *testing.F) {
	dir := f.TempDir()
	s := held(f, dir)
	for i, n := range []int{1, 4000, 9000} {
		if err := commit(f, s, "1", fmt.Sprint("1.", i), testBytes(byte(i), n)); err != nil {
			f.Fatal(err)
		}
	}
	seed, err := os.ReadFile(s.journal.all[0].f.Name())
	if err := errors.Join(err, s.Close()); err != nil {
		f.Fatal(err)
	}
	f.Add(seed)
	f.Add(seed[:5000])
	f.Add([]byte(frameMagic))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var list []found
		r := bytes.NewReader(b)
		if err := scanJournal(r, int64(len(b)), func(f found) error {
			list = append(list, f)
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		runtime.ReadMemStats(&after)
		if used := after.TotalAlloc - before.TotalAlloc; used > 1<<20+4*uint64(len(b)) {
			t.Errorf("%d bytes of journal took %d bytes of memory", len(b), used)
		}
		end := int64(0)
		for _, rec := range list {
			if rec.Off != end || rec.commitOffset() > int64(len(b)) {
				t.Fatalf("record at %d, want %d, within %d bytes", rec.Off, end, len(b))
			}
			end = rec.End
			data := make([]byte, rec.Size)
			if err := rec.checked(r, data, 0); err != nil {
				t.Errorf("record cannot be read again: %v", err)
			}
			again := make([]byte, rec.Size)
			if n, err := rec.readAt(r, again, 0); n != len(again) || err != nil || !bytes.Equal(data, again) {
				t.Errorf("readAt = %d, %v, and other bytes than checked", n, err)
			}
			_, _ = rec.record(nil) // must not panic
		}
	})
}
