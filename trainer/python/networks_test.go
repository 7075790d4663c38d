package python_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"image/png"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"hilum/models"
)

// networks runs the programs of trainer/torch as a user does, by hilum.
type networks struct {
	checkout, python string // folder, program
	bin              string // folder of hilum and lungnodule
	runtime          string // of ONNX
	set              string // folder of a simulated set like LUNA16
	prepared         string // folder of its scans, prepared
	scans            []string
	run              string // folder of a trained tiny detector
}

// The simulated set: three scans, of which one has three nodules.
const (
	setSeed    = "3"
	setScans   = 3
	overfitted = "2.25.293203876535277937890643686518314973496"
)

// TestNetworks trains tiny networks on a simulated set, exports them, and runs
// them through the plugin's process.
func TestNetworks(t *testing.T) {
	if testing.Short() {
		t.Skip("trains networks for two minutes")
	}
	n := newNetworks(t)
	n.train(t)
	for name, test := range map[string]func(networks, *testing.T){
		"detector": networks.detector, "overfit": networks.overfit, "classifier": networks.classifier,
		"resume": networks.resume, "refusals": networks.refusals, "bench": networks.bench,
	} {
		t.Run(name, func(t *testing.T) { t.Parallel(); test(n, t) })
	}
}

func newNetworks(t *testing.T) networks {
	t.Helper()
	checkout, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	n := networks{checkout: checkout, python: os.Getenv("HILUM_TORCH_PYTHON"), bin: t.TempDir()}
	if n.python == "" {
		n.python = filepath.Join(checkout, ".cache", "torch", "bin", "python")
	}
	if _, err := exec.LookPath(n.python); err != nil {
		t.Skip("PyTorch is not installed: run `make setup-trainer`")
	}
	found, err := filepath.Glob(filepath.Join(checkout, ".cache", "runtime", "current", "libonnxruntime.so*"))
	if err != nil || len(found) == 0 {
		t.Skip("ONNX Runtime is not installed: run `make runtime`")
	}
	n.runtime = found[0]
	for name, pkg := range map[string]string{"hilum": "./cmd/hilum", "lungnodule": "./plugins/lungnodule"} {
		cmd := exec.Command("go", "build", "-o", filepath.Join(n.bin, name), pkg)
		cmd.Dir = checkout
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build %s: %v\n%s", pkg, err, out)
		}
	}
	dir := t.TempDir()
	n.set, n.prepared = filepath.Join(dir, "set"), filepath.Join(dir, "prepared")
	n.do(t, "train", "phantom", "--luna", n.set, "--scans", fmt.Sprint(setScans), "--rows", "128", "--slices", "60", "--height", "120", "--seed", setSeed)
	n.do(t, "train", "prepare", "--no-mask", "--out", n.prepared, "--annotations", filepath.Join(n.set, "annotations.csv"), n.set)
	text, err := os.ReadFile(filepath.Join(n.set, "seriesuids.csv"))
	if err != nil {
		t.Fatal(err)
	}
	n.scans = strings.Fields(string(text))
	if len(n.scans) != setScans || !slices.Contains(n.scans, overfitted) {
		t.Fatalf("the simulated set has the scans %v, want %d with %s among them", n.scans, setScans, overfitted)
	}
	return n
}

// hilum runs a command and returns its output, last line of errors and status.
func (n networks) hilum(t *testing.T, args ...string) (stdout, said string, code int) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(t.Context(), filepath.Join(n.bin, "hilum"), args...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = n.checkout, &out, &errs
	cmd.Env = append(os.Environ(), "HILUM_TORCH_PYTHON="+n.python)
	_ = cmd.Run() // its status says it
	return out.String(), strings.TrimSpace(errs.String()), cmd.ProcessState.ExitCode()
}

// do runs a command that must succeed.
func (n networks) do(t *testing.T, args ...string) string {
	t.Helper()
	out, said, code := n.hilum(t, args...)
	if code != 0 {
		t.Fatalf("hilum %s: exit code %d: %s\n%s", strings.Join(args, " "), code, said, out)
	}
	return out
}

