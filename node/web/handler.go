package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strconv"

	"hilum/node/mpps"
	"hilum/node/task"
	"hilum/store"
)

// Handler serves the REST interface over a store.
type Handler struct {
	Store   *store.Store
	Plugins func() []Plugin // the configured plugins and what is known of them now
	Status  Status
	Logger  *slog.Logger
}

// Routes returns the handler of every path:
//
//	GET  /api/status                       Status
//	GET  /api/studies                      []Study
//	GET  /api/series/{uid}/instances       []string, SOP Instance UIDs in slice order
//	GET  /api/instances/{uid}              the stored Part 10 file, byte for byte
//	GET  /api/jobs                         []Job
//	GET  /api/jobs/{id}                    Job with detail
//	POST /api/jobs/{id}/retry              Job, queued again
//	GET  /api/findings?series=UID          []Finding of the newest result of each plugin; all series without ?series
//	GET  /api/deliveries                   []Delivery
//	POST /api/deliveries/{id}/retry        Delivery, queued again
//	POST /api/deliveries/retry?destination=NAME  []Delivery, queued again: the dead and those that wait for a retry; of all destinations without ?destination
//	GET  /api/plugins                      []Plugin
//	GET  /api/quarantine                   []Quarantined
//	GET  /api/store/check                  store.CheckReport, after every image was read
//	GET  /api/store/backup                 a backup as a tar archive, see store.Backup
//	POST /api/store/compact                store.CompactReport
//
// A failure is answered with its HTTP status and {"error": "sentence"}.
func (h *Handler) Routes() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /api/status", answer(h.Logger, func(*http.Request) (any, error) { return h.Status, nil }))
	mux.Handle("GET /api/studies", answer(h.Logger, h.studies))
	mux.Handle("GET /api/series/{uid}/instances", answer(h.Logger, h.instances))
	mux.HandleFunc("GET /api/instances/{uid}", h.instance)
	mux.Handle("GET /api/jobs", answer(h.Logger, h.jobs))
	mux.Handle("GET /api/jobs/{id}", answer(h.Logger, h.job))
	mux.Handle("POST /api/jobs/{id}/retry", answer(h.Logger, h.retryJob))
	mux.Handle("GET /api/findings", answer(h.Logger, h.findings))
	mux.Handle("GET /api/deliveries", answer(h.Logger, h.deliveries))
	mux.Handle("POST /api/deliveries/{id}/retry", answer(h.Logger, h.retryDelivery))
	mux.Handle("POST /api/deliveries/retry", answer(h.Logger, h.retryDeliveries))
	mux.Handle("GET /api/plugins", answer(h.Logger, func(*http.Request) (any, error) { return h.Plugins(), nil }))
	mux.Handle("GET /api/quarantine", answer(h.Logger, h.quarantine))
	mux.Handle("GET /api/store/check", answer(h.Logger, h.checkStore))
	mux.HandleFunc("GET /api/store/backup", h.backupStore)
	mux.Handle("POST /api/store/compact", answer(h.Logger, h.compactStore))
	return mux
}

// userError is a failure whose sentence is meant for the caller.
type userError struct {
	status int
	text   string
}

func (e *userError) Error() string { return e.text }

// answer runs fn and writes its value, or its error, as JSON.
func answer(log *slog.Logger, fn func(*http.Request) (any, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		v, err := fn(r)
		if err != nil {
			fail(w, log, err)
			return
		}
		writeJSON(w, http.StatusOK, v)
	})
}

func fail(w http.ResponseWriter, log *slog.Logger, err error) {
	var user *userError
	if !errors.As(err, &user) {
		log.Error("request not answered", "error", err)
		user = &userError{http.StatusInternalServerError, err.Error()}
	}
	writeJSON(w, user.status, map[string]string{"error": user.text})
}

func writeJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v) // the caller is gone: nobody is left to tell
}

