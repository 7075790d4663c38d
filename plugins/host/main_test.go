package host_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"hilum/plugins/api"
	"hilum/plugins/host"
)

// null is the path of the plugin that all tests run.
var null string

func TestMain(m *testing.M) {
	if null = os.Getenv("HILUM_TEST_NODE"); null != "" {
		os.Exit(m.Run()) // the process that TestNodeDies kills
	}
	dir, err := os.MkdirTemp("", "hilum-host-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	null = filepath.Join(dir, "null")
	build := exec.Command("go", "build", "-ldflags=-s -w", "-o", null, "../null")
	build.Stderr = os.Stderr
	code := 1
	if err := build.Run(); err == nil {
		code = m.Run()
	}
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// limit ends a test that hangs; nothing here takes a tenth of it.
const limit = time.Minute

func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

// spec runs null with its arguments.
func spec(args ...string) host.Spec {
	return host.Spec{Name: "null", Path: null, Args: args}
}

// start starts a host and checks at the end that it leaves nothing behind.
func start(t *testing.T, o host.Options) *host.Host {
	t.Helper()
	h, err := host.New(withTestDefaults(t, o))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		pids := livePids(h)
		if err := h.Stop(context.Background()); err != nil {
			t.Errorf("Stop = %v", err)
		}
		for _, pid := range pids {
			awaitGone(t, pid)
		}
		checkGoroutines(t)
	})
	if err := h.Start(testContext(t)); err != nil {
		t.Fatalf("Start = %v", err)
	}
	return h
}

func withTestDefaults(t *testing.T, o host.Options) host.Options {
	o.Scratch = t.TempDir()
	o.BackoffMin = time.Millisecond
	return o
}

func livePids(h *host.Host) (pids []int) {
	for _, st := range h.Status() {
		if st.Pid != 0 {
			pids = append(pids, st.Pid)
		}
	}
	return pids
}

// job is a good job whose plugin does what the behaviours say.
func job(t *testing.T, behaviours string) api.Job {
	t.Helper()
	dir := t.TempDir()
	part10 := append(make([]byte, 128), "DICM"...)
	if err := os.WriteFile(filepath.Join(dir, "1.dcm"), part10, 0o400); err != nil {
		t.Fatal(err)
	}
	j := api.Job{ID: "1", Folder: dir, Device: "cpu", Series: map[string]string{"Modality": "CT"}}
	if behaviours != "" {
		j.Series["SeriesDescription"] = "null:" + behaviours
	}
	return j
}

// eventually polls a condition that no channel of ours announces.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	end := time.After(limit / 4)
	for !ok() {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("timed out: %s", what)
		}
	}
}

// awaitGone waits until a process is gone, or dead and not yet reaped by the
// init process, which containers often lack.
func awaitGone(t *testing.T, pid int) {
	t.Helper()
	eventually(t, fmt.Sprintf("process %d ends", pid), func() bool {
		if syscall.Kill(pid, 0) != nil {
			return true
		}
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		return err != nil || strings.Contains(string(stat), ") Z ")
	})
}

// checkGoroutines waits until no goroutine of the host or its libraries runs.
func checkGoroutines(t *testing.T) {
	t.Helper()
	var left string
	end := time.After(limit / 4)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if left = hostGoroutines(); left == "" {
			return
		}
		select {
		case <-tick.C:
		case <-end:
			t.Errorf("goroutines left behind:\n%s", left)
			return
		}
	}
}

func hostGoroutines() string {
	buf := make([]byte, 4<<20)
	buf = buf[:runtime.Stack(buf, true)]
	var left []string
	for _, g := range strings.Split(string(buf), "\n\n") {
		if strings.Contains(g, "testing.tRunner") || strings.Contains(g, "host_test.") {
			continue
		}
		for _, owner := range []string{"hilum/plugins/", "hashicorp/go-plugin", "google.golang.org/grpc"} {
			if strings.Contains(g, owner) {
				left = append(left, g)
				break
			}
		}
	}
	return strings.Join(left, "\n\n")
}

// sleeper returns an argument for the behaviours that leave a "sleep" behind,
// and a check that it has gone. In a namespace the process has another number,
// so it is known by its argument.
func sleeper(t *testing.T) (arg string, gone func()) {
	t.Helper()
	arg = fmt.Sprintf("1000.%d", sleepers.Add(1)+int64(os.Getpid())<<16)
	find := func() bool {
		files, _ := filepath.Glob("/proc/[0-9]*/cmdline")
		for _, f := range files {
			if text, err := os.ReadFile(f); err == nil && strings.Contains(string(text), arg) {
				return true
			}
		}
		return false
	}
	return arg, func() {
		t.Helper()
		eventually(t, "the forked process ends", func() bool { return !find() })
	}
}

var sleepers atomic.Int64

// begun returns a Progress and a channel that closes at its first call.
func begun() (api.Progress, <-chan struct{}) {
	c := make(chan struct{})
	var once sync.Once
	return func(float64, string) { once.Do(func() { close(c) }) }, c
}

// lockedBuffer is a log target for several goroutines.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func debugLogger(b *lockedBuffer) *slog.Logger {
	return slog.New(slog.NewTextHandler(b, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

func errorAs[E error](t *testing.T, err error) E {
	t.Helper()
	e, ok := errors.AsType[E](err)
	if !ok {
		t.Fatalf("error = %T %v, want %T", err, err, e)
	}
	return e
}

// readPid reads the line "pid N".
func readPid(t *testing.T, r io.Reader) int {
	t.Helper()
	for s := bufio.NewScanner(r); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "pid "); ok {
			pid, err := strconv.Atoi(rest)
			if err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("the node printed no pid")
	return 0
}
