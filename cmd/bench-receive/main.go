// Command bench-receive measures how fast DICOM receivers take chest CT, in one
// run on one machine and the same files: Hilum, DCMTK's storescp and Orthanc,
// beside the limit of the disk.
//
//	go run ./cmd/bench-receive -hilum bin/hilum
//
// It goes on with what a store that fills, and an object of 2 GiB, cost Hilum.
//
// With -road it measures what comes after: from the last image of a series to its report
// at a destination.
//
// Peers that are not installed are left out of the table. Everything listens on
// loopback and ends with the run.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"syscall"
)

func main() {
	b := bench{}
	flag.StringVar(&b.hilum, "hilum", "bin/hilum", "`program` under test")
	flag.StringVar(&b.work, "work", "", "`folder` on the disk to be measured (default: a new one under the temporary folder)")
	flag.IntVar(&b.slices, "slices", 400, "images an association sends")
	flag.IntVar(&b.rounds, "rounds", 3, "rounds; the median counts")
	flag.BoolVar(&b.onlyRoad, "road", false, "measure the way of one series from its last image to the report at a destination instead")
	flag.BoolVar(&b.onlyGrowth, "growth", false, "measure only what a full store and a huge object cost Hilum")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := b.run(ctx, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench-receive:", err)
		os.Exit(1)
	}
}

// bench is one run.
type bench struct {
	hilum, work    string
	slices, rounds int
	onlyRoad       bool
	onlyGrowth     bool
	out            io.Writer
}

// Sizes of the objects sent, in bytes of pixel data.
const (
	ctPixels    = 512 * 512 * 2 // a CT slice
	smallPixels = 3500          // an object of 4 kB
	maxSenders  = 8
)

func (b *bench) run(ctx context.Context, out io.Writer) (err error) {
	b.out = out
	for _, tool := range []string{"storescu", "storescp"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%s is not installed (Debian package dcmtk)", tool)
		}
	}
	if b.hilum, err = filepath.Abs(b.hilum); err != nil {
		return err
	}
	if b.work == "" {
		if b.work, err = os.MkdirTemp("", "hilum-bench-"); err != nil {
			return err
		}
		defer func() { err = errors.Join(err, os.RemoveAll(b.work)) }()
	}
	fmt.Fprintf(out, "%s, %d cores, %d images of %d kB an association, median of %d rounds, loopback, data in %s\n\n",
		runtime.GOARCH, runtime.NumCPU(), b.slices, ctPixels/1000, b.rounds, b.work)
	if b.onlyRoad {
		return b.road(ctx)
	}
	if b.onlyGrowth {
		return errors.Join(b.growth(ctx), b.huge(ctx))
	}
	sets, err := b.makeSets("ct", ctPixels)
	if err != nil {
		return err
	}

	receivers := []receiver{hilumReceiver{b.hilum}, storescp{}}
	if _, err := exec.LookPath("Orthanc"); err == nil {
		receivers = append(receivers, orthanc{})
	} else {
		fmt.Fprintln(out, "Orthanc is not installed: left out")
	}
	for _, s := range []struct {
		name    string
		nodelay bool
		senders int
	}{
		{"storescu as installed", false, 1},
		{"storescu TCP_NODELAY=1", true, 1},
		{"storescu TCP_NODELAY=1", true, 4},
		{"storescu TCP_NODELAY=1", true, 8},
	} {
		for _, r := range receivers {
			rate, peak, err := b.median(ctx, r, storescu{nodelay: s.nodelay}, sets[:s.senders])
			if err != nil {
				return fmt.Errorf("%s from %s: %w", r.name(), s.name, err)
			}
			b.row(s.name, s.senders, r.name(), rate, ctPixels, peak)
		}
		if s.nodelay { // what a receiver that writes before it answers cannot pass
			rate, err := b.medianOf(func() (float64, error) { return b.rawWrites(s.senders) })
			if err != nil {
				return err
			}
			b.row("write + fdatasync", s.senders, "the disk itself", rate, ctPixels, 0)
		}
	}
	for _, s := range []sender{storescu{}, storescu{nodelay: true}, hilumSender{b.hilum}} {
		rate, _, err := b.median(ctx, storescp{}, s, sets[:1])
		if err != nil {
			return fmt.Errorf("storescp from %s: %w", s.name(), err)
		}
		b.row(s.name(), 1, "storescp", rate, ctPixels, 0)
	}
	small, err := b.makeSets("small", smallPixels)
	if err != nil {
		return err
	}
	for _, r := range receivers {
		rate, peak, err := b.median(ctx, r, storescu{nodelay: true}, small)
		if err != nil {
			return fmt.Errorf("%s, small objects: %w", r.name(), err)
		}
		b.row("4 kB objects, TCP_NODELAY=1", maxSenders, r.name(), rate, 4096, peak)
	}
	rate, peak, err := b.median(ctx, receivers[0], hilumSender{b.hilum}, small)
	if err != nil {
		return fmt.Errorf("small objects by hilum send: %w", err)
	}
	b.row("4 kB objects, hilum send", maxSenders, receivers[0].name(), rate, 4096, peak)
	return errors.Join(b.growth(ctx), b.huge(ctx))
}

func (b *bench) row(sender string, senders int, receiver string, rate float64, bytes int, peak int64) {
	memory := ""
	if peak > 0 {
		memory = fmt.Sprintf("%5d MB peak", peak>>20)
	}
	fmt.Fprintf(b.out, "%-28s %d assoc  %-16s %7.0f images/s %8.1f MB/s  %s\n", sender, senders, receiver, rate, rate*float64(bytes)/1e6, memory)
}
