package main

import (
	"os"
	"path/filepath"
	"slices"
	"syscall"
)

// loadPathVariable is read by the dynamic loader once, when a program starts.
const loadPathVariable = "LD_LIBRARY_PATH"

// ensureLoadPath starts this program anew, as the same process, when the
// runtime's folder must be on the loader's path and is not. That is so for
// CUDA only: its libraries lie beside the runtime but do not look for each
// other there, as those of OpenVINO do.
func ensureLoadPath(library string) error {
	dir := filepath.Dir(library)
	if _, err := os.Stat(filepath.Join(dir, cudaLibrary)); err != nil {
		return nil // no CUDA
	}
	old := os.Getenv(loadPathVariable)
	if slices.Contains(filepath.SplitList(old), dir) {
		return nil
	}
	if old != "" {
		dir += string(filepath.ListSeparator) + old
	}
	if err := os.Setenv(loadPathVariable, dir); err != nil {
		return err
	}
	// Not by path: the file there may have been replaced since it was checked.
	return syscall.Exec("/proc/self/exe", os.Args, os.Environ())
}
