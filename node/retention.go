package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"hilum/node/config"
	"hilum/node/rule"
	"hilum/node/task"
	"hilum/store"
)

// retentionPause is the time between two looks at what may be deleted.
const retentionPause = 10 * time.Minute

// retention deletes series that are older, or more, than the configuration
// wants to keep. It takes only what is finished: whole, analysed by every plugin
// that takes it (or given up by it), and its reports accepted by every
// destination. A series goes with its reports and its jobs, so that it is new
// when it is sent again.
type retention struct {
	store        *store.Store
	rules        config.Retention
	routes       func(store.Series) ([]rule.Route, error)
	destinations []config.Destination
	log          *slog.Logger
	now          func() time.Time
}

func (r *retention) run(ctx context.Context) {
	if r.rules.MaxAge == 0 && r.rules.MaxBytes == 0 {
		return
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		if err := r.pass(ctx); err != nil {
			r.log.Error("retention not carried out, trying again", "error", err, "in", retentionPause)
		}
		timer.Reset(retentionPause)
	}
}

// history is what the queue knows of one series.
type history struct {
	jobs    []string        // of its analyses and of the deliveries of their reports
	ended   map[string]bool // plugin and revision -> done or dead
	reports []string        // SOP instance UIDs
	waiting string          // why it cannot be deleted yet; "" when nothing of it is under way
}

// pass looks at everything once.
func (r *retention) pass(ctx context.Context) error {
	all, err := r.store.AllSeries()
	if err != nil {
		return fmt.Errorf("list series: %w", err)
	}
	histories, err := r.histories()
	if err != nil {
		return err
	}
	var total int64
	for _, s := range all {
		total += s.Bytes
	}
	slices.SortFunc(all, func(a, b store.Series) int {
		return cmp.Or(a.LastReceived.Compare(b.LastReceived), cmp.Compare(a.SeriesInstanceUID, b.SeriesInstanceUID))
	})
	for _, s := range all {
		if err := ctx.Err(); err != nil {
			return nil
		}
		reason := r.reason(s, total)
		if reason == "" || s.State == store.SeriesGenerated { // a report goes with its series
			continue
		}
		h := histories[s.SeriesInstanceUID]
		if h == nil {
			h = &history{}
		}
		if why := r.unfinished(s, h); why != "" {
			r.log.Debug("series kept beyond the retention", "series", s.SeriesInstanceUID, "reason", why)
			continue
		}
		freed, err := r.retire(s, h, reason)
		if err != nil {
			return err
		}
		total -= freed
	}
	return r.prune(histories)
}

// reason says why a series should go, "" when it should not.
func (r *retention) reason(s store.Series, total int64) string {
	switch {
	case r.rules.MaxAge > 0 && r.now().Sub(s.LastReceived) > r.rules.MaxAge:
		return fmt.Sprintf("its last image is older than max_age (%s)", r.rules.MaxAge)
	case r.rules.MaxBytes > 0 && total > int64(r.rules.MaxBytes):
		return fmt.Sprintf("it is the oldest while more than max_bytes (%s) are stored", r.rules.MaxBytes)
	}
	return ""
}

// histories gathers the jobs of every series.
func (r *retention) histories() (map[string]*history, error) {
	jobs, err := r.store.Jobs("")
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	found := map[string]*history{}
	byReport := map[string]*history{}
	for _, j := range jobs {
		if !task.IsAnalysis(j) {
			continue
		}
		a, err := task.DecodeAnalysis(j)
		if err != nil {
			return nil, err
		}
		h := found[a.SeriesInstanceUID]
		if h == nil {
			h = &history{ended: map[string]bool{}}
			found[a.SeriesInstanceUID] = h
		}
		h.jobs = append(h.jobs, j.ID)
		if j.State != store.JobDone && j.State != store.JobDead {
			h.waiting = "analysis " + j.ID + " is " + string(j.State)
			continue
		}
		h.ended[endedKey(a.Plugin, a.Revision)] = true
		result, err := task.DecodeAnalysisResult(j)
		if err != nil {
			return nil, err
		}
		for _, o := range result.All() {
			h.reports = append(h.reports, o.SOPInstanceUID)
			byReport[o.SOPInstanceUID] = h
		}
	}
	for _, j := range jobs {
		if !task.IsDelivery(j) {
			continue
		}
		d, err := task.DecodeDelivery(j)
		if err != nil {
			return nil, err
		}
		h := byReport[d.SOPInstanceUID]
		if h == nil {
			continue
		}
		h.jobs = append(h.jobs, j.ID)
		configured := slices.ContainsFunc(r.destinations, func(c config.Destination) bool { return c.Name == d.Destination })
		if configured && j.State != store.JobDone || j.State == store.JobRunning {
			h.waiting = "delivery " + j.ID + " is " + string(j.State)
		}
	}
	return found, nil
}

