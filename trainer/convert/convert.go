// Package convert turns CT scans from one form into another: DICOM series into
// MetaImage, as LUNA16 has them, and MetaImage into DICOM series that a node
// takes like those of a scanner (PS3.3 A.3).
//
// Hounsfield units and the place of every voxel in the patient are the same
// before and after. A scan whose output is there and whole is not written
// again; one that was cut off is. What cannot be converted stops the work with
// its name.
package convert

import (
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"hilum/models/ct"
	"hilum/trainer/volume"
)

// Format is what scans are turned into.
type Format string

// The formats.
const (
	MetaImage Format = "metaimage"
	DICOM     Format = "dicom"
)

// Options say what to write, and where.
type Options struct {
	Out      string // folder; made when missing
	To       Format // "": MetaImage
	Compress bool   // MetaImage voxels as .zraw
	Program  string // lungnodule executable, for compressed DICOM; see volume.Options
	Jobs     int    // scans at once; below 1: chosen
	Progress func(done, total int)
}

// Summary counts what became of the scans.
type Summary struct {
	Scans   int           `json:"scans"`   // found
	Written int           `json:"written"` // in this run
	Kept    int           `json:"kept"`    // were there and whole
	Images  int           `json:"images"`  // slices written
	Bytes   int64         `json:"bytes"`   // of voxels written
	Left    []volume.Left `json:"-"`       // that are no scans
	Notes   []string      `json:"notes,omitempty"`
}

// Run converts all scans at the paths.
func Run(ctx context.Context, paths []string, o Options) (Summary, error) {
	var sum Summary
	switch o.To {
	case "":
		o.To = MetaImage
	case MetaImage, DICOM:
	default:
		return sum, fmt.Errorf("scans cannot be turned into %q: choose %s or %s", o.To, MetaImage, DICOM)
	}
	if o.Compress && o.To == DICOM {
		return sum, errors.New("compressed DICOM is not written")
	}
	found, err := volume.FindContext(ctx, paths...)
	if err != nil {
		return sum, err
	}
	sum.Scans, sum.Left = len(found.Scans), found.Left
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return sum, err
	}
	if err := apart(found.Scans, o); err != nil {
		return sum, err
	}
	var mu sync.Mutex // guards sum
	done := 0
	step := func() {
		done++
		if o.Progress != nil {
			o.Progress(done, len(found.Scans))
		}
	}
	err = volume.Each(ctx, found.Scans, o.Jobs, step, func(ctx context.Context, s volume.Scan, threads int) error {
		v, written, err := o.one(ctx, s, threads)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if !written {
			sum.Kept++
			return nil
		}
		sum.Written++
		sum.Images += v.Size[2]
		sum.Bytes += 2 * int64(v.Voxels())
		for _, n := range v.Notes {
			sum.Notes = append(sum.Notes, s.UID+": "+n)
		}
		return nil
	})
	return sum, err
}

// target returns the header, or the folder, that a scan becomes.
func (o Options) target(s volume.Scan) string {
	if o.To == DICOM {
		return filepath.Join(o.Out, s.UID)
	}
	return filepath.Join(o.Out, s.UID+".mhd")
}

// apart refuses to write over what is read.
func apart(scans []volume.Scan, o Options) error {
	for _, s := range scans {
		from, err := os.Stat(s.Path)
		if err != nil {
			return err
		}
		if to, err := os.Stat(o.target(s)); err == nil && os.SameFile(from, to) {
			return fmt.Errorf("scan %s: %s is to be written, and is what is read: choose another folder with --out", s.UID, s.Path)
		}
	}
	return nil
}

// one converts one scan, unless its output is there.
func (o Options) one(ctx context.Context, s volume.Scan, threads int) (*ct.Volume, bool, error) {
	header, err := volume.Header(ctx, s, threads)
	if err != nil {
		return nil, false, err
	}
	load := func() (*ct.Volume, error) {
		if s.MetaImage {
			return header, nil // with voxels
		}
		return volume.Load(ctx, s.Path, volume.Options{Program: o.Program, Threads: threads})
	}
	if o.To == DICOM {
		return o.toDICOM(ctx, s, header, load, threads)
	}
	name := o.target(s)
	if wholeMetaImage(name, header, o.Compress) {
		return header, false, nil
	}
	v, err := load()
	if err != nil {
		return nil, false, err
	}
	if err := ct.WriteMetaImage(name, v, o.Compress); err != nil {
		return nil, false, err
	}
	// The voxels of an earlier run in the other form belong to no header now.
	other := strings.TrimSuffix(name, ".mhd") + map[bool]string{true: ".raw", false: ".zraw"}[o.Compress]
	if err := os.Remove(other); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, false, err
	}
	return v, true, nil
}

// wholeMetaImage tells whether name is the MetaImage of such a scan, with all
// of its voxels. It is read whole: compressed voxels tell only then. Other voxels
// of the same number are seen when want has its own.
func wholeMetaImage(name string, want *ct.Volume, compressed bool) bool {
	data := strings.TrimSuffix(name, ".mhd") + map[bool]string{true: ".zraw", false: ".raw"}[compressed]
	info, err := os.Stat(data)
	if err != nil || !compressed && info.Size() != 2*int64(want.Voxels()) {
		return false
	}
	v, err := ct.ReadMetaImage(name)
	return err == nil && sameGrid(v.Geometry, want.Geometry) && (want.HU == nil || slices.Equal(v.HU, want.HU))
}

// sameGrid tells whether all corners of two grids of one size lie together.
func sameGrid(a, b ct.Geometry) bool {
	const apart = 1e-3 // mm; the numbers in a DICOM header have 16 characters
	if a.Size != b.Size {
		return false
	}
	for corner := range 8 {
		var at [3]float64
		for n := range 3 {
			at[n] = float64(corner>>n&1) * float64(a.Size[n]-1)
		}
		p, q := a.World(at[0], at[1], at[2]), b.World(at[0], at[1], at[2])
		for n := range 3 {
			if !(math.Abs(p[n]-q[n]) <= apart) {
				return false
			}
		}
	}
	return true
}
