package store_test

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hilum/store"
	"hilum/store/storetest"
)

// image makes the bytes of a test image: the same for the same seed and size.
func image(seed uint64, size int) []byte {
	b := make([]byte, size)
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8), byte(seed >> 16), 7})
	_, _ = src.Read(b)
	return b
}

func instance(series, uid string, number int) store.Instance {
	return store.Instance{
		SOPInstanceUID: uid, SeriesInstanceUID: series, StudyInstanceUID: "1.2.3", SOPClassUID: "1.2.840.10008.5.1.4.1.1.2",
		TransferSyntaxUID: "1.2.840.10008.1.2.1", Source: "SCANNER",
		Header: map[string]string{"Modality": "CT", "InstanceNumber": fmt.Sprint(number)},
	}
}

func put(t testing.TB, s *store.Store, inst store.Instance, data []byte) store.Outcome {
	t.Helper()
	w, err := s.NewInstance()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := io.Copy(struct{ io.Writer }{w}, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	outcome, err := w.Commit(inst)
	if err != nil {
		t.Fatal(err)
	}
	return outcome
}

func wantImage(t testing.TB, s *store.Store, uid string, want []byte) {
	t.Helper()
	r, inst, err := s.OpenInstance(uid)
	if err != nil {
		t.Fatalf("OpenInstance(%s): %v", uid, err)
	}
	defer r.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("image %s reads %d bytes (%v), want the %d bytes that were stored", uid, len(got), err, len(want))
	}
	if inst.Size != int64(len(want)) || inst.SHA256 != sha256.Sum256(want) {
		t.Fatalf("image %s: size %d and checksum are not those of its bytes", uid, inst.Size)
	}
}

