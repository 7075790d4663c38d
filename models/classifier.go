package models

import (
	"errors"
	"fmt"
	"math"
	"slices"
)

// Textures of a nodule, as classifiers name them.
const (
	TextureSolid       = "solid"
	TexturePartSolid   = "part-solid"
	TextureGroundGlass = "ground-glass"
)

var textures = []string{TextureSolid, TexturePartSolid, TextureGroundGlass}

// ClassifierManifest is the content of a classifier's model.json.
type ClassifierManifest struct {
	Common
	Input   ClassifierInput   `json:"input"`   // from a CT volume and a finding to the network's inputs
	Outputs ClassifierOutputs `json:"outputs"` // from the network's outputs to a judgement
}

// ClassifierInput says how a finding in a CT volume becomes the network's
// inputs: a cube around its centre, float32 [N, 1, Size, Size, Size] with axes
// z, y, x along the patient (z to the head, y to the back, x to the left), and
// its diameter in mm, float32 [N, 1].
//
// Sample i of an axis lies (i - (Size-1)/2)·SpacingMM from the centre and is
// interpolated linearly; WindowHU becomes 0..1, what lies beyond is clipped.
type ClassifierInput struct {
	Crops      string     `json:"crops"`        // name of the ONNX input of cubes
	Diameter   string     `json:"diameter"`     // name of the ONNX input of diameters
	SpacingMM  float64    `json:"spacing_mm"`   // between samples, along each axis
	WindowHU   [2]float64 `json:"window_hu"`    // becomes 0..1
	PadValueHU float64    `json:"pad_value_hu"` // outside the scan
	Size       int        `json:"size"`         // samples along each axis
}

// ClassifierOutputs says what the network's outputs are.
type ClassifierOutputs struct {
	Malignancy   string   `json:"malignancy"`    // name of the ONNX output [N, 1]: probability
	Texture      string   `json:"texture"`       // name of the ONNX output [N, T]: probability of each texture
	TextureNames []string `json:"texture_names"` // of the T textures: TextureSolid …
	// Leak is the probability that a patient without any malignant finding has a
	// malignant nodule: the p_base of the leaky noisy-or.
	Leak float64 `json:"leak"`
}

// ParseClassifierManifest reads a classifier's manifest as ParseManifest reads a
// detector's.
func ParseClassifierManifest(data []byte) (ClassifierManifest, error) {
	return parse[ClassifierManifest](data, TaskNoduleClassification)
}

// Validate checks every value's range and names the first key that is wrong.
func (m ClassifierManifest) Validate() error {
	if err := m.Common.validate(TaskNoduleClassification); err != nil {
		return err
	}
	if err := m.Input.validate(); err != nil {
		return fmt.Errorf("input.%w", err)
	}
	if err := m.Outputs.validate(); err != nil {
		return fmt.Errorf("outputs.%w", err)
	}
	return nil
}

// Spacing of a classifier's samples, mm: as of a prepared scan.
const minCropSpacing, maxCropSpacing = 0.2, 10

func (in ClassifierInput) validate() error {
	switch lo, hi := in.WindowHU[0], in.WindowHU[1]; {
	case in.Crops == "":
		return errors.New("crops: is missing")
	case in.Diameter == "" || in.Diameter == in.Crops:
		return fmt.Errorf("diameter: %q is not the name of a second input", in.Diameter)
	case !(in.SpacingMM >= minCropSpacing && in.SpacingMM <= maxCropSpacing):
		return fmt.Errorf("spacing_mm: %g is not between %g and %d", in.SpacingMM, minCropSpacing, maxCropSpacing)
	case !(lo >= math.MinInt16 && hi <= math.MaxInt16 && hi-lo >= 1):
		return fmt.Errorf("window_hu: [%g, %g] is not a range of HU", lo, hi)
	case !(in.PadValueHU >= math.MinInt16 && in.PadValueHU <= math.MaxInt16):
		return fmt.Errorf("pad_value_hu: %g is no HU", in.PadValueHU)
	case in.Size < 1 || in.Size > maxCropSize:
		return fmt.Errorf("size: %d is not in 1..%d", in.Size, maxCropSize)
	}
	return nil
}

func (o ClassifierOutputs) validate() error {
	switch {
	case o.Malignancy == "":
		return errors.New("malignancy: is missing")
	case o.Texture == "" || o.Texture == o.Malignancy:
		return fmt.Errorf("texture: %q is not the name of a second output", o.Texture)
	case len(o.TextureNames) == 0:
		return fmt.Errorf("texture_names: is empty; there are %q", textures)
	case !(o.Leak >= 0 && o.Leak < 1):
		return fmt.Errorf("leak: %g is not in 0..1", o.Leak)
	}
	for i, name := range o.TextureNames {
		if !slices.Contains(textures, name) || slices.Contains(o.TextureNames[:i], name) {
			return fmt.Errorf("texture_names: %q is unknown or named twice; there are %q", name, textures)
		}
	}
	return nil
}
