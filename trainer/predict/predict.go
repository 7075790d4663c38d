// Package predict runs a detection plugin over any number of CT scans and
// writes its findings in the format of a LUNA16 submission.
//
// The plugin is the real process, started by plugins/host as in a node, so that
// what is measured is what serves. Scans are DICOM series or MetaImages; each is
// handed over as it lies on the disk.
//
// The result of each scan is kept in a journal beside the output, <out>.part,
// as soon as it is there; a run that was cut off goes on from it, and refuses to
// when the plugin, the model or its arguments are others. The output appears
// whole or not at all. A scan that cannot be analysed stops the run with its
// name: a scan without findings is a result, a missing one is not.
package predict

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"time"

	"hilum/plugins/api"
	"hilum/plugins/host"
	"hilum/trainer/luna"
	"hilum/trainer/volume"
)

// Options say what is run, and what is written.
type Options struct {
	Plugin    string        // executable
	Args      []string      // its arguments; paths in them absolute
	Device    string        // "": cpu
	Processes int           // of the plugin; below 1: one for each four processors
	Deadline  time.Duration // for one scan; 0: the host's
	Out       string        // CSV file
	JSON      string        // JSON file; "": none
	Judged    bool          // the CSV has malignancy and texture too, empty for a finding that was not judged
	Logger    *slog.Logger  // nil: no log

	// Keep, when set, is called with each new result before it counts, from
	// several goroutines; its error stops the run.
	Keep     func(ctx context.Context, s volume.Scan, r api.Result) error
	Progress func(done, total int) // nil: none
	// Crashed, when set, is called each time the plugin dies at a scan, also when the
	// scan is analysed in the end; from several goroutines.
	Crashed func(seriesInstanceUID string, err *host.CrashError)
}

// Summary counts what a run did.
type Summary struct {
	Scans    int             `json:"scans"`
	Analysed int             `json:"analysed"` // by this run; the others were there
	Findings int             `json:"findings"`
	Empty    int             `json:"empty"` // scans without findings
	Seconds  float64         `json:"seconds"`
	Device   string          `json:"device"`
	Plugin   api.Description `json:"plugin"`
	Left     []volume.Left   `json:"-"` // that are no scans
}

// Scan is the result of one scan, as in the JSON file.
type Scan struct {
	SeriesInstanceUID string            `json:"series_instance_uid"`
	Findings          []api.Finding     `json:"findings"`
	Notes             []string          `json:"notes,omitempty"`
	Attributes        map[string]string `json:"attributes,omitempty"`
	Device            string            `json:"device,omitempty"`
	Malignancy        *float64          `json:"malignancy,omitempty"` // of any nodule of the patient; nil: not judged
}

// Document is the JSON file.
type Document struct {
	Plugin api.Description `json:"plugin"`
	Args   []string        `json:"args"`
	Scans  []Scan          `json:"scans"`
}

const (
	pluginName = "predict"       // what the host calls it
	perProcess = 4               // processors for each process, unless asked for otherwise
	tries      = 2               // a crash of the plugin may be bad luck once
	stopLimit  = 5 * time.Second // for processes to end
)

// Run analyses every scan at the paths.
func Run(ctx context.Context, paths []string, o Options) (sum Summary, err error) {
	start := time.Now()
	found, err := volume.FindContext(ctx, paths...)
	if err != nil {
		return sum, err
	}
	sum.Scans, sum.Left = len(found.Scans), found.Left
	if o.Processes < 1 {
		o.Processes = max(1, runtime.GOMAXPROCS(0)/perProcess)
	}
	o.Processes = min(o.Processes, len(found.Scans))
	scratch, err := os.MkdirTemp("", "hilum-predict-")
	if err != nil {
		return sum, fmt.Errorf("make a folder for the plugin: %w", err)
	}
	defer os.RemoveAll(scratch) // links and temporary files
	h, err := host.New(host.Options{
		Plugins: []host.Spec{{Name: pluginName, Path: o.Plugin, Args: o.Args, Deadline: o.Deadline, Processes: o.Processes}},
		Scratch: filepath.Join(scratch, "plugin"), Logger: o.Logger,
	})
	if err != nil {
		return sum, err
	}
	if err := h.Start(ctx); err != nil {
		return sum, err
	}
	defer func() {
		stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopLimit)
		defer cancel()
		if e := h.Stop(stopping); err == nil && e != nil {
			err = fmt.Errorf("stop the plugin: %w", e)
		}
	}()
	sum.Plugin = h.Status()[0].Description
	head := header{Plugin: sum.Plugin, PluginSHA256: h.Status()[0].SHA256, Args: o.Args}
	j, err := openJournal(o.Out+".part", head)
	if err != nil {
		return sum, err
	}
	defer func() { err = errors.Join(err, j.close()) }()

	r := &runner{Options: o, host: h, journal: j, scratch: scratch, threads: max(1, runtime.GOMAXPROCS(0)/o.Processes)}
	done := 0
	step := func() {
		if done++; o.Progress != nil {
			o.Progress(done, len(found.Scans))
		}
	}
	err = volume.Each(ctx, found.Scans, o.Processes, step, func(ctx context.Context, s volume.Scan, _ int) error {
		return r.scan(ctx, s)
	})
	sum.Analysed = r.analysed
	sum.Seconds = time.Since(start).Seconds()
	if err != nil {
		return sum, err
	}
	doc := Document{Plugin: sum.Plugin, Args: o.Args, Scans: []Scan{}}
	for _, s := range found.Scans {
		result := j.results[s.UID].Scan
		doc.Scans = append(doc.Scans, result)
		sum.Device = result.Device
		if sum.Findings += len(result.Findings); len(result.Findings) == 0 {
			sum.Empty++
		}
	}
	if err := write(o, doc); err != nil {
		return sum, err
	}
	return sum, j.remove()
}

