package config

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Error is one problem of a configuration, worded for the person who wrote it.
type Error struct {
	File    string // "" when the configuration did not come from a file
	Line    int    // 1-based; 0 when the problem has no line
	Key     string // dotted path such as series.quiet or plugins[0].name; "" for the file as a whole
	Problem string // what is wrong and what to write instead
}

// Error implements error: file:line: key: problem, without the parts that are
// not known.
func (e *Error) Error() string {
	s := e.Problem
	if e.Key != "" {
		s = e.Key + ": " + s
	}
	switch {
	case e.File != "" && e.Line > 0:
		return fmt.Sprintf("%s:%d: %s", e.File, e.Line, s)
	case e.File != "":
		return e.File + ": " + s
	}
	return s
}

// problems gathers what is wrong, so that a person fixes a file in one go.
type problems struct {
	file string
	list []*Error
}

func (p *problems) add(line int, key, format string, args ...any) {
	p.list = append(p.list, &Error{File: p.file, Line: line, Key: key, Problem: fmt.Sprintf(format, args...)})
}

// err returns nil, or all problems in the order of the file, one a line.
func (p *problems) err() error {
	slices.SortStableFunc(p.list, func(a, b *Error) int { return a.Line - b.Line })
	errs := make([]error, len(p.list))
	for i, e := range p.list {
		errs[i] = e
	}
	return errors.Join(errs...)
}

// nearest returns the candidate that a person most likely meant by word, or ""
// when none is close: the one that word begins with, or the one with the fewest
// letters changed, of which a third may be, and always two.
func nearest(word string, candidates []string) string {
	best, bestDistance := "", max(2, len(word)/3)+1
	for _, c := range candidates {
		if len(c) > 2 && strings.HasPrefix(word, c) {
			return c
		}
		if d := distance(word, c); d < bestDistance {
			best, bestDistance = c, d
		}
	}
	return best
}

// distance counts the insertions, deletions, changes and swaps of neighbours
// that turn a into b (optimal string alignment).
func distance(a, b string) int {
	var before, last []int
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := 1; i <= len(a); i++ {
		before, last = last, row
		row = make([]int, len(b)+1)
		row[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			row[j] = min(last[j]+1, row[j-1]+1, last[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				row[j] = min(row[j], before[j-2]+1)
			}
		}
	}
	return row[len(b)]
}
