package froc_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"hilum/trainer/froc"
	"hilum/trainer/luna"
)

func nodule(scan string, x, diameter float64) luna.Nodule {
	return luna.Nodule{SeriesUID: scan, Center: [3]float64{x, 0, 0}, Diameter: diameter}
}

func mark(scan string, x, p float64) luna.Mark {
	return luna.Mark{SeriesUID: scan, Center: [3]float64{x, 0, 0}, Probability: p}
}

func all(s float64) [7]float64 { return [7]float64{s, s, s, s, s, s, s} }

// far is a place without a finding.
const far = 500

// TestEvaluate: cases small enough to reckon by hand.
func TestEvaluate(t *testing.T) {
	two := []luna.Nodule{nodule("a", 0, 10), nodule("b", 0, 10)}
	for _, tt := range []struct {
		name                   string
		in                     froc.Input
		want                   [7]float64
		tp, fn, fp, ignored, x int // x: double hits
	}{
		{"perfect", froc.Input{
			Scans: []string{"a", "b"}, Nodules: two,
			Marks: []luna.Mark{mark("a", 0, 1), mark("b", 1, 1)},
		}, all(1), 2, 0, 0, 0, 0},
		{"one nodule, one scan, perfect", froc.Input{
			Scans: []string{"a"}, Nodules: two[:1],
			Marks: []luna.Mark{mark("a", 0, 0.1)},
		}, all(1), 1, 0, 0, 0, 0},
		{"empty", froc.Input{Scans: []string{"a", "b"}, Nodules: two}, all(0), 0, 2, 0, 0, 0},
		{"false positives only", froc.Input{
			Scans: []string{"a", "b"}, Nodules: two, Marks: []luna.Mark{mark("a", far, 1)},
		}, all(0), 0, 2, 1, 0, 0},
		// One mark true and one false with one score: a straight line from (0,0)
		// to (1/2 per scan, 1/2).
		{"tied scores", froc.Input{
			Scans: []string{"a", "b"}, Nodules: two,
			Marks: []luna.Mark{mark("a", 0, 0.5), mark("b", far, 0.5)},
		}, [7]float64{0.125, 0.25, 0.5, 0.5, 0.5, 0.5, 0.5}, 1, 1, 1, 0, 0},
		// (0,0) → (1/2,0) → (1/2,1): at 1/2 the upper end counts.
		{"points above each other", froc.Input{
			Scans: []string{"a", "b"}, Nodules: two,
			Marks: []luna.Mark{mark("a", far, 0.9), mark("a", 0, 0.5), mark("b", 0, 0.4)},
		}, [7]float64{0, 0, 1, 1, 1, 1, 1}, 2, 0, 1, 0, 0},
		// The double hit is no false positive, and its lower score does not count.
		{"double hit", froc.Input{
			Scans: []string{"a", "b"}, Nodules: two,
			Marks: []luna.Mark{mark("a", 1, 0.2), mark("a", 0, 0.9), mark("a", far, 0.5), mark("b", 0, 0.9)},
		}, all(1), 2, 0, 1, 0, 1},
		{"one mark on two nodules", froc.Input{
			Scans: []string{"a"}, Nodules: []luna.Nodule{nodule("a", 0, 10), nodule("a", 3, 10)},
			Marks: []luna.Mark{mark("a", 1, 0.2)},
		}, all(1), 2, 0, 0, 0, 0},
		{"excluded finding", froc.Input{
			Scans: []string{"a", "b"}, Nodules: two,
			Excluded: []luna.Nodule{nodule("a", 100, 6), nodule("b", 100, 6)},
			Marks:    []luna.Mark{mark("a", 102.9, 0.9), mark("b", 103, 0.8), mark("a", 0, 0.7)},
		}, [7]float64{0, 0, 0.5, 0.5, 0.5, 0.5, 0.5}, 1, 1, 1, 1, 0},
		{"excluded finding without a diameter", froc.Input{
			Scans: []string{"a"}, Nodules: two[:1],
			Excluded: []luna.Nodule{nodule("a", 100, -1)},
			Marks:    []luna.Mark{mark("a", 104.99, 0.9), mark("a", 105, 0.8)},
		}, all(0), 0, 1, 1, 1, 0},
		{"excluded finding over a nodule", froc.Input{
			Scans: []string{"a"}, Nodules: two[:1],
			Excluded: []luna.Nodule{nodule("a", 0, 40)},
			Marks:    []luna.Mark{mark("a", 0, 0.9), mark("a", 8, 0.8)},
		}, all(1), 1, 0, 0, 1, 0},
		// The false positive lies in a scan without nodules; four scans make it a
		// quarter per scan.
		{"scans without nodules", froc.Input{
			Scans: []string{"a", "b", "c", "d"}, Nodules: two,
			Marks: []luna.Mark{mark("c", 0, 0.9), mark("a", 0, 0.8), mark("b", 0, 0.7)},
		}, [7]float64{0, 1, 1, 1, 1, 1, 1}, 2, 0, 1, 0, 0},
		{"mark inside the border", froc.Input{
			Scans: []string{"a"}, Nodules: two[:1], Marks: []luna.Mark{mark("a", 4.999999, 0.5)},
		}, all(1), 1, 0, 0, 0, 0},
		{"mark exactly at the radius", froc.Input{
			Scans: []string{"a"}, Nodules: two[:1], Marks: []luna.Mark{mark("a", 5, 0.5)},
		}, all(0), 0, 1, 1, 0, 0},
		{"nodule at the origin's other side", froc.Input{
			Scans: []string{"a"}, Nodules: []luna.Nodule{{SeriesUID: "a", Center: [3]float64{-60, -200, -700}, Diameter: 5}},
			Marks: []luna.Mark{{SeriesUID: "a", Center: [3]float64{60, 200, 700}, Probability: 1}, {SeriesUID: "a", Center: [3]float64{-61, -201, -701}, Probability: 0.5}},
		}, [7]float64{0, 0, 0, 1, 1, 1, 1}, 1, 0, 1, 0, 0},
		{"negative scores", froc.Input{
			Scans: []string{"a"}, Nodules: two[:1], Marks: []luna.Mark{mark("a", 0, -3.5), mark("a", far, -4)},
		}, all(1), 1, 0, 1, 0, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := froc.Evaluate(tt.in, froc.Options{Bootstrap: 50})
			if err != nil {
				t.Fatal(err)
			}
			if r.Sensitivity != tt.want {
				t.Errorf("Sensitivity = %v, want %v", r.Sensitivity, tt.want)
			}
			got := [5]int{r.TP, r.FN, r.FP, r.Ignored, r.Doubles}
			if want := [5]int{tt.tp, tt.fn, tt.fp, tt.ignored, tt.x}; got != want {
				t.Errorf("TP, FN, FP, ignored, doubles = %v, want %v", got, want)
			}
			if r.CPMLow > r.CPM || r.CPM > r.CPMHigh {
				t.Errorf("CPM %v is outside its interval %v … %v", r.CPM, r.CPMLow, r.CPMHigh)
			}
			if n := len(r.Misses()); n != tt.fn {
				t.Errorf("%d misses, want %d", n, tt.fn)
			}
			if len(r.FalsePositives) != tt.fp {
				t.Errorf("%d false positives listed, want %d", len(r.FalsePositives), tt.fp)
			}
		})
	}
}

