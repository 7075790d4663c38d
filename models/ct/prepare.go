package ct

import (
	"fmt"
	"math"
)

// PrepareSpec says how a volume becomes a model's input. A model's manifest
// holds it, so that training, evaluation and serving prepare alike.
type PrepareSpec struct {
	SpacingMM [3]float64 `json:"spacing_mm"` // of the grid, along x, y, z
	WindowHU  [2]float64 `json:"window_hu"`  // becomes 0..255; what lies beyond is clipped
	PadValue  uint8      `json:"pad_value"`  // of what is masked or lies outside the scan
	Masking   bool       `json:"masking"`    // set everything outside the grown lungs to PadValue
	// HullGrowth: each slice of each lung becomes its convex hull unless the hull
	// has more than this many times its area. At most 1 turns hulls off.
	HullGrowth float64 `json:"hull_growth"`
	DilateMM   float64 `json:"dilate_mm"` // the hulls grow by this much
	// BoneValue: what the growth added and is brighter than this becomes
	// PadValue. 0 turns it off.
	BoneValue uint8 `json:"bone_value"`
	// MarginVoxels are left around the lungs' box, before and after it.
	MarginVoxels [2]int `json:"margin_voxels"`
}

// DefaultPrepareSpec returns what the nodule detectors are trained with.
func DefaultPrepareSpec() PrepareSpec {
	return PrepareSpec{
		SpacingMM:    [3]float64{1, 1, 1},
		WindowHU:     [2]float64{-1200, 600},
		PadValue:     170,
		Masking:      true,
		HullGrowth:   1.5,
		DilateMM:     10,
		BoneValue:    210,
		MarginVoxels: [2]int{5, 10},
	}
}

// Limits of a PrepareSpec: beyond them is a mistake, and no scan has the memory.
const (
	minPrepareSpacing = 0.2
	maxPrepareSpacing = 10.0
	maxDilateMM       = 50.0
	maxMargin         = 128
)

// Validate names the first value that cannot be used.
func (p PrepareSpec) Validate() error {
	for _, s := range p.SpacingMM {
		if !(s >= minPrepareSpacing && s <= maxPrepareSpacing) {
			return fmt.Errorf("spacing_mm: %g is not between %g and %g", s, minPrepareSpacing, maxPrepareSpacing)
		}
	}
	lo, hi := p.WindowHU[0], p.WindowHU[1]
	if !(lo >= math.MinInt16 && hi <= math.MaxInt16 && hi-lo >= 1) {
		return fmt.Errorf("window_hu: [%g, %g] is not a range of HU", lo, hi)
	}
	if math.IsNaN(p.HullGrowth) || p.HullGrowth < 0 {
		return fmt.Errorf("hull_growth: %g is negative", p.HullGrowth)
	}
	if !(p.DilateMM >= 0 && p.DilateMM <= maxDilateMM) {
		return fmt.Errorf("dilate_mm: %g is not between 0 and %g", p.DilateMM, maxDilateMM)
	}
	for _, m := range p.MarginVoxels {
		if m < 0 || m > maxMargin {
			return fmt.Errorf("margin_voxels: %d is not between 0 and %d", m, maxMargin)
		}
	}
	return nil
}

// Prepared is a model's input: the box around the lungs, on the grid of the
// spec, its axes along the patient (i to the left, j to the back, k to the
// head; oblique scans keep their small angles).
type Prepared struct {
	Geometry         // of the box
	Data     []uint8 // window values, x fastest
	Mask     *Mask   // the lungs on the same grid, before hull and dilation

	sides  lungPair // on the part of the grid that was resampled; see Side
	sideAt [3]int   // where the box begins in it
}

// Prepare makes a model's input from a CT. The steps are those of the spec, in
// this order: window, linear resampling (the window's ends clip before the
// interpolation, the rounding to 256 values comes after it), lung mask, hulls,
// dilation by a ball, masking, bone at the rim, crop. The error is ErrNoLungs
// when there is nothing to crop to.
func Prepare(v *Volume, p PrepareSpec, threads int) (*Prepared, error) {
	return PrepareWith(v, p, PrepareOptions{Threads: threads})
}

// PrepareOptions are what does not change a model's input for the same lungs.
type PrepareOptions struct {
	Threads int // below 1: one for each processor
	// Lungs is a segmentation to take the lungs from, instead of looking for
	// them: voxels of value LabelLeftLung and LabelRightLung, on a grid that
	// covers the scan. nil: none.
	Lungs *Volume
	// Step is called at the end of each step with its name; nil: nobody asks.
	Step func(name string)
}

// Names of the steps, in their order. The window and the resampling are one
// step; finding the lungs comes first because it says where to resample.
const (
	StepLungs    = "lungs"    // search or segmentation
	StepResample = "resample" // window and interpolation
	StepBorder   = "border"   // of the lungs on the new grid
	StepMask     = "mask"     // hulls, dilation, masking, bone
	StepCrop     = "crop"
)

// PrepareWith is Prepare with options.
func PrepareWith(v *Volume, p PrepareSpec, o PrepareOptions) (*Prepared, error) {
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("prepare a volume: %w", err)
	}
	if err := v.check(); err != nil {
		return nil, fmt.Errorf("prepare a volume: %w", err)
	}
	threads, step := o.Threads, o.Step
	if step == nil {
		step = func(string) {}
	}
	s := v.view(threads)
	grid, err := s.resampled(p.SpacingMM)
	if err != nil {
		return nil, fmt.Errorf("prepare a volume: %w", err)
	}
	var found lungSource
	if o.Lungs != nil {
		found, err = newSegmentation(o.Lungs, s.Geometry)
	} else {
		found, err = findLungs(&s, threads)
	}
	if err != nil {
		return nil, err
	}
	step(StepLungs)
	around := found.fineBox(grid, max(p.MarginVoxels[0], p.MarginVoxels[1]))
	data, airy := s.window(grid, around, p.WindowHU, threads)
	step(StepResample)
	lungs := found.refine(grid, around, airy, threads)
	box, err := cropBox(lungs.both(), p.MarginVoxels)
	if err != nil {
		return nil, err
	}
	step(StepBorder)
	if p.Masking {
		p.mask(data, lungs, threads)
		step(StepMask)
	}
	out := crop(grid, around, box, data, lungs, threads)
	step(StepCrop)
	return out, nil
}

