package host_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hilum/plugins/host"
)

// levels are the ways in which the kernel may help, from all to nothing. Every
// machine tests the lesser ones; the best are tested where there are.
func levels() map[string]host.Isolation {
	all := map[string]host.Isolation{"tree": {Processes: "tree", Memory: "watched"}}
	best := host.Detect()
	all["best"] = best
	if best.Files != "" {
		all["landlock"] = host.Isolation{Files: best.Files, Network: "landlock", Processes: "tree", Memory: "watched"}
	}
	if host.HasCgroup() {
		all["cgroup"] = host.Isolation{Processes: "cgroup", Memory: best.Memory}
	}
	return all
}

// TestChildrenDie leaves children behind in every way, at every level.
func TestChildrenDie(t *testing.T) {
	for level, isolation := range levels() {
		for _, do := range []string{"fork=%s,exit=1", "flee=%s,sleep=700ms,exit=1", "fork=%s,flee=%s,sleep=700ms,panic", "fork=%s,nan"} {
			t.Run(level+"/"+do, func(t *testing.T) {
				h := startAt(t, isolation, host.Options{Plugins: []host.Spec{spec()}})
				arg, gone := sleeper(t)
				if _, err := h.Analyze(testContext(t), "null", job(t, strings.ReplaceAll(do, "%s", arg)), nil); err == nil {
					t.Error("the job succeeded")
				}
				gone()
			})
		}
	}
}

// TestMemoryLimit has a plugin, and a child of one, take memory without end.
func TestMemoryLimit(t *testing.T) {
	for level, isolation := range levels() {
		t.Run(level, func(t *testing.T) {
			s := spec()
			s.Memory = 200 << 20
			h := startAt(t, isolation, host.Options{Plugins: []host.Spec{s}})
			_, err := h.Analyze(testContext(t), "null", job(t, "allocate"), nil)
			e := errorAs[*host.CrashError](t, err)
			if !strings.Contains(e.Reason, "more than its limit of 200 MiB") && !strings.Contains(e.Reason, "more memory than its limit of 200 MiB") {
				t.Errorf("reason = %q", e.Reason)
			}
			if _, err := h.Analyze(testContext(t), "null", job(t, ""), nil); err != nil {
				t.Errorf("next job: %v", err)
			}
		})
	}
}

// TestOutOfReach has a plugin try what it must not be able to.
func TestOutOfReach(t *testing.T) {
	best := host.Detect()
	if best.Files == "" || best.Network == "" {
		t.Skipf("this kernel offers plugins only: %s", best)
	}
	data := t.TempDir()
	write := func(path string) string {
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	secret := write(filepath.Join(data, "index.db"))
	own := filepath.Join(data, "scratch", "jobs", "null", "1", "1.dcm")
	write(own)
	if err := os.WriteFile(own, append(make([]byte, 128), "DICM"...), 0o600); err != nil {
		t.Fatal(err)
	}
	other := write(filepath.Join(data, "scratch", "jobs", "other", "1", "1.dcm"))
	outside := write(filepath.Join(t.TempDir(), "file"))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	h := startAt(t, best, host.Options{
		Plugins: []host.Spec{spec()}, Hide: []string{data}, Jobs: filepath.Join(data, "scratch", "jobs"),
		Scratch: filepath.Join(data, "scratch"),
	})
	tests := []struct{ try, want string }{
		{"read:" + secret, "read no"},
		{"write:" + secret, "write no"},
		{"list:" + data, "list no"},
		{"read:" + own, "read yes"},
		{"write:" + own, "write no"},
		{"read:" + other, "read no"},
		{"read:" + outside, "read yes"},
		{"write:" + outside, "write no"},
		{"read:/proc/self/maps", "read yes"},
		{"write:/dev/null", "write yes"},
		{"dial:" + l.Addr().String(), "dial no"},
		{fmt.Sprintf("kill:%d", os.Getpid()), "kill no"},
	}
	for _, tt := range tests {
		if strings.HasPrefix(tt.try, "kill") && best.Processes != "namespace" {
			continue
		}
		j := job(t, "try="+tt.try)
		j.Folder = filepath.Dir(own)
		r, err := h.Analyze(testContext(t), "null", j, nil)
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Contains(r.Notes, tt.want) {
			t.Errorf("try %s: %q, want %q", tt.try, r.Notes, tt.want)
		}
	}
	if text, err := os.ReadFile(secret); string(text) != "secret" {
		t.Errorf("the secret is %q, %v", text, err)
	}
}

// TestNetworkAllowed gives one plugin the network, and one everything.
func TestNetworkAllowed(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	for _, s := range []host.Spec{{Name: "null", Path: null, Network: true}, {Name: "null", Path: null, Unconfined: true}} {
		t.Run(fmt.Sprintf("unconfined %v", s.Unconfined), func(t *testing.T) {
			h := start(t, host.Options{Plugins: []host.Spec{s}})
			r, err := h.Analyze(testContext(t), "null", job(t, "try=dial:"+l.Addr().String()), nil)
			if err != nil || !slices.Contains(r.Notes, "dial yes") {
				t.Errorf("notes = %q, %v", r.Notes, err)
			}
		})
	}
}

// TestInputUnharmed has a plugin destroy its input.
func TestInputUnharmed(t *testing.T) {
	if host.Detect().Files == "" {
		t.Skip("this kernel has no Landlock: a plugin can harm the copy that it was given")
	}
	h := start(t, host.Options{Plugins: []host.Spec{spec()}})
	j := job(t, "destroy")
	if _, err := h.Analyze(testContext(t), "null", j, nil); err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(j.Folder)
	if err != nil || len(files) != 1 || files[0].Name() != "1.dcm" {
		t.Fatalf("the folder holds %v, %v", files, err)
	}
	if b, err := os.ReadFile(filepath.Join(j.Folder, "1.dcm")); err != nil || len(b) != 132 {
		t.Errorf("the image has %d bytes, %v", len(b), err)
	}
}

// startAt starts a host with the isolation of a lesser kernel.
func startAt(t *testing.T, i host.Isolation, o host.Options) *host.Host {
	t.Helper()
	scratch := o.Scratch
	o = withTestDefaults(t, o)
	if scratch != "" {
		o.Scratch = scratch
	}
	h, err := host.New(o)
	if err != nil {
		t.Fatal(err)
	}
	host.SetIsolation(h, i)
	t.Cleanup(func() {
		if err := h.Stop(context.Background()); err != nil {
			t.Errorf("Stop = %v", err)
		}
		checkGoroutines(t)
	})
	if err := h.Start(testContext(t)); err != nil {
		t.Fatalf("Start = %v", err)
	}
	return h
}
