package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	goplugin "github.com/hashicorp/go-plugin"
	"github.com/hashicorp/go-plugin/runner"
)

// drainTime is how long the pipes of a dead process are still read. What it
// wrote is in them already; only a child that fled the group keeps them open.
const drainTime = time.Second

// groupRunner runs one plugin process for go-plugin. The library's own runner
// kills only the process itself, waits for ever for pipes that a forked child
// keeps open, stops reading stdout after one long line, and takes the first
// line for the handshake, whatever a native library printed before it.
type groupRunner struct {
	path string
	args []string
	dir  string
	env  []string // without go-plugin's own
	out  *output

	confine confinement
	used    atomic.Int64 // bytes of memory of the tree, when last looked at
	platform

	cmd       *exec.Cmd
	socketDir string
	handshake *io.PipeWriter // the handshake line, then open until the process ends
	stdout    *io.PipeReader
	silence   *io.PipeWriter // go-plugin's view of stderr: nothing, open until the process ends
	stderr    *io.PipeReader

	mu     sync.Mutex // guards the fields below
	pid    int        // 0: not started
	reaped bool       // the pid may belong to somebody else
	reason string     // why the host killed it; "" if it did not

	startErr error
	exited   chan struct{} // closed when the process, its group and its pipes are gone
	state    *os.ProcessState
}

var _ runner.Runner = (*groupRunner)(nil)

func newGroupRunner(path string, args []string, dir string, env []string, out *output, c confinement) *groupRunner {
	r := &groupRunner{path: path, args: args, dir: dir, env: env, out: out, confine: c, exited: make(chan struct{})}
	r.stdout, r.handshake = io.Pipe()
	r.stderr, r.silence = io.Pipe()
	return r
}

// prepare takes what go-plugin wants the process to see.
func (r *groupRunner) prepare(cmd *exec.Cmd, socketDir string) {
	r.cmd = &exec.Cmd{
		Path: r.path,
		Args: append([]string{r.path}, r.args...),
		Dir:  r.dir,
		Env:  append(append([]string{}, r.env...), cmd.Env...),
	}
	r.socketDir = socketDir
}

// Start starts the process in a group of its own.
func (r *groupRunner) Start(context.Context) error {
	var files []*os.File // reader, writer of stdin, stdout, stderr
	for range 3 {
		read, write, err := os.Pipe()
		if err != nil {
			closeAll(files)
			return r.notStarted(fmt.Errorf("make a pipe: %w", err))
		}
		files = append(files, read, write)
	}
	r.cmd.Stdin, r.cmd.Stdout, r.cmd.Stderr = files[0], files[3], files[5]
	attributes, err := r.processAttributes()
	if err != nil {
		closeAll(files)
		return r.notStarted(err)
	}
	r.cmd.SysProcAttr = attributes
	r.confine.write = append(r.confine.write, r.socketDir)
	started := make(chan error)
	go r.run(started, files)
	if err := <-started; err != nil {
		r.notBorn()
		return r.notStarted(err)
	}
	return nil
}

func (r *groupRunner) notStarted(err error) error {
	r.startErr = err
	r.finish()
	return err
}

// run starts the process and takes care of it until all of it is gone.
func (r *groupRunner) run(started chan<- error, files []*os.File) {
	born, died := make(chan error), make(chan struct{})
	go r.own(born, died)
	err := <-born
	closeAll([]*os.File{files[0], files[3], files[5]}) // the child's ends
	stdin, stdout, stderr := files[1], files[2], files[4]
	if err != nil {
		closeAll([]*os.File{stdin, stdout, stderr})
		started <- err
		return
	}
	if r.killReason() != "" { // before it was born
		_ = r.signal(syscall.SIGKILL) // cannot fail: the child is ours and not reaped
	}
	started <- nil

	var watching sync.WaitGroup
	watching.Go(func() { r.guard(died) })
	var readers sync.WaitGroup
	readers.Go(func() { r.readStdout(stdout) })
	readers.Go(func() { readLines(stderr, r.keep) })
	<-died
	watching.Wait()
	r.reap()

	end := time.Now().Add(drainTime)
	_ = stdout.SetReadDeadline(end) // pipes take deadlines; a failure only means waiting for their end
	_ = stderr.SetReadDeadline(end)
	readers.Wait()
	closeAll([]*os.File{stdin, stdout, stderr})
	r.finish()
}

