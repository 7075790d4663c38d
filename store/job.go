package store

import (
	"encoding/json"
	"time"
)

// JobState says where a job stands.
type JobState string

// The states of a job. Lease hands out queued jobs, and retry jobs that are due.
const (
	JobWaiting JobState = "waiting" // not ready to run yet
	JobQueued  JobState = "queued"
	JobRunning JobState = "running"
	JobDone    JobState = "done"
	JobRetry   JobState = "retry" // runs again at NotBefore
	JobDead    JobState = "dead"  // will not run again by itself
)

// Job is one piece of work that survives a restart. Queue and Key together are
// unique: the same work is never enqueued twice.
type Job struct {
	ID        string          `json:"id"` // given by the store: 1, 2, 3 …
	Queue     string          `json:"queue"`
	Key       string          `json:"key"`
	Group     string          `json:"group,omitempty"` // jobs of one queue and group are leased in their order; see Lease
	State     JobState        `json:"state"`
	Reason    string          `json:"reason,omitempty"`
	Attempts  int             `json:"attempts"`
	NotBefore time.Time       `json:"not_before,omitzero"`
	Created   time.Time       `json:"created"`
	Updated   time.Time       `json:"updated"`
	Payload   json.RawMessage `json:"payload,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
}
