package query

import (
	"strings"
	"testing"
	"time"
)

// TestGlobCost: the pattern that makes backtracking matchers take for ever.
func TestGlobCost(t *testing.T) {
	pattern := strings.Repeat("*a", 500) + "b"
	value := strings.Repeat("a", 64<<10)
	begin := time.Now()
	if glob(pattern, value) {
		t.Error("it matches, want not")
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
	for _, tt := range []struct {
		pattern, value string
		want           bool
	}{
		{"", "", true}, {"*", "", true}, {"?", "", false}, {"?", "ü", true}, {"??", "ü", false}, {"a*b*c", "aXbYbZc", true}, {"a*b*c", "aXbYbZ", false},
		{"*a", "bca", true}, {"a*", "", false}, {"**", "x", true}, {"*\xff", "a\xff", true}, {"�", "\xff", false},
	} {
		if got := glob(tt.pattern, tt.value); got != tt.want {
			t.Errorf("glob(%q, %q) = %v, want %v", tt.pattern, tt.value, got, tt.want)
		}
	}
}

// TestFoldName: accents go on Latin and Greek letters, and make other letters
// elsewhere.
func TestFoldName(t *testing.T) {
	for in, want := range map[string]string{
		"Müller": "muller", "Mu\u0308ller": "muller", "ÅSA": "asa", "Ἀθηνᾶ": "αθηνα", "Андрей": "андрей", "Андреи": "андреи", "が": "が", "か\u3099": "が", "김": "김", "ß": "ß",
	} {
		if got := foldName(in); got != want {
			t.Errorf("foldName(%q) = %q, want %q", in, got, want)
		}
	}
}

// FuzzRange holds that a key of a date or a time is refused or makes a range whose
// ends it contains, and that all of it lies between them.
func FuzzRange(f *testing.F) {
	for _, s := range []string{"20240131", "20240131-", "-20240131", "20240131-20240215", "2024.01.31", "101500.25", "10-1130", "2024", "20240131101500.5+0100-20240201-0500", "2024-0500", "1970-", "-", "235960", "24", "20230229", "99991231"} {
		for _, vr := range []string{"DA", "TM", "DT"} {
			f.Add(vr, s, s)
		}
	}
	f.Fuzz(func(t *testing.T, vr, key, value string) {
		if vr != "DA" && vr != "TM" && vr != "DT" {
			return
		}
		r, ok := parseRange(vr, key)
		if !ok {
			return
		}
		if r.openLow && r.openUp {
			t.Errorf("%s %q has no end at all", vr, key)
		}
		if !r.openLow && !r.openUp && !before(r.up.last, r.up.offset, r.low.first, r.low.offset) && !r.contains(r.low) {
			t.Errorf("%s %q does not contain its lower end", vr, key)
		}
		m, ok := parseMoment(vr, value)
		if !ok {
			if r.matches(value) {
				t.Errorf("%s %q matches %q, which is no moment", vr, key, value)
			}
			return
		}
		if m.last.Before(m.first) {
			t.Errorf("%s %q ends before it begins", vr, value)
		}
		same, ok := parseRange(vr, value)
		if !ok || !same.matches(value) {
			t.Errorf("%s %q does not match itself", vr, value)
		}
	})
}
