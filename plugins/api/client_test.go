package api_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"reflect"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"

	"hilum/plugins/api"
	"hilum/plugins/api/pluginpb"
)

// fake is a Plugin made of functions.
type fake struct {
	describe func(context.Context) (api.Description, error)
	analyze  func(context.Context, api.Job, api.Progress) (api.Result, error)
}

func (f fake) Describe(ctx context.Context) (api.Description, error) { return f.describe(ctx) }
func (f fake) Analyze(ctx context.Context, j api.Job, p api.Progress) (api.Result, error) {
	return f.analyze(ctx, j, p)
}

// connect returns a client of what register serves, without a process.
func connect(t *testing.T, lim api.Limits, register func(*grpc.Server)) *api.Client {
	t.Helper()
	l := bufconn.Listen(1 << 16)
	s := grpc.NewServer()
	register(s)
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.Serve(l) // ends by Stop
	}()
	conn, err := grpc.NewClient("passthrough:///fake",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return l.DialContext(ctx) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = conn.Close()
		s.Stop()
		<-served
	})
	return api.NewClient(conn, lim)
}

func connectPlugin(t *testing.T, f fake) *api.Client {
	t.Helper()
	return connect(t, api.DefaultLimits(), func(s *grpc.Server) { api.Register(s, f) })
}

func goodFinding() api.Finding {
	malignancy := 0.25
	return api.Finding{
		ID: "n1", Center: [3]float64{-12.5, 30, -200.25}, Size: [3]float64{6, 7, 8}, DiameterMM: 7.5,
		Probability: 0.875, Malignancy: &malignancy, Label: "solid nodule",
		Mask: &api.Mask{
			Size: [3]int{3, 3, 1}, Origin: [3]float64{-13, 29, -200}, Spacing: [3]float64{0.7, 0.7, 1},
			Axes: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}, Bits: []byte{0xba, 1},
		},
	}
}

func goodDescription() api.Description {
	return api.Description{
		Name: "lungnodule", Version: "0.1", Kind: api.KindDetector, Modalities: []string{"CT"},
		Models:  []api.Model{{Name: "nodule-blob", Version: "1", SHA256: strings.Repeat("0a", 32)}},
		Devices: []string{"cpu", "cuda"}, Runtime: "onnxruntime 1.24.1",
	}
}

func TestCrossing(t *testing.T) {
	job := api.Job{
		ID: "7", Folder: "/series", Series: map[string]string{"Modality": "CT"}, Findings: []api.Finding{goodFinding()},
		Device: "cuda:0", Threads: 4, Scratch: "/scratch",
	}
	want := api.Result{
		Findings: []api.Finding{goodFinding(), {ID: "n2", Probability: 0.5}}, Device: "cpu",
		Notes: []string{"thick slices"}, Attributes: map[string]string{"seconds": "3"},
	}
	c := connectPlugin(t, fake{
		describe: func(context.Context) (api.Description, error) { return goodDescription(), nil },
		analyze: func(_ context.Context, got api.Job, progress api.Progress) (api.Result, error) {
			if !reflect.DeepEqual(got, job) {
				return api.Result{}, fmt.Errorf("job = %+v, want %+v", got, job)
			}
			progress(math.NaN(), "dropped")
			progress(-1, "first")
			progress(7, "sec\x1bond\n")
			return want, nil
		},
	})
	d, err := c.Describe(t.Context())
	if err != nil || !reflect.DeepEqual(d, goodDescription()) {
		t.Errorf("Describe = %+v, %v", d, err)
	}
	var steps []string
	got, err := c.Analyze(t.Context(), job, func(f float64, m string) { steps = append(steps, fmt.Sprint(f, " ", m)) })
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("Analyze = %+v, %v, want %+v", got, err, want)
	}
	if want := []string{"0 first", "1 second"}; !reflect.DeepEqual(steps, want) {
		t.Errorf("progress = %q, want %q", steps, want)
	}
	if err := c.Drain(t.Context()); err != nil {
		t.Errorf("Drain = %v", err)
	}
}

