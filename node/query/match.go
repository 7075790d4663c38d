package query

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// matcher says whether one value of an attribute matches a key.
type matcher func(value string) bool

// newMatcher makes the matcher of a key, which is nil for universal matching
// (PS3.4 C.2.2.2.3), or says what is wrong with the key.
func newMatcher(a attribute, values []string) (matcher, error) {
	if len(values) == 0 || len(values) == 1 && (values[0] == "" || values[0] == "*") {
		return nil, nil // some peers send * for any VR
	}
	if a.vr == "UI" {
		return uidMatcher(values), nil
	}
	if len(values) > maxKeyValues {
		return nil, wrong(a.tag, "the key has more than %d values", maxKeyValues)
	}
	var any []matcher
	for _, v := range values {
		if len(v) > maxKeyLength {
			return nil, wrong(a.tag, "the key has more than %d bytes", maxKeyLength)
		}
		m, err := valueMatcher(a, v)
		if err != nil {
			return nil, err
		}
		any = append(any, m)
	}
	if len(any) == 1 {
		return any[0], nil
	}
	return func(value string) bool {
		for _, m := range any {
			if m(value) {
				return true
			}
		}
		return false
	}, nil
}

// uidMatcher is the list of UID matching, PS3.4 C.2.2.2.2.
func uidMatcher(values []string) matcher {
	set := make(map[string]bool, len(values))
	for _, v := range values {
		set[v] = true
	}
	return func(value string) bool { return set[value] }
}

func valueMatcher(a attribute, key string) (matcher, error) {
	switch a.vr {
	case "DA", "TM", "DT":
		r, ok := parseRange(a.vr, key)
		if !ok {
			return nil, wrong(a.tag, "the key is not a date, a time or a range of them")
		}
		return r.matches, nil
	case "PN":
		return nameMatcher(key), nil
	case "IS", "DS", "US", "UL", "SS", "SL", "FL", "FD":
		return numberMatcher(key), nil
	case "AS":
		return func(value string) bool { return value == key }, nil
	}
	// PS3.4 C.2.2.2.4: wildcards in AE, CS, LO, LT, PN, SH, ST, UC, UR, UT.
	return wildcardMatcher(norm.NFC.String(key), norm.NFC.String), nil
}

// numberMatcher compares numbers, however they are written.
func numberMatcher(key string) matcher {
	want, err := strconv.ParseFloat(key, 64)
	if err != nil {
		return func(value string) bool { return value == key }
	}
	return func(value string) bool {
		got, err := strconv.ParseFloat(value, 64)
		return err == nil && got == want
	}
}

// wildcardMatcher matches what prepare makes of a value.
func wildcardMatcher(pattern string, prepare func(string) string) matcher {
	if !strings.ContainsAny(pattern, "*?") {
		return func(value string) bool { return prepare(value) == pattern }
	}
	return func(value string) bool { return glob(pattern, prepare(value)) }
}

// glob matches * with any characters and ? with one. It steps back to the last *
// only, so it takes at most the product of the two lengths.
func glob(pattern, s string) bool {
	p, i, star, mark := 0, 0, -1, 0
	for i < len(s) {
		if p < len(pattern) && pattern[p] == '*' {
			star, mark = p, i
			p++
			continue
		}
		if p < len(pattern) {
			want, w := utf8.DecodeRuneInString(pattern[p:])
			got, n := utf8.DecodeRuneInString(s[i:])
			if want == '?' || want == got && pattern[p:p+w] == s[i:i+n] {
				p, i = p+w, i+n
				continue
			}
		}
		if star < 0 {
			return false
		}
		_, n := utf8.DecodeRuneInString(s[mark:])
		mark += n
		p, i = star+1, mark
	}
	for p < len(pattern) && pattern[p] == '*' {
		p++
	}
	return p == len(pattern)
}

// nameMatcher matches person names, PS3.4 C.2.2.2.1: without regard to case and
// to accents. A key with one component group matches any of the value; one with
// several matches group by group, an empty one always. Empty components at the end of a group mean nothing (PS3.5
// 6.2.1.1).
func nameMatcher(key string) matcher {
	groups := strings.Split(foldName(key), "=")
	matchers := make([]matcher, len(groups))
	for i, g := range groups {
		if g != "" {
			matchers[i] = wildcardMatcher(trimName(g), trimName)
		}
	}
	return func(value string) bool {
		parts := strings.Split(foldName(value), "=")
		if len(matchers) == 1 {
			whole := wildcardMatcher(groups[0], func(s string) string { return s })
			for _, p := range parts {
				// Behind a wildcard, too, "DOE^*" is to match "DOE".
				if matchers[0](p) || whole(p) || whole(p+"^") {
					return true
				}
			}
			return false
		}
		for i, m := range matchers {
			if m != nil && (i >= len(parts) || !m(parts[i])) {
				return false
			}
		}
		return true
	}
}

func trimName(s string) string { return strings.TrimRight(s, "^ ") }

// foldName takes away the case, and the accents of Latin and Greek letters.
// Elsewhere such marks make other letters: й is not и, が is not か.
func foldName(s string) string {
	var b strings.Builder
	base := false // the last letter is one that may lose its accents
	for _, r := range norm.NFD.String(s) {
		if base && unicode.Is(unicode.Mn, r) {
			continue
		}
		base = unicode.In(r, unicode.Latin, unicode.Greek)
		b.WriteRune(unicode.ToLower(r))
	}
	return norm.NFC.String(b.String())
}
