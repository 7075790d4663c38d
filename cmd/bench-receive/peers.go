package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// receiver is a C-STORE SCP under measurement.
type receiver interface {
	name() string
	// command runs it on a port of loopback with its data in dir; env is for
	// DCMTK's network code.
	command(ctx context.Context, dir string, port int, env []string) (*exec.Cmd, error)
}

// sender is a C-STORE SCU: it sends the files of a folder in one association.
type sender interface {
	name() string
	// env is what sender and receiver get: DCMTK takes a socket option from it.
	env() []string
	command(ctx context.Context, folder string, port int) *exec.Cmd
}

type hilumReceiver struct{ program string }

func (hilumReceiver) name() string { return "Hilum" }

func (h hilumReceiver) command(ctx context.Context, dir string, port int, _ []string) (*exec.Cmd, error) {
	config := filepath.Join(dir, "hilum.yaml")
	text := fmt.Sprintf("listen: 127.0.0.1:%d\ndata: ./data\nlog: {level: error}\n", port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	return exec.CommandContext(ctx, h.program, "serve", "--config", config), nil
}

// storescp of DCMTK writes files without fsync.
type storescp struct{}

func (storescp) name() string { return "storescp" }

func (storescp) command(ctx context.Context, dir string, port int, env []string) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, "storescp", "--fork", "-od", dir, strconv.Itoa(port))
	cmd.Env = env
	return cmd, nil
}

type orthanc struct{}

func (orthanc) name() string { return "Orthanc" }

func (orthanc) command(ctx context.Context, dir string, port int, env []string) (*exec.Cmd, error) {
	config := filepath.Join(dir, "orthanc.json")
	text := fmt.Sprintf(`{"Name": "ORTHANC", "StorageDirectory": %q, "IndexDirectory": %q, "DicomAet": "HILUM", "DicomPort": %d,
"HttpServerEnabled": false, "DicomCheckCalledAet": false, "Plugins": [], "SyncStorageArea": true}`, filepath.Join(dir, "db"), filepath.Join(dir, "db"), port)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "Orthanc", config)
	cmd.Env = env
	return cmd, nil
}

type storescu struct{ nodelay bool }

func (s storescu) name() string {
	if s.nodelay {
		return "storescu TCP_NODELAY=1"
	}
	return "storescu as installed"
}

// env leaves Nagle's algorithm on, as DCMTK has it when installed and as most
// scanners have it, or turns it off on both sides.
func (s storescu) env() []string {
	env := slices.DeleteFunc(os.Environ(), func(kv string) bool { return strings.HasPrefix(kv, "TCP_NODELAY=") })
	if s.nodelay {
		env = append(env, "TCP_NODELAY=1")
	}
	return env
}

func (s storescu) command(ctx context.Context, folder string, port int) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "storescu", "+sd", "-aec", "HILUM", "127.0.0.1", strconv.Itoa(port), folder)
	cmd.Env = s.env()
	return cmd
}

type hilumSender struct{ program string }

func (hilumSender) name() string { return "hilum send" }

func (hilumSender) env() []string { return storescu{}.env() }

func (h hilumSender) command(ctx context.Context, folder string, port int) *exec.Cmd {
	return exec.CommandContext(ctx, h.program, "send", "--to", fmt.Sprintf("127.0.0.1:%d", port), "--called", "HILUM", "--associations", "1", folder)
}

// median measures several rounds, each with a fresh receiver, and returns the
// median rate in images a second and the receiver's highest peak memory.
func (b *bench) median(ctx context.Context, r receiver, s sender, folders []string) (rate float64, peak int64, err error) {
	rate, err = b.medianOf(func() (float64, error) {
		rate, p, err := b.round(ctx, r, s, folders)
		peak = max(peak, p)
		return rate, err
	})
	return rate, peak, err
}

// medianOf returns the median of as many rounds.
func (b *bench) medianOf(round func() (float64, error)) (float64, error) {
	rates := make([]float64, b.rounds)
	for i := range rates {
		var err error
		if rates[i], err = round(); err != nil {
			return 0, err
		}
	}
	slices.Sort(rates)
	return rates[len(rates)/2], nil
}

// running is a receiver with a folder of its own.
type running struct {
	port, pid int
	stop      func() error // ends it and removes its data
}

// start runs a receiver; env is for DCMTK's network code.
func (b *bench) start(ctx context.Context, r receiver, env []string) (_ running, err error) {
	dir, err := os.MkdirTemp(b.work, "round-")
	if err != nil {
		return running{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(dir))
		}
	}()
	port, err := freePort()
	if err != nil {
		return running{}, err
	}
	server, err := r.command(ctx, dir, port, env)
	if err != nil {
		return running{}, err
	}
	server.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := server.Start(); err != nil {
		return running{}, err
	}
	kill := func() {
		_ = syscall.Kill(-server.Process.Pid, syscall.SIGKILL) // its data are thrown away next
		_ = server.Wait()
	}
	if err := waitPort(ctx, port); err != nil {
		kill()
		return running{}, fmt.Errorf("%s did not start: %w", r.name(), err)
	}
	return running{port, server.Process.Pid, func() error { kill(); return os.RemoveAll(dir) }}, nil
}

func (b *bench) round(ctx context.Context, r receiver, s sender, folders []string) (rate float64, peak int64, err error) {
	server, err := b.start(ctx, r, s.env())
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, server.stop()) }()
	if rate, err = b.send(ctx, s, server.port, folders); err != nil {
		return 0, 0, err
	}
	return rate, peakMemory(server.pid), nil
}

// send sends each folder in an association of its own, all at once, and returns
// images a second.
func (b *bench) send(ctx context.Context, s sender, port int, folders []string) (rate float64, err error) {
	syscall.Sync() // earlier rounds' dirty pages are not this one's

	begin := time.Now()
	var group sync.WaitGroup
	errs := make([]error, len(folders))
	for i, folder := range folders {
		group.Go(func() {
			if out, err := s.command(ctx, folder, port).CombinedOutput(); err != nil {
				errs[i] = fmt.Errorf("%w: %.300s", err, out)
			}
		})
	}
	group.Wait()
	elapsed := time.Since(begin)
	if err := errors.Join(errs...); err != nil {
		return 0, err
	}
	return float64(len(folders)*b.slices) / elapsed.Seconds(), nil
}

// peakMemory is the highest resident memory of a process, VmHWM of Linux; 0
// where that is not known. Mapped files that the kernel may drop count too.
func peakMemory(pid int) int64 {
	f, err := os.Open(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if v, ok := strings.CutPrefix(lines.Text(), "VmHWM:"); ok {
			kb, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimSpace(v), " kB"), 10, 64)
			if err != nil {
				return 0
			}
			return kb << 10
		}
	}
	return 0
}

func freePort() (int, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port, nil
}

func waitPort(ctx context.Context, port int) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			return conn.Close()
		}
		select {
		case <-ctx.Done():
			return err
		case <-tick.C:
		}
	}
}
