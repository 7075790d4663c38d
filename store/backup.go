package store

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"sync"

	"go.etcd.io/bbolt"
)

// spoolPrefix begins the names of folders in which a backup copies one file
// after the other. Open removes what a crash left.
const spoolPrefix = "backup-"

// Backup writes a backup of the whole store to w as a tar archive: every image
// that was committed before the call, and the state of series and jobs at one
// moment after it. The store stays in use.
//
// Each file is copied inside the data folder first, so that a slow reader of w
// holds up nobody: a bbolt file that is being read cannot grow. That takes as much
// room as the largest series file and the index.
//
// What w got is a backup only if it ends with a manifest without an error; a
// series file that cannot be read is left out and named there.
func (s *Store) Backup(ctx context.Context, w io.Writer) (Manifest, error) {
	b := &backup{s: s, tar: tar.NewWriter(w), m: Manifest{
		Version: backupVersion, Schema: schemaVersion, Created: s.o.Now().UTC(), Problems: []string{}, Files: []ManifestFile{},
	}}
	err := b.run(ctx)
	if err != nil {
		b.m.Error = err.Error()
	}
	text, jsonErr := json.Marshal(b.m)
	if jsonErr == nil {
		jsonErr = b.write(manifestName, int64(len(text)), func(w io.Writer) error { _, err := w.Write(text); return err })
	}
	if err := errors.Join(err, jsonErr, b.tar.Close()); err != nil {
		return b.m, fmt.Errorf("backup: %w", err)
	}
	return b.m, nil
}

type backup struct {
	s   *Store
	tar *tar.Writer
	dir string // the spool
	m   Manifest
}

func (b *backup) run(ctx context.Context) (err error) {
	if err := b.s.Flush(ctx); err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(b.s.dir, spoolPrefix); err != nil {
		return writeError("make a folder for the copies", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(b.dir)) }()
	index, err := b.copyIndex()
	if err != nil {
		return err
	}
	db, err := openBolt(index)
	if err != nil {
		return err
	}
	defer func() { _ = db.Close() }() // closed before it is packed; a second time does nothing
	var uids []string
	err = view(db, func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketSeries).ForEach(func(k, _ []byte) error {
			uids = append(uids, string(k))
			return nil
		})
	})
	if err != nil {
		return err
	}
	for _, uid := range uids {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := b.series(db, uid); err != nil {
			return err
		}
	}
	if err := db.Close(); err != nil {
		return err
	}
	return b.file(indexName, index)
}

// copyIndex copies the index at a moment at which it agrees with the series
// files.
func (b *backup) copyIndex() (string, error) {
	name := filepath.Join(b.dir, indexName)
	if st, err := os.Stat(filepath.Join(b.s.dir, indexName)); err != nil {
		return "", err
	} else if err := b.s.checkSpace(st.Size() / 2); err != nil {
		return "", err
	}
	b.s.filing.Lock()
	unlock := sync.OnceFunc(b.s.filing.Unlock)
	defer unlock()
	err := b.s.index.view(func(tx *bbolt.Tx) error {
		unlock() // the transaction sees the moment at which it began
		return tx.CopyFile(name, fileMode)
	})
	if err != nil {
		return "", writeError("copy the index", err)
	}
	return name, nil
}

// series copies one series file and brings the copied index up to it: images
// may have been filed, or the series deleted, after the index was copied.
func (b *backup) series(index *bbolt.DB, uid string) error {
	sub, name := seriesPath(uid)
	spool := filepath.Join(b.dir, name)
	images, err := b.copySeries(uid, spool)
	switch {
	case errors.Is(err, ErrNotFound):
		// Deleted meanwhile, or none of its images was filed at that moment.
		return update(index, func(tx *bbolt.Tx) error { return forgetSeries(tx, uid) })
	case errors.Is(err, ErrFull), errors.Is(err, ErrClosed):
		return err
	case err != nil:
		b.m.Problems = append(b.m.Problems, fmt.Sprintf("series %s is not in the backup: %v", uid, err))
		return errors.Join(ignoreMissing(os.Remove(spool)), update(index, func(tx *bbolt.Tx) error { return forgetSeries(tx, uid) }))
	}
	err = update(index, func(tx *bbolt.Tx) error { return indexLater(tx, uid, images) })
	if err == nil {
		err = b.file(path.Join(seriesFolder, sub, name), spool)
	}
	b.m.Series++
	b.m.Instances += len(images)
	return errors.Join(err, ignoreMissing(os.Remove(spool)))
}

