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

// openDirect is not done on this system.
func openDirect(string) *os.File { return nil }

func misaligned(error) bool { return false }

// readExactly is a hint that this system does not take.
func readExactly(*os.File) {}
