package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
	"strconv"
	"sync"
	"time"

	"hilum/models"
	"hilum/models/ct"
	"hilum/models/nodule"
	"hilum/plugins/api"
)

// Name and version of the plugin in results; the version is that of its code.
const (
	pluginName    = "lungnodule"
	pluginVersion = "0.1.0"
)

// detector implements api.Plugin. The runtime, the model and the session live
// as long as the process.
type detector struct {
	options

	mu      sync.Mutex // guards all below; held for the whole of a job: one runs at a time
	library *library
	model   *models.Model
	session *session
}

func newDetector(o options) *detector { return &detector{options: o} }

// open loads the runtime and the model; d.mu is held.
func (d *detector) open() error {
	if d.model == nil {
		m, err := models.Load(d.modelDir)
		if err != nil {
			return fmt.Errorf("load the model: %w", err)
		}
		if d.threshold > 0 {
			m.Output.Threshold = d.threshold
		}
		d.model = m
	}
	if d.library == nil {
		if d.libraryErr != nil {
			return d.libraryErr
		}
		l, err := openLibrary(d.libraryPath)
		if err != nil {
			return err
		}
		d.library = l
		d.log.Info("onnx runtime loaded", "path", l.path, "version", d.library.version)
	}
	return nil
}

// use makes d.session the one for a device; d.mu is held.
func (d *detector) use(device string, threads int) error {
	if d.session.fits(device, threads) {
		return nil
	}
	d.session.close() // first: two sessions may not fit into a GPU
	d.session = nil
	s, err := newSession(d.library, d.model, device, threads)
	if err != nil {
		return err
	}
	d.session = s
	d.log.Info("model ready", "model", d.model.Name, "version", d.model.Version,
		"provider", s.provider, "device", s.device, "threads", threads)
	for _, n := range s.notes {
		d.log.Warn("not on the first choice of provider", "reason", n)
	}
	return nil
}

// Describe loads everything, so that what is missing stops the start.
func (d *detector) Describe(context.Context) (api.Description, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.open(); err != nil {
		return api.Description{}, err
	}
	devices := []string{"cpu"}
	if d.session == nil {
		device := "cpu"
		if d.library.has(cudaLibrary) {
			device = providerCUDA
		}
		if err := d.use(device, runtime.NumCPU()); err != nil {
			return api.Description{}, err
		}
	}
	if d.session.provider == providerCUDA {
		devices = append(devices, providerCUDA)
	}
	return api.Description{
		Name:       pluginName,
		Version:    pluginVersion,
		Kind:       api.KindDetector,
		Modalities: []string{"CT"},
		Models:     []api.Model{{Name: d.model.Name, Version: d.model.Version, SHA256: d.model.SHA256}},
		Devices:    devices,
		Runtime:    fmt.Sprintf("onnxruntime %s %s", d.library.version, d.session.provider),
	}, nil
}

// Shares of a job's progress; roughly their shares of the time.
const (
	progressRead    = 0.02
	progressPrepare = 0.25
	progressDetect  = 0.40
)

// Analyze reads, prepares and searches one series.
func (d *detector) Analyze(ctx context.Context, job api.Job, progress api.Progress) (api.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if err := d.open(); err != nil {
		return api.Result{}, err
	}
	threads := job.Threads
	if threads < 1 {
		threads = runtime.NumCPU()
	}
	if err := d.use(job.Device, threads); err != nil {
		return api.Result{}, err
	}
	// A job's volume is hundreds of megabytes that an idle plugin must not keep.
	defer debug.FreeOSMemory()

	start := time.Now()
	progress(progressRead, "reading the series")
	v, err := loadScan(ctx, job, threads)
	if err != nil {
		return api.Result{}, seriesError(err)
	}
	read := time.Now()
	progress(progressPrepare, "looking for the lungs")
	p, err := ct.Prepare(v, d.model.Input.Prepare, threads)
	if err != nil {
		return api.Result{}, seriesError(err)
	}
	prepared := time.Now()
	candidates, t, err := d.detect(ctx, p, progress)
	if err != nil {
		return api.Result{}, err
	}
	kept := selectCandidates(candidates, p, d.model.Output)
	detected := time.Now()
	found := findings(kept, p.Geometry, v.SeriesInstanceUID, d.model.SHA256)
	measure(found, v, p)
	measured := time.Now()
	d.log.Info("series analysed", "job", job.ID, "findings", len(kept), "tiles", len(t.starts),
		"provider", d.session.provider, "device", d.session.device, "seconds", seconds(start, measured))
	progress(1, "done")
	return api.Result{
		Findings: found,
		Device:   d.session.device,
		Notes:    append(v.Notes, d.session.notes...),
		Attributes: map[string]string{
			"provider":        d.session.provider,
			"runtime":         "onnxruntime " + d.library.version,
			"threads":         strconv.Itoa(threads),
			"threshold":       strconv.FormatFloat(d.model.Output.Threshold, 'g', -1, 64),
			"tiles":           strconv.Itoa(len(t.starts)),
			"tiles_skipped":   strconv.Itoa(t.skip),
			"seconds_read":    seconds(start, read),
			"seconds_prepare": seconds(read, prepared),
			"seconds_detect":  seconds(prepared, detected),
			"seconds_measure": seconds(detected, measured),
		},
	}, nil
}

