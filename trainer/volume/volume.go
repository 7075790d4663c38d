// Package volume is one door to a scan, whatever form it lies in: a folder with
// the DICOM images of one CT series, or a MetaImage (.mhd with .raw or .zraw,
// .mha). Find lists the scans below folders, Load reads one.
//
// JPEG-LS and JPEG 2000 are never decoded in this process, which is static and
// free of C: the plugin program does it as a child, `lungnodule volume --out
// FILE.mha FOLDER`, under a deadline, and what it wrote is checked against the
// headers that were read here.
package volume

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"hilum/models/ct"
)

// DefaultDeadline is how long the child process may take for one series. The
// largest take some seconds.
const DefaultDeadline = 5 * time.Minute

// Options are what Load needs beside the path.
type Options struct {
	Program  string        // lungnodule executable, for compressed pixels; "": such a series is refused
	Threads  int           // below 1: one for each processor
	Deadline time.Duration // of the child process; 0: DefaultDeadline
	Scratch  string        // folder for its output; "": the system's
}

// ErrCompressed is returned for a series whose pixels are in JPEG-LS or JPEG
// 2000 when Options name no program that decodes them.
var ErrCompressed = errors.New("its pixels are compressed (JPEG-LS or JPEG 2000), which the plugin program lungnodule decodes: build it with `make build` or name it with --plugin")

// Load reads the scan at path, a series folder or a MetaImage header. What is
// wrong with the series itself is a *ct.SeriesError.
func Load(ctx context.Context, path string, o Options) (*ct.Volume, error) {
	switch strings.ToLower(filepath.Ext(path)) {
	case ".mhd", ".mha":
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		v, err := ct.ReadMetaImage(path)
		if err != nil {
			return nil, err
		}
		v.SeriesInstanceUID = uidOf(path)
		return v, nil
	case ".raw", ".zraw":
		return nil, fmt.Errorf("%s holds only voxels: give the .mhd file beside it", filepath.Base(path))
	}
	var compressed atomic.Bool
	v, err := ct.LoadSeries(ctx, path, ct.Options{
		Threads: o.Threads,
		Decoder: func(string, []byte, ct.PixelInfo) ([]byte, error) {
			compressed.Store(true)
			return nil, ErrCompressed
		},
	})
	if err == nil || !compressed.Load() {
		return v, err
	}
	if o.Program == "" {
		return nil, ErrCompressed
	}
	return decode(ctx, path, o)
}

// Header reads what is known of a scan without its voxels: HU is nil for a
// DICOM series. A MetaImage is read whole, for its voxels may be damaged.
func Header(ctx context.Context, s Scan, threads int) (*ct.Volume, error) {
	if s.MetaImage {
		return Load(ctx, s.Path, Options{Threads: threads})
	}
	return ct.ReadSeriesHeader(ctx, s.Path, ct.Options{Threads: threads})
}
