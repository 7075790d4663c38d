package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"hilum/plugins/api"
)

// behaviours is what the plugin can be told to do. result is nil at the start.
var behaviours = map[string]func(ctx context.Context, arg string, result *api.Result) error{
	// ways to end
	"exit":  func(_ context.Context, arg string, _ *api.Result) error { os.Exit(number(arg)); return nil },
	"panic": func(context.Context, string, *api.Result) error { panic("null was told to panic") },

	// ways to take time: wait and sleep obey the context, hang and late do not
	"wait": func(ctx context.Context, _ string, _ *api.Result) error { <-ctx.Done(); return ctx.Err() },
	"hang": func(context.Context, string, *api.Result) error { time.Sleep(math.MaxInt64); return nil },
	"late": func(ctx context.Context, _ string, _ *api.Result) error {
		<-ctx.Done()
		time.Sleep(100 * time.Millisecond) // late by the host's clock too
		return nil
	},
	"sleep": func(ctx context.Context, arg string, _ *api.Result) error {
		d, err := time.ParseDuration(arg)
		if err != nil {
			return err
		}
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	},

	// ways to fail
	"fail": func(context.Context, string, *api.Result) error { return errors.New("null was told to fail") },
	"refuse": func(context.Context, string, *api.Result) error {
		return &api.InputError{Reason: "null was told to refuse"}
	},

	// ways to be generous
	"pictures": func(_ context.Context, _ string, r *api.Result) error { picture(r.Findings); return nil },

	// ways to be rude
	"say":      func(_ context.Context, arg string, _ *api.Result) error { fmt.Fprintln(os.Stderr, arg); return nil },
	"garbage":  garbage,
	"fork":     fork,
	"flee":     flee,
	"allocate": allocate,
	"destroy":  destroy,
	"gossip":   gossip,
	"try":      try,

	// ways to lie
	"flood": func(_ context.Context, arg string, r *api.Result) error {
		r.Findings = findings(number(arg))
		return nil
	},
	"nan": func(_ context.Context, _ string, r *api.Result) error {
		for i := range r.Findings {
			r.Findings[i].Probability = math.NaN()
		}
		return nil
	},
	"outside": func(_ context.Context, _ string, r *api.Result) error {
		for i := range r.Findings {
			r.Findings[i].Center = [3]float64{1e9, 0, 0}
		}
		return nil
	},
	"huge": func(_ context.Context, arg string, r *api.Result) error {
		r.Notes = append(r.Notes, strings.Repeat("x", number(arg)))
		return nil
	},
	"environment": func(_ context.Context, _ string, r *api.Result) error {
		for _, kv := range os.Environ() {
			r.Notes = append(r.Notes, api.CleanText(kv, 200)) // a certificate has line ends
		}
		return nil
	},
}

// behave does what list names, in order, until one returns an error.
func behave(ctx context.Context, list string, result *api.Result) error {
	for name := range strings.SplitSeq(list, ",") {
		name, arg, _ := strings.Cut(strings.TrimSpace(name), "=")
		if name == "" {
			continue
		}
		do, ok := behaviours[name]
		if !ok {
			return fmt.Errorf("null knows no behaviour %q", name)
		}
		if err := do(ctx, arg, result); err != nil {
			return err
		}
	}
	return nil
}

// What the host gave the process; os.Stdout is redirected while it serves.
var stdout, stderr = os.Stdout, os.Stderr

// garbage writes to stdout what no handshake looks like: binary, a line longer
// than any buffer, a beginning of a handshake.
func garbage(context.Context, string, *api.Result) error {
	_, err := stdout.WriteString("\x00\xff|\n" + strings.Repeat("garbage|", 1<<15) + "\n\x1b[31m1|2\n1|\n")
	return err
}

// fork leaves a child behind, "sleep" for the seconds that arg says, that holds
// on to stdout and stderr.
func fork(_ context.Context, arg string, _ *api.Result) error {
	return leave(exec.Command("sleep", arg))
}

// flee does it better: the child has a session of its own, no parent, no
// environment and no output.
func flee(_ context.Context, arg string, _ *api.Result) error {
	child := exec.Command("setsid", "--fork", "env", "-i", "sleep", arg)
	child.Stdin = nil
	return child.Run()
}

func leave(child *exec.Cmd) error {
	child.Stdout, child.Stderr = stdout, stderr
	return child.Start()
}

// allocate takes memory, and uses it, without end.
func allocate(ctx context.Context, _ string, _ *api.Result) error {
	const step = 16 << 20
	var all [][]byte
	for ctx.Err() == nil {
		b := make([]byte, step)
		for i := 0; i < len(b); i += os.Getpagesize() {
			b[i] = 1
		}
		all = append(all, b)
	}
	return fmt.Errorf("null took %d blocks of memory", len(all))
}

// folder is where the series of the running job lies; there is one job at a time.
var folder string

// destroy does to the series what it can: delete, overwrite, add.
func destroy(context.Context, string, *api.Result) error {
	names, _ := os.ReadDir(folder) // what cannot be listed cannot be destroyed
	_ = os.Chmod(folder, 0o700)
	for _, name := range names {
		path := filepath.Join(folder, name.Name())
		_ = os.Chmod(path, 0o600)
		_ = os.WriteFile(path, []byte("destroyed"), 0o600)
		_ = os.Remove(path)
	}
	_ = os.WriteFile(filepath.Join(folder, "added"), nil, 0o600)
	return nil
}

// gossip prints every readable word of the series.
func gossip(context.Context, string, *api.Result) error {
	names, err := os.ReadDir(folder)
	if err != nil {
		return err
	}
	for _, name := range names {
		b, err := os.ReadFile(filepath.Join(folder, name.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintln(stderr, api.CleanText(string(b), 4096))
	}
	return nil
}

// try does one thing to a path and says in a note if it could.
func try(_ context.Context, arg string, r *api.Result) error {
	verb, path, _ := strings.Cut(arg, ":")
	var err error
	switch verb {
	case "read":
		_, err = os.ReadFile(path)
	case "list":
		_, err = os.ReadDir(path)
	case "write":
		err = os.WriteFile(path, []byte("null was here"), 0o600)
	case "dial":
		var c net.Conn
		if c, err = net.DialTimeout("tcp", path, time.Second); err == nil {
			err = c.Close()
		}
	case "kill":
		err = syscall.Kill(number(path), syscall.SIGKILL)
	default:
		return fmt.Errorf("null cannot try to %s", verb)
	}
	answer := "yes"
	if err != nil {
		answer = "no"
	}
	r.Notes = append(r.Notes, verb+" "+answer)
	return nil
}

func number(arg string) int {
	n, err := strconv.Atoi(arg)
	if err != nil {
		panic(fmt.Sprintf("null: %q is not a number", arg))
	}
	return n
}
