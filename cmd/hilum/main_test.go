package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"
)

// bin holds the programs under test, built once: hilum, null and, where a C
// compiler and its libraries are, lungnodule.
var bin string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hilum-test-")
	if err != nil {
		panic(err)
	}
	bin = dir
	for name, pkg := range map[string]string{"hilum": "hilum/cmd/hilum", "null": "hilum/plugins/null", "lungnodule": "hilum/plugins/lungnodule"} {
		out, err := exec.Command("go", "build", "-o", filepath.Join(dir, name), pkg).CombinedOutput()
		if err != nil && name != "lungnodule" {
			fmt.Fprintf(os.Stderr, "build %s: %v\n%s", pkg, err, out)
			os.Exit(1)
		}
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// checkout is the folder of go.mod.
func checkout(t *testing.T) string {
	t.Helper()
	_, file, _, ok := runtime.Caller(0)
	if !ok {
		t.Fatal("no source position")
	}
	return filepath.Join(filepath.Dir(file), "..", "..")
}

// shared is the folder of real scans; tests that need one skip without it.
func shared(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("HILUM_DATA")
	if dir == "" {
		dir = filepath.Join(checkout(t), "..", "shared", "data")
	}
	if _, err := os.Stat(dir); err != nil {
		t.Skipf("the real scans are not at %s (HILUM_DATA names another folder)", dir)
	}
	return dir
}

// tool finds a program of Debian's packages, or skips.
func tool(t *testing.T, name, pkg string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (Debian package %s)", name, pkg)
	}
	return path
}

// lungnodule finds the plugin and its ONNX Runtime, or skips.
func lungnodule(t *testing.T) (program, runtimeLibrary string) {
	t.Helper()
	program = filepath.Join(bin, "lungnodule")
	if _, err := os.Stat(program); err != nil {
		t.Skip("plugins/lungnodule was not built: it needs gcc, libcharls-dev and libopenjp2-7-dev")
	}
	found, err := filepath.Glob(filepath.Join(checkout(t), ".cache", "runtime", "current", "libonnxruntime.so*"))
	if err != nil || len(found) == 0 {
		t.Skip("ONNX Runtime is not installed: run `make runtime`")
	}
	return program, found[0]
}

// freePort is a port that was free a moment ago.
func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// process is a `hilum serve` under test.
type process struct {
	t      *testing.T
	config string
	port   int
	cmd    *exec.Cmd
	log    io.Writer // of the node; nil is that of the test
}

// newProcess writes a configuration with a free port and the given text after it.
func newProcess(t *testing.T, text string) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{t: t, config: filepath.Join(dir, "hilum.yaml"), port: freePort(t)}
	head := fmt.Sprintf("listen: 127.0.0.1:%d\ndata: ./data\nlog: {level: debug}\n", p.port)
	if err := os.WriteFile(p.config, []byte(head+text), 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// start runs the node and waits until it answers C-ECHO.
func (p *process) start() {
	p.t.Helper()
	p.cmd = exec.Command(filepath.Join(bin, "hilum"), "serve", "--config", p.config)
	p.cmd.Stderr = p.log
	if p.log == nil {
		p.cmd.Stderr = p.t.Output()
	}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(p.stop)
	poll(p.t, "the node's answer to C-ECHO", time.Minute, func() bool {
		return exec.Command(filepath.Join(bin, "hilum"), "echo", "--config", p.config).Run() == nil
	})
}

// kill ends the node as a power cut would.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	_ = p.cmd.Wait() // "signal: killed"
	p.cmd = nil
}

// stop ends the node in order.
func (p *process) stop() {
	if p.cmd == nil {
		return
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		p.t.Error(err)
	}
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("hilum serve after SIGTERM: %v", err)
	}
	p.cmd = nil
}

// hilum runs a command against the node and returns its standard output.
func (p *process) hilum(args ...string) string {
	p.t.Helper()
	out, stderr, code := hilum(append(args, "--config", p.config)...)
	if code != 0 {
		p.t.Fatalf("hilum %s: exit code %d: %s", strings.Join(args, " "), code, stderr)
	}
	return out
}

func hilum(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	cmd := exec.Command(filepath.Join(bin, "hilum"), args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	_ = cmd.Run() // the exit code says it
	return out.String(), errs.String(), cmd.ProcessState.ExitCode()
}

// list decodes the --json answer of a command.
func list[T any](p *process, args ...string) []T {
	p.t.Helper()
	var v []T
	if err := json.Unmarshal([]byte(p.hilum(append(args, "--json")...)), &v); err != nil {
		p.t.Fatalf("hilum %v --json: %v", args, err)
	}
	return v
}

// job is what the contract of `hilum job list --json` promises.
type job struct {
	ID                string `json:"id"`
	SeriesInstanceUID string `json:"series_instance_uid"`
	Plugin            string `json:"plugin"`
	State             string `json:"state"`
	Reason            string `json:"reason"`
	Findings          int    `json:"findings"`
}

// study is what the contract of `hilum study list --json` promises.
type study struct {
	StudyInstanceUID string `json:"study_instance_uid"`
	Series           []struct {
		SeriesInstanceUID string `json:"series_instance_uid"`
		Modality          string `json:"modality"`
		Instances         int    `json:"instances"`
		State             string `json:"state"`
		Reason            string `json:"reason"`
	} `json:"series"`
}

// finding is what the contract of `hilum finding list --json` promises.
type finding struct {
	X           float64 `json:"x"`
	Y           float64 `json:"y"`
	Z           float64 `json:"z"`
	DiameterMM  float64 `json:"diameter_mm"`
	Probability float64 `json:"probability"`
}

// waitJobs waits until there are n jobs and all have ended, and returns them.
func (p *process) waitJobs(n int, limit time.Duration) []job {
	p.t.Helper()
	var jobs []job
	poll(p.t, fmt.Sprintf("the end of %d jobs", n), limit, func() bool {
		jobs = list[job](p, "job", "list")
		if len(jobs) < n {
			return false
		}
		for _, j := range jobs {
			if j.State != "done" && j.State != "dead" {
				return false
			}
		}
		return true
	})
	return jobs
}

// poll asks again until good is true; processes give no other sign.
func poll(t *testing.T, what string, limit time.Duration, good func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for !good() {
		select {
		case <-ctx.Done():
			t.Fatalf("%s did not come within %s", what, limit)
		case <-tick.C:
		}
	}
}
