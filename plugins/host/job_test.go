package host_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"syscall"
	"testing"
	"time"

	"hilum/plugins/api"
	"hilum/plugins/host"
)

func TestAnalyze(t *testing.T) {
	h := start(t, host.Options{Plugins: []host.Spec{spec("-findings", "3")}})
	var steps []string
	j := job(t, "")
	r, err := h.Analyze(testContext(t), "null", j, func(f float64, m string) { steps = append(steps, fmt.Sprint(f, m)) })
	if err != nil {
		t.Fatal(err)
	}
	if len(r.Findings) != 3 || r.Findings[2].ID != "null-3" || r.Findings[2].Center != [3]float64{2, 0, 0} {
		t.Errorf("findings = %+v", r.Findings)
	}
	if r.Description.Name != "null" || r.Device != "cpu" || r.Attributes["files"] != "1" {
		t.Errorf("result = %+v", r)
	}
	if len(steps) == 0 || steps[0] != "0counting files" {
		t.Errorf("progress = %q", steps)
	}
	st := h.Status()
	if len(st) != 1 || st[0].Pid == 0 || st[0].Pid != h.Pid("null") || st[0].Restarts != 0 || st[0].Description.Version != "1" || len(st[0].SHA256) != 64 {
		t.Errorf("status = %+v", st)
	}
}

