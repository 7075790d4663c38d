// Package phantom makes synthetic chest CT series with known nodules: body
// wall, ribs and spine, heart and great vessels, airways, two lungs with their
// vessel trees, noise, and solid, part-solid and ground-glass nodules whose
// place and size are written beside the series as ground truth.
//
// It is for demonstrations and tests of the whole road from C-STORE to finding
// where no patient's images may be used. It is no substitute for real scans:
// what a detector reaches on a phantom says that it works, not how well. The
// images are CT Image Storage objects (PS3.3 A.3) of a patient PHANTOM^HILUM;
// the same options give the same bytes on the same kind of processor.
package phantom

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"sync"
)

// The extent of the scanned space, in mm: fixed, so that a coarse phantom
// shows the same body as a fine one.
const (
	fieldOfView = 358.4 // 512 pixels of 0.7 mm
	scanHeight  = 300.0 // 240 slices of 1.25 mm
)

// Limits of the options, with their reasons.
const (
	minSize    = 64   // below this the lungs have no shape left
	maxSize    = 2048 // a slice is 8 MiB
	minSlices  = 16
	maxSlices  = 2400
	maxNodules = 60 // more cannot be placed without overlap for every seed
)

// Options describe a series. The zero value is a usable default.
type Options struct {
	Seed    int64   // chooses the patient, the nodules and the UIDs
	Slices  int     // default 240
	Rows    int     // rows and columns; default 512
	Nodules int     // default 10; negative: none
	Noise   float64 // standard deviation in HU; default 18, negative: none
	Threads int     // slices made at the same time; default all cores

	height float64 // of the scan, the middle of the body, mm; 0: scanHeight
}

func (o Options) withDefaults() (Options, error) {
	set := func(v *int, standard int) {
		if *v == 0 {
			*v = standard
		}
	}
	set(&o.Slices, 240)
	set(&o.Rows, 512)
	set(&o.Nodules, 10)
	set(&o.Threads, runtime.GOMAXPROCS(0))
	if o.Noise == 0 {
		o.Noise = 18
	}
	o.Nodules, o.Noise = max(o.Nodules, 0), max(o.Noise, 0)
	switch {
	case o.Rows < minSize || o.Rows > maxSize:
		return o, fmt.Errorf("a phantom of %d rows is not possible: choose %d to %d", o.Rows, minSize, maxSize)
	case o.Slices < minSlices || o.Slices > maxSlices:
		return o, fmt.Errorf("a phantom of %d slices is not possible: choose %d to %d", o.Slices, minSlices, maxSlices)
	case o.Nodules > maxNodules:
		return o, fmt.Errorf("%d nodules do not fit into the lungs: choose at most %d", o.Nodules, maxNodules)
	case o.Noise > 200:
		return o, fmt.Errorf("noise of %g HU hides everything: choose at most 200", o.Noise)
	}
	return o, nil
}

// grid is the sampling of the series: square pixels, slices along z.
type grid struct {
	n, slices int
	pixel, dz float64
	bottom    float64 // lower end of the scan in body space
}

func (o Options) grid() grid {
	height := o.height
	if height == 0 {
		height = scanHeight
	}
	return grid{
		n: o.Rows, slices: o.Slices, pixel: fieldOfView / float64(o.Rows),
		dz: height / float64(o.Slices), bottom: (scanHeight - height) / 2,
	}
}

// x returns the coordinate of a column (or, as y, of a row) in body space.
func (g grid) x(i int) float64 { return (float64(i) - float64(g.n-1)/2) * g.pixel }

// z returns the height of a slice in body space; slice 0 is the lowest.
func (g grid) z(k int) float64 { return g.bottom + (float64(k)+0.5)*g.dz }

// patientOffset leads from body space (x to the left, y to the back, z up,
// origin on the axis at the bottom) to patient coordinates (LPS). It is not
// zero, so that nobody gets away with assuming that it is.
var patientOffset = vec{4.2, -157.3, -412.5}

// Write makes the series and writes one Part 10 file a slice into dir, which
// it creates and which must be empty, and then the truth into TruthFile(dir).
// File names are not in slice order. It calls progress, if there is one, after
// each slice, from one goroutine at a time. A truth file exists only when the
// series is whole.
func Write(ctx context.Context, dir string, o Options, progress func(done, total int)) (Truth, error) {
	o, err := o.withDefaults()
	if err != nil {
		return Truth{}, err
	}
	if err := makeEmpty(dir); err != nil {
		return Truth{}, err
	}
	b := newBody(o.Seed)
	nodules, err := placeNodules(b, rng(o.Seed, "nodules"), o.Nodules)
	if err != nil {
		return Truth{}, err
	}
	s := newScene(b, nodules, o)
	series := newSeries(o)
	if err := writeSlices(ctx, dir, o, s, series, progress); err != nil {
		return Truth{}, err
	}
	truth := Truth{SeriesInstanceUID: series.uid, Seed: o.Seed}
	for _, n := range nodules {
		truth.Nodules = append(truth.Nodules, n.truth())
	}
	return truth, writeTruth(TruthFile(dir), truth)
}

// makeEmpty creates dir, or makes sure that nothing is in it.
func makeEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = os.MkdirAll(dir, 0o755)
	case err == nil && len(entries) > 0:
		return fmt.Errorf("the folder %s is not empty: name a new one for the phantom", dir)
	}
	if err != nil {
		return fmt.Errorf("make the folder of the phantom: %w", err)
	}
	return nil
}

// writeSlices renders and writes the slices, o.Threads at a time.
func writeSlices(ctx context.Context, dir string, o Options, s *scene, series series, progress func(done, total int)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	names := rng(o.Seed, "names").Perm(o.Slices)
	next := make(chan int)
	var group sync.WaitGroup
	var lock sync.Mutex // guards done and the call of progress
	done := 0
	for range min(o.Threads, o.Slices) {
		group.Go(func() {
			r := newRenderer(s)
			for k := range next {
				name := filepath.Join(dir, fmt.Sprintf("IM%04d.dcm", names[k]+1))
				if err := series.write(name, k, r.slice(k)); err != nil {
					cancel(fmt.Errorf("write a slice of the phantom: %w", err))
					continue
				}
				lock.Lock()
				done++
				if progress != nil {
					progress(done, o.Slices)
				}
				lock.Unlock()
			}
		})
	}
feed:
	for k := range o.Slices {
		select {
		case next <- k:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	group.Wait()
	return context.Cause(ctx)
}

// rng returns a source of random numbers of its own for each part of the
// phantom, so that a change in one part leaves the others as they were.
func rng(seed int64, part string) *rand.Rand {
	h := uint64(14695981039346656037) // FNV-1a
	for _, c := range []byte(part) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return rand.New(rand.NewPCG(uint64(seed), h))
}
