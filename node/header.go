package node

import (
	"strconv"
	"strings"
)

// decimals reads a multi-valued decimal string (VR DS); nil if any value is
// not a number, because half a position is no position.
func decimals(ds string) []float64 {
	if ds == "" {
		return nil
	}
	parts := strings.Split(ds, `\`)
	out := make([]float64, len(parts))
	for i, p := range parts {
		v, err := strconv.ParseFloat(strings.TrimSpace(p), 64)
		if err != nil {
			return nil
		}
		out[i] = v
	}
	return out
}

// integer reads an integer string (VR IS); 0 if it is none.
func integer(is string) int {
	v, err := strconv.Atoi(strings.TrimSpace(is))
	if err != nil {
		return 0
	}
	return v
}