// TestMarkLimit: the most probable marks enter the curve; what is as probable
// as the first mark beyond the limit falls away with it. All are counted.
func TestMarkLimit(t *testing.T) {
	in := froc.Input{Scans: []string{"a"}, Nodules: []luna.Nodule{nodule("a", 0, 10), nodule("a", 50, 10)}}
	for i := range 99 {
		in.Marks = append(in.Marks, mark("a", far+float64(i), 0.9))
	}
	in.Marks = append(in.Marks, mark("a", 0, 0.5))
	type counts struct {
		tp, fp, over int
		last         float64 // sensitivity at the end of the curve
	}
	count := func() counts {
		r, err := froc.Evaluate(in, froc.Options{Bootstrap: -1})
		if err != nil {
			t.Fatal(err)
		}
		return counts{r.TP, r.FP, r.OverLimit, r.Curve[len(r.Curve)-1].Sensitivity}
	}
	if got, want := count(), (counts{1, 99, 0, 0.5}); got != want {
		t.Errorf("100 marks: TP, FP, over limit = %v, want %v", got, want)
	}
	in.Marks = append(in.Marks, mark("a", 50, 0.4))
	if got, want := count(), (counts{2, 99, 1, 0.5}); got != want {
		t.Errorf("101 marks: %v, want %v", got, want)
	}
	in.Marks[100].Probability = 0.5
	if got, want := count(), (counts{2, 99, 2, 0}); got != want {
		t.Errorf("tied at the limit: %v, want %v", got, want)
	}
}

