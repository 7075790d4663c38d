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

// startWriteback is a hint that this system does not take.
func startWriteback(*os.File, int64, int64) {}
