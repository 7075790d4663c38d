package ct

// canonicalOrder returns for each axis of the patient (x to the left, y to the
// back, z to the head) the index axis nearest to it, and whether that axis runs
// the other way. Of all ways to name the axes that keep them right-handed it is
// the one with the smallest angles, so oblique axes stay a rotation near LPS.
func canonicalOrder(g Geometry) (order [3]int, flip [3]bool) {
	handed := dot(cross(g.Axes[0], g.Axes[1]), g.Axes[2]) > 0
	best := -4.0 // below the least possible sum of three cosines
	for _, p := range [][3]int{{0, 1, 2}, {1, 2, 0}, {2, 0, 1}, {0, 2, 1}, {2, 1, 0}, {1, 0, 2}} {
		even := p[0] == (p[2]+1)%3
		for f := range 8 {
			odd := (f&1 + f>>1&1 + f>>2&1) & 1
			if (even == (odd == 0)) != handed {
				continue // would be a mirror image
			}
			sum := 0.0
			for a := range 3 {
				if f>>a&1 != 0 {
					sum -= g.Axes[p[a]][a]
				} else {
					sum += g.Axes[p[a]][a]
				}
			}
			if sum > best+1e-9 {
				best, order = sum, p
				flip = [3]bool{f&1 != 0, f>>1&1 != 0, f>>2&1 != 0}
			}
		}
	}
	return order, flip
}

// reordered returns the geometry of the same grid with its axes renamed and
// turned round as canonicalOrder says.
func (g Geometry) reordered(order [3]int, flip [3]bool) Geometry {
	var out Geometry
	var corner [3]float64
	for a, from := range order {
		out.Size[a], out.Spacing[a], out.Axes[a] = g.Size[from], g.Spacing[from], g.Axes[from]
		if flip[a] {
			corner[from] = float64(g.Size[from] - 1)
			for n := range 3 {
				out.Axes[a][n] = -g.Axes[from][n]
			}
		}
	}
	out.Origin = g.World(corner[0], corner[1], corner[2])
	return out
}

// scan is a volume seen with its axes along the patient: x to the left, y to
// the back, z to the head. Voxels stored with other axes first are copied once;
// those stored merely in the other direction are read backwards.
type scan struct {
	Geometry         // of the view
	hu       []int16 // with the axes of the view, still running as stored
	flip     [3]bool // the axis runs the other way in hu
	order    [3]int  // the volume's axis that became axis a
}

// view returns the volume as a scan.
func (v *Volume) view(threads int) scan {
	order, flip := canonicalOrder(v.Geometry)
	s := scan{Geometry: v.reordered(order, flip), hu: v.HU, flip: flip, order: order}
	if order != [3]int{0, 1, 2} {
		s.hu = permute(v.HU, v.Size, order, threads)
	}
	return s
}

// permute returns the voxels with axis order[a] of size as axis a.
func permute[T any](in []T, size [3]int, order [3]int, threads int) []T {
	stride := [3]int{1, size[0], size[0] * size[1]}
	n := [3]int{size[order[0]], size[order[1]], size[order[2]]}
	dx, dy, dz := stride[order[0]], stride[order[1]], stride[order[2]]
	out := make([]T, len(in))
	parallel(n[2], threads, func(lo, hi int) {
		for k := lo; k < hi; k++ {
			for j := range n[1] {
				row := out[(k*n[1]+j)*n[0]:][:n[0]]
				from := j*dy + k*dz
				for i := range row {
					row[i] = in[from]
					from += dx
				}
			}
		}
	})
	return out
}

// stored returns the row or slice of hu that holds index n of axis a.
func (s *scan) stored(a, n int) int {
	if s.flip[a] {
		return s.Size[a] - 1 - n
	}
	return n
}

// unview brings voxels on the grid of the view back to the volume's own order.
func unview[T any](s *scan, in []T, threads int) []T {
	size := s.Size
	if s.flip != [3]bool{} {
		out := make([]T, len(in))
		parallel(size[2], threads, func(lo, hi int) {
			for k := lo; k < hi; k++ {
				for j := range size[1] {
					src := in[(k*size[1]+j)*size[0]:][:size[0]]
					dst := out[(s.stored(2, k)*size[1]+s.stored(1, j))*size[0]:][:size[0]]
					copy(dst, src)
					if s.flip[0] {
						for a, b := 0, len(dst)-1; a < b; a, b = a+1, b-1 {
							dst[a], dst[b] = dst[b], dst[a]
						}
					}
				}
			}
		})
		in = out
	}
	if s.order == [3]int{0, 1, 2} {
		return in
	}
	var back [3]int
	for a, from := range s.order {
		back[from] = a
	}
	return permute(in, size, back, threads)
}