func TestErrorsCross(t *testing.T) {
	tests := []struct {
		name  string
		err   error
		check func(error) bool
	}{
		{"input", fmt.Errorf("load: %w", &api.InputError{Reason: "a gap of 30 mm\nat slice 12"}), func(err error) bool {
			input, ok := errors.AsType[*api.InputError](err)
			return ok && input.Reason == "a gap of 30 mm at slice 12"
		}},
		{"long input", &api.InputError{Reason: strings.Repeat("é", 1e6)}, func(err error) bool {
			input, ok := errors.AsType[*api.InputError](err)
			return ok && len(input.Reason) <= 1024 && strings.HasPrefix(input.Reason, "éé")
		}},
		{"other", errors.New("out of memory"), func(err error) bool {
			return status.Code(err) == codes.Unknown && status.Convert(err).Message() == "out of memory"
		}},
		{"a deadline of its own", context.DeadlineExceeded, func(err error) bool { return status.Code(err) == codes.Unknown }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := connectPlugin(t, fake{
				describe: func(context.Context) (api.Description, error) { return api.Description{}, tt.err },
				analyze:  func(context.Context, api.Job, api.Progress) (api.Result, error) { return api.Result{}, tt.err },
			})
			if _, err := c.Analyze(t.Context(), api.Job{}, nil); !tt.check(err) {
				t.Errorf("Analyze = %T %v", err, err)
			}
			if _, err := c.Describe(t.Context()); !tt.check(err) {
				t.Errorf("Describe = %T %v", err, err)
			}
		})
	}
}

// One process does one job at a time, Drain waits for it, and a cancelled job
// is told so.
func TestBusyAndCancel(t *testing.T) {
	c := connectPlugin(t, fake{analyze: func(ctx context.Context, _ api.Job, progress api.Progress) (api.Result, error) {
		progress(0, "")
		<-ctx.Done()
		return api.Result{}, nil
	}})
	ctx, cancel := context.WithCancel(t.Context())
	_, err := c.Analyze(ctx, api.Job{}, func(float64, string) {
		if _, err := c.Analyze(t.Context(), api.Job{}, nil); status.Code(err) != codes.ResourceExhausted {
			t.Errorf("second job = %v", err)
		}
		cancel()
	})
	if status.Code(err) != codes.Canceled {
		t.Errorf("cancelled job = %v", err)
	}
	if err := c.Drain(t.Context()); err != nil {
		t.Errorf("Drain = %v", err)
	}
}

// scripted answers with events that no Plugin can make.
type scripted struct {
	pluginpb.UnimplementedPluginServer
	events []*pluginpb.Event
}

func (s scripted) Analyze(_ *pluginpb.Job, stream grpc.ServerStreamingServer[pluginpb.Event]) error {
	for _, e := range s.events {
		if err := stream.Send(e); err != nil {
			return err
		}
	}
	return nil
}

func TestHostileEvents(t *testing.T) {
	result := &pluginpb.Event{Event: &pluginpb.Event_Result{Result: &pluginpb.Result{}}}
	finding := &pluginpb.Event{Event: &pluginpb.Event_Finding{Finding: &pluginpb.Finding{Label: strings.Repeat("x", 100)}}}
	tests := []struct {
		name   string
		events []*pluginpb.Event
		want   string
	}{
		{"nothing", nil, "no result event"},
		{"no result", []*pluginpb.Event{finding}, "no result event"},
		{"two results", []*pluginpb.Event{result, result}, "more events after the result"},
		{"finding after the result", []*pluginpb.Event{result, finding}, "more events after the result"},
		{"unknown kind", []*pluginpb.Event{{}, result}, "does not know"},
		{"empty result", []*pluginpb.Event{{Event: &pluginpb.Event_Result{}}}, ""},
		{"empty progress", []*pluginpb.Event{{Event: &pluginpb.Event_Progress{}}, result}, ""},
		{"empty finding", []*pluginpb.Event{{Event: &pluginpb.Event_Finding{}}, result}, ""},
		{"too many findings", []*pluginpb.Event{finding, finding, finding, result}, "more than 2 findings"},
		{"too many bytes", []*pluginpb.Event{finding, {Event: &pluginpb.Event_Finding{Finding: &pluginpb.Finding{Label: strings.Repeat("x", 1000)}}}, result}, "more than 1000 bytes"},
		{"infinite", []*pluginpb.Event{{Event: &pluginpb.Event_Finding{Finding: &pluginpb.Finding{Center: &pluginpb.Vector{X: math.Inf(1)}}}}, result}, "center is +Inf"},
	}
	lim := api.DefaultLimits()
	lim.Findings, lim.ResultBytes = 2, 1000
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := connect(t, lim, func(s *grpc.Server) { pluginpb.RegisterPluginServer(s, scripted{events: tt.events}) })
			_, err := c.Analyze(t.Context(), api.Job{}, nil)
			if tt.want == "" {
				if err != nil {
					t.Errorf("Analyze = %v", err)
				}
				return
			}
			bad, ok := errors.AsType[*api.ResultError](err)
			if !ok || !strings.Contains(bad.Reason, tt.want) {
				t.Errorf("Analyze = %v, want %q", err, tt.want)
			}
			if err := c.Drain(t.Context()); !errors.Is(err, api.ErrNoDrain) {
				t.Errorf("Drain = %v", err)
			}
		})
	}
}