func TestEvaluateRefuses(t *testing.T) {
	one := []luna.Nodule{nodule("a", 0, 10)}
	for _, tt := range []struct {
		name string
		in   froc.Input
		o    froc.Options
		want string
	}{
		{"no scans", froc.Input{Nodules: one}, froc.Options{}, "list of scans is empty"},
		{"scan twice", froc.Input{Scans: []string{"a", "a"}, Nodules: one}, froc.Options{}, "twice"},
		{"no nodules", froc.Input{Scans: []string{"a"}}, froc.Options{}, "no sensitivity"},
		{"nodules elsewhere", froc.Input{Scans: []string{"b"}, Nodules: one}, froc.Options{}, "no sensitivity"},
		{"marks elsewhere", froc.Input{Scans: []string{"a"}, Nodules: one, Marks: []luna.Mark{mark("b", 0, 1)}}, froc.Options{}, "no mark lies in"},
		{"no number", froc.Input{Scans: []string{"a"}, Nodules: one, Marks: []luna.Mark{mark("a", 0, math.NaN())}}, froc.Options{}, "finite"},
		{"no fold", froc.Input{Scans: []string{"a"}, Nodules: one}, froc.Options{Folds: map[string]int{"b": 1}}, "the scan a is in no fold"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := froc.Evaluate(tt.in, tt.o)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Evaluate = %v, want an error with %q", err, tt.want)
			}
		})
	}
}

// TestLeft: rows of other scans take no part and are counted.
func TestLeft(t *testing.T) {
	r, err := froc.Evaluate(froc.Input{
		Scans:    []string{"a"},
		Nodules:  []luna.Nodule{nodule("a", 0, 10), nodule("z", 0, 10)},
		Excluded: []luna.Nodule{nodule("z", 0, 10), nodule("z", 9, 10)},
		Marks:    []luna.Mark{mark("a", 0, 1), mark("z", 0, 1), mark("z", 1, 1), mark("y", 1, 1)},
	}, froc.Options{Bootstrap: -1})
	if err != nil {
		t.Fatal(err)
	}
	if want := (froc.Left{Marks: 3, Nodules: 1, Excluded: 2}); r.Left != want || r.CPM != 1 {
		t.Errorf("Left = %+v, CPM %v, want %+v, 1", r.Left, r.CPM, want)
	}
}

// random is a small data set with ties, doubles and excluded findings.
func random(rng *rand.Rand) froc.Input {
	var in froc.Input
	for i := range 3 + rng.IntN(12) {
		scan := string(rune('a' + i))
		in.Scans = append(in.Scans, scan)
		x := func() float64 { return float64(rng.IntN(60)) }
		for range rng.IntN(3) {
			in.Nodules = append(in.Nodules, nodule(scan, x(), 3+float64(rng.IntN(20))))
		}
		for range rng.IntN(3) {
			in.Excluded = append(in.Excluded, nodule(scan, x(), float64(rng.IntN(12))-2))
		}
		for range rng.IntN(30) {
			in.Marks = append(in.Marks, mark(scan, x(), float64(rng.IntN(25))/25))
		}
	}
	in.Nodules = append(in.Nodules, nodule("a", 30, 8))
	in.Marks = append(in.Marks, mark("a", 90, 0.5))
	return in
}

