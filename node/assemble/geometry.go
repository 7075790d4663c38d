package assemble

import (
	"fmt"
	"math"
	"slices"
)

// Slice is what completeness takes from the header of one image.
type Slice struct {
	Position       []float64 // Image Position (Patient), LPS mm; empty if absent
	Orientation    []float64 // Image Orientation (Patient); empty if absent
	InstanceNumber int       // 0 if absent
}

// Geometry is what the headers of a series say about missing slices.
type Geometry struct {
	Regular bool   // three or more parallel slices, evenly spaced, none missing
	Problem string // the sign of a missing image, "" if there is none
}

const (
	// gapRatio: a distance between neighbouring slices above this multiple
	// of the median distance is a missing slice. Scanners' positions are
	// uneven by microns to tenths of a millimetre; a missing slice doubles
	// the distance.
	gapRatio = 1.5
	// parallel: two slices are parallel when their normals' cosine is at
	// least this.
	parallel = 0.999
	// samePlace: positions closer than this (mm) are one place, shot twice.
	samePlace = 1e-3
)

// Examine looks for missing slices: a gap between positions along the slice
// normal or, where there are no positions, in the instance numbers. Images
// that are not parallel slices (a scout, a reformat in several planes) are no
// sign of anything: completeness then rests on time alone.
func Examine(images []Slice) Geometry {
	places, ok := along(images)
	if !ok {
		return Geometry{Problem: numberGap(images)}
	}
	slices.Sort(places)
	places = slices.CompactFunc(places, func(a, b float64) bool { return math.Abs(b-a) < samePlace })
	if len(places) < 3 {
		return Geometry{}
	}
	steps := make([]float64, len(places)-1)
	for i := range steps {
		steps[i] = places[i+1] - places[i]
	}
	sorted := slices.Clone(steps)
	slices.Sort(sorted)
	median := sorted[len(sorted)/2]
	gaps, missing := 0, 0
	for _, step := range steps {
		if step > gapRatio*median {
			gaps++
			missing += max(int(math.Round(step/median))-1, 1)
		}
	}
	switch {
	case gaps == 0:
		return Geometry{Regular: true}
	case gaps == 1:
		return Geometry{Problem: fmt.Sprintf("a gap in the slice positions (about %d missing)", missing)}
	default:
		return Geometry{Problem: fmt.Sprintf("%d gaps in the slice positions (about %d missing)", gaps, missing)}
	}
}

// along projects the positions on the slices' common normal. It reports false
// when an image has no position or is not parallel to the first.
func along(images []Slice) ([]float64, bool) {
	if len(images) == 0 {
		return nil, false
	}
	first, ok := normal(images[0].Orientation)
	if !ok {
		return nil, false
	}
	places := make([]float64, len(images))
	for i, im := range images {
		n, ok := normal(im.Orientation)
		if !ok || len(im.Position) != 3 || dot(n, first) < parallel {
			return nil, false
		}
		places[i] = dot([3]float64(im.Position), first)
		if math.IsNaN(places[i]) || math.IsInf(places[i], 0) {
			return nil, false
		}
	}
	return places, true
}

// normal is the unit normal of a slice: row direction × column direction.
func normal(o []float64) ([3]float64, bool) {
	if len(o) != 6 {
		return [3]float64{}, false
	}
	n := [3]float64{o[1]*o[5] - o[2]*o[4], o[2]*o[3] - o[0]*o[5], o[0]*o[4] - o[1]*o[3]}
	length := math.Sqrt(dot(n, n))
	if !(length > 0.5) || math.IsInf(length, 0) { // also refuses NaN
		return n, false
	}
	return [3]float64{n[0] / length, n[1] / length, n[2] / length}, true
}

func dot(a, b [3]float64) float64 { return a[0]*b[0] + a[1]*b[1] + a[2]*b[2] }

// numberGap looks for holes in the instance numbers of images that have no
// usable position. Numbers that repeat (several acquisitions) say nothing.
func numberGap(images []Slice) string {
	numbers := make([]int, 0, len(images))
	for _, im := range images {
		if im.InstanceNumber <= 0 || len(im.Position) > 0 {
			return ""
		}
		numbers = append(numbers, im.InstanceNumber)
	}
	slices.Sort(numbers)
	if len(numbers) < 3 || len(slices.Compact(slices.Clone(numbers))) != len(numbers) {
		return ""
	}
	missing := numbers[len(numbers)-1] - numbers[0] + 1 - len(numbers)
	if missing == 0 || missing > len(numbers) {
		return "" // complete, or numbered in another way
	}
	return fmt.Sprintf("a gap in the instance numbers (%d missing)", missing)
}
