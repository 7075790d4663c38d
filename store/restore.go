package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// restoringName marks a data folder whose restore has not ended. Open refuses
// it: what is there looks like a store and is only a part of one.
const restoringName = "restoring"

// Restore unpacks a backup, file or folder, into the data folder dir, which must
// be empty or missing, compares it with its manifest, and checks every image.
// When it fails, dir is as empty as before.
func Restore(ctx context.Context, from, dir string, o Options) (_ Manifest, _ CheckReport, err error) {
	dir = filepath.Clean(dir)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return Manifest{}, CheckReport{}, fmt.Errorf("create data folder: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return Manifest{}, CheckReport{}, fmt.Errorf("read data folder: %w", err)
	}
	if len(entries) > 0 {
		return Manifest{}, CheckReport{}, fmt.Errorf("data folder %s is not empty: a backup is restored into an empty one only", dir)
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return Manifest{}, CheckReport{}, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	m, err := unpackBackup(ctx, from, dir)
	var r CheckReport
	if err == nil {
		r, err = checkRestored(ctx, dir, o)
	}
	if err == nil {
		err = os.Remove(filepath.Join(dir, restoringName))
	}
	if err == nil {
		err = syncDir(dir)
	}
	if err != nil {
		return m, r, errors.Join(fmt.Errorf("restore: %w", err), emptyFolder(dir))
	}
	return m, r, nil
}

func unpackBackup(ctx context.Context, from, dir string) (Manifest, error) {
	mark, err := os.OpenFile(filepath.Join(dir, restoringName), os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return Manifest{}, err
	}
	if err := errors.Join(mark.Sync(), mark.Close(), syncDir(dir)); err != nil {
		return Manifest{}, err
	}
	m, err := readBackup(ctx, from, func(name string, r io.Reader) error { return unpack(dir, name, r) })
	if err != nil {
		return m, err
	}
	return m, syncTree(dir)
}

// checkRestored opens the folder as the node will, and reads every image.
func checkRestored(ctx context.Context, dir string, o Options) (CheckReport, error) {
	o.restoring = true
	s, err := Open(dir, o)
	if err != nil {
		return CheckReport{}, err
	}
	r, err := s.Check(ctx)
	if err == nil && len(r.Problems) > 0 {
		err = fmt.Errorf("%w: %s", ErrDamaged, r.Problems[0])
	}
	return r, errors.Join(err, s.Close())
}

// emptyFolder removes what is in dir, the folder itself stays: it may be a mount
// point.
func emptyFolder(dir string) error {
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		err = errors.Join(err, os.RemoveAll(filepath.Join(dir, e.Name())))
	}
	return err
}

// refuseRestoring is part of Open.
func refuseRestoring(dir string) error {
	if _, err := os.Lstat(filepath.Join(dir, restoringName)); err == nil {
		return fmt.Errorf("a restore into data folder %s did not end: empty the folder and restore again", dir)
	}
	return nil
}
