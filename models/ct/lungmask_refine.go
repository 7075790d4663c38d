package ct

import "math"

// What the voxels of the scan that lie in a coarse voxel may be. The bits for
// the right lung come first, those for the left lung are shifted by one.
const (
	inCore   = 1 << 0 // lung, whatever the value
	inBand   = 1 << 2 // lung where airy
	inFilled = 1 << 4 // beside something that is lung without being airy
)

// foundLungs is the result of the search at about 2 mm.
type foundLungs struct {
	coarse
	scanSpacing [3]float64
	lungs       lungPair // with everything that belongs to them
	class       []uint8  // of each coarse voxel
	lo, hi      [3]int   // box of the voxels with a class
}

// findLungs looks for the lungs of a scan.
func findLungs(s *scan, threads int) (*foundLungs, error) {
	c := newCoarse(s, threads)
	airy, body := c.airInside(threads)
	airway := c.airway(airy, body, threads).dilate(wallMM, c.Spacing, threads)
	airy.andNot(airway)
	aerated, err := c.lungParts(airy, threads)
	if err != nil {
		return nil, err
	}
	pair := c.split(aerated, c.middle(body), threads)
	f := &foundLungs{coarse: *c, scanSpacing: s.Spacing}
	for n, lung := range pair {
		f.lungs[n] = c.fill(lung, threads)
	}
	f.lungs[1].andNot(f.lungs[0]) // where both claim a gap between them
	c.addBays(f.lungs, threads)
	for n, lung := range f.lungs {
		lung.andNot(airway)
		lung.fillPlanarHoles(c.mm2(maxHoleMM2), threads) // bronchi inside the lung stay in it
		lung.andNot(pair[1-n])
	}
	airway.andNot(f.lungs.both())
	f.classify(pair, airway, threads)
	return f, nil
}

// fill returns an aerated lung with its vessels, nodules and narrow bays.
func (c *coarse) fill(lung *bitGrid, threads int) *bitGrid {
	b := lung.closing(closeMM, c.Spacing, threads)
	b.fillHoles()
	b.fillPlanarHoles(c.mm2(maxHoleMM2), threads)
	return b
}

// classify prepares the refinement.
func (f *foundLungs) classify(aerated lungPair, airway *bitGrid, threads int) {
	near := f.neighbourMM()
	f.class = make([]uint8, f.Voxels())
	all := newBitGrid(f.Size)
	mark := func(b *bitGrid, bit uint8) {
		all.or(b)
		parallel(b.nz, threads, func(lo, hi int) {
			var runs []run
			for k := lo; k < hi; k++ {
				for j := range b.ny {
					row := f.class[f.Index(0, j, k):]
					runs = appendRuns(runs[:0], b.row(j, k))
					for _, r := range runs {
						for i := r.lo; i < r.hi; i++ {
							row[i] |= bit
						}
					}
				}
			}
		})
	}
	for n, lung := range f.lungs {
		mark(lung.erode(near, f.Spacing, threads), inCore<<n)
		band := aerated[n].dilate(near, f.Spacing, threads)
		band.andNot(airway)
		mark(band, inBand<<n)
		filled := lung.clone()
		filled.andNot(aerated[n])
		mark(filled.dilate(near, f.Spacing, threads), inFilled<<n)
	}
	f.lo, f.hi, _ = all.box()
}

// fineBox returns the part of grid g (the scan's own or a resampled one with
// its origin and axes) in which lung can be, grown by a margin in voxels.
func (f *foundLungs) fineBox(g Geometry, margin int) (box [3]span) {
	for a := range box {
		perVoxel := f.scanSpacing[a] / g.Spacing[a]
		lo := (float64(f.lo[a]*f.factor[a]) - 0.5) * perVoxel
		hi := (float64(f.hi[a]*f.factor[a]) - 0.5) * perVoxel
		box[a].lo = min(max(0, int(math.Ceil(lo))-margin), g.Size[a]-1)
		box[a].hi = max(min(g.Size[a], int(math.Floor(hi))+1+margin), box[a].lo+1)
	}
	return box
}

