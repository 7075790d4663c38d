package ct

import (
	"math"
	"math/bits"
)

// bitGrid is a set of voxels, one bit for each, so that morphology works on 64
// voxels at a time. Every row (along x) starts a new word; the unused bits at
// the end of a row are always 0.
type bitGrid struct {
	nx, ny, nz int
	words      int // words in a row
	bits       []uint64
}

func newBitGrid(size [3]int) *bitGrid {
	w := (size[0] + 63) / 64
	return &bitGrid{size[0], size[1], size[2], w, make([]uint64, w*size[1]*size[2])}
}

func (b *bitGrid) size() [3]int { return [3]int{b.nx, b.ny, b.nz} }

// row returns the words of row j of slice k.
func (b *bitGrid) row(j, k int) []uint64 {
	at := (k*b.ny + j) * b.words
	return b.bits[at : at+b.words : at+b.words]
}

// plane returns the words of slice k.
func (b *bitGrid) plane(k int) []uint64 {
	n := b.ny * b.words
	return b.bits[k*n : (k+1)*n : (k+1)*n]
}

func (b *bitGrid) get(i, j, k int) bool {
	return b.bits[(k*b.ny+j)*b.words+i>>6]>>(i&63)&1 != 0
}

func (b *bitGrid) set(i, j, k int) {
	b.bits[(k*b.ny+j)*b.words+i>>6] |= 1 << (i & 63)
}

func (b *bitGrid) clone() *bitGrid {
	c := *b
	c.bits = append([]uint64(nil), b.bits...)
	return &c
}

func (b *bitGrid) count() int { return popCount(b.bits) }

func popCount(words []uint64) (n int) {
	for _, w := range words {
		n += bits.OnesCount64(w)
	}
	return n
}

// or adds the voxels of c, andNot removes them, and keeps only them.
func (b *bitGrid) or(c *bitGrid) {
	for i, w := range c.bits {
		b.bits[i] |= w
	}
}

func (b *bitGrid) andNot(c *bitGrid) {
	for i, w := range c.bits {
		b.bits[i] &^= w
	}
}

func (b *bitGrid) and(c *bitGrid) {
	for i, w := range c.bits {
		b.bits[i] &= w
	}
}

// lastWord has a one for each used bit of the last word of a row.
func (b *bitGrid) lastWord() uint64 {
	if r := b.nx & 63; r != 0 {
		return 1<<r - 1
	}
	return math.MaxUint64
}

// complement returns the voxels that are not in b.
func (b *bitGrid) complement() *bitGrid {
	c := &bitGrid{b.nx, b.ny, b.nz, b.words, make([]uint64, len(b.bits))}
	last := b.lastWord()
	for i, w := range b.bits {
		c.bits[i] = ^w
	}
	for i := b.words - 1; i < len(c.bits); i += b.words {
		c.bits[i] &= last
	}
	return c
}

// box returns the smallest box [lo,hi) that holds all voxels; ok is false when
// there are none.
func (b *bitGrid) box() (lo, hi [3]int, ok bool) {
	lo = b.size()
	columns := make([]uint64, b.words)
	for k := range b.nz {
		for j := range b.ny {
			any := uint64(0)
			for n, w := range b.row(j, k) {
				columns[n] |= w
				any |= w
			}
			if any != 0 {
				lo[1], lo[2] = min(lo[1], j), min(lo[2], k)
				hi[1], hi[2] = max(hi[1], j+1), k+1
			}
		}
	}
	lo[0], hi[0] = rowSpan(columns)
	return lo, hi, hi[0] > 0
}

// rowSpan returns the first and one past the last set bit of a row; 0, 0 when
// the row is empty.
func rowSpan(row []uint64) (first, end int) {
	for n, w := range row {
		if w != 0 {
			if end == 0 {
				first = n*64 + bits.TrailingZeros64(w)
			}
			end = n*64 + 64 - bits.LeadingZeros64(w)
		}
	}
	return first, end
}

// fillRow sets the bits [lo,hi) of a row.
func fillRow(row []uint64, lo, hi int) {
	for lo < hi {
		end := min(hi, lo|63+1)
		m := uint64(math.MaxUint64) << (lo & 63)
		if r := end & 63; r != 0 {
			m &= 1<<r - 1
		}
		row[lo>>6] |= m
		lo = end
	}
}

