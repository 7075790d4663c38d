package ct

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// Tolerances of the slice positions. Scanners write them with one to nine
// decimals, and tables move with an error of microns.
const (
	// samePosition (mm): nearer slices are duplicates. The thinnest are 0.2 mm
	// apart.
	samePosition = 0.01
	// unevenShare of the spacing is the largest difference between two
	// spacings; a missing slice is 100 %.
	unevenShare = 0.2
	// unevenLeast (mm) is always tolerated: positions rounded to 0.1 mm.
	unevenLeast = 0.1
	// driftShare of the spacing (in plane: of a pixel) is how far a slice may be
	// from its place in the regular grid.
	driftShare = 0.5
)

// stack is the slices of one volume in order, with its geometry.
type stack struct {
	geometry   Geometry
	slices     []*slice
	duplicates []*slice // at the position of a slice that is kept; twin says which
	notes      []string

	frameOfReference string
}

// newStack sorts the images along their normal and checks that they make one
// regular grid.
func newStack(found []*slice, maxVoxels int64) (*stack, error) {
	st := &stack{}
	for _, s := range found {
		if !s.localizer {
			st.slices = append(st.slices, s)
		}
	}
	if len(st.slices) == 0 {
		return nil, seriesErrorf(Localizer, "The series holds only localizer images (%d), which are no volume.", len(found))
	}
	if n := len(found) - len(st.slices); n > 0 {
		st.notes = append(st.notes, fmt.Sprintf("%d localizer images were left out", n))
	}
	var err error
	if st.frameOfReference, err = oneSeries(found); err != nil {
		return nil, err
	}
	if err := parallelPlanes(st.slices); err != nil {
		return nil, err
	}
	first := st.slices[0]
	axes := rotation(first.row, first.column)
	for _, s := range st.slices {
		s.height = dot(s.position, axes[2])
	}
	slices.SortStableFunc(st.slices, func(a, b *slice) int {
		return cmp.Or(cmp.Compare(a.height, b.height), cmp.Compare(a.sopInstanceUID, b.sopInstanceUID))
	})
	st.takeDuplicates()
	n := len(st.slices)
	if n < MinSlices {
		return nil, seriesErrorf(TooFew, "The series holds %d slices, where a volume needs at least %d.", n, MinSlices)
	}
	spacing, err := evenSpacing(st.slices)
	if err != nil {
		return nil, err
	}
	first = st.slices[0]
	st.geometry = Geometry{
		Size:    [3]int{first.info.Columns, first.info.Rows, n},
		Spacing: [3]float64{first.pixelSpacing[1], first.pixelSpacing[0], spacing}, // PS3.3 10.7.1.3: rows first
		Origin:  first.position,
		Axes:    axes,
	}
	if voxels := int64(first.info.Columns) * int64(first.info.Rows) * int64(n); voxels > maxVoxels {
		return nil, seriesErrorf(TooLarge, "The series has %d voxels, more than the %d that are allowed.", voxels, maxVoxels)
	}
	if err := st.geometry.Validate(); err != nil {
		return nil, seriesErrorf(BadGeometry, "The series cannot be placed in the patient: %v.", err)
	}
	return st, aboveEachOther(st.slices, st.geometry)
}

// oneSeries refuses images of several series or frames of reference, and returns
// the frame of reference.
func oneSeries(all []*slice) (frame string, err error) {
	for _, s := range all {
		if s.seriesUID != all[0].seriesUID {
			return "", seriesErrorf(MixedSeries, "The folder holds images of more than one series.")
		}
		if s.localizer || s.frameOfReference == "" {
			continue
		}
		if frame != "" && s.frameOfReference != frame {
			return "", seriesErrorf(MixedSeries, "The images of the series lie in more than one frame of reference, so they cannot be one volume.")
		}
		frame = s.frameOfReference
	}
	return frame, nil
}

