package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"hilum/dimse/dataset"
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
	station      string // AE title
	software     string // version of Hilum
	log          *slog.Logger
	now          func() time.Time
}

// run analyses one revision of one series, in two steps with the result kept
// in the job between them: what the plugins found, then the report made of it.
// It has the lease of the first plugin.
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
		result.Report, err = d.report(a, result)
	}
	var input *api.InputError
	var start *host.StartError
	switch {
	case err == nil:
		log.Info("analysis done", "findings", len(result.Result.Findings), "seconds", result.Seconds, "device", result.Result.Device)
		return d.finish(job, result)
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
func (d *dispatcher) finish(job store.Job, result task.AnalysisResult) error {
	encoded, err := task.EncodeResult(result)
	if err != nil {
		return err
	}
	var deliveries []store.Job
	for _, dest := range d.destinations {
		deliveries = append(deliveries, task.NewDelivery(task.Delivery{
			SOPInstanceUID: result.Report.SOPInstanceUID, Destination: dest.Name, AnalysisJob: job.ID,
		}))
	}
	return d.store.FinishJob(job.ID, func(j *store.Job) error {
		j.State, j.Result = store.JobDone, encoded
		j.Reason = fmt.Sprintf("%s in %s", count(len(result.Result.Findings), "finding"), count(len(result.Instances), "image"))
		return nil
	}, deliveries...)
}

func (d *dispatcher) dead(job store.Job, reason string) error {
	_, err := d.store.UpdateJob(job.ID, func(j *store.Job) error {
		j.State, j.Reason = store.JobDead, reason
		return nil
	})
	return err
}

// report makes the structured report of a result and stores it. The same
// result makes the same bytes, so that doing it twice stores it once.
func (d *dispatcher) report(a task.Analysis, result task.AnalysisResult) (task.Object, error) {
	header, err := d.header(result.Instances)
	if err != nil {
		return task.Object{}, fmt.Errorf("read the header for the report: %w", err)
	}
	in := report.Input{
		Header:            header,
		SeriesInstanceUID: a.SeriesInstanceUID,
		Result:            result.Result,
		Revision:          a.Revision,
		Software:          result.Software,
		Station:           d.station,
		Now:               result.Ended,
	}
	if in.Predecessor, err = d.predecessor(a); err != nil {
		return task.Object{}, err
	}
	for _, im := range result.Instances {
		in.Images = append(in.Images, report.Image(im))
	}
	doc, err := report.SR(in)
	if err != nil {
		return task.Object{}, fmt.Errorf("make the report: %w", err)
	}
	if err := d.keep(doc); err != nil {
		return task.Object{}, fmt.Errorf("store the report: %w", err)
	}
	return task.Object{SOPClassUID: doc.SOPClassUID, SOPInstanceUID: doc.SOPInstanceUID}, nil
}

// header reads what the report copies from the first image analysed.
func (d *dispatcher) header(images []task.Object) (dataset.Header, error) {
	if len(images) == 0 {
		return dataset.Header{}, errors.New("no image was analysed")
	}
	r, _, err := d.store.OpenInstance(images[0].SOPInstanceUID)
	if err != nil {
		return dataset.Header{}, err
	}
	defer r.Close()
	file, err := dataset.ReadHeaderFrom(r, report.SourceTags)
	if err != nil {
		return dataset.Header{}, err
	}
	return file.Header, nil
}

// keep stores a report like any object, in a series that is never an input.
func (d *dispatcher) keep(doc report.Document) error {
	file, err := dataset.ReadHeaderFrom(bytes.NewReader(doc.Bytes), dataset.IndexTags)
	if err != nil {
		return err
	}
	w, err := d.store.NewInstance()
	if err != nil {
		return err
	}
	defer func() { _ = w.Abort() }() // harmless after Commit
	if _, err := w.Write(doc.Bytes); err != nil {
		return err
	}
	outcome, err := w.Commit(store.Instance{
		SOPInstanceUID:    doc.SOPInstanceUID,
		SOPClassUID:       doc.SOPClassUID,
		SeriesInstanceUID: doc.SeriesInstanceUID,
		StudyInstanceUID:  doc.StudyInstanceUID,
		TransferSyntaxUID: doc.TransferSyntaxUID,
		Source:            d.station,
		Header:            file.Header.Map(),
	})
	if err != nil {
		return err
	}
	if outcome == store.Conflict || outcome == store.Rejected {
		return fmt.Errorf("another report has the UID %s", doc.SOPInstanceUID)
	}
	return d.store.UpdateSeries(doc.SeriesInstanceUID, func(s *store.Series) error {
		s.State, s.Reason = store.SeriesGenerated, "made by this node"
		s.CompleteInstances = s.Instances
		return nil
	})
}

// predecessor is the report that this one supersedes: of the last revision of
// the series that this plugin finished.
func (d *dispatcher) predecessor(a task.Analysis) (*report.Image, error) {
	var all []store.Job
	for _, queue := range task.AnalysisQueues(a.Plugin) {
		jobs, err := d.store.Jobs(queue)
		if err != nil {
			return nil, fmt.Errorf("find the result that this one supersedes: %w", err)
		}
		all = append(all, jobs...)
	}
	var last *report.Image
	revision := 0
	for _, j := range all {
		if j.State != store.JobDone {
			continue
		}
		other, err := task.DecodeAnalysis(j)
		if err != nil {
			return nil, err
		}
		if other.SeriesInstanceUID != a.SeriesInstanceUID || other.Revision >= a.Revision || other.Revision <= revision {
			continue
		}
		result, err := task.DecodeAnalysisResult(j)
		if err != nil {
			return nil, err
		}
		revision = other.Revision
		last = (*report.Image)(&result.Report)
	}
	return last, nil
}

// count says "1 finding", "2 findings".
func count(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
