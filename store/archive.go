package store

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"
)

// A backup is a data folder without its journal, as a tar archive or as a
// folder: index.db, series/…, and last manifest.json, which lists all others
// with their sizes and checksums. One without a manifest did not end.

const (
	manifestName = "manifest.json"
	// maxManifest bounds what is read of a manifest: about 150 bytes a file.
	maxManifest = 1 << 30
	// partialExt marks a backup that is still being written.
	partialExt = ".partial"
	// backupVersion is the format of the manifest.
	backupVersion = 1
)

// memberRule is every name that a backup may hold beside its manifest. What
// else an archive brings is refused: no name of it becomes a path unseen.
var memberRule = regexp.MustCompile(`^(index\.db|series/[0-9a-f]{2}/[0-9a-f]{64}\.db)$`)

// Manifest describes a backup.
type Manifest struct {
	Version   int            `json:"version"`
	Schema    int            `json:"schema"` // of the files, see doc.go
	Created   time.Time      `json:"created"`
	Series    int            `json:"series"`
	Instances int            `json:"instances"`
	Bytes     int64          `json:"bytes"`    // of all files
	Problems  []string       `json:"problems"` // what could not be taken along, one sentence each
	Error     string         `json:"error,omitempty"`
	Files     []ManifestFile `json:"files"`
}

// ManifestFile is one file of a backup.
type ManifestFile struct {
	Name   string `json:"name"`
	Size   int64  `json:"size"`
	SHA256 hexSum `json:"sha256"`
}

// SaveBackup writes the archive that r delivers to out and verifies it on the
// way: as one file where out ends in .tar, otherwise as a folder. out appears
// when all of it is on disk, and must not exist before.
func SaveBackup(ctx context.Context, r io.Reader, out string) (Manifest, error) {
	if _, err := os.Lstat(out); err == nil {
		return Manifest{}, fmt.Errorf("%s exists: a backup never replaces anything, name another file or folder", out)
	}
	save := saveFolder
	if strings.HasSuffix(out, ".tar") {
		save = saveFile
	}
	partial := out + partialExt
	m, err := save(ctx, r, partial)
	if err == nil {
		err = os.Rename(partial, out)
	}
	if err == nil {
		return m, syncDir(filepath.Dir(out))
	}
	return m, errors.Join(fmt.Errorf("save backup: %w", err), os.RemoveAll(partial))
}

func saveFile(ctx context.Context, r io.Reader, path string) (m Manifest, err error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fileMode)
	if err != nil {
		return m, err
	}
	tee := io.TeeReader(r, f)
	m, err = readTar(ctx, tee, nil)
	if err == nil {
		_, err = io.Copy(io.Discard, tee) // what pads the archive
	}
	if err == nil {
		err = f.Sync()
	}
	return m, errors.Join(err, f.Close())
}

func saveFolder(ctx context.Context, r io.Reader, path string) (Manifest, error) {
	if err := os.RemoveAll(path); err != nil { // of a backup that did not end
		return Manifest{}, err
	}
	if err := os.Mkdir(path, dirMode); err != nil {
		return Manifest{}, err
	}
	m, err := readTar(ctx, r, func(name string, r io.Reader) error { return unpack(path, name, r) })
	if err == nil {
		_, err = io.Copy(io.Discard, r) // what pads the archive
	}
	if err != nil {
		return m, err
	}
	b, err := json.Marshal(m)
	if err != nil {
		return m, err
	}
	if err := os.WriteFile(filepath.Join(path, manifestName), b, fileMode); err != nil {
		return m, err
	}
	return m, syncTree(path)
}

// unpack writes one member below dir and makes it durable; its name in the
// folder is made durable by syncTree.
func unpack(dir, name string, r io.Reader) error {
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), dirMode); err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, fileMode)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	if err == nil {
		err = fdatasync(f)
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return writeError("write "+name, err)
	}
	return nil
}

// syncTree makes the names in all folders below dir durable.
func syncTree(dir string) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.IsDir() {
			return err
		}
		return syncDir(path)
	})
}

// VerifyBackup reads a backup, file or folder, and compares every part of it
// with its manifest.
func VerifyBackup(ctx context.Context, path string) (Manifest, error) {
	return readBackup(ctx, path, nil)
}