// TestAnalyzeErrors runs one bad job after another in one process and a good
// job after each: the plugin must work again whatever happened.
func TestAnalyzeErrors(t *testing.T) {
	h := start(t, host.Options{Plugins: []host.Spec{spec("-findings", "2")}})
	tests := []struct {
		name, do string
		same     bool // process after the job
		check    func(t *testing.T, err error)
	}{
		{"refuses the series", "refuse", true, func(t *testing.T, err error) {
			if e := errorAs[*api.InputError](t, err); e.Reason != "null was told to refuse" {
				t.Errorf("reason = %q", e.Reason)
			}
		}},
		{"fails", "fail", true, func(t *testing.T, err error) {
			if e := errorAs[*host.FailureError](t, err); e.Reason != "null was told to fail" {
				t.Errorf("reason = %q", e.Reason)
			}
		}},
		{"garbage on stdout", "garbage,fail", true, func(t *testing.T, err error) { errorAs[*host.FailureError](t, err) }},
		{"panics", "panic", false, func(t *testing.T, err error) {
			e := errorAs[*host.CrashError](t, err)
			if e.Reason != "exited with status 2" || !strings.Contains(e.LastOutput, "behaviour.go") {
				t.Errorf("reason = %q, last output = %q", e.Reason, e.LastOutput)
			}
			if want := "its last words: panic: null was told to panic"; !strings.Contains(err.Error(), want) {
				t.Errorf("error = %q, want %q in it", err, want)
			}
		}},
		{"exits", "say=good bye,exit=3", false, func(t *testing.T, err error) {
			if e := errorAs[*host.CrashError](t, err); e.Reason != "exited with status 3" || !strings.Contains(err.Error(), "good bye") {
				t.Errorf("error = %v", err)
			}
		}},
		{"exits well", "exit=0", false, func(t *testing.T, err error) { errorAs[*host.CrashError](t, err) }},
		{"NaN", "nan", false, func(t *testing.T, err error) {
			if e := errorAs[*api.ResultError](t, err); !strings.Contains(e.Reason, "probability is NaN") {
				t.Errorf("reason = %q", e.Reason)
			}
		}},
		{"too many findings", "flood=1000000", false, func(t *testing.T, err error) {
			if e := errorAs[*api.ResultError](t, err); e.Reason != "more than 10000 findings" {
				t.Errorf("reason = %q", e.Reason)
			}
		}},
		{"huge message", "huge=9000000", false, func(t *testing.T, err error) {
			if e := errorAs[*api.ResultError](t, err); !strings.Contains(e.Reason, "larger than") {
				t.Errorf("reason = %q", e.Reason)
			}
		}},
		{"outside", "outside", false, func(t *testing.T, err error) {
			if e := errorAs[*api.ResultError](t, err); !strings.Contains(e.Reason, "center is 1e+09") {
				t.Errorf("reason = %q", e.Reason)
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before := h.Pid("null")
			_, err := h.Analyze(testContext(t), "null", job(t, tt.do), nil)
			tt.check(t, err)
			r, err := h.Analyze(testContext(t), "null", job(t, ""), nil)
			if err != nil || len(r.Findings) != 2 {
				t.Fatalf("next job = %d findings, %v", len(r.Findings), err)
			}
			if after := h.Pid("null"); (after == before) != tt.same {
				t.Errorf("process %d before, %d after, same = %v wanted", before, after, tt.same)
			}
		})
	}
}

func TestCancel(t *testing.T) {
	for _, tt := range []struct {
		do   string
		same bool
	}{{"wait", true}, {"late", true}, {"hang", false}} {
		t.Run(tt.do, func(t *testing.T) {
			h := start(t, host.Options{Plugins: []host.Spec{spec()}, CancelGrace: grace(tt.same)})
			pid := h.Pid("null")
			ctx, cancel := context.WithCancel(testContext(t))
			_, err := h.Analyze(ctx, "null", job(t, tt.do), func(float64, string) { cancel() })
			if !errors.Is(err, context.Canceled) {
				t.Errorf("error = %v, want context.Canceled", err)
			}
			if _, err := h.Analyze(testContext(t), "null", job(t, ""), nil); err != nil {
				t.Errorf("next job: %v", err)
			}
			if got := h.Pid("null") == pid; got != tt.same {
				t.Errorf("same process = %v, want %v", got, tt.same)
			}
		})
	}
}

// grace is long for a plugin that obeys, however busy the machine is.
func grace(obeys bool) time.Duration {
	if obeys {
		return limit / 4
	}
	return 100 * time.Millisecond
}

func TestDeadline(t *testing.T) {
	for _, tt := range []struct {
		do     string
		killed bool
	}{{"wait", false}, {"late", false}, {"fork=%s,flee=%s,hang", true}} {
		t.Run(tt.do, func(t *testing.T) {
			s := spec()
			s.Deadline = 200 * time.Millisecond
			if tt.killed {
				s.Deadline = time.Second // time to fork on a busy machine
			}
			h := start(t, host.Options{Plugins: []host.Spec{s}, CancelGrace: grace(!tt.killed)})
			arg, gone := sleeper(t)
			_, err := h.Analyze(testContext(t), "null", job(t, strings.ReplaceAll(tt.do, "%s", arg)), nil)
			e := errorAs[*host.DeadlineError](t, err)
			if e.Killed != tt.killed || e.Deadline != s.Deadline {
				t.Errorf("error = %+v, want killed %v", e, tt.killed)
			}
			gone()
			if _, err := h.Analyze(testContext(t), "null", job(t, ""), nil); err != nil {
				t.Errorf("next job: %v", err)
			}
		})
	}
}

// A deadline of the caller that is shorter than the plugin's is the caller's error.
func TestCallerDeadline(t *testing.T) {
	h := start(t, host.Options{Plugins: []host.Spec{spec()}})
	ctx, cancel := context.WithTimeout(testContext(t), 100*time.Millisecond)
	defer cancel()
	if _, err := h.Analyze(ctx, "null", job(t, "wait"), nil); err != context.DeadlineExceeded {
		t.Errorf("error = %v, want context.DeadlineExceeded", err)
	}
}

func TestKillFromOutside(t *testing.T) {
	h := start(t, host.Options{Plugins: []host.Spec{spec()}})
	pid := h.Pid("null")
	_, err := h.Analyze(testContext(t), "null", job(t, "wait"), func(float64, string) {
		if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
			t.Error(err)
		}
	})
	if e := errorAs[*host.CrashError](t, err); !strings.Contains(e.Reason, "signal 9") {
		t.Errorf("reason = %q", e.Reason)
	}
	if _, err := h.Analyze(testContext(t), "null", job(t, ""), nil); err != nil {
		t.Errorf("next job: %v", err)
	}
	if st := h.Status()[0]; st.Restarts != 1 || st.Pid == pid || !strings.Contains(st.Problem, "signal 9") {
		t.Errorf("status = %+v", st)
	}
}

// A plugin that dies between two jobs is replaced before anybody asks.
func TestKillIdle(t *testing.T) {
	h := start(t, host.Options{Plugins: []host.Spec{spec()}})
	pid := h.Pid("null")
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	eventually(t, "a new process", func() bool { p := h.Pid("null"); return p != 0 && p != pid })
	if _, err := h.Analyze(testContext(t), "null", job(t, ""), nil); err != nil {
		t.Error(err)
	}
}

// A stopped process is alive to the kernel and to TCP; only the health RPC tells.
func TestHealth(t *testing.T) {
	h := start(t, host.Options{Plugins: []host.Spec{spec()}, HealthInterval: 100 * time.Millisecond})
	pid := h.Pid("null")
	_, err := h.Analyze(testContext(t), "null", job(t, "wait"), func(float64, string) {
		if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
			t.Error(err)
		}
	})
	if e := errorAs[*host.CrashError](t, err); !strings.Contains(e.Reason, "health checks") {
		t.Errorf("reason = %q", e.Reason)
	}
}

