package web_test

import (
	"bytes"
	"crypto/rand"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hilum/node/task"
	"hilum/node/web"
	"hilum/plugins/api"
	"hilum/store"
)

const (
	study  = "1.2.3"
	series = "1.2.3.4"
	image  = "1.2.3.4.5"
)

// fill puts one image, two revisions of one analysis and a delivery into a
// store.
func fill(t *testing.T, st *store.Store) (body []byte) {
	t.Helper()
	body = make([]byte, 300_000)
	_, _ = rand.Read(body)
	w, err := st.NewInstance()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(body); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(store.Instance{
		SOPInstanceUID: image, SOPClassUID: "1.2.840.10008.5.1.4.1.1.2", SeriesInstanceUID: series, StudyInstanceUID: study,
		TransferSyntaxUID: "1.2.840.10008.1.2.1", Source: "CT1",
		Header: map[string]string{"Modality": "CT", "StudyDate": "20260102", "AccessionNumber": "A1"},
	}); err != nil {
		t.Fatal(err)
	}
	for revision, findings := range [][]api.Finding{
		{{ID: "old", Probability: 0.9}},
		{{ID: "low", Probability: 0.2}, {ID: "high", Center: [3]float64{1, -2, 3}, DiameterMM: 7, Probability: 0.8}},
	} {
		j, _, err := st.Enqueue(task.NewAnalysis(task.Analysis{SeriesInstanceUID: series, StudyInstanceUID: study, Plugin: "nodules", Revision: revision + 1}, store.JobQueued, ""))
		if err != nil {
			t.Fatal(err)
		}
		result, err := task.EncodeResult(task.AnalysisResult{Result: api.Result{Findings: findings}, Instances: []task.Object{{SOPInstanceUID: image}}, Report: task.Object{SOPInstanceUID: "9.9"}})
		if err != nil {
			t.Fatal(err)
		}
		if err := st.FinishJob(j.ID, func(j *store.Job) error { j.State, j.Result = store.JobDone, result; return nil },
			task.NewDelivery(task.Delivery{SOPInstanceUID: "9." + j.ID, Destination: "pacs", AnalysisJob: j.ID})); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := st.Enqueue(task.NewAnalysis(task.Analysis{SeriesInstanceUID: "1.2.9", StudyInstanceUID: study, Plugin: "nodules", Revision: 1}, store.JobDead, "a gap")); err != nil {
		t.Fatal(err)
	}
	return body
}

// TestClient asks the same questions over the admin socket of a running node
// and of the store itself.
func TestClient(t *testing.T) {
	data := filepath.Join(t.TempDir(), strings.Repeat("long-", 30)) // longer than a socket's path may be
	st, err := store.Open(data, store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	body := fill(t, st)
	log := slog.New(slog.DiscardHandler)

	l, err := web.Listen(data)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(data, "admin.sock"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("admin socket: %v, %v; want mode 0600", info, err)
	}
	handler := &web.Handler{Store: st, Logger: log, Status: web.Status{Running: true, Version: "v1"}, Plugins: func() []web.Plugin { return []web.Plugin{{Name: "nodules"}} }}
	server := &http.Server{Handler: handler.Routes()}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	client, err := web.Open(t.Context(), data, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("socket", func(t *testing.T) { checkClient(t, client, body, true) })
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	if err := server.Close(); err != nil {
		t.Error(err)
	}
	<-served
	if _, err := os.Stat(filepath.Join(data, "admin.sock")); !os.IsNotExist(err) {
		t.Errorf("admin socket after the node's end: %v, want gone", err)
	}

	if _, err := web.Open(t.Context(), data, nil, log); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("Open while another holds the store = %v, want that the folder is in use", err)
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}
	client, err = web.Open(t.Context(), data, []web.Plugin{{Name: "nodules"}}, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("store", func(t *testing.T) { checkClient(t, client, body, false) })
	if err := client.Close(); err != nil {
		t.Error(err)
	}
}

func checkClient(t *testing.T, c *web.Client, body []byte, running bool) {
	ctx := t.Context()
	status, err := c.Status(ctx)
	if err != nil || status.Running != running {
		t.Errorf("Status = %+v, %v; want running %v", status, err, running)
	}
	studies, err := c.Studies(ctx)
	if err != nil || len(studies) != 1 || studies[0].StudyInstanceUID != study || len(studies[0].Series) != 1 || studies[0].Series[0].Instances != 1 || studies[0].Series[0].Modality != "CT" {
		t.Errorf("Studies = %+v, %v", studies, err)
	}
	uids, err := c.Instances(ctx, series)
	if err != nil || len(uids) != 1 || uids[0] != image {
		t.Errorf("Instances = %v, %v", uids, err)
	}
	if _, err := c.Instances(ctx, "7.7"); err == nil || !strings.Contains(err.Error(), "no series 7.7") {
		t.Errorf("Instances of an unknown series = %v", err)
	}
	r, err := c.Instance(ctx, image)
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, body) {
		t.Errorf("Instance: %d bytes, %v; want the %d stored", len(got), err, len(body))
	}
	_ = r.Close()
	if _, err := c.Instance(ctx, "7.7"); err == nil || !strings.Contains(err.Error(), "no image 7.7") {
		t.Errorf("unknown Instance = %v", err)
	}

	jobs, err := c.Jobs(ctx)
	if err != nil || len(jobs) != 3 || jobs[1].Findings != 2 || jobs[1].State != "done" || jobs[1].Plugin != "nodules" {
		t.Fatalf("Jobs = %+v, %v", jobs, err)
	}
	job, err := c.Job(ctx, jobs[1].ID)
	if err != nil || job.Detail == nil || len(job.Detail.Instances) != 1 || job.Detail.Findings[0].ID != "high" {
		t.Errorf("Job = %+v, %v", job, err)
	}
	if _, err := c.RetryJob(ctx, jobs[0].ID); err == nil || !strings.Contains(err.Error(), "is done") {
		t.Errorf("retry of a done job = %v", err)
	}
	if running { // only once: afterwards it is queued
		if j, err := c.RetryJob(ctx, jobs[2].ID); err != nil || j.State != "queued" {
			t.Errorf("RetryJob = %+v, %v", j, err)
		}
	}
	findings, err := c.Findings(ctx, series)
	if err != nil || len(findings) != 2 || findings[0].ID != "high" || findings[0].X != 1 || findings[0].Y != -2 || findings[0].Z != 3 {
		t.Errorf("Findings = %+v, %v; want those of revision 2, most probable first", findings, err)
	}
	if _, err := c.Findings(ctx, "7.7"); err == nil {
		t.Error("Findings of an unknown series: no error")
	}
	deliveries, err := c.Deliveries(ctx)
	if err != nil || len(deliveries) != 2 || deliveries[0].Destination != "pacs" {
		t.Errorf("Deliveries = %+v, %v", deliveries, err)
	}
	if _, err := c.Job(ctx, deliveries[0].ID); err == nil {
		t.Error("a delivery is shown as a job")
	}
	if plugins, err := c.Plugins(ctx); err != nil || len(plugins) != 1 {
		t.Errorf("Plugins = %+v, %v", plugins, err)
	}
}

// TestRetryDeliveries: what is dead or waits goes again, of one destination or of
// all; what is queued or done stays as it is.
func TestRetryDeliveries(t *testing.T) {
	st, err := store.Open(t.TempDir(), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = st.Close() })
	for i, d := range []struct {
		to    string
		state store.JobState
	}{
		{"pacs", store.JobDead}, {"archive", store.JobDead}, {"pacs", store.JobRetry},
		{"pacs", store.JobDone}, {"pacs", store.JobQueued}, {"pacs2", store.JobDead},
	} {
		j := task.NewDelivery(task.Delivery{SOPInstanceUID: "9." + string(rune('1'+i)), Destination: d.to})
		j.State, j.Attempts = d.state, 7
		if _, _, err := st.Enqueue(j); err != nil {
			t.Fatal(err)
		}
	}
	server := httptest.NewServer((&web.Handler{Store: st, Logger: slog.New(slog.DiscardHandler)}).Routes())
	t.Cleanup(server.Close)
	for _, tt := range []struct{ query, want string }{
		{"?destination=nobody", ""}, {"?destination=pacs", "9.1 9.3"}, {"", "9.2 9.6"}, {"", ""},
	} {
		resp, err := http.Post(server.URL+"/api/deliveries/retry"+tt.query, "", nil)
		if err != nil {
			t.Fatal(err)
		}
		var got []web.Delivery
		err = json.NewDecoder(resp.Body).Decode(&got)
		_ = resp.Body.Close()
		var uids []string
		for _, d := range got {
			if uids = append(uids, d.SOPInstanceUID); d.State != "queued" || d.Attempts != 0 {
				t.Errorf("retry%s: %+v, want queued with no attempts", tt.query, d)
			}
		}
		if err != nil || strings.Join(uids, " ") != tt.want {
			t.Errorf("retry%s = %q, %v; want %q", tt.query, uids, err, tt.want)
		}
	}
}

// The names of the JSON keys are a contract with scripts.
func TestJSONKeys(t *testing.T) {
	for _, tt := range []struct {
		v    any
		keys []string
	}{
		{web.Study{}, []string{"study_instance_uid", "series"}},
		{web.Series{}, []string{"series_instance_uid", "modality", "instances", "state", "reason"}},
		{web.Job{}, []string{"id", "series_instance_uid", "plugin", "state", "reason", "findings"}},
		{web.Finding{}, []string{"x", "y", "z", "diameter_mm", "probability"}},
	} {
		text, err := json.Marshal(tt.v)
		if err != nil {
			t.Fatal(err)
		}
		for _, k := range tt.keys {
			if !bytes.Contains(text, []byte(`"`+k+`":`)) {
				t.Errorf("%T has no key %q: %s", tt.v, k, text)
			}
		}
	}
}

func TestOpenWithoutDataFolder(t *testing.T) {
	data := filepath.Join(t.TempDir(), "missing")
	_, err := web.Open(t.Context(), data, nil, slog.New(slog.DiscardHandler))
	if err == nil || !strings.Contains(err.Error(), "hilum serve") {
		t.Errorf("Open = %v, want a sentence that names hilum serve", err)
	}
	if _, err := os.Stat(data); !os.IsNotExist(err) {
		t.Error("a command that reads made the data folder")
	}
}