// readBackup calls visit, where given, with every member of a backup.
func readBackup(ctx context.Context, path string, visit func(name string, r io.Reader) error) (Manifest, error) {
	st, err := os.Stat(path)
	if err != nil {
		return Manifest{}, fmt.Errorf("open backup: %w", err)
	}
	if st.IsDir() {
		return readFolder(ctx, path, visit)
	}
	f, err := os.Open(path)
	if err != nil {
		return Manifest{}, fmt.Errorf("open backup: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	return readTar(ctx, f, visit)
}

func readTar(ctx context.Context, r io.Reader, visit func(name string, r io.Reader) error) (Manifest, error) {
	t := tar.NewReader(r)
	c := collector{visit: visit, seen: map[string]ManifestFile{}}
	for {
		if err := ctx.Err(); err != nil {
			return Manifest{}, err
		}
		h, err := t.Next()
		switch {
		case errors.Is(err, io.EOF):
			return Manifest{}, fmt.Errorf("the backup has no manifest, it did not end: %w", ErrDamaged)
		case err != nil:
			return Manifest{}, fmt.Errorf("read backup: %w: %w", ErrDamaged, err)
		case h.Typeflag != tar.TypeReg:
			return Manifest{}, fmt.Errorf("the backup holds something that is not a file: %w", ErrDamaged)
		case h.Name == manifestName:
			return c.finish(t)
		}
		if err := c.member(h.Name, t); err != nil {
			return Manifest{}, err
		}
	}
}

func readFolder(ctx context.Context, path string, visit func(name string, r io.Reader) error) (Manifest, error) {
	c := collector{visit: visit, seen: map[string]ManifestFile{}}
	open := func(name string, use func(io.Reader) error) error {
		f, err := os.Open(filepath.Join(path, filepath.FromSlash(name)))
		if err != nil {
			return fmt.Errorf("read backup: %w", err)
		}
		return errors.Join(use(f), f.Close())
	}
	err := filepath.WalkDir(path, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return errors.Join(err, ctx.Err())
		}
		name, err := filepath.Rel(path, p)
		if name = filepath.ToSlash(name); err != nil || name == manifestName {
			return err
		}
		return open(name, func(r io.Reader) error { return c.member(name, r) })
	})
	if err != nil {
		return Manifest{}, err
	}
	var m Manifest
	err = open(manifestName, func(r io.Reader) error {
		m, err = c.finish(r)
		return err
	})
	if errors.Is(err, os.ErrNotExist) {
		err = fmt.Errorf("%s has no %s: it is not a backup, or one that did not end: %w", path, manifestName, ErrDamaged)
	}
	return m, err
}

// collector sums up the members of a backup and compares them with its
// manifest.
type collector struct {
	visit func(name string, r io.Reader) error
	seen  map[string]ManifestFile
}

func (c *collector) member(name string, r io.Reader) error {
	if _, twice := c.seen[name]; twice || !memberRule.MatchString(name) {
		return fmt.Errorf("the backup holds a file that no backup has, or has twice: %w", ErrDamaged)
	}
	sum := sha256.New()
	counted := &countingReader{r: io.TeeReader(r, sum)}
	if c.visit != nil {
		if err := c.visit(name, counted); err != nil {
			return err
		}
	}
	if _, err := io.Copy(io.Discard, counted); err != nil {
		return fmt.Errorf("read backup, %s: %w", name, err)
	}
	f := ManifestFile{Name: name, Size: counted.n}
	sum.Sum(f.SHA256[:0])
	c.seen[name] = f
	return nil
}

func (c *collector) finish(r io.Reader) (Manifest, error) {
	var m Manifest
	if err := json.NewDecoder(io.LimitReader(r, maxManifest)).Decode(&m); err != nil {
		return m, fmt.Errorf("read the manifest of the backup: %w: %w", ErrDamaged, err)
	}
	switch {
	case m.Error != "":
		return m, fmt.Errorf("the backup did not end: %s", m.Error)
	case m.Version != backupVersion || m.Schema > schemaVersion:
		return m, fmt.Errorf("the backup has format %d of data format %d, this program knows %d and %d: %w", m.Version, m.Schema, backupVersion, schemaVersion, ErrSchema)
	case len(m.Files) != len(c.seen):
		return m, fmt.Errorf("the backup holds %d files, its manifest lists %d: %w", len(c.seen), len(m.Files), ErrDamaged)
	}
	for _, f := range m.Files {
		if c.seen[f.Name] != f {
			return m, fmt.Errorf("%s does not match the manifest of the backup: %w", f.Name, ErrDamaged)
		}
	}
	if !slices.ContainsFunc(m.Files, func(f ManifestFile) bool { return f.Name == indexName }) {
		return m, fmt.Errorf("the backup has no %s: %w", indexName, ErrDamaged)
	}
	return m, nil
}

// countingReader counts what is read of a member. A member that cannot be read
// to its end is a damaged one.
type countingReader struct {
	r io.Reader
	n int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return n, err
}
