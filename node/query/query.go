package query

import (
	"maps"
	"slices"
	"strings"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
)

// Options are what a node adds to a query.
type Options struct {
	RetrieveAETitle string // what (0008,0054) says
	// CombinedDateTime matches ranges of a date and its time as one range, where
	// the extended negotiation agreed on it (PS3.4 C.5.1.1.2).
	CombinedDateTime bool
}

// Query is what a C-FIND asks for. It does not change.
type Query struct {
	scope       scope
	options     Options
	conditions  []condition
	returned    []attribute
	Unsupported bool // an optional key is not supported: its matches are FF01H
}

// condition is a key that not everything matches.
type condition struct {
	cost  int // those that may read images are asked last
	match func(*entity) (bool, error)
}

// Parse reads the identifier of a C-FIND. An error is an *Error.
func Parse(root Root, h dataset.Header, o Options) (*Query, error) {
	level, err := parseLevel(root, h)
	if err != nil {
		return nil, err
	}
	q := &Query{options: o}
	if q.scope, err = parseScope(root, level, h); err != nil {
		return nil, err
	}
	if level != Patient {
		if q.scope.wanted, err = wantedUIDs(h, level); err != nil {
			return nil, err
		}
	}
	if s := h.Strings(dicomtag.PatientID); q.scope.anyone && len(s) == 1 && exact(s[0]) {
		// Not asked for by the hierarchy, but it spares looking at everybody.
		q.scope.patient, q.scope.anyone = s[0], false
	}
	spans := map[dataset.Tag]span{}
	conditions := map[dataset.Tag]condition{}
	for _, t := range h.Tags() {
		a, ok := attributes[t]
		switch {
		case housekeeping(t):
			continue
		case !ok || a.level > level:
			q.Unsupported = true
			continue
		}
		q.returned = append(q.returned, a)
		q.scope.countsPatient = q.scope.countsPatient || countsPatient(t)
		m, err := newMatcher(a, h.Strings(t))
		if err != nil {
			return nil, err
		}
		if m == nil {
			continue
		}
		if values := h.Strings(t); len(values) == 1 && (a.vr == "DA" || a.vr == "TM") {
			if r, ok := parseRange(a.vr, values[0]); ok && !r.oneValue {
				spans[t] = r
			}
		}
		conditions[t] = a.condition(m)
	}
	if o.CombinedDateTime {
		combineConditions(conditions, spans)
	}
	q.conditions = slices.Collect(maps.Values(conditions))
	slices.SortFunc(q.conditions, func(a, b condition) int { return a.cost - b.cost })
	q.returnUnique(level)
	return q, nil
}

// wantedUIDs reads the unique key of the level itself, which may be anything that
// matches all.
func wantedUIDs(h dataset.Header, l Level) (map[string]bool, error) {
	if v := h.Strings(uniqueKeys[l]); len(v) == 1 && v[0] == "*" {
		return nil, nil
	}
	return uids(h, l)
}

// exact says whether a key has no wildcards and matches not all.
func exact(s string) bool { return s != "" && !strings.ContainsAny(s, "*?") }

// condition makes one of a matcher. An attribute with several values matches when
// one of them does.
func (a attribute) condition(m matcher) condition {
	cost := 0
	if a.tag == dicomtag.SOPClassesInStudy {
		cost = 1
	}
	return condition{cost, func(e *entity) (bool, error) {
		values, err := e.values(a)
		for _, v := range values {
			if m(v) {
				return true, err
			}
		}
		return false, err
	}}
}

// dateTimes are the dates and their times.
var dateTimes = [][2]dataset.Tag{
	{dicomtag.StudyDate, dicomtag.StudyTime}, {dicomtag.SeriesDate, dicomtag.SeriesTime},
	{dicomtag.AcquisitionDate, dicomtag.AcquisitionTime}, {dicomtag.ContentDate, dicomtag.ContentTime},
}

// combineConditions puts one condition in the place of those of a date and its
// time where both are ranges.
func combineConditions(conditions map[dataset.Tag]condition, spans map[dataset.Tag]span) {
	for _, pair := range dateTimes {
		dates, ok1 := spans[pair[0]]
		times, ok2 := spans[pair[1]]
		if !ok1 || !ok2 {
			continue
		}
		both := combine(dates, times)
		date, clock := attributes[pair[0]].keyword, attributes[pair[1]].keyword
		delete(conditions, pair[1])
		conditions[pair[0]] = condition{match: func(e *entity) (bool, error) {
			day, ok1 := parseMoment("DA", e.header[date])
			at, ok2 := parseMoment("TM", e.header[clock])
			return ok1 && ok2 && both.contains(join(day, at)), nil
		}}
	}
}

// returnUnique adds the unique keys from the top down to the level, and where to
// fetch it from, which each match has (PS3.4 C.4.1.1.3.2).
func (q *Query) returnUnique(l Level) {
	add := func(t dataset.Tag) {
		for _, a := range q.returned {
			if a.tag == t {
				return
			}
		}
		q.returned = append(q.returned, attributes[t])
	}
	add(uniqueKeys[l])
	add(dicomtag.RetrieveAETitle)
}
