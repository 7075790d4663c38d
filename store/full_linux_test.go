package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// TestFullDisk fills a small file system to its last byte: every image is
// either acknowledged and stays, or is refused and leaves nothing; when there is
// room again the store goes on. With and without a reserve.
func TestFullDisk(t *testing.T) {
	for _, reserve := range []int64{-1, 8 << 20} {
		t.Run(fmt.Sprint("reserve=", reserve), func(t *testing.T) {
			dir := t.TempDir()
			if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=40m,mode=0700"); err != nil {
				t.Skipf("a small file system cannot be mounted (%v): errors are injected by TestWriteErrors and TestFilerError", err)
			}
			t.Cleanup(func() {
				if err := unix.Unmount(dir, 0); err != nil {
					t.Error(err)
				}
			})
			o := Options{MinFree: reserve, Backlog: 4 << 20}
			s, err := Open(dir, o)
			if err != nil {
				t.Fatal(err)
			}
			stored := map[int]bool{}
			refused := 0
			for n := 0; refused < 20; n++ {
				err := commit(t, s, fmt.Sprint("1.", n%3), fmt.Sprint("2.", n), testBytes(byte(n), 300_000+n*1000))
				switch {
				case err == nil:
					stored[n] = true
				case errors.Is(err, ErrFull):
					refused++
				default:
					t.Fatalf("commit %d = %v, want nil or ErrFull", n, err)
				}
			}
			if len(stored) < 20 {
				t.Errorf("%d images fit into 40 MiB, want more", len(stored))
			}
			if err := s.Room(); reserve > 0 && !errors.Is(err, ErrFull) {
				t.Errorf("Room = %v, want ErrFull", err)
			}
			read := func(s *Store) {
				t.Helper()
				for n := range stored {
					if b, err := readImage(s, fmt.Sprint("2.", n)); err != nil || !bytes.Equal(b, testBytes(byte(n), 300_000+n*1000)) {
						t.Errorf("image %d: %d bytes, %v", n, len(b), err)
					}
				}
			}
			read(s)
			crashed := crashCopy(t, dir) // on a disk with room
			if err := s.Close(); err != nil && !errors.Is(err, ErrFull) {
				t.Errorf("Close = %v", err)
			}
			other, err := Open(crashed, Options{})
			if err != nil {
				t.Fatal(err)
			}
			read(other)
			mustCheck(t, other)

			// Twice the room, as when a person made some.
			if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=160m"); err != nil {
				t.Fatal(err)
			}
			if s, err = Open(dir, o); err != nil {
				t.Fatal(err)
			}
			if err := commit(t, s, "1.0", "2.9999", testBytes(1, 300_000)); err != nil {
				t.Errorf("commit with room again = %v", err)
			}
			read(s)
			if err := s.Flush(context.Background()); err != nil {
				t.Errorf("Flush with room again = %v", err)
			}
			series, err := s.AllSeries()
			total := 0
			for _, v := range series {
				total += v.Instances
			}
			if err != nil || total != len(stored)+1 {
				t.Errorf("%d images listed (%v), want the %d acknowledged", total, err, len(stored)+1)
			}
			mustCheck(t, s)
			if left, _ := os.ReadDir(dir + "/journal"); len(left) > keepSegments {
				t.Errorf("%d journal segments left", len(left))
			}
		})
	}
}
