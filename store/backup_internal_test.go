package store

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"runtime"
	"strings"
	"testing"
)

// FuzzReadTar gives the reader of backups any bytes: it must end with a manifest or an
// error, visit no member under a name that no backup has or twice, and take no memory but
// for what it is given.
func FuzzReadTar(f *testing.F) {
	s, err := Open(f.TempDir(), Options{})
	if err != nil {
		f.Fatal(err)
	}
	if err := commit(f, s, "1", "1.1", testBytes(1, 5000)); err != nil {
		f.Fatal(err)
	}
	var b bytes.Buffer
	if _, err := s.Backup(f.Context(), &b); err != nil {
		f.Fatal(err)
	}
	if err := s.Close(); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add(b.Bytes()[:b.Len()/2])
	f.Add(b.Bytes()[b.Len()-4096:])
	for _, name := range []string{"../../etc/passwd", "/etc/passwd", "series/aa/../../x.db", manifestName} {
		var b bytes.Buffer
		w := tar.NewWriter(&b)
		if err := w.WriteHeader(&tar.Header{Name: name, Size: 2, Typeflag: tar.TypeReg}); err != nil {
			f.Fatal(err)
		}
		if _, err := w.Write([]byte("{}")); err != nil {
			f.Fatal(err)
		}
		f.Add(b.Bytes())
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		seen := map[string]bool{}
		m, err := readTar(t.Context(), bytes.NewReader(data), func(name string, r io.Reader) error {
			if seen[name] || strings.Contains(name, "..") || strings.HasPrefix(name, "/") || name == manifestName {
				t.Errorf("member %q is visited", name)
			}
			seen[name] = true
			return nil
		})
		runtime.ReadMemStats(&after)
		if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(2<<20+32*len(data)); got > limit {
			t.Errorf("%d bytes of backup allocate %d, want at most %d", len(data), got, limit)
		}
		switch {
		case err == nil && !seen[indexName]:
			t.Errorf("a backup without an index passes: %+v", m)
		case err != nil && !errors.Is(err, ErrDamaged) && !errors.Is(err, ErrSchema) && m.Error == "":
			t.Errorf("readTar() = %v, want ErrDamaged, ErrSchema or what the backup says", err)
		}
	})
}
