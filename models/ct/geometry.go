package ct

import (
	"fmt"
	"math"
)

// Geometry maps voxel indices to DICOM patient coordinates (LPS: x to the
// patient's left, y to the back, z to the head, in mm). Index i runs along the
// columns of an image (x), j along its rows (y), k along the slices. World
// positions are those of voxel centres, so voxel (0,0,0) has its centre at
// Origin and reaches half a spacing to each side of it.
type Geometry struct {
	Size    [3]int        // voxels along i, j, k
	Spacing [3]float64    // mm between neighbouring voxel centres along i, j, k
	Origin  [3]float64    // centre of voxel (0,0,0), LPS mm
	Axes    [3][3]float64 // Axes[a] is the unit vector of index axis a in LPS; a rotation (right-handed)
}

// orthonormalTolerance is how far the direction cosines of a file may be from
// orthonormal. Six decimals are usual; a few devices write four.
const orthonormalTolerance = 1e-3

// World returns the patient coordinates of the (fractional) voxel index.
func (g Geometry) World(i, j, k float64) [3]float64 {
	a, b, c := i*g.Spacing[0], j*g.Spacing[1], k*g.Spacing[2]
	var p [3]float64
	for n := range p {
		p[n] = g.Origin[n] + a*g.Axes[0][n] + b*g.Axes[1][n] + c*g.Axes[2][n]
	}
	return p
}

// Voxel returns the (fractional) voxel index of a point in patient
// coordinates. It may lie outside the volume.
func (g Geometry) Voxel(p [3]float64) (i, j, k float64) {
	d := sub(p, g.Origin)
	return dot(d, g.Axes[0]) / g.Spacing[0], dot(d, g.Axes[1]) / g.Spacing[1], dot(d, g.Axes[2]) / g.Spacing[2]
}

// Index returns the place of voxel (i,j,k) in a slice of voxels: x fastest,
// then y, then z. The caller keeps the indices inside Size.
func (g Geometry) Index(i, j, k int) int {
	return (k*g.Size[1]+j)*g.Size[0] + i
}

// Voxels returns the number of voxels.
func (g Geometry) Voxels() int {
	return g.Size[0] * g.Size[1] * g.Size[2]
}

// Validate tells whether g can be computed with: every size at least 1 and
// together at most MaxVoxels, spacings and origin finite, axes a rotation.
func (g Geometry) Validate() error {
	voxels := int64(1)
	for a, n := range g.Size {
		if n < 1 || int64(n) > MaxVoxels {
			return fmt.Errorf("the size of the volume along axis %d is %d", a, n)
		}
		// voxels and n are both at most MaxVoxels, so 64 bits hold the product.
		if voxels *= int64(n); voxels > MaxVoxels {
			return fmt.Errorf("the volume has more than %d voxels", int64(MaxVoxels))
		}
	}
	for a, s := range g.Spacing {
		if !(s > 0) || s > maxSpacing {
			return fmt.Errorf("the voxel spacing along axis %d is %g mm", a, s)
		}
	}
	for a, o := range g.Origin {
		if math.IsNaN(o) || math.Abs(o) > maxCoordinate {
			return fmt.Errorf("coordinate %d of the first voxel is %g mm", a, o)
		}
	}
	if !orthonormal(g.Axes[0], g.Axes[1]) || distance(g.Axes[2], cross(g.Axes[0], g.Axes[1])) > orthonormalTolerance {
		return fmt.Errorf("the axes of the volume are not a rotation")
	}
	return nil
}

// maxSpacing and maxCoordinate are far beyond every scanner (mm): values over
// them are damage, not geometry.
const (
	maxSpacing    = 1e4
	maxCoordinate = 1e7
)

// orthonormal tells whether a and b are unit vectors at a right angle. It is
// false for anything not finite.
func orthonormal(a, b [3]float64) bool {
	return math.Abs(dot(a, a)-1) <= 2*orthonormalTolerance &&
		math.Abs(dot(b, b)-1) <= 2*orthonormalTolerance &&
		math.Abs(dot(a, b)) <= orthonormalTolerance
}

// rotation makes exact right-handed axes of two nearly orthonormal vectors, so
// that World and Voxel are inverse to each other to rounding.
func rotation(x, y [3]float64) [3][3]float64 {
	x = unit(x)
	z := unit(cross(x, y))
	return [3][3]float64{x, cross(z, x), z}
}

func dot(a, b [3]float64) float64 { return a[0]*b[0] + a[1]*b[1] + a[2]*b[2] }

func sub(a, b [3]float64) [3]float64 { return [3]float64{a[0] - b[0], a[1] - b[1], a[2] - b[2]} }

func distance(a, b [3]float64) float64 { d := sub(a, b); return math.Sqrt(dot(d, d)) }

func cross(a, b [3]float64) [3]float64 {
	return [3]float64{a[1]*b[2] - a[2]*b[1], a[2]*b[0] - a[0]*b[2], a[0]*b[1] - a[1]*b[0]}
}

func unit(a [3]float64) [3]float64 {
	n := math.Sqrt(dot(a, a))
	return [3]float64{a[0] / n, a[1] / n, a[2] / n}
}
