package host_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hilum/plugins/host"
)

func TestNewErrors(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, []byte("text"), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		name  string
		specs []host.Spec
		want  string
	}{
		{"missing", []host.Spec{{Name: "a", Path: dir + "/none"}}, "plugin a: there is no file " + dir + "/none: build it or correct its path in the configuration"},
		{"folder", []host.Spec{{Name: "a", Path: dir}}, "is not a file"},
		{"not executable", []host.Spec{{Name: "a", Path: plain}}, "is not executable: chmod +x " + plain},
		{"no path", []host.Spec{{Name: "a"}}, "no path"},
		{"bad name", []host.Spec{{Name: "../a", Path: null}}, `plugin name "../a"`},
		{"same name", []host.Spec{spec(), spec()}, "two plugins are named null"},
		{"wrong checksum", []host.Spec{{Name: "a", Path: null, SHA256: strings.Repeat("0", 64)}}, "the configuration wants 000"},
		{"short checksum", []host.Spec{{Name: "a", Path: null, SHA256: "00"}}, "not 64 hexadecimal digits"},
		{"environment", []host.Spec{{Name: "a", Path: null, Env: []string{"X"}}}, "not KEY=value"},
		{"long socket folder", nil, "is too long for a socket"},
		{"negative", []host.Spec{{Name: "a", Path: null, Processes: -1}}, "must not be negative"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := host.Options{Plugins: tt.specs}
			if tt.specs == nil {
				o.SocketDir = "/" + strings.Repeat("x", 70)
			}
			h, err := host.New(o)
			if h != nil || err == nil || !strings.Contains(err.Error(), tt.want) || strings.Contains(err.Error(), "\n") {
				t.Errorf("New = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestStartErrors(t *testing.T) {
	script := func(text string) host.Spec {
		path := filepath.Join(t.TempDir(), "script")
		if err := os.WriteFile(path, []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
		return host.Spec{Name: "null", Path: path}
	}
	const handshake = "1|1|unix|/run/docker.sock|grpc|"
	tests := []struct {
		name string
		spec host.Spec
		want string
	}{
		{"exits at once", spec("-start", "say=no model here,exit=3"), "it exited with status 3 before it was ready; is " + null + " a Hilum plugin?; its last words: no model here"},
		{"exits with success", spec("-start", "exit=0"), "it exited with status 0"},
		{"wrong flag", spec("-wrong"), "it exited with status 2"},
		{"never shakes hands", spec("-start", "say=thinking,hang"), "it was not ready within its start timeout of 1s; its last words: thinking"},
		{"garbage for ever", script("#!/bin/sh\nexec yes '1|1'\n"), "start timeout"},
		{"no program", script("text"), "is not a program for this machine"},
		{"no interpreter", script("#!/none/sh\n"), "does not exist"},
		{"no plugin", script("#!/bin/sh\necho hello\n"), "its last words: hello"},
		{"net/rpc", script("#!/bin/sh\necho '1|1|unix|/tmp/x'\nsleep 100\n"), "listens neither"},
		{"other version", script("#!/bin/sh\necho '1|2|unix|/tmp/x|grpc|'\nsleep 100\n"), "another version of the plugin contract"},
		{"foreign socket", script("#!/bin/sh\necho '" + handshake + "'\nsleep 100\n"), "listens neither"},
		{"no certificate", script("#!/bin/sh\necho '1|1|tcp|127.0.0.1:1|grpc|'\nsleep 100\n"), "certificate"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.spec.StartTimeout = 10 * time.Second
			if strings.Contains(tt.want, "start timeout") {
				tt.spec.StartTimeout = time.Second
			}
			sockets := t.TempDir()
			h, err := host.New(withTestDefaults(t, host.Options{Plugins: []host.Spec{tt.spec}, SocketDir: sockets}))
			if err != nil {
				t.Fatal(err)
			}
			err = h.Start(testContext(t))
			e := errorAs[*host.StartError](t, err)
			if !strings.Contains(e.Error(), tt.want) || strings.Contains(e.Error(), "\n") {
				t.Errorf("Start = %v, want %q", err, tt.want)
			}
			if err := h.Start(testContext(t)); err == nil {
				t.Error("second Start = nil")
			}
			if _, err := h.Analyze(testContext(t), "null", job(t, ""), nil); !errors.Is(err, host.ErrStopped) {
				t.Errorf("Analyze after a failed start = %v", err)
			}
			checkGoroutines(t)
			if left, _ := os.ReadDir(sockets); len(left) != 0 {
				t.Errorf("socket folder holds %v", left)
			}
		})
	}
}

// Garbage before the handshake is what some native libraries print when they load.
func TestGarbageBeforeHandshake(t *testing.T) {
	h := start(t, host.Options{Plugins: []host.Spec{spec("-start", "garbage")}})
	if _, err := h.Analyze(testContext(t), "null", job(t, ""), nil); err != nil {
		t.Error(err)
	}
}

// One plugin that cannot start stops the others.
func TestStartIsAllOrNothing(t *testing.T) {
	bad := spec("-start", "exit=1")
	bad.Name = "bad"
	h, err := host.New(withTestDefaults(t, host.Options{Plugins: []host.Spec{spec(), bad}}))
	if err != nil {
		t.Fatal(err)
	}
	if e := errorAs[*host.StartError](t, h.Start(testContext(t))); e.Plugin != "bad" {
		t.Errorf("plugin = %q", e.Plugin)
	}
	if pids := livePids(h); len(pids) != 0 {
		t.Errorf("processes left: %v", pids)
	}
	checkGoroutines(t)
}

func TestStartCancelled(t *testing.T) {
	h, err := host.New(withTestDefaults(t, host.Options{Plugins: []host.Spec{spec("-start", "hang")}}))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := h.Start(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Start = %v", err)
	}
	checkGoroutines(t)
}

// A plugin that was replaced on disk does not run unnoticed, and jobs are told.
func TestFileReplaced(t *testing.T) {
	bytes, err := os.ReadFile(null)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "copy")
	if err := os.WriteFile(path, bytes, 0o700); err != nil {
		t.Fatal(err)
	}
	h := start(t, host.Options{Plugins: []host.Spec{{Name: "null", Path: path}}})
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(bytes, 0), 0o700); err != nil {
		t.Fatal(err)
	}
	_, err = h.Analyze(testContext(t), "null", job(t, "exit=1"), nil)
	errorAs[*host.CrashError](t, err)
	_, err = h.Analyze(testContext(t), "null", job(t, ""), nil)
	if e := errorAs[*host.StartError](t, err); !strings.Contains(e.Reason, "restart the node") {
		t.Errorf("error = %v", err)
	}
}

func TestStop(t *testing.T) {
	t.Run("lets a job end", func(t *testing.T) {
		h := start(t, host.Options{Plugins: []host.Spec{spec()}})
		progress, began := begun()
		j := job(t, "sleep=300ms")
		done := make(chan error, 1)
		go func() {
			_, err := h.Analyze(context.Background(), "null", j, progress)
			done <- err
		}()
		<-began
		if err := h.Stop(testContext(t)); err != nil {
			t.Errorf("Stop = %v", err)
		}
		if err := <-done; err != nil {
			t.Errorf("job = %v", err)
		}
		if _, err := h.Analyze(testContext(t), "null", j, nil); !errors.Is(err, host.ErrStopped) {
			t.Errorf("Analyze after Stop = %v", err)
		}
		if st := h.Status()[0]; st.State != host.StateStopped || st.Pid != 0 {
			t.Errorf("status = %+v", st)
		}
	})
	t.Run("cuts a job off", func(t *testing.T) {
		h := start(t, host.Options{Plugins: []host.Spec{spec()}, CancelGrace: grace(false)})
		pid := h.Pid("null")
		progress, began := begun()
		j := job(t, "hang")
		done := make(chan error, 1)
		go func() {
			_, err := h.Analyze(context.Background(), "null", j, progress)
			done <- err
		}()
		<-began
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if err := h.Stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Stop = %v", err)
		}
		if err := <-done; !errors.Is(err, host.ErrStopped) {
			t.Errorf("job = %v", err)
		}
		awaitGone(t, pid)
	})
	t.Run("before the start", func(t *testing.T) {
		h, err := host.New(host.Options{Plugins: []host.Spec{spec()}})
		if err != nil {
			t.Fatal(err)
		}
		if err := h.Stop(testContext(t)); err != nil {
			t.Error(err)
		}
		if err := h.Start(testContext(t)); err == nil {
			t.Error("Start after Stop = nil")
		}
	})
}

// TestNodeDies kills a process that runs a host, as kill -9 kills a node, and
// checks that its plugin goes too. The process is this test binary.
func TestNodeDies(t *testing.T) {
	if os.Getenv("HILUM_TEST_NODE") != "" { // its value is the plugin, see TestMain
		h := start(t, host.Options{Plugins: []host.Spec{spec()}})
		progress := func(float64, string) { fmt.Println("pid", h.Pid("null")) }
		_, _ = h.Analyze(context.Background(), "null", job(t, "hang"), progress)
		return
	}
	node := exec.Command(os.Args[0], "-test.run=^TestNodeDies$")
	node.Env = append(os.Environ(), "HILUM_TEST_NODE="+null, "TMPDIR="+t.TempDir())
	out, err := node.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := node.Start(); err != nil {
		t.Fatal(err)
	}
	pid := readPid(t, out)
	if err := node.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = node.Wait() // killed
	awaitGone(t, pid)
}
