package store

// faults lets the tests of this package fail what lies below the store. A nil
// *faults injects nothing.
type faults struct {
	write func() error // before a write to the journal; a *shortWrite lets a part of it through
	sync  func() error // before a sync of the journal
	file  func() error // before a transaction on a series file
}

// shortWrite is a write that ends early, at the end of a block, as on a disk that fills.
type shortWrite struct {
	blocks int // that are written
	err    error
}

func (e *shortWrite) Error() string { return "short write: " + e.err.Error() }
func (e *shortWrite) Unwrap() error { return e.err }

// put writes whole blocks to the journal.
func (f *faults) put(seg *segment, b []byte, off int64) error {
	err := f.onWrite()
	if err == nil {
		return seg.writeAt(b, off)
	}
	if short, ok := err.(*shortWrite); ok {
		if werr := seg.writeAt(b[:min(short.blocks*blockSize, len(b))], off); werr != nil {
			return werr
		}
	}
	return err
}

// flush makes what put wrote durable.
func (f *faults) flush(seg *segment) error {
	if err := f.onSync(); err != nil {
		return err
	}
	return fdatasync(seg.f)
}

func (f *faults) onWrite() error {
	if f == nil || f.write == nil {
		return nil
	}
	return f.write()
}

func (f *faults) onSync() error {
	if f == nil || f.sync == nil {
		return nil
	}
	return f.sync()
}

func (f *faults) onFile() error {
	if f == nil || f.file == nil {
		return nil
	}
	return f.file()
}
