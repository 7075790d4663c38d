// Package prepare makes the inputs of training from CT scans: for each one the
// box around the lungs as the network sees it (<uid>_clean.npy, [1,D,H,W] of
// uint8), its nodules in the voxels of that box (<uid>_label.npy, [n,4] of
// float64: z, y, x, diameter; one row of zeros when there are none), and a
// manifest with the place of the box in the patient.
//
// What is done to the voxels is models/ct's, the same code that serves: there
// is no second preprocessing. A case that is there and whole is not made again.
// A scan that cannot be prepared stops the work with its name, and a nodule
// that did not get into the box whole is named: neither ever vanishes from a
// data set.
package prepare

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"hilum/models/ct"
	"hilum/trainer/luna"
	"hilum/trainer/npy"
	"hilum/trainer/volume"
)

// Options say what to make of the scans, and where.
type Options struct {
	Out         string         // folder; made when missing
	Spec        ct.PrepareSpec // ct.DefaultPrepareSpec, or the model's
	Annotations string         // annotations.csv; "": no nodule is known
	Masks       string         // folder of <uid>.mhd as seg-lungs-LUNA16; "": our own lung mask
	Program     string         // lungnodule executable, for compressed DICOM; see volume.Options
	Software    string         // version of Hilum, for the manifest
	Jobs        int            // scans at once; below 1: chosen
	Threads     int            // for each scan; below 1: its share of the processors
	Progress    func(done, total int)
}

// Summary counts what became of the scans.
type Summary struct {
	Counts
	Found    int                `json:"found"`    // scans at the paths
	Prepared int                `json:"prepared"` // in this run
	Kept     int                `json:"kept"`     // were there and whole
	Elsewhen int                `json:"elsewhen"` // cases of earlier runs that the paths do not hold
	Lost     []string           `json:"lost"`     // nodules that are not whole in their box, one sentence each
	Absent   int                `json:"absent"`   // annotated scans that are not at the paths
	LUNA16   string             `json:"luna16"`   // how the set compares with LUNA16
	Seconds  map[string]float64 `json:"seconds"`  // by step, over all scans of this run
	Bytes    int64              `json:"bytes"`    // of the arrays written
	Left     []volume.Left      `json:"-"`        // that are no scans
	Notes    []string           `json:"notes,omitempty"`
}

// Names of the steps that are not those of models/ct.
const (
	stepLoad = "load"
	stepSave = "save"
)

// run is one run.
type run struct {
	Options
	nodules map[string][]luna.Nodule // by scan
	journal *journal

	mu  sync.Mutex // guards sum
	sum Summary
}

// Run prepares all scans at the paths.
func Run(ctx context.Context, paths []string, o Options) (Summary, error) {
	if err := o.Spec.Validate(); err != nil {
		return Summary{}, err
	}
	r := &run{Options: o, nodules: map[string][]luna.Nodule{}}
	r.sum.Seconds = map[string]float64{}
	r.sum.Lost = []string{}
	found, err := volume.FindContext(ctx, paths...)
	if err != nil {
		return r.sum, err
	}
	r.sum.Found, r.sum.Left = len(found.Scans), found.Left
	settings := Settings{Prepare: o.Spec, Lungs: lungsOwn}
	if o.Masks != "" {
		settings.Lungs = lungsGiven
		if err := r.checkMasks(found.Scans); err != nil {
			return r.sum, err
		}
	}
	if err := r.readAnnotations(found.Scans); err != nil {
		return r.sum, err
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return r.sum, err
	}
	if r.journal, err = openJournal(o.Out, settings, o.Software); err != nil {
		return r.sum, err
	}
	if err := r.journal.check(found.Scans); err != nil {
		return r.sum, errors.Join(err, r.journal.close())
	}
	done := 0
	err = volume.Each(ctx, found.Scans, o.Jobs, func() {
		done++
		if o.Progress != nil {
			o.Progress(done, len(found.Scans))
		}
	}, r.scan)
	if err != nil {
		return r.sum, errors.Join(err, r.journal.close())
	}
	m, err := r.journal.finish()
	if err != nil {
		return r.sum, err
	}
	r.count(m, found.Scans)
	return r.sum, nil
}

// checkMasks looks for the mask of every scan before the work begins.
func (r *run) checkMasks(scans []volume.Scan) error {
	for _, s := range scans {
		if _, err := os.Stat(r.mask(s)); err != nil {
			return fmt.Errorf("scan %s has no lung mask: %w", s.UID, err)
		}
	}
	return nil
}

// mask returns the name of a scan's lung segmentation.
func (r *run) mask(s volume.Scan) string { return filepath.Join(r.Masks, s.UID+".mhd") }

