package ct

import (
	"fmt"
	"math"
)

// ResampleTo returns the volume on a grid with the given spacing in mm and the
// same axes, interpolated linearly between voxel centres. Voxel (0,0,0) stays
// where it is, and the grid ends at the last point that the old voxel centres
// enclose, so nothing is invented beyond them. Thin slices made thicker are
// sampled, not averaged.
func ResampleTo(v *Volume, spacing [3]float64, threads int) (*Volume, error) {
	g, err := v.resampled(spacing)
	if err != nil {
		return nil, err
	}
	out := &Volume{
		Geometry:            g,
		HU:                  make([]int16, g.Voxels()),
		SeriesInstanceUID:   v.SeriesInstanceUID,
		FrameOfReferenceUID: v.FrameOfReferenceUID,
		SOPClassUID:         v.SOPClassUID,
		Notes:               append([]string(nil), v.Notes...),
	}
	s := scan{Geometry: v.Geometry, hu: v.HU}
	box := [3]span{{0, g.Size[0]}, {0, g.Size[1]}, {0, g.Size[2]}}
	limits := [2]int16{math.MinInt16, math.MaxInt16}
	s.resampleRows(g, box, limits, threads, func(j, k int, row []float32) {
		dst := out.HU[g.Index(0, j, k):][:len(row)]
		for i, f := range row {
			// Adding 32768 makes the value positive, so that dropping the
			// fraction rounds to the nearest.
			dst[i] = int16(int32(f+(32768+0.5)) - 32768)
		}
	})
	return out, nil
}

// ResampleTo returns the mask on a grid with the given spacing and the same
// axes; every voxel takes the value of the nearest old one.
func (m *Mask) ResampleTo(spacing [3]float64, threads int) (*Mask, error) {
	g, err := m.resampled(spacing)
	if err != nil {
		return nil, err
	}
	out := &Mask{Geometry: g, Bits: make([]uint8, g.Voxels())}
	var nearest [3][]int
	for a := range nearest {
		nearest[a] = make([]int, g.Size[a])
		for n := range nearest[a] {
			at := math.Floor(float64(n)*spacing[a]/m.Spacing[a] + 0.5)
			nearest[a][n] = min(int(at), m.Size[a]-1)
		}
	}
	parallel(g.Size[2], threads, func(lo, hi int) {
		for k := lo; k < hi; k++ {
			for j := range g.Size[1] {
				src := m.Bits[m.Index(0, nearest[1][j], nearest[2][k]):][:m.Size[0]]
				dst := out.Bits[g.Index(0, j, k):][:g.Size[0]]
				for i, from := range nearest[0] {
					dst[i] = src[from]
				}
			}
		}
	})
	return out, nil
}

// resampled returns the grid that ResampleTo fills.
func (g Geometry) resampled(spacing [3]float64) (Geometry, error) {
	const slack = 1e-6 // of a voxel: 4 steps of 0.7 reach 2.8
	out := g
	out.Spacing = spacing
	for a, s := range spacing {
		if !(s > 0) || s > maxSpacing {
			return out, fmt.Errorf("a volume cannot be resampled to a spacing of %g mm", s)
		}
		n := math.Floor(float64(g.Size[a]-1)*g.Spacing[a]/s+slack) + 1
		out.Size[a] = int(min(n, MaxVoxels+1))
	}
	if err := out.Validate(); err != nil {
		return out, fmt.Errorf("resample to %g × %g × %g mm: %w", spacing[0], spacing[1], spacing[2], err)
	}
	return out, nil
}

// span is a range of indices [lo,hi).
type span struct{ lo, hi int }

func (s span) len() int { return s.hi - s.lo }

// tap tells how one output voxel is made along one axis: in[lo] plus w times
// the step from in[lo] to in[hi].
type tap struct {
	lo, hi int32
	w      float32
}

