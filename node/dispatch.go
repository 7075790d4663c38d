package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"hilum/dimse/dataset"
	"hilum/node/config"
	"hilum/node/report"
	"hilum/node/task"
	"hilum/plugins/api"
	"hilum/plugins/host"
	"hilum/store"
)

// dispatcher runs the analyses of one plugin: series out of the store, into
// the plugin, report into the store, deliveries into their queues.
type dispatcher struct {
	store        *store.Store
	host         *host.Host
	plugin       config.Plugin
	jobs         config.Jobs
	destinations []config.Destination
	scratch      string // where series are laid out for plugins
	threads      int
	station      string // AE title
	software     string // version of Hilum
	log          *slog.Logger
	now          func() time.Time
}

// run analyses one revision of one series, in two steps with the result kept
// in the job between them: what the plugin found, then the report made of it.
func (d *dispatcher) run(ctx context.Context, job store.Job) error {
	a, err := task.DecodeAnalysis(job)
	if err != nil {
		return d.dead(job, err.Error())
	}
	log := d.log.With("job", job.ID, "series", a.SeriesInstanceUID, "plugin", a.Plugin, "attempt", job.Attempts)
	log.Info("analysis started")
	result, err := d.result(ctx, job, a)
	if err == nil {
		result.Report, err = d.report(a, result)
	}
	var input *api.InputError
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
	case job.Attempts >= d.jobs.Attempts:
		log.Error("analysis given up", "error", loggable(err))
		return d.dead(job, fmt.Sprintf("given up after %s: %v", count(job.Attempts, "attempt"), err))
	}
	wait := task.Backoff(job.Attempts, d.jobs.Backoff, d.jobs.MaxBackoff)
	log.Warn("analysis failed, trying again", "error", loggable(err), "in", wait)
	_, updateErr := d.store.UpdateJob(job.ID, func(j *store.Job) error {
		j.State, j.Reason, j.NotBefore = store.JobRetry, err.Error(), d.now().Add(wait)
		return nil
	})
	return updateErr
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

// result returns what the plugin found: as an earlier attempt left it in the
// job, or by laying the series out and having it analysed.
func (d *dispatcher) result(ctx context.Context, job store.Job, a task.Analysis) (task.AnalysisResult, error) {
	if len(job.Result) > 0 {
		return task.DecodeAnalysisResult(job)
	}
	begin := d.now()
	result, err := d.analyze(ctx, job, a)
	if err != nil {
		return result, err
	}
	result.Software, result.Ended = d.software, d.now()
	result.Seconds = result.Ended.Sub(begin).Seconds()
	encoded, err := task.EncodeResult(result)
	if err != nil {
		return result, err
	}
	_, err = d.store.UpdateJob(job.ID, func(j *store.Job) error { j.Result = encoded; return nil })
	return result, err
}

func (d *dispatcher) analyze(ctx context.Context, job store.Job, a task.Analysis) (task.AnalysisResult, error) {
	var out task.AnalysisResult
	series, err := d.store.Series(a.SeriesInstanceUID)
	if err != nil {
		return out, fmt.Errorf("find the series: %w", err)
	}
	images, err := d.store.Instances(a.SeriesInstanceUID)
	if err != nil {
		return out, fmt.Errorf("list the series: %w", err)
	}
	work := filepath.Join(d.scratch, jobsFolder, a.Plugin, "job-"+job.ID)
	defer func() {
		if err := removeTree(work); err != nil {
			d.log.Error("scratch folder not removed", "job", job.ID, "error", err)
		}
	}()
	folder, err := d.layOut(ctx, work, images)
	if err != nil {
		return out, err
	}
	out.Result, err = d.host.Analyze(ctx, a.Plugin, api.Job{
		ID:      job.ID,
		Folder:  folder,
		Series:  series.Header,
		Device:  "cpu",
		Threads: d.threads,
	}, func(fraction float64, _ string) { // its words may hold patient data
		d.log.Debug("analysis progress", "job", job.ID, "fraction", fraction)
	})
	for _, in := range images {
		out.Instances = append(out.Instances, task.Object{SOPClassUID: in.SOPClassUID, SOPInstanceUID: in.SOPInstanceUID})
	}
	return out, err
}

// layOut writes the images into a folder that the plugin can read and not
// change: 000001.dcm, 000002.dcm … in the order of images. Names hold
// nothing from the wire.
func (d *dispatcher) layOut(ctx context.Context, work string, images []store.Instance) (string, error) {
	if err := removeTree(work); err != nil { // left by a node that was killed
		return "", fmt.Errorf("clear the scratch folder: %w", err)
	}
	folder := filepath.Join(work, "series")
	if err := os.MkdirAll(folder, 0o700); err != nil {
		return "", fmt.Errorf("make the scratch folder: %w", err)
	}
	for i, in := range images {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		if err := d.copyOut(in.SOPInstanceUID, filepath.Join(folder, fmt.Sprintf("%06d.dcm", i+1))); err != nil {
			return "", fmt.Errorf("lay out image %d of the series: %w", i+1, err)
		}
	}
	return folder, os.Chmod(folder, 0o500)
}

func (d *dispatcher) copyOut(sopInstanceUID, name string) error {
	r, _, err := d.store.OpenInstance(sopInstanceUID)
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o400)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, r)
	return errors.Join(err, f.Close())
}

// removeTree removes a folder whose parts may be read-only.
func removeTree(dir string) error {
	_ = filepath.WalkDir(dir, func(path string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			_ = os.Chmod(path, 0o700) // if it fails, RemoveAll says why
		}
		return nil
	})
	return os.RemoveAll(dir)
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
	all, err := d.store.Jobs(task.AnalysisQueue(a.Plugin))
	if err != nil {
		return nil, fmt.Errorf("find the result that this one supersedes: %w", err)
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
