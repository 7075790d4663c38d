package store

import "fmt"

// Room returns ErrFull when NewInstance would, for want of space on the disk.
func (s *Store) Room() error { return s.checkSpace(0) }

// checkSpace returns ErrFull unless the disk has room for what the backlog
// needs when it is filed, for n bytes twice, and MinFree besides.
func (s *Store) checkSpace(n int64) error {
	if s.o.MinFree < 0 {
		return nil
	}
	s.mu.Lock()
	need := s.backlog + 2*n + s.o.MinFree
	s.mu.Unlock()
	free, err := freeSpace(s.dir)
	if err != nil {
		return fmt.Errorf("ask for free space: %w", err)
	}
	if free >= need {
		return nil
	}
	s.mu.Lock()
	s.journal.shed()
	s.mu.Unlock()
	s.removeTrash()
	if free, err = freeSpace(s.dir); err != nil || free >= need {
		return err
	}
	return fmt.Errorf("%w: %d MiB free, %d MiB needed: make room, or lower the reserve (min_free)", ErrFull, free>>20, need>>20)
}
