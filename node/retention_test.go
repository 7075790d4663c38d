package node

import (
	"bytes"
	"errors"
	"log/slog"
	"testing"
	"time"

	"hilum/node/config"
	"hilum/node/rule"
	"hilum/node/task"
	"hilum/store"
	"hilum/store/storetest"
)

// retentionCase is a store with one series, complete at revision 1.
type retentionCase struct {
	t   *testing.T
	s   *store.Store
	now time.Time
}

func (c *retentionCase) image(series, uid string, bytesOf int) {
	c.t.Helper()
	w, err := c.s.NewInstance()
	if err == nil {
		_, err = w.Write(bytes.Repeat([]byte{1}, bytesOf))
	}
	if err == nil {
		_, err = w.Commit(store.Instance{SOPInstanceUID: uid, SeriesInstanceUID: series, Received: c.now, Header: map[string]string{"Modality": "CT"}})
	}
	if err != nil {
		c.t.Fatal(err)
	}
}

func (c *retentionCase) set(series string, state store.SeriesState) {
	c.t.Helper()
	if err := c.s.UpdateSeries(series, func(s *store.Series) error {
		s.State, s.Revision, s.CompleteInstances = state, 1, s.Instances
		return nil
	}); err != nil {
		c.t.Fatal(err)
	}
}

// analysis enqueues the analysis of revision 1; a done one has a stored report.
func (c *retentionCase) analysis(series string, state store.JobState) string {
	c.t.Helper()
	j := task.NewAnalysis(task.Analysis{SeriesInstanceUID: series, Plugin: "p", Revision: 1}, state, "")
	if state == store.JobDone {
		c.image(series+".9", series+".9.1", 100)
		c.set(series+".9", store.SeriesGenerated)
		var err error
		if j.Result, err = task.EncodeResult(task.AnalysisResult{Report: task.Object{SOPInstanceUID: series + ".9.1"}}); err != nil {
			c.t.Fatal(err)
		}
	}
	j, _, err := c.s.Enqueue(j)
	if err != nil {
		c.t.Fatal(err)
	}
	return j.ID
}

func (c *retentionCase) delivery(series, destination string, state store.JobState) {
	c.t.Helper()
	j := task.NewDelivery(task.Delivery{SOPInstanceUID: series + ".9.1", Destination: destination})
	j.State = state
	if _, _, err := c.s.Enqueue(j); err != nil {
		c.t.Fatal(err)
	}
}

