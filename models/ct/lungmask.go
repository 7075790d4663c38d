package ct

import (
	"errors"
	"fmt"
)

// ErrNoLungs is returned when a CT shows no lungs: a head, an abdomen, a
// phantom. It is wrapped with what was found instead; trying again cannot help.
var ErrNoLungs = errors.New("no lungs in this CT")

// airyHU parts lung from soft tissue: half-way between the two.
const airyHU = -400

// LungMask returns the lungs on the volume's own grid: aerated lung with the
// vessels and nodules inside it, nodules and masses on the pleura, and no
// trachea or main bronchi. The error is ErrNoLungs when there are none.
//
// The lungs are looked for on a grid of about 2 mm (findLungs), and the border
// of what was found there is then drawn with the full-size voxels.
func LungMask(v *Volume, threads int) (*Mask, error) {
	if err := v.check(); err != nil {
		return nil, err
	}
	s := v.view(threads)
	found, err := findLungs(&s, threads)
	if err != nil {
		return nil, err
	}
	box := found.fineBox(s.Geometry, 0)
	airy := newBitGrid([3]int{box[0].len(), box[1].len(), box[2].len()})
	parallel(airy.nz, threads, func(lo, hi int) {
		for k := lo; k < hi; k++ {
			for j := range airy.ny {
				src := s.hu[(s.stored(2, k+box[2].lo)*s.Size[1]+s.stored(1, j+box[1].lo))*s.Size[0]:][:s.Size[0]]
				if s.flip[0] {
					airyReversed(airy.row(j, k), src, len(src)-1-box[0].lo, airy.nx)
				} else {
					airyBits(airy.row(j, k), src[box[0].lo:box[0].hi])
				}
			}
		}
	})
	lungs := found.refine(s.Geometry, box, airy, threads)
	bits := make([]uint8, s.Voxels())
	lungs.paint(bits, s.Geometry, box, threads)
	return &Mask{Geometry: v.Geometry, Bits: unview(&s, bits, threads)}, nil
}

// check tells whether the volume has the voxels that its geometry promises.
func (v *Volume) check() error {
	if err := v.Validate(); err != nil {
		return err
	}
	if len(v.HU) != v.Voxels() {
		return fmt.Errorf("the volume has %d voxels where its size asks for %d", len(v.HU), v.Voxels())
	}
	return nil
}

// airyBits sets a bit for each voxel below airyHU.
func airyBits(dst []uint64, src []int16) {
	for n := range dst {
		var w uint64
		for i, v := range src[n*64 : min(n*64+64, len(src))] {
			w |= uint64(uint32(int32(v)-airyHU)>>31) << i
		}
		dst[n] = w
	}
}

// airyReversed does the same for n voxels read backwards from src[from].
func airyReversed(dst []uint64, src []int16, from, n int) {
	clear(dst)
	for i := range n {
		dst[i>>6] |= uint64(uint32(int32(src[from-i])-airyHU)>>31) << (i & 63)
	}
}

// lungPair holds the two lungs, right and left; one may be empty.
type lungPair [2]*bitGrid

// both returns the voxels of either lung.
func (l lungPair) both() *bitGrid {
	b := l[0].clone()
	b.or(l[1])
	return b
}

// paint writes the lungs into the bytes of grid g, in which they cover box. The
// box may reach beyond the grid, where no lung is.
func (l lungPair) paint(dst []uint8, g Geometry, box [3]span, threads int) {
	parallel(box[2].len(), threads, func(lo, hi int) {
		var runs []run
		for k := lo; k < hi; k++ {
			for j := range box[1].len() {
				for _, lung := range l {
					runs = appendRuns(runs[:0], lung.row(j, k))
					for _, r := range runs {
						at := g.Index(box[0].lo, j+box[1].lo, k+box[2].lo)
						part := dst[at+int(r.lo) : at+int(r.hi)]
						for i := range part {
							part[i] = 1
						}
					}
				}
			}
		}
	})
}
