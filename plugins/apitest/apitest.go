// Package apitest is the suite that every plugin passes.
//
// Run starts the executable of a plugin through the real host (plugins/host)
// and looks at it from outside only, so it works for plugins in any language.
// It checks what a node relies on: that the plugin describes itself, finds what
// it should in a good series and refuses a bad one for good, obeys a cancel and
// a deadline, comes back after a crash, gives the same answer twice, with
// findings inside the volume, bears a flood of findings of the plugin before it,
// leaves its input alone and ends when asked.
package apitest

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"syscall"
	"testing"
	"time"

	"hilum/models/ct"
	"hilum/plugins/api"
	"hilum/plugins/host"
)

// Config says which plugin to test and with what.
type Config struct {
	Path       string            // the executable
	Args       []string          // its arguments
	Env        []string          // KEY=value, beside what every plugin gets
	GoodFolder string            // a series that the plugin can analyse; small, it is analysed some eight times
	Series     map[string]string // DICOM keyword to text of the good series
	Device     string            // "": "cpu"
	Threads    int

	// Check judges the result of the good series, beside the contract; nil: anything goes.
	Check func(t *testing.T, r api.Result)

	// Deadline bounds one job; 0: 5 minutes.
	Deadline time.Duration

	// CancelGrace is how long the plugin may take to let go of a cancelled job; 0: 5 s, as in the node.
	CancelGrace time.Duration
}

// Run runs the suite.
func Run(t *testing.T, c Config) {
	c.Device = cmp.Or(c.Device, "cpu")
	c.Deadline = cmp.Or(c.Deadline, 5*time.Minute)
	s := &suite{Config: c}
	t.Run("Describe", s.describe)
	t.Run("TwoJobs", s.twoJobs)
	t.Run("BadInput", s.badInput)
	t.Run("Flood", s.flood)
	t.Run("Cancel", s.cancel)
	t.Run("Deadline", s.deadline)
	t.Run("Crash", s.crash)
	t.Run("Stop", s.stop)
}

type suite struct{ Config }

const name = "plugin"