// TestProperties: against a reference that is as slow and plain as can be; the
// order of rows does not matter; a false positive never helps; a hit never
// harms; the interval holds the value.
func TestProperties(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	for n := range 300 {
		in := random(rng)
		const limit = 20
		o := froc.Options{Bootstrap: 20, Seed: 7, MarkLimit: limit}
		r, err := froc.Evaluate(in, o)
		if err != nil {
			t.Fatal(err)
		}
		if want := reference(in, limit); math.Abs(r.CPM-want) > 1e-12 {
			t.Fatalf("case %d: CPM = %v, the reference has %v", n, r.CPM, want)
		}
		if sum := r.TP + r.Doubles + r.Ignored + r.FP; sum < r.Marks {
			t.Fatalf("case %d: %d marks are accounted for of %d", n, sum, r.Marks)
		}

		mixed := in
		mixed.Scans, mixed.Nodules = shuffled(rng, in.Scans), shuffled(rng, in.Nodules)
		mixed.Excluded, mixed.Marks = shuffled(rng, in.Excluded), shuffled(rng, in.Marks)
		m, err := froc.Evaluate(mixed, froc.Options{Bootstrap: -1, MarkLimit: limit})
		if err != nil {
			t.Fatal(err)
		}
		if m.CPM != r.CPM || m.TP != r.TP || m.FP != r.FP || m.Ignored != r.Ignored || !slices.Equal(m.Curve, r.Curve) {
			t.Fatalf("case %d: the order of rows changed CPM %v to %v", n, r.CPM, m.CPM)
		}

		free := froc.Options{Bootstrap: -1, MarkLimit: 1000}
		base, err := froc.Evaluate(in, free)
		if err != nil {
			t.Fatal(err)
		}
		worse := in
		worse.Marks = append(slices.Clone(in.Marks), mark(in.Scans[rng.IntN(len(in.Scans))], far, float64(rng.IntN(26))/25))
		w, err := froc.Evaluate(worse, free)
		if err != nil {
			t.Fatal(err)
		}
		if w.CPM > base.CPM+1e-12 {
			t.Fatalf("case %d: one false positive more raised CPM from %v to %v", n, base.CPM, w.CPM)
		}
		better := in
		hit := in.Nodules[rng.IntN(len(in.Nodules))]
		better.Marks = append(slices.Clone(in.Marks), mark(hit.SeriesUID, hit.Center[0], 1))
		b, err := froc.Evaluate(better, free)
		if err != nil {
			t.Fatal(err)
		}
		if b.CPM < base.CPM-1e-12 {
			t.Fatalf("case %d: one hit more lowered CPM from %v to %v", n, base.CPM, b.CPM)
		}
	}
}

func shuffled[T any](rng *rand.Rand, in []T) []T {
	out := slices.Clone(in)
	rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	return out
}

// reference reckons CPM from the definition: for every threshold the whole set
// is counted anew.
func reference(in froc.Input, limit int) float64 {
	near := func(n luna.Nodule, m luna.Mark) bool {
		d := n.Diameter
		if d < 0 {
			d = 10
		}
		return n.SeriesUID == m.SeriesUID && math.Abs(n.Center[0]-m.Center[0]) < d/2
	}
	var marks []luna.Mark
	thresholds := map[float64]bool{}
	for _, m := range in.Marks {
		asGood := 0
		for _, o := range in.Marks {
			if o.SeriesUID == m.SeriesUID && o.Probability >= m.Probability {
				asGood++
			}
		}
		if asGood <= limit {
			marks = append(marks, m)
			thresholds[m.Probability] = true
		}
	}
	xs, ys := []float64{0}, []float64{0}
	order := []float64{}
	for p := range thresholds {
		order = append(order, p)
	}
	slices.Sort(order)
	slices.Reverse(order)
	for _, p := range order {
		found, fps := 0, 0
		for _, n := range in.Nodules {
			if slices.ContainsFunc(marks, func(m luna.Mark) bool { return m.Probability >= p && near(n, m) }) {
				found++
			}
		}
		for _, m := range marks {
			on := func(n luna.Nodule) bool { return near(n, m) }
			if m.Probability >= p && !slices.ContainsFunc(in.Nodules, on) && !slices.ContainsFunc(in.Excluded, on) {
				fps++
			}
		}
		xs = append(xs, float64(fps)/float64(len(in.Scans)))
		ys = append(ys, float64(found)/float64(len(in.Nodules)))
	}
	sum := 0.0
	for _, x := range []float64{0.125, 0.25, 0.5, 1, 2, 4, 8} {
		j := 0
		for i := range xs {
			if xs[i] <= x {
				j = i
			}
		}
		y := ys[j]
		if j+1 < len(xs) {
			y += (ys[j+1] - ys[j]) * (x - xs[j]) / (xs[j+1] - xs[j])
		}
		sum += y
	}
	return sum / 7
}

