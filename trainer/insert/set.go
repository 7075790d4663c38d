package insert

import (
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"

	"hilum/dimse/dataset"
	"hilum/models/ct"
	"hilum/trainer/convert"
	"hilum/trainer/luna"
	"hilum/trainer/volume"
)

// SetOptions describe a data set of scans with inserted nodules.
type SetOptions struct {
	Options                   // for each scan; Name and Clear are set for it
	Out         string        // folder; made when missing
	DICOM       bool          // write DICOM series and not MetaImages
	Program     string        // lungnodule executable, for compressed DICOM
	Annotations []luna.Nodule // nodules known in the scans: kept clear, and annotated in the new ones
	Excluded    []luna.Nodule // findings known in the scans that count neither way: likewise
	Jobs        int           // scans at once; below 1: chosen
}

// Summary counts what is in a data set after a run.
type Summary struct {
	Scans     int `json:"scans"` // of this run
	Made      int `json:"made"`  // by it; the others were there
	Real      int `json:"real"`
	Simulated int `json:"simulated"`
	Known     int `json:"known"` // nodules that were in the scans
}

// Truth is what is known of a scan with inserted nodules.
type Truth struct {
	SeriesInstanceUID string    `json:"series_instance_uid"`
	SourceSeries      string    `json:"source_series_instance_uid"` // the scan without them
	Seed              int64     `json:"seed"`
	Scanner           Scanner   `json:"scanner"`
	Nodules           []Nodule  `json:"nodules"`
	Known             []Finding `json:"known"`
	Excluded          []Finding `json:"excluded"`
}

// Finding is one that was in the scan.
type Finding struct {
	Center     [3]float64 `json:"center_lps_mm"`
	DiameterMM float64    `json:"diameter_mm"` // not positive: not measured
}

// truthFolder holds the truth of each scan: it is the last of its files.
const truthFolder = "truth"

const maxTruthBytes = 16 << 20

// Run puts nodules into every scan at the paths (folders of DICOM series,
// MetaImages) and writes the new scans under UIDs of their own, with LUNA16's
// annotations.csv, annotations_excluded.csv and seriesuids.csv of all scans in
// the folder, and truth/<uid>.json of each. A scan whose truth is there is not
// made again.
func Run(ctx context.Context, paths []string, o SetOptions, progress func(done, total int)) (Summary, error) {
	found, err := volume.FindContext(ctx, paths...)
	if err != nil {
		return Summary{}, err
	}
	if err := os.MkdirAll(filepath.Join(o.Out, truthFolder), 0o755); err != nil {
		return Summary{}, fmt.Errorf("make the folder of the data set: %w", err)
	}
	sum := Summary{Scans: len(found.Scans)}
	var mu sync.Mutex // guards sum
	done := 0
	step := func() {
		if done++; progress != nil {
			progress(done, len(found.Scans))
		}
	}
	err = volume.Each(ctx, found.Scans, o.Jobs, step, func(ctx context.Context, s volume.Scan, threads int) error {
		t, made, err := o.one(ctx, s, threads)
		if err != nil {
			return err
		}
		mu.Lock()
		defer mu.Unlock()
		if made {
			sum.Made++
		}
		for _, n := range t.Nodules {
			if n.Origin == OriginReal {
				sum.Real++
			} else {
				sum.Simulated++
			}
		}
		sum.Known += len(t.Known)
		return nil
	})
	if err != nil {
		return sum, err
	}
	return sum, writeTables(o.Out)
}

// uid returns the name of the new scan: another one for other options.
func (o SetOptions) uid(scan string) string {
	key := fmt.Sprint(o.Seed, o.Nodules, o.RealShare, len(o.Diameters))
	for _, s := range o.Sources {
		key += s.Name
	}
	for _, known := range [][]luna.Nodule{o.Annotations, o.Excluded} {
		for _, n := range known {
			if n.SeriesUID == scan {
				key += fmt.Sprint(n.Center, n.Diameter)
			}
		}
	}
	return dataset.StableUID("hilum insert", scan, key)
}

