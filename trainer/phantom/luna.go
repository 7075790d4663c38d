package phantom

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"

	"hilum/dimse/dataset"
	"hilum/models/ct"
)

// maxLunaScans bounds a data set; LUNA16 has 888 scans.
const maxLunaScans = 20000

// leastHeight leaves room for the largest nodules (mm).
const leastHeight = 80.0

// lunaSubsets is the number of folders subset0, subset1, … of LUNA16: subset k
// is fold k of its cross-validation.
const lunaSubsets = 10

// lunaFile tells what a data set was made with. It is written first, so that a
// later run goes on only with the same options.
const lunaFile = "phantom.json"

// LunaOptions describe a data set in the shape of LUNA16.
type LunaOptions struct {
	Scans   int     `json:"scans"` // default 20
	Seed    int64   `json:"seed"`
	Rows    int     `json:"rows"`      // rows and columns of each scan; default 256
	Slices  int     `json:"slices"`    // of each scan; default 160
	Height  float64 `json:"height_mm"` // length of each scan, around the middle of the lungs; default 300, the whole chest
	Noise   float64 `json:"noise"`     // standard deviation in HU; default 18, negative: none
	Threads int     `json:"-"`         // scans made at the same time; default all cores
}

func (o LunaOptions) withDefaults() (LunaOptions, error) {
	set := func(v *int, standard int) {
		if *v == 0 {
			*v = standard
		}
	}
	set(&o.Scans, 20)
	set(&o.Rows, 256)
	set(&o.Slices, 160)
	set(&o.Threads, runtime.GOMAXPROCS(0))
	if o.Scans < 1 || o.Scans > maxLunaScans {
		return o, fmt.Errorf("a data set of %d scans is not possible: choose 1 to %d", o.Scans, maxLunaScans)
	}
	if o.Height == 0 {
		o.Height = scanHeight
	}
	if !(o.Height >= leastHeight && o.Height <= scanHeight) {
		return o, fmt.Errorf("scans of %g mm are not possible: choose %g to %g", o.Height, leastHeight, scanHeight)
	}
	scan, err := o.scan(0).withDefaults()
	o.Noise = scan.Noise
	return o, err
}

// scan returns the options of scan i. Its seed is far from those of the scans of
// other data sets.
func (o LunaOptions) scan(i int) Options {
	return Options{Seed: int64(mix(mix(uint64(o.Seed)) + uint64(i))), Slices: o.Slices, Rows: o.Rows, Noise: o.Noise, Threads: 1, height: o.Height}
}

func (o LunaOptions) uid(i int) string {
	return dataset.StableUID("hilum phantom", "luna", fmt.Sprint(o.Seed, o.Rows, o.Slices, o.Height, o.Noise), strconv.Itoa(i))
}

// LunaSummary counts what is in a data set.
type LunaSummary struct {
	Scans      int `json:"scans"`
	Made       int `json:"made"` // by this run; the others were there
	Positive   int `json:"positive"`
	Nodules    int `json:"nodules"`
	Excluded   int `json:"excluded"`
	Candidates int `json:"candidates"` // in candidates_V2.csv
}

// WriteLuna writes a data set with the files of LUNA16 into dir: scans as
// subset0…subset9/<uid>.mhd, lungs as seg-lungs-LUNA16/<uid>.mhd (3 left, 4
// right, 5 trachea), and LUNA16's tables. Some scans have no nodules; some have
// a TransformMatrix that turns two axes round. The kind and place of each nodule
// is in truth/<uid>.json.
//
// A run that was cut off is continued by another with the same options: a scan
// whose truth is there is whole. A folder that holds anything else is refused.
func WriteLuna(ctx context.Context, dir string, o LunaOptions, progress func(done, total int)) (LunaSummary, error) {
	o, err := o.withDefaults()
	if err != nil {
		return LunaSummary{}, err
	}
	if err := o.claim(dir); err != nil {
		return LunaSummary{}, err
	}
	folders := []string{lunaTruth, lunaLungs}
	for k := range lunaSubsets {
		folders = append(folders, "subset"+strconv.Itoa(k))
	}
	for _, f := range folders {
		if err := os.MkdirAll(filepath.Join(dir, f), 0o755); err != nil {
			return LunaSummary{}, fmt.Errorf("make the folders of the data set: %w", err)
		}
	}
	scans := make([]lunaScan, o.Scans)
	sum := LunaSummary{Scans: o.Scans}
	var mu sync.Mutex // guards done, sum.Made and the call of progress
	done := 0
	err = eachOf(ctx, o.Scans, o.Threads, func(ctx context.Context, i int) error {
		truth := filepath.Join(dir, lunaTruth, o.uid(i)+".json")
		s, err := readLunaScan(truth)
		made := errors.Is(err, fs.ErrNotExist)
		if made {
			s, err = o.write(ctx, dir, i)
		}
		if err != nil {
			return fmt.Errorf("scan %d of %d (%s): %w", i+1, o.Scans, o.uid(i), err)
		}
		scans[i] = s
		mu.Lock()
		defer mu.Unlock()
		if done++; made {
			sum.Made++
		}
		if progress != nil {
			progress(done, o.Scans)
		}
		return nil
	})
	if err != nil {
		return sum, err
	}
	for _, s := range scans {
		sum.Nodules += len(s.Nodules)
		sum.Excluded += len(s.Excluded)
		sum.Candidates += len(s.Candidates)
		if len(s.Nodules) > 0 {
			sum.Positive++
		}
	}
	return sum, writeLunaTables(dir, scans)
}

