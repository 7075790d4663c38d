package models

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"hilum/models/ct"
)

// Manifest is the content of a detector's model.json.
type Manifest struct {
	Common
	Input   Input    `json:"input"`             // from a CT volume to the network's input
	Output  Output   `json:"output"`            // from the network's output to findings
	Again   *Again   `json:"again,omitempty"`   // further looks where the first one saw something
	Rescore *Rescore `json:"rescore,omitempty"` // the second network, where there is one
}

// Input says how a CT volume becomes the network's input, float32
// [N, 1, D, H, W].
type Input struct {
	Name string `json:"name"` // of the ONNX input
	// Place is the name of a second ONNX input, float32 [N, 3, D/s, H/s, W/s] with s
	// the output's stride: where each cell stands in the prepared scan, as
	// nodule.Place computes it. "": the network has no such input.
	Place   string         `json:"place,omitempty"`
	Prepare ct.PrepareSpec `json:"prepare"` // volume → grid of bytes, run by models/ct
	Scale   Scale          `json:"scale"`   // byte → float32
	Patch   [3]int         `json:"patch"`   // z, y, x voxels that the network sees at once, margin included
	// Step is not 0 when a patch may have any shape in multiples of Step. It then
	// has at most as many voxels as Patch, which is so a limit of memory.
	Step   int `json:"step"`
	Margin int `json:"margin"` // voxels at each side of a patch whose findings are not used
	Batch  int `json:"batch"`  // patches in one call, where all have one shape
	// ReachMM is how far outside the lungs the centre of a finding may lie: a
	// mass on the pleura may be solid up to its centre and beyond.
	ReachMM float64 `json:"reach_mm"`
}

// Scale is the last step before the network: (v - Subtract) / Divide.
type Scale struct {
	Subtract float64 `json:"subtract"`
	Divide   float64 `json:"divide"`
}

// Output says how the network's output becomes findings; see package nodule
// for its layout.
type Output struct {
	Name      string    `json:"name"`        // of the ONNX output
	Stride    int       `json:"stride"`      // voxels between neighbouring cells
	Anchors   []float64 `json:"anchors"`     // diameters in voxels, ascending
	Threshold float64   `json:"threshold"`   // probability from which a finding is reported
	NMSIoU    float64   `json:"nms_iou"`     // cubes overlapping more are one finding
	Merge     float64   `json:"merge"`       // centres nearer than this many radii are one finding
	MinInLung float64   `json:"min_in_lung"` // share of a finding's ball that must lie in the lungs, 0..1; 0: reach_mm alone decides
	TopK      int       `json:"top_k"`       // most findings in one scan
}

// Again says where and how the network looks again: at the cells with a probability
// from From, once in each of the mirrors. What it says of them is then the mean of all
// looks, of logits, offsets and logarithms of diameters.
type Again struct {
	From    float64  `json:"from"`
	Mirrors []Mirror `json:"mirrors"`
}

// Mirror names the axes of a patch that run the other way, such as "zx".
type Mirror string

// Axes tells of z, y and x whether it runs the other way.
func (m Mirror) Axes() (flipped [3]bool) {
	for i, axis := range "zyx" {
		flipped[i] = strings.ContainsRune(string(m), axis)
	}
	return flipped
}

// mirrors are all there are.
var mirrors = []Mirror{"z", "y", "x", "zy", "zx", "yx", "zyx"}

// Rescore says how rescore.onnx judges the findings of the detector once more:
// crops of the prepared scan around them, [N, 1, Size, Size, Size] with the
// detector's Scale, become logits [N, 1]. The first voxel of the crop around a
// finding at voxel c of an axis is ⌊c - (Size-1)/2 + ½⌋.
type Rescore struct {
	SHA256    string  `json:"sha256"`    // of rescore.onnx
	Input     string  `json:"input"`     // name of the ONNX input
	Output    string  `json:"output"`    // name of the ONNX output
	Size      int     `json:"size"`      // voxels along each axis of a crop
	Batch     int     `json:"batch"`     // crops in one call
	Threshold float64 `json:"threshold"` // the detector's probability from which a finding is judged; the others are dropped
	// Weight of this network: a finding's probability is (1 - Weight) times the
	// detector's plus Weight times this one's. Output.Threshold applies to it.
	Weight float64 `json:"weight"`
}

// ParseManifest reads a detector's manifest strictly: every key must be known
// and present (metrics, intervals, input.place, again and rescore may be missing), and every value
// in its range.
func ParseManifest(data []byte) (Manifest, error) {
	return parse[Manifest](data, TaskNoduleDetection)
}

// Validate checks every value's range and names the first key that is wrong.
func (m Manifest) Validate() error {
	if err := m.Common.validate(TaskNoduleDetection); err != nil {
		return err
	}
	if err := m.Input.validate(m.Output.Stride); err != nil {
		return fmt.Errorf("input.%w", err)
	}
	if err := m.Output.validate(); err != nil {
		return fmt.Errorf("output.%w", err)
	}
	if m.Again != nil {
		if err := m.Again.validate(); err != nil {
			return fmt.Errorf("again.%w", err)
		}
		if m.Input.Place != "" {
			return errors.New("again: a network that reads its place (input.place) cannot look in a mirror")
		}
	}
	if m.Rescore != nil {
		if err := m.Rescore.validate(); err != nil {
			return fmt.Errorf("rescore.%w", err)
		}
	}
	return nil
}