func (h *Handler) studies(*http.Request) (any, error) {
	all, err := h.Store.AllSeries()
	if err != nil {
		return nil, fmt.Errorf("list series: %w", err)
	}
	studies := studiesView(all)
	steps := mpps.Steps{Store: h.Store}
	for i := range studies {
		reported, err := steps.OfStudy(studies[i].StudyInstanceUID)
		if err != nil {
			return nil, fmt.Errorf("list performed procedure steps: %w", err)
		}
		for _, s := range reported { // not its data set, which names the patient
			studies[i].Steps = append(studies[i].Steps, ProcedureStep{
				SOPInstanceUID: s.SOPInstanceUID, Status: string(s.Status), Station: s.Station, Modality: s.Modality,
				Series: s.Series, Images: s.Images, Updated: s.Updated,
			})
		}
	}
	return studies, nil
}

func (h *Handler) instances(r *http.Request) (any, error) {
	uid := r.PathValue("uid")
	list, err := h.Store.Instances(uid)
	if err == nil && len(list) == 0 {
		err = store.ErrNotFound
	}
	if err != nil {
		return nil, orNotFound(err, "no series "+uid+" is stored here; `hilum study list` shows those that are")
	}
	uids := make([]string, len(list))
	for i, in := range list {
		uids[i] = in.SOPInstanceUID
	}
	return uids, nil
}

func (h *Handler) instance(w http.ResponseWriter, r *http.Request) {
	uid := r.PathValue("uid")
	rc, in, err := h.Store.OpenInstance(uid)
	if err != nil {
		fail(w, h.Logger, orNotFound(err, "no image "+uid+" is stored here"))
		return
	}
	defer rc.Close()
	w.Header().Set("Content-Type", "application/dicom")
	w.Header().Set("Content-Length", strconv.FormatInt(in.Size, 10))
	if _, err := io.Copy(w, rc); err != nil {
		h.Logger.Debug("image not sent whole", "sop_instance", uid, "error", err)
	}
}

