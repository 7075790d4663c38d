package nodule

import (
	"errors"
	"fmt"
	"math"
)

// Channels is the length of the last axis of a model's output: logit, dz, dy,
// dx, log(d/anchor).
const Channels = 5

// ErrNotFinite is returned when a model's output holds NaN or infinity where a
// number is needed. The model or its runtime is broken; a retry does not help.
var ErrNotFinite = errors.New("the model's output is not a finite number")

// Layout says how a model's output maps to voxels.
type Layout struct {
	Anchors []float64 // diameters in voxels, one for each entry of the axis A
	Stride  int       // voxels between neighbouring cells
}

// OutputLen returns how many numbers the model gives for a patch of that many
// voxels (each a multiple of the stride).
func (l Layout) OutputLen(patch [3]int) int {
	n := len(l.Anchors) * Channels
	for _, p := range patch {
		n *= p / l.Stride
	}
	return n
}

// Limits bound what Decode accepts as a candidate.
type Limits struct {
	Threshold   float64 // lowest probability that is kept
	MaxDiameter float64 // voxels; larger ones are cut to it, so that one wild box cannot swallow the rest
}

// Decode returns the candidates of one patch of [z,y,x] voxels with a
// probability of at least the threshold, in patch coordinates and in the order
// of the cells. It returns ErrNotFinite when a logit is NaN, or when a
// candidate that is kept has an offset or a diameter that is not finite.
func Decode(output []float32, patch [3]int, l Layout, lim Limits) ([]Candidate, error) {
	if l.Stride < 1 || len(l.Anchors) == 0 {
		return nil, fmt.Errorf("layout with stride %d and %d anchors", l.Stride, len(l.Anchors))
	}
	for _, p := range patch {
		if p < l.Stride || p%l.Stride != 0 {
			return nil, fmt.Errorf("patch %v is not a multiple of the stride %d", patch, l.Stride)
		}
	}
	if want := l.OutputLen(patch); len(output) != want {
		return nil, fmt.Errorf("the model gave %d numbers, a patch of %v needs %d", len(output), patch, want)
	}
	// Comparing logits spares an exponential for each of a million anchors.
	least := Logit(lim.Threshold)
	centre := float64(l.Stride-1) / 2
	var out []Candidate
	i := 0
	for z := range patch[0] / l.Stride {
		for y := range patch[1] / l.Stride {
			for x := range patch[2] / l.Stride {
				for _, anchor := range l.Anchors {
					v := output[i : i+Channels]
					i += Channels
					if p := float64(v[0]); p < least {
						continue
					} else if math.IsNaN(p) {
						return nil, fmt.Errorf("logit at cell %d,%d,%d: %w", z, y, x, ErrNotFinite)
					}
					c := Candidate{
						Z:           float64(z*l.Stride) + centre + float64(v[1])*anchor,
						Y:           float64(y*l.Stride) + centre + float64(v[2])*anchor,
						X:           float64(x*l.Stride) + centre + float64(v[3])*anchor,
						Diameter:    anchor * math.Exp(float64(v[4])),
						Probability: sigmoid(float64(v[0])),
					}
					if !c.finite() {
						return nil, fmt.Errorf("candidate at cell %d,%d,%d: %w", z, y, x, ErrNotFinite)
					}
					if lim.MaxDiameter > 0 {
						c.Diameter = min(c.Diameter, lim.MaxDiameter)
					}
					out = append(out, c)
				}
			}
		}
	}
	return out, nil
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// Logit is the inverse of sigmoid: -Inf at 0, +Inf at 1.
func Logit(p float64) float64 { return math.Log(p / (1 - p)) }
