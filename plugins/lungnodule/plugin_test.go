package main

import (
	"io"
	"log/slog"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hilum/plugins/api"
	"hilum/plugins/apitest"
	"hilum/trainer/phantom"
)

const (
	blobFolder  = "../../models/nodule-blob"
	runtimePath = "../../.cache/runtime/current"
)

// TestMain lets the test binary be the plugin: the host starts it with the
// handshake's cookie.
func TestMain(m *testing.M) {
	if h := api.Handshake(); os.Getenv(h.MagicCookieKey) == h.MagicCookieValue {
		main()
		return
	}
	os.Exit(m.Run())
}

// installedRuntime returns the runtime's folder or skips the test.
func installedRuntime(t *testing.T) string {
	t.Helper()
	dir := os.Getenv(runtimeVariable)
	if dir == "" {
		dir = runtimePath
	}
	path, err := filepath.Abs(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skip("needs the ONNX Runtime library: make runtime")
	}
	return path
}

// phantomSeries writes a small synthetic chest and returns its folder and truth.
func phantomSeries(t *testing.T) (string, phantom.Truth) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "series")
	truth, err := phantom.Write(t.Context(), dir, phantom.Options{Seed: 5, Slices: 90, Rows: 192, Nodules: 8}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return dir, truth
}

// TestPlugin runs the suite of every plugin on the real process, and compares
// what it finds with what is there.
func TestPlugin(t *testing.T) {
	library := installedRuntime(t)
	dir, truth := phantomSeries(t)
	classifier, _ := judgeFolder(t)
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	apitest.Run(t, apitest.Config{
		Path:       program,
		Args:       []string{"--model", modelFolder(t, coarseManifest(t), blobNetwork, ""), "--classifier", classifier},
		Env:        []string{runtimeVariable + "=" + library},
		GoodFolder: dir,
		Check: func(t *testing.T, r api.Result) {
			var marks []phantom.Mark
			last := 1.0
			for _, f := range r.Findings {
				if f.Probability > last {
					t.Errorf("findings are not sorted: %g after %g", f.Probability, last)
				}
				last = f.Probability
				marks = append(marks, phantom.Mark{Center: f.Center, Probability: f.Probability})
			}
			const least = 10 // mm: the model's grid has 2 mm
			s := phantom.Score(truth, marks, least)
			t.Logf("found %d of %d nodules of %d mm and more, %d false positives; %v", len(s.Found), s.Nodules, least, len(s.FalsePositives), r.Attributes)
			if s.Nodules == 0 || s.Sensitivity() < 0.7 || len(s.FalsePositives) > 10 {
				t.Errorf("found %d of %d nodules with %d false positives; missed %v", len(s.Found), s.Nodules, len(s.FalsePositives), s.Missed)
			}
			if r.Malignancy == nil {
				t.Error("the result says nothing of the patient's malignancy")
			}
			if r.Device != "cpu" || r.Attributes["provider"] == "" {
				t.Errorf("device %q, provider %q", r.Device, r.Attributes["provider"])
			}
		},
	})
}

// newTestDetector returns a detector as main makes it.
func newTestDetector(t *testing.T, model, library string, log io.Writer) *detector {
	t.Helper()
	return newTestDetectorWith(t, options{modelDir: model, runtime: library}, log)
}

// openedLibrary is the runtime of the test process: it is loaded once.
var openedLibrary *library

func newTestDetectorWith(t *testing.T, o options, log io.Writer) *detector {
	t.Helper()
	o.log = slog.New(slog.NewTextHandler(log, nil))
	_ = findRuntime(&o) // kept in o; Describe returns it
	d := newDetector(o)
	if openedLibrary != nil && openedLibrary.path == o.libraryPath {
		d.library = openedLibrary
	}
	t.Cleanup(func() {
		d.engine.close()
		if d.library != nil {
			openedLibrary = d.library
		}
	})
	return d
}

func TestDescribeNamesWhatIsMissing(t *testing.T) {
	d := newTestDetector(t, blobFolder, filepath.Join(t.TempDir(), "no.so"), io.Discard)
	if _, err := d.Describe(t.Context()); err == nil || !strings.Contains(err.Error(), "make runtime") {
		t.Errorf("Describe without runtime = %v, want a sentence with make runtime", err)
	}
	text := filepath.Join(t.TempDir(), "libonnxruntime.so")
	if err := os.WriteFile(text, []byte("no library"), 0o600); err != nil {
		t.Fatal(err)
	}
	d = newTestDetector(t, blobFolder, text, io.Discard)
	if _, err := d.Describe(t.Context()); err == nil || !strings.Contains(err.Error(), "make runtime") {
		t.Errorf("Describe with a text file as runtime = %v, want a sentence with make runtime", err)
	}
	d = newTestDetector(t, t.TempDir(), text, io.Discard)
	if _, err := d.Describe(t.Context()); err == nil || !strings.Contains(err.Error(), "model.json") {
		t.Errorf("Describe without model = %v, want one that names model.json", err)
	}
}

// TestLidc0001 holds the blob detector to a real scan: the 23 mm nodule of
// LUNA16's annotations is among the first findings.
func TestLidc0001(t *testing.T) {
	library := installedRuntime(t)
	data := os.Getenv("HILUM_DATA")
	if data == "" {
		data = "../../../shared/data"
	}
	folder := filepath.Join(data, "lidc-0001")
	if _, err := os.Stat(folder); err != nil {
		t.Skip("the real scans are not there (set HILUM_DATA to their folder)")
	}
	d := newTestDetector(t, blobFolder, library, io.Discard)
	fractions := []float64{0}
	r, err := d.Analyze(t.Context(), api.Job{ID: "lidc", Folder: folder, Device: "cuda"}, func(f float64, _ string) {
		fractions = append(fractions, f)
	})
	if err != nil {
		t.Fatal(err)
	}
	nodule := [3]float64{56.20840547, 86.34341278, -115.8675792}
	rank := 0
	for i, f := range r.Findings {
		if math.Hypot(math.Hypot(f.Center[0]-nodule[0], f.Center[1]-nodule[1]), f.Center[2]-nodule[2]) < 23.35064438/2 {
			rank = i + 1
			break
		}
	}
	t.Logf("rank %d of %d findings; %v", rank, len(r.Findings), r.Attributes)
	if rank < 1 || rank > 2 || len(r.Findings) > 8 {
		t.Errorf("the nodule has rank %d of %d findings, want 1 or 2 of at most 8", rank, len(r.Findings))
	}
	for i := 1; i < len(fractions); i++ {
		if fractions[i] < fractions[i-1] || fractions[i] > 1 {
			t.Errorf("progress goes from %g to %g", fractions[i-1], fractions[i])
		}
	}
	if r.Device == "cpu" && len(r.Notes) == 0 {
		t.Error("CUDA was asked for, the CPU did it, and no note says so")
	}
}
