package api

import (
	"context"
	"fmt"
)

// Kinds of plugin.
const (
	KindDetector   = "detector"   // finds nodules in a series
	KindClassifier = "classifier" // judges the findings of a detector
)

// Plugin is what a plugin author implements and Serve runs.
type Plugin interface {
	// Describe must answer within the start timeout of the host (a minute by
	// default), so this is the moment to have the models loaded and checked: an
	// error stops the start and is shown to the person who starts the node.
	Describe(ctx context.Context) (Description, error)

	// Analyze must look at the series in job.Folder and return what it found.
	// It is called for one job at a time. It must return soon after ctx ends:
	// a process that does not is killed. It must not write to job.Folder, and
	// it may call progress from any goroutine while it runs. An *InputError
	// says that trying again cannot help; any other error may be tried again.
	Analyze(ctx context.Context, job Job, progress Progress) (Result, error)
}

// Progress tells the host how far a job is; fraction runs from 0 to 1. The
// message is shown to people and must hold no patient data.
type Progress func(fraction float64, message string)

// Description says what a plugin is.
type Description struct {
	Name       string   `json:"name"`
	Version    string   `json:"version"`
	Kind       string   `json:"kind"` // KindDetector or KindClassifier
	Modalities []string `json:"modalities,omitempty"`
	Models     []Model  `json:"models,omitempty"`
	Devices    []string `json:"devices,omitempty"` // "cpu", "cuda"
	Runtime    string   `json:"runtime,omitempty"` // e.g. "onnxruntime 1.24.1 openvino"
}

// Model names one model artefact that a plugin has loaded.
type Model struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"` // of the ONNX file, lower case hex
}

// Job is one series to analyse.
type Job struct {
	ID       string
	Folder   string            // Part 10 files of one series, or (from the trainer) one MetaImage; read-only
	Series   map[string]string // DICOM keyword to text; the host takes out who the patient is
	Findings []Finding         // of the plugins that ran before this one
	Device   string            // "cpu", "cuda:0"
	Threads  int               // 0: the plugin chooses
	Scratch  string            // a folder for temporary files; "": the host makes one and empties it after the job
}

// Finding is one thing found. Positions are DICOM patient coordinates (LPS) in mm.
type Finding struct {
	ID          string     `json:"id"`          // unique within a result; "": the host numbers it
	Center      [3]float64 `json:"center"`      // x, y, z
	Size        [3]float64 `json:"size"`        // edge lengths of the box along x, y, z; zero if not measured
	DiameterMM  float64    `json:"diameter_mm"` // zero if not measured
	Probability float64    `json:"probability"` // 0 to 1
	// Malignancy is the probability that it is malignant; nil: not judged.
	Malignancy *float64 `json:"malignancy,omitempty"`
	// Texture is TextureSolid … or "": not judged; TextureProbability is its
	// probability, 0 to 1.
	Texture            string  `json:"texture,omitempty"`
	TextureProbability float64 `json:"texture_probability,omitempty"`
	Label              string  `json:"label,omitempty"`
	Mask               *Mask   `json:"mask,omitempty"`
	Site               Site    `json:"site,omitempty"`          // "": somewhere in the lungs
	LongAxisMM         float64 `json:"long_axis_mm,omitempty"`  // longest diameter in one slice; zero if not measured
	ShortAxisMM        float64 `json:"short_axis_mm,omitempty"` // longest diameter at a right angle to it, in the same slice
	VolumeMM3          float64 `json:"volume_mm3,omitempty"`    // zero if not measured
	Views              []View  `json:"views,omitempty"`         // pictures for people: axial, coronal, sagittal; at most MaxViews
}

// Site is a part of the lungs.
type Site string

// The sites that a plugin can name.
const (
	SiteRightLung       Site = "right lung"
	SiteLeftLung        Site = "left lung"
	SiteRightUpperLobe  Site = "right upper lobe"
	SiteRightMiddleLobe Site = "right middle lobe"
	SiteRightLowerLobe  Site = "right lower lobe"
	SiteLeftUpperLobe   Site = "left upper lobe"
	SiteLeftLowerLobe   Site = "left lower lobe"
)

// View is a grey picture of the scan around a finding. The node itself decodes
// no pixels: what a report shows comes from the plugin.
type View struct {
	Columns    int        `json:"columns"`
	Rows       int        `json:"rows"`
	Spacing    float64    `json:"spacing"`     // mm from pixel to pixel along columns and rows
	Origin     [3]float64 `json:"origin"`      // centre of the first pixel, LPS mm
	ColumnAxis [3]float64 `json:"column_axis"` // unit vector in LPS in which the column number grows
	RowAxis    [3]float64 `json:"row_axis"`
	Pixels     []byte     `json:"pixels"` // 0 black to 255 white, row by row
}

// Textures of a nodule.
const (
	TextureSolid       = "solid"
	TexturePartSolid   = "part-solid"
	TextureGroundGlass = "ground-glass"
)

// Mask marks the voxels of a finding on a grid of its own.
type Mask struct {
	Size    [3]int        `json:"size"`    // columns, rows, slices
	Origin  [3]float64    `json:"origin"`  // centre of the first voxel, LPS mm
	Spacing [3]float64    `json:"spacing"` // mm along columns, rows, slices
	Axes    [3][3]float64 `json:"axes"`    // unit vectors in LPS in which the column, row and slice number grow
	Bits    []byte        `json:"bits"`    // one bit a voxel, column fastest, least significant bit first
}

// Result is the answer to a Job.
type Result struct {
	Findings    []Finding         `json:"findings"`
	Description Description       `json:"description"` // of the process that ran the job: set by the host
	Device      string            `json:"device,omitempty"`
	Notes       []string          `json:"notes,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"` // timings, counts
	// Malignancy is the probability that any nodule of this patient is
	// malignant; nil: not judged.
	Malignancy *float64 `json:"malignancy,omitempty"`
}

// InputError is returned by a plugin when the series cannot be analysed, now or
// later: trying again does not help. It crosses the process border as itself.
// The reason is shown to people and must hold no patient data.
type InputError struct{ Reason string }

func (e *InputError) Error() string { return e.Reason }

// ResultError is returned when the answer of a plugin breaks the contract, for
// example a probability that is not a number. Nothing of such an answer is used.
type ResultError struct{ Reason string }

func (e *ResultError) Error() string { return "the answer breaks the plugin contract: " + e.Reason }

func resultErrorf(format string, args ...any) *ResultError {
	return &ResultError{Reason: fmt.Sprintf(format, args...)}
}
