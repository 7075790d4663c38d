package nodule_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"hilum/models/nodule"
)

func TestNMS(t *testing.T) {
	a := nodule.Candidate{Z: 10, Y: 10, X: 10, Diameter: 10, Probability: 0.9}
	moved := func(dx, d, p float64) nodule.Candidate {
		return nodule.Candidate{Z: 10, Y: 10, X: 10 + dx, Diameter: d, Probability: p}
	}
	tests := []struct {
		name string
		in   []nodule.Candidate
		want []nodule.Candidate
	}{
		{"none", nil, nil},
		{"one", []nodule.Candidate{a}, []nodule.Candidate{a}},
		{"same place", []nodule.Candidate{moved(0, 10, 0.5), a}, []nodule.Candidate{a}},
		{"apart", []nodule.Candidate{moved(20, 10, 0.5), a}, []nodule.Candidate{a, moved(20, 10, 0.5)}},
		// Overlap 100 of 1900: 0.0526.
		{"just over the threshold", []nodule.Candidate{a, moved(9, 10, 0.5)}, []nodule.Candidate{a}},
		// Overlap 90 of 1910: 0.0471.
		{"just under the threshold", []nodule.Candidate{a, moved(9.1, 10, 0.5)}, []nodule.Candidate{a, moved(9.1, 10, 0.5)}},
		{"small in large stays", []nodule.Candidate{a, moved(0, 3, 0.5)}, []nodule.Candidate{a, moved(0, 3, 0.5)}},
		{"not finite goes", []nodule.Candidate{a, {Z: math.NaN(), Diameter: 5, Probability: 1}, {Diameter: math.Inf(1), Probability: 1}, {Diameter: 0, Probability: 1}}, []nodule.Candidate{a}},
		{"dropped ones drop none", []nodule.Candidate{a, moved(8, 10, 0.8), moved(16, 10, 0.7)}, []nodule.Candidate{a, moved(16, 10, 0.7)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := slices.Clone(tt.in)
			if got := nodule.NMS(tt.in, 0.05); !slices.Equal(got, tt.want) {
				t.Errorf("NMS = %v, want %v", got, tt.want)
			}
			for i := range before {
				if before[i] != tt.in[i] && !math.IsNaN(before[i].Z) {
					t.Errorf("NMS changed its input at %d", i)
				}
			}
		})
	}
}

func TestMergeNear(t *testing.T) {
	a := nodule.Candidate{Diameter: 20, Probability: 0.9}
	inside := nodule.Candidate{X: 9, Diameter: 4, Probability: 0.8}
	outside := nodule.Candidate{X: 11, Diameter: 4, Probability: 0.7}
	around := nodule.Candidate{X: 14, Diameter: 30, Probability: 0.6} // its ball holds a's centre
	got := nodule.MergeNear([]nodule.Candidate{around, outside, inside, a}, 1)
	if want := []nodule.Candidate{a, outside}; !slices.Equal(got, want) {
		t.Errorf("MergeNear = %v, want %v", got, want)
	}
	if got := nodule.MergeNear([]nodule.Candidate{a, a}, 0); len(got) != 2 {
		t.Errorf("MergeNear with factor 0 = %v, want both", got)
	}
}

func TestTop(t *testing.T) {
	c := make([]nodule.Candidate, 5)
	for n, want := range map[int]int{0: 5, -1: 5, 3: 3, 9: 5} {
		if got := len(nodule.Top(c, n)); got != want {
			t.Errorf("Top(5 candidates, %d) has %d, want %d", n, got, want)
		}
	}
}

// bruteForce is the definition of greedy suppression.
func bruteForce(c []nodule.Candidate, drops func(kept, c nodule.Candidate) bool) []nodule.Candidate {
	sorted := slices.Clone(c)
	nodule.Sort(sorted)
	var kept []nodule.Candidate
	for _, v := range sorted {
		if !slices.ContainsFunc(kept, func(k nodule.Candidate) bool { return drops(k, v) }) {
			kept = append(kept, v)
		}
	}
	return kept
}

// candidates makes n candidates in a cube of that edge; equal probabilities
// are frequent.
func candidates(r *rand.Rand, n int, edge float64) []nodule.Candidate {
	out := make([]nodule.Candidate, n)
	for i := range out {
		out[i] = nodule.Candidate{
			Z: r.Float64()*edge - edge/4, Y: r.Float64()*edge - edge/4, X: r.Float64() * edge,
			Diameter:    math.Exp(r.Float64()*4.5 - 0.5), // 0.6 to 55
			Probability: float64(r.IntN(50)) / 50,
		}
	}
	return out
}

func TestSuppressionEqualsBruteForce(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 11))
	for round := range 60 {
		c := candidates(r, r.IntN(400), []float64{5, 60, 400}[round%3])
		for _, iou := range []float64{0, 0.01, 0.05, 0.3, 0.9} {
			want := bruteForce(c, func(k, v nodule.Candidate) bool { return nodule.IoU(k, v) > iou })
			if got := nodule.NMS(c, iou); !slices.Equal(got, want) {
				t.Fatalf("round %d: NMS at %g keeps %d, brute force %d", round, iou, len(got), len(want))
			}
		}
		for _, factor := range []float64{0.3, 1, 2} {
			want := bruteForce(c, func(k, v nodule.Candidate) bool {
				return nodule.Distance(k, v) < factor*max(k.Diameter, v.Diameter)/2
			})
			if got := nodule.MergeNear(c, factor); !slices.Equal(got, want) {
				t.Fatalf("round %d: MergeNear at %g keeps %d, brute force %d", round, factor, len(got), len(want))
			}
		}
	}
}

// TestSuppressionIsFast fails when the work grows with the square of the candidates:
// four times as many that keep each other would take sixteen times as long. The
// shortest of some runs is compared, so that a busy machine fails nothing.
func TestSuppressionIsFast(t *testing.T) {
	shortest := func(n int, side float64) time.Duration {
		c := candidates(rand.New(rand.NewPCG(1, 2)), n, side)
		for i := range c {
			c[i].Diameter = 3
		}
		best := time.Duration(math.MaxInt64)
		for range 5 {
			start := time.Now()
			kept := nodule.MergeNear(nodule.NMS(c, 0.05), 1)
			best = min(best, time.Since(start))
			if len(kept) < n*9/10 {
				t.Fatalf("of %d candidates that keep each other %d are left", n, len(kept))
			}
		}
		return best
	}
	few, many := shortest(10_000, 1000), shortest(40_000, 1600) // as dense
	if many > 10*few {
		t.Errorf("10,000 candidates took %v, 40,000 %v: want some 4 times, not 16 times as long", few, many)
	}
}

func BenchmarkNMS(b *testing.B) {
	c := candidates(rand.New(rand.NewPCG(1, 2)), 100_000, 300)
	for b.Loop() {
		nodule.NMS(c, 0.05)
	}
}
