package host_test

import (
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	"hilum/plugins/host"
)

// TestBroken has a plugin that never starts again after its first process: the
// host gives up, says so, answers jobs at once, and tries again at a reload.
func TestBroken(t *testing.T) {
	folder := t.TempDir()
	switchFile := filepath.Join(folder, "fails")
	path := filepath.Join(folder, "plugin")
	script := "#!/bin/sh\n[ -e " + switchFile + " ] && echo no licence >&2 && exit 7\nexec " + null + "\n"
	if err := os.WriteFile(path, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	var changes atomic.Int64
	specs := []host.Spec{{Name: "null", Path: path}}
	h := start(t, host.Options{Plugins: specs, MaxFailures: 3, Changed: func() { changes.Add(1) }})
	if h.Capacity("null") != 1 {
		t.Errorf("capacity = %d", h.Capacity("null"))
	}
	if err := os.WriteFile(switchFile, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	_, err := h.Analyze(testContext(t), "null", job(t, "exit=1"), nil)
	errorAs[*host.CrashError](t, err)
	eventually(t, "the plugin is broken", func() bool { return h.Status()[0].State == host.StateBroken })
	st := h.Status()[0]
	if !strings.HasPrefix(st.Problem, "failed 3 times in a row, the last time: ") || !strings.Contains(st.Problem, "no licence") || h.Capacity("null") != 0 {
		t.Errorf("status = %+v, capacity %d", st, h.Capacity("null"))
	}
	if st.Description.Name != "null" {
		t.Errorf("description = %+v, want the last one", st.Description)
	}
	_, err = h.Analyze(testContext(t), "null", job(t, ""), nil)
	if e := errorAs[*host.StartError](t, err); !strings.Contains(e.Reason, "no licence") {
		t.Errorf("error = %v", err)
	}
	if err := os.Remove(switchFile); err != nil {
		t.Fatal(err)
	}
	before := changes.Load()
	if err := h.Reload(testContext(t), specs); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the plugin is back", func() bool { return h.Capacity("null") == 1 })
	if changes.Load() == before {
		t.Error("nobody was told of the change")
	}
	if _, err := h.Analyze(testContext(t), "null", job(t, ""), nil); err != nil {
		t.Error(err)
	}
}

// TestPoison has one series crash the plugin again and again: that is the
// series' fault, and the plugin is not given up for it.
func TestPoison(t *testing.T) {
	h := start(t, host.Options{Plugins: []host.Spec{spec()}, MaxFailures: 2})
	for range 4 {
		_, err := h.Analyze(testContext(t), "null", job(t, "exit=1"), nil)
		errorAs[*host.CrashError](t, err)
	}
	if _, err := h.Analyze(testContext(t), "null", job(t, ""), nil); err != nil {
		t.Error(err)
	}
}

// TestKeepGoing starts with a plugin that cannot: the other works.
func TestKeepGoing(t *testing.T) {
	bad := spec("-start", "say=no licence,exit=7")
	bad.Name = "bad"
	h := start(t, host.Options{Plugins: []host.Spec{bad, spec()}, KeepGoing: true, MaxFailures: 2})
	if _, err := h.Analyze(testContext(t), "null", job(t, ""), nil); err != nil {
		t.Error(err)
	}
	eventually(t, "bad is broken", func() bool { return h.Status()[0].State == host.StateBroken })
	if st := h.Status()[0]; !strings.Contains(st.Problem, "no licence") {
		t.Errorf("problem = %q", st.Problem)
	}
}

// TestReload takes one plugin away, changes another and adds a third while
// each of the first two runs a job.
func TestReload(t *testing.T) {
	named := func(name string, args ...string) host.Spec {
		return host.Spec{Name: name, Path: null, Args: args}
	}
	h := start(t, host.Options{Plugins: []host.Spec{named("same"), named("gone"), named("changed", "-findings", "1")}})
	same := h.Pid("same")
	results := make(chan error, 2)
	for _, name := range []string{"gone", "changed"} {
		progress, began := begun()
		j := job(t, "sleep=300ms")
		go func() {
			_, err := h.Analyze(testContext(t), name, j, progress)
			results <- err
		}()
		<-began
	}
	next := []host.Spec{named("new"), named("changed", "-findings", "5"), named("same")}
	if err := h.Reload(testContext(t), next); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := <-results; err != nil {
			t.Errorf("a job that ran during the reload: %v", err)
		}
	}
	if h.Pid("same") != same {
		t.Error("the plugin that stayed as it was has another process")
	}
	for name, findings := range map[string]int{"new": 1, "changed": 5, "same": 1} {
		r, err := h.Analyze(testContext(t), name, job(t, ""), nil)
		if err != nil || len(r.Findings) != findings {
			t.Errorf("%s: %d findings, %v", name, len(r.Findings), err)
		}
	}
	if _, err := h.Analyze(testContext(t), "gone", job(t, ""), nil); err == nil {
		t.Error("the plugin that was taken away still works")
	}
	bad := append(next, named("bad", "-start", "exit=1"))
	err := h.Reload(testContext(t), bad)
	if e := errorAs[*host.StartError](t, err); e.Plugin != "bad" {
		t.Errorf("reload with a bad plugin = %v", err)
	}
	if st := h.Status(); len(st) != 3 || h.Pid("same") != same {
		t.Errorf("after a failed reload: %+v", st)
	}
}
