package store

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// fdatasync makes the bytes of f durable, without times and other metadata that
// no reader needs.
func fdatasync(f *os.File) error {
	for {
		err := unix.Fdatasync(int(f.Fd()))
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// freeSpace returns the bytes that may still be written below dir.
func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	for {
		err := unix.Statfs(dir, &st)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, err
		}
		return int64(st.Bavail) * st.Bsize, nil
	}
}

// beginWriteBack has the system start to write a part of a file, and does not
// wait for it. It makes nothing durable.
func beginWriteBack(f *os.File, off, n int64) {
	_ = unix.SyncFileRange(int(f.Fd()), off, n, unix.SYNC_FILE_RANGE_WRITE) // a hint: fdatasync does it all, and says what failed
}

// readExactly keeps the system from reading ahead in a file, which would read
// what is just being written.
func readExactly(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM) // a hint
}