// TestBootstrap: the same seed gives the same interval, another seed nearly
// the same, and a perfect detector has none.
func TestBootstrap(t *testing.T) {
	in := random(rand.New(rand.NewPCG(3, 4)))
	evaluate := func(seed uint64) *froc.Result {
		r, err := froc.Evaluate(in, froc.Options{Seed: seed})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	a, b, c := evaluate(1), evaluate(1), evaluate(2)
	if a.CPMLow != b.CPMLow || a.CPMHigh != b.CPMHigh || !slices.Equal(a.Band, b.Band) {
		t.Error("the same seed gave another interval")
	}
	if a.CPMLow == c.CPMLow && a.CPMHigh == c.CPMHigh {
		t.Error("another seed gave the same interval")
	}
	if a.Samples != froc.DefaultBootstrap || !(a.CPMLow < a.CPM && a.CPM < a.CPMHigh) {
		t.Errorf("%d samples, %v < %v < %v", a.Samples, a.CPMLow, a.CPM, a.CPMHigh)
	}
	if math.Abs(a.CPMLow-c.CPMLow) > 0.05 || math.Abs(a.CPMHigh-c.CPMHigh) > 0.05 {
		t.Errorf("intervals of two seeds: %v … %v and %v … %v", a.CPMLow, a.CPMHigh, c.CPMLow, c.CPMHigh)
	}
	if n := len(a.Band); a.Band[0].FP != 0.125 || a.Band[n-1].FP != 8 || a.Band[n-1].Low != a.SensLow[6] {
		t.Errorf("the band goes from %v to %v", a.Band[0], a.Band[n-1])
	}
}

// TestGroups: a size is measured against all false positives, a fold by itself.
func TestGroups(t *testing.T) {
	in := froc.Input{
		Scans:   []string{"a", "b", "c"},
		Nodules: []luna.Nodule{nodule("a", 0, 5.9), nodule("a", 50, 6), nodule("b", 0, 20)},
		Marks:   []luna.Mark{mark("a", 50, 0.9), mark("b", far, 0.8), mark("b", 0, 0.7)},
	}
	r, err := froc.Evaluate(in, froc.Options{Bootstrap: -1, Folds: map[string]int{"a": 0, "b": 3, "c": 7}})
	if err != nil {
		t.Fatal(err)
	}
	type row struct {
		name           string
		nodules, found int
		at1            float64
	}
	rows := func(groups []froc.Group) (out []row) {
		for _, g := range groups {
			s := g.Sensitivity[3]
			if math.IsNaN(s) {
				s = -1
			}
			out = append(out, row{g.Name, g.Nodules, g.Found, s})
		}
		return out
	}
	sizes := []row{{"under 4 mm", 0, 0, -1}, {"4 to 6 mm", 1, 0, 0}, {"6 to 8 mm", 1, 1, 1}, {"8 to 15 mm", 0, 0, -1}, {"15 mm and more", 1, 1, 1}}
	if got := rows(r.BySize); !slices.Equal(got, sizes) {
		t.Errorf("BySize = %v, want %v", got, sizes)
	}
	if s := r.BySize[4].Sensitivity[0]; s != 0 {
		t.Errorf("the large nodule at 1/8 = %v, want 0: the false positive comes before it", s)
	}
	folds := []row{{"0", 2, 1, 0.5}, {"3", 1, 1, 1}, {"7", 0, 0, -1}}
	if got := rows(r.ByFold); !slices.Equal(got, folds) {
		t.Errorf("ByFold = %v, want %v", got, folds)
	}
}

// TestMisses: nodules never hit come first, then those found too late.
func TestMisses(t *testing.T) {
	in := froc.Input{
		Scans:   []string{"a"},
		Nodules: []luna.Nodule{nodule("a", 0, 5), nodule("a", 50, 6), nodule("a", 100, 20), nodule("a", 150, 9)},
		Marks:   []luna.Mark{mark("a", 0, 0.9), mark("a", 50, 0.1), mark("a", 150-7, 0.8)},
	}
	for i := range 8 {
		in.Marks = append(in.Marks, mark("a", far+float64(i), 0.5))
	}
	r, err := froc.Evaluate(in, froc.Options{Bootstrap: -1})
	if err != nil {
		t.Fatal(err)
	}
	misses := r.Misses()
	if len(misses) != 3 || misses[0].Diameter != 20 || misses[1].Diameter != 9 || misses[2].Diameter != 6 {
		t.Fatalf("Misses = %+v", misses)
	}
	if misses[1].Nearest != 7 || misses[1].Found || !misses[2].Found || misses[2].Rate != 9 {
		t.Errorf("Misses = %+v", misses)
	}
	if f := r.FalsePositives[0]; f.Probability != 0.8 || f.Nearest != 7 || f.Rate != 1 {
		t.Errorf("worst false positive = %+v", f)
	}
}