func ignoreMissing(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// copySeries copies a series file and returns the images that the copy holds.
func (b *backup) copySeries(uid, to string) (images []imageRecord, err error) {
	f, err := b.s.files.acquire(uid, false)
	if err != nil {
		return nil, err
	}
	defer b.s.files.release(f)
	err = view(f.db, func(tx *bbolt.Tx) error {
		if err := b.s.checkSpace(tx.Size() / 2); err != nil {
			return err
		}
		err := tx.Bucket(bucketImages).ForEach(func(_, v []byte) error {
			img, err := decodeImage(v)
			images = append(images, img)
			return err
		})
		if err != nil {
			return err
		}
		return tx.CopyFile(to, fileMode)
	})
	if err != nil {
		return nil, writeError("copy series file", err)
	}
	return images, nil
}

// file packs a finished copy.
func (b *backup) file(name, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	st, err := f.Stat()
	if err != nil {
		return err
	}
	sum := sha256.New()
	err = b.write(name, st.Size(), func(w io.Writer) error {
		_, err := io.Copy(io.MultiWriter(w, sum), f)
		return err
	})
	entry := ManifestFile{Name: name, Size: st.Size()}
	sum.Sum(entry.SHA256[:0])
	b.m.Files = append(b.m.Files, entry)
	b.m.Bytes += st.Size()
	return err
}

func (b *backup) write(name string, size int64, fill func(io.Writer) error) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: fileMode, ModTime: b.m.Created}
	if err := b.tar.WriteHeader(h); err != nil {
		return err
	}
	return fill(b.tar)
}

// indexLater enters those images of a series file that were filed after the
// index was copied.
func indexLater(tx *bbolt.Tx, uid string, images []imageRecord) error {
	r, err := getSeries(tx, uid)
	if err != nil {
		return err
	}
	upTo := r.Filed
	for _, img := range images {
		if img.Order <= upTo {
			continue
		}
		if err := indexImage(tx, uid, img, &r); err != nil {
			return err
		}
	}
	if r.Filed == upTo {
		return nil
	}
	meta := tx.Bucket(bucketMeta)
	if err := putUint(meta, keyOrder, max(r.Filed, getUint(meta, keyOrder))); err != nil {
		return err
	}
	return putSeries(tx, uid, r)
}

// forgetSeries takes a series out of an index, reading all of it: it is rare.
func forgetSeries(tx *bbolt.Tx, uid string) error {
	var keys [][]byte
	instances := tx.Bucket(bucketInstances)
	err := instances.ForEach(func(k, v []byte) error {
		e, err := decodeEntry(v)
		if err == nil && e.series == uid {
			keys = append(keys, k)
		}
		return err
	})
	if err != nil {
		return err
	}
	for _, k := range keys {
		if err := instances.Delete(k); err != nil {
			return err
		}
	}
	if err := forgetQuarantine(tx, uid); err != nil {
		return err
	}
	return deleteSeriesRecord(tx, uid)
}

// removeSpools removes what backups left that a crash ended.
func removeSpools(dir string) error {
	left, err := filepath.Glob(filepath.Join(dir, spoolPrefix+"*"))
	for _, d := range left {
		err = errors.Join(err, os.RemoveAll(d))
	}
	if err != nil {
		return fmt.Errorf("remove what a backup left behind: %w", err)
	}
	return nil
}
