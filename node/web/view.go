// Package web is the node's HTTP side: the REST interface that the command
// line speaks over the admin socket and that the pages of the node will
// speak, and the client for it.
//
// The running node owns its store. Commands reach it through the admin
// socket in the data folder; only when no node runs do they open the store
// themselves and serve the same handler to themselves (see Open).
package web

import (
	"cmp"
	"slices"
	"time"

	"hilum/node/task"
	"hilum/store"
)

// Study is a study as `hilum study list` shows it. No patient data: a study
// is found by its UID, date and accession number.
type Study struct {
	StudyInstanceUID string          `json:"study_instance_uid"`
	StudyDate        string          `json:"study_date"`
	AccessionNumber  string          `json:"accession_number"`
	Series           []Series        `json:"series"`
	Steps            []ProcedureStep `json:"steps,omitempty"`
}

// ProcedureStep is a performed procedure step that was reported for a Study (MPPS).
type ProcedureStep struct {
	SOPInstanceUID string    `json:"sop_instance_uid"`
	Status         string    `json:"status"`  // IN PROGRESS | COMPLETED | DISCONTINUED
	Station        string    `json:"station"` // Performed Station AE Title
	Modality       string    `json:"modality"`
	Series         []string  `json:"series"` // Series Instance UIDs
	Images         int       `json:"images"` // in all series, as the scanner says
	Updated        time.Time `json:"updated"`
}

// Series is a series of a Study.
type Series struct {
	SeriesInstanceUID string    `json:"series_instance_uid"`
	Modality          string    `json:"modality"`
	Instances         int       `json:"instances"`
	Bytes             int64     `json:"bytes"`
	State             string    `json:"state"`  // receiving | complete | generated
	Reason            string    `json:"reason"` // why it is in this state
	Revision          int       `json:"revision"`
	Sources           []string  `json:"sources"` // calling AE titles
	FirstReceived     time.Time `json:"first_received"`
	LastReceived      time.Time `json:"last_received"`
}

// Job is the analysis of one revision of a series by one pipeline, which often
// is a plugin alone.
type Job struct {
	ID                string    `json:"id"`
	SeriesInstanceUID string    `json:"series_instance_uid"`
	StudyInstanceUID  string    `json:"study_instance_uid"`
	Plugin            string    `json:"plugin"`
	Revision          int       `json:"revision"`
	Urgent            bool      `json:"urgent"`
	State             string    `json:"state"` // waiting | queued | running | done | retry | dead
	Reason            string    `json:"reason"`
	Attempts          int       `json:"attempts"`
	Findings          int       `json:"findings"`
	Report            string    `json:"report"` // SOP Instance UID of the structured report, "" if none yet
	Created           time.Time `json:"created"`
	Updated           time.Time `json:"updated"`

	// Only in the answer to one job.
	Detail *JobDetail `json:"detail,omitempty"`
}

// JobDetail is what made the result of a job that is done: promise 4 of the
// design, the exact images, plugin, version and model hash.
type JobDetail struct {
	PluginVersion string            `json:"plugin_version"`
	Runtime       string            `json:"runtime"`
	Device        string            `json:"device"`
	Models        []Model           `json:"models"`
	Steps         []Step            `json:"steps"`     // what ran where
	Instances     []string          `json:"instances"` // SOP Instance UIDs analysed
	Seconds       float64           `json:"seconds"`
	Notes         []string          `json:"notes"`
	Attributes    map[string]string `json:"attributes"`
	Malignancy    *float64          `json:"malignancy,omitempty"` // of the patient: that any nodule is malignant
	Findings      []Finding         `json:"findings"`
}

// Step is what one plugin of a pipeline did.
type Step struct {
	Plugin   string  `json:"plugin"`
	Version  string  `json:"version"`
	Device   string  `json:"device"`
	Threads  int     `json:"threads"`
	Findings int     `json:"findings"`
	Seconds  float64 `json:"seconds"`
}

// Model names a model that a plugin used.
type Model struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	SHA256  string `json:"sha256"`
}

// Finding is one finding; coordinates are DICOM patient coordinates (LPS, mm).
type Finding struct {
	SeriesInstanceUID string   `json:"series_instance_uid"`
	Plugin            string   `json:"plugin"`
	ID                string   `json:"id"`
	Label             string   `json:"label"`
	X                 float64  `json:"x"`
	Y                 float64  `json:"y"`
	Z                 float64  `json:"z"`
	DiameterMM        float64  `json:"diameter_mm"`
	Probability       float64  `json:"probability"`
	Malignancy        *float64 `json:"malignancy,omitempty"`
	Texture           string   `json:"texture,omitempty"`
}

// Delivery is the sending of one result to one destination.
type Delivery struct {
	ID             string    `json:"id"`
	Destination    string    `json:"destination"`
	Kind           string    `json:"kind"` // sr, seg, sc, gsps
	SOPInstanceUID string    `json:"sop_instance_uid"`
	AnalysisJob    string    `json:"analysis_job"`
	State          string    `json:"state"`
	Reason         string    `json:"reason"`
	Attempts       int       `json:"attempts"`
	NotBefore      time.Time `json:"not_before"`
	Updated        time.Time `json:"updated"`
}

