package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"google.golang.org/grpc"
)

// ProtocolVersion is the version of the contract; a host and a plugin of
// different versions refuse each other at the handshake.
const ProtocolVersion = 1

// HealthService is the service name that a plugin's health service answers for.
const HealthService = goplugin.GRPCServiceName

// Handshake is how a plugin knows that a Hilum node started it. The cookie is
// no secret; the border is guarded by mutual TLS.
func Handshake() goplugin.HandshakeConfig {
	return goplugin.HandshakeConfig{
		ProtocolVersion:  ProtocolVersion,
		MagicCookieKey:   "HILUM_PLUGIN",
		MagicCookieValue: "5f1c6c1e-plugin-of-a-hilum-node",
	}
}

// PluginSet is what host and plugin give to go-plugin. The host leaves p nil.
func PluginSet(p Plugin) goplugin.PluginSet {
	return goplugin.PluginSet{"hilum": &grpcPlugin{plugin: p}}
}

type grpcPlugin struct {
	goplugin.NetRPCUnsupportedPlugin
	plugin Plugin
}

var _ goplugin.GRPCPlugin = (*grpcPlugin)(nil)

func (g *grpcPlugin) GRPCServer(_ *goplugin.GRPCBroker, s *grpc.Server) error {
	Register(s, g.plugin)
	return nil
}

func (g *grpcPlugin) GRPCClient(_ context.Context, _ *goplugin.GRPCBroker, conn *grpc.ClientConn) (any, error) {
	return NewClient(conn, DefaultLimits()), nil
}

// Serve is the main function of a plugin. It returns when the host asks the
// plugin to end; then main should return. It ends the process when the host
// is gone, and with status 1 and a sentence when a person started the program.
//
// stdin and stdout belong to the host. Log lines go to stderr and must hold no
// patient data; prints to os.Stdout are sent there as well.
func Serve(p Plugin) {
	h := Handshake()
	if os.Getenv(h.MagicCookieKey) != h.MagicCookieValue {
		fmt.Fprintln(os.Stderr, "This program is a Hilum plugin: name it in the node's configuration and the node starts it (try: hilum plugin check).")
		os.Exit(1)
	}
	go exitWithHost(os.Stdin)
	restore := restoreOutput()
	goplugin.Serve(&goplugin.ServeConfig{
		HandshakeConfig: h,
		Plugins:         PluginSet(p),
		Logger:          hclog.New(&hclog.LoggerOptions{Name: "plugin", Level: hclog.Error, Output: os.Stderr}),
		GRPCServer: func(opts []grpc.ServerOption) *grpc.Server {
			return grpc.NewServer(append(opts,
				grpc.MaxRecvMsgSize(MaxJobBytes),
				grpc.ChainUnaryInterceptor(func(ctx context.Context, req any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
					restore()
					return next(ctx, req)
				}),
				grpc.ChainStreamInterceptor(func(srv any, stream grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
					restore()
					return next(srv, stream)
				}),
			)...)
		},
	})
}

// exitWithHost ends the process when the host's end of stdin closes, which the
// kernel does however the host died. On Linux the host also asks the kernel to
// kill the plugin; this is for the rest, and for what the plugin has forked.
func exitWithHost(stdin io.Reader) {
	_, err := io.Copy(io.Discard, stdin)
	if err != nil && !errors.Is(err, os.ErrClosed) {
		fmt.Fprintln(os.Stderr, "read stdin:", err)
	}
	killGroup()
	os.Exit(1)
}

// restoreOutput returns a function that undoes what go-plugin does to
// os.Stdout and os.Stderr while it serves. It turns both into pipes whose
// readers forward them over gRPC: the last lines before a crash are lost, and a
// print blocks for ever when nobody reads. The first call of the host comes
// after that and before any job, so it is the moment to put stderr back.
func restoreOutput() func() {
	stderr := os.Stderr
	var once sync.Once
	return func() {
		once.Do(func() { os.Stdout, os.Stderr = stderr, stderr })
	}
}