// taps returns the taps of the output voxels box of an axis, in the order in
// which the voxels are stored: step is the output spacing in input voxels.
func taps(box span, step float64, size int, flip bool) []tap {
	out := make([]tap, box.len())
	for n := range out {
		// n steps of a spacing that is almost the old one must not drift, so
		// the position is a product, never a sum.
		at := float64(box.lo+n) * step
		if r := math.Round(at); math.Abs(at-r) < 1e-9 {
			at = r
		}
		at = min(max(at, 0), float64(size-1))
		if flip {
			at = float64(size-1) - at
		}
		lo := min(int(at), max(size-2, 0))
		out[n] = tap{int32(lo), int32(min(lo+1, size-1)), float32(at - float64(lo))}
	}
	return out
}

// resampleRows interpolates the part box of grid g, which must have the axes
// and the origin of s, and hands every row to emit, with j and k counted from
// the start of the box. Values are clamped to limits before they are
// interpolated. emit is called from several goroutines and may change the row.
func (s *scan) resampleRows(g Geometry, box [3]span, limits [2]int16, threads int, emit func(j, k int, row []float32)) {
	var axis [3][]tap
	for a := range axis {
		axis[a] = taps(box[a], g.Spacing[a]/s.Spacing[a], s.Size[a], s.flip[a])
	}
	nx, ny := box[0].len(), box[1].len()
	if nx <= 0 || ny <= 0 {
		return
	}
	parallel(box[2].len(), threads, func(lo, hi int) {
		// Each slice of the input is interpolated in its plane once and kept
		// while output slices need it.
		planes := [2][]float32{make([]float32, nx*ny), make([]float32, nx*ny)}
		held := [2]int32{-1, -1}
		blend := make([]float32, s.Size[0])
		row := make([]float32, nx)
		plane := func(k int32, other int32) int {
			for n, have := range held {
				if have == k {
					return n
				}
			}
			n := 0
			if held[0] == other {
				n = 1
			}
			s.resamplePlane(int(k), axis[0], axis[1], limits, blend, planes[n])
			held[n] = k
			return n
		}
		for k := lo; k < hi; k++ {
			t := axis[2][k]
			a := planes[plane(t.lo, t.hi)]
			b := a
			if t.w != 0 {
				b = planes[plane(t.hi, t.lo)]
			}
			for j := range ny {
				blendRows(row, a[j*nx:], b[j*nx:], t.w)
				emit(j, k, row)
			}
		}
	})
}

// blendRows sets dst to a + w(b-a).
func blendRows(dst, a, b []float32, w float32) {
	a, b = a[:len(dst)], b[:len(dst)]
	if w == 0 {
		copy(dst, a)
		return
	}
	for i := range dst {
		dst[i] = a[i] + w*(b[i]-a[i])
	}
}

// resamplePlane interpolates stored slice k in its plane.
func (s *scan) resamplePlane(k int, xs, ys []tap, limits [2]int16, blend, out []float32) {
	slice := s.hu[k*s.Size[0]*s.Size[1]:]
	first, end := s.Size[0], 0 // the columns that are needed
	for _, t := range xs {
		first, end = min(first, int(t.lo)), max(end, int(t.hi)+1)
	}
	blend = blend[first:end]
	for j, t := range ys {
		a := slice[int(t.lo)*s.Size[0]+first:][:len(blend)]
		b := slice[int(t.hi)*s.Size[0]+first:][:len(blend)]
		if t.w == 0 {
			for i, v := range a {
				blend[i] = float32(min(max(v, limits[0]), limits[1]))
			}
		} else {
			for i := range blend {
				p := float32(min(max(a[i], limits[0]), limits[1]))
				q := float32(min(max(b[i], limits[0]), limits[1]))
				blend[i] = p + t.w*(q-p)
			}
		}
		row := out[j*len(xs):][:len(xs)]
		for i, x := range xs {
			p := blend[int(x.lo)-first]
			row[i] = p + x.w*(blend[int(x.hi)-first]-p)
		}
	}
}
