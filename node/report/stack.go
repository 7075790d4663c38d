package report

import (
	"cmp"
	"errors"
	"math"
	"slices"
)

// Stack are parallel images of one size: the grid on which segmentations are drawn and
// in whose pixels graphics are placed.
type Stack struct {
	Columns, Rows int
	Spacing       [2]float64    // mm between columns, between rows
	Axes          [3][3]float64 // unit vectors in LPS: along a row, down a column, from slice to slice
	Slices        []Slice       // along Axes[2], no two in one place
}

// Slice is one image of a stack.
type Slice struct {
	Image
	Position [3]float64 // centre of its first pixel, LPS mm
}

// Plane says where one image lies, as its header has it (PS3.3 C.7.6.2).
type Plane struct {
	Image
	Columns, Rows int
	Position      []float64 // Image Position (Patient)
	Orientation   []float64 // Image Orientation (Patient)
	Spacing       []float64 // Pixel Spacing: between rows, between columns
}

// What headers of one series may differ by: rounding.
const (
	sameDirection = 1e-3
	sameMM        = 1e-3
	maxSide       = 1 << 14 // pixels; larger is no CT
)

// NewStack returns the stack of these images, or an error that says why they are none.
func NewStack(planes []Plane) (*Stack, error) {
	if len(planes) == 0 {
		return nil, errors.New("there is no image")
	}
	var s *Stack
	for _, p := range planes {
		one, err := p.stack()
		if err != nil {
			return nil, err
		}
		if s == nil {
			s = one
		} else if !s.same(one) {
			return nil, errors.New("the images differ in size, pixel spacing or orientation")
		} else {
			s.Slices = append(s.Slices, one.Slices...)
		}
	}
	along := func(slice Slice) float64 { return dot(slice.Position, s.Axes[2]) }
	slices.SortStableFunc(s.Slices, func(a, b Slice) int { return cmp.Compare(along(a), along(b)) })
	s.Slices = slices.CompactFunc(s.Slices, func(a, b Slice) bool { return math.Abs(along(b)-along(a)) < sameMM })
	return s, nil
}

func (p Plane) stack() (*Stack, error) {
	if len(p.Position) != 3 || len(p.Orientation) != 6 || len(p.Spacing) != 2 {
		return nil, errors.New("an image does not say where it lies")
	}
	for _, v := range slices.Concat(p.Position, p.Orientation, p.Spacing) {
		if math.IsNaN(v) || math.Abs(v) > 1e6 {
			return nil, errors.New("an image lies nowhere")
		}
	}
	if p.Columns < 1 || p.Rows < 1 || p.Columns > maxSide || p.Rows > maxSide || p.Spacing[0] < sameMM || p.Spacing[1] < sameMM {
		return nil, errors.New("an image has no size")
	}
	x, y := [3]float64(p.Orientation[:3]), [3]float64(p.Orientation[3:])
	if math.Abs(dot(x, x)-1) > 2*sameDirection || math.Abs(dot(y, y)-1) > 2*sameDirection || math.Abs(dot(x, y)) > sameDirection {
		return nil, errors.New("the axes of an image are not at a right angle")
	}
	z := [3]float64{x[1]*y[2] - x[2]*y[1], x[2]*y[0] - x[0]*y[2], x[0]*y[1] - x[1]*y[0]}
	return &Stack{
		Columns: p.Columns, Rows: p.Rows,
		Spacing: [2]float64{p.Spacing[1], p.Spacing[0]},
		Axes:    [3][3]float64{x, y, z},
		Slices:  []Slice{{p.Image, [3]float64(p.Position)}},
	}, nil
}

func (s *Stack) same(o *Stack) bool {
	if s.Columns != o.Columns || s.Rows != o.Rows ||
		math.Abs(s.Spacing[0]-o.Spacing[0]) > sameMM || math.Abs(s.Spacing[1]-o.Spacing[1]) > sameMM {
		return false
	}
	for a := range 2 {
		for n := range 3 {
			if math.Abs(s.Axes[a][n]-o.Axes[a][n]) > sameDirection {
				return false
			}
		}
	}
	return true
}

// pixel returns where a point lies in an image, in pixels from the centre of its first,
// and how far from its plane, in mm.
func (s *Stack) pixel(slice Slice, p [3]float64) (column, row, distance float64) {
	d := [3]float64{p[0] - slice.Position[0], p[1] - slice.Position[1], p[2] - slice.Position[2]}
	return dot(d, s.Axes[0]) / s.Spacing[0], dot(d, s.Axes[1]) / s.Spacing[1], dot(d, s.Axes[2])
}

// point is the reverse: the place of a pixel in the patient.
func (s *Stack) point(slice Slice, column, row float64) [3]float64 {
	p := slice.Position
	for n := range p {
		p[n] += column*s.Spacing[0]*s.Axes[0][n] + row*s.Spacing[1]*s.Axes[1][n]
	}
	return p
}

// between is the usual distance of neighbouring slices in mm, 0 for a single one.
func (s *Stack) between() float64 {
	var all []float64
	for i := 1; i < len(s.Slices); i++ {
		all = append(all, dot(s.Slices[i].Position, s.Axes[2])-dot(s.Slices[i-1].Position, s.Axes[2]))
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}

func dot(a, b [3]float64) float64 { return a[0]*b[0] + a[1]*b[1] + a[2]*b[2] }