// widen sets in dst every voxel of src and its two neighbours along x. dst may
// be src.
func widen(dst, src []uint64, last uint64) {
	prev := uint64(0)
	for n, w := range src {
		next := uint64(0)
		if n+1 < len(src) {
			next = src[n+1]
		}
		dst[n] = w | w<<1 | w>>1 | prev>>63 | next<<63
		prev = w
	}
	dst[len(dst)-1] &= last
}

// ballRow is one row of a structuring element: dy, dz away, and reaching
// halfWidth voxels to each side along x.
type ballRow struct{ dy, dz, halfWidth int }

// ball returns the rows of the ball of the given radius, grouped by half-width:
// all voxels whose centre is at most radius from the centre.
func ball(radiusMM float64, spacing [3]float64) [][]ballRow {
	const slack = 1e-9 // so that a radius of 10 reaches the voxel at 10.0 mm
	r2 := radiusMM*radiusMM + slack
	ry, rz := int(radiusMM/spacing[1]+slack), int(radiusMM/spacing[2]+slack)
	rows := make([][]ballRow, int(radiusMM/spacing[0]+slack)+1)
	for dz := -rz; dz <= rz; dz++ {
		for dy := -ry; dy <= ry; dy++ {
			y, z := float64(dy)*spacing[1], float64(dz)*spacing[2]
			if rest := r2 - y*y - z*z; rest >= 0 {
				w := min(int(math.Sqrt(rest)/spacing[0]+slack), len(rows)-1)
				rows[w] = append(rows[w], ballRow{dy, dz, w})
			}
		}
	}
	return rows
}

// dilate returns all voxels at most radius from a voxel of b.
func (b *bitGrid) dilate(radiusMM float64, spacing [3]float64, threads int) *bitGrid {
	out := &bitGrid{b.nx, b.ny, b.nz, b.words, make([]uint64, len(b.bits))}
	wide := b.clone() // b widened along x by the half-width at hand
	empty := make([]bool, b.ny*b.nz)
	for r := range empty {
		empty[r] = popCount(b.bits[r*b.words:(r+1)*b.words]) == 0
	}
	last := b.lastWord()
	for halfWidth, rows := range ball(radiusMM, spacing) {
		if halfWidth > 0 {
			parallel(b.ny*b.nz, threads, func(lo, hi int) {
				for r := lo; r < hi; r++ {
					if !empty[r] {
						w := wide.bits[r*b.words : (r+1)*b.words]
						widen(w, w, last)
					}
				}
			})
		}
		if len(rows) == 0 {
			continue
		}
		parallel(b.nz, threads, func(lo, hi int) {
			for k := lo; k < hi; k++ {
				out.dilatePlane(wide, empty, rows, k)
			}
		})
	}
	return out
}

// dilatePlane adds to slice k of b the given rows of the structuring element.
func (b *bitGrid) dilatePlane(wide *bitGrid, empty []bool, rows []ballRow, k int) {
	for _, e := range rows {
		kk := k + e.dz
		if kk < 0 || kk >= b.nz {
			continue
		}
		for j := max(0, -e.dy); j < min(b.ny, b.ny-e.dy); j++ {
			if empty[kk*b.ny+j+e.dy] {
				continue
			}
			dst, src := b.row(j, k), wide.row(j+e.dy, kk)
			for n := range dst {
				dst[n] |= src[n]
			}
		}
	}
}

// erode returns all voxels of b farther than radius from every voxel of the
// grid that is not in b. What lies outside the grid counts as b: a lung cut by
// the end of the scan goes on there.
func (b *bitGrid) erode(radiusMM float64, spacing [3]float64, threads int) *bitGrid {
	return b.complement().dilate(radiusMM, spacing, threads).complement()
}

// closing fills gaps and bays narrower than twice the radius.
func (b *bitGrid) closing(radiusMM float64, spacing [3]float64, threads int) *bitGrid {
	return b.dilate(radiusMM, spacing, threads).erode(radiusMM, spacing, threads)
}

// opening removes what is thinner than twice the radius.
func (b *bitGrid) opening(radiusMM float64, spacing [3]float64, threads int) *bitGrid {
	return b.erode(radiusMM, spacing, threads).dilate(radiusMM, spacing, threads)
}