// readAnnotations reads the nodules and compares their numbers with LUNA16's.
func (r *run) readAnnotations(scans []volume.Scan) error {
	here := map[string]bool{}
	for _, s := range scans {
		here[s.UID] = true
	}
	if r.Annotations != "" {
		rows, err := luna.ReadAnnotations(r.Annotations)
		if err != nil {
			return err
		}
		for _, n := range rows {
			r.nodules[n.SeriesUID] = append(r.nodules[n.SeriesUID], n)
		}
	}
	nodules, positive := 0, 0
	for uid, rows := range r.nodules {
		if !here[uid] {
			r.sum.Absent++
			continue
		}
		positive++
		nodules += len(rows)
	}
	switch {
	case len(scans) != luna.Scans:
		r.sum.LUNA16 = fmt.Sprintf("this is not the whole of LUNA16: %d of %d scans", len(scans), luna.Scans)
	case r.Annotations == "":
		r.sum.LUNA16 = fmt.Sprintf("as many scans as LUNA16 (%d), without annotations", luna.Scans)
	case nodules != luna.Nodules || positive != luna.PositiveScans:
		return fmt.Errorf("%d scans, as LUNA16 has, but %d nodules in %d of them, where LUNA16 has %d in %d: a table or the scans are not those of LUNA16, or damaged",
			luna.Scans, nodules, positive, luna.Nodules, luna.PositiveScans)
	default:
		r.sum.LUNA16 = fmt.Sprintf("the numbers are those of LUNA16: %d scans, %d nodules, %d scans with nodules", luna.Scans, nodules, positive)
	}
	if r.Annotations == "" && len(scans) != luna.Scans {
		r.sum.LUNA16 += ", without annotations"
	}
	return nil
}

// scan prepares one scan unless it is there.
func (r *run) scan(ctx context.Context, s volume.Scan, threads int) error {
	if r.Threads > 0 {
		threads = r.Threads
	}
	mark, err := s.Fingerprint()
	if err != nil {
		return err
	}
	if r.Masks != "" {
		mask, err := volume.Scan{UID: s.UID, Path: r.mask(s), MetaImage: true}.Fingerprint()
		if err != nil {
			return err
		}
		mark += " " + mask
	}
	rows := r.nodules[s.UID]
	if c, ok := r.journal.cases[s.UID]; ok && c.Source.Fingerprint == mark && sameNodules(c.Nodules, rows) {
		if whole, err := c.whole(r.Out); err != nil {
			return err
		} else if whole {
			r.mu.Lock()
			defer r.mu.Unlock()
			r.sum.Kept++
			return nil
		}
	}
	spent := map[string]float64{}
	last := time.Now()
	step := func(name string) {
		now := time.Now()
		spent[name] += now.Sub(last).Seconds()
		last = now
	}
	v, err := volume.Load(ctx, s.Path, volume.Options{Program: r.Program, Threads: threads})
	if err != nil {
		return err
	}
	var lungs *ct.Volume
	if r.Masks != "" {
		if lungs, err = ct.ReadMetaImage(r.mask(s)); err != nil {
			return err
		}
	}
	step(stepLoad)
	p, err := ct.PrepareWith(v, r.Spec, ct.PrepareOptions{Threads: threads, Lungs: lungs, Step: step})
	if err != nil {
		return err
	}
	c := Case{
		UID:      s.UID,
		Source:   Source{Path: s.Path, Fingerprint: mark, Grid: gridOf(v.Geometry), Notes: v.Notes},
		Grid:     gridOf(p.Geometry),
		LungML:   lungML(p),
		Nodules:  place(v, p, r.Spec, rows),
		Positive: len(rows) > 0,
	}
	step("nodules")
	if err := r.save(&c, p); err != nil {
		return err
	}
	step(stepSave)
	if err := r.journal.add(c); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sum.Prepared++
	r.sum.Bytes += c.Clean.Bytes + c.Label.Bytes
	for name, seconds := range spent {
		r.sum.Seconds[name] += seconds
	}
	for _, n := range v.Notes {
		r.sum.Notes = append(r.sum.Notes, s.UID+": "+n)
	}
	return nil
}

// save writes the two arrays.
func (r *run) save(c *Case, p *ct.Prepared) error {
	clean := npy.Array[uint8]{Shape: []int{1, p.Size[2], p.Size[1], p.Size[0]}, Data: p.Data}
	label := npy.Array[float64]{Shape: []int{max(1, len(c.Nodules)), 4}}
	for _, n := range c.Nodules {
		label.Data = append(label.Data, n.Voxel[0], n.Voxel[1], n.Voxel[2], n.DiameterVoxels)
	}
	if len(c.Nodules) == 0 {
		label.Data = make([]float64, 4)
	}
	var err error
	if c.Clean, err = writeArray(r.Out, c.UID+"_clean.npy", clean); err != nil {
		return err
	}
	if c.Label, err = writeArray(r.Out, c.UID+"_label.npy", label); err != nil {
		return err
	}
	return nil
}

// count fills the summary from the manifest.
func (r *run) count(m Manifest, scans []volume.Scan) {
	r.sum.Counts = m.Counts
	r.sum.Elsewhen = len(m.Cases) - len(scans)
	for _, c := range m.Cases {
		for _, n := range c.Nodules {
			if why := n.lost(); why != "" {
				r.sum.Lost = append(r.sum.Lost, fmt.Sprintf("scan %s: the nodule of %.1f mm at %.1f %.1f %.1f (LPS) %s", c.UID, n.DiameterMM, n.Center[0], n.Center[1], n.Center[2], why))
			}
		}
	}
	slices.Sort(r.sum.Notes)
}

// Steps returns the names of the steps of a summary in their order.
func (s Summary) Steps() []string {
	order := []string{stepLoad, ct.StepLungs, ct.StepResample, ct.StepBorder, ct.StepMask, ct.StepCrop, "nodules", stepSave}
	return slices.DeleteFunc(order, func(name string) bool { return !slices.Contains(slices.Collect(maps.Keys(s.Seconds)), name) })
}
