package store

import (
	"log/slog"
	"time"
)

// Defaults of Options.
const (
	// DefaultBacklog holds a burst of about four large chest CT studies. It
	// bounds the journal on disk and the time a restart needs to read it.
	DefaultBacklog = 2 << 30
	// DefaultMinFree leaves room for the index to grow while images are refused.
	DefaultMinFree = 256 << 20
	// DefaultOpenSeries bounds file descriptors and address space.
	DefaultOpenSeries = 64
)

// Options are the settings of a Store. The zero value is good.
type Options struct {
	Logger *slog.Logger     // nil: nothing is logged
	Now    func() time.Time // nil: time.Now

	// Backlog bounds the bytes that are committed to the journal but not yet
	// filed in their series. NewInstance waits while it is reached. 0: DefaultBacklog.
	Backlog int64
	// MinFree is the room that must stay free on the file system, on top of what
	// the backlog still needs; below it NewInstance returns ErrFull. 0:
	// DefaultMinFree, negative: no check.
	MinFree int64
	// OpenSeries bounds how many series files are open at once. 0: DefaultOpenSeries.
	OpenSeries int

	// Duplicates is the policy for other bytes under a known UID. "": KeepFirst.
	Duplicates Duplicates

	restoring bool // Restore opens a folder that no one else may

	faults *faults // tests only: errors injected below the store
}
