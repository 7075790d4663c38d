package store

// faults lets the tests of this package fail what lies below the store. A nil
// *faults injects nothing.
type faults struct {
	write func() error // before a write to the journal
	sync  func() error // before a sync of the journal
	file  func() error // before a transaction on a series file
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
