package query

import (
	"fmt"
	"strings"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
)

// Root is an information model, PS3.4 C.6.
type Root int

// The information models.
const (
	PatientRoot Root = iota // C.6.1
	StudyRoot               // C.6.2
)

// Level is a level of the hierarchy, PS3.4 C.6.
type Level int

// The levels, from the top.
const (
	Patient Level = iota
	Study
	Series
	Image
)

var levelNames = [...]string{"PATIENT", "STUDY", "SERIES", "IMAGE"}

func (l Level) String() string { return levelNames[l] }

// uniqueKeys are the unique key attributes of the levels.
var uniqueKeys = [...]dataset.Tag{dicomtag.PatientID, dicomtag.StudyInstanceUID, dicomtag.SeriesInstanceUID, dicomtag.SOPInstanceUID}

const (
	// maxKeyLength bounds one value of a key: the longest VR with wildcards that
	// is indexed has 324 characters (PN, PS3.5 6.2).
	maxKeyLength = 1024
	// maxKeyValues bounds the alternatives of a key that is no UID.
	maxKeyValues = 256
)

// Error says what is wrong with an identifier, without any value of it. PS3.4
// C.4.1.1.4: status A900H, identifier does not match SOP class.
type Error struct {
	Problem string
	Tags    []dataset.Tag
}

func (e *Error) Error() string { return e.Problem }

func wrong(t dataset.Tag, format string, args ...any) *Error {
	return &Error{Problem: fmt.Sprintf(format, args...), Tags: []dataset.Tag{t}}
}

// parseLevel reads Query/Retrieve Level (0008,0052).
func parseLevel(root Root, h dataset.Header) (Level, error) {
	text := h.String(dicomtag.QueryRetrieveLevel)
	for l, name := range levelNames {
		if text != name {
			continue
		}
		if root == StudyRoot && Level(l) == Patient {
			return 0, wrong(dicomtag.QueryRetrieveLevel, "Study Root has no level PATIENT")
		}
		return Level(l), nil
	}
	if text == "" {
		return 0, wrong(dicomtag.QueryRetrieveLevel, "Query/Retrieve Level is missing")
	}
	return 0, wrong(dicomtag.QueryRetrieveLevel, "Query/Retrieve Level is unknown")
}

// levelsAbove are those whose unique keys an identifier must have.
func levelsAbove(root Root, l Level) []Level {
	first := Patient
	if root == StudyRoot {
		first = Study
	}
	var above []Level
	for ; first < l; first++ {
		above = append(above, first)
	}
	return above
}

// single reads a unique key that must have one value, without wildcards.
func single(h dataset.Header, l Level) (string, error) {
	t := uniqueKeys[l]
	values := h.Strings(t)
	switch {
	case len(values) == 0 || values[0] == "":
		return "", wrong(t, "the unique key of level %s is missing", l)
	case len(values) > 1:
		return "", wrong(t, "the unique key of level %s has several values", l)
	case l == Patient && strings.ContainsAny(values[0], "*?"), l != Patient && !dataset.ValidUID(values[0]):
		return "", wrong(t, "the unique key of level %s is not a single value", l)
	}
	return values[0], nil
}

// uids reads a unique key that may be a list of UIDs, PS3.4 C.2.2.2.2.
func uids(h dataset.Header, l Level) (map[string]bool, error) {
	values := h.Strings(uniqueKeys[l])
	list := make(map[string]bool, len(values))
	for _, v := range values {
		if !dataset.ValidUID(v) {
			return nil, wrong(uniqueKeys[l], "the unique key of level %s is not a UID or a list of them", l)
		}
		list[v] = true
	}
	return list, nil
}

// scope is where in the hierarchy to look: the unique keys that were given.
// What is empty is not asked for.
type scope struct {
	patient   string
	anyone    bool // patient is not asked for
	study     string
	series    string
	wanted    map[string]bool // of the level itself, where it is a UID
	level     Level
	utf8Asked bool
	// A key counts what the patient has beyond the study.
	countsPatient bool
}

// parseScope reads the unique keys of the levels above, which must be there.
func parseScope(root Root, l Level, h dataset.Header) (scope, error) {
	s := scope{level: l, anyone: true, utf8Asked: asksUTF8(h)}
	for _, above := range levelsAbove(root, l) {
		value, err := single(h, above)
		if err != nil {
			return s, err
		}
		switch above {
		case Patient:
			s.patient, s.anyone = value, false
		case Study:
			s.study = value
		case Series:
			s.series = value
		}
	}
	return s, nil
}

// asksUTF8 says whether the peer itself writes UTF-8.
func asksUTF8(h dataset.Header) bool { return h.String(dicomtag.SpecificCharacterSet) == utf8Term }

const utf8Term = "ISO_IR 192"
