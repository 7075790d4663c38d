package store_test

import (
	"bytes"
	"errors"
	"path/filepath"
	"slices"
	"testing"

	"hilum/store"
)

// TestRecords: records come back as written, by kind and prefix, over a restart and
// through a backup.
func TestRecords(t *testing.T) {
	dir := t.TempDir()
	st, err := store.Open(dir, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = st.Close() }()
	if _, err := st.Record("step", "1"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("Record(missing) = %v, want ErrNotFound", err)
	}
	big := bytes.Repeat([]byte("x"), 3<<20)
	write := func(records ...store.Record) {
		t.Helper()
		if err := st.WriteRecords(records...); err != nil {
			t.Fatal(err)
		}
	}
	write(store.Record{Kind: "step", Key: "1", Value: []byte("one")}, store.Record{Kind: "step", Key: "2", Value: big},
		store.Record{Kind: "steps", Key: "1", Value: []byte("another kind")}, store.Record{Kind: "step", Key: "10", Value: []byte{}})
	write(store.Record{Kind: "step", Key: "1"}, store.Record{Kind: "step", Key: "1x", Value: []byte("new")})
	keys := func(kind, prefix string) (out []string) {
		t.Helper()
		if err := st.Records(kind, prefix, func(key string, _ []byte) error { out = append(out, key); return nil }); err != nil {
			t.Fatal(err)
		}
		return out
	}
	if got, want := keys("step", ""), []string{"10", "1x", "2"}; !slices.Equal(got, want) {
		t.Errorf("Records(step) = %v, want %v", got, want)
	}
	if got, want := keys("step", "1"), []string{"10", "1x"}; !slices.Equal(got, want) {
		t.Errorf("Records(step, 1) = %v, want %v", got, want)
	}
	for _, bad := range []store.Record{{Kind: "", Key: "1", Value: big}, {Kind: "a\x00b", Key: "1", Value: big}, {Kind: "a", Key: string(big), Value: big}} {
		if err := st.WriteRecords(store.Record{Kind: "step", Key: "3", Value: big}, bad); err == nil {
			t.Errorf("WriteRecords(kind %q) = nil, want an error", bad.Kind)
		}
	}
	saved := filepath.Join(t.TempDir(), "saved")
	backupTo(t, st, saved)
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	if st, err = store.Open(dir, store.Options{}); err != nil {
		t.Fatal(err)
	}
	if got, err := st.Record("step", "2"); err != nil || !bytes.Equal(got, big) {
		t.Errorf("Record(2) after a restart = %d bytes, %v", len(got), err)
	}
	if got := keys("step", "3"); got != nil {
		t.Errorf("a refused write left %v", got)
	}
	restored := filepath.Join(t.TempDir(), "restored")
	if _, _, err := store.Restore(t.Context(), saved, restored, store.Options{}); err != nil {
		t.Fatal(err)
	}
	second, err := store.Open(restored, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	if got, err := second.Record("step", "1x"); err != nil || string(got) != "new" {
		t.Errorf("Record(1x) after a restore = %q, %v, want new", got, err)
	}
}
