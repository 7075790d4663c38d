package host

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hashicorp/go-hclog"
	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"

	"hilum/plugins/api"
)

const (
	// healthMisses in a row end a process. One can be missed on a machine that
	// swaps, or while a native library holds Python's lock.
	healthMisses = 3

	// maxHeaderBytes bounds the headers and trailers of one answer, which carry
	// the text of errors.
	maxHeaderBytes = 64 << 10

	// shutdownMethod is go-plugin's own request to end, served by every plugin
	// that uses the library.
	shutdownMethod = "/plugin.GRPCController/Shutdown"
)

// process is one running plugin process. It is never restarted: go-plugin
// allows one start per client, and a fresh process is the point of a restart.
type process struct {
	log         *slog.Logger
	runner      *groupRunner
	output      *output
	conn        *grpc.ClientConn
	client      *api.Client
	description api.Description
	started     time.Time
	watching    sync.WaitGroup
}

// startProcess starts the plugin, shakes hands, asks for its health and its
// description. It gives up when ctx ends or the start timeout of s passes.
func startProcess(ctx context.Context, s *slot) (*process, error) {
	ctx, cancel := context.WithTimeout(ctx, s.spec.StartTimeout)
	defer cancel()
	p := &process{log: s.log, output: &output{}, started: time.Now()}
	s.setOutput(p.output)
	if err := checkHash(s.spec); err != nil {
		return nil, err
	}
	p.runner = newGroupRunner(s.spec.Path, s.spec.Args, s.folder, environment(s.spec, s.folder), p.output, s.confine)
	// go-plugin waits by the clock alone; the kill makes it return.
	defer context.AfterFunc(ctx, func() { p.runner.kill("was ended during its start") })()
	address, config, err := shakeHands(s, p.runner, libraryLogger(p.log))
	if err == nil {
		err = p.connect(ctx, address, config, s)
	}
	if err != nil {
		return nil, p.startError(ctx, s, err)
	}
	p.watching.Go(func() { p.watch(s.healthInterval) })
	return p, nil
}

// shakeHands has go-plugin start the process and read its handshake line.
//
// The connection is not left to go-plugin: its client opens a broker and an
// output stream that Hilum does not use and that a hostile plugin could flood,
// leaks both when a plugin dies at the wrong moment, and its Kill waits without
// limit for a plugin that does not answer.
func shakeHands(s *slot, r *groupRunner, log hclog.Logger) (net.Addr, *goplugin.ClientConfig, error) {
	mutual, certificate, err := clientTLS()
	if err != nil {
		return nil, nil, err
	}
	config := &goplugin.ClientConfig{
		HandshakeConfig:  api.Handshake(),
		Plugins:          api.PluginSet(nil),
		AllowedProtocols: []goplugin.Protocol{goplugin.ProtocolGRPC}, // nil would mean net/rpc
		TLSConfig:        mutual,
		SkipHostEnv:      true,
		StartTimeout:     s.spec.StartTimeout,
		Logger:           log,
		UnixSocketConfig: &goplugin.UnixSocketConfig{TempDir: s.socketDir},
		RunnerFunc: func(_ hclog.Logger, cmd *exec.Cmd, socketDir string) (runner.Runner, error) {
			cmd.Env = append(cmd.Env, "PLUGIN_CLIENT_CERT="+certificate)
			r.prepare(cmd, socketDir)
			return r, nil
		},
	}
	address, err := goplugin.NewClient(config).Start()
	if err != nil {
		return nil, nil, err
	}
	if mutual.RootCAs == nil { // go-plugin puts the certificate of the handshake line there
		r.kill("did not use mutual TLS")
		return nil, nil, errors.New("it did not answer the certificate of the node with its own")
	}
	return address, config, nil
}

func (p *process) connect(ctx context.Context, address net.Addr, config *goplugin.ClientConfig, s *slot) error {
	conn, err := grpc.NewClient("passthrough:///plugin",
		grpc.WithTransportCredentials(credentials.NewTLS(config.TLSConfig)),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, address.Network(), address.String())
		}),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(api.MaxEventBytes), grpc.MaxCallSendMsgSize(api.MaxJobBytes)),
		grpc.WithMaxHeaderListSize(maxHeaderBytes),
		grpc.WithIdleTimeout(0), // an idle plugin keeps its connection
	)
	if err != nil {
		return fmt.Errorf("prepare the connection: %w", err)
	}
	p.conn = conn
	p.client = api.NewClient(conn, s.limits)
	if err := p.client.Health(ctx); err != nil {
		return fmt.Errorf("it does not serve grpc.health.v1 for %q: %w", api.HealthService, err)
	}
	p.description, err = p.client.Describe(ctx)
	return err
}

