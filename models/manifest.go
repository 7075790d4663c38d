// Package models loads model artefacts. A model is a folder with two files:
// model.onnx, the network, and model.json, the manifest: what the network is,
// how its input is prepared, how its output is read, where it comes from and
// what it may be used for.
//
// Load refuses a manifest with an unknown or missing key or a value out of its
// range, and a network whose SHA-256 is not the manifest's. It does not run
// anything: that is the inference plugin's part.
package models

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"regexp"
	"slices"
	"strings"

	"hilum/models/ct"
)

// TaskNoduleDetection is the only task there is so far: a network that finds
// lung nodules in a prepared chest CT, with the output of package nodule.
const TaskNoduleDetection = "nodule-detection"

// Execution providers of the runtime on a CPU.
const (
	ProviderCPU      = "cpu"      // the runtime's own kernels; always there
	ProviderOpenVINO = "openvino" // needs a runtime built with it
)

// Manifest is the content of model.json.
type Manifest struct {
	Name    string `json:"name"`    // lower case, as in results and logs
	Version string `json:"version"` // of the model, major.minor.patch
	Task    string `json:"task"`    // TaskNoduleDetection
	SHA256  string `json:"sha256"`  // of model.onnx, 64 hexadecimal digits
	Input   Input  `json:"input"`   // from a CT volume to the network's input
	Output  Output `json:"output"`  // from the network's output to findings
	// CPUProviders are the execution providers to try on a CPU, best first:
	// ProviderOpenVINO, ProviderCPU. Which is faster depends on the network.
	CPUProviders []string   `json:"cpu_providers"`
	Provenance   Provenance `json:"provenance"`   // where the model comes from
	Licence      string     `json:"licence"`      // SPDX identifier of the model
	IntendedUse  string     `json:"intended_use"` // what it is for and what it is not
}

// Input says how a CT volume becomes the network's input, float32
// [N, 1, D, H, W].
type Input struct {
	Name    string         `json:"name"`    // of the ONNX input
	Prepare ct.PrepareSpec `json:"prepare"` // volume → grid of bytes, run by models/ct
	Scale   Scale          `json:"scale"`   // byte → float32
	Patch   [3]int         `json:"patch"`   // z, y, x voxels that the network sees at once, margin included
	Step    int            `json:"step"`    // patches may be smaller than Patch, in multiples of Step; 0: always exactly Patch
	Margin  int            `json:"margin"`  // voxels at each side of a patch whose findings are not used
	Batch   int            `json:"batch"`   // patches in one call
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
	MinInLung float64   `json:"min_in_lung"` // share of a finding's ball that must lie in the lungs, 0..1; 0: it must touch them
	TopK      int       `json:"top_k"`       // most findings in one scan
}

// Provenance says where a model comes from, so that it can be made again and
// its figures be judged.
type Provenance struct {
	Data     string   `json:"data"`     // what it was trained or tuned on
	Code     string   `json:"code"`     // file or revision that made it
	Command  string   `json:"command"`  // what makes it again
	Settings string   `json:"settings"` // those that are not the defaults
	Metrics  []Metric `json:"metrics"`  // what was measured; may be an empty list
}

// Metric is one measured figure.
type Metric struct {
	Name     string      `json:"name"`
	Value    float64     `json:"value"`
	Interval *[2]float64 `json:"interval,omitempty"` // 95 %, where one was computed
	Data     string      `json:"data"`               // on what it was measured
	Command  string      `json:"command"`            // how
}

// Bounds of a manifest. They are far beyond any sensible model and keep a
// damaged or hostile manifest from asking for memory that is not there.
const (
	maxManifestBytes = 1 << 20
	maxPatchVoxels   = 512 * 512 * 512
	maxBatch         = 64
	maxAnchors       = 64
	maxStride        = 64
	maxAnchor        = 500 // voxels
	maxTopK          = 10_000
)

