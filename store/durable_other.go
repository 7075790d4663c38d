//go:build !linux

package store

import (
	"math"
	"os"
)

// fdatasync makes the bytes of f durable.
func fdatasync(f *os.File) error { return f.Sync() }

// freeSpace is not asked on this system; a full disk shows as a write error.
func freeSpace(string) (int64, error) { return math.MaxInt64, nil }

// beginWriteBack is a hint that this system does not take.
func beginWriteBack(*os.File, int64, int64) {}

// readExactly is a hint that this system does not take.
func readExactly(*os.File) {}
