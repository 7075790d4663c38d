package ct

import (
	"fmt"
	"math"
)

// maxCutSize bounds a cube of Cut, samples along an edge.
const maxCutSize = 512

// Cut samples a cube of size³ points around a place in the patient (LPS, mm):
// sample i of an axis lies (i - (size-1)/2)·spacing mm from it. The axes run
// along the patient as those of Prepare do, x to the left, y to the back, z to
// the head, and x is fastest. Between voxel centres values are interpolated
// linearly; what lies outside them is pad.
func (v *Volume) Cut(centre [3]float64, spacing float64, size int, pad float32) ([]float32, error) {
	if err := v.check(); err != nil {
		return nil, err
	}
	if size < 1 || size > maxCutSize || !(spacing > 0 && spacing <= maxSpacing) {
		return nil, fmt.Errorf("a cube of %d samples in steps of %g mm cannot be cut", size, spacing)
	}
	order, flip := canonicalOrder(v.Geometry)
	axes := v.reordered(order, flip).Axes
	// Steps of the cube's axes and its first sample, in voxels.
	var step [3][3]float64
	first := centre
	for a := range axes {
		for n := range 3 {
			first[n] -= float64(size-1) / 2 * spacing * axes[a][n]
			step[n][a] = dot(v.Axes[n], axes[a]) * spacing / v.Spacing[n]
		}
	}
	var start [3]float64
	start[0], start[1], start[2] = v.Voxel(first)
	out := make([]float32, size*size*size)
	for i := range out {
		x, y, z := float64(i%size), float64(i/size%size), float64(i/size/size)
		var at [3]float64
		for n := range at {
			at[n] = start[n] + x*step[n][0] + y*step[n][1] + z*step[n][2]
		}
		if hu, ok := v.at(at); ok {
			out[i] = hu
		} else {
			out[i] = pad
		}
	}
	return out, nil
}

// at interpolates the volume at a fractional voxel; false outside its voxel
// centres.
func (v *Volume) at(p [3]float64) (float32, bool) {
	const slack = 1e-6 // of a voxel: a rounded sum on the border is inside
	var lo [3]int
	var w [3]float32
	for a, f := range p {
		last := float64(v.Size[a] - 1)
		if !(f >= -slack && f <= last+slack) {
			return 0, false
		}
		f = min(max(f, 0), last)
		lo[a] = min(int(math.Floor(f)), max(v.Size[a]-2, 0))
		w[a] = float32(f - float64(lo[a]))
	}
	// A volume may have one slice: its neighbour is itself.
	var next [3]int
	for a, stride := range [3]int{1, v.Size[0], v.Size[0] * v.Size[1]} {
		if v.Size[a] > 1 {
			next[a] = stride
		}
	}
	i := v.Index(lo[0], lo[1], lo[2])
	row := func(i int) float32 {
		a, b := float32(v.HU[i]), float32(v.HU[i+next[0]])
		return a + w[0]*(b-a)
	}
	plane := func(i int) float32 {
		a, b := row(i), row(i+next[1])
		return a + w[1]*(b-a)
	}
	a, b := plane(i), plane(i+next[2])
	return a + w[2]*(b-a), true
}
