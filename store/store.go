package store

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"
)

const (
	journalFolder = "journal"
	// maxPending bounds the memory of what waits to be filed: about 500 bytes
	// for each image.
	maxPending = 1 << 16
	// keepSegments bounds the disk that free segments hold (1 GiB); they are given
	// up when room is needed.
	keepSegments = 16
)

// Store is an open data folder. All methods may be called from any goroutine.
type Store struct {
	dir    string
	o      Options
	log    *slog.Logger
	lock   *os.File
	index  *index
	files  *seriesFiles
	filing sync.Mutex // held while the content of series files changes or is checked

	mu       sync.Mutex // guards all below
	cond     *sync.Cond // on mu: a commit ended, records were filed, the store closes
	journal  journal
	pending  map[string]*record        // by UID: kept images that are not filed yet
	conflict map[string]bool           // by imageKey: quarantined images that are not filed yet
	series   map[string]*pendingSeries // by series UID
	count    int                       // records in series
	backlog  int64                     // their bytes
	inflight map[string]bool           // UIDs being committed
	commits  map[string]int            // by series: commits under way
	deleting map[string]bool           // series being deleted
	seq      uint64                    // last given out; see record.seq
	order    uint64                    // last given out; see record.order
	filerErr error                     // why the last filing failed
	lastSeen time.Time                 // when the last record became visible
	closed   bool

	wake    chan struct{} // to the filer: something changed; holds one
	filerWG sync.WaitGroup
	urgent  int // guarded by mu: callers of Flush that wait

	closing  sync.Once
	closeErr error // set by closing

	changeMu sync.Mutex // guards changed
	changed  chan struct{}
}

// Open opens the data folder dir, creating it when it is missing, and recovers
// everything that was acknowledged before a crash. It returns ErrLocked when
// another process holds the folder and ErrSchema when a newer version wrote it.
func Open(dir string, o Options) (_ *Store, err error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Backlog <= 0 {
		o.Backlog = DefaultBacklog
	}
	if o.MinFree == 0 {
		o.MinFree = DefaultMinFree
	}
	if o.OpenSeries <= 0 {
		o.OpenSeries = DefaultOpenSeries
	}
	dir = filepath.Clean(dir)
	if err := os.MkdirAll(dir, dirMode); err != nil {
		return nil, fmt.Errorf("create data folder: %w", err)
	}
	s := &Store{
		dir: dir, o: o, log: o.Logger,
		pending: map[string]*record{}, conflict: map[string]bool{}, series: map[string]*pendingSeries{},
		inflight: map[string]bool{}, commits: map[string]int{}, deleting: map[string]bool{},
		wake: make(chan struct{}, 1), changed: make(chan struct{}),
	}
	s.cond = sync.NewCond(&s.mu)
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeFiles())
		}
	}()
	if !o.restoring { // else the lock is held already
		if s.lock, err = lockFolder(dir); err != nil {
			return nil, err
		}
		if err := refuseRestoring(dir); err != nil {
			return nil, err
		}
	}
	if err := removeSpools(dir); err != nil {
		return nil, err
	}
	root, err := makeDir(dir, seriesFolder)
	if err != nil {
		return nil, fmt.Errorf("create data folder: %w", err)
	}
	jdir, err := makeDir(dir, journalFolder)
	if err != nil {
		return nil, fmt.Errorf("create data folder: %w", err)
	}
	s.files = newSeriesFiles(root, o.OpenSeries, migrator{migrations, o.Logger})
	s.journal = journal{dir: jdir, keep: keepSegments}
	var fresh bool
	if s.index, fresh, err = openIndex(dir, s.files.migrate); err != nil {
		return nil, err
	}
	if err := s.index.makeRecords(); err != nil {
		return nil, err
	}
	if fresh {
		if err := s.rebuildIndex(); err != nil {
			return nil, err
		}
	}
	if err := s.finishDeletions(); err != nil {
		return nil, err
	}
	if err := s.replay(); err != nil {
		return nil, err
	}
	s.filerWG.Add(1)
	go s.filer()
	return s, nil
}

// Close files what waits in the journal, as far as the disk allows, and closes
// the store. Writers that are still open fail. What could not be filed stays in
// the journal and is filed after the next Open.
func (s *Store) Close() error {
	s.closing.Do(func() { s.closeErr = s.shut() })
	return s.closeErr
}

func (s *Store) shut() error {
	s.mu.Lock()
	s.closed = true
	s.cond.Broadcast()
	for len(s.inflight) > 0 { // their answer is already on its way to disk
		s.cond.Wait()
	}
	s.mu.Unlock()
	s.wakeFiler()
	s.filerWG.Wait()
	s.notify()
	s.filing.Lock()
	defer s.filing.Unlock()
	return errors.Join(s.wipeJournal(), s.closeFiles())
}

// closeFiles closes whatever is open; the folder lock last.
func (s *Store) closeFiles() error {
	var errs []error
	s.mu.Lock()
	trash := s.journal.takeTrash()
	errs = append(errs, removeSegments(s.journal.dir, trash), s.journal.closeSegments())
	s.mu.Unlock()
	if s.files != nil {
		errs = append(errs, s.files.close())
	}
	if s.index != nil {
		errs = append(errs, s.index.close())
	}
	if s.lock != nil {
		errs = append(errs, s.lock.Close())
	}
	return errors.Join(errs...)
}

// Flush files everything that was committed before the call.
func (s *Store) Flush(ctx context.Context) error {
	stop := context.AfterFunc(ctx, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.cond.Broadcast()
	})
	defer stop()
	s.mu.Lock()
	defer s.mu.Unlock()
	target := s.order
	s.filerErr = nil // what failed before is tried again now
	for _, ps := range s.series {
		ps.retry = time.Time{}
	}
	s.urgent++
	defer func() { s.urgent-- }()
	for {
		oldest := s.oldestOrder()
		switch {
		case oldest == 0 || oldest > target:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case s.closed:
			return ErrClosed
		case s.filerErr != nil:
			return s.filerErr
		}
		s.wakeFiler()
		s.cond.Wait()
	}
}

// oldestOrder is the order of the oldest record that is not filed, or 0. The
// caller holds mu.
func (s *Store) oldestOrder() uint64 {
	var oldest uint64
	for _, ps := range s.series {
		if o := ps.recs[0].order; oldest == 0 || o < oldest {
			oldest = o
		}
	}
	return oldest
}

// removeTrash removes segments that are no longer needed.
func (s *Store) removeTrash() {
	s.mu.Lock()
	trash := s.journal.takeTrash()
	s.mu.Unlock()
	if err := removeSegments(s.journal.dir, trash); err != nil {
		// Only space is lost; the next Open finds nothing of use in the file.
		s.log.Warn("journal segment not removed", "error", err)
	}
}
