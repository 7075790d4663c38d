package nodule_test

import (
	"math"
	"testing"

	"hilum/models/nodule"
)

// TestPlace holds the corners and the middle of a patch that hangs over the scan's
// sides to numbers computed by hand.
func TestPlace(t *testing.T) {
	const d, h, w = 4, 1, 8
	got := make([]float32, 3*d*h*w)
	nodule.Place(got, [3]int{-8, 0, 16}, [3]int{16, 4, 32}, [3]int{100, 50, 40}, 4)
	at := func(axis, z, x int) float32 { return got[(axis*d+z)*h*w+x] }
	for _, c := range []struct {
		axis, z, x int
		want       float64
	}{
		{0, 0, 5, -8.0/100 - 0.5},
		{0, 3, 0, 8.0/100 - 0.5},
		{0, 1, 2, (-8+16.0/3)/100 - 0.5},
		{1, 2, 3, -0.5}, // a single cell stands at the beginning
		{2, 0, 0, 16.0/40 - 0.5},
		{2, 3, 7, 48.0/40 - 0.5},
		{2, 1, 3, (16+3*32.0/7)/40 - 0.5},
	} {
		if v := float64(at(c.axis, c.z, c.x)); math.Abs(v-c.want) > 1e-6 {
			t.Errorf("axis %d at cell %d, %d is %g, want %g", c.axis, c.z, c.x, v, c.want)
		}
	}
}
