// Package storetest opens a store for a test and checks it when the test ends.
package storetest

import (
	"context"
	"errors"
	"testing"

	"hilum/store"
)

// MustOpen opens a store in t.TempDir. When the test ends the store is checked
// (every image readable with the right checksum, no orphans) and closed.
func MustOpen(t testing.TB) *store.Store {
	t.Helper()
	return MustOpenDir(t, t.TempDir(), store.Options{})
}

// MustOpenDir is MustOpen for a folder and options of the test's choice. The
// test may close the store itself; then it is not checked again.
func MustOpenDir(t testing.TB, dir string, o store.Options) *store.Store {
	t.Helper()
	s, err := store.Open(dir, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		report, err := s.Check(context.Background())
		if errors.Is(err, store.ErrClosed) {
			return // by the test itself
		}
		if err != nil {
			t.Errorf("check store: %v", err)
		}
		for _, p := range report.Problems {
			t.Errorf("check store: %s", p)
		}
		if err := s.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	return s
}
