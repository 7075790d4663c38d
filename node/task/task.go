// Package task says what the node writes into the store's job queue: the
// analysis of one revision of one series by one plugin, and the delivery of
// one object to one destination.
//
// The store keeps payloads and results as JSON without reading them; this
// package is the only place that knows their shape.
package task

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"hilum/plugins/api"
	"hilum/store"
)

// Queue names. Every pipeline and every destination has a queue of its own, so
// that a slow one never holds up another; a pipeline has a second one for what
// is urgent.
const (
	analysisPrefix = "analysis/"
	urgentPrefix   = "urgent/"
	deliveryPrefix = "delivery/"
)

// AnalysisQueue names the queue of the pipeline with this name, a plugin's own
// name where the pipeline is a plugin alone.
func AnalysisQueue(pipeline string) string { return analysisPrefix + pipeline }

// AnalysisQueues names all queues of a pipeline, the more urgent first.
func AnalysisQueues(pipeline string) []string {
	return []string{urgentPrefix + pipeline, analysisPrefix + pipeline}
}

// DeliveryQueue names the queue of the destination with this name.
func DeliveryQueue(destination string) string { return deliveryPrefix + destination }

// IsAnalysis reports whether j is the analysis of a series.
func IsAnalysis(j store.Job) bool {
	return strings.HasPrefix(j.Queue, analysisPrefix) || strings.HasPrefix(j.Queue, urgentPrefix)
}

// IsDelivery reports whether j is the delivery of an object.
func IsDelivery(j store.Job) bool { return strings.HasPrefix(j.Queue, deliveryPrefix) }

// Analysis is the payload of an analysis job.
type Analysis struct {
	SeriesInstanceUID string `json:"series_instance_uid"`
	StudyInstanceUID  string `json:"study_instance_uid"`
	Plugin            string `json:"plugin"`   // the pipeline; a plugin alone is one of its own name
	Revision          int    `json:"revision"` // the series' completion this analysis belongs to
	Urgent            bool   `json:"urgent,omitempty"`
	FailedOn          string `json:"failed_on,omitempty"` // "plugin@device" of each failed attempt, with spaces between them
}

// Failed adds a device on which a plugin failed.
func (a Analysis) Failed(plugin, device string) Analysis {
	if entry := plugin + "@" + device; !slices.Contains(strings.Fields(a.FailedOn), entry) {
		a.FailedOn = strings.TrimSpace(a.FailedOn + " " + entry)
	}
	return a
}

// Failures are the devices on which a plugin failed.
func (a Analysis) Failures(plugin string) []string {
	var devices []string
	for _, entry := range strings.Fields(a.FailedOn) {
		if device, ok := strings.CutPrefix(entry, plugin+"@"); ok {
			devices = append(devices, device)
		}
	}
	return devices
}

// AnalysisResult is what a plugin found. It is kept in the job before the
// report is made of it, so that a node that dies in between makes the very
// same report after its restart.
type AnalysisResult struct {
	Result    api.Result `json:"result"`
	Instances []Object   `json:"instances"`       // the exact images analysed
	Software  string     `json:"software"`        // version of Hilum
	Ended     time.Time  `json:"ended"`           // zero while plugins of the pipeline are still to come
	Seconds   float64    `json:"seconds"`         // from the start of the attempt
	Report    Object     `json:"report"`          // the structured report; zero until the job is done
	Steps     []Step     `json:"steps,omitempty"` // what ran where, in order

	Tracking []Tracking `json:"tracking,omitempty"` // of the findings, in their order
	Objects  []Made     `json:"objects,omitempty"`  // all that was made of it, the report too
}

// Tracking is the identity of a nodule over the revisions of its series.
type Tracking struct {
	ID  string `json:"id"`
	UID string `json:"uid"`
}

// Made is an object that was made of a result.
type Made struct {
	Kind string `json:"kind"` // sr, seg, sc, gsps
	Object
}

// All names every object that was made of a result.
func (r AnalysisResult) All() []Made {
	if len(r.Objects) == 0 && r.Report.SOPInstanceUID != "" { // written by version 0.1
		return []Made{{Kind: "sr", Object: r.Report}}
	}
	return r.Objects
}

// Bare is the result without what only its objects need: masks and pictures, which would
// make every list of jobs a read of all of them.
func (r AnalysisResult) Bare() AnalysisResult {
	r.Result.Findings = slices.Clone(r.Result.Findings)
	for i := range r.Result.Findings {
		r.Result.Findings[i].Mask, r.Result.Findings[i].Views = nil, nil
	}
	return r
}

