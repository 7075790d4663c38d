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
	"hilum/plugins/api"
)

// Name and version of the plugin in results; the version is that of its code.
const (
	pluginName    = "lungnodule"
	pluginVersion = "0.4.0"
)

// detector implements api.Plugin. The runtime, the models and the engine live
// as long as the process.
type detector struct {
	options

	mu         sync.Mutex // guards all below; held for the whole of a job: one runs at a time
	library    *library
	model      *models.Model
	classifier *models.Classifier // nil: nothing judges the findings
	engine     *engine
}

func newDetector(o options) *detector { return &detector{options: o} }

// open loads the runtime and the models; d.mu is held.
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
	if d.classifier == nil && d.classifierDir != "" {
		c, err := models.LoadClassifier(d.classifierDir)
		if err != nil {
			return fmt.Errorf("load the classifier: %w", err)
		}
		d.classifier = c
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

// use makes d.engine the one for a device; d.mu is held.
func (d *detector) use(device string, threads int) error {
	if d.engine.fits(device, threads) {
		return nil
	}
	d.engine.close() // first: two may not fit into a GPU
	d.engine = nil
	e, err := newEngine(d.library, d.model, d.classifier, device, threads)
	if err != nil {
		return err
	}
	d.engine = e
	for _, s := range []*session{e.detect, e.rescore, e.classify} {
		if s != nil {
			d.log.Info("network ready", "network", s.name, "provider", s.provider, "device", s.device, "threads", threads)
		}
	}
	for _, n := range e.notes() {
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
	if d.engine == nil {
		device := "cpu"
		if d.library.has(cudaLibrary) {
			device = providerCUDA
		}
		if err := d.use(device, runtime.NumCPU()); err != nil {
			return api.Description{}, err
		}
	}
	if d.engine.detect.provider == providerCUDA {
		devices = append(devices, providerCUDA)
	}
	used := []api.Model{{Name: d.model.Name, Version: d.model.Version, SHA256: d.model.SHA256}}
	if r := d.model.Rescore; r != nil {
		used = append(used, api.Model{Name: d.model.Name + "-rescore", Version: d.model.Version, SHA256: r.SHA256})
	}
	if c := d.classifier; c != nil {
		used = append(used, api.Model{Name: c.Name, Version: c.Version, SHA256: c.SHA256})
	}
	return api.Description{
		Name:       pluginName,
		Version:    pluginVersion,
		Kind:       api.KindDetector,
		Modalities: []string{"CT"},
		Models:     used,
		Devices:    devices,
		Runtime:    fmt.Sprintf("onnxruntime %s %s", d.library.version, d.engine.detect.provider),
	}, nil
}

// Shares of a job's progress; roughly their shares of the time.
const (
	progressRead    = 0.02
	progressPrepare = 0.25
	progressDetect  = 0.40
	progressJudge   = 0.95
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
	kept, err := d.rescore(ctx, selectCandidates(candidates, p, d.model.Manifest), p)
	if err != nil {
		return api.Result{}, err
	}
	found := findings(kept, p.Geometry, v.SeriesInstanceUID, d.model.SHA256)
	detected := time.Now()
	progress(progressJudge, "judging the findings")
	malignancy, err := d.classify(ctx, v, found)
	if err != nil {
		return api.Result{}, err
	}
	judged := time.Now()
	measure(found, v, p)
	measured := time.Now()
	d.log.Info("series analysed", "job", job.ID, "findings", len(found), "tiles", len(t.tiles),
		"provider", d.engine.detect.provider, "device", d.engine.detect.device, "seconds", seconds(start, measured))
	progress(1, "done")
	attributes := map[string]string{
		"provider":        d.engine.detect.provider,
		"runtime":         "onnxruntime " + d.library.version,
		"threads":         strconv.Itoa(threads),
		"threshold":       strconv.FormatFloat(d.model.Output.Threshold, 'g', -1, 64),
		"tiles":           strconv.Itoa(len(t.tiles)),
		"tiles_skipped":   strconv.Itoa(t.skip),
		"patches":         t.shapes(),
		"seconds_read":    seconds(start, read),
		"seconds_prepare": seconds(read, prepared),
		"seconds_detect":  seconds(prepared, detected),
		"seconds_measure": seconds(judged, measured),
	}
	if s := d.engine.rescore; s != nil {
		attributes["provider_rescore"] = s.provider
	}
	if s := d.engine.classify; s != nil {
		attributes["provider_classify"] = s.provider
		attributes["seconds_classify"] = seconds(detected, judged)
	}
	return api.Result{
		Findings:   found,
		Malignancy: malignancy,
		Device:     d.engine.detect.device,
		Notes:      append(v.Notes, d.engine.notes()...),
		Attributes: attributes,
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

var _ api.Plugin = (*detector)(nil)