// lungSource tells where the lungs are on any grid with the axes and the origin
// of the scan.
type lungSource interface {
	// fineBox returns the part of g in which lung can be, grown by a margin.
	fineBox(g Geometry, margin int) [3]span
	// refine returns the lungs in that part.
	refine(g Geometry, box [3]span, airy *bitGrid, threads int) lungPair
}

// window returns the part box of grid g in window values, and which of its
// voxels are below airyHU.
func (s *scan) window(g Geometry, box [3]span, window [2]float64, threads int) ([]uint8, *bitGrid) {
	size := [3]int{box[0].len(), box[1].len(), box[2].len()}
	data := make([]uint8, size[0]*size[1]*size[2])
	airy := newBitGrid(size)
	// A window without air and tissue would hide the lungs' border: then the
	// clipping leaves them in, and the last step clips again.
	limits := [2]int16{
		int16(math.Floor(min(window[0], coarseMinHU))),
		int16(math.Ceil(max(window[1], coarseMaxHU))),
	}
	lo, hi := float32(window[0]), float32(window[1])
	scale := 255 / (hi - lo)
	s.resampleRows(g, box, limits, threads, func(j, k int, row []float32) {
		dst := data[(k*size[1]+j)*size[0]:][:len(row)]
		bits := airy.row(j, k)
		for n := range bits {
			part := row[n*64 : min(n*64+64, len(row))]
			var w uint64
			for i, f := range part {
				w |= uint64(math.Float32bits(f-airyHU)>>31) << i // the sign
				dst[n*64+i] = uint8((min(max(f, lo), hi)-lo)*scale + 0.5)
			}
			bits[n] = w
		}
	})
	return data, airy
}

// cropBox returns the box of a mask with its margins, inside the mask's grid.
func cropBox(mask *bitGrid, margin [2]int) (box [3]span, err error) {
	lo, hi, ok := mask.box()
	if !ok {
		return box, fmt.Errorf("%w: nothing was left of them at the model's spacing", ErrNoLungs)
	}
	size := mask.size()
	for a := range box {
		box[a] = span{max(0, lo[a]-margin[0]), min(size[a], hi[a]+margin[1])}
	}
	return box, nil
}

// mask sets to PadValue what lies outside the grown lungs, and bone at their
// rim.
func (p PrepareSpec) mask(data []uint8, lungs lungPair, threads int) {
	inside := lungs.both()
	grown := newBitGrid(inside.size())
	for _, lung := range lungs {
		hulls := lung.clone()
		if p.HullGrowth > 1 {
			hulls.growHulls(p.HullGrowth, threads)
		}
		grown.or(hulls)
	}
	if p.DilateMM > 0 {
		grown = grown.dilate(p.DilateMM, p.SpacingMM, threads)
	}
	bone := int(p.BoneValue)
	if bone == 0 {
		bone = math.MaxUint8
	}
	nx, ny := inside.nx, inside.ny
	parallel(inside.nz, threads, func(lo, hi int) {
		var runs []run
		for k := lo; k < hi; k++ {
			for j := range ny {
				row := data[(k*ny+j)*nx:][:nx]
				keep, lung := grown.row(j, k), inside.row(j, k)
				runs = appendRuns(runs[:0], keep)
				at := 0
				for _, r := range runs {
					fillBytes(row[at:r.lo], p.PadValue)
					at = int(r.hi)
					for i := int(r.lo); i < at; i++ {
						if int(row[i]) > bone && lung[i>>6]>>(i&63)&1 == 0 {
							row[i] = p.PadValue
						}
					}
				}
				fillBytes(row[at:], p.PadValue)
			}
		}
	})
}

func fillBytes(b []uint8, v uint8) {
	for i := range b {
		b[i] = v
	}
}

// crop cuts the box, counted from the start of the part around of the grid, out
// of data and the lungs.
func crop(grid Geometry, around, box [3]span, data []uint8, lungs lungPair, threads int) *Prepared {
	g := grid
	var at [3]float64
	for a := range box {
		g.Size[a] = box[a].len()
		at[a] = float64(around[a].lo + box[a].lo)
	}
	g.Origin = grid.World(at[0], at[1], at[2])
	out := &Prepared{
		Geometry: g,
		Data:     make([]uint8, g.Voxels()),
		Mask:     &Mask{Geometry: g, Bits: make([]uint8, g.Voxels())},
	}
	nx, ny := around[0].len(), around[1].len()
	parallel(g.Size[2], threads, func(lo, hi int) {
		for k := lo; k < hi; k++ {
			for j := range g.Size[1] {
				src := data[((k+box[2].lo)*ny+j+box[1].lo)*nx+box[0].lo:]
				copy(out.Data[g.Index(0, j, k):][:g.Size[0]], src)
			}
		}
	})
	var shifted [3]span // the whole of around, seen from the crop
	for a := range shifted {
		shifted[a] = span{-box[a].lo, around[a].len() - box[a].lo}
	}
	lungs.paint(out.Mask.Bits, g, shifted, threads)
	out.sides, out.sideAt = lungs, [3]int{box[0].lo, box[1].lo, box[2].lo}
	return out
}
