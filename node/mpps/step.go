// Package mpps is the SCP of Modality Performed Procedure Step, PS3.4 annex F.7:
// what a scanner says it is doing, and in the end which images it made.
//
// Every step is durable before it is answered, follows the states of the standard
// (IN PROGRESS, then COMPLETED or DISCONTINUED for good), and is kept for a time.
// The package tells its caller when a step has ended; what that means for a series
// is not its business.
package mpps

import (
	"encoding/json"
	"fmt"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
	"hilum/node/task"
	"hilum/store"
)

// Status is Performed Procedure Step Status (0040,0252).
type Status string

// The values of PS3.3 C.4.14.
const (
	InProgress   Status = "IN PROGRESS"
	Completed    Status = "COMPLETED"
	Discontinued Status = "DISCONTINUED"
)

// Step is a performed procedure step as it is kept. No patient data are in it but
// in Data, which nothing but this package reads.
type Step struct {
	SOPInstanceUID string    `json:"sop_instance_uid"`
	Source         string    `json:"source"` // calling AE title
	Status         Status    `json:"status"`
	Station        string    `json:"station"` // Performed Station AE Title
	Modality       string    `json:"modality"`
	Studies        []string  `json:"studies"` // Study Instance UIDs
	Series         []string  `json:"series"`  // Series Instance UIDs of what was made
	Images         int       `json:"images"`  // and other objects, in all series
	Created        time.Time `json:"created"`
	Updated        time.Time `json:"updated"`
	Data           []byte    `json:"data"` // the whole data set, Explicit VR Little Endian
}

// List is what one step says of one series.
type List struct {
	Step    string        `json:"-"` // SOP Instance UID
	Status  Status        `json:"status"`
	Objects []task.Object `json:"objects"`
}

// The kinds of the records: a step by its UID; a List by series and step; nothing
// by study and step.
const (
	kindStep   = "mpps"
	kindSeries = "mpps-series"
	kindStudy  = "mpps-study"
)

// separator is between the two halves of a key; no UID has it.
const separator = "/"

// Steps are the steps in a store.
type Steps struct{ Store *store.Store }

// Step returns a step, or store.ErrNotFound.
func (s Steps) Step(uid string) (Step, error) {
	b, err := s.Store.Record(kindStep, uid)
	if err != nil {
		return Step{}, err
	}
	return decodeStep(uid, b)
}

func decodeStep(uid string, b []byte) (Step, error) {
	var step Step
	if err := json.Unmarshal(b, &step); err != nil {
		return step, fmt.Errorf("performed procedure step %s: %w", uid, err)
	}
	return step, nil
}

// OfStudy returns the steps that were done for a study, in the order of their UIDs.
func (s Steps) OfStudy(studyInstanceUID string) ([]Step, error) {
	var uids []string
	prefix := studyInstanceUID + separator
	err := s.Store.Records(kindStudy, prefix, func(key string, _ []byte) error {
		uids = append(uids, key[len(prefix):])
		return nil
	})
	if err != nil {
		return nil, err
	}
	steps := make([]Step, 0, len(uids))
	for _, uid := range uids {
		step, err := s.Step(uid)
		if err != nil {
			return nil, err
		}
		steps = append(steps, step)
	}
	return steps, nil
}

// OfSeries returns what the steps say of a series.
func (s Steps) OfSeries(seriesInstanceUID string) ([]List, error) {
	var lists []List
	prefix := seriesInstanceUID + separator
	err := s.Store.Records(kindSeries, prefix, func(key string, value []byte) error {
		list := List{Step: key[len(prefix):]}
		if err := json.Unmarshal(value, &list); err != nil {
			return fmt.Errorf("performed procedure step %s: %w", list.Step, err)
		}
		lists = append(lists, list)
		return nil
	})
	return lists, err
}

