package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"hilum/node/config"
	"hilum/node/device"
	"hilum/node/report"
	"hilum/node/task"
	"hilum/plugins/api"
	"hilum/plugins/host"
	"hilum/store"
)

// dispatcher runs the analyses: series out of the store, through the plugins of
// a pipeline, report into the store, deliveries into their queues.
type dispatcher struct {
	store        *store.Store
	host         *host.Host
	pool         *device.Pool
	router       *router
	jobs         config.Jobs
	destinations []config.Destination
	scratch      string // where series are laid out for plugins
	results      string // where results wait for their objects
	station      string // AE title
	software     string // version of Hilum
	log          *slog.Logger
	now          func() time.Time
}

// run analyses one revision of one series, in two steps with the result kept
// between them: what the plugins found, then the objects made of it. It has the
// lease of the first plugin.
func (d *dispatcher) run(ctx context.Context, job store.Job, lease *holder) error {
	a, err := task.DecodeAnalysis(job)
	if err != nil {
		return d.dead(job, err.Error())
	}
	log := d.log.With("job", job.ID, "series", a.SeriesInstanceUID, "plugin", a.Plugin, "attempt", job.Attempts)
	log.Info("analysis started")
	result, err := d.result(ctx, job, a, lease)
	lease.release() // the report needs no device
	if err == nil {
		err = d.publish(a, &result)
	}
	var input *api.InputError
	var start *host.StartError
	switch {
	case err == nil:
		log.Info("analysis done", "findings", len(result.Result.Findings), "seconds", result.Seconds, "device", result.Result.Device)
		return d.finish(job, a.SeriesInstanceUID, result)
	case ctx.Err() != nil:
		log.Info("analysis interrupted by the end of the node")
		return interrupted(d.store, job)
	case errors.As(err, &input), errors.Is(err, report.ErrNoFrameOfReference):
		log.Warn("series cannot be analysed", "reason", loggable(err))
		return d.dead(job, err.Error())
	case errors.As(err, &start):
		log.Warn("analysis waits for its plugin", "reason", loggable(err))
		return d.postpone(job, err)
	case job.Attempts >= d.jobs.Attempts:
		log.Error("analysis given up", "error", loggable(err))
		return d.dead(job, fmt.Sprintf("given up after %s: %v", count(job.Attempts, "attempt"), err))
	}
	wait := task.Backoff(job.Attempts, d.jobs.Backoff, d.jobs.MaxBackoff)
	log.Warn("analysis failed, trying again", "error", loggable(err), "in", wait)
	_, updateErr := d.store.UpdateJob(job.ID, func(j *store.Job) error {
		j.State, j.Reason, j.NotBefore = store.JobRetry, err.Error(), d.now().Add(wait)
		if failed := (*stepError)(nil); errors.As(err, &failed) {
			j.Payload = task.EncodeAnalysis(a.Failed(failed.plugin, failed.device))
		}
		return nil
	})
	return updateErr
}

// postpone puts a job back whose plugin is not there: that is not a failure of
// the series.
func (d *dispatcher) postpone(job store.Job, cause error) error {
	_, err := d.store.UpdateJob(job.ID, func(j *store.Job) error {
		j.State, j.Reason, j.NotBefore = store.JobRetry, cause.Error(), d.now().Add(d.jobs.Backoff)
		j.Attempts = max(j.Attempts-1, 0)
		return nil
	})
	return err
}

// loggable says what happened without the plugin's own words, which may hold
// patient data whatever its author promised. Those are kept in the job, where
// only who may see the images sees them (`hilum job show`).
func loggable(err error) string {
	var input *api.InputError
	var crash *host.CrashError
	var deadline *host.DeadlineError
	var failure *host.FailureError
	var result *api.ResultError
	switch {
	case errors.As(err, &input):
		return "the plugin refused the series; hilum job show has the reason"
	case errors.As(err, &crash):
		return "the plugin crashed: it " + crash.Reason
	case errors.As(err, &deadline):
		return fmt.Sprintf("the plugin did not finish within %s", deadline.Deadline)
	case errors.As(err, &failure):
		return "the plugin failed; hilum job show has its words"
	case errors.As(err, &result):
		return "the plugin's answer broke the contract; hilum job show says how"
	}
	return err.Error()
}

// finish marks the job done and queues its report for every destination, all
// or nothing.
func (d *dispatcher) finish(job store.Job, series string, result task.AnalysisResult) error {
	encoded, err := task.EncodeResult(result.Bare())
	if err != nil {
		return err
	}
	var deliveries []store.Job
	for _, dest := range d.destinations {
		for _, o := range result.Objects {
			if slices.Contains(dest.Results, o.Kind) {
				deliveries = append(deliveries, task.NewDelivery(task.Delivery{
					SOPInstanceUID: o.SOPInstanceUID, Destination: dest.Name, Kind: o.Kind, AnalysisJob: job.ID, Series: series,
				}))
			}
		}
	}
	err = d.store.FinishJob(job.ID, func(j *store.Job) error {
		j.State, j.Result = store.JobDone, encoded
		j.Reason = fmt.Sprintf("%s in %s", count(len(result.Result.Findings), "finding"), count(len(result.Instances), "image"))
		return nil
	}, deliveries...)
	if err == nil {
		d.drop(job.ID)
	}
	return err
}

func (d *dispatcher) dead(job store.Job, reason string) error {
	_, err := d.store.UpdateJob(job.ID, func(j *store.Job) error {
		j.State, j.Reason = store.JobDead, reason
		return nil
	})
	if err == nil {
		d.drop(job.ID)
	}
	return err
}

// count says "1 finding", "2 findings".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
