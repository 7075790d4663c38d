// Package python runs the programs of trainer/torch, which train the networks,
// with the Python environment that `make setup-trainer` installs.
//
// A program runs in a process group of its own. When the context ends it gets
// SIGTERM, on which it writes a checkpoint, and has a minute for that; when this
// process dies, the kernel sends it the same (Linux). Its lines go on as they
// come; a last line "error: SENTENCE" on its standard error becomes the error.
package python

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

// Variable names the Python to use in place of the project's own.
const Variable = "HILUM_TORCH_PYTHON"

// Places below the project's folder, or one of those above this program.
const (
	interpreter = ".cache/torch/bin/python"
	programs    = "trainer/torch"
	foldersUp   = 3 // above this program: bin is one
)

// ErrMissing is returned when PyTorch's environment is not installed.
var ErrMissing = errors.New("the environment for training is not installed; install it with: make setup-trainer (5 GB, no root needed)")

// ErrNoPrograms is returned when the programs of trainer/torch are not there.
var ErrNoPrograms = errors.New("the training programs (trainer/torch) are not beside this program: run it from a checkout of the project")

// UsageError says that a program refused its arguments.
type UsageError struct{ Reason string }

func (e *UsageError) Error() string { return e.Reason }

// Env is where Python and the programs are.
type Env struct {
	Python   string // executable
	Programs string // folder
}

// Find looks for both, in the folders above the executable and in the working
// folder.
func Find(executable string) (Env, error) {
	folders := []string{"."}
	for dir, n := filepath.Dir(executable), 0; n <= foldersUp; dir, n = filepath.Dir(dir), n+1 {
		folders = append(folders, dir)
	}
	find := func(name string) string {
		for _, dir := range folders {
			if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
				return filepath.Join(dir, name)
			}
		}
		return ""
	}
	e := Env{Python: os.Getenv(Variable), Programs: find(programs)}
	if e.Programs == "" {
		return e, ErrNoPrograms
	}
	if e.Python == "" {
		e.Python = find(interpreter)
	} else if _, err := exec.LookPath(e.Python); err != nil {
		return e, fmt.Errorf("%s names %s, which is no program: name the Python that has PyTorch, or unset it and run make setup-trainer", Variable, e.Python)
	}
	if e.Python == "" {
		return e, ErrMissing
	}
	return e, nil
}

// checkpointTime is how long a program may take to end once it is asked to.
const checkpointTime = time.Minute

// Run runs a program of the folder, e.g. train_detector.py; with processes > 1
// as that many, by torchrun. Errors are *UsageError, ErrMissing, the sentence
// of the program, or the context's.
func (e Env) Run(ctx context.Context, program string, args []string, processes int, stdout, stderr io.Writer) error {
	name := filepath.Join(e.Programs, program)
	if _, err := os.Stat(name); err != nil {
		return fmt.Errorf("the program %s is missing: %w", program, ErrNoPrograms)
	}
	line := []string{name}
	if processes > 1 {
		line = []string{"-m", "torch.distributed.run", "--standalone", "--nproc-per-node", strconv.Itoa(processes), name}
	}
	cmd := exec.CommandContext(ctx, e.Python, slices.Concat(line, args)...)
	cmd.Env = append(os.Environ(), "PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1")
	said := &sentences{out: stderr}
	finish, err := pipes(cmd, stdout, said)
	if err != nil {
		return fmt.Errorf("run %s: %w", program, err)
	}
	ownGroup(cmd)
	// Only the program itself: it asks its helpers to end once the checkpoint is
	// written.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = checkpointTime
	err = runGroup(cmd)
	if cmd.Process != nil {
		killGroup(cmd.Process.Pid) // helpers that outlived it
	}
	finish()
	said.flush()
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var exit *exec.ExitError
	if !errors.As(err, &exit) {
		return fmt.Errorf("run %s: %w", program, err)
	}
	reason := said.reason
	switch {
	case strings.Contains(reason, "No module named"):
		return fmt.Errorf("%s has no PyTorch, or not all that is needed (%s): %w", e.Python, reason, ErrMissing)
	case exit.ExitCode() == 2:
		return &UsageError{Reason: reason}
	case reason != "":
		return errors.New(reason)
	}
	return fmt.Errorf("%s failed (%w)", program, err)
}

// pipes gives the program pipes for its output, and returns what waits for
// their end when the program and its helpers are gone. With pipes of its own
// exec would wait for helpers that hold them open.
func pipes(cmd *exec.Cmd, stdout, stderr io.Writer) (finish func(), err error) {
	var writers []*os.File
	var copies sync.WaitGroup
	finish = func() {
		for _, w := range writers {
			_ = w.Close() // nothing of ours is in it
		}
		copies.Wait()
	}
	for _, out := range []io.Writer{stdout, stderr} {
		r, w, err := os.Pipe()
		if err != nil {
			finish()
			return nil, err
		}
		writers = append(writers, w)
		copies.Go(func() {
			_, _ = io.Copy(out, r) // an output that is gone stops nothing
			_, _ = io.Copy(io.Discard, r)
			_ = r.Close()
		})
	}
	cmd.Stdout, cmd.Stderr = writers[0], writers[1]
	return finish, nil
}

// sentences passes lines on, and keeps back the one that says why a program
// failed.
type sentences struct {
	out    io.Writer
	part   []byte // of a line
	reason string
}

const maxLine = 64 << 10

func (s *sentences) Write(p []byte) (int, error) {
	s.part = append(s.part, p...)
	for {
		n := bytes.IndexByte(s.part, '\n')
		if n < 0 && len(s.part) < maxLine {
			return len(p), nil
		}
		if n < 0 {
			n = maxLine - 1
		}
		s.line(string(s.part[:n+1]))
		s.part = s.part[n+1:]
	}
}

func (s *sentences) flush() {
	if len(s.part) > 0 {
		s.line(string(s.part))
		s.part = nil
	}
}

// line looks for the last line of a refusal: "error: …" as our programs write
// it, "PROGRAM: error: …" as argparse does, and the last line of a traceback.
func (s *sentences) line(text string) {
	trimmed := strings.TrimSpace(text)
	if rest, ok := strings.CutPrefix(trimmed, "error: "); ok {
		s.reason = rest
		return
	}
	if program, rest, ok := strings.Cut(trimmed, ": error: "); ok && !strings.Contains(program, " ") {
		s.reason = rest
		return
	}
	if strings.HasPrefix(trimmed, "ModuleNotFoundError: ") {
		s.reason = strings.TrimPrefix(trimmed, "ModuleNotFoundError: ")
	}
	_, _ = io.WriteString(s.out, text) // a terminal that is gone stops nothing
}
