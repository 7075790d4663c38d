package task_test

import (
	"encoding/json"
	"math"
	"slices"
	"strings"
	"testing"
	"time"

	"hilum/node/task"
	"hilum/plugins/api"
	"hilum/store"
)

func TestBackoff(t *testing.T) {
	const first, limit = time.Second, 10 * time.Second
	for attempts, want := range map[int]time.Duration{
		0: first, 1: first, 2: 2 * first, 3: 4 * first, 4: 8 * first, 5: limit, 1 << 30: limit,
	} {
		if got := task.Backoff(attempts, first, limit); got != want {
			t.Errorf("Backoff(%d) = %v, want %v", attempts, got, want)
		}
	}
}

func TestPayloads(t *testing.T) {
	a := task.Analysis{SeriesInstanceUID: "1.2", StudyInstanceUID: "1", Plugin: "nodules", Revision: 3}
	j := task.NewAnalysis(a, store.JobQueued, "whole")
	if !task.IsAnalysis(j) || task.IsDelivery(j) || j.Key != "1.2/3" || j.Queue != task.AnalysisQueue("nodules") {
		t.Errorf("NewAnalysis = %+v", j)
	}
	if got, err := task.DecodeAnalysis(j); err != nil || got != a {
		t.Errorf("DecodeAnalysis = %+v, %v, want %+v", got, err, a)
	}
	a.Urgent = true
	if j = task.NewAnalysis(a, store.JobQueued, ""); !task.IsAnalysis(j) || j.Queue != task.AnalysisQueues("nodules")[0] {
		t.Errorf("NewAnalysis of an urgent one = %+v", j)
	}
	a = a.Failed("nodules", "cuda:0").Failed("other", "cpu").Failed("nodules", "cuda:0").Failed("nodules", "cpu")
	if got := a.Failures("nodules"); !slices.Equal(got, []string{"cuda:0", "cpu"}) {
		t.Errorf("Failures = %q", got)
	}
	d := task.Delivery{SOPInstanceUID: "9", Destination: "pacs", AnalysisJob: "7"}
	j = task.NewDelivery(d)
	if !task.IsDelivery(j) || task.IsAnalysis(j) {
		t.Errorf("NewDelivery = %+v", j)
	}
	if got, err := task.DecodeDelivery(j); err != nil || got != d {
		t.Errorf("DecodeDelivery = %+v, %v, want %+v", got, err, d)
	}
	if r, err := task.DecodeAnalysisResult(store.Job{}); err != nil || len(r.Instances) != 0 {
		t.Errorf("DecodeAnalysisResult without a result = %+v, %v, want zero", r, err)
	}
}

// A record of another version, or a damaged one, names its job.
func TestDecodeDamaged(t *testing.T) {
	_, err := task.DecodeAnalysis(store.Job{ID: "12", Payload: json.RawMessage(`{"revision": "three"}`)})
	if err == nil || !strings.Contains(err.Error(), "job 12") {
		t.Errorf("DecodeAnalysis = %v, want an error that names job 12", err)
	}
	_, err = task.EncodeResult(task.AnalysisResult{Result: api.Result{Findings: []api.Finding{{Probability: math.NaN()}}}})
	if err == nil {
		t.Error("EncodeResult of NaN: no error")
	}
}