func seconds(from, to time.Time) string {
	return strconv.FormatFloat(to.Sub(from).Seconds(), 'f', 2, 64)
}

// seriesError tells what the series itself is to blame for from what may go away.
func seriesError(err error) error {
	var series *ct.SeriesError
	switch {
	case errors.As(err, &series):
		return &api.InputError{Reason: series.Reason}
	case errors.Is(err, ct.ErrNoLungs):
		return &api.InputError{Reason: err.Error()}
	}
	return err
}

// detect runs the network over the scan and returns the candidates above the
// threshold in voxels of the prepared scan.
func (d *detector) detect(ctx context.Context, p *ct.Prepared, progress api.Progress) ([]nodule.Candidate, tiling, error) {
	in, out := d.model.Input, d.model.Output
	layout := nodule.Layout{Anchors: out.Anchors, Stride: out.Stride}
	limits := nodule.Limits{Threshold: out.Threshold, MaxDiameter: maxDiameterMM / in.Prepare.SpacingMM[0]}
	// A finding outside the lungs must touch them: no farther than a radius.
	reach := int(maxReachMM / min(in.Prepare.SpacingMM[0], in.Prepare.SpacingMM[1], in.Prepare.SpacingMM[2]))
	t := plan(p, in, reach)
	table := newScaling(in.Scale)

	batch := min(in.Batch, max(1, len(t.starts)))
	if in.Step == 0 {
		batch = in.Batch // a network of fixed shape
	}
	inputLen, outputLen := t.voxels(), layout.OutputLen(t.patch)
	input, output := make([]float32, batch*inputLen), make([]float32, batch*outputLen)
	inShape := []int64{int64(batch), 1, int64(t.patch[0]), int64(t.patch[1]), int64(t.patch[2])}
	outShape := []int64{int64(batch)}
	for _, n := range t.patch {
		outShape = append(outShape, int64(n/out.Stride))
	}
	outShape = append(outShape, int64(len(out.Anchors)), nodule.Channels)

	var all []nodule.Candidate
	for done := 0; done < len(t.starts); done += batch {
		progress(progressDetect+(1-progressDetect)*float64(done)/float64(len(t.starts)),
			fmt.Sprintf("searching tile %d of %d", done+1, len(t.starts)))
		// The last batch keeps its shape; what is left of the one before in its
		// unused places is computed and not looked at.
		tiles := t.starts[done:min(done+batch, len(t.starts))]
		for i, start := range tiles {
			t.fill(input[i*inputLen:][:inputLen], p, start, table, in.Prepare.PadValue)
		}
		if err := d.session.run(ctx, input, inShape, output, outShape); err != nil {
			return nil, t, err
		}
		for i, start := range tiles {
			found, err := nodule.Decode(output[i*outputLen:][:outputLen], t.patch, layout, limits)
			if err != nil {
				return nil, t, fmt.Errorf("model %s: %w", d.model.Name, err)
			}
			o := t.origin(start)
			for _, c := range found {
				if t.contains([3]float64{c.Z, c.Y, c.X}, float64(out.Stride)) {
					c.Z, c.Y, c.X = c.Z+float64(o[0]), c.Y+float64(o[1]), c.X+float64(o[2])
					all = append(all, c)
				}
			}
		}
	}
	return all, t, nil
}

// maxReachMM is how far outside the lungs tiles are still searched.
const maxReachMM = 15

var _ api.Plugin = (*detector)(nil)
