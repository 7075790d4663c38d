package api

import (
	"context"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"hilum/plugins/api/pluginpb"
)

// server translates calls of the host into calls of a Plugin. It recovers no
// panic on purpose: the process is the job's recover. Its stack goes to stderr,
// where the host keeps it, and the next job gets a process with clean memory.
type server struct {
	pluginpb.UnimplementedPluginServer
	plugin Plugin
	job    chan struct{} // holds one token while a job runs
}

var _ pluginpb.PluginServer = (*server)(nil)

// Register adds the plugin service for p to a gRPC server. Serve does this;
// tests of a translation without a process may do it themselves.
func Register(r grpc.ServiceRegistrar, p Plugin) {
	pluginpb.RegisterPluginServer(r, &server{plugin: p, job: make(chan struct{}, 1)})
}

func (s *server) Describe(ctx context.Context, _ *pluginpb.DescribeRequest) (*pluginpb.Description, error) {
	d, err := s.plugin.Describe(ctx)
	if err != nil {
		return nil, toStatus(ctx, err)
	}
	return descriptionToWire(d), nil
}

func (s *server) Analyze(in *pluginpb.Job, stream grpc.ServerStreamingServer[pluginpb.Event]) error {
	select {
	case s.job <- struct{}{}:
		defer func() { <-s.job }()
	default:
		return status.Error(codes.ResourceExhausted, "this process runs another job")
	}
	sender := &progressSender{stream: stream}
	result, err := s.plugin.Analyze(stream.Context(), jobFromWire(in), sender.send)
	sender.end() // from here on only this goroutine sends
	if err != nil {
		return toStatus(stream.Context(), err)
	}
	for _, f := range result.Findings {
		if err := stream.Send(&pluginpb.Event{Event: &pluginpb.Event_Finding{Finding: findingToWire(f)}}); err != nil {
			return err
		}
	}
	return stream.Send(&pluginpb.Event{Event: &pluginpb.Event_Result{Result: &pluginpb.Result{
		Device: result.Device, Notes: result.Notes, Attributes: result.Attributes, Malignancy: result.Malignancy,
	}}})
}

func (s *server) Drain(ctx context.Context, _ *pluginpb.DrainRequest) (*pluginpb.DrainReply, error) {
	select {
	case s.job <- struct{}{}:
		<-s.job
		return &pluginpb.DrainReply{}, nil
	case <-ctx.Done():
		return nil, status.FromContextError(ctx.Err()).Err()
	}
}

// progressSender makes a Progress of a stream, which allows one sender at a time.
type progressSender struct {
	mu     sync.Mutex // guards ended and every use of stream
	ended  bool
	stream grpc.ServerStreamingServer[pluginpb.Event]
}

func (p *progressSender) send(fraction float64, message string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.ended {
		return // a goroutine of the plugin outlived its job
	}
	// An error means the host is gone or gave up; ctx tells the plugin.
	_ = p.stream.Send(&pluginpb.Event{Event: &pluginpb.Event_Progress{Progress: &pluginpb.Progress{
		Fraction: fraction, Message: CleanText(message, maxProgressBytes),
	}}})
}

func (p *progressSender) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = true
}
