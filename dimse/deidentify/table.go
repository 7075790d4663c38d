package deidentify

import (
	_ "embed"
	"fmt"
	"strconv"
	"strings"

	"hilum/dimse/dataset"
)

// action is what the profile does with an element, PS3.15 table E.1-1a.
type action int

const (
	keep    action = iota
	replace        // D: by a value of no meaning
	empty          // Z: by one of no length
	remove         // X
	mapUID         // U: by another UID, the same for the same
)

//go:embed table.txt
var tableText string

// table is PS3.15 table E.1-1 but for what whole groups of elements share.
var table = parseTable(tableText)

// parseTable reads lines of tag and action. Where the standard leaves a choice by
// what the SOP class demands (X/Z, X/D, Z/D and more), the result conforms to each of
// them if the element is replaced where D is allowed, else emptied; but a sequence
// that may go does, as one without items is allowed in few places. One of references
// (X/Z/U*) keeps its items, whose UIDs are mapped.
func parseTable(text string) map[dataset.Tag]action {
	t := map[dataset.Tag]action{}
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		if strings.HasPrefix(line, "#") || len(fields) == 0 {
			continue
		}
		number, err := strconv.ParseUint(fields[0], 16, 32)
		if err != nil || len(fields) != 2 {
			panic(fmt.Sprintf("deidentify: table line %q", line)) // it is part of the program
		}
		tag := dataset.Tag{Group: uint16(number >> 16), Element: uint16(number)}
		t[tag] = parseAction(fields[1], dataset.DictionaryVR(tag) == "SQ")
	}
	return t
}

func parseAction(s string, sequence bool) action {
	switch {
	case s == "U":
		return mapUID
	case s == "X/Z/U*":
		return keep
	case sequence && strings.Contains(s, "X"):
		return remove
	case strings.Contains(s, "D"):
		return replace
	case strings.Contains(s, "Z"):
		return empty
	}
	return remove
}
