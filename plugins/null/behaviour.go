package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"strconv"
	"strings"
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
	"say":     func(_ context.Context, arg string, _ *api.Result) error { fmt.Fprintln(os.Stderr, arg); return nil },
	"garbage": garbage,
	"fork":    fork,

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

// fork leaves a child behind that holds on to stdout and stderr, and says its
// process id on stderr.
func fork(context.Context, string, *api.Result) error {
	child := exec.Command("sleep", "1000")
	child.Stdout, child.Stderr = stdout, stderr
	if err := child.Start(); err != nil {
		return err
	}
	fmt.Fprintln(stderr, "forked", child.Process.Pid)
	return nil
}

func number(arg string) int {
	n, err := strconv.Atoi(arg)
	if err != nil {
		panic(fmt.Sprintf("null: %q is not a number", arg))
	}
	return n
}