// Step is what one plugin of the pipeline did.
type Step struct {
	Plugin   string  `json:"plugin"`
	Version  string  `json:"version"`
	Device   string  `json:"device"`
	Threads  int     `json:"threads"`
	Findings int     `json:"findings"`
	Seconds  float64 `json:"seconds"`
}

// Object names one stored object.
type Object struct {
	SOPClassUID    string `json:"sop_class_uid"`
	SOPInstanceUID string `json:"sop_instance_uid"`
}

// Delivery is the payload of a delivery job.
type Delivery struct {
	SOPInstanceUID string `json:"sop_instance_uid"`
	Destination    string `json:"destination"`
	Kind           string `json:"kind,omitempty"` // sr, seg, sc, gsps
	AnalysisJob    string `json:"analysis_job"`
	Series         string `json:"series,omitempty"` // the series analysed: its results arrive in their order
}

// Progress is what became of a delivery so far.
type Progress struct {
	Status      string `json:"status"`                // of the C-STORE
	Transaction string `json:"transaction,omitempty"` // of the storage commitment that is waited for
}

// AnalysisKey is the unique key of an analysis within its queue: enqueueing
// the same work twice, as a restart may do, finds the first.
func AnalysisKey(seriesInstanceUID string, revision int) string {
	return fmt.Sprintf("%s/%d", seriesInstanceUID, revision)
}

// NewAnalysis returns the job that analyses a revision of a series.
func NewAnalysis(a Analysis, state store.JobState, reason string) store.Job {
	queue := AnalysisQueue(a.Plugin)
	if a.Urgent {
		queue = urgentPrefix + a.Plugin
	}
	return store.Job{
		Queue:   queue,
		Key:     AnalysisKey(a.SeriesInstanceUID, a.Revision),
		State:   state,
		Reason:  reason,
		Payload: encode(a),
	}
}

// NewDelivery returns the job that sends an object to a destination.
func NewDelivery(d Delivery) store.Job {
	return store.Job{
		Queue:   DeliveryQueue(d.Destination),
		Key:     d.SOPInstanceUID,
		Group:   d.Series,
		State:   store.JobQueued,
		Payload: encode(d),
	}
}

// DecodeAnalysis reads the payload of an analysis job.
func DecodeAnalysis(j store.Job) (Analysis, error) { return decode[Analysis](j.ID, j.Payload) }

// DecodeAnalysisResult reads the result of an analysis job; a job without
// one, because it is not done, gives the zero value.
func DecodeAnalysisResult(j store.Job) (AnalysisResult, error) {
	if len(j.Result) == 0 {
		return AnalysisResult{}, nil
	}
	return decode[AnalysisResult](j.ID, j.Result)
}

// DecodeDelivery reads the payload of a delivery job.
func DecodeDelivery(j store.Job) (Delivery, error) { return decode[Delivery](j.ID, j.Payload) }

// EncodeAnalysis makes the payload of an analysis job.
func EncodeAnalysis(a Analysis) json.RawMessage { return encode(a) }

// EncodeResult makes the bytes that a done analysis job keeps. It fails only
// on numbers that JSON does not know (NaN, infinities), which the plugin host
// has refused before.
func EncodeResult(r AnalysisResult) (json.RawMessage, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, fmt.Errorf("encode the analysis result: %w", err)
	}
	return b, nil
}

// Backoff is the wait before attempt n+1 after n failed ones: first, doubled
// with each attempt, at most limit.
func Backoff(attempts int, first, limit time.Duration) time.Duration {
	wait := first
	for range attempts - 1 {
		if wait *= 2; wait >= limit {
			return limit
		}
	}
	return min(wait, limit)
}

// EncodeProgress makes the bytes that a delivery keeps.
func EncodeProgress(p Progress) json.RawMessage { return encode(p) }

// DecodeProgress reads what became of a delivery; nothing, if it was not tried.
func DecodeProgress(j store.Job) (Progress, error) {
	if len(j.Result) == 0 {
		return Progress{}, nil
	}
	return decode[Progress](j.ID, j.Result)
}

// encode cannot fail: payloads are flat structs of strings and integers.
func encode[T Analysis | Delivery | Progress](v T) json.RawMessage {
	b, _ := json.Marshal(v)
	return b
}

func decode[T any](id string, b []byte) (T, error) {
	var v T
	if err := json.Unmarshal(b, &v); err != nil {
		return v, fmt.Errorf("job %s holds a record that this version cannot read: %w", id, err)
	}
	return v, nil
}