// own forks the process and waits for its death. It keeps its OS thread all
// that time: Linux delivers the parent death signal when the thread that
// forked dies, not the process. The thread gives up for good what the plugin
// shall not have, so it is never unlocked, ends with own, and does no more.
func (r *groupRunner) own(born chan<- error, died chan<- struct{}) {
	runtime.LockOSThread()
	err := r.confine.enter()
	r.mu.Lock()
	if err == nil {
		err = r.cmd.Start()
	}
	if err == nil {
		r.pid = r.cmd.Process.Pid
		r.born()
	}
	r.mu.Unlock()
	born <- err
	if err == nil {
		r.awaitDeath()
		close(died)
	}
}

func (r *groupRunner) finish() {
	if r.socketDir != "" {
		_ = os.RemoveAll(r.socketDir) // an empty folder in the temporary folder at worst
	}
	close(r.exited)
	_ = r.handshake.Close() // never fails
	_ = r.silence.Close()
}

// readStdout hands the handshake line to go-plugin and keeps the rest.
func (r *groupRunner) readStdout(stdout io.Reader) {
	found := false
	head := strconv.Itoa(goplugin.CoreProtocolVersion) + "|"
	readLines(stdout, func(line string) {
		if !found && strings.HasPrefix(line, head) && strings.Count(line, "|") >= 3 {
			found = true
			_, _ = io.WriteString(r.handshake, line+"\n") // go-plugin reads until the end of the pipe
			return
		}
		r.keep(line)
	})
}

// keep keeps a line for those who may see the images. It goes into no log:
// that a plugin prints no patient data is a promise that nobody can check.
func (r *groupRunner) keep(line string) { r.out.add(line) }

// kill kills the whole group. The first reason is kept.
func (r *groupRunner) kill(reason string) {
	r.setReason(reason)
	r.beforeKill()
	_ = r.signal(syscall.SIGKILL) // fails only when there is nothing left to kill
}

func (r *groupRunner) setReason(reason string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reason == "" && !r.reaped {
		r.reason = reason
	}
}

// signal sends sig to the group.
func (r *groupRunner) signal(sig syscall.Signal) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.pid == 0 || r.reaped {
		return os.ErrProcessDone
	}
	return syscall.Kill(-r.pid, sig)
}

// ending says how the process ended, as the rest of a sentence "it …".
func (r *groupRunner) ending() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reason != "" {
		return r.reason
	}
	if r.state == nil {
		return "did not run"
	}
	if ws, ok := r.state.Sys().(syscall.WaitStatus); ok && ws.Signaled() {
		s := fmt.Sprintf("was ended by signal %d (%s)", ws.Signal(), ws.Signal())
		if ws.Signal() == syscall.SIGKILL {
			s += ", as the kernel does when memory runs out"
		}
		return s
	}
	return fmt.Sprintf("exited with status %d", r.state.ExitCode())
}

// killReason returns why the host killed the process, "" if it did not.
func (r *groupRunner) killReason() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reason
}

func (r *groupRunner) processID() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reaped {
		return 0
	}
	return r.pid
}

// The rest is what go-plugin asks of a runner.

// Wait waits until the process, its group and its pipes are gone.
func (r *groupRunner) Wait(context.Context) error {
	<-r.exited
	return nil
}

// Kill is called by go-plugin when the handshake failed.
func (r *groupRunner) Kill(context.Context) error {
	r.kill("did not complete the handshake")
	return nil
}

func (r *groupRunner) Stdout() io.ReadCloser           { return r.stdout }
func (r *groupRunner) Stderr() io.ReadCloser           { return r.stderr }
func (r *groupRunner) Name() string                    { return r.path }
func (r *groupRunner) ID() string                      { return strconv.Itoa(r.processID()) }
func (r *groupRunner) Diagnose(context.Context) string { return "" }

// PluginToHost accepts the addresses a plugin on this machine can have: a
// socket in the folder made for it, or a port of the loopback interface. A
// plugin has no say in where else the node connects to.
func (r *groupRunner) PluginToHost(network, address string) (string, string, error) {
	switch network {
	case "unix":
		if filepath.Dir(filepath.Clean(address)) == filepath.Clean(r.socketDir) {
			return network, address, nil
		}
	case "tcp":
		if a, err := net.ResolveTCPAddr("tcp", address); err == nil && a.IP.IsLoopback() {
			return network, a.String(), nil
		}
	}
	return "", "", errors.New("the plugin listens neither in its socket folder nor on the loopback interface")
}

// HostToPlugin translates nothing: host and plugin see the same files.
func (r *groupRunner) HostToPlugin(network, address string) (string, string, error) {
	return network, address, nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close() // pipes: nothing is lost
	}
}