// startError ends the process and says in one sentence why it did not start.
// go-plugin's messages are written for authors of hosts, so what the runner has
// seen comes first.
func (p *process) startError(ctx context.Context, s *slot, err error) error {
	if status.Code(err) == codes.Unavailable {
		p.awaitExit()
	}
	if p.runner.cmd != nil { // else go-plugin did not get as far as the runner
		p.abandon("was ended after a bad start")
	}
	fail := &StartError{Plugin: s.spec.Name, LastOutput: p.output.String()}
	message := status.Convert(err).Message() // of any error: its text
	switch {
	case p.runner.startErr != nil:
		fail.Reason = explainExec(s.spec.Path, p.runner.startErr)
	case errors.Is(context.Cause(ctx), ErrStopped):
		return ErrStopped
	case ctx.Err() != nil || strings.HasPrefix(message, "timeout while waiting"):
		fail.Reason = fmt.Sprintf("it was not ready within its start timeout of %s%s", s.spec.StartTimeout, quoteLast(fail.LastOutput))
	case p.runner.cmd != nil && p.runner.killReason() == "":
		fail.Reason = fmt.Sprintf("it %s before it was ready; is %s a Hilum plugin?%s", p.runner.ending(), s.spec.Path, quoteLast(fail.LastOutput))
	case strings.HasPrefix(message, "incompatible API version"):
		fail.Reason = fmt.Sprintf("it speaks another version of the plugin contract than this hilum (version %d): rebuild it", api.ProtocolVersion)
	default:
		fail.Reason = api.CleanText(message, maxReasonBytes)
	}
	return fail
}

// maxReasonBytes bounds the reason of an error.
const maxReasonBytes = 1000

func explainExec(path string, err error) string {
	switch {
	case errors.Is(err, syscall.ENOEXEC):
		return fmt.Sprintf("%s is not a program for this machine", path)
	case errors.Is(err, os.ErrNotExist):
		return fmt.Sprintf("%s, or the interpreter or loader it names, does not exist", path)
	case errors.Is(err, os.ErrPermission):
		return fmt.Sprintf("%s may not be executed by this user", path)
	}
	return err.Error()
}

// watch asks for the health for as long as the process lives.
func (p *process) watch(interval time.Duration) {
	tick := time.NewTicker(interval)
	defer tick.Stop()
	missed := 0
	for {
		select {
		case <-p.runner.exited:
			return
		case <-tick.C:
		}
		ctx, cancel := context.WithTimeout(context.Background(), interval)
		err := p.client.Health(ctx)
		cancel()
		if err == nil {
			missed = 0
		} else if missed++; missed == healthMisses {
			p.runner.kill(fmt.Sprintf("did not answer %d health checks in a row and was killed", healthMisses))
		}
	}
}

func (p *process) hasExited() bool {
	select {
	case <-p.runner.exited:
		return true
	default:
		return false
	}
}

// exitGrace is how long a process whose connection broke may take to be seen
// dead. A crash closes the connection first, and the dump of a large process
// takes its time.
const exitGrace = 2 * time.Second

// awaitExit waits for the end of a process that seems to be dying.
func (p *process) awaitExit() { waitFor(p.runner.exited, exitGrace) }

// waitFor waits for done, but no longer than limit.
func waitFor(done <-chan struct{}, limit time.Duration) {
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	}
}

// shutDown asks the process to end, kills it after grace, and waits.
func (p *process) shutDown(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	err := p.conn.Invoke(ctx, shutdownMethod, &emptypb.Empty{}, &emptypb.Empty{})
	if status.Code(err) == codes.Unimplemented { // not made with go-plugin's library
		_ = p.runner.signal(syscall.SIGTERM) // fails only when it is gone
	}
	select {
	case <-p.runner.exited:
	case <-ctx.Done():
	}
	p.abandon("was killed at the stop of the node")
}

// killGrace is how long a killed process may take to be gone. Only one that
// hangs in the kernel, for example in the driver of a GPU, takes longer.
const killGrace = 30 * time.Second

// abandon kills what is left of the process and frees everything held for it.
func (p *process) abandon(reason string) {
	p.runner.kill(reason)
	waitFor(p.runner.exited, killGrace)
	if p.hasExited() {
		p.watching.Wait()
	} else { // its goroutines stay until the kernel lets it go
		p.log.Error("killed plugin process does not end", "pid", p.runner.processID())
	}
	if p.conn != nil {
		_ = p.conn.Close() // a second close is the only error
	}
}

// environment is what a plugin sees: a search path, its own folder and what the
// configuration gives it. Nothing of the node's environment gets through; it
// may hold passwords.
func environment(spec Spec, folder string) []string {
	return append([]string{
		"PATH=/usr/local/bin:/usr/bin:/bin",
		"LANG=C.UTF-8",
		"HOME=" + folder,
		"TMPDIR=" + folder,
	}, spec.Env...)
}

// checkHash compares the file with the hash the host holds it to. go-plugin
// does this only for a command it runs itself, so its SecureConfig is used here.
func checkHash(spec Spec) error {
	secure := goplugin.SecureConfig{Checksum: spec.sum, Hash: sha256.New()}
	ok, err := secure.Check(spec.Path)
	if err != nil {
		return &StartError{Plugin: spec.Name, Reason: fmt.Sprintf("read %s: %v", spec.Path, err)}
	}
	if !ok {
		return &StartError{Plugin: spec.Name, Reason: fmt.Sprintf("%s is no longer the file with sha256 %s: reload or restart the node to use the new one", spec.Path, spec.SHA256)}
	}
	return nil
}
