package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"syscall"
	"time"
)

const (
	roadQuiet = 2 * time.Second // configured in the bench's node
	roadLimit = 2 * time.Minute // for a round, on the slowest machine
	roadPause = 20 * time.Millisecond
)

// stage is a part of the way from the last image to the report at the destination.
type stage struct {
	what string
	took time.Duration
}

// road measures that way: a node with a plugin that finds nothing, at once, so that
// what is left is the node's own. The median round by its whole time is shown.
func (b *bench) road(ctx context.Context) error {
	sets, err := b.makeSets("ct", ctPixels)
	if err != nil {
		return err
	}
	var rounds [][]stage
	for range b.rounds {
		stages, err := b.roadRound(ctx, sets[0])
		if err != nil {
			return err
		}
		rounds = append(rounds, stages)
	}
	total := func(stages []stage) (sum time.Duration) {
		for _, s := range stages {
			sum += s.took
		}
		return sum
	}
	slices.SortFunc(rounds, func(a, b []stage) int { return cmp.Compare(total(a), total(b)) })
	median := rounds[len(rounds)/2]
	for _, s := range median {
		fmt.Fprintf(b.out, "%-58s %8.3f s\n", s.what, s.took.Seconds())
	}
	fmt.Fprintf(b.out, "%-58s %8.3f s\n", "from the last image to the report at the destination", total(median).Seconds())
	fmt.Fprintf(b.out, "%-58s %8.3f s\n", "without the quiet time", (total(median) - roadQuiet).Seconds())
	return nil
}

func (b *bench) roadRound(ctx context.Context, folder string) (_ []stage, err error) {
	ctx, cancel := context.WithTimeout(ctx, roadLimit)
	defer cancel()
	dir, err := os.MkdirTemp(b.work, "road-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	port, err := freePort()
	if err != nil {
		return nil, err
	}
	pacsPort, err := freePort()
	if err != nil {
		return nil, err
	}
	pacs := filepath.Join(dir, "pacs")
	if err := os.Mkdir(pacs, 0o755); err != nil {
		return nil, err
	}
	config := filepath.Join(dir, "hilum.yaml")
	text := fmt.Sprintf(`listen: 127.0.0.1:%d
data: ./data
log: {level: info, format: json}
series: {quiet: %s}
plugins: [{name: "null", path: %q}]
destinations: [{name: pacs, ae_title: PACS, address: "127.0.0.1:%d", results: [sr]}]
`, port, roadQuiet, filepath.Join(filepath.Dir(b.hilum), "plugins", "null"), pacsPort)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer func() { _ = log.Close() }() // only others write to it
	node := exec.CommandContext(ctx, b.hilum, "serve", "--config", config)
	node.Stderr = log
	for _, c := range []*exec.Cmd{exec.CommandContext(ctx, "storescp", "-od", pacs, fmt.Sprint(pacsPort)), node} {
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
		if err := c.Start(); err != nil {
			return nil, err
		}
		defer func() {
			_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // its data are thrown away next
			_ = c.Wait()
		}()
	}
	if err := errors.Join(waitPort(ctx, port), waitPort(ctx, pacsPort)); err != nil {
		return nil, fmt.Errorf("node or storescp did not start: %w", err)
	}
	if out, err := (storescu{nodelay: true}).command(ctx, folder, port).CombinedOutput(); err != nil {
		return nil, fmt.Errorf("storescu: %w: %.300s", err, out)
	}
	at := map[string]time.Time{}
	for at["result delivered"].IsZero() {
		select {
		case <-ctx.Done():
			return nil, errors.New("no report came to the destination in time")
		case <-time.After(roadPause):
		}
		if at, err = milestones(log.Name()); err != nil {
			return nil, err
		}
		if !at["series cannot be analysed"].IsZero() {
			return nil, errors.New("the node cannot analyse the series that was made for it")
		}
	}
	last, err := lastReceived(ctx, b.hilum, config)
	if err != nil {
		return nil, err
	}
	return []stage{
		{"quiet time, as configured", roadQuiet},
		{"the series is declared complete", at["series complete"].Sub(last) - roadQuiet},
		{"the analysis begins", at["analysis started"].Sub(at["series complete"])},
		{"the plugin has its images and is done, its result is kept", at["analysis done"].Sub(at["analysis started"])},
		{"the report is made, stored, sent and acknowledged", at["result delivered"].Sub(at["analysis done"])},
	}, nil
}

// milestones reads when each message of the node's log came first.
func milestones(name string) (map[string]time.Time, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	at := map[string]time.Time{}
	for line := range bytes.Lines(text) {
		var entry struct {
			Time time.Time `json:"time"`
			Msg  string    `json:"msg"`
		}
		if json.Unmarshal(line, &entry) == nil && at[entry.Msg].IsZero() {
			at[entry.Msg] = entry.Time
		}
	}
	return at, nil
}

// lastReceived asks the node when the last image of its only series came.
func lastReceived(ctx context.Context, hilum, config string) (time.Time, error) {
	out, err := exec.CommandContext(ctx, hilum, "study", "list", "--json", "--config", config).Output()
	if err != nil {
		return time.Time{}, fmt.Errorf("hilum study list: %w", err)
	}
	var studies []struct {
		Series []struct {
			Modality     string    `json:"modality"`
			LastReceived time.Time `json:"last_received"`
		} `json:"series"`
	}
	if err := json.Unmarshal(out, &studies); err != nil {
		return time.Time{}, fmt.Errorf("hilum study list: %w", err)
	}
	for _, st := range studies {
		for _, s := range st.Series {
			if s.Modality == "CT" {
				return s.LastReceived, nil
			}
		}
	}
	return time.Time{}, errors.New("the node has no series")
}
