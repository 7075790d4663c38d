package pdu

import (
	"errors"
	"fmt"
	"strings"
)

// AETitle is an application entity title as it is on the wire: 16 bytes, padded
// with spaces.
type AETitle [16]byte

// ErrAETitle is returned for a name that cannot be an AE title.
var ErrAETitle = errors.New("an AE title has 1 to 16 printable ASCII characters, no backslash, and is not blank")

// NewAETitle returns s padded with spaces. Leading and trailing spaces of s are
// not significant, PS3.5 6.2.
func NewAETitle(s string) (AETitle, error) {
	var t AETitle
	trimmed := strings.Trim(s, " ")
	if trimmed == "" || len(trimmed) > len(t) || !printable(trimmed) {
		return t, fmt.Errorf("AE title %q: %w", s, ErrAETitle)
	}
	n := copy(t[:], trimmed)
	for i := n; i < len(t); i++ {
		t[i] = ' '
	}
	return t, nil
}

// String returns the title without leading and trailing spaces, and without the
// NULs that some peers pad with.
func (t AETitle) String() string { return strings.Trim(string(t[:]), " \x00") }

// Valid says whether the title has only the characters that PS3.5 6.2 allows.
// A blank title is valid here: whether one is welcome is for the application.
func (t AETitle) Valid() bool { return printable(t.String()) }

func printable(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' || s[i] == '\\' {
			return false
		}
	}
	return true
}
