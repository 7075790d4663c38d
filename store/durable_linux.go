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

// openDirect opens a file once more, for writes that go past the page cache: they
// save a copy, and fdatasync finds little left to do. Both ends of every write
// and its memory must be aligned to blockSize. nil where the file system does not
// do this.
func openDirect(name string) *os.File {
	f, err := os.OpenFile(name, os.O_WRONLY|unix.O_DIRECT, 0)
	if err != nil {
		return nil
	}
	return f
}

// misaligned says whether a write failed because the file system wants another
// alignment than blockSize.
func misaligned(err error) bool { return errors.Is(err, unix.EINVAL) }

// readExactly keeps the system from reading ahead in a file, which would read
// what is just being written.
func readExactly(f *os.File) {
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_RANDOM) // a hint
}
