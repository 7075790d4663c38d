package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"hilum/plugins/api/pluginpb"
)

const (
	// MaxEventBytes bounds one message from a plugin. A finding with the
	// largest mask fits; empty repeated fields, which grow most when decoded,
	// cannot reach more than about a hundred times of it.
	MaxEventBytes = 1 << 20

	// maxDescriptionBytes bounds the answer to Describe.
	maxDescriptionBytes = 64 << 10

	// MaxJobBytes bounds one job on its way to a plugin: findings of earlier
	// plugins with their masks, never pixels. gRPC's default of 4 MiB would
	// fail a series with many masks.
	MaxJobBytes = 80 << 20

	// maxProgressBytes bounds the text of one progress event.
	maxProgressBytes = 200

	// maxReasonBytes bounds the text of an error that a plugin returns.
	maxReasonBytes = 1024
)

// Client calls a plugin through a connection. It is a Plugin itself, so what
// runs in the node's process (tests) and what runs in another look the same.
type Client struct {
	plugin pluginpb.PluginClient
	health grpc_health_v1.HealthClient
	limits Limits
}

var _ Plugin = (*Client)(nil)

// NewClient returns a client on conn that holds every answer to lim.
func NewClient(conn grpc.ClientConnInterface, lim Limits) *Client {
	return &Client{
		plugin: pluginpb.NewPluginClient(conn),
		health: grpc_health_v1.NewHealthClient(conn),
		limits: lim,
	}
}

// Describe asks what the plugin is. An answer that breaks the contract is a *ResultError.
func (c *Client) Describe(ctx context.Context) (Description, error) {
	in, err := c.plugin.Describe(ctx, &pluginpb.DescribeRequest{}, grpc.MaxCallRecvMsgSize(maxDescriptionBytes))
	if err != nil {
		return Description{}, fromStatus(err)
	}
	d := descriptionFromWire(in)
	if err := d.Validate(); err != nil {
		return Description{}, resultErrorf("description: %s", err)
	}
	return d, nil
}

// Analyze runs one job. Its errors are *InputError and *ResultError; any other
// is a gRPC status (package status of grpc reads it). progress may be nil.
func (c *Client) Analyze(ctx context.Context, job Job, progress Progress) (Result, error) {
	ctx, cancel := context.WithCancel(ctx) // ends the stream on every return
	defer cancel()
	stream, err := c.plugin.Analyze(ctx, jobToWire(job), grpc.MaxCallRecvMsgSize(MaxEventBytes))
	if err != nil {
		return Result{}, fromStatus(err)
	}
	var findings []Finding
	var end *pluginpb.Result
	bytes := 0
	for {
		event, err := stream.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return Result{}, fromStatus(err)
		}
		if end != nil {
			return Result{}, resultErrorf("more events after the result")
		}
		switch e := event.GetEvent().(type) {
		case *pluginpb.Event_Progress:
			// A fraction that is no number says nothing, and harms nothing.
			if f := e.Progress.GetFraction(); progress != nil && !math.IsNaN(f) {
				progress(min(max(f, 0), 1), CleanText(e.Progress.GetMessage(), maxProgressBytes))
			}
		case *pluginpb.Event_Finding:
			if bytes += proto.Size(e.Finding); bytes > c.limits.ResultBytes {
				return Result{}, resultErrorf("findings of more than %d bytes", c.limits.ResultBytes)
			}
			if len(findings) == c.limits.Findings {
				return Result{}, resultErrorf("more than %d findings", c.limits.Findings)
			}
			findings = append(findings, findingFromWire(e.Finding))
		case *pluginpb.Event_Result:
			end = e.Result
		default:
			return Result{}, resultErrorf("an event of a kind that contract version %d does not know", ProtocolVersion)
		}
	}
	if end == nil {
		return Result{}, resultErrorf("no result event before the end")
	}
	r := Result{
		Findings: findings, Device: end.GetDevice(), Notes: end.GetNotes(), Attributes: end.GetAttributes(), Malignancy: end.Malignancy,
	}
	if err := r.Validate(c.limits); err != nil {
		return Result{}, resultErrorf("%s", err)
	}
	return r, nil
}

// ErrNoDrain is returned by Drain when the plugin does not offer it.
var ErrNoDrain = errors.New("the plugin cannot say when it is idle")

// Drain waits until the plugin runs no job.
func (c *Client) Drain(ctx context.Context) error {
	_, err := c.plugin.Drain(ctx, &pluginpb.DrainRequest{})
	if status.Code(err) == codes.Unimplemented {
		return ErrNoDrain
	}
	return fromStatus(err)
}

// Health asks the health service. It is the only sign of life that counts: the
// state of a gRPC connection also turns idle on a plugin that is well.
func (c *Client) Health(ctx context.Context) error {
	answer, err := c.health.Check(ctx, &grpc_health_v1.HealthCheckRequest{Service: HealthService})
	if err != nil {
		return fmt.Errorf("ask for the health: %w", err)
	}
	if s := answer.GetStatus(); s != grpc_health_v1.HealthCheckResponse_SERVING {
		return fmt.Errorf("health is %s", s)
	}
	return nil
}

// inputErrorCode is the status of an *InputError. gRPC's own machinery never
// makes it, so it cannot be mistaken for a broken connection.
const inputErrorCode = codes.FailedPrecondition

// toStatus translates an error of a plugin's method that was called with ctx.
func toStatus(ctx context.Context, err error) error {
	var input *InputError
	if errors.As(err, &input) {
		return status.Error(inputErrorCode, CleanText(input.Reason, maxReasonBytes))
	}
	if ctx.Err() != nil { // not by errors.Is: the plugin may have contexts of its own
		return status.FromContextError(ctx.Err()).Err()
	}
	return status.Error(codes.Unknown, CleanText(err.Error(), maxReasonBytes))
}

func fromStatus(err error) error {
	if status.Code(err) == inputErrorCode {
		return &InputError{Reason: CleanText(status.Convert(err).Message(), maxReasonBytes)}
	}
	return err
}
