package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hilum/node/config"
	"hilum/node/task"
	"hilum/plugins/api"
	"hilum/plugins/host"
	"hilum/store"
)

// stepError is the failure of one plugin of a pipeline on a device.
type stepError struct {
	plugin, device string
	err            error
}

func (e *stepError) Error() string { return e.err.Error() }
func (e *stepError) Unwrap() error { return e.err }

// result returns what the plugins found: as an earlier attempt kept it,
// or by laying the series out and having it analysed.
func (d *dispatcher) result(ctx context.Context, job store.Job, a task.Analysis, lease *holder) (task.AnalysisResult, error) {
	result, err := d.kept(job.ID)
	if err != nil || !result.Ended.IsZero() {
		return result, err
	}
	now := d.router.now.Load()
	p, ok := now.pipeline(a.Plugin)
	if !ok {
		return result, fmt.Errorf("pipeline %s is not configured any more", a.Plugin)
	}
	images, err := d.store.Instances(a.SeriesInstanceUID)
	if err != nil {
		return result, fmt.Errorf("list the series: %w", err)
	}
	if analysed := objects(images); !slices.Equal(result.Instances, analysed) {
		result = task.AnalysisResult{Instances: analysed} // an image came, or went, between two attempts
	}
	for _, name := range p.Plugins[min(len(result.Steps), len(p.Plugins)):] {
		plugin, ok := now.plugin(name)
		if !ok {
			return result, fmt.Errorf("plugin %s is not configured any more", name)
		}
		if len(result.Steps) == len(p.Plugins)-1 {
			result.Software = d.software
		}
		if err := d.step(ctx, job, a, plugin, images, &result, lease); err != nil {
			return result, err
		}
		if len(result.Steps) == len(p.Plugins) {
			result.Ended = d.now()
		}
		if err := d.keep(job.ID, result); err != nil {
			return result, err
		}
	}
	return result, nil
}

func objects(images []store.Instance) []task.Object {
	var all []task.Object
	for _, in := range images {
		all = append(all, task.Object{SOPClassUID: in.SOPClassUID, SOPInstanceUID: in.SOPInstanceUID})
	}
	return all
}

// step has one plugin analyse the series and adds what it found to result.
func (d *dispatcher) step(ctx context.Context, job store.Job, a task.Analysis, p config.Plugin, images []store.Instance, result *task.AnalysisResult, lease *holder) error {
	if lease.lease == nil { // all but the first plugin
		l, err := d.pool.Acquire(ctx, d.requestFor(p, job, a))
		if err != nil {
			return err
		}
		lease.lease = l
	}
	defer lease.release()
	begin := d.now()
	series, err := d.store.Series(a.SeriesInstanceUID)
	if err != nil {
		return fmt.Errorf("find the series: %w", err)
	}
	work := filepath.Join(d.scratch, jobsFolder, p.Name, "job-"+job.ID)
	defer func() {
		if err := removeTree(work); err != nil {
			d.log.Error("scratch folder not removed", "job", job.ID, "error", err)
		}
	}()
	folder, err := d.layOut(ctx, work, images)
	if err != nil {
		return err
	}
	where := lease.lease.Device
	threads := lease.lease.Threads
	if n := d.router.now.Load().threads; n > 0 {
		threads = n
	}
	found, err := d.host.Analyze(ctx, p.Name, api.Job{
		ID:       job.ID,
		Folder:   folder,
		Series:   series.Header,
		Findings: result.Result.Findings,
		Device:   where,
		Threads:  threads,
	}, func(fraction float64, _ string) { // its words may hold patient data
		d.log.Debug("analysis progress", "job", job.ID, "plugin", p.Name, "fraction", fraction)
	})
	switch {
	case errors.Is(err, host.ErrUnknownPlugin): // a reload took it away this moment
		return &host.StartError{Plugin: p.Name, Reason: "it is not configured any more"}
	case err != nil:
		return &stepError{plugin: p.Name, device: where, err: err}
	}
	seconds := d.now().Sub(begin).Seconds()
	result.Steps = append(result.Steps, task.Step{
		Plugin: p.Name, Version: found.Description.Version, Device: found.Device, Threads: threads, Findings: len(found.Findings), Seconds: seconds,
	})
	result.Seconds += seconds
	result.Result = handOn(result.Result, found, len(result.Steps) == 1)
	return nil
}

// handOn makes the result of a pipeline of what was found so far and what the
// next plugin says. That one decides which findings there are; of a finding
// that it returns under its old ID, it need not repeat what it did not judge.
func handOn(before, next api.Result, first bool) api.Result {
	if first {
		return next
	}
	for i := range next.Findings {
		f := &next.Findings[i]
		at := slices.IndexFunc(before.Findings, func(old api.Finding) bool { return old.ID == f.ID })
		if at < 0 {
			continue
		}
		old := before.Findings[at]
		if f.Mask == nil {
			f.Mask = old.Mask
		}
		if f.Malignancy == nil {
			f.Malignancy = old.Malignancy
		}
		if f.Label == "" {
			f.Label = old.Label
		}
	}
	d := before.Description // the detector's, with the names and models of all
	d.Name = joinNames(d.Name, next.Description.Name)
	d.Version = joinNames(d.Version, next.Description.Version)
	d.Models = append(slices.Clone(d.Models), next.Description.Models...)
	if next.Description.Runtime != d.Runtime {
		d.Runtime = strings.Trim(d.Runtime+"; "+next.Description.Runtime, "; ")
	}
	next.Description = d
	if before.Device != next.Device {
		next.Device = joinNames(before.Device, next.Device)
	}
	next.Notes = append(slices.Clone(before.Notes), next.Notes...)
	attributes := map[string]string{}
	for _, from := range []map[string]string{before.Attributes, next.Attributes} {
		for k, v := range from {
			attributes[k] = v
		}
	}
	next.Attributes = attributes
	return next
}

// joinNames joins names to one that a report has room for (PS3.5 6.2, VR LO).
func joinNames(a, b string) string {
	const longest = 64
	joined := strings.Trim(a+"+"+b, "+")
	if len(joined) > longest {
		return strings.ToValidUTF8(joined[:longest], "")
	}
	return joined
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
