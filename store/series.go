package store

import "time"

// SeriesState says how far the collection of a series has come.
type SeriesState string

// The states of a series.
const (
	SeriesReceiving SeriesState = "receiving" // images may still arrive
	SeriesComplete  SeriesState = "complete"  // declared whole, with a reason
	SeriesGenerated SeriesState = "generated" // made by this node, never an input
)

// Series describes the stored images of one series. The store keeps the
// identity, counts and times; State, Reason, Revision and CompleteInstances
// belong to the caller and change through UpdateSeries only.
type Series struct {
	SeriesInstanceUID string
	StudyInstanceUID  string
	Modality          string
	Header            map[string]string // of the first instance
	Instances         int
	Bytes             int64
	Sources           []string // calling AE titles, in order of appearance
	SOPClasses        []string `json:",omitempty"` // of the images; nil when a version before 2 began the series
	FirstReceived     time.Time
	LastReceived      time.Time

	State             SeriesState
	Reason            string
	Revision          int // +1 at each completion
	CompleteInstances int // Instances at the last completion
}
