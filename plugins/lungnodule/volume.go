package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"hilum/models/ct"
	"hilum/plugins/lungnodule/codec"
)

// volumeCommand is the subcommand `lungnodule volume`. It needs no model and no
// runtime: the trainer, which is built without C, lets it decode the series
// whose pixels are in JPEG-LS or JPEG 2000.
const volumeCommand = "volume"

// exitSeries is the exit status when the series itself is to blame, so that
// trying again cannot help. trainer/volume knows it.
const exitSeries = 3

// volumeMain runs the subcommand and returns the exit status. The last line on
// standard error is the reason, without patient data.
func volumeMain(args []string, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	var out string
	var threads int
	f := flag.NewFlagSet("lungnodule "+volumeCommand, flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&out, "out", "", "MetaImage `FILE.mha` to write (required)")
	f.IntVar(&threads, "threads", 0, "threads (default: one for each processor)")
	f.Usage = func() {
		fmt.Fprintln(stderr, "Usage: lungnodule volume --out FILE.mha FOLDER\n\nWrite the CT series in FOLDER as a MetaImage.")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return 0
		}
		return 2
	}
	if f.NArg() != 1 || !strings.HasSuffix(out, ".mha") {
		fmt.Fprintln(stderr, "lungnodule: use it as `lungnodule volume --out FILE.mha FOLDER`")
		return 2
	}
	err := writeVolume(ctx, f.Arg(0), out, threads)
	if err == nil {
		return 0
	}
	fmt.Fprintln(stderr, "lungnodule:", err)
	var series *ct.SeriesError
	if errors.As(err, &series) {
		return exitSeries
	}
	return 1
}

func writeVolume(ctx context.Context, folder, out string, threads int) error {
	v, err := ct.LoadSeries(ctx, folder, ct.Options{Decoder: codec.Decode, Threads: threads})
	if err != nil {
		return err
	}
	return ct.WriteMetaImage(out, v, false)
}
