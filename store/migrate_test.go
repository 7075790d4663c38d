package store

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"
)

var writeOld = flag.Bool("write-version", false, "write testdata/vN, a data folder of the present version")

// oldImages are what every folder in testdata holds, in journal and series files.
func oldImage(i int) []byte { return bytes.Repeat([]byte(fmt.Sprintf("image %d.", i)), 100+i*1000) }

// writeVersion makes a data folder as a crash leaves it: four images and one in
// quarantine are filed, two are in the journal; there are two jobs.
func writeVersion(t *testing.T, dir string) {
	t.Helper()
	s, err := Open(dir, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	put := func(i, bytes int) {
		t.Helper()
		if err := commit(t, s, fmt.Sprint("1.2.3.", i%2), fmt.Sprint("1.2.3.4.", i), oldImage(bytes)); err != nil {
			t.Fatal(err)
		}
	}
	for i := range 4 {
		put(i, i)
	}
	put(0, 9) // other bytes
	_, _, err1 := s.Enqueue(Job{Queue: "analysis/x", Key: "a"})
	_, _, err2 := s.Enqueue(Job{Queue: "analysis/x", Key: "b", State: JobWaiting})
	err3 := s.UpdateSeries("1.2.3.0", func(v *Series) error {
		v.State, v.Revision, v.CompleteInstances = SeriesComplete, 1, 2
		return nil
	})
	if err := errors.Join(err1, err2, err3, s.Flush(t.Context())); err != nil {
		t.Fatal(err)
	}
	s.filing.Lock()
	put(4, 4)
	put(5, 5)
	to := filepath.Join("testdata", fmt.Sprint("v", schemaVersion))
	if err := errors.Join(os.RemoveAll(to), os.CopyFS(to, os.DirFS(dir)), os.Remove(filepath.Join(to, lockName))); err != nil {
		t.Error(err)
	}
	s.filing.Unlock()
}

// TestOldVersions opens a copy of every folder in testdata, with and without
// its index, checks it and reads all of it.
func TestOldVersions(t *testing.T) {
	if *writeOld {
		writeVersion(t, t.TempDir())
	}
	if len(migrations) != schemaVersion-1 {
		t.Fatalf("%d migrations, want one for each version before %d", len(migrations), schemaVersion)
	}
	for v := 1; v <= schemaVersion; v++ {
		for _, index := range []bool{true, false} {
			t.Run(fmt.Sprintf("v%d index=%v", v, index), func(t *testing.T) {
				dir := crashCopy(t, filepath.Join("testdata", fmt.Sprint("v", v)))
				if !index {
					if err := os.Remove(filepath.Join(dir, indexName)); err != nil {
						t.Fatal(err)
					}
				}
				s, err := Open(dir, Options{})
				if err != nil {
					t.Fatal(err)
				}
				for i := range 6 {
					if b, err := readImage(s, fmt.Sprint("1.2.3.4.", i)); err != nil || !bytes.Equal(b, oldImage(i)) {
						t.Errorf("image %d reads %d bytes (%v), want %d", i, len(b), err, len(oldImage(i)))
					}
				}
				if err := s.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				if q, err := s.Quarantined(); err != nil || len(q) != 1 {
					t.Errorf("Quarantined = %v, %v; want one image", q, err)
				}
				jobs, err := s.Jobs("analysis/x")
				if index && (err != nil || len(jobs) != 2) {
					t.Errorf("Jobs = %v, %v; want 2", jobs, err)
				}
				if series, err := s.Series("1.2.3.0"); err != nil || series.Instances != 3 || index && series.Revision != 1 {
					t.Errorf("Series = %+v, %v; want 3 images, revision 1", series, err)
				}
				mustCheck(t, s)
			})
		}
	}
}

// TestMigrator runs steps on files of several versions, and one that fails.
func TestMigrator(t *testing.T) {
	note := func(name string) func(*bbolt.Tx) error {
		return func(tx *bbolt.Tx) error {
			b := tx.Bucket(bucketMeta)
			return b.Put([]byte("steps"), append(bytes.Clone(b.Get([]byte("steps"))), name...))
		}
	}
	broken := errors.New("broken")
	for _, tt := range []struct {
		name          string
		from          uint64
		steps         []migration
		index, series string
		wantVersion   uint64
		err           error
	}{
		{"current", 3, []migration{{note("a"), note("A")}, {note("b"), note("B")}}, "", "", 3, nil},
		{"one step", 2, []migration{{note("a"), note("A")}, {note("b"), note("B")}}, "b", "B", 3, nil},
		{"all steps", 1, []migration{{note("a"), nil}, {nil, note("B")}, {note("c"), note("C")}}, "ac", "BC", 4, nil},
		{"newer", 9, []migration{{note("a"), note("A")}}, "", "", 9, nil},
		{"failing", 1, []migration{{note("a"), note("A")}, {func(*bbolt.Tx) error { return broken }, func(*bbolt.Tx) error { return broken }}}, "", "", 1, broken},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := migrator{tt.steps, slog.New(slog.DiscardHandler)}
			for kind, want := range map[string]string{"index": tt.index, "series": tt.series} {
				db, err := createBolt(filepath.Join(t.TempDir(), "x.db"), func(tx *bbolt.Tx) error {
					b, err := tx.CreateBucket(bucketMeta)
					return errors.Join(err, putUint(b, keySchema, tt.from))
				})
				if err != nil {
					t.Fatal(err)
				}
				defer db.Close()
				switch {
				case kind == "series":
					err = m.migrateSeries(db)
				case tt.from < m.newest():
					err = m.migrateIndex(db, tt.from)
				}
				if !errors.Is(err, tt.err) {
					t.Errorf("%s: migrate = %v, want %v", kind, err, tt.err)
				}
				err = view(db, func(tx *bbolt.Tx) error {
					b := tx.Bucket(bucketMeta)
					if got := string(b.Get([]byte("steps"))); got != want || getUint(b, keySchema) != tt.wantVersion {
						t.Errorf("%s: steps %q, version %d; want %q, %d", kind, got, getUint(b, keySchema), want, tt.wantVersion)
					}
					return nil
				})
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	if !strings.Contains((&schemaError{dir: "d", version: 9}).Error(), "newer") {
		t.Error("a newer format is not explained")
	}
}
