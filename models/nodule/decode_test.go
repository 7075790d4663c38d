package nodule_test

import (
	"errors"
	"math"
	"math/rand/v2"
	"testing"

	"hilum/models/nodule"
)

var layout = nodule.Layout{Anchors: []float64{10, 30, 60}, Stride: 4}

// output returns what a model gives for a patch when it finds nothing.
func output(patch [3]int, l nodule.Layout) []float32 {
	out := make([]float32, l.OutputLen(patch))
	for i := range out {
		if i%nodule.Channels == 0 {
			out[i] = -20
		}
	}
	return out
}

// at returns the five numbers of an anchor of a cell.
func at(out []float32, patch [3]int, l nodule.Layout, z, y, x, a int) []float32 {
	i := ((z*(patch[1]/l.Stride)+y)*(patch[2]/l.Stride)+x)*len(l.Anchors) + a
	return out[i*nodule.Channels:][:nodule.Channels]
}

func TestDecode(t *testing.T) {
	patch := [3]int{16, 8, 12}
	tests := []struct {
		name       string
		z, y, x, a int
		values     []float32
		want       nodule.Candidate
	}{
		// N-NET's convention: the first anchor of a stride of 4 stands at 1.5.
		{"first cell", 0, 0, 0, 0, []float32{0, 0, 0, 0, 0}, nodule.Candidate{Z: 1.5, Y: 1.5, X: 1.5, Diameter: 10, Probability: 0.5}},
		{"last cell", 3, 1, 2, 2, []float32{2, 0, 0, 0, 0}, nodule.Candidate{Z: 13.5, Y: 5.5, X: 9.5, Diameter: 60, Probability: 0.8807970779778823}},
		{"offsets in anchors", 1, 1, 1, 1, []float32{0, 0.5, -0.25, 0.1, float32(math.Ln2)},
			nodule.Candidate{Z: 5.5 + 15, Y: 5.5 - 7.5, X: 5.5 + 3, Diameter: 60, Probability: 0.5}},
		{"certain", 1, 0, 2, 0, []float32{float32(math.Inf(1)), 0, 0, 0, 0}, nodule.Candidate{Z: 5.5, Y: 1.5, X: 9.5, Diameter: 10, Probability: 1}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := output(patch, layout)
			copy(at(out, patch, layout, tt.z, tt.y, tt.x, tt.a), tt.values)
			got, err := nodule.Decode(out, patch, layout, nodule.Limits{Threshold: 0.05})
			if err != nil || len(got) != 1 {
				t.Fatalf("Decode = %v, %v, want one candidate", got, err)
			}
			if !near(got[0], tt.want) {
				t.Errorf("Decode = %+v, want %+v", got[0], tt.want)
			}
		})
	}
}

func near(a, b nodule.Candidate) bool {
	const tolerance = 1e-5 // float32 in
	return math.Abs(a.Z-b.Z) < tolerance && math.Abs(a.Y-b.Y) < tolerance && math.Abs(a.X-b.X) < tolerance &&
		math.Abs(a.Diameter-b.Diameter) < tolerance && math.Abs(a.Probability-b.Probability) < tolerance
}

func TestDecodeThresholdAndLimit(t *testing.T) {
	patch := [3]int{8, 8, 8}
	out := output(patch, layout)
	at(out, patch, layout, 0, 0, 0, 0)[0] = -0.01
	copy(at(out, patch, layout, 1, 1, 1, 2), []float32{0.01, 0, 0, 0, 5})
	got, err := nodule.Decode(out, patch, layout, nodule.Limits{Threshold: 0.5, MaxDiameter: 150})
	if err != nil || len(got) != 1 || got[0].Diameter != 150 {
		t.Errorf("Decode = %+v, %v, want the one candidate above 0.5, cut to 150 voxels", got, err)
	}
}

func TestDecodeRefuses(t *testing.T) {
	patch := [3]int{8, 8, 8}
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	tests := []struct {
		name   string
		values []float32
	}{
		{"logit NaN", []float32{nan, 0, 0, 0, 0}},
		{"dz NaN", []float32{1, nan, 0, 0, 0}},
		{"dy infinite", []float32{1, 0, inf, 0, 0}},
		{"dx infinite", []float32{1, 0, 0, -inf, 0}},
		{"diameter NaN", []float32{1, 0, 0, 0, nan}},
		{"diameter infinite", []float32{1, 0, 0, 0, 1000}},
		{"diameter zero", []float32{1, 0, 0, 0, -inf}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			out := output(patch, layout)
			copy(at(out, patch, layout, 1, 0, 1, 1), tt.values)
			if got, err := nodule.Decode(out, patch, layout, nodule.Limits{Threshold: 0.5}); !errors.Is(err, nodule.ErrNotFinite) {
				t.Errorf("Decode = %v, %v, want ErrNotFinite", got, err)
			}
		})
	}
	for _, bad := range []struct {
		name  string
		out   []float32
		patch [3]int
		l     nodule.Layout
	}{
		{"too short", make([]float32, 7), patch, layout},
		{"patch not in strides", nil, [3]int{8, 8, 9}, layout},
		{"empty patch", nil, [3]int{0, 8, 8}, layout},
		{"no anchors", nil, patch, nodule.Layout{Stride: 4}},
		{"no stride", nil, patch, nodule.Layout{Anchors: []float64{1}}},
	} {
		if got, err := nodule.Decode(bad.out, bad.patch, bad.l, nodule.Limits{Threshold: 0.5}); err == nil {
			t.Errorf("%s: Decode = %v, nil, want an error", bad.name, got)
		}
	}
}

// FuzzDecode holds Decode to: an error or finite candidates, never a panic.
func FuzzDecode(f *testing.F) {
	f.Add(uint64(1), float32(0), float32(0), float32(0))
	f.Add(uint64(2), float32(math.NaN()), float32(math.Inf(1)), float32(90))
	f.Add(uint64(3), float32(3e38), float32(-3e38), float32(-200))
	patch := [3]int{8, 4, 4}
	f.Fuzz(func(t *testing.T, seed uint64, logit, offset, size float32) {
		r := rand.New(rand.NewPCG(seed, 0))
		out := output(patch, layout)
		for range 3 {
			copy(out[r.IntN(len(out)/nodule.Channels)*nodule.Channels:], []float32{logit, offset, -offset, offset, size})
		}
		got, err := nodule.Decode(out, patch, layout, nodule.Limits{Threshold: 0.1})
		if err != nil && got != nil {
			t.Errorf("Decode = %v and %v, want one of the two", got, err)
		}
		for _, c := range nodule.NMS(got, 0.05) {
			if !(c.Probability >= 0.1 && c.Probability <= 1) || !(c.Diameter > 0) || math.IsInf(c.Diameter, 0) || math.IsNaN(c.Z+c.Y+c.X) {
				t.Errorf("candidate %+v", c)
			}
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	patch := [3]int{128, 128, 128}
	out := output(patch, layout)
	for b.Loop() {
		if _, err := nodule.Decode(out, patch, layout, nodule.Limits{Threshold: 0.05}); err != nil {
			b.Fatal(err)
		}
	}
}