// Plugin is a configured plugin and, when a node runs, its process.
type Plugin struct {
	Name       string   `json:"name"`
	Process    int      `json:"process"` // 0, 1 … where a plugin has several
	Path       string   `json:"path"`
	SHA256     string   `json:"sha256"`
	State      string   `json:"state"`
	PID        int      `json:"pid"`
	Restarts   int      `json:"restarts"`
	Version    string   `json:"version"`
	Kind       string   `json:"kind"`
	Runtime    string   `json:"runtime"`
	Modalities []string `json:"modalities"`
	Devices    []string `json:"devices"` // that its jobs may run on
	Models     []Model  `json:"models"`
	Reason     string   `json:"reason"`
	Isolation  string   `json:"isolation"` // what the kernel holds it to

	LastOutput string `json:"last_output,omitempty"` // what it printed last, for those who may see the images

	MemoryBytes      int64 `json:"memory_bytes"`
	MemoryLimitBytes int64 `json:"memory_limit_bytes"`
}

// Status says which node answers.
type Status struct {
	Running bool      `json:"running"` // false: no node runs, the command reads the store itself
	Version string    `json:"version"`
	AETitle string    `json:"ae_title"`
	Listen  string    `json:"listen"` // the address bound
	Started time.Time `json:"started"`
}

func seriesView(s store.Series) Series {
	return Series{
		SeriesInstanceUID: s.SeriesInstanceUID,
		Modality:          s.Modality,
		Instances:         s.Instances,
		Bytes:             s.Bytes,
		State:             string(s.State),
		Reason:            s.Reason,
		Revision:          s.Revision,
		Sources:           s.Sources,
		FirstReceived:     s.FirstReceived,
		LastReceived:      s.LastReceived,
	}
}

// studiesView groups series into studies, the newest study first.
func studiesView(all []store.Series) []Study {
	slices.SortFunc(all, func(a, b store.Series) int { return b.LastReceived.Compare(a.LastReceived) })
	studies := []Study{}
	at := map[string]int{}
	for _, s := range all {
		i, ok := at[s.StudyInstanceUID]
		if !ok {
			i = len(studies)
			at[s.StudyInstanceUID] = i
			studies = append(studies, Study{
				StudyInstanceUID: s.StudyInstanceUID,
				StudyDate:        s.Header["StudyDate"],
				AccessionNumber:  s.Header["AccessionNumber"],
			})
		}
		studies[i].Series = append(studies[i].Series, seriesView(s))
	}
	for _, st := range studies {
		slices.SortFunc(st.Series, func(a, b Series) int {
			return cmp.Or(a.FirstReceived.Compare(b.FirstReceived), cmp.Compare(a.SeriesInstanceUID, b.SeriesInstanceUID))
		})
	}
	return studies
}

func jobView(j store.Job, detail bool) (Job, error) {
	a, err := task.DecodeAnalysis(j)
	if err != nil {
		return Job{}, err
	}
	r, err := task.DecodeAnalysisResult(j)
	if err != nil {
		return Job{}, err
	}
	v := Job{
		ID:                j.ID,
		SeriesInstanceUID: a.SeriesInstanceUID,
		StudyInstanceUID:  a.StudyInstanceUID,
		Plugin:            a.Plugin,
		Revision:          a.Revision,
		Urgent:            a.Urgent,
		State:             string(j.State),
		Reason:            j.Reason,
		Attempts:          j.Attempts,
		Findings:          len(r.Result.Findings),
		Report:            r.Report.SOPInstanceUID,
		Created:           j.Created,
		Updated:           j.Updated,
	}
	if detail && j.State == store.JobDone {
		v.Detail = &JobDetail{
			PluginVersion: r.Result.Description.Version,
			Runtime:       r.Result.Description.Runtime,
			Device:        r.Result.Device,
			Models:        []Model{},
			Steps:         []Step{},
			Instances:     []string{},
			Seconds:       r.Seconds,
			Notes:         r.Result.Notes,
			Attributes:    r.Result.Attributes,
			Malignancy:    r.Result.Malignancy,
			Findings:      findingsView(a, r),
		}
		for _, in := range r.Instances {
			v.Detail.Instances = append(v.Detail.Instances, in.SOPInstanceUID)
		}
		for _, step := range r.Steps {
			v.Detail.Steps = append(v.Detail.Steps, Step(step))
		}
		for _, m := range r.Result.Description.Models {
			v.Detail.Models = append(v.Detail.Models, Model(m))
		}
	}
	return v, nil
}

// findingsView lists the findings of a result, the most probable first.
func findingsView(a task.Analysis, r task.AnalysisResult) []Finding {
	out := make([]Finding, 0, len(r.Result.Findings))
	for _, f := range r.Result.Findings {
		out = append(out, Finding{
			SeriesInstanceUID: a.SeriesInstanceUID,
			Plugin:            a.Plugin,
			ID:                f.ID,
			Label:             f.Label,
			X:                 f.Center[0],
			Y:                 f.Center[1],
			Z:                 f.Center[2],
			DiameterMM:        f.DiameterMM,
			Probability:       f.Probability,
			Malignancy:        f.Malignancy,
			Texture:           f.Texture,
		})
	}
	sortFindings(out)
	return out
}

func sortFindings(f []Finding) {
	slices.SortStableFunc(f, func(a, b Finding) int { return cmp.Compare(b.Probability, a.Probability) })
}

func deliveryView(j store.Job) (Delivery, error) {
	d, err := task.DecodeDelivery(j)
	if err != nil {
		return Delivery{}, err
	}
	return Delivery{
		ID:             j.ID,
		Destination:    d.Destination,
		Kind:           cmp.Or(d.Kind, "sr"),
		SOPInstanceUID: d.SOPInstanceUID,
		AnalysisJob:    d.AnalysisJob,
		State:          string(j.State),
		Reason:         j.Reason,
		Attempts:       j.Attempts,
		NotBefore:      j.NotBefore,
		Updated:        j.Updated,
	}, nil
}