func TestTwoProcesses(t *testing.T) {
	s := spec()
	s.Processes = 2
	h := start(t, host.Options{Plugins: []host.Spec{s}})
	ctx, cancel := context.WithCancel(testContext(t))
	var begins []<-chan struct{}
	done := make(chan error, 3)
	for range 2 {
		progress, began := begun()
		begins = append(begins, began)
		j := job(t, "wait")
		go func() {
			_, err := h.Analyze(ctx, "null", j, progress)
			done <- err
		}()
	}
	for _, b := range begins {
		<-b // both run at the same time
	}
	if st := h.Status(); len(st) != 2 || st[0].State != host.StateBusy || st[1].State != host.StateBusy || st[0].Pid == st[1].Pid {
		t.Errorf("status = %+v", st)
	}
	// A third waits in its caller, who may give up.
	short, stop := context.WithTimeout(ctx, 50*time.Millisecond)
	defer stop()
	if _, err := h.Analyze(short, "null", job(t, ""), nil); err != context.DeadlineExceeded {
		t.Errorf("third job = %v", err)
	}
	cancel()
	for range 2 {
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("job = %v", err)
		}
	}
}

func TestUnknownPlugin(t *testing.T) {
	h := start(t, host.Options{Plugins: []host.Spec{spec()}})
	if _, err := h.Analyze(testContext(t), "other", job(t, ""), nil); !errors.Is(err, host.ErrUnknownPlugin) {
		t.Errorf("error = %v", err)
	}
}

// A panic in the caller's progress ends its job and nothing else.
func TestProgressPanics(t *testing.T) {
	h := start(t, host.Options{Plugins: []host.Spec{spec()}})
	_, err := h.Analyze(testContext(t), "null", job(t, ""), func(float64, string) { panic("caller") })
	errorAs[*host.FailureError](t, err)
	if _, err := h.Analyze(testContext(t), "null", job(t, ""), nil); err != nil {
		t.Errorf("next job: %v", err)
	}
}

func TestEnvironment(t *testing.T) {
	t.Setenv("HILUM_SECRET", "of the node")
	s := spec()
	s.Env = []string{"LD_LIBRARY_PATH=/opt/runtime", "LANG=de_DE.UTF-8"}
	h := start(t, host.Options{Plugins: []host.Spec{s}})
	r, err := h.Analyze(testContext(t), "null", job(t, "environment"), nil)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, note := range r.Notes {
		key, value, _ := strings.Cut(note, "=")
		if !strings.HasPrefix(key, "PLUGIN_") && key != "HILUM_PLUGIN" { // go-plugin's own
			got[key] = value
		}
	}
	folder := got["HOME"]
	want := map[string]string{
		"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "de_DE.UTF-8", "LD_LIBRARY_PATH": "/opt/runtime",
		"HOME": folder, "TMPDIR": folder,
	}
	delete(got, "PWD") // os/exec sets it
	if !maps.Equal(got, want) || !strings.HasSuffix(folder, "/null-0") {
		t.Errorf("environment = %v, want %v", got, want)
	}
}

func TestIdentityIsHidden(t *testing.T) {
	var log lockedBuffer
	h := start(t, host.Options{Plugins: []host.Spec{spec()}, Logger: debugLogger(&log)})
	j := job(t, "say=a line,say=loading DOEFUL^JANE 4711-0815 of Jane,say=doeful,fail")
	j.Series["PatientName"], j.Series["PatientID"] = "Doeful^Jane", "4711-0815"
	_, err := h.Analyze(testContext(t), "null", j, nil)
	errorAs[*host.FailureError](t, err)
	// stderr is a pipe beside the connection: its lines may come after the answer.
	output := func() string { return h.Status()[0].LastOutput }
	eventually(t, "both lines arrive", func() bool { return strings.Count(output(), "\n") == 2 })
	if want := "a line\nloading [hidden] [hidden] of [hidden]\n[hidden]"; output() != want {
		t.Errorf("last output = %q, want %q", output(), want)
	}
	for _, secret := range []string{"a line", "4711", "jane", "doeful"} {
		if s := strings.ToLower(log.String()); strings.Contains(s, secret) {
			t.Errorf("%q shows in the log: %s", secret, s)
		}
	}
}