// coarseAt returns the position of each voxel of an axis of box in coarse
// voxels, where 0 is the centre of the first.
func (f *foundLungs) coarseAt(g Geometry, box span, a int) []float32 {
	out := make([]float32, box.len())
	for n := range out {
		at := float64(box.lo+n) * g.Spacing[a] / f.scanSpacing[a]
		out[n] = float32((at+0.5)/float64(f.factor[a]) - 0.5)
	}
	return out
}

// refine draws the border of the lungs in the part box of grid g; airy tells
// which of its voxels are below airyHU.
func (f *foundLungs) refine(g Geometry, box [3]span, airy *bitGrid, threads int) lungPair {
	var at [3][]float32
	var cell [3][]int // the coarse voxel of each voxel
	for a := range at {
		at[a] = f.coarseAt(g, box[a], a)
		cell[a] = make([]int, len(at[a]))
		for n, p := range at[a] {
			cell[a][n] = min(max(int(p+0.5), 0), f.Size[a]-1)
		}
	}
	var stops []run // stretches of a row that lie in one coarse voxel
	for i, c := range cell[0] {
		if i == 0 || int32(c) != stops[len(stops)-1].label {
			stops = append(stops, run{lo: int32(i), label: int32(c)})
		}
		stops[len(stops)-1].hi = int32(i + 1)
	}
	out := lungPair{newBitGrid(airy.size()), newBitGrid(airy.size())}
	parallel(airy.nz, threads, func(lo, hi int) {
		line := make([]float32, f.Size[0])
		for k := lo; k < hi; k++ {
			for j := range airy.ny {
				class := f.class[f.Index(0, cell[1][j], cell[2][k]):]
				for n := range out {
					drawn := false
					dst := out[n].row(j, k)
					for _, s := range stops {
						c := class[s.label] >> n
						switch {
						case c == 0:
						case c&inCore != 0:
							fillRow(dst, int(s.lo), int(s.hi))
						default:
							if c&inBand != 0 {
								copyBits(dst, airy.row(j, k), int(s.lo), int(s.hi))
							}
							if c&inFilled != 0 {
								if !drawn {
									f.blendLine(line, n, at[1][j], at[2][k])
									drawn = true
								}
								aboveHalf(dst, line, at[0], int(s.lo), int(s.hi))
							}
						}
					}
				}
			}
		}
	})
	const speckMM2 = 60.0 // tissue in the border of the lung: a small vessel
	holes := int(speckMM2 / (g.Spacing[0] * g.Spacing[1]))
	for n := range out {
		out[n].fillPlanarHoles(holes, threads)
	}
	out[1].andNot(out[0]) // no voxel is in both
	return out
}

// copyBits adds the bits [lo,hi) of src to dst.
func copyBits(dst, src []uint64, lo, hi int) {
	for i := lo; i < hi; i++ {
		dst[i>>6] |= src[i>>6] & (1 << (i & 63))
	}
}

// blendLine interpolates lung n along y and z, for one row.
func (f *foundLungs) blendLine(line []float32, n int, y, z float32) {
	clear(line)
	y = min(max(y, 0), float32(f.Size[1]-1))
	z = min(max(z, 0), float32(f.Size[2]-1))
	j, k := int(y), int(z)
	wy, wz := y-float32(j), z-float32(k)
	for dk, wk := range [2]float32{1 - wz, wz} {
		for dj, wj := range [2]float32{1 - wy, wy} {
			if w := wk * wj; w > 0 {
				row := f.lungs[n].row(j+dj, k+dk)
				for i := range line {
					line[i] += w * float32(row[i>>6]>>(i&63)&1)
				}
			}
		}
	}
}

// aboveHalf sets the bits [lo,hi) where the line is at least one half.
func aboveHalf(dst []uint64, line, at []float32, lo, hi int) {
	for i := lo; i < hi; i++ {
		x := min(max(at[i], 0), float32(len(line)-1))
		n := int(x)
		v := line[n]
		if w := x - float32(n); w > 0 {
			v += w * (line[n+1] - v)
		}
		if v >= 0.5 {
			dst[i>>6] |= 1 << (i & 63)
		}
	}
}