// start runs the plugin until the end of the test.
func (s *suite) start(t *testing.T, deadline time.Duration) *host.Host {
	t.Helper()
	h, err := host.New(host.Options{
		Plugins:     []host.Spec{{Name: name, Path: s.Path, Args: s.Args, Env: s.Env, Deadline: deadline}},
		Scratch:     t.TempDir(),
		CancelGrace: s.CancelGrace,
		StopGrace:   stopGrace,
		BackoffMin:  time.Millisecond,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			for _, st := range h.Status() {
				t.Logf("state %s, %d restarts, last output:\n%s", st.State, st.Restarts, st.LastOutput)
			}
		}
		if err := h.Stop(context.Background()); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	if err := h.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	return h
}

func (s *suite) job(folder string) api.Job {
	return api.Job{ID: "apitest", Folder: folder, Series: s.Series, Device: s.Device, Threads: s.Threads}
}

// mustWork runs the good job. The host has held its result to the contract.
func (s *suite) mustWork(t *testing.T, h *host.Host) api.Result {
	t.Helper()
	r, err := h.Analyze(t.Context(), name, s.job(s.GoodFolder), nil)
	if err != nil {
		t.Fatalf("good series: %v", err)
	}
	return r
}

func (s *suite) describe(t *testing.T) {
	h := s.start(t, s.Deadline)
	d := h.Status()[0].Description
	if err := d.Validate(); err != nil {
		t.Errorf("description %+v: %v", d, err)
	}
	if len(d.Modalities) == 0 || len(d.Devices) == 0 {
		t.Errorf("description %+v names no modality or no device", d)
	}
}

// twoJobs also looks at the input before and after.
func (s *suite) twoJobs(t *testing.T) {
	h := s.start(t, s.Deadline)
	pid := h.Pid(name)
	before := fingerprint(t, s.GoodFolder)
	first := s.mustWork(t, h)
	second := s.mustWork(t, h)
	if !reflect.DeepEqual(first.Findings, second.Findings) {
		t.Errorf("the same series gave %d findings, then %d, or others", len(first.Findings), len(second.Findings))
	}
	if h.Pid(name) != pid {
		t.Error("the plugin did not survive two good jobs")
	}
	if first.Device == "" {
		t.Error("the result does not say on what device it was made")
	}
	if after := fingerprint(t, s.GoodFolder); after != before {
		t.Error("the plugin changed the folder of its job")
	}
	s.checkPlaces(t, first)
	if s.Check != nil {
		s.Check(t, first)
	}
}

// checkPlaces wants the findings inside the volume. The host knows none: it
// only refuses what is no number or metres away.
func (s *suite) checkPlaces(t *testing.T, r api.Result) {
	t.Helper()
	v, err := ct.LoadSeries(t.Context(), s.GoodFolder, ct.Options{})
	if err != nil {
		t.Logf("the places of the findings are not checked, the good series is no volume: %v", err)
		return
	}
	for _, f := range r.Findings {
		i, j, k := v.Voxel(f.Center)
		for axis, n := range [3]float64{i, j, k} {
			if !(n >= -0.5 && n <= float64(v.Size[axis])-0.5) {
				t.Errorf("finding %s lies at %v mm, voxel (%.1f, %.1f, %.1f), outside the volume of %v voxels", f.ID, f.Center, i, j, k, v.Size)
				break
			}
		}
	}
}

// flood hands on as many findings of a plugin before as a result may have, more
// bytes than gRPC takes without being told, all outside of the volume. A
// detector may ignore them, a classifier may refuse them; neither may die.
func (s *suite) flood(t *testing.T) {
	h := s.start(t, s.Deadline)
	pid := h.Pid(name)
	limits := api.DefaultLimits()
	job := s.job(s.GoodFolder)
	job.Findings = make([]api.Finding, limits.Findings)
	const edge = 16 // voxels
	for i := range job.Findings {
		place := [3]float64{limits.CoordinateMM - 100, float64(i % 100), float64(i / 100)}
		job.Findings[i] = api.Finding{
			ID: fmt.Sprint(i + 1), Center: place, Size: [3]float64{edge, edge, edge}, DiameterMM: edge, Probability: 1,
			Mask: &api.Mask{
				Size: [3]int{edge, edge, edge}, Origin: place, Spacing: [3]float64{1, 1, 1},
				Axes: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}, Bits: bytes.Repeat([]byte{0xFF}, edge*edge*edge/8),
			},
		}
		if err := job.Findings[i].Validate(); err != nil {
			t.Fatal(err)
		}
	}
	_, err := h.Analyze(t.Context(), name, job, nil)
	_, refused := errors.AsType[*api.InputError](err)
	if err != nil && (!refused || h.Status()[0].Description.Kind == api.KindDetector) {
		t.Errorf("job with %d findings of another plugin: %T %v", len(job.Findings), err, err)
	}
	if h.Pid(name) != pid {
		t.Error("a flood of findings ended the plugin's process")
	}
	s.mustWork(t, h)
}

