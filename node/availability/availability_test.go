package availability_test

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/availability"
	"hilum/node/config"
	"hilum/node/task"
	"hilum/store"
	"hilum/store/storetest"
)

// peer answers each N-CREATE with the next of its statuses, the last one for ever.
type peer struct {
	mu      sync.Mutex
	answers []dimse.Status
	uids    []string
}

func (p *peer) HandleN(_ context.Context, rq *dimse.NRequest) (dimse.NResponse, error) {
	if _, err := io.ReadAll(rq.Data); err != nil {
		return dimse.NResponse{}, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.uids = append(p.uids, rq.SOPInstanceUID)
	status := p.answers[0]
	if len(p.answers) > 1 {
		p.answers = p.answers[1:]
	}
	if status != dimse.StatusSuccess {
		return dimse.NResponse{}, &dimse.StatusError{Status: status}
	}
	return dimse.NResponse{SOPInstanceUID: rq.SOPInstanceUID}, nil
}

func listen(t *testing.T, class string, p *peer) config.Destination {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dimse.Server{AETitle: "RIS", Normalized: map[string]dimse.NService{class: {Handler: p}}}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })
	return config.Destination{Name: "RIS", AETitle: "RIS", Address: l.Addr().String(), Timeout: 10 * time.Second}
}

func keep(t *testing.T, st *store.Store, in store.Instance) {
	t.Helper()
	w, err := st.NewInstance()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Abort() }() // nothing once it is committed
	if _, err := w.Write([]byte("image")); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(in); err != nil {
		t.Fatal(err)
	}
}

// TestRun holds what each answer makes of a notification, and that all its attempts
// have one SOP Instance UID.
func TestRun(t *testing.T) {
	for _, tt := range []struct {
		name     string
		class    string
		answers  []dimse.Status
		attempts int
		want     store.JobState
		reason   string
	}{
		{"taken", dimse.InstanceAvailabilitySOPClass, []dimse.Status{0}, 1, store.JobDone, "RIS was told of 2 images"},
		{"taken before", dimse.InstanceAvailabilitySOPClass, []dimse.Status{dimse.StatusDuplicateInstance}, 1, store.JobDone, "RIS was told of 2 images"},
		{"taken later", dimse.InstanceAvailabilitySOPClass, []dimse.Status{dimse.StatusProcessingFailure, dimse.StatusResourceLimitation, 0}, 3, store.JobDone, "RIS was told of 2 images"},
		{"never taken", dimse.InstanceAvailabilitySOPClass, []dimse.Status{dimse.StatusProcessingFailure}, 3, store.JobDead, "given up after 3 attempts"},
		{"refused", dimse.InstanceAvailabilitySOPClass, []dimse.Status{dimse.StatusInvalidArgument}, 1, store.JobDead, "tell RIS"},
		{"not wanted", dimse.PerformedProcedureStepSOPClass, []dimse.Status{0}, 1, store.JobDead, "did not accept this SOP class"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := &peer{answers: tt.answers}
			to := listen(t, tt.class, p)
			st := storetest.MustOpenDir(t, t.TempDir(), store.Options{MinFree: -1})
			for i := range 2 {
				keep(t, st, store.Instance{
					SOPInstanceUID: fmt.Sprintf("1.2.1.%d", i+1), SOPClassUID: "1.2.840.10008.5.1.4.1.1.2",
					SeriesInstanceUID: "1.2.1", StudyInstanceUID: "1.2", TransferSyntaxUID: dataset.ImplicitVRLittleEndian,
				})
			}
			clock := time.Now()
			n := &availability.Notifier{
				Store: st, Retry: task.Retry{Attempts: 3, Backoff: time.Nanosecond, MaxBackoff: time.Nanosecond}, Calling: "HILUM",
				Peers: []config.Destination{to}, Log: slog.New(slog.NewTextHandler(t.Output(), nil)), Now: func() time.Time { return clock },
			}
			s, err := st.Series("1.2.1")
			if err != nil {
				t.Fatal(err)
			}
			for range 2 { // a node that died in between announces it again
				if err := n.Announce(s, 1); err != nil {
					t.Fatal(err)
				}
			}
			attempts := 0
			for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
				job, ok, err := st.Lease(availability.Queue("RIS"))
				if err != nil {
					t.Fatal(err)
				}
				if ok {
					attempts++
					if err := n.Run(t.Context(), job, to); err != nil {
						t.Fatal(err)
					}
				}
				if _, waits := st.NextRetry(availability.Queue("RIS")); !ok && !waits {
					break
				}
			}
			jobs, err := st.Jobs(availability.Queue("RIS"))
			if err != nil || len(jobs) != 1 {
				t.Fatalf("%d jobs, %v; want 1", len(jobs), err)
			}
			if attempts != tt.attempts || jobs[0].State != tt.want || !strings.Contains(jobs[0].Reason, tt.reason) {
				t.Errorf("%d attempts, %s: %s; want %d, %s: %s", attempts, jobs[0].State, jobs[0].Reason, tt.attempts, tt.want, tt.reason)
			}
			slices.Sort(p.uids)
			if one := slices.Compact(p.uids); len(one) > 1 {
				t.Errorf("the attempts have the SOP Instance UIDs %v, want one", one)
			}

			if err := n.Forget(); err != nil {
				t.Fatal(err)
			}
			if jobs, _ = st.Jobs(availability.Queue("RIS")); len(jobs) != 1 {
				t.Error("a notification is forgotten at once, and would be sent again")
			}
			clock = clock.Add(8 * 24 * time.Hour)
			if err := n.Forget(); err != nil {
				t.Fatal(err)
			}
			if jobs, _ = st.Jobs(availability.Queue("RIS")); len(jobs) != 0 {
				t.Error("a notification of last week is not forgotten")
			}
		})
	}
}