// TestSizes stores images around every border of the format and reads them
// from the journal, from their series, and after a restart.
func TestSizes(t *testing.T) {
	const frame = 256<<10 - 48
	sizes := []int{1, 4000, 4096, frame - 1, frame, frame + 1, 2 * frame, 526_000, 4*frame - 1, 4 * frame, 4*frame + 1, 8 * 4 * frame, 8*4*frame + 1, 8 << 20, 20 << 20}
	dir := t.TempDir()
	s := storetest.MustOpenDir(t, dir, store.Options{})
	for i, size := range sizes {
		if got := put(t, s, instance("1.9", fmt.Sprintf("1.9.%d", i), len(sizes)-i), image(uint64(i), size)); got != store.Stored {
			t.Fatalf("Commit of %d bytes = %v, want stored", size, got)
		}
	}
	check := func(s *store.Store) {
		t.Helper()
		for i, size := range sizes {
			wantImage(t, s, fmt.Sprintf("1.9.%d", i), image(uint64(i), size))
		}
		list, err := s.Instances("1.9")
		if err != nil || len(list) != len(sizes) || list[0].SOPInstanceUID != fmt.Sprintf("1.9.%d", len(sizes)-1) {
			t.Fatalf("Instances = %d images (%v), want %d, sorted by instance number", len(list), err, len(sizes))
		}
		v, err := s.Series("1.9")
		if err != nil || v.Instances != len(sizes) || v.Modality != "CT" || v.State != store.SeriesReceiving {
			t.Fatalf("Series = %+v (%v), want %d images of modality CT, receiving", v, err, len(sizes))
		}
	}
	check(s)
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	check(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(storetest.MustOpenDir(t, dir, store.Options{}))
}

func TestSeek(t *testing.T) {
	s := storetest.MustOpen(t)
	data := image(1, 3<<20)
	put(t, s, instance("1", "1.1", 1), data)
	for _, filed := range []bool{false, true} {
		if filed {
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		r, _, err := s.OpenInstance("1.1")
		if err != nil {
			t.Fatal(err)
		}
		for _, off := range []int64{0, 1, 262095, 262096, 262097, 1048384, 3<<20 - 1} {
			if _, err := r.Seek(off, io.SeekStart); err != nil {
				t.Fatal(err)
			}
			part := make([]byte, min(300_000, int64(len(data))-off))
			if _, err := io.ReadFull(r, part); err != nil || !bytes.Equal(part, data[off:off+int64(len(part))]) {
				t.Errorf("filed %v: read at %d (%v) gives other bytes than were stored", filed, off, err)
			}
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestDuplicates(t *testing.T) {
	for _, filed := range []bool{false, true} {
		t.Run(fmt.Sprintf("filed=%v", filed), func(t *testing.T) {
			s := storetest.MustOpen(t)
			first, second := image(1, 300_000), image(2, 300_000)
			steps := []struct {
				name   string
				series string
				data   []byte
				want   store.Outcome
			}{
				{"first", "1", first, store.Stored},
				{"same bytes", "1", first, store.Duplicate},
				{"same bytes said to be of another series", "2", first, store.Duplicate},
				{"other bytes", "1", second, store.Conflict},
				{"the other bytes again", "1", second, store.Conflict},
				{"other bytes, another series", "2", image(3, 10), store.Conflict},
				{"first again", "1", first, store.Duplicate},
			}
			for _, step := range steps {
				if got := put(t, s, instance(step.series, "5.5", 1), step.data); got != step.want {
					t.Errorf("%s: Commit = %v, want %v", step.name, got, step.want)
				}
				if filed {
					if err := s.Flush(t.Context()); err != nil {
						t.Fatal(err)
					}
				}
			}
			wantImage(t, s, "5.5", first)
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			q, err := s.Quarantined()
			if err != nil || len(q) != 2 || q[0].KeptSeries != "1" || q[0].Reason == "" {
				t.Errorf("Quarantined = %+v (%v), want the two other images with a reason", q, err)
			}
			if v, err := s.Series("1"); err != nil || v.Instances != 1 {
				t.Errorf("series counts %d images (%v), want 1", v.Instances, err)
			}
			if _, err := s.Series("2"); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Series(2) = %v, want ErrNotFound: it has no image", err)
			}
		})
	}
}

// TestConcurrentSameUID commits one UID from many associations at once: one
// image is kept, whatever the order.
func TestConcurrentSameUID(t *testing.T) {
	s := storetest.MustOpen(t)
	for round := range 20 {
		uid := fmt.Sprintf("7.%d", round)
		var wg sync.WaitGroup
		outcomes := make([]store.Outcome, 6)
		for i := range outcomes {
			wg.Add(1)
			go func() {
				defer wg.Done()
				outcomes[i] = put(t, s, instance("7", uid, 1), image(uint64(i%2), 5000))
			}()
		}
		wg.Wait()
		count := map[store.Outcome]int{}
		for _, o := range outcomes {
			count[o]++
		}
		if count[store.Stored] != 1 || count[store.Duplicate] != 2 || count[store.Conflict] != 3 {
			t.Fatalf("outcomes = %v, want 1 stored, 2 duplicates, 3 conflicts", outcomes)
		}
	}
}

func TestAbortKeepsNothing(t *testing.T) {
	s := storetest.MustOpen(t)
	for _, size := range []int{0, 10, 1 << 20} {
		w, err := s.NewInstance()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(image(1, size)); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(w.Abort(), w.Abort()); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(instance("1", "1.1", 1)); err == nil {
			t.Error("Commit after Abort succeeded")
		}
		if _, err := w.Write([]byte{1}); err == nil {
			t.Error("Write after Abort succeeded")
		}
	}
	if _, err := s.Instance("1.1"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Instance = %v, want ErrNotFound", err)
	}
	if all, err := s.AllSeries(); err != nil || len(all) != 0 {
		t.Errorf("AllSeries = %v (%v), want none", all, err)
	}
}

func TestCommitRefuses(t *testing.T) {
	s := storetest.MustOpen(t)
	huge := instance("1", "1.1", 1)
	huge.Header = map[string]string{"x": strings.Repeat("y", 2<<20)}
	tests := []struct {
		name string
		inst store.Instance
		data []byte
	}{
		{"no bytes", instance("1", "1.1", 1), nil},
		{"no UID", instance("1", "", 1), []byte{1}},
		{"no series", instance("", "1.1", 1), []byte{1}},
		{"zero byte in UID", instance("1", "1\x001", 1), []byte{1}},
		{"series UID that is not text", instance("\xff\xfe", "1.1", 1), []byte{1}},
		{"long UID", instance("1", strings.Repeat("1", 200), 1), []byte{1}},
		{"huge header", huge, []byte{1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			w, err := s.NewInstance()
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Write(tt.data); err != nil {
				t.Fatal(err)
			}
			if got, err := w.Commit(tt.inst); err == nil {
				t.Errorf("Commit = %v, want an error", got)
			}
		})
	}
}

// TestHostileUIDs stores under names that would be paths.
func TestHostileUIDs(t *testing.T) {
	dir := t.TempDir()
	s := storetest.MustOpenDir(t, filepath.Join(dir, "data"), store.Options{})
	for i, uid := range []string{"../../x", "/etc/passwd", "..", "%s%n", "$(id)", "con.db"} {
		put(t, s, instance(uid, uid+"i", 1), image(uint64(i), 100))
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		wantImage(t, s, uid+"i", image(uint64(i), 100))
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%d entries beside the data folder (%v), want none", len(entries)-1, err)
	}
}

func TestModes(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	s := storetest.MustOpenDir(t, dir, store.Options{})
	put(t, s, instance("1", "1.1", 1), image(1, 1000))
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		want := fs.FileMode(0o600)
		if d.IsDir() {
			want = 0o700
		}
		if err == nil && info.Mode().Perm() != want {
			t.Errorf("%s has mode %o, want %o", path, info.Mode().Perm(), want)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestLockedFolder(t *testing.T) {
	dir := t.TempDir()
	storetest.MustOpenDir(t, dir, store.Options{})
	_, err := store.Open(dir, store.Options{})
	if !errors.Is(err, store.ErrLocked) || !strings.Contains(err.Error(), dir) {
		t.Errorf("second Open = %v, want ErrLocked that names the folder", err)
	}
}

func TestUpdateSeries(t *testing.T) {
	dir := t.TempDir()
	s := storetest.MustOpenDir(t, dir, store.Options{})
	put(t, s, instance("1", "1.1", 1), image(1, 1000))
	complete := func(v *store.Series) error {
		v.State, v.Reason, v.CompleteInstances = store.SeriesComplete, "quiet", v.Instances
		v.Revision++
		v.Modality, v.Instances = "XX", 99 // not kept
		return nil
	}
	if err := s.UpdateSeries("1", complete); err != nil { // not filed yet
		t.Fatal(err)
	}
	refuse := errors.New("no")
	if err := s.UpdateSeries("1", func(v *store.Series) error { v.Reason = "x"; return refuse }); !errors.Is(err, refuse) {
		t.Errorf("UpdateSeries = %v, want the error of fn", err)
	}
	if err := s.UpdateSeries("2", complete); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("UpdateSeries of an unknown series = %v, want ErrNotFound", err)
	}
	put(t, s, instance("1", "1.2", 2), image(2, 500))
	check := func(s *store.Store) {
		t.Helper()
		v, err := s.Series("1")
		if err != nil || v.State != store.SeriesComplete || v.Reason != "quiet" || v.Revision != 1 || v.CompleteInstances != 1 ||
			v.Instances != 2 || v.Bytes != 1500 || v.Modality != "CT" || len(v.Sources) != 1 {
			t.Errorf("Series = %+v (%v), want complete revision 1 with 1 of 2 images", v, err)
		}
	}
	check(s)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	check(storetest.MustOpenDir(t, dir, store.Options{}))
}

// TestSeriesCountsWhileFiling compares what Series says with what was
// committed, while the filer moves images underneath.
func TestSeriesCountsWhileFiling(t *testing.T) {
	s := storetest.MustOpen(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 30 {
			if err := s.Flush(t.Context()); err != nil {
				t.Error(err)
			}
		}
	}()
	for i := 1; ; i++ {
		put(t, s, instance("1", fmt.Sprintf("1.%d", i), i), image(1, 100))
		v, err := s.Series("1")
		if err != nil || v.Instances != i || v.Bytes != int64(100*i) {
			t.Fatalf("Series = %d images, %d bytes (%v), want %d images", v.Instances, v.Bytes, err, i)
		}
		select {
		case <-done:
			return
		default:
		}
	}
}

func TestDeleteSeries(t *testing.T) {
	for _, filed := range []bool{false, true} {
		t.Run(fmt.Sprintf("filed=%v", filed), func(t *testing.T) {
			dir := t.TempDir()
			s := storetest.MustOpenDir(t, dir, store.Options{})
			put(t, s, instance("1", "1.1", 1), image(1, 600_000))
			put(t, s, instance("1", "1.1", 1), image(2, 600_000)) // quarantined
			put(t, s, instance("2", "2.1", 1), image(3, 1000))
			if filed {
				if err := s.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			r, _, err := s.OpenInstance("1.1")
			if err != nil {
				t.Fatal(err)
			}
			if err := s.DeleteSeries("1"); err != nil {
				t.Fatal(err)
			}
			if _, err := r.Read(make([]byte, 10)); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("Read after DeleteSeries = %v, want ErrNotFound", err)
			}
			if err := s.DeleteSeries("1"); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("second DeleteSeries = %v, want ErrNotFound", err)
			}
			if q, err := s.Quarantined(); err != nil || len(q) != 0 {
				t.Errorf("Quarantined = %v (%v), want none", q, err)
			}
			if got := put(t, s, instance("1", "1.1", 1), image(4, 2000)); got != store.Stored {
				t.Errorf("Commit after DeleteSeries = %v, want stored", got)
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			s = storetest.MustOpenDir(t, dir, store.Options{})
			wantImage(t, s, "1.1", image(4, 2000))
			wantImage(t, s, "2.1", image(3, 1000))
		})
	}
}

func TestRebuildIndex(t *testing.T) {
	dir := t.TempDir()
	s := storetest.MustOpenDir(t, dir, store.Options{})
	for i := range 10 {
		put(t, s, instance(fmt.Sprint(i%3), fmt.Sprintf("9.%d", i), i), image(uint64(i), 1000*i+1))
	}
	put(t, s, instance("0", "9.0", 1), image(99, 50))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(dir, "index.db")); err != nil {
		t.Fatal(err)
	}
	s = storetest.MustOpenDir(t, dir, store.Options{})
	for i := range 10 {
		wantImage(t, s, fmt.Sprintf("9.%d", i), image(uint64(i), 1000*i+1))
	}
	if v, err := s.Series("0"); err != nil || v.Instances != 4 || v.Sources[0] != "SCANNER" {
		t.Errorf("Series = %+v (%v), want 4 images from SCANNER", v, err)
	}
	if q, err := s.Quarantined(); err != nil || len(q) != 1 {
		t.Errorf("Quarantined = %v (%v), want one", q, err)
	}
	put(t, s, instance("0", "9.100", 1), image(100, 50))
	if v, err := s.Series("0"); err != nil || v.Instances != 5 {
		t.Errorf("Series after one more image = %+v (%v), want 5 images", v, err)
	}
}

func TestManySeriesFewFiles(t *testing.T) {
	s := storetest.MustOpenDir(t, t.TempDir(), store.Options{OpenSeries: 2})
	for i := range 12 {
		put(t, s, instance(fmt.Sprint(i), fmt.Sprintf("%d.1", i), 1), image(uint64(i), 300))
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 12 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			r, _, err := s.OpenInstance(fmt.Sprintf("%d.1", i))
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := io.ReadAll(r); err != nil || !bytes.Equal(b, image(uint64(i), 300)) {
				t.Errorf("series %d reads wrong bytes (%v)", i, err)
			}
		}()
	}
	wg.Wait()
	if all, err := s.AllSeries(); err != nil || len(all) != 12 {
		t.Errorf("AllSeries = %d (%v), want 12", len(all), err)
	}
}

func TestBacklogIsBounded(t *testing.T) {
	s := storetest.MustOpenDir(t, t.TempDir(), store.Options{Backlog: 1 << 20})
	for i := range 20 {
		put(t, s, instance("1", fmt.Sprintf("1.%d", i), i), image(uint64(i), 500_000))
	}
}

func TestReserve(t *testing.T) {
	s := storetest.MustOpenDir(t, t.TempDir(), store.Options{MinFree: 1 << 62})
	if _, err := s.NewInstance(); !errors.Is(err, store.ErrFull) {
		t.Errorf("NewInstance = %v, want ErrFull", err)
	}
}

func TestAfterClose(t *testing.T) {
	s, err := store.Open(t.TempDir(), store.Options{Now: func() time.Time { return time.Unix(1e9, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	w, err := s.NewInstance()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(image(1, 600_000)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(s.Close(), s.Close()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(instance("1", "1.1", 1)); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Commit = %v, want ErrClosed", err)
	}
	if _, err := s.NewInstance(); !errors.Is(err, store.ErrClosed) {
		t.Errorf("NewInstance = %v, want ErrClosed", err)
	}
	if _, err := s.Series("1"); !errors.Is(err, store.ErrClosed) {
		t.Errorf("Series = %v, want ErrClosed", err)
	}
}

// TestDeleteGivesRoom: what a deleted series took on the disk is free again, without a
// compaction.
func TestDeleteGivesRoom(t *testing.T) {
	dir := t.TempDir()
	s := storetest.MustOpenDir(t, dir, store.Options{})
	put(t, s, instance("1", "1.1", 1), image(1, 1000))
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	used := func() (total int64) {
		t.Helper()
		err := filepath.WalkDir(filepath.Join(dir, "series"), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			st, err := d.Info()
			total += st.Size()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return total
	}
	before := used()
	for n := range 8 {
		put(t, s, instance("2", fmt.Sprint("2.", n), n), image(uint64(n+2), 4<<20))
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if between := used(); between-before < 32<<20 {
		t.Fatalf("8 images of 4 MiB take %d bytes", between-before)
	}
	if err := s.DeleteSeries("2"); err != nil {
		t.Fatal(err)
	}
	if after := used(); after != before {
		t.Errorf("%d bytes are used after the deletion, %d were before", after, before)
	}
}