// one makes one scan, unless it is there.
func (o SetOptions) one(ctx context.Context, s volume.Scan, threads int) (Truth, bool, error) {
	uid := o.uid(s.UID)
	name := filepath.Join(o.Out, truthFolder, uid+".json")
	t, err := readTruth(name)
	if !errors.Is(err, fs.ErrNotExist) {
		return t, false, err
	}
	v, err := volume.Load(ctx, s.Path, volume.Options{Program: o.Program, Threads: threads})
	if err != nil {
		return t, false, err
	}
	t = Truth{SeriesInstanceUID: uid, SourceSeries: s.UID, Seed: o.Seed, Known: known(o.Annotations, s.UID), Excluded: known(o.Excluded, s.UID)}
	options := o.Options
	options.Name, options.Threads = s.UID, threads
	for _, f := range slices.Concat(t.Known, t.Excluded) {
		options.Clear = append(options.Clear, Sphere(f))
	}
	r, err := Into(ctx, v, options)
	if err != nil {
		return t, false, err
	}
	t.Nodules, t.Scanner = r.Nodules, r.Scanner
	if err := o.write(ctx, uid, r.Volume); err != nil {
		return t, false, err
	}
	text, err := json.MarshalIndent(t, "", "  ")
	if err != nil {
		return t, false, fmt.Errorf("encode the truth: %w", err)
	}
	return t, true, writeFile(name, append(text, '\n'))
}

func known(all []luna.Nodule, scan string) []Finding {
	out := []Finding{} // an empty list in JSON
	for _, n := range all {
		if n.SeriesUID == scan {
			out = append(out, Finding{Center: n.Center, DiameterMM: n.Diameter})
		}
	}
	return out
}

// write writes the scan as MetaImage, or by way of one as a DICOM series.
func (o SetOptions) write(ctx context.Context, uid string, v *ct.Volume) error {
	if !o.DICOM {
		return ct.WriteMetaImage(filepath.Join(o.Out, uid+".mhd"), v, false)
	}
	scratch, err := os.MkdirTemp(o.Out, ".insert-*")
	if err != nil {
		return fmt.Errorf("make a folder for the scan: %w", err)
	}
	defer os.RemoveAll(scratch) // what is left there is found by no reader
	name := filepath.Join(scratch, uid+".mhd")
	if err := ct.WriteMetaImage(name, v, false); err != nil {
		return err
	}
	_, err = convert.Run(ctx, []string{name}, convert.Options{Out: o.Out, To: convert.DICOM, Jobs: 1})
	return err
}

// readTruth reads a truth file; fs.ErrNotExist when there is none.
func readTruth(name string) (Truth, error) {
	var t Truth
	f, err := os.Open(name)
	if err != nil {
		return t, err
	}
	defer func() { _ = f.Close() }() // only read
	d := json.NewDecoder(io.LimitReader(f, maxTruthBytes))
	d.DisallowUnknownFields()
	if err := d.Decode(&t); err != nil {
		return t, fmt.Errorf("%s is damaged (remove it and its scan is made again): %w", filepath.Base(name), err)
	}
	return t, nil
}

// writeTables makes LUNA16's tables of all scans in the folder.
func writeTables(out string) error {
	names, err := filepath.Glob(filepath.Join(out, truthFolder, "*.json"))
	if err != nil {
		return fmt.Errorf("list the scans: %w", err)
	}
	slices.Sort(names)
	header := []string{"seriesuid", "coordX", "coordY", "coordZ", "diameter_mm"}
	annotations, excluded, scans := [][]string{header}, [][]string{header}, [][]string(nil)
	for _, name := range names {
		t, err := readTruth(name)
		if err != nil {
			return err
		}
		row := func(p [3]float64, d float64) []string {
			r := []string{t.SeriesInstanceUID}
			for _, x := range append(p[:], d) {
				r = append(r, strconv.FormatFloat(math.Round(x*1e6)/1e6, 'f', -1, 64))
			}
			return r
		}
		scans = append(scans, []string{t.SeriesInstanceUID})
		for _, n := range t.Nodules {
			annotations = append(annotations, row(n.Center, n.DiameterMM))
		}
		for _, n := range t.Known {
			annotations = append(annotations, row(n.Center, n.DiameterMM))
		}
		for _, n := range t.Excluded {
			excluded = append(excluded, row(n.Center, n.DiameterMM))
		}
	}
	for name, rows := range map[string][][]string{
		"annotations.csv": annotations, "annotations_excluded.csv": excluded, "seriesuids.csv": scans,
	} {
		var text bytes.Buffer
		if err := csv.NewWriter(&text).WriteAll(rows); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
		if err := writeFile(filepath.Join(out, name), text.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// writeFile writes a file whole or not at all.
func writeFile(name string, text []byte) error {
	return luna.WriteFile(name, func(w io.Writer) error {
		_, err := w.Write(text)
		return err
	})
}
