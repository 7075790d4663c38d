package predict_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"hilum/plugins/api"
	"hilum/plugins/host"
	"hilum/trainer/luna"
	"hilum/trainer/phantom"
	"hilum/trainer/predict"
	"hilum/trainer/volume"
)

// null is the plugin that tests break on purpose, built once.
var null string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "predict-test-")
	if err != nil {
		panic(err)
	}
	null = filepath.Join(dir, "null")
	if out, err := exec.Command("go", "build", "-o", null, "hilum/plugins/null").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build null: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// made holds three small DICOM series, 0 to 2.
var made = sync.OnceValues(func() (string, error) {
	for i := range 3 {
		dir := filepath.Join(filepath.Dir(null), "series", fmt.Sprint(i))
		_, err := phantom.Write(context.Background(), dir, phantom.Options{Seed: int64(i), Rows: 64, Slices: 16, Nodules: -1}, nil)
		if err != nil {
			return "", err
		}
	}
	return filepath.Join(filepath.Dir(null), "series"), nil
})

// series returns a folder of three series, and the first of them.
func series(t *testing.T) (all, one string) {
	t.Helper()
	all, err := made()
	if err != nil {
		t.Fatal(err)
	}
	return all, filepath.Join(all, "0")
}

func TestRun(t *testing.T) {
	in, _ := series(t)
	out := t.TempDir()
	o := predict.Options{
		Plugin: null, Args: []string{"-findings", "2"}, Processes: 2,
		Out: filepath.Join(out, "p.csv"), JSON: filepath.Join(out, "p.json"),
	}
	part := o.Out + ".part"

	// Cut off after the first scan.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	broken := o
	broken.Processes = 1
	broken.Progress = func(int, int) { cancel() }
	if _, err := predict.Run(ctx, []string{in}, broken); !errors.Is(err, context.Canceled) {
		t.Fatalf("cut off: %v, want context.Canceled", err)
	}
	if _, err := os.Stat(o.Out); err == nil {
		t.Error("there is a CSV of a run that was cut off")
	}
	// The power goes while a line is written.
	f, err := os.OpenFile(part, os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(`{"fingerprint":"ab`); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}

	other := o
	other.Args = []string{"-findings", "3"}
	if _, err := predict.Run(t.Context(), []string{in}, other); err == nil || !strings.Contains(err.Error(), "another plugin") {
		t.Errorf("other arguments: %v, want a refusal", err)
	}

	var kept atomic.Int32
	o.Keep = func(context.Context, volume.Scan, api.Result) error { kept.Add(1); return nil }
	sum, err := predict.Run(t.Context(), []string{in}, o)
	if err != nil {
		t.Fatal(err)
	}
	if sum.Scans != 3 || sum.Analysed != 2 || kept.Load() != 2 || sum.Findings != 6 || sum.Empty != 0 || sum.Plugin.Name != "null" {
		t.Errorf("summary %+v with %d kept, want 3 scans, 2 of them analysed now, 6 findings", sum, kept.Load())
	}
	marks, err := luna.ReadPredictions(o.Out)
	if err != nil || len(marks) != 6 {
		t.Fatalf("%d marks, %v; want 6", len(marks), err)
	}
	if !slices.IsSortedFunc(marks, func(a, b luna.Mark) int { return strings.Compare(a.SeriesUID, b.SeriesUID) }) {
		t.Error("scans are not in order")
	}
	text, err := os.ReadFile(o.JSON)
	if err != nil {
		t.Fatal(err)
	}
	var doc predict.Document
	if err := json.Unmarshal(text, &doc); err != nil || len(doc.Scans) != 3 || len(doc.Scans[0].Findings) != 2 || doc.Scans[0].Findings[0].DiameterMM != 6 {
		t.Errorf("JSON: %+v, %v; want 3 scans of 2 findings", doc, err)
	}
	if _, err := os.Stat(part); err == nil {
		t.Error("the journal is left behind")
	}
}

func TestRunWithoutFindings(t *testing.T) {
	o := predict.Options{Plugin: null, Args: []string{"-findings", "0"}, Out: filepath.Join(t.TempDir(), "p.csv"), JSON: filepath.Join(t.TempDir(), "p.json")}
	_, one := series(t)
	sum, err := predict.Run(t.Context(), []string{one}, o)
	if err != nil || sum.Empty != 1 {
		t.Fatalf("Run = %+v, %v; want one scan without findings", sum, err)
	}
	if text, err := os.ReadFile(o.Out); err != nil || string(text) != "seriesuid,coordX,coordY,coordZ,probability\n" {
		t.Errorf("CSV is %q, %v; want the header alone", text, err)
	}
	if text, err := os.ReadFile(o.JSON); err != nil || !strings.Contains(string(text), `"findings": []`) {
		t.Errorf("JSON is %s, %v; want an empty list", text, err)
	}
}

// TestRunJudged leaves empty what was not judged: the null plugin judges nothing.
func TestRunJudged(t *testing.T) {
	_, one := series(t)
	o := predict.Options{Plugin: null, Args: []string{"-findings", "1"}, Judged: true, Out: filepath.Join(t.TempDir(), "p.csv")}
	if _, err := predict.Run(t.Context(), []string{one}, o); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(o.Out)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	if len(lines) != 3 || !strings.HasSuffix(lines[0], ",probability,malignancy,texture,texture_probability") || !strings.HasSuffix(lines[1], ",,,") {
		t.Errorf("CSV is %q, want three empty columns", text)
	}
	if marks, err := luna.ReadPredictions(o.Out); err != nil || len(marks) != 1 {
		t.Errorf("evaluate reads %d marks, %v; want 1", len(marks), err)
	}
}

// TestRunStops names the scan that cannot be analysed.
func TestRunStops(t *testing.T) {
	_, in := series(t)
	found, err := volume.Find(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		name, job, want string
	}{
		{"refused", "refuse", "told to refuse"},
		{"failed", "fail", "told to fail"},
		{"crashed", "exit=3", "crashed"},
		{"lied", "nan", "contract"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			crashes := 0
			o := predict.Options{
				Plugin: null, Args: []string{"-job", tt.job}, Out: filepath.Join(t.TempDir(), "p.csv"),
				Crashed: func(uid string, err *host.CrashError) {
					if crashes++; uid != found.Scans[0].UID || err.Reason == "" {
						t.Errorf("told of a crash at %q: %v", uid, err)
					}
				},
			}
			_, err := predict.Run(t.Context(), []string{in}, o)
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), found.Scans[0].UID) {
				t.Errorf("Run = %v, want %q and the scan's name", err, tt.want)
			}
			if _, err := os.Stat(o.Out); err == nil {
				t.Error("there is a CSV")
			}
			if want := map[string]int{"crashed": 2}[tt.name]; crashes != want {
				t.Errorf("told of %d crashes, want %d", crashes, want)
			}
		})
	}
	o := predict.Options{Plugin: null, Out: filepath.Join(t.TempDir(), "p.csv")}
	o.Keep = func(context.Context, volume.Scan, api.Result) error { return errors.New("no paper") }
	if _, err := predict.Run(t.Context(), []string{in}, o); err == nil || !strings.Contains(err.Error(), "no paper") {
		t.Errorf("Keep failed: %v, want its error", err)
	}
	if _, err := predict.Run(t.Context(), []string{t.TempDir()}, o); err == nil {
		t.Error("a folder without scans: no error")
	}
	o.Plugin = filepath.Join(in, "missing")
	if _, err := predict.Run(t.Context(), []string{in}, o); err == nil {
		t.Error("a plugin that is not there: no error")
	}
}