// records are what a step is kept as, in place of old, of which nil is none. A nil
// step deletes.
func records(old, step *Step, lists map[string][]task.Object) ([]store.Record, error) {
	var out []store.Record
	if old != nil {
		out = append(out, store.Record{Kind: kindStep, Key: old.SOPInstanceUID})
		for _, series := range old.Series {
			out = append(out, store.Record{Kind: kindSeries, Key: series + separator + old.SOPInstanceUID})
		}
		for _, study := range old.Studies {
			out = append(out, store.Record{Kind: kindStudy, Key: study + separator + old.SOPInstanceUID})
		}
	}
	if step == nil {
		return out, nil
	}
	value, err := json.Marshal(step)
	if err != nil {
		return nil, err
	}
	out = append(out, store.Record{Kind: kindStep, Key: step.SOPInstanceUID, Value: value})
	for _, series := range step.Series {
		if value, err = json.Marshal(List{Status: step.Status, Objects: lists[series]}); err != nil {
			return nil, err
		}
		out = append(out, store.Record{Kind: kindSeries, Key: series + separator + step.SOPInstanceUID, Value: value})
	}
	for _, study := range step.Studies {
		out = append(out, store.Record{Kind: kindStudy, Key: study + separator + step.SOPInstanceUID, Value: []byte("{}")})
	}
	return out, nil
}

// Forget deletes the steps of which nothing was heard for so long.
func (s Steps) Forget(now time.Time, keep time.Duration) (int, error) {
	var old []store.Record
	count := 0
	err := s.Store.Records(kindStep, "", func(uid string, value []byte) error {
		step, err := decodeStep(uid, value)
		if err != nil || now.Sub(step.Updated) <= keep {
			return err
		}
		gone, err := records(&step, nil, nil)
		old = append(old, gone...)
		count++
		return err
	})
	if err != nil || count == 0 {
		return 0, err
	}
	return count, s.Store.WriteRecords(old...)
}

// read takes from the data set of a step what the node needs of it.
func (step *Step) read(tree dataset.Tree) (lists map[string][]task.Object, err error) {
	step.Status = Status(tree.Text(dicomtag.PerformedProcedureStepStatus))
	step.Station = tree.Text(dicomtag.PerformedStationAETitle)
	step.Modality = tree.Text(dicomtag.Modality)
	step.Studies, step.Series, step.Images = nil, nil, 0
	seen := map[string]bool{}
	for _, item := range tree.Items(dicomtag.ScheduledStepAttributesSequence) {
		uid := item.Text(dicomtag.StudyInstanceUID)
		if !dataset.ValidUID(uid) {
			return nil, invalid(dicomtag.StudyInstanceUID, "a Study Instance UID is missing or no UID")
		}
		if !seen[uid] {
			seen[uid] = true
			step.Studies = append(step.Studies, uid)
		}
	}
	lists = map[string][]task.Object{}
	for _, item := range tree.Items(dicomtag.PerformedSeriesSequence) {
		uid := item.Text(dicomtag.SeriesInstanceUID)
		if !dataset.ValidUID(uid) {
			return nil, invalid(dicomtag.SeriesInstanceUID, "a Series Instance UID is missing or no UID")
		}
		if _, twice := lists[uid]; !twice {
			step.Series = append(step.Series, uid)
			lists[uid] = nil
		}
		for _, sequence := range []dataset.Tag{dicomtag.ReferencedImageSequence, dicomtag.ReferencedNonImageCompositeSOPInstanceSequence} {
			for _, image := range item.Items(sequence) {
				o := task.Object{SOPClassUID: image.Text(dicomtag.ReferencedSOPClassUID), SOPInstanceUID: image.Text(dicomtag.ReferencedSOPInstanceUID)}
				if !dataset.ValidUID(o.SOPClassUID) || !dataset.ValidUID(o.SOPInstanceUID) {
					return nil, invalid(sequence, "a reference without a valid UID")
				}
				lists[uid] = append(lists[uid], o)
				step.Images++
			}
		}
	}
	return lists, nil
}
