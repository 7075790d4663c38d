package store

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Names and modes in the data folder. Nobody but the owner reads patient data.
const (
	dirMode  = 0o700
	fileMode = 0o600
	lockName = "lock"
)

// syncDir makes the names in dir durable: files made, renamed or removed there.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// makeDir creates dir below parent, durably, unless it exists.
func makeDir(parent, name string) (string, error) {
	dir := filepath.Join(parent, name)
	switch err := os.Mkdir(dir, dirMode); {
	case errors.Is(err, os.ErrExist):
		return dir, nil
	case err != nil:
		return "", err
	}
	return dir, syncDir(parent)
}

// lockFolder takes the data folder for this process. The kernel gives the lock
// back when the process ends, however it ends.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(dir, lockName), os.O_RDWR|os.O_CREATE, fileMode)
	if err != nil {
		return nil, fmt.Errorf("open the lock of data folder %s: %w", dir, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		b := make([]byte, 16)
		n, _ := f.ReadAt(b, 0) // only to name the process; may be empty
		_ = f.Close()          // nothing was written
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock data folder %s: %w", dir, err)
		}
		owner := "another process"
		if pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n]))); err == nil {
			owner = fmt.Sprintf("another process (%d)", pid)
		}
		return nil, &lockedError{dir: dir, owner: owner}
	}
	// The number only helps the sentence above; the lock does not depend on it.
	if err := f.Truncate(0); err == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

// lockedError is one sentence for a person.
type lockedError struct{ dir, owner string }

func (e *lockedError) Error() string {
	return fmt.Sprintf("data folder %s is in use by %s: stop it, or choose another data folder", e.dir, e.owner)
}

func (e *lockedError) Unwrap() error { return ErrLocked }
