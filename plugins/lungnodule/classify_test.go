package main

import (
	"errors"
	"math"
	"testing"

	"hilum/models/nodule"
	"hilum/plugins/api"
)

func TestLeakyNoisyOr(t *testing.T) {
	judged := func(ps ...float64) (out []api.Finding) {
		for _, p := range ps {
			out = append(out, api.Finding{Malignancy: &p})
		}
		return out
	}
	for _, tt := range []struct {
		found []api.Finding
		leak  float64
		want  float64
	}{
		{nil, 0, 0},
		{nil, 0.25, 0.25},
		{judged(0.5), 0, 0.5},
		{judged(0.5, 0.5), 0, 0.75},
		{judged(0.5, 0.5), 0.5, 0.875},
		{judged(1, 0.3), 0.1, 1},
	} {
		if got := leakyNoisyOr(tt.found, tt.leak); math.Abs(got-tt.want) > 1e-12 {
			t.Errorf("leakyNoisyOr(%d findings, leak %g) = %g, want %g", len(tt.found), tt.leak, got, tt.want)
		}
	}
}

func TestProbability(t *testing.T) {
	for v, want := range map[float32]float64{0: 0, 0.25: 0.25, 1: 1, 1.0000001: 1, -1e-7: 0} {
		if got, err := probability(v); err != nil || got != want {
			t.Errorf("probability(%g) = %g, %v, want %g", v, got, err, want)
		}
	}
	for _, v := range []float32{1.5, -0.5, float32(math.Inf(1))} {
		if got, err := probability(v); err == nil {
			t.Errorf("probability(%g) = %g, want an error", v, got)
		}
	}
	if _, err := probability(float32(math.NaN())); !errors.Is(err, nodule.ErrNotFinite) {
		t.Errorf("probability(NaN): %v, want ErrNotFinite", err)
	}
}