func endedKey(plugin string, revision int) string { return fmt.Sprintf("%s/%d", plugin, revision) }

// unfinished says what is still to be done with a series, "" when nothing is.
func (r *retention) unfinished(s store.Series, h *history) string {
	switch {
	case !settled(s):
		return "it is still arriving"
	case h.waiting != "":
		return h.waiting
	}
	routes, err := r.routes(s)
	if err != nil {
		return err.Error()
	}
	for _, route := range routes {
		if !h.ended[endedKey(route.Pipeline, s.Revision)] {
			return "pipeline " + route.Pipeline + " has not analysed it"
		}
	}
	return ""
}

// settled reports whether the last completion of a series covers all its images.
func settled(s store.Series) bool {
	return s.State == store.SeriesComplete && s.Instances == s.CompleteInstances
}

// retire deletes the reports of a series, then the series and its jobs. After a
// crash in between the next pass goes on.
func (r *retention) retire(s store.Series, h *history, reason string) (freed int64, err error) {
	for _, uid := range h.reports {
		in, err := r.store.Instance(uid)
		if errors.Is(err, store.ErrNotFound) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("find a report: %w", err)
		}
		report, err := r.store.Series(in.SeriesInstanceUID)
		if err != nil {
			return 0, fmt.Errorf("find a report: %w", err)
		}
		gone, err := r.store.Retire(report.SeriesInstanceUID, nil, func(v store.Series) bool { return v.State == store.SeriesGenerated })
		if err != nil {
			return 0, fmt.Errorf("delete a report: %w", err)
		}
		if gone {
			freed += report.Bytes
		}
	}
	gone, err := r.store.Retire(s.SeriesInstanceUID, h.jobs, func(v store.Series) bool {
		return settled(v) && v.Revision == s.Revision
	})
	if err != nil {
		return freed, fmt.Errorf("delete series %s: %w", s.SeriesInstanceUID, err)
	}
	if gone {
		freed += s.Bytes
		r.log.Info("series deleted", "series", s.SeriesInstanceUID, "instances", s.Instances, "bytes", s.Bytes, "reports", len(h.reports), "jobs", len(h.jobs), "reason", reason)
	}
	return freed, nil
}

// prune forgets jobs that have ended longer than max_age ago and whose series is
// not stored any more.
func (r *retention) prune(histories map[string]*history) error {
	if r.rules.MaxAge == 0 {
		return nil
	}
	var old []string
	for uid, h := range histories {
		if _, err := r.store.Series(uid); err == nil || !errors.Is(err, store.ErrNotFound) || h.waiting != "" {
			continue
		}
		for _, id := range h.jobs {
			if j, err := r.store.Job(id); err == nil && r.now().Sub(j.Updated) > r.rules.MaxAge {
				old = append(old, id)
			}
		}
	}
	if len(old) == 0 {
		return nil
	}
	if err := r.store.DeleteJobs(old); err != nil {
		return fmt.Errorf("delete old jobs: %w", err)
	}
	r.log.Info("old jobs deleted", "jobs", len(old), "reason", fmt.Sprintf("ended longer than max_age (%s) ago, series not stored any more", r.rules.MaxAge))
	return nil
}