// claim makes sure that dir is empty or a data set of the same options.
func (o LunaOptions) claim(dir string) error {
	want, err := json.Marshal(o)
	if err != nil {
		return fmt.Errorf("encode the options of the data set: %w", err)
	}
	name := filepath.Join(dir, lunaFile)
	got, err := os.ReadFile(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if err := makeEmpty(dir); err != nil {
			return err
		}
		return writeWhole(name, append(want, '\n'))
	case err != nil:
		return fmt.Errorf("look for an earlier data set: %w", err)
	case string(got) != string(want)+"\n":
		return fmt.Errorf("%s holds a data set of other options (%s): name another folder", dir, lunaFile)
	}
	return nil
}

// write makes scan i; its truth is the last of its files.
func (o LunaOptions) write(ctx context.Context, dir string, i int) (lunaScan, error) {
	options, err := o.scan(i).withDefaults()
	if err != nil {
		return lunaScan{}, err
	}
	b := newBody(options.Seed)
	b.low = options.grid().bottom
	b.high = b.low + o.Height
	s, nodules, err := planLuna(b, options.Seed, i)
	if err != nil {
		return s, err
	}
	s.UID, s.Subset = o.uid(i), i%lunaSubsets
	v := newLunaVolume(options, i)
	offset := s.place(b, options.Seed)
	v.Origin = [3]float64(vec(v.Origin).add(offset))
	scene := newScene(b, nodules, options)
	r := newRenderer(scene)
	area := v.Size[0] * v.Size[1]
	for k := range v.Size[2] {
		if err := ctx.Err(); err != nil {
			return s, err
		}
		copy(v.HU[k*area:], r.slice(k))
	}
	if err := ct.WriteMetaImage(filepath.Join(dir, "subset"+strconv.Itoa(s.Subset), s.UID+".mhd"), turned(v, i), false); err != nil {
		return s, err
	}
	lungs := &ct.Volume{Geometry: v.Geometry, HU: v.HU} // the voxels are not needed any more
	b.labels(scene.grid, lungs.HU)
	if err := ct.WriteMetaImage(filepath.Join(dir, lunaLungs, s.UID+".mhd"), turned(lungs, i), true); err != nil {
		return s, err
	}
	return s, s.save(filepath.Join(dir, lunaTruth, s.UID+".json"))
}

// newLunaVolume returns an empty volume in body space.
func newLunaVolume(o Options, i int) *ct.Volume {
	g := o.grid()
	v := &ct.Volume{Geometry: ct.Geometry{
		Size:    [3]int{g.n, g.n, g.slices},
		Spacing: [3]float64{g.pixel, g.pixel, g.dz},
		Origin:  [3]float64{g.x(0), g.x(0), g.z(0)},
		Axes:    [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
	}}
	v.HU = make([]int16, v.Voxels())
	return v
}

// turned returns the volume of scan i as it is written: of every four scans one
// has x and y reversed, as in LUNA16, and one x and z, so that no reader gets
// away with overlooking TransformMatrix. Each voxel keeps its place.
func turned(v *ct.Volume, i int) *ct.Volume {
	var flip [3]bool
	switch i % 4 {
	case 1:
		flip = [3]bool{true, true, false}
	case 3:
		flip = [3]bool{true, false, true}
	default:
		return v
	}
	out := &ct.Volume{Geometry: v.Geometry, HU: make([]int16, len(v.HU))}
	var corner [3]float64
	for a, f := range flip {
		if f {
			corner[a] = float64(v.Size[a] - 1)
			for n := range out.Axes[a] {
				if out.Axes[a][n] != 0 { // no negative zero in the header
					out.Axes[a][n] *= -1
				}
			}
		}
	}
	out.Origin = v.World(corner[0], corner[1], corner[2])
	at := func(a, n int) int {
		if flip[a] {
			return v.Size[a] - 1 - n
		}
		return n
	}
	for k := range v.Size[2] {
		for j := range v.Size[1] {
			src, dst := v.HU[v.Index(0, at(1, j), at(2, k)):][:v.Size[0]], out.HU[v.Index(0, j, k):][:v.Size[0]]
			for n := range dst {
				dst[n] = src[at(0, n)]
			}
		}
	}
	return out
}

// eachOf calls work for 0 to n-1, threads at a time, until one fails.
func eachOf(ctx context.Context, n, threads int, work func(context.Context, int) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	next := make(chan int)
	var group sync.WaitGroup
	for range min(threads, n) {
		group.Go(func() {
			for i := range next {
				if err := work(ctx, i); err != nil {
					cancel(err)
				}
			}
		})
	}
feed:
	for i := range n {
		select {
		case next <- i:
		case <-ctx.Done():
			break feed
		}
	}
	close(next)
	group.Wait()
	return context.Cause(ctx)
}
