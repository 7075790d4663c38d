package insert

import (
	"fmt"
	"testing"
)

// TestFold holds the rule that other programs compute too.
func TestFold(t *testing.T) {
	// python: zlib.crc32(name.encode()) % n
	for _, tt := range []struct {
		patient string
		n, want int
	}{{"LIDC-IDRI-0004", 5, 3}, {"LIDC-IDRI-0004", 1, 0}, {"", 5, 0}} {
		if got := Fold(tt.patient, tt.n); got != tt.want {
			t.Errorf("Fold(%q, %d) = %d, want %d", tt.patient, tt.n, got, tt.want)
		}
	}
	counts := make([]int, 5)
	for i := range 1000 {
		counts[Fold(fmt.Sprint("patient ", i), 5)]++
	}
	for k, n := range counts {
		if n < 150 || n > 250 {
			t.Errorf("fold %d has %d of 1000 patients", k, n)
		}
	}
}

func TestOfPatients(t *testing.T) {
	all := []Source{{Patient: "a", Name: "1"}, {Patient: "b", Name: "2"}, {Patient: "a", Name: "3"}}
	got := OfPatients(all, func(p string) bool { return p == "a" })
	if len(got) != 2 || got[0].Name != "1" || got[1].Name != "3" || all[1].Name != "2" {
		t.Errorf("OfPatients = %+v of %+v, want 1 and 3", got, all)
	}
}
