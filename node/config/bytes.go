package config

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
)

// Bytes is an amount of memory or disk, written as 500MB or 2GiB.
type Bytes int64

// units are in the order in which String tries them: the binary ones first.
var units = []struct {
	name string
	size float64
}{
	{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10},
	{"TB", 1e12}, {"GB", 1e9}, {"MB", 1e6}, {"kB", 1e3}, {"B", 1},
}

var bytesRule = regexp.MustCompile(`^([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)$`)

// parseBytes reads a number and its unit; a zero needs none.
func parseBytes(s string) (Bytes, bool) {
	if s == "0" {
		return 0, true
	}
	m := bytesRule.FindStringSubmatch(s)
	if m == nil {
		return 0, false
	}
	n, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0, false
	}
	for _, u := range units {
		if strings.EqualFold(u.name, m[2]) {
			n *= u.size
			return Bytes(n), n < math.MaxInt64/2
		}
	}
	return 0, false
}

// String writes the amount with the largest unit in which it is a whole number.
func (b Bytes) String() string {
	if b == 0 {
		return "0"
	}
	for _, u := range units {
		if size := Bytes(u.size); b%size == 0 {
			return fmt.Sprintf("%d%s", b/size, u.name)
		}
	}
	return fmt.Sprintf("%dB", int64(b))
}
