// Package models loads model artefacts. A model is a folder with model.onnx,
// the network, and model.json, the manifest: what the network is, how its input
// is prepared, how its output is read, where it comes from and what it may be
// used for. A detector may bring a second network, rescore.onnx, that looks at
// its findings once more.
//
// Load and LoadClassifier refuse a manifest with an unknown or missing key or a
// value out of its range, and networks whose SHA-256 is not the manifest's. They
// do not run anything: that is the inference plugin's part.
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
)

// Tasks of models.
const (
	TaskNoduleDetection      = "nodule-detection"      // finds lung nodules in a prepared chest CT: Manifest
	TaskNoduleClassification = "nodule-classification" // judges nodules that were found: ClassifierManifest
)

// Execution providers of the runtime on a CPU.
const (
	ProviderCPU      = "cpu"      // the runtime's own kernels; always there
	ProviderOpenVINO = "openvino" // needs a runtime built with it
)

// Common is what the manifest of every task says.
type Common struct {
	Name    string `json:"name"`    // lower case, as in results and logs
	Version string `json:"version"` // of the model, major.minor.patch
	Task    string `json:"task"`    // TaskNoduleDetection or TaskNoduleClassification
	SHA256  string `json:"sha256"`  // of model.onnx, 64 hexadecimal digits
	// CPUProviders are the execution providers to try on a CPU, best first:
	// ProviderOpenVINO, ProviderCPU. Which is faster depends on the network.
	CPUProviders []string   `json:"cpu_providers"`
	Provenance   Provenance `json:"provenance"`   // where the model comes from
	Licence      string     `json:"licence"`      // SPDX identifier of the model
	IntendedUse  string     `json:"intended_use"` // what it is for and what it is not
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
	maxReachMM       = 50
	maxCropSize      = 128 // voxels
)

var (
	namePattern    = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)
	versionPattern = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+$`)
)

// parse reads the manifest of a task strictly: every key must be known and
// present, unless the type says that it may be missing.
func parse[T interface{ Validate() error }](data []byte, task string) (m T, err error) {
	var none T
	if len(data) > maxManifestBytes {
		return none, fmt.Errorf("the manifest has %d bytes, at most %d are read", len(data), maxManifestBytes)
	}
	var other struct {
		Task string `json:"task"`
	}
	// A manifest of another task would be refused for its keys, which says less.
	if err := json.Unmarshal(data, &other); err == nil && other.Task != task && slices.Contains(tasks, other.Task) {
		return none, fmt.Errorf("task: it is a model for %q, and one for %q is needed", other.Task, task)
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&m); err != nil {
		return none, explain(data, err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return none, fmt.Errorf("line %d: text after the end of the manifest", line(data, dec.InputOffset()))
	}
	if key := missingKey(data, reflect.TypeFor[T]()); key != "" {
		return none, fmt.Errorf("key %s is missing", key)
	}
	if err := m.Validate(); err != nil {
		return none, err
	}
	return m, nil
}

var tasks = []string{TaskNoduleDetection, TaskNoduleClassification}

// missingKey returns the first key of the struct type t that the JSON object
// data lacks, with its path, or "". A key left out would silently mean 0: a
// model would run with another preparation than it was made for.
func missingKey(data []byte, t reflect.Type) string {
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil || object == nil {
		return "" // not an object: Validate sees the zero values
	}
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous { // its keys are among ours
			if key := missingKey(data, f.Type); key != "" {
				return key
			}
			continue
		}
		key, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		value, ok := object[key]
		if !ok {
			if option == "omitempty" {
				continue
			}
			return key
		}
		kind := f.Type
		if kind.Kind() == reflect.Pointer {
			kind = kind.Elem()
		}
		if kind.Kind() == reflect.Struct {
			if inner := missingKey(value, kind); inner != "" {
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

// validate checks what the manifest of every task has.
func (m Common) validate(task string) error {
	switch {
	case !namePattern.MatchString(m.Name):
		return fmt.Errorf("name: %q is not a name of a-z, 0-9, '.', '_' and '-'", m.Name)
	case !versionPattern.MatchString(m.Version):
		return fmt.Errorf("version: %q is not of the form 1.2.3", m.Version)
	case m.Task != task:
		return fmt.Errorf("task: %q is unknown, this version runs %q", m.Task, tasks)
	case strings.TrimSpace(m.Licence) == "":
		return errors.New("licence: is missing")
	case strings.TrimSpace(m.IntendedUse) == "":
		return errors.New("intended_use: is missing")
	}
	if err := checkHash(m.SHA256); err != nil {
		return err
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

func checkHash(sum string) error {
	if b, err := hex.DecodeString(sum); err != nil || len(b) != 32 || strings.ToLower(sum) != sum {
		return fmt.Errorf("sha256: %q is not 64 lower-case hexadecimal digits", sum)
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
