package query

import (
	"strings"
	"time"
)

// moment is a date, a time or both, as exact as it was written: some instant
// from first to last. Without an offset from UTC it is wall time.
type moment struct {
	first, last time.Time
	offset      bool
}

// span is a range of moments, PS3.4 C.2.2.2.5; a zero end is open.
type span struct {
	vr       string
	low, up  moment
	openLow  bool
	openUp   bool
	oneValue bool // written as a single value
}

// parseRange reads a key of VR DA, TM or DT: a value, A-B, A- or -B.
func parseRange(vr, key string) (span, bool) {
	key = strings.TrimSpace(key)
	if m, ok := parseMoment(vr, key); ok {
		return span{vr: vr, low: m, up: m, oneValue: true}, true
	}
	// A hyphen may also be the sign of an offset (DT): the first one counts that
	// has a moment, or nothing, on both sides.
	for i := range len(key) {
		if key[i] != '-' {
			continue
		}
		from, to := strings.TrimSpace(key[:i]), strings.TrimSpace(key[i+1:])
		if from == "" && to == "" {
			continue
		}
		r := span{vr: vr, openLow: from == "", openUp: to == ""}
		okFrom, okTo := true, true
		if !r.openLow {
			r.low, okFrom = parseMoment(vr, from)
		}
		if !r.openUp {
			r.up, okTo = parseMoment(vr, to)
		}
		if okFrom && okTo {
			return r, true
		}
	}
	return span{}, false
}

// matches says whether a value lies in the range. The end of a range is as long
// as it is exact: -1200 ends with the last instant of that minute.
func (r span) matches(value string) bool {
	m, ok := parseMoment(r.vr, value)
	return ok && r.contains(m)
}

func (r span) contains(m moment) bool {
	return (r.openLow || !before(m.first, m.offset, r.low.first, r.low.offset)) &&
		(r.openUp || !before(r.up.last, r.up.offset, m.first, m.offset))
}

// before compares instants where both have an offset, and wall times else.
func before(a time.Time, aOffset bool, b time.Time, bOffset bool) bool {
	if aOffset && bOffset {
		return a.Before(b)
	}
	return wall(a).Before(wall(b))
}

func wall(t time.Time) time.Time {
	return time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), t.Second(), t.Nanosecond(), time.UTC)
}

// combine makes one range of a date range and a time range, PS3.4 C.2.2.2.5.4: from
// the first time of the first day to the last time of the last.
func combine(dates, times span) span {
	r := dates
	r.vr = "DT"
	if !r.openLow && !times.openLow {
		r.low = join(dates.low, times.low)
	}
	if !r.openUp && !times.openUp {
		r.up = join(dates.up, times.up)
	}
	return r
}

// join makes one moment of a day and a time.
func join(day, clock moment) moment {
	at := func(c time.Time) time.Time {
		d := day.first
		return time.Date(d.Year(), d.Month(), d.Day(), c.Hour(), c.Minute(), c.Second(), c.Nanosecond(), time.UTC)
	}
	return moment{first: at(clock.first), last: at(clock.last)}
}

// parseMoment reads one value, PS3.5 6.2. It takes the forms of ACR-NEMA 2.0 with
// dots and colons, too, which images still have.
func parseMoment(vr, s string) (moment, bool) {
	s = strings.TrimSpace(s)
	switch vr {
	case "DA":
		if len(s) == 10 && s[4] == '.' && s[7] == '.' {
			s = s[:4] + s[5:7] + s[8:]
		}
		if len(s) != 8 {
			return moment{}, false
		}
		return parseDigits(s, "", time.UTC)
	case "TM":
		if len(s) >= 5 && s[2] == ':' {
			s = strings.Replace(s, ":", "", 2)
		}
		clock, fraction, dot := strings.Cut(s, ".")
		if dot && (fraction == "" || len(clock) != 6) || len(clock) < 2 {
			return moment{}, false
		}
		return parseDigits("00010101"+clock, fraction, time.UTC)
	}
	zone := time.UTC
	offset := false
	if i := len(s) - 5; i >= 4 && (s[i] == '+' || s[i] == '-') {
		seconds, ok := parseOffset(s[i:])
		if !ok {
			return moment{}, false
		}
		zone, s, offset = time.FixedZone("", seconds), s[:i], true
	}
	digits, fraction, dot := strings.Cut(s, ".")
	if dot && (fraction == "" || len(digits) != 14) || len(digits) < 4 {
		return moment{}, false
	}
	m, ok := parseDigits(digits, fraction, zone)
	m.offset = offset
	return m, ok
}

// parseOffset reads &ZZXX of a DT: -1200 to +1400.
func parseOffset(s string) (seconds int, ok bool) {
	hours, ok1 := digits(s[1:3])
	minutes, ok2 := digits(s[3:5])
	seconds = hours*3600 + minutes*60
	if s[0] == '-' {
		seconds = -seconds
	}
	return seconds, ok1 && ok2 && minutes < 60 && seconds >= -12*3600 && seconds <= 14*3600
}

// parseDigits reads YYYY[MM[DD[HH[MM[SS]]]]] and the digits of a fraction.
func parseDigits(s, fraction string, zone *time.Location) (moment, bool) {
	parts := [6]int{0, 1, 1, 0, 0, 0}
	if len(s) < 4 || len(s) > 14 || len(s)%2 == 1 {
		return moment{}, false
	}
	ok := true
	read := func(i int, text string) {
		n, digit := digits(text)
		parts[i], ok = n, ok && digit
	}
	read(0, s[:4])
	n := 1 // parts that are given
	for i := 4; i < len(s); i += 2 {
		read(n, s[i:i+2])
		n++
	}
	nanos, unit := 0, 1_000_000_000
	if fraction != "" {
		if len(fraction) > 6 {
			return moment{}, false
		}
		value, digit := digits(fraction)
		ok = ok && digit
		for range fraction {
			unit /= 10
		}
		nanos = value * unit
	}
	second := parts[5]
	if second == 60 { // PS3.5 6.2: a leap second
		second = 59
	}
	if !ok || parts[1] < 1 || parts[1] > 12 || parts[2] < 1 || parts[2] > 31 || parts[3] > 23 || parts[4] > 59 || second > 59 {
		return moment{}, false
	}
	first := time.Date(parts[0], time.Month(parts[1]), parts[2], parts[3], parts[4], second, nanos, zone)
	if first.Day() != parts[2] {
		return moment{}, false // 31 April
	}
	var next time.Time
	switch n {
	case 1:
		next = first.AddDate(1, 0, 0)
	case 2:
		next = first.AddDate(0, 1, 0)
	case 3:
		next = first.AddDate(0, 0, 1)
	case 4:
		next = first.Add(time.Hour)
	case 5:
		next = first.Add(time.Minute)
	default:
		next = first.Add(time.Duration(unit))
	}
	return moment{first: first, last: next.Add(-1)}, true
}

// digits reads decimal digits only: no sign, no space.
func digits(s string) (int, bool) {
	n := 0
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + int(s[i]-'0')
	}
	return n, s != ""
}
