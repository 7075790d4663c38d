package store_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"hilum/store"
	"hilum/store/storetest"
)

// backupTo saves a backup of s and fails the test on an error.
func backupTo(t *testing.T, s *store.Store, out string) store.Manifest {
	t.Helper()
	r, w := io.Pipe()
	var wg sync.WaitGroup
	wg.Go(func() {
		_, err := s.Backup(t.Context(), w)
		if err != nil {
			t.Errorf("Backup = %v, want nil", err)
		}
		_ = w.CloseWithError(err)
	})
	m, err := store.SaveBackup(t.Context(), r, out)
	_ = r.Close()
	wg.Wait()
	if err != nil {
		t.Fatalf("SaveBackup = %v, want nil", err)
	}
	return m
}

// TestBackup takes backups while images, conflicts and deletions go on. Each
// restores to a store without a problem, with every image that was acknowledged
// before it.
func TestBackup(t *testing.T) {
	s := storetest.MustOpenDir(t, t.TempDir(), store.Options{Backlog: 4 << 20, MinFree: -1})
	for i := range 20 {
		put(t, s, instance(fmt.Sprint("1.", i%4), fmt.Sprint("1.2.", i), i), image(uint64(i), 1000+i*50_000))
	}
	put(t, s, instance("1.1", "1.2.1", 1), image(99, 500)) // to quarantine
	job := enqueue(t, s, "q", "k")
	ctx, cancel := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	for worker := range 2 {
		busy.Go(func() {
			for n := 100 + worker; ctx.Err() == nil; n += 2 {
				put(t, s, instance(fmt.Sprint("1.", n%6), fmt.Sprint("1.2.", n), n), image(uint64(n), 20_000))
				if n%10 == 0 {
					series := fmt.Sprint("8.", n)
					put(t, s, instance(series, series+".1", 1), image(uint64(n), 200))
					if n%20 == 0 {
						_ = s.Flush(ctx) // with its file, or without
					}
					if err := s.DeleteSeries(series); err != nil {
						t.Error(err)
					}
				}
			}
		})
	}
	tar, folder := filepath.Join(t.TempDir(), "b.tar"), filepath.Join(t.TempDir(), "b")
	backupTo(t, s, tar)
	backupTo(t, s, folder)
	cancel()
	busy.Wait()
	for _, from := range []string{tar, folder} {
		if _, err := store.VerifyBackup(t.Context(), from); err != nil {
			t.Errorf("VerifyBackup = %v, want nil", err)
		}
		dir := filepath.Join(t.TempDir(), "data")
		m, r, err := store.Restore(t.Context(), from, dir, store.Options{})
		if err != nil || r.Instances < 20 || r.Quarantined != 1 || len(m.Problems) > 0 {
			t.Fatalf("Restore = %+v, %v; want no problem, 20 images or more, one in quarantine", r, err)
		}
		restored := storetest.MustOpenDir(t, dir, store.Options{})
		for i := range 20 {
			wantImage(t, restored, fmt.Sprint("1.2.", i), image(uint64(i), 1000+i*50_000))
		}
		if j, err := restored.Job(job.ID); err != nil || j.Key != "k" {
			t.Errorf("Job = %+v, %v; want the job of the backup", j, err)
		}
		// Commit numbers go on: a deletion and a crash after it still tell old from new.
		put(t, restored, instance("1.0", "1.2.999", 1), image(3, 300))
	}
	if left, _ := filepath.Glob(filepath.Join(filepath.Dir(tar), "*.partial")); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

// TestBackupRefusals: what is damaged, cut or no backup is refused, and leaves
// an empty folder.
func TestBackupRefusals(t *testing.T) {
	s := storetest.MustOpen(t)
	put(t, s, instance("1", "1.1", 1), image(1, 100_000))
	good := filepath.Join(t.TempDir(), "b.tar")
	backupTo(t, s, good)
	whole, err := os.ReadFile(good)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[bytes.Index(whole, image(1, 1000)[:500])+7] ^= 1
	evil := bytes.ReplaceAll(whole, []byte("index.db"), []byte("../db.db"))
	for name, text := range map[string][]byte{
		"cut": whole[:len(whole)/2], "flipped": flipped, "strange name": evil, "empty": nil, "no archive": []byte(strings.Repeat("x", 2000)),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "b.tar")
			if err := os.WriteFile(path, text, 0o600); err != nil {
				t.Fatal(err)
			}
			dir := t.TempDir()
			if _, _, err := store.Restore(t.Context(), path, dir, store.Options{}); !errors.Is(err, store.ErrDamaged) {
				t.Errorf("Restore = %v, want ErrDamaged", err)
			}
			if left, err := os.ReadDir(dir); err != nil || len(left) > 0 {
				t.Errorf("the folder holds %v (%v), want nothing", left, err)
			}
			out := filepath.Join(t.TempDir(), "saved.tar")
			if _, err := store.SaveBackup(t.Context(), bytes.NewReader(text), out); err == nil {
				t.Error("SaveBackup = nil, want an error")
			}
			if left, err := os.ReadDir(filepath.Dir(out)); err != nil || len(left) > 0 {
				t.Errorf("SaveBackup left %v (%v), want nothing", left, err)
			}
		})
	}
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err := store.Restore(t.Context(), good, full, store.Options{}); err == nil || !strings.Contains(err.Error(), "not empty") {
		t.Errorf("Restore into a folder with a file = %v, want that it is not empty", err)
	}
	half := t.TempDir()
	if err := os.WriteFile(filepath.Join(half, "restoring"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Open(half, store.Options{}); err == nil || !strings.Contains(err.Error(), "did not end") {
		t.Errorf("Open of a half restored folder = %v, want a refusal", err)
	}
}

// TestCompact: files become smaller while images are read, and stay whole.
func TestCompact(t *testing.T) {
	dir := t.TempDir()
	s := storetest.MustOpenDir(t, dir, store.Options{})
	for i := range 40 {
		put(t, s, instance("1", fmt.Sprint("1.", i), i), image(uint64(i), 526_000))
	}
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	readers.Go(func() {
		for i := 0; ctx.Err() == nil; i = (i + 1) % 40 {
			wantImage(t, s, fmt.Sprint("1.", i), image(uint64(i), 526_000))
		}
	})
	for range 3 {
		r, err := s.Compact(t.Context())
		if err != nil || r.Files != 1 || r.After > r.Before {
			t.Errorf("Compact = %+v, %v; want one file, not larger than before", r, err)
		}
	}
	cancel()
	readers.Wait()
	put(t, s, instance("1", "1.99", 99), image(99, 526_000))
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r, err := s.Check(t.Context()); err != nil || len(r.Problems) > 0 || r.Instances != 41 {
		t.Errorf("Check = %+v, %v; want 41 images and no problem", r, err)
	}
	if _, err := store.CompactIndex(dir); !errors.Is(err, store.ErrLocked) {
		t.Errorf("CompactIndex of an open store = %v, want ErrLocked", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if r, err := store.CompactIndex(dir); err != nil || r.Files != 1 {
		t.Errorf("CompactIndex = %+v, %v; want one file", r, err)
	}
	s = storetest.MustOpenDir(t, dir, store.Options{})
	wantImage(t, s, "1.7", image(7, 526_000))
}
