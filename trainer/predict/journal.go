package predict

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sync"

	"hilum/plugins/api"
)

// maxJournalBytes bounds a journal: 900 scans with 1000 findings have 250 MB.
const maxJournalBytes = 4 << 30

// header is the first line of a journal: results of different plugins or models
// are never mixed.
type header struct {
	Plugin       api.Description `json:"plugin"`
	PluginSHA256 string          `json:"plugin_sha256"`
	Args         []string        `json:"args"`
}

// record is one line of a journal: a scan that is done.
type record struct {
	Fingerprint string `json:"fingerprint"` // of the scan's files
	Scan
}

// journal keeps results as lines of JSON while a run is under way.
type journal struct {
	name string

	mu      sync.Mutex // guards the fields below
	file    *os.File
	results map[string]record // by series
}

// openJournal opens a journal and reads what an earlier run left in it. A last
// line that was cut off is taken away.
func openJournal(name string, head header) (*journal, error) {
	first, err := json.Marshal(head)
	if err != nil {
		return nil, fmt.Errorf("encode the journal's header: %w", err)
	}
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open the journal: %w", err)
	}
	j := &journal{name: name, file: f, results: map[string]record{}}
	if err := j.read(first); err != nil {
		_ = f.Close() // the first error says more
		return nil, err
	}
	return j, nil
}

func (j *journal) read(first []byte) error {
	info, err := j.file.Stat()
	if err != nil {
		return fmt.Errorf("look at the journal: %w", err)
	}
	if info.Size() > maxJournalBytes {
		return fmt.Errorf("%s is too large for a journal: remove it", j.name)
	}
	text, err := os.ReadFile(j.name)
	if err != nil {
		return fmt.Errorf("read the journal: %w", err)
	}
	whole := bytes.LastIndexByte(text, '\n') + 1
	if err := j.file.Truncate(int64(whole)); err != nil {
		return fmt.Errorf("repair the journal: %w", err)
	}
	if _, err := j.file.Seek(int64(whole), 0); err != nil {
		return fmt.Errorf("repair the journal: %w", err)
	}
	if whole == 0 {
		return j.line(first)
	}
	for n, line := range bytes.Split(text[:whole-1], []byte{'\n'}) {
		if n == 0 {
			if !bytes.Equal(line, first) {
				return fmt.Errorf("%s is of a run with another plugin, model or threshold: finish that one, or remove the file", j.name)
			}
			continue
		}
		var r record
		if err := json.Unmarshal(line, &r); err != nil || r.SeriesInstanceUID == "" {
			return fmt.Errorf("line %d of %s is damaged: remove the file and start again", n+1, j.name)
		}
		j.results[r.SeriesInstanceUID] = r
	}
	return nil
}

// result returns what is known of a scan.
func (j *journal) result(uid string) (record, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	r, ok := j.results[uid]
	return r, ok
}

// add keeps a result: it is on the disk when add returns.
func (j *journal) add(r record) error {
	text, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode a result: %w", err)
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if err := j.line(text); err != nil {
		return err
	}
	j.results[r.SeriesInstanceUID] = r
	return nil
}

func (j *journal) line(text []byte) error {
	_, err := j.file.Write(append(text, '\n'))
	if err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		return fmt.Errorf("write the journal: %w", err)
	}
	return nil
}

// remove takes the journal away when the output is there.
func (j *journal) remove() error {
	if err := os.Remove(j.name); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove the journal: %w", err)
	}
	return nil
}

func (j *journal) close() error { return j.file.Close() }