func TestRetention(t *testing.T) {
	const uid = "1.2"
	for _, tt := range []struct {
		name   string
		fill   func(c *retentionCase)
		later  time.Duration
		delete bool
	}{
		{"done and delivered", func(c *retentionCase) {
			c.set(uid, store.SeriesComplete)
			c.analysis(uid, store.JobDone)
			c.delivery(uid, "pacs", store.JobDone)
		}, 2 * time.Hour, true},
		{"done and delivered, young", func(c *retentionCase) {
			c.set(uid, store.SeriesComplete)
			c.analysis(uid, store.JobDone)
			c.delivery(uid, "pacs", store.JobDone)
		}, time.Minute, false},
		{"dead", func(c *retentionCase) { c.set(uid, store.SeriesComplete); c.analysis(uid, store.JobDead) }, 2 * time.Hour, true},
		{"still arriving", func(c *retentionCase) { c.analysis(uid, store.JobWaiting) }, 2 * time.Hour, false},
		{"an image after the completion", func(c *retentionCase) {
			c.set(uid, store.SeriesComplete)
			c.analysis(uid, store.JobDone)
			c.image(uid, "1.2.2", 100)
		}, 2 * time.Hour, false},
		{"not analysed", func(c *retentionCase) { c.set(uid, store.SeriesComplete) }, 2 * time.Hour, false},
		{"queued", func(c *retentionCase) { c.set(uid, store.SeriesComplete); c.analysis(uid, store.JobQueued) }, 2 * time.Hour, false},
		{"retry", func(c *retentionCase) { c.set(uid, store.SeriesComplete); c.analysis(uid, store.JobRetry) }, 2 * time.Hour, false},
		{"delivery waits", func(c *retentionCase) {
			c.set(uid, store.SeriesComplete)
			c.analysis(uid, store.JobDone)
			c.delivery(uid, "pacs", store.JobRetry)
		}, 2 * time.Hour, false},
		{"delivery dead", func(c *retentionCase) {
			c.set(uid, store.SeriesComplete)
			c.analysis(uid, store.JobDone)
			c.delivery(uid, "pacs", store.JobDead)
		}, 2 * time.Hour, false},
		{"delivery to a destination of the past", func(c *retentionCase) {
			c.set(uid, store.SeriesComplete)
			c.analysis(uid, store.JobDone)
			c.delivery(uid, "old", store.JobDead)
		}, 2 * time.Hour, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &retentionCase{t: t, s: storetest.MustOpen(t), now: time.Now()}
			c.image(uid, "1.2.1", 1000)
			tt.fill(c)
			r := &retention{
				store: c.s, rules: config.Retention{MaxAge: time.Hour}, destinations: []config.Destination{{Name: "pacs"}},
				routes: func(store.Series) ([]rule.Route, error) { return []rule.Route{{Pipeline: "p"}}, nil },
				log:    slog.New(slog.DiscardHandler), now: func() time.Time { return c.now.Add(tt.later) },
			}
			if err := r.pass(t.Context()); err != nil {
				t.Fatal(err)
			}
			_, err := c.s.Series(uid)
			if gone := errors.Is(err, store.ErrNotFound); gone != tt.delete {
				t.Errorf("deleted = %v (%v), want %v", gone, err, tt.delete)
			}
			jobs, err := c.s.Jobs("")
			all, err2 := c.s.AllSeries()
			if tt.delete && (len(jobs) > 0 || len(all) > 0) {
				t.Errorf("jobs %v, series %v (%v, %v) are left, want none", jobs, all, err, err2)
			}
			if tt.delete { // sent again, it is new
				c.image(uid, "1.2.1", 1000)
				j, isNew, err := c.s.Enqueue(task.NewAnalysis(task.Analysis{SeriesInstanceUID: uid, Plugin: "p", Revision: 1}, store.JobQueued, ""))
				if err != nil || !isNew {
					t.Errorf("analysis of the series sent again = %+v, %v, %v; want a new one", j, isNew, err)
				}
			}
		})
	}
}

// TestRetentionBytes: the oldest finished series go until the rest fits.
func TestRetentionBytes(t *testing.T) {
	c := &retentionCase{t: t, s: storetest.MustOpen(t), now: time.Now()}
	for i, uid := range []string{"1.1", "1.2", "1.3", "1.4"} {
		c.now = c.now.Add(time.Minute)
		c.image(uid, uid+".1", 1000)
		if i != 0 { // the oldest is not finished
			c.set(uid, store.SeriesComplete)
		}
	}
	r := &retention{
		store: c.s, rules: config.Retention{MaxBytes: 2500}, routes: func(store.Series) ([]rule.Route, error) { return nil, nil },
		log: slog.New(slog.DiscardHandler), now: time.Now,
	}
	if err := r.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	all, err := c.s.AllSeries()
	if err != nil || len(all) != 2 || all[0].SeriesInstanceUID != "1.1" || all[1].SeriesInstanceUID != "1.4" {
		t.Errorf("left are %+v (%v), want the unfinished 1.1 and the newest, 1.4", all, err)
	}
}

// TestRetentionJobs: jobs of a series that is gone are forgotten with age.
func TestRetentionJobs(t *testing.T) {
	c := &retentionCase{t: t, s: storetest.MustOpen(t), now: time.Now()}
	old, queued := c.analysis("1.7", store.JobDead), c.analysis("1.8", store.JobQueued)
	r := &retention{
		store: c.s, rules: config.Retention{MaxAge: time.Hour}, routes: func(store.Series) ([]rule.Route, error) { return nil, nil },
		log: slog.New(slog.DiscardHandler), now: func() time.Time { return c.now.Add(2 * time.Hour) },
	}
	if err := r.pass(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := c.s.Job(old); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("dead job of a series that is gone = %v, want ErrNotFound", err)
	}
	if _, err := c.s.Job(queued); err != nil {
		t.Errorf("queued job = %v, want it kept", err)
	}
}
