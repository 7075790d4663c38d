package python

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// testEnv returns an environment with one program, run by a plain python3.
func testEnv(t *testing.T, text string) Env {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("needs python3")
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "program.py"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return Env{Python: python, Programs: dir}
}

func TestRun(t *testing.T) {
	for name, tt := range map[string]struct {
		text, stdout, stderr, want string
		usage                      bool
	}{
		"done":      {text: "import sys; print(sys.argv[1:]); print('note', file=sys.stderr)", stdout: "['a', '--out', 'b']\n", stderr: "note\n"},
		"refusal":   {text: "import sys; print('error: the loss is nan', file=sys.stderr); sys.exit(1)", want: "the loss is nan"},
		"argparse":  {text: "import argparse; argparse.ArgumentParser().parse_args()", want: "unrecognized arguments: a --out b", usage: true, stderr: "usage: program.py [-h]\n"},
		"no module": {text: "import no_such_module", want: "make setup-trainer"},
		"traceback": {text: "import sys; sys.exit(7)", want: "program.py failed (exit status 7)"},
	} {
		t.Run(name, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			err := testEnv(t, tt.text).Run(t.Context(), "program.py", []string{"a", "--out", "b"}, 1, &stdout, &stderr)
			if (err != nil) != (tt.want != "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
			if usage := new(UsageError); errors.As(err, &usage) != tt.usage {
				t.Errorf("error %v is a UsageError: %v", err, !tt.usage)
			}
			if stdout.String() != tt.stdout || name != "no module" && stderr.String() != tt.stderr {
				t.Errorf("printed %q and %q, want %q and %q", stdout.String(), stderr.String(), tt.stdout, tt.stderr)
			}
		})
	}
}

// TestRunStops ends the context when the program says that it runs: it gets
// SIGTERM, may finish its work, and its helper goes with it.
func TestRunStops(t *testing.T) {
	const text = `import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
def stop(number, frame):
    (folder / "checkpoint").write_text("whole")
    sys.exit(143)
signal.signal(signal.SIGTERM, stop)
if os.fork() == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    time.sleep(600)
print("running", flush=True)
time.sleep(600)
`
	env := testEnv(t, text)
	ctx, cancel := context.WithCancel(t.Context())
	dir := t.TempDir()
	out := writerFunc(func(p []byte) (int, error) {
		if bytes.Contains(p, []byte("running")) {
			cancel()
		}
		return len(p), nil
	})
	if err := env.Run(ctx, "program.py", []string{dir}, 1, out, io.Discard); !errors.Is(err, context.Canceled) {
		t.Errorf("Run = %v, want context.Canceled", err)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "checkpoint")); err != nil || string(got) != "whole" {
		t.Errorf("checkpoint %q, %v", got, err)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestFind(t *testing.T) {
	root := t.TempDir()
	program := filepath.Join(root, "bin", "hilum")
	t.Chdir(t.TempDir())
	t.Setenv(Variable, "")
	if _, err := Find(program); !errors.Is(err, ErrNoPrograms) {
		t.Errorf("Find = %v, want ErrNoPrograms", err)
	}
	if err := os.MkdirAll(filepath.Join(root, programs), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := Find(program); !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "make setup-trainer") {
		t.Errorf("Find = %v, want ErrMissing", err)
	}
	own := filepath.Join(root, interpreter)
	if err := errors.Join(os.MkdirAll(filepath.Dir(own), 0o700), os.WriteFile(own, nil, 0o700)); err != nil {
		t.Fatal(err)
	}
	if e, err := Find(program); err != nil || e.Python != own || e.Programs != filepath.Join(root, programs) {
		t.Errorf("Find = %+v, %v", e, err)
	}
	t.Setenv(Variable, "/nonexistent/python")
	if _, err := Find(program); err == nil || !strings.Contains(err.Error(), Variable) {
		t.Errorf("Find with a wrong %s = %v", Variable, err)
	}
	t.Setenv(Variable, own)
	if e, err := Find(program); err != nil || e.Python != own {
		t.Errorf("Find with %s = %+v, %v", Variable, e, err)
	}
}

func TestCurve(t *testing.T) {
	name := filepath.Join(t.TempDir(), "log.csv")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ text, want string }{
		{"", ""},
		{"step,loss\n", ""},
		{"step,x\n1,2\n", ""},
		{"step,loss\n10,8\n20,4.5\n30,1\n", "loss 8 █▅▁ 1"},
		{"step,loss\n10,8\n20,nan\n30,8\n4", "loss 8 ▁▁ 8"},
	} {
		write(tt.text)
		if got, err := Curve(name, "loss"); err != nil || got != tt.want {
			t.Errorf("Curve(%q) = %q, %v, want %q", tt.text, got, err, tt.want)
		}
	}
	write("step,loss\n" + strings.Repeat("1,5\n", 1000) + strings.Repeat("1,1\n", 1000))
	got, err := Curve(name, "loss")
	if err != nil || !strings.HasPrefix(got, "loss 5 █") || !strings.HasSuffix(got, "▁ 1") || len([]rune(got)) != CurveWidth+9 {
		t.Errorf("Curve of 2000 rows = %q (%d characters), %v", got, len([]rune(got)), err)
	}
}
