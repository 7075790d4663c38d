package volume

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"
	"unicode"

	"hilum/models/ct"
)

const (
	// ExitSeries is the child's exit status when the series itself is to blame.
	ExitSeries = 3
	// maxSaid is how much of the child's standard error is kept: its end.
	maxSaid = 4 << 10
	// maxHeader is more than any MetaImage header has (bytes).
	maxHeader = 64 << 10
	// maxShift (mm) is how far a corner of the child's volume may be from where
	// the headers put it: both compute it from the same numbers.
	maxShift = 1e-3
	// waitAfterKill is how long the pipes of a killed child are still read.
	waitAfterKill = time.Second
)

// decode lets the child process read the series, and takes from it only the
// voxels: all else comes from the headers, which are read here.
func decode(ctx context.Context, folder string, o Options) (*ct.Volume, error) {
	v, err := ct.ReadSeriesHeader(ctx, folder, ct.Options{Threads: o.Threads})
	if err != nil {
		return nil, err
	}
	scratch, err := os.MkdirTemp(o.Scratch, "hilum-volume-")
	if err != nil {
		return nil, fmt.Errorf("make a folder for decoded pixels: %w", err)
	}
	defer func() { _ = os.RemoveAll(scratch) }() // temporary files at worst
	out := filepath.Join(scratch, "volume.mha")
	if err := runChild(ctx, folder, out, o); err != nil {
		return nil, err
	}
	decoded, err := readDecoded(out, v.Geometry)
	if err != nil {
		return nil, fmt.Errorf("the output of %s is wrong: %w", filepath.Base(o.Program), err)
	}
	v.HU = decoded.HU
	return v, nil
}

// readDecoded reads the child's output, which is not trusted.
func readDecoded(name string, want ct.Geometry) (*ct.Volume, error) {
	info, err := os.Lstat(name)
	if err != nil {
		return nil, errors.New("it wrote no volume")
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it wrote no regular file")
	}
	if most := 2*int64(want.Voxels()) + maxHeader; info.Size() > most {
		return nil, fmt.Errorf("it has %d bytes, where the volume has at most %d", info.Size(), most)
	}
	got, err := ct.ReadMetaImage(name)
	if err != nil {
		return nil, err
	}
	if got.Size != want.Size {
		return nil, fmt.Errorf("its size is %v voxels, where the series has %v", got.Size, want.Size)
	}
	for corner := range 8 {
		var at [3]float64
		for a := range 3 {
			at[a] = float64(corner>>a&1) * float64(want.Size[a]-1)
		}
		p, q := got.World(at[0], at[1], at[2]), want.World(at[0], at[1], at[2])
		for a := range 3 {
			if !(math.Abs(p[a]-q[a]) <= maxShift) {
				return nil, fmt.Errorf("a corner of it is at %.3f, where the series has it at %.3f", p, q)
			}
		}
	}
	return got, nil
}

// runChild runs the program to its end, or kills it and what it forked.
func runChild(ctx context.Context, folder, out string, o Options) error {
	program, err := exec.LookPath(o.Program)
	if err != nil {
		return fmt.Errorf("the plugin program, which decodes compressed pixels, cannot be run: %w", err)
	}
	if folder, err = filepath.Abs(folder); err != nil {
		return err
	}
	deadline := o.Deadline
	if deadline <= 0 {
		deadline = DefaultDeadline
	}
	limited, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	cmd := exec.CommandContext(limited, program, "volume", "--out", out, "--threads", strconv.Itoa(max(0, o.Threads)), folder)
	cmd.Dir = filepath.Dir(out)
	cmd.Env = []string{"TMPDIR=" + cmd.Dir} // nothing of ours is its business
	said := &tail{}
	cmd.Stderr = said
	cmd.WaitDelay = waitAfterKill
	ownGroup(cmd)
	err = runGroup(cmd)
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case limited.Err() != nil:
		return fmt.Errorf("%s did not decode the series within %s and was ended", filepath.Base(program), deadline)
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == ExitSeries {
		return &ct.SeriesError{Kind: ct.Pixel, Reason: said.line()}
	}
	return fmt.Errorf("%s cannot decode the series: %w: %s", filepath.Base(program), err, said.line())
}

// tail keeps the end of what is written to it.
type tail struct{ b []byte }

func (t *tail) Write(p []byte) (int, error) {
	t.b = append(t.b, p...)
	if len(t.b) > maxSaid {
		t.b = append(t.b[:0], t.b[len(t.b)-maxSaid:]...)
	}
	return len(p), nil
}

// line returns the last line, printable.
func (t *tail) line() string {
	b := bytes.TrimSpace(t.b)
	if n := bytes.LastIndexByte(b, '\n'); n >= 0 {
		b = b[n+1:]
	}
	s := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return -1
	}, strings.ToValidUTF8(string(b), ""))
	if s == "" {
		return "it said nothing"
	}
	return strings.TrimPrefix(s, "lungnodule: ")
}