// parallelPlanes refuses images that differ in orientation, size or pixel
// spacing.
func parallelPlanes(all []*slice) error {
	first := all[0]
	for _, s := range all[1:] {
		if distance(s.row, first.row) > orientationTolerance || distance(s.column, first.column) > orientationTolerance {
			return seriesErrorf(MixedOrientation, "The images of the series lie in more than one orientation, so they cannot be one volume.")
		}
		if s.info.Rows != first.info.Rows || s.info.Columns != first.info.Columns {
			return seriesErrorf(MixedSize, "The images of the series differ in size: %d × %d and %d × %d pixels.", first.info.Columns, first.info.Rows, s.info.Columns, s.info.Rows)
		}
		for a, x := range s.pixelSpacing {
			if math.Abs(x-first.pixelSpacing[a]) > pixelSpacingTolerance*first.pixelSpacing[a] {
				return seriesErrorf(MixedSize, "The images of the series differ in pixel spacing: %g and %g mm.", first.pixelSpacing[a], x)
			}
		}
	}
	return nil
}

// takeDuplicates keeps one slice for each position, the first in the order of
// SOP Instance UIDs.
func (st *stack) takeDuplicates() {
	kept := st.slices[:1:1]
	for _, s := range st.slices[1:] {
		if s.height-kept[len(kept)-1].height > samePosition {
			kept = append(kept, s)
			continue
		}
		s.twin = len(kept) - 1
		st.duplicates = append(st.duplicates, s)
	}
	st.slices = kept
	if n := len(st.duplicates); n > 0 {
		st.notes = append(st.notes, fmt.Sprintf("%d second copies of slices were left out: same position, same pixels", n))
	}
}

// evenSpacing returns the mean distance of the sorted slices, or says where one
// is missing.
func evenSpacing(sorted []*slice) (float64, error) {
	n := len(sorted)
	steps := make([]float64, n-1)
	for k := range steps {
		steps[k] = sorted[k+1].height - sorted[k].height
	}
	byLength := slices.Sorted(slices.Values(steps))
	median := byLength[len(byLength)/2]
	tolerance := max(unevenShare*median, unevenLeast)
	for k, step := range steps {
		if math.Abs(step-median) <= tolerance {
			continue
		}
		if missing := math.Round(step/median) - 1; missing >= 1 && math.Abs(step-(missing+1)*median) <= tolerance {
			return 0, seriesErrorf(Gap, "The series has a gap: %.0f slices are missing between slices %d and %d of %d, which are %.3g mm apart where the others are %.3g mm apart.", missing, k+1, k+2, n, step, median)
		}
		return 0, seriesErrorf(Gap, "The slices of the series are unevenly spaced: slices %d and %d of %d are %.3g mm apart where most are %.3g mm apart.", k+1, k+2, n, step, median)
	}
	mean := (sorted[n-1].height - sorted[0].height) / float64(n-1)
	for k, s := range sorted {
		if drift := s.height - sorted[0].height - float64(k)*mean; math.Abs(drift) > max(driftShare*mean, unevenLeast) {
			return 0, seriesErrorf(Gap, "The slices of the series are unevenly spaced: slice %d of %d is %.3g mm from its place in an even stack.", k+1, n, math.Abs(drift))
		}
	}
	return mean, nil
}

// aboveEachOther refuses stacks whose slices are shifted in their plane, as by
// a tilted gantry: such a volume is no right-angled grid.
func aboveEachOther(sorted []*slice, g Geometry) error {
	for k, s := range sorted {
		d := sub(s.position, g.Origin)
		for a := range 2 {
			if shift := math.Abs(dot(d, g.Axes[a])); shift > max(driftShare*g.Spacing[a], unevenLeast) {
				return seriesErrorf(Tilted, "The slices of the series are not above each other (tilted gantry or moved field of view): slice %d of %d is shifted by %.3g mm.", k+1, len(sorted), shift)
			}
		}
	}
	return nil
}
