package prepare

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"hilum/trainer/volume"
)

// maxLine bounds a line of the journal: a case with hundreds of nodules.
const maxLine = 1 << 20

// journal holds the cases of a folder: those of the manifest, and one line for
// each case that was done since. A run that is cut off loses nothing but the
// case it was at.
type journal struct {
	dir      string
	settings Settings
	software string
	cases    map[string]Case // those that were there; not changed while scans run

	lock *os.File // the folder; held until close

	mu   sync.Mutex // guards what follows
	file *os.File
	done map[string]Case
}

// openJournal reads what a folder holds. Cases made with other settings are an
// error: a data set has one preprocessing.
func openJournal(dir string, settings Settings, software string) (*journal, error) {
	lock, err := lockFolder(dir)
	if err != nil {
		return nil, err
	}
	j := &journal{dir: dir, settings: settings, software: software, cases: map[string]Case{}, lock: lock, done: map[string]Case{}}
	if err := j.open(); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return j, nil
}

// lockFolder keeps a second run out of the folder until the file is closed or
// the process ends.
func lockFolder(dir string) (*os.File, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close() // only a lock
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("another run is preparing scans into %s: wait for it or choose another folder with --out", dir)
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return f, nil
}

// open reads what is there and opens the journal for more.
func (j *journal) open() error {
	dir, settings := j.dir, j.settings
	m, err := ReadManifest(dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err == nil {
		if m.Settings != settings {
			return otherSettings(dir)
		}
		for _, c := range m.Cases {
			j.cases[c.UID] = c
		}
	}
	kept, err := j.read()
	if err != nil {
		return err
	}
	if j.file, err = os.OpenFile(filepath.Join(dir, journalFile), os.O_WRONLY|os.O_CREATE, 0o644); err != nil {
		return err
	}
	// A line that was cut off is overwritten.
	if err = j.file.Truncate(kept); err == nil {
		_, err = j.file.Seek(kept, 0)
	}
	if err == nil && kept == 0 {
		err = j.append(settings)
	}
	if err != nil {
		return errors.Join(err, j.file.Close())
	}
	return nil
}

func otherSettings(dir string) error {
	return fmt.Errorf("%s holds scans that were prepared with other settings: choose another folder with --out", dir)
}

// read reads the journal of a run that was cut off and returns how many of its
// bytes are whole lines.
func (j *journal) read() (int64, error) {
	f, err := os.Open(filepath.Join(j.dir, journalFile))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer func() { _ = f.Close() }() // only read
	in := bufio.NewScanner(f)
	in.Buffer(nil, maxLine)
	in.Split(func(data []byte, _ bool) (int, []byte, error) { // whole lines only
		if n := bytes.IndexByte(data, '\n'); n >= 0 {
			return n + 1, data[:n], nil
		}
		return 0, nil, nil
	})
	kept := int64(0)
	for in.Scan() {
		if kept == 0 {
			var s Settings
			if err := decode(in.Bytes(), &s); err != nil {
				return 0, fmt.Errorf("read %s: %w", filepath.Join(j.dir, journalFile), err)
			}
			if s != j.settings {
				return 0, otherSettings(j.dir)
			}
		} else {
			var c Case
			if err := decode(in.Bytes(), &c); err != nil {
				return 0, fmt.Errorf("read %s: %w", filepath.Join(j.dir, journalFile), err)
			}
			if err := c.check(); err != nil {
				return 0, fmt.Errorf("read %s: %w", filepath.Join(j.dir, journalFile), err)
			}
			j.cases[c.UID] = c
		}
		kept += int64(len(in.Bytes())) + 1
	}
	return kept, in.Err()
}

// check looks at the cases that this run does not make: they must be there, or
// the manifest would lie.
func (j *journal) check(scans []volume.Scan) error {
	now := map[string]bool{}
	for _, s := range scans {
		now[s.UID] = true
	}
	for _, uid := range slices.Sorted(maps.Keys(j.cases)) {
		if now[uid] {
			continue
		}
		for _, f := range []File{j.cases[uid].Clean, j.cases[uid].Label} {
			if info, err := os.Stat(filepath.Join(j.dir, f.Name)); err != nil || info.Size() != f.Bytes {
				return fmt.Errorf("scan %s was prepared before, and its %s is missing or damaged now: name the scan's folder again, or choose another folder with --out", uid, f.Name)
			}
		}
	}
	return nil
}

// append writes one line that lasts.
func (j *journal) append(v any) error {
	b, err := json.Marshal(v)
	if err != nil {
		return err
	}
	if _, err := j.file.Write(append(b, '\n')); err != nil {
		return err
	}
	return j.file.Sync()
}

// add notes a case that is done.
func (j *journal) add(c Case) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.append(c); err != nil {
		return fmt.Errorf("note the case: %w", err)
	}
	j.done[c.UID] = c
	return nil
}

// close leaves the journal for the next run.
func (j *journal) close() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	return errors.Join(j.file.Close(), j.lock.Close())
}

// finish writes the manifest and removes the journal.
func (j *journal) finish() (Manifest, error) {
	all := maps.Clone(j.cases)
	maps.Copy(all, j.done)
	m := Manifest{Format: Format, Software: j.software, Settings: j.settings}
	m.Cases = slices.SortedFunc(maps.Values(all), func(a, b Case) int { return cmp.Compare(a.UID, b.UID) })
	m.Counts.Cases = len(m.Cases)
	for _, c := range m.Cases {
		m.Counts.Nodules += len(c.Nodules)
		if c.Positive {
			m.Counts.Positive++
		}
		for _, n := range c.Nodules {
			if n.lost() != "" {
				m.Counts.Outside++
			}
		}
	}
	err := writeManifest(filepath.Join(j.dir, ManifestFile), m)
	if err == nil {
		err = os.Remove(filepath.Join(j.dir, journalFile))
	}
	return m, errors.Join(err, j.close()) // the lock goes last
}

// writeManifest writes the file whole or not at all.
func writeManifest(name string, m Manifest) error {
	b, err := json.MarshalIndent(m, "", " ")
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Chmod(0o644)
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error says more
		return err
	}
	d, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