func (h *Handler) jobs(*http.Request) (any, error) {
	all, err := h.Store.Jobs("")
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	views := []Job{}
	for _, j := range all {
		if !task.IsAnalysis(j) {
			continue
		}
		v, err := jobView(j, false)
		if err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	plugins := h.Plugins()
	for i := range views {
		sayWhyQueued(&views[i], plugins)
	}
	return views, nil
}

// sayWhyQueued adds what keeps the plugin of a job from its work, when none of its
// processes can take it.
func sayWhyQueued(j *Job, plugins []Plugin) {
	if j.State != string(store.JobQueued) {
		return
	}
	reason := ""
	for _, p := range plugins {
		switch {
		case p.Name != j.Plugin:
		case p.Reason == "":
			return // it will come to it
		default:
			reason = p.Reason
		}
	}
	if reason != "" {
		j.Reason += "; waits for the plugin: " + reason
	}
}

func (h *Handler) job(r *http.Request) (any, error) {
	j, err := h.find(r, task.IsAnalysis, "job")
	if err != nil {
		return nil, err
	}
	v, err := jobView(j, true)
	if err != nil {
		return nil, err
	}
	sayWhyQueued(&v, h.Plugins())
	return v, nil
}

func (h *Handler) retryJob(r *http.Request) (any, error) {
	j, err := h.retry(r, task.IsAnalysis, "job")
	if err != nil {
		return nil, err
	}
	return jobView(j, false)
}

func (h *Handler) findings(r *http.Request) (any, error) {
	series := r.URL.Query().Get("series")
	if series != "" {
		if _, err := h.Store.Series(series); err != nil {
			return nil, orNotFound(err, "no series "+series+" is stored here; `hilum study list` shows those that are")
		}
	}
	all, err := h.Store.Jobs("")
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	// The newest revision that is done supersedes those before it.
	type source struct{ series, plugin string }
	type newest struct {
		analysis task.Analysis
		job      store.Job
	}
	latest := map[source]newest{}
	order := []source{}
	for _, j := range all {
		if !task.IsAnalysis(j) || j.State != store.JobDone {
			continue
		}
		a, err := task.DecodeAnalysis(j)
		if err != nil {
			return nil, err
		}
		if series != "" && a.SeriesInstanceUID != series {
			continue
		}
		key := source{a.SeriesInstanceUID, a.Plugin}
		old, seen := latest[key]
		if !seen {
			order = append(order, key)
		}
		if !seen || a.Revision > old.analysis.Revision {
			latest[key] = newest{a, j}
		}
	}
	out := []Finding{}
	for _, key := range order {
		result, err := task.DecodeAnalysisResult(latest[key].job)
		if err != nil {
			return nil, err
		}
		out = append(out, findingsView(latest[key].analysis, result)...)
	}
	sortFindings(out)
	return out, nil
}

func (h *Handler) deliveries(*http.Request) (any, error) {
	all, err := h.Store.Jobs("")
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	views := []Delivery{}
	for _, j := range all {
		if !task.IsDelivery(j) {
			continue
		}
		v, err := deliveryView(j)
		if err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	return views, nil
}

func (h *Handler) retryDelivery(r *http.Request) (any, error) {
	j, err := h.retry(r, task.IsDelivery, "delivery")
	if err != nil {
		return nil, err
	}
	return deliveryView(j)
}

// retryDeliveries queues again what can be, in the order in which it was made.
func (h *Handler) retryDeliveries(r *http.Request) (any, error) {
	all, err := h.Store.Jobs("")
	if err != nil {
		return nil, fmt.Errorf("list deliveries: %w", err)
	}
	destination := r.URL.Query().Get("destination")
	views := []Delivery{}
	for _, j := range all {
		if !task.IsDelivery(j) || !retriable(j) || destination != "" && j.Queue != task.DeliveryQueue(destination) {
			continue
		}
		queued, err := h.queueAgain(j.ID, "delivery")
		if errors.As(err, new(*userError)) {
			continue // its worker took it meanwhile: it is on its way
		}
		if err != nil {
			return nil, err
		}
		v, err := deliveryView(queued)
		if err != nil {
			return nil, err
		}
		views = append(views, v)
	}
	return views, nil
}

// retriable says whether a job is not already on its way or done.
func retriable(j store.Job) bool { return j.State == store.JobDead || j.State == store.JobRetry }

// find returns the job that the path names, if it is of the right kind.
func (h *Handler) find(r *http.Request, kind func(store.Job) bool, noun string) (store.Job, error) {
	id := r.PathValue("id")
	j, err := h.Store.Job(id)
	if err == nil && !kind(j) {
		err = store.ErrNotFound
	}
	return j, orNotFound(err, fmt.Sprintf("there is no %s %q; `hilum %s list` shows them", noun, id, noun))
}

// retry queues a job again that is not already on its way.
func (h *Handler) retry(r *http.Request, kind func(store.Job) bool, noun string) (store.Job, error) {
	j, err := h.find(r, kind, noun)
	if err != nil {
		return j, err
	}
	return h.queueAgain(j.ID, noun)
}

func (h *Handler) queueAgain(id, noun string) (store.Job, error) {
	return h.Store.UpdateJob(id, func(j *store.Job) error {
		if !retriable(*j) {
			return &userError{http.StatusConflict, fmt.Sprintf("%s %s is %s: only one that is dead or waits for a retry can be retried", noun, j.ID, j.State)}
		}
		j.State, j.Attempts, j.Reason = store.JobQueued, 0, "queued again by hand"
		j.Result = nil // from the beginning
		return nil
	})
}

// orNotFound turns store.ErrNotFound into a sentence for the caller.
func orNotFound(err error, sentence string) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, store.ErrNotFound) {
		return &userError{http.StatusNotFound, sentence}
	}
	return err
}