func (in Input) validate(stride int) error {
	if in.Name == "" {
		return errors.New("name: is missing")
	}
	if in.Place == in.Name {
		return fmt.Errorf("place: %q is the other input's name", in.Place)
	}
	if err := in.Prepare.Validate(); err != nil {
		return fmt.Errorf("prepare.%w", err)
	}
	if !finite(in.Scale.Subtract) || !finite(in.Scale.Divide) || in.Scale.Divide == 0 {
		return fmt.Errorf("scale: (v - %g) / %g is not a scaling", in.Scale.Subtract, in.Scale.Divide)
	}
	if stride < 1 || stride > maxStride {
		return nil // Output.validate names it
	}
	voxels := 1
	for _, p := range in.Patch {
		// A core of at least one cell, whole cells, and a product that cannot overflow.
		if p < 1 || p > maxPatchVoxels || p%stride != 0 {
			return fmt.Errorf("patch: %v is not in whole cells of output.stride %d", in.Patch, stride)
		}
		if in.Margin < 0 || in.Margin > p || p-2*in.Margin < stride || in.Margin%stride != 0 {
			return fmt.Errorf("margin: %d leaves no whole cells in the middle of a patch of %v with stride %d", in.Margin, in.Patch, stride)
		}
		if voxels *= p; voxels > maxPatchVoxels {
			return fmt.Errorf("patch: %v has more than %d voxels", in.Patch, maxPatchVoxels)
		}
	}
	if in.Step < 0 || in.Step > maxPatchVoxels || in.Step%stride != 0 {
		return fmt.Errorf("step: %d is not 0 or a multiple of output.stride %d", in.Step, stride)
	}
	if in.Step > 0 {
		for _, p := range in.Patch {
			if p%in.Step != 0 {
				return fmt.Errorf("patch: %v is not a multiple of step %d", in.Patch, in.Step)
			}
		}
	}
	if in.Batch < 1 || in.Batch > maxBatch {
		return fmt.Errorf("batch: %d is not in 1..%d", in.Batch, maxBatch)
	}
	if !(in.ReachMM >= 0 && in.ReachMM <= maxReachMM) {
		return fmt.Errorf("reach_mm: %g is not in 0..%d", in.ReachMM, maxReachMM)
	}
	return nil
}

func (o Output) validate() error {
	switch {
	case o.Name == "":
		return errors.New("name: is missing")
	case o.Stride < 1 || o.Stride > maxStride:
		return fmt.Errorf("stride: %d is not in 1..%d", o.Stride, maxStride)
	case len(o.Anchors) < 1 || len(o.Anchors) > maxAnchors:
		return fmt.Errorf("anchors: there are %d, 1 to %d are possible", len(o.Anchors), maxAnchors)
	case !(o.Threshold > 0 && o.Threshold < 1):
		return fmt.Errorf("threshold: %g is not between 0 and 1", o.Threshold)
	case !(o.NMSIoU > 0 && o.NMSIoU <= 1):
		return fmt.Errorf("nms_iou: %g is not above 0 and at most 1", o.NMSIoU)
	case !(o.Merge >= 0 && o.Merge <= 2):
		return fmt.Errorf("merge: %g is not in 0..2", o.Merge)
	case !(o.MinInLung >= 0 && o.MinInLung <= 1):
		return fmt.Errorf("min_in_lung: %g is not in 0..1", o.MinInLung)
	case o.TopK < 1 || o.TopK > maxTopK:
		return fmt.Errorf("top_k: %d is not in 1..%d", o.TopK, maxTopK)
	}
	last := 0.0
	for _, a := range o.Anchors {
		if !(a > last && a <= maxAnchor) {
			return fmt.Errorf("anchors: %v are not ascending diameters of at most %d voxels", o.Anchors, maxAnchor)
		}
		last = a
	}
	return nil
}

func (a Again) validate() error {
	if !(a.From > 0 && a.From < 1) {
		return fmt.Errorf("from: %g is not between 0 and 1", a.From)
	}
	if len(a.Mirrors) == 0 {
		return errors.New("mirrors: there is none")
	}
	for i, m := range a.Mirrors {
		if !slices.Contains(mirrors, m) || slices.Contains(a.Mirrors[:i], m) {
			return fmt.Errorf("mirrors: %q is none of %q, or there twice", m, mirrors)
		}
	}
	return nil
}

func (r Rescore) validate() error {
	if err := checkHash(r.SHA256); err != nil {
		return err
	}
	switch {
	case r.Input == "":
		return errors.New("input: is missing")
	case r.Output == "":
		return errors.New("output: is missing")
	case r.Size < 1 || r.Size > maxCropSize:
		return fmt.Errorf("size: %d is not in 1..%d", r.Size, maxCropSize)
	case r.Batch < 1 || r.Batch > maxBatch:
		return fmt.Errorf("batch: %d is not in 1..%d", r.Batch, maxBatch)
	case !(r.Threshold > 0 && r.Threshold < 1):
		return fmt.Errorf("threshold: %g is not between 0 and 1", r.Threshold)
	case !(r.Weight >= 0 && r.Weight <= 1):
		return fmt.Errorf("weight: %g is not in 0..1", r.Weight)
	}
	return nil
}