// refuse runs a command that must fail with a sentence that has these words.
func (n networks) refuse(t *testing.T, words string, args ...string) {
	t.Helper()
	_, said, code := n.hilum(t, args...)
	last := said[strings.LastIndex(said, "\n")+1:]
	if code != 1 || !strings.Contains(last, words) || strings.Contains(said, "Traceback") {
		t.Errorf("hilum %s: exit code %d, %q; want 1 and a sentence with %q", strings.Join(args, " "), code, said, words)
	}
}

// program runs a program of trainer/torch that hilum has no command for.
func (n networks) program(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := n.command(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return string(out)
}

func (n networks) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	line := append([]string{filepath.Join(n.checkout, "trainer", "torch", name)}, args...)
	cmd := exec.CommandContext(ctx, n.python, line...)
	cmd.Env = append(os.Environ(), "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1")
	return cmd
}

// evaluation is what this test reads of train evaluate --json.
type evaluation struct {
	TP, FN      int
	Scans       int
	Rates       []float64 `json:"false_positives_per_scan"`
	Sensitivity []float64 `json:"sensitivity"`
}

// evaluate has a model search scans through the plugin's process and compares
// with the truth.
func (n networks) evaluate(t *testing.T, model string, uids []string, more ...string) (e evaluation, findings []byte) {
	t.Helper()
	dir := t.TempDir()
	for _, uid := range uids {
		for _, extension := range []string{".mhd", ".raw"} {
			name, err := filepath.Glob(filepath.Join(n.set, "subset*", uid+extension))
			if err != nil || len(name) != 1 {
				t.Fatalf("the simulated set has %v for %s%s, %v", name, uid, extension, err)
			}
			if err := os.Symlink(name[0], filepath.Join(dir, uid+extension)); err != nil {
				t.Fatal(err)
			}
		}
	}
	scans := filepath.Join(dir, "scans.csv")
	if err := os.WriteFile(scans, []byte(strings.Join(uids, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	marks, document := filepath.Join(dir, "marks.csv"), filepath.Join(dir, "marks.json")
	n.do(t, append([]string{
		"train", "predict", "--model", model, "--plugin", filepath.Join(n.bin, "lungnodule"), "--runtime", n.runtime, "--device", "cpu",
		"--threshold", "0.02", "--out", marks, "--json", document, dir,
	}, more...)...)
	out := n.do(t, "train", "evaluate", "--predictions", marks, "--annotations", filepath.Join(n.set, "annotations.csv"),
		"--excluded", filepath.Join(n.set, "annotations_excluded.csv"), "--scans", scans, "--json")
	if err := json.Unmarshal([]byte(out), &e); err != nil {
		t.Fatalf("evaluate printed no JSON: %v\n%s", err, out)
	}
	findings, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	return e, findings
}

// curve returns the rows of a run's log.csv without the clock's.
func curve(t *testing.T, run string) (rows []map[string]string) {
	t.Helper()
	f, err := os.Open(filepath.Join(run, "log.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	table, err := csv.NewReader(f).ReadAll()
	if err != nil || len(table) < 3 {
		t.Fatalf("log.csv has %d rows, %v", len(table), err)
	}
	for _, line := range table[1:] {
		row := map[string]string{}
		for i, key := range table[0] {
			if key != "seconds" {
				row[key] = line[i]
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// falls checks that the last loss of a run is below that share of the first.
func falls(t *testing.T, run string, share float64) {
	t.Helper()
	rows := curve(t, run)
	var loss []float64
	for _, row := range rows {
		v, err := strconv.ParseFloat(row["loss"], 64)
		if err != nil {
			t.Fatal(err)
		}
		loss = append(loss, v)
	}
	t.Logf("loss %.3g", loss)
	if last := loss[len(loss)-1]; !(last < share*loss[0]) {
		t.Errorf("the loss went from %g to %g, want less than %g of it", loss[0], last, share)
	}
}

// steps of the tiny detector; a checkpoint is written every 20.
var steps = []string{"--set", "loop.steps=60", "--set", "loop.save_every=20"}

// train trains a detector with nodules that are put into the scans.
func (n *networks) train(t *testing.T) {
	n.run = filepath.Join(t.TempDir(), "run")
	out := n.do(t, append([]string{"train", "detector", "--tiny", "--out", n.run, n.prepared}, steps...)...)
	if !strings.Contains(out, "step     60") || !strings.Contains(out, "loss") {
		t.Errorf("train detector printed %q, want lines of progress and the curve", out)
	}
	falls(t, n.run, 0.7)
}

// detector takes the detector through the plugin, alone and with a second
// network that was trained on its false positives.
func (n networks) detector(t *testing.T) {
	dir := t.TempDir()
	model := filepath.Join(dir, "tiny-detector")
	n.do(t, "train", "export", filepath.Join(n.run, "checkpoint.pt"), model)
	n.do(t, "model", "verify", model)
	e, _ := n.evaluate(t, model, n.scans)
	t.Logf("after 60 steps: %+v", e)
	if e.Scans != setScans || e.TP+e.FN == 0 {
		t.Errorf("evaluate: %+v, want %d scans with nodules", e, setScans)
	}
	mined, second := filepath.Join(dir, "mined.npz"), filepath.Join(dir, "second")
	n.program(t, "mine.py", n.run, n.prepared, "--out", mined, "--least", "0.01", "--threads", "1")
	n.program(t, "rescore.py", n.run, n.prepared, "--mined", mined, "--out", second, "--tiny")
	falls(t, second, 0.9)

	// It fits no model that prepares scans in another way, and no other network.
	before := contents(t, second)
	other := copied(t, filepath.Join(n.checkout, "models", "nodule-blob"), model)
	kept := contents(t, other)
	n.refuse(t, "in another way", "train", "export", second, other)
	n.refuse(t, "is a checkpoint of hilum-rescore, not of hilum-net", "train", "detector", "--tiny", "--resume", "--out", second, n.prepared)
	unchanged(t, before, contents(t, second))
	unchanged(t, kept, contents(t, other))

	n.do(t, "train", "export", second, model)
	n.do(t, "model", "verify", model)
	if e, _ := n.evaluate(t, model, []string{overfitted}); e.Scans != 1 {
		t.Errorf("evaluate with the second network: %+v", e)
	}
}

// resume kills a run like that of train after a checkpoint, goes on, and
// compares the curves.
func (n networks) resume(t *testing.T) {
	run := filepath.Join(t.TempDir(), "killed")
	args := append([]string{n.prepared, "--out", run, "--tiny"}, steps...)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := n.command(ctx, "train_detector.py", args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	for lines.Scan() && !strings.HasPrefix(lines.Text(), "step     30") {
	}
	if err := syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL); err != nil {
		t.Fatalf("the run ended before step 30: %v", err)
	}
	_ = cmd.Wait() // "signal: killed"
	if at := curve(t, run); len(at) > 5 {
		t.Fatalf("the run was killed too late, after %d lines", len(at))
	}
	n.refuse(t, "holds a run", append([]string{"train", "detector", "--tiny", "--out", run, n.prepared}, steps...)...)
	n.program(t, "train_detector.py", append(args, "--resume")...)
	want, got := curve(t, n.run), curve(t, run)
	if len(want) != 6 || len(got) != 6 {
		t.Fatalf("the curves have %d and %d rows, want 6", len(want), len(got))
	}
	for i := range want {
		for key, value := range want[i] {
			if got[i][key] != value {
				t.Errorf("step %s: %s is %s after a kill, %s without", want[i]["step"], key, got[i][key], value)
			}
		}
	}
}

// refusals asks for what cannot be done; nothing may change.
func (n networks) refusals(t *testing.T) {
	dir, before := t.TempDir(), contents(t, n.run)
	none := filepath.Join(dir, "none")
	n.refuse(t, "holds neither prepared scans", "train", "detector", "--tiny", "--out", none, t.TempDir())
	n.refuse(t, "made with other settings", "train", "detector", "--tiny", "--resume", "--set", "loop.rate=0.001", "--out", n.run, n.prepared)
	n.refuse(t, "there is no setting loop.speed", "train", "detector", "--tiny", "--set", "loop.speed=1", "--out", none, n.prepared)
	n.refuse(t, "is no checkpoint or is damaged", "train", "export", filepath.Join(n.prepared, "manifest.json"), none)
	if _, err := os.Stat(none); err == nil {
		t.Error("a refused command made its folder")
	}
	unchanged(t, before, contents(t, n.run))
	// So high a rate ends in numbers that are none.
	nan := filepath.Join(dir, "nan")
	n.refuse(t, "of step 1 is kept", "train", "detector", "--tiny", "--set", "loop.rate=1e20", "--set", "loop.save_every=1",
		"--set", "loop.warmup=1", "--out", nan, n.prepared)
	if _, err := os.Stat(filepath.Join(nan, "checkpoint.pt")); err != nil {
		t.Errorf("the run that ended in NaN has no checkpoint: %v", err)
	}
}

// bench runs the comparison of make bench-train with one step of each.
func (n networks) bench(t *testing.T) {
	const program = "bench/train_reference.py"
	out := n.program(t, program, "--tiny", "--seconds", "0", n.prepared)
	rates := map[string]int{} // lines by their name
	for line := range strings.Lines(out) {
		name, numbers, found := strings.Cut(line, " cpu ")
		if !found {
			name, numbers, found = strings.Cut(line, " cuda ")
		}
		fields := strings.Fields(numbers) // type, crop, batch, GMAC, steps, crops/s
		if !found || len(fields) < 6 {
			continue
		}
		if rate, err := strconv.ParseFloat(fields[5], 64); err != nil || rate <= 0 {
			t.Errorf("%q has no crops per second", line)
		}
		rates[strings.TrimSpace(name)]++
	}
	want := map[string]int{"n-net, as its source": 1, "n-net, our loader": 1, "hilum-net": 1, "network alone": 3, "loader alone": 3}
	if !maps.Equal(rates, want) {
		t.Errorf("the table has the lines %v, want %v:\n%s", rates, want, out)
	}
	for said, args := range map[string][]string{
		"error: --workers 0 is less than 1":             {"--workers", "0"},
		"is no folder that `hilum train prepare` wrote": {"--tiny", n.set},
	} {
		got, err := n.command(t.Context(), program, args...).CombinedOutput()
		if err == nil || !bytes.Contains(got, []byte(said)) || bytes.Contains(got, []byte("Traceback")) {
			t.Errorf("%s %v: %v, %s; want a sentence with %q", program, args, err, got, said)
		}
	}
}

// unchanged compares the contents of folders.
func unchanged(t *testing.T, before, after map[string]string) {
	t.Helper()
	if len(before) != len(after) {
		t.Errorf("a command that was refused left %d files where there were %d", len(after), len(before))
	}
	for name, want := range before {
		if after[name] != want {
			t.Errorf("%s was changed by a command that was refused", name)
		}
	}
}

// contents reads all files of folders.
func contents(t *testing.T, folders ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, folder := range folders {
		names, err := filepath.Glob(filepath.Join(folder, "*"))
		if err != nil || len(names) == 0 {
			t.Fatalf("%s is empty, %v", folder, err)
		}
		for _, name := range names {
			data, err := os.ReadFile(name)
			if err != nil {
				t.Fatal(err)
			}
			out[name] = string(data)
		}
	}
	return out
}

// copied returns a folder with the manifest of a model that prepares scans as
// the blob filter's does, and the network of another.
func copied(t *testing.T, blob, model string) string {
	t.Helper()
	dir := t.TempDir()
	for from, name := range map[string]string{blob: "model.json", model: "model.onnx"} {
		data, err := os.ReadFile(filepath.Join(from, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// overfit trains on one scan's own nodules until all are found and nothing
// else is, or nearly so.
func (n networks) overfit(t *testing.T) {
	dir := t.TempDir()
	run, model := filepath.Join(dir, "run"), filepath.Join(dir, "overfitted")
	var others []string
	for _, uid := range n.scans {
		if uid != overfitted {
			others = append(others, uid)
		}
	}
	n.do(t, "train", "detector", "--tiny", "--out", run, n.prepared, "--set", "compose.hold_out="+strings.Join(others, ","),
		"--set", "compose.empty=1", "--set", "compose.distractors=0", "--set", "loop.steps=200")
	falls(t, run, 0.1)
	n.do(t, "train", "export", filepath.Join(run, "checkpoint.pt"), model)
	half := filepath.Join(dir, "half")
	n.do(t, "train", "export", filepath.Join(run, "checkpoint.pt"), half, "--", "--fp16", "--small", "4,6", "--again", ".3,zyx,x")
	n.do(t, "model", "verify", half)
	m, err := models.LoadManifest(half)
	if err != nil || m.Again == nil || m.Again.From != 0.3 || !slices.Equal(m.Again.Mirrors, []models.Mirror{"zyx", "x"}) {
		t.Errorf("--again .3,zyx,x made %+v (%v)", m.Again, err)
	}
	for _, bad := range []string{"0,z", ".3", ".3,xz", ".3,z,z"} {
		n.refuse(t, "--again "+bad, "train", "export", filepath.Join(run, "checkpoint.pt"), half, "--", "--again", bad)
	}
	e, _ := n.evaluate(t, model, []string{overfitted})
	at := slices.Index(e.Rates, 1)
	if e.TP+e.FN != 3 || at < 0 || e.Sensitivity[at] != 1 {
		t.Errorf("evaluate: %+v, want all of 3 nodules found at 1 false positive", e)
	}
}

// pictures draws the findings of one scan, and nothing from a file without any.
func (n networks) pictures(t *testing.T, findings []byte) {
	t.Helper()
	dir := t.TempDir()
	document, drawn := filepath.Join(dir, "findings.json"), filepath.Join(dir, "card.png")
	if err := os.WriteFile(document, findings, 0o600); err != nil {
		t.Fatal(err)
	}
	n.program(t, "pictures.py", document, "--out", drawn)
	f, err := os.Open(drawn)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	image, err := png.Decode(f)
	if err != nil || image.Bounds().Dx() != 5*132 || image.Bounds().Dy() != 16+132 {
		t.Errorf("pictures.py drew %v (%v), want five pictures of 132 pixels in a row", image, err)
	}
	for _, bad := range []string{drawn, filepath.Join(dir, "none.json")} {
		other := filepath.Join(dir, "other.png")
		out, err := n.command(t.Context(), "pictures.py", bad, "--out", other).CombinedOutput()
		if err == nil || !strings.HasPrefix(string(out), "error: "+bad) {
			t.Errorf("pictures.py of %s: %v\n%s", bad, err, out)
		}
		if _, err := os.Stat(other); err == nil {
			t.Errorf("pictures.py drew something of %s", bad)
		}
	}
}

// classifier trains one on simulated nodules and has it judge what the blob
// filter finds.
func (n networks) classifier(t *testing.T) {
	dir := t.TempDir()
	run, model := filepath.Join(dir, "run"), filepath.Join(dir, "lung-nodule-classifier")
	n.do(t, "train", "classifier", "--tiny", "--out", run)
	falls(t, filepath.Join(run, "fold-0-0"), 0.9)
	n.refuse(t, "not exported from here", "train", "export", filepath.Join(run, "fold-0-0"), model)
	n.refuse(t, "not of hilum-net", "train", "detector", "--tiny", "--resume", "--out", filepath.Join(run, "fold-0-0"), n.prepared)
	if _, err := os.Stat(model); err == nil {
		t.Error("a refused export made the model's folder")
	}
	n.do(t, "train", "export", run, model)
	n.do(t, "model", "verify", model)
	_, findings := n.evaluate(t, filepath.Join(n.checkout, "models", "nodule-blob"), []string{overfitted}, "--classifier", model)
	if count := bytes.Count(findings, []byte(`"malignancy"`)); count == 0 {
		t.Errorf("no finding was judged:\n%s", findings)
	}
	n.pictures(t, findings)
}
