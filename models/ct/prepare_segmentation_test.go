package ct

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// A segmentation may be stored with other axes than the scan: the voxels count
// where they lie in the patient.
func TestPrepareWithSegmentation(t *testing.T) {
	o := chestOptions{}
	v := chest(chestGrid(orientations["axial"], 3), o)
	spec := DefaultPrepareSpec()
	spec.SpacingMM = [3]float64{2, 2, 2}
	var first *Prepared
	for name, axes := range orientations {
		if strings.HasPrefix(name, "oblique") { // does not cover the scan's corners
			continue
		}
		t.Run(name, func(t *testing.T) {
			seg := &Volume{Geometry: v.Geometry}
			view := scan{Geometry: v.Geometry}
			seg.Axes = axes
			order, flip := canonicalOrder(seg.Geometry)
			// The same grid with its axes renamed as the orientation has them.
			var corner [3]float64
			for a, from := range order {
				seg.Size[from], seg.Spacing[from] = view.Size[a], view.Spacing[a]
				if flip[a] {
					corner[a] = float64(view.Size[a] - 1)
				}
			}
			seg.Origin = view.World(corner[0], corner[1], corner[2])
			seg.HU = make([]int16, seg.Voxels())
			for n := range seg.HU {
				p := seg.World(float64(n%seg.Size[0]), float64(n/seg.Size[0]%seg.Size[1]), float64(n/(seg.Size[0]*seg.Size[1])))
				if inLungs(p, o) {
					seg.HU[n] = LabelRightLung
					if p[0] > 0 {
						seg.HU[n] = LabelLeftLung
					}
				}
			}
			var steps []string
			p, err := PrepareWith(v, spec, PrepareOptions{Threads: 2, Lungs: seg, Step: func(s string) { steps = append(steps, s) }})
			if err != nil {
				t.Fatal(err)
			}
			if want := []string{StepLungs, StepResample, StepBorder, StepMask, StepCrop}; !slices.Equal(steps, want) {
				t.Errorf("steps = %v, want %v", steps, want)
			}
			if first == nil {
				first = p
			}
			if p.Size != first.Size || !slices.Equal(p.Data, first.Data) || !slices.Equal(p.Mask.Bits, first.Mask.Bits) {
				t.Errorf("the result depends on how the segmentation is stored")
			}
			seg.Origin[0] += 10
			if _, err := PrepareWith(v, spec, PrepareOptions{Lungs: seg}); !errors.Is(err, ErrOtherGrid) {
				t.Errorf("a moved segmentation: %v, want ErrOtherGrid", err)
			}
			clear(seg.HU)
			seg.Origin[0] -= 10
			if _, err := PrepareWith(v, spec, PrepareOptions{Lungs: seg}); !errors.Is(err, ErrNoLungs) {
				t.Errorf("an empty segmentation: %v, want ErrNoLungs", err)
			}
		})
	}
}
