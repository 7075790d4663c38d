package store

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"testing"
)

// commitAs is commit with the outcome.
func commitAs(t *testing.T, s *Store, series, uid string, data []byte) Outcome {
	t.Helper()
	w, err := s.NewInstance()
	if err != nil {
		t.Fatal(err)
	}
	defer w.Abort()
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	o, err := w.Commit(Instance{SOPInstanceUID: uid, SeriesInstanceUID: series, Source: "S"})
	if err != nil {
		t.Fatal(err)
	}
	return o
}

func wantBytes(t *testing.T, s *Store, uid string, want []byte) {
	t.Helper()
	if b, err := readImage(s, uid); err != nil || !bytes.Equal(b, want) {
		t.Errorf("image %s reads %d bytes (%v), want the %d stored last", uid, len(b), err, len(want))
	}
}

// TestReplace replaces small and large images before and after they are filed,
// with a crash at every step: the newest that was acknowledged is always there.
func TestReplace(t *testing.T) {
	large := groupChunks*chunkSize + 100_000
	for _, size := range []int{5_000, large} {
		for steps := range 1 << 3 { // which of the commits are followed by a flush
			if size == large && steps != 0 && steps != 5 {
				continue // 8 MB each: the small ones try them all
			}
			t.Run(fmt.Sprintf("size=%d flushes=%03b", size, steps), func(t *testing.T) {
				dir := t.TempDir()
				s, err := Open(dir, Options{Duplicates: Replace})
				if err != nil {
					t.Fatal(err)
				}
				var old io.ReadSeekCloser
				for i := range 3 {
					data := testBytes(byte(i+1), size+i*1000)
					want := Stored
					if i > 0 {
						want = Replaced
					}
					s.filing.Lock() // not filed before the copy is taken
					if got := commitAs(t, s, "1", "1.1", data); got != want {
						t.Errorf("commit %d = %v, want %v", i, got, want)
					}
					if got := commitAs(t, s, "1", "1.1", data); got != Duplicate {
						t.Errorf("commit %d again = %v, want a duplicate", i, got)
					}
					wantBytes(t, s, "1.1", data)
					crashed := crashCopy(t, dir)
					s.filing.Unlock()
					again, err := Open(crashed, Options{}) // whatever the policy is now
					if err != nil {
						t.Fatal(err)
					}
					wantBytes(t, again, "1.1", data)
					mustCheck(t, again)
					if steps>>i&1 == 1 {
						if err := s.Flush(t.Context()); err != nil {
							t.Fatal(err)
						}
						wantBytes(t, s, "1.1", data)
					}
					v, err := s.Series("1")
					if err != nil || v.Instances != 1 || v.Bytes != int64(len(data)) {
						t.Errorf("series after commit %d = %d images of %d bytes (%v), want 1 of %d", i, v.Instances, v.Bytes, err, len(data))
					}
					if i == 0 {
						if old, _, err = s.OpenInstance("1.1"); err != nil {
							t.Fatal(err)
						}
						if _, err := old.Read(make([]byte, 100)); err != nil {
							t.Fatal(err)
						}
					}
				}
				if err := s.Flush(t.Context()); err != nil {
					t.Fatal(err)
				}
				if n, err := old.Read(make([]byte, 100)); !errors.Is(err, ErrNotFound) {
					t.Errorf("reading on in a replaced image = %d, %v; want ErrNotFound, never a mixture", n, err)
				}
				if list, err := s.Instances("1"); err != nil || len(list) != 1 || list[0].Size != int64(size+2000) {
					t.Errorf("Instances = %v, %v; want the last one", list, err)
				}
				crashed := crashCopy(t, dir) // stale records of all three are in the journal
				mustCheck(t, s)
				if s, err = Open(crashed, Options{Duplicates: Replace}); err != nil {
					t.Fatal(err)
				}
				wantBytes(t, s, "1.1", testBytes(3, size+2000))
				mustCheck(t, s)
			})
		}
	}
}

// TestReplaceAfterCompletion: a series that is whole is not any more when one
// of its images is replaced, before the replacement is filed and after, and after
// a restart.
func TestReplaceAfterCompletion(t *testing.T) {
	dir := t.TempDir()
	s, err := Open(dir, Options{Duplicates: Replace})
	if err != nil {
		t.Fatal(err)
	}
	complete := func() {
		t.Helper()
		if err := s.UpdateSeries("1", func(v *Series) error {
			v.Revision++
			v.State, v.CompleteInstances = SeriesComplete, v.Instances
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	want := func(n int) {
		t.Helper()
		if v, err := s.Series("1"); err != nil || v.CompleteInstances != n {
			t.Errorf("complete instances = %d (%v), want %d", v.CompleteInstances, err, n)
		}
	}
	flush := func() {
		t.Helper()
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	commitAs(t, s, "1", "1.1", testBytes(1, 1000))
	commitAs(t, s, "1", "1.2", testBytes(2, 1000))
	complete()
	want(2)
	flush()
	want(2)
	commitAs(t, s, "1", "1.1", testBytes(3, 2000))
	want(0)
	complete() // with the replacement still in the journal
	want(2)
	flush()
	want(2)
	commitAs(t, s, "1", "1.1", testBytes(4, 3000))
	flush()
	want(0)
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(dir, Options{}); err != nil {
		t.Fatal(err)
	}
	want(0)
	mustCheck(t, s)
}

// TestPolicies: what becomes of other bytes, in the same and in another series.
func TestPolicies(t *testing.T) {
	for _, tt := range []struct {
		policy      Duplicates
		same, other Outcome
		quarantined int
	}{
		{"", Conflict, Conflict, 2},
		{KeepFirst, Conflict, Conflict, 2},
		{Replace, Replaced, Conflict, 1},
		{Reject, Rejected, Rejected, 0},
	} {
		t.Run(string(tt.policy), func(t *testing.T) {
			s, err := Open(t.TempDir(), Options{Duplicates: tt.policy})
			if err != nil {
				t.Fatal(err)
			}
			first, second := testBytes(1, 1000), testBytes(2, 1000)
			commitAs(t, s, "1", "1.1", first)
			if got := commitAs(t, s, "2", "1.1", testBytes(3, 1000)); got != tt.other {
				t.Errorf("other bytes in another series = %v, want %v", got, tt.other)
			}
			wantBytes(t, s, "1.1", first)
			if got := commitAs(t, s, "1", "1.1", second); got != tt.same {
				t.Errorf("other bytes = %v, want %v", got, tt.same)
			}
			if tt.same == Replaced {
				first = second
			}
			wantBytes(t, s, "1.1", first)
			if err := s.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			if q, err := s.Quarantined(); err != nil || len(q) != tt.quarantined {
				t.Errorf("%d in quarantine (%v), want %d", len(q), err, tt.quarantined)
			}
			mustCheck(t, s)
		})
	}
}