// badInput wants refusals for good, not failures to try again, and a process
// that goes on.
func (s *suite) badInput(t *testing.T) {
	h := s.start(t, s.Deadline)
	pid := h.Pid(name)
	for what, files := range map[string]map[string]string{
		"empty folder":    {},
		"text file":       {"readme.txt": "not a DICOM file"},
		"empty file":      {"1.dcm": ""},
		"damaged meta":    {"1.dcm": string(make([]byte, 128)) + "DICM\x02\x00\x00\x00UL\xff\xff"},
		"damaged dataset": {"1.dcm": string(make([]byte, 128)) + "DICM" + "\xff\xfe\x00\xe0\xff\xff\xff\xff\x00"},
	} {
		folder := t.TempDir()
		for file, text := range files {
			if err := os.WriteFile(filepath.Join(folder, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		_, err := h.Analyze(t.Context(), name, s.job(folder), nil)
		if _, ok := errors.AsType[*api.InputError](err); !ok && len(files) == 0 {
			t.Errorf("%s: error = %T %v, want an *api.InputError", what, err, err)
		} else if err == nil && what != "damaged dataset" && what != "damaged meta" {
			t.Errorf("%s: no error", what)
		}
	}
	if _, err := h.Analyze(t.Context(), name, s.job(filepath.Join(t.TempDir(), "none")), nil); err == nil {
		t.Error("missing folder: no error")
	}
	if h.Pid(name) != pid {
		t.Error("bad input ended the plugin's process")
	}
	s.mustWork(t, h)
}

// atFirstProgress runs the good job and does something at its first report.
func (s *suite) atFirstProgress(t *testing.T, ctx context.Context, h *host.Host, do func()) error {
	t.Helper()
	var once sync.Once
	called := false
	_, err := h.Analyze(ctx, name, s.job(s.GoodFolder), func(float64, string) {
		once.Do(func() { called = true; do() })
	})
	if !called {
		t.Fatalf("the plugin reported no progress; its job ended with %v", err)
	}
	return err
}

func (s *suite) cancel(t *testing.T) {
	h := s.start(t, s.Deadline)
	pid := h.Pid(name)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	// A quick plugin may have ended before it heard.
	if err := s.atFirstProgress(t, ctx, h, cancel); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled job: %v", err)
	}
	if h.Pid(name) != pid {
		t.Error("the plugin did not let go of a cancelled job in time and was killed")
	}
	s.mustWork(t, h)
}

func (s *suite) deadline(t *testing.T) {
	h := s.start(t, time.Millisecond)
	if _, err := h.Analyze(t.Context(), name, s.job(s.GoodFolder), nil); err != nil {
		if e, ok := errors.AsType[*host.DeadlineError](err); !ok {
			t.Errorf("job with a deadline of 1 ms: %v", err)
		} else if e.Killed {
			t.Error("the plugin did not stop at its deadline and was killed")
		}
	}
}

func (s *suite) crash(t *testing.T) {
	h := s.start(t, s.Deadline)
	pid := h.Pid(name)
	err := s.atFirstProgress(t, t.Context(), h, func() {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Errorf("kill the plugin: %v", err)
		}
	})
	// A quick plugin may have answered before it died.
	if _, ok := errors.AsType[*host.CrashError](err); err != nil && !ok {
		t.Errorf("job of a killed plugin: %T %v", err, err)
	}
	awaitOther(t, h, pid)
	s.mustWork(t, h)
}

// replaceLimit is the start timeout of the host, a minute, with room for the machine.
const replaceLimit = 2 * time.Minute

// awaitOther waits until the host runs another process than pid.
func awaitOther(t *testing.T, h *host.Host, pid int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), replaceLimit)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond) // no channel announces it
	defer tick.Stop()
	for {
		if now := h.Pid(name); now != pid && now != 0 {
			return
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatal("the killed process was not replaced")
		}
	}
}

// stopGrace is after what time the suite's host kills a process that was asked
// to end. The node waits 2 s; a minute cannot be mistaken for a busy machine.
const stopGrace = time.Minute

// stop wants the process to end when asked, without being killed.
func (s *suite) stop(t *testing.T) {
	h := s.start(t, s.Deadline)
	s.mustWork(t, h)
	begin := time.Now()
	if err := h.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if time.Since(begin) >= stopGrace {
		t.Error("the plugin did not end when asked and was killed: SIGTERM ends it, or go-plugin's Shutdown")
	}
	if st := h.Status()[0]; st.Pid != 0 || st.State != host.StateStopped {
		t.Errorf("after the stop: state %s, process %d", st.State, st.Pid)
	}
}

// fingerprint changes with the name, size, time or content of any file.
func fingerprint(t *testing.T, folder string) string {
	t.Helper()
	h := sha256.New()
	err := filepath.WalkDir(folder, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(h, "%q %d %s %x\n", path, info.Size(), info.ModTime(), sha256.Sum256(content))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return string(h.Sum(nil))
}
