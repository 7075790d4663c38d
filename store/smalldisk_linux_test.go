package store_test

import (
	"testing"

	"golang.org/x/sys/unix"
)

// smallDisk mounts a file system of 24 MiB on a folder until the test ends.
func smallDisk(t *testing.T, dir string) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=24m,mode=0700"); err != nil {
		return err
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return nil
}
