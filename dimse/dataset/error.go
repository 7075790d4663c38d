package dataset

import (
	"errors"
	"fmt"
)

// ErrNotDICOM is returned when a file is not a DICOM Part 10 file. The error that
// wraps it says what was found instead.
var ErrNotDICOM = errors.New("not a DICOM file")

// Error reports a damaged data set: the element that could not be followed, where
// it begins, and what is wrong with it. It holds no value of the data set, so it may
// be logged and sent to a peer. Reading the same bytes again cannot help.
type Error struct {
	Tag     Tag    // the element; the zero Tag if the damage is before its tag was known
	Offset  int64  // of the element from the start of the data set (inflated, if deflated)
	Problem string // for a person: "its length reaches beyond the end of its item"
}

// Error describes the damage in one sentence.
func (e *Error) Error() string {
	if e.Tag == (Tag{}) {
		return fmt.Sprintf("damaged data set at byte %d: %s", e.Offset, e.Problem)
	}
	return fmt.Sprintf("damaged data set at byte %d, element (%04X,%04X): %s",
		e.Offset, e.Tag.Group, e.Tag.Element, e.Problem)
}
