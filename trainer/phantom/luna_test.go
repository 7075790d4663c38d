package phantom_test

import (
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"hilum/models/ct"
	"hilum/trainer/phantom"
)

var smallLuna = phantom.LunaOptions{Scans: 4, Seed: 3, Rows: 96, Slices: 64}

func table(t *testing.T, name string) [][]string {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil {
		t.Fatal(err)
	}
	return rows
}

func TestWriteLuna(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "luna")
	// Cut off after the second scan, then continued.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	first := smallLuna
	first.Threads = 1
	_, err := phantom.WriteLuna(ctx, dir, first, func(done, _ int) {
		if done == 2 {
			cancel()
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("cut off: %v, want context.Canceled", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "annotations.csv")); err == nil {
		t.Error("there are annotations before there are all scans")
	}
	sum, err := phantom.WriteLuna(t.Context(), dir, smallLuna, nil)
	if err != nil {
		t.Fatal(err)
	}
	if sum.Made < 1 || sum.Made > 2 || sum.Scans != 4 || sum.Positive < 1 || sum.Positive > 3 {
		t.Errorf("summary %+v, want 4 scans, 1 or 2 of them made by the second run, some positive, some not", sum)
	}

	uids := table(t, filepath.Join(dir, "seriesuids.csv"))
	annotations := table(t, filepath.Join(dir, "annotations.csv"))[1:]
	if len(uids) != 4 || len(annotations) != sum.Nodules {
		t.Fatalf("%d scans, %d annotations, want 4 and %d", len(uids), len(annotations), sum.Nodules)
	}
	turned := 0
	for i, uid := range uids {
		name := filepath.Join(dir, "subset"+strconv.Itoa(i), uid[0]+".mhd")
		v, err := ct.ReadMetaImage(name)
		if err != nil {
			t.Fatal(err)
		}
		lungs, err := ct.ReadMetaImage(filepath.Join(dir, "seg-lungs-LUNA16", uid[0]+".mhd"))
		if err != nil {
			t.Fatal(err)
		}
		if lungs.Geometry != v.Geometry {
			t.Errorf("scan %d: lungs on the grid %+v, the scan on %+v", i, lungs.Geometry, v.Geometry)
		}
		if v.Axes[0][0] < 0 {
			turned++
		}
		checkLabels(t, v, lungs)
		for _, row := range annotations {
			if row[0] != uid[0] {
				continue
			}
			p, d := position(t, row), number(t, row[4])
			if d < 3 {
				t.Errorf("an annotated nodule has %g mm", d)
			}
			x, y, z := v.Voxel(p)
			at := v.Index(int(math.Round(x)), int(math.Round(y)), int(math.Round(z)))
			if l := lungs.HU[at]; l != 3 && l != 4 {
				t.Errorf("a nodule of %g mm lies in label %d", d, l)
			}
			if d > 9 && v.HU[at] < -720 {
				t.Errorf("a nodule of %g mm has %d HU in its centre", d, v.HU[at])
			}
		}
	}
	if turned != 2 {
		t.Errorf("%d of 4 scans are turned, want 2", turned)
	}
	classes := map[string]int{}
	for _, row := range table(t, filepath.Join(dir, "candidates_V2.csv"))[1:] {
		classes[row[4]]++
		for _, a := range annotations {
			near := distance(position(t, row), position(t, a)) < number(t, a[4])/2
			if row[0] == a[0] && near && row[4] != "1" {
				t.Errorf("candidate %v lies in the nodule %v", row, a)
			}
		}
	}
	if classes["1"] != 2*len(annotations) || classes["0"] == 0 {
		t.Errorf("candidates by class: %v, want 2 of class 1 for each of %d nodules", classes, len(annotations))
	}
	if len(table(t, filepath.Join(dir, "annotations_excluded.csv"))) != sum.Excluded+1 {
		t.Error("annotations_excluded.csv has another number of rows than the summary says")
	}

	other := smallLuna
	other.Seed++
	if _, err := phantom.WriteLuna(t.Context(), dir, other, nil); err == nil || !strings.Contains(err.Error(), "other options") {
		t.Errorf("another seed into the same folder: %v, want a refusal", err)
	}
}

// checkLabels looks at the sides: 3 is the patient's left (LPS x to the left),
// 4 the right, both full of air, the trachea between them.
func checkLabels(t *testing.T, v, lungs *ct.Volume) {
	t.Helper()
	var sum, hu [6]float64
	var n [6]float64
	for k := range v.Size[2] {
		for j := range v.Size[1] {
			for i := range v.Size[0] {
				at := v.Index(i, j, k)
				l := lungs.HU[at]
				sum[l] += v.World(float64(i), float64(j), float64(k))[0]
				hu[l] += float64(v.HU[at])
				n[l]++
			}
		}
	}
	if !(sum[3]/n[3] > sum[5]/n[5] && sum[5]/n[5] > sum[4]/n[4]) {
		t.Errorf("mean x of left, trachea, right: %g, %g, %g; want them falling", sum[3]/n[3], sum[5]/n[5], sum[4]/n[4])
	}
	for _, l := range []int{3, 4} {
		if mean := hu[l] / n[l]; mean > -650 {
			t.Errorf("label %d has %g HU on average, want lung", l, mean)
		}
	}
}

func TestWriteLunaIsDeterministic(t *testing.T) {
	o := phantom.LunaOptions{Scans: 1, Seed: 5, Rows: 64, Slices: 24}
	var files [2]map[string]string
	for run := range files {
		files[run] = map[string]string{}
		dir := t.TempDir()
		o.Threads = run + 1
		if _, err := phantom.WriteLuna(t.Context(), dir, o, nil); err != nil {
			t.Fatal(err)
		}
		err := filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
			if err != nil || e.IsDir() {
				return err
			}
			text, err := os.ReadFile(name)
			relative, _ := filepath.Rel(dir, name)
			files[run][relative] = string(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if len(files[0]) != 5+7 {
		t.Errorf("%d files, want five of the scan and seven more", len(files[0]))
	}
	for name, text := range files[0] {
		if files[1][name] != text {
			t.Errorf("%s differs between two runs", name)
		}
	}
	var back phantom.LunaOptions
	if err := json.Unmarshal([]byte(files[0]["phantom.json"]), &back); err != nil || back.Seed != 5 {
		t.Errorf("phantom.json: %+v, %v", back, err)
	}
}

func TestWriteLunaRefuses(t *testing.T) {
	full := t.TempDir()
	if err := os.WriteFile(filepath.Join(full, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, o := range map[string]phantom.LunaOptions{
		"too many": {Scans: 1 << 20}, "too small": {Rows: 8}, "too noisy": {Noise: 999}, "not empty": {},
	} {
		if _, err := phantom.WriteLuna(t.Context(), full, o, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func position(t *testing.T, row []string) [3]float64 {
	t.Helper()
	return [3]float64{number(t, row[1]), number(t, row[2]), number(t, row[3])}
}

func number(t *testing.T, s string) float64 {
	t.Helper()
	x, err := strconv.ParseFloat(s, 64)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func distance(a, b [3]float64) float64 {
	return math.Hypot(math.Hypot(a[0]-b[0], a[1]-b[1]), a[2]-b[2])
}
