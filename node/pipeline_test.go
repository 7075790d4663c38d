package node_test

import (
	"context"
	"io"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"hilum/node"
	"hilum/node/config"
	"hilum/node/web"
)

// TestPipelineAndReload sends a series through two plugins by an urgent rule,
// then takes a broken plugin over and mends it, while the node runs on.
func TestPipelineAndReload(t *testing.T) {
	cfg := testConfig(t, "-findings", "3")
	second := config.DefaultPlugin()
	second.Name, second.Path, second.Args = "second", null, []string{"-findings", "2"}
	cfg.Plugins = append(cfg.Plugins, second)
	cfg.Pipelines = []config.Pipeline{{Name: "both", Plugins: []string{"null", "second"}}}
	cfg.Rules = []config.Rule{
		{Name: "here", Pipeline: "both", Priority: config.PriorityUrgent, Modality: []string{"CT"}, CallingAE: []string{"CT*"}, Header: []string{"FrameOfReferenceUID=1.2.*", "ImageType="}},
		{Name: "elsewhere", Pipeline: "null", Priority: config.PriorityRoutine, CallingAE: []string{"MR*"}},
	}
	n, client := start(t, cfg)
	send(t, n, "1.2.3.4", 1, 3)
	jobs := until(t, "the job is done", client.Jobs, jobIn("done", 0))
	if jobs[0].Plugin != "both" || !jobs[0].Urgent || jobs[0].Findings != 2 {
		t.Fatalf("job = %+v, want an urgent one of both with 2 findings", jobs[0])
	}
	full, err := client.Job(t.Context(), jobs[0].ID)
	if err != nil {
		t.Fatal(err)
	}
	steps := full.Detail.Steps
	if len(steps) != 2 || steps[0].Plugin != "null" || steps[0].Findings != 3 || steps[1].Plugin != "second" || steps[1].Device != "cpu" {
		t.Errorf("steps = %+v", steps)
	}

	bad := cfg
	bad.Plugins = []config.Plugin{cfg.Plugins[0], cfg.Plugins[1]}
	bad.Plugins[1].Args = []string{"-start", "exit=1"}
	if err := n.Reload(t.Context(), bad); err == nil || !strings.Contains(err.Error(), "second") {
		t.Errorf("Reload with a plugin that does not start = %v", err)
	}
	send(t, n, "1.2.3.5", 1, 3)
	until(t, "the job is done", client.Jobs, jobIn("done", 1))

	next := cfg
	next.Plugins = []config.Plugin{cfg.Plugins[0]}
	next.Pipelines, next.Rules = nil, nil
	if err := n.Reload(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	send(t, n, "1.2.3.6", 1, 3)
	if jobs := until(t, "the job is done", client.Jobs, jobIn("done", 2)); jobs[2].Plugin != "null" || jobs[2].Urgent || jobs[2].Findings != 3 {
		t.Errorf("after the reload: %+v", jobs[2])
	}
}

// TestBrokenPluginWaits: a node whose plugin does not start takes images, and
// their jobs wait until a reload brings a plugin that does.
func TestBrokenPluginWaits(t *testing.T) {
	cfg := testConfig(t, "-start", "exit=1")
	n, client := start(t, cfg)
	send(t, n, "1.2.3.4", 1, 3)
	until(t, "the job is queued, and says why it stays so", client.Jobs, func(jobs []web.Job) bool {
		return len(jobs) == 1 && jobs[0].State == "queued" && strings.Contains(jobs[0].Reason, "waits for the plugin: ") &&
			strings.Contains(jobs[0].Reason, "status 1")
	})
	next := cfg
	next.Plugins = []config.Plugin{cfg.Plugins[0]}
	next.Plugins[0].Args = nil
	if err := n.Reload(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if jobs := until(t, "the job is done", client.Jobs, jobIn("done", 0)); jobs[0].Attempts != 1 {
		t.Errorf("attempts = %d, want 1: waiting is not trying", jobs[0].Attempts)
	}
}

// TestHostilePlugins: whatever one plugin does, the other's job is done, the
// reason is in the job, and the node's log has none of the plugin's words.
func TestHostilePlugins(t *testing.T) {
	for do, want := range map[string]string{
		"exit=7":             "exited with status 7",
		"hang":               "did not finish within",
		"garbage,fail":       "told to fail",
		"allocate":           "more than its limit",
		"flood=1000000":      "more than 10000 findings",
		"destroy,exit=1":     "exited with status 1",
		"gossip,fail":        "told to fail",
		"flee=1000.5,exit=1": "exited with status 1",
		"fork=1000,exit=1":   "exited with status 1",
		"late":               "did not finish within",
		"panic":              "exited with status 2",
		"nan":                "want 0 to 1",
		"outside":            "want -10000 to 10000",
		"huge=2000":          "note",
	} {
		t.Run(do, func(t *testing.T) {
			t.Parallel()
			cfg := testConfig(t, "-job", do)
			cfg.Jobs.Attempts = 1
			cfg.Plugins[0].Deadline, cfg.Plugins[0].Memory = time.Minute, 4<<30
			switch do {
			case "hang", "late":
				cfg.Plugins[0].Deadline = 2 * time.Second
			case "allocate":
				cfg.Plugins[0].Memory = 200 << 20
			}
			good := config.DefaultPlugin()
			good.Name, good.Path = "good", null
			cfg.Plugins = append(cfg.Plugins, good)
			var log lockedLog
			n, err := node.Start(t.Context(), node.Options{Config: cfg, Version: "test", Logger: slog.New(slog.NewTextHandler(&log, &slog.HandlerOptions{Level: slog.LevelDebug}))})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := n.Stop(context.Background()); err != nil {
					t.Error(err)
				}
			})
			client, err := web.Open(t.Context(), cfg.Data, nil, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = client.Close() })
			send(t, n, "1.2.3.4", 1, 3)
			jobs := until(t, "both jobs end", client.Jobs, func(jobs []web.Job) bool {
				return len(jobs) == 2 && jobEnded(jobs[0]) && jobEnded(jobs[1])
			})
			for _, j := range jobs {
				switch {
				case j.Plugin == "good" && j.State != "done":
					t.Errorf("the good plugin's job = %+v", j)
				case j.Plugin == "null" && (j.State != "dead" || !strings.Contains(j.Reason, want)):
					t.Errorf("the hostile plugin's job = %s: %s, want dead: %s", j.State, j.Reason, want)
				}
				if strings.Contains(j.Reason, "SECRET") {
					t.Errorf("the reason holds the patient: %s", j.Reason)
				}
			}
			if strings.Contains(log.String(), "SECRET") {
				t.Errorf("the log holds the patient:\n%s", log.String())
			}
			for _, uid := range []string{"1.2.3.4.1", "1.2.3.4.2", "1.2.3.4.3"} {
				r, err := client.Instance(t.Context(), uid)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, r); err != nil {
					t.Errorf("image %s: %v", uid, err)
				}
				_ = r.Close()
			}
		})
	}
}

func jobEnded(j web.Job) bool { return j.State == "done" || j.State == "dead" }

// lockedLog collects what a node logs.
type lockedLog struct {
	mu   sync.Mutex // guards text
	text strings.Builder
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}
