package store

import (
	"errors"
	"fmt"
	"syscall"
)

var (
	// ErrNotFound is returned when no image, series or job has the given name.
	ErrNotFound = errors.New("not in the store")
	// ErrLocked is returned by Open when another process holds the data folder.
	ErrLocked = errors.New("the data folder is in use")
	// ErrSchema is returned by Open when the data folder was written by a
	// newer version of this program.
	ErrSchema = errors.New("the data folder has a newer format")
	// ErrFull is returned when there is no room left for an image. A retry
	// helps once room has been made; nothing of the refused image is kept.
	ErrFull = errors.New("no space left in the data folder")
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("the store is closed")
	// ErrDamaged is returned when bytes that were on disk no longer match
	// their checksum or cannot be decoded.
	ErrDamaged = errors.New("damaged on disk")
)

// writeError names what was being written and turns the several ways in which
// a system says "no room" into ErrFull.
func writeError(what string, err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG) {
		return fmt.Errorf("%s: %w: %w", what, ErrFull, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}