// write writes the files of a whole run.
func write(o Options, doc Document) error {
	if o.JSON != "" {
		err := luna.WriteFile(o.JSON, func(w io.Writer) error {
			e := json.NewEncoder(w)
			e.SetIndent("", "  ")
			return e.Encode(doc)
		})
		if err != nil {
			return fmt.Errorf("write the findings as JSON: %w", err)
		}
	}
	err := luna.WriteFile(o.Out, func(w io.Writer) error {
		c := csv.NewWriter(w)
		head := []string{"seriesuid", "coordX", "coordY", "coordZ", "probability"}
		if o.Judged {
			head = append(head, "malignancy", "texture", "texture_probability")
		}
		rows := [][]string{head}
		for _, s := range doc.Scans {
			for _, f := range s.Findings {
				row := []string{s.SeriesInstanceUID}
				for _, x := range f.Center {
					row = append(row, strconv.FormatFloat(x, 'f', 4, 64))
				}
				row = append(row, exact(f.Probability))
				if o.Judged {
					row = append(row, judgement(f)...)
				}
				rows = append(rows, row)
			}
		}
		return c.WriteAll(rows)
	})
	if err != nil {
		return fmt.Errorf("write the findings: %w", err)
	}
	return nil
}

// judgement returns the malignancy of a finding, its texture and that texture's
// probability, empty where nothing judged it.
func judgement(f api.Finding) []string {
	malignancy, texture := "", ""
	if f.Malignancy != nil {
		malignancy = exact(*f.Malignancy)
	}
	if f.Texture != "" {
		texture = exact(f.TextureProbability)
	}
	return []string{malignancy, f.Texture, texture}
}

// exact returns the shortest text that is read back as the same number.
func exact(x float64) string { return strconv.FormatFloat(x, 'g', -1, 64) }

// runner analyses scans; several goroutines use it.
type runner struct {
	Options
	host    *host.Host
	journal *journal
	scratch string
	threads int // of each process

	mu       sync.Mutex // guards analysed
	analysed int
}

// scan analyses one scan, unless the journal has it.
func (r *runner) scan(ctx context.Context, s volume.Scan) error {
	fingerprint, err := s.Fingerprint()
	if err != nil {
		return err
	}
	if known, ok := r.journal.result(s.UID); ok {
		if known.Fingerprint != fingerprint {
			return fmt.Errorf("its files changed since it was analysed: remove %s and start again", r.journal.name)
		}
		return nil
	}
	folder := s.Path
	if s.MetaImage {
		if folder, err = r.link(s); err != nil {
			return err
		}
	}
	result, err := r.analyse(ctx, api.Job{
		ID: s.UID, Folder: folder, Device: r.Device, Threads: r.threads,
		Series: map[string]string{"SeriesInstanceUID": s.UID, "Modality": "CT"},
	})
	if err != nil {
		return err
	}
	// The most suspicious first, whatever the plugin's order.
	slices.SortStableFunc(result.Findings, func(a, b api.Finding) int {
		switch {
		case a.Probability > b.Probability:
			return -1
		case a.Probability < b.Probability:
			return 1
		}
		return 0
	})
	if r.Keep != nil {
		if err := r.Keep(ctx, s, result); err != nil {
			return err
		}
	}
	if result.Findings == nil {
		result.Findings = []api.Finding{} // an empty list in JSON
	}
	err = r.journal.add(record{Fingerprint: fingerprint, Scan: Scan{
		SeriesInstanceUID: s.UID, Findings: result.Findings, Notes: result.Notes, Attributes: result.Attributes, Device: result.Device,
		Malignancy: result.Malignancy,
	}})
	r.mu.Lock()
	defer r.mu.Unlock()
	r.analysed++
	return err
}

// analyse tries once more when the plugin, and not the scan, is to blame.
func (r *runner) analyse(ctx context.Context, job api.Job) (result api.Result, err error) {
	for range tries {
		result, err = r.host.Analyze(ctx, pluginName, job, nil)
		var crash *host.CrashError
		if err == nil || !errors.As(err, &crash) {
			break
		}
		if r.Crashed != nil {
			r.Crashed(job.ID, crash)
		}
	}
	return result, err
}

// link makes a folder that holds one MetaImage and nothing else: a job is a
// folder, and LUNA16's hold a hundred.
func (r *runner) link(s volume.Scan) (string, error) {
	target, err := filepath.Abs(s.Path)
	if err != nil {
		return "", fmt.Errorf("path of the scan: %w", err)
	}
	folder := filepath.Join(r.scratch, s.UID)
	if err := os.Mkdir(folder, 0o700); err != nil {
		return "", fmt.Errorf("make a folder for the scan: %w", err)
	}
	if err := os.Symlink(target, filepath.Join(folder, filepath.Base(s.Path))); err != nil {
		return "", fmt.Errorf("hand the scan to the plugin: %w", err)
	}
	return folder, nil
}