var (
	namePattern    = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	versionPattern = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+$`)
)

// ParseManifest reads a manifest strictly: every key must be known and present
// (metrics and intervals may be missing), and every value in its range.
func ParseManifest(data []byte) (Manifest, error) {
	var m Manifest
	if len(data) > maxManifestBytes {
		return m, fmt.Errorf("the manifest has %d bytes, at most %d are read", len(data), maxManifestBytes)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return Manifest{}, explain(data, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return Manifest{}, fmt.Errorf("line %d: text after the end of the manifest", line(data, dec.InputOffset()))
	}
	if key := missingKey(data, reflect.TypeFor[Manifest]()); key != "" {
		return Manifest{}, fmt.Errorf("key %s is missing", key)
	}
	if err := m.Validate(); err != nil {
		return Manifest{}, err
	}
	return m, nil
}

// missingKey returns the first key of the struct type t that the JSON object
// data lacks, with its path, or "". A key left out would silently mean 0: a
// model would run with another preparation than it was made for.
func missingKey(data []byte, t reflect.Type) string {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil {
		return "" // not an object: Validate sees the zero values
	}
	for i := range t.NumField() {
		f := t.Field(i)
		key, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		value, ok := object[key]
		if !ok {
			if option == "omitempty" {
				continue
			}
			return key
		}
		if f.Type.Kind() == reflect.Struct {
			if inner := missingKey(value, f.Type); inner != "" {
				return key + "." + inner
			}
		}
	}
	return ""
}

// explain adds the line to a JSON error where it is known.
func explain(data []byte, err error) error {
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Errorf("line %d: %w", line(data, syntax.Offset), err)
	case errors.As(err, &kind):
		return fmt.Errorf("line %d: key %s cannot be a %s", line(data, kind.Offset), kind.Field, kind.Value)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return errors.New("the manifest is empty or cut off")
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}

func line(data []byte, offset int64) int {
	return 1 + bytes.Count(data[:max(0, min(int64(len(data)), offset))], []byte("\n"))
}

// Validate checks every value's range and names the first key that is wrong.
func (m Manifest) Validate() error {
	switch {
	case !namePattern.MatchString(m.Name):
		return fmt.Errorf("name: %q is not a name of a-z, 0-9, '.', '_' and '-'", m.Name)
	case !versionPattern.MatchString(m.Version):
		return fmt.Errorf("version: %q is not of the form 1.2.3", m.Version)
	case m.Task != TaskNoduleDetection:
		return fmt.Errorf("task: %q is unknown, this version runs %q", m.Task, TaskNoduleDetection)
	case strings.TrimSpace(m.Licence) == "":
		return errors.New("licence: is missing")
	case strings.TrimSpace(m.IntendedUse) == "":
		return errors.New("intended_use: is missing")
	}
	if b, err := hex.DecodeString(m.SHA256); err != nil || len(b) != 32 || strings.ToLower(m.SHA256) != m.SHA256 {
		return fmt.Errorf("sha256: %q is not 64 lower-case hexadecimal digits", m.SHA256)
	}
	if err := m.Input.validate(m.Output.Stride); err != nil {
		return fmt.Errorf("input.%w", err)
	}
	if err := m.Output.validate(); err != nil {
		return fmt.Errorf("output.%w", err)
	}
	if len(m.CPUProviders) == 0 {
		return fmt.Errorf("cpu_providers: is empty; name %q, %q or both", ProviderOpenVINO, ProviderCPU)
	}
	for i, p := range m.CPUProviders {
		if (p != ProviderCPU && p != ProviderOpenVINO) || slices.Contains(m.CPUProviders[:i], p) {
			return fmt.Errorf("cpu_providers: %q is unknown or named twice; there are %q and %q", p, ProviderOpenVINO, ProviderCPU)
		}
	}
	if err := m.Provenance.validate(); err != nil {
		return fmt.Errorf("provenance.%w", err)
	}
	return nil
}

func (in Input) validate(stride int) error {
	if in.Name == "" {
		return errors.New("name: is missing")
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

func (p Provenance) validate() error {
	switch {
	case strings.TrimSpace(p.Data) == "":
		return errors.New("data: is missing")
	case strings.TrimSpace(p.Code) == "":
		return errors.New("code: is missing")
	case strings.TrimSpace(p.Command) == "":
		return errors.New("command: is missing")
	}
	for i, m := range p.Metrics {
		if m.Name == "" || m.Data == "" || m.Command == "" || !finite(m.Value) {
			return fmt.Errorf("metrics: entry %d needs a name, a value, data and command", i+1)
		}
		if r := m.Interval; r != nil && !(r[0] <= m.Value && m.Value <= r[1]) {
			return fmt.Errorf("metrics: the value of entry %d (%s) is outside its interval", i+1, m.Name)
		}
	}
	return nil
}

func finite(v float64) bool { return !math.IsNaN(v) && !math.IsInf(v, 0) }
