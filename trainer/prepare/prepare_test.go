package prepare_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hilum/models/ct"
	"hilum/trainer/convert"
	"hilum/trainer/npy"
	"hilum/trainer/prepare"
	"hilum/trainer/volume"
)

const (
	uid   = "1.2.826.0.1"
	other = "1.2.826.0.2"
)

// The nodule of the synthetic chest, LPS mm.
var (
	nodule       = [3]float64{-80, 10, 12}
	noduleRadius = 9.0
)

// chest returns a body with two lungs and a nodule in the right one, on a grid
// whose axes run as wanted.
func chest(axes [3][3]float64) *ct.Volume {
	g := ct.Geometry{Size: [3]int{110, 90, 60}, Spacing: [3]float64{3, 3, 4}, Axes: axes}
	if axes[1][1] == 0 { // the rows run along z
		g.Size, g.Spacing = [3]int{110, 60, 90}, [3]float64{3, 4, 3}
	}
	middle := g.World(float64(g.Size[0]-1)/2, float64(g.Size[1]-1)/2, float64(g.Size[2]-1)/2)
	for a := range 3 {
		g.Origin[a] = -middle[a]
	}
	v := &ct.Volume{Geometry: g, HU: make([]int16, g.Voxels())}
	in := func(p, c, half [3]float64) bool {
		sum := 0.0
		for a := range 3 {
			sum += (p[a] - c[a]) * (p[a] - c[a]) / (half[a] * half[a])
		}
		return sum < 1
	}
	r := noduleRadius
	for n := range v.HU {
		p := g.World(float64(n%g.Size[0]), float64(n/g.Size[0]%g.Size[1]), float64(n/(g.Size[0]*g.Size[1])))
		hu := -1000.0
		switch {
		case in(p, nodule, [3]float64{r, r, r}):
			hu = 40
		case in(p, [3]float64{-70, 0, 0}, [3]float64{50, 75, 95}), in(p, [3]float64{70, 0, 0}, [3]float64{50, 75, 95}):
			hu = -860
		case in([3]float64{p[0], p[1], 0}, [3]float64{}, [3]float64{150, 115, 1}):
			hu = 40
		}
		v.HU[n] = int16(hu)
	}
	return v
}

var axial = [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}

// quick is the default with a coarser grid.
func quick() ct.PrepareSpec {
	spec := ct.DefaultPrepareSpec()
	spec.SpacingMM = [3]float64{2, 2, 2}
	return spec
}

func write(t *testing.T, name string, v *ct.Volume) string {
	t.Helper()
	if err := errors.Join(os.MkdirAll(filepath.Dir(name), 0o755), ct.WriteMetaImage(name, v, false)); err != nil {
		t.Fatal(err)
	}
	return name
}

func annotations(t *testing.T, rows ...string) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "annotations.csv")
	text := "seriesuid,coordX,coordY,coordZ,diameter_mm\n" + strings.Join(rows, "\n") + "\n"
	if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func row(uid string, at [3]float64, diameter float64) string {
	return fmt.Sprintf("%s,%g,%g,%g,%g", uid, at[0], at[1], at[2], diameter)
}

func run(t *testing.T, o prepare.Options, paths ...string) prepare.Summary {
	t.Helper()
	if o.Spec == (ct.PrepareSpec{}) {
		o.Spec = quick()
	}
	sum, err := prepare.Run(t.Context(), paths, o)
	if err != nil {
		t.Fatal(err)
	}
	return sum
}

// brightest returns the middle of what is bright around a row of the label
// (z, y, x, diameter), in voxels.
func brightest(t *testing.T, out, uid string) (label, middle [3]float64) {
	t.Helper()
	clean, err := npy.ReadFile[uint8](filepath.Join(out, uid+"_clean.npy"))
	if err != nil {
		t.Fatal(err)
	}
	rows, err := npy.ReadFile[float64](filepath.Join(out, uid+"_label.npy"))
	if err != nil {
		t.Fatal(err)
	}
	if len(clean.Shape) != 4 || clean.Shape[0] != 1 || !slices.Equal(rows.Shape, []int{1, 4}) {
		t.Fatalf("shapes %v and %v, want [1 D H W] and [1 4]", clean.Shape, rows.Shape)
	}
	copy(label[:], rows.Data)
	reach, n := rows.Data[3]*0.75, 0.0
	for k := range clean.Shape[1] {
		for j := range clean.Shape[2] {
			for i := range clean.Shape[3] {
				d := [3]float64{float64(k) - label[0], float64(j) - label[1], float64(i) - label[2]}
				if math.Sqrt(d[0]*d[0]+d[1]*d[1]+d[2]*d[2]) < reach && clean.Data[(k*clean.Shape[2]+j)*clean.Shape[3]+i] > 113 { // -400 HU
					n++
					for a, at := range [3]int{k, j, i} {
						middle[a] += float64(at)
					}
				}
			}
		}
	}
	for a := range 3 {
		middle[a] /= n
	}
	return label, middle
}

func TestNoduleIsWhereTheLabelSays(t *testing.T) {
	csv := annotations(t, row(uid, nodule, 2*noduleRadius), row("1.2.826.0.99", nodule, 5))
	for name, axes := range map[string][3][3]float64{
		"axial":            axial,
		"flipped in plane": {{-1, 0, 0}, {0, -1, 0}, {0, 0, 1}},
		"flipped x and z":  {{-1, 0, 0}, {0, 1, 0}, {0, 0, -1}},
		"coronal":          {{1, 0, 0}, {0, 0, -1}, {0, 1, 0}},
	} {
		for _, spacing := range [][3]float64{{1.5, 1.5, 1.5}, {1.2, 1.2, 2.5}} {
			if name != "axial" && spacing[0] != spacing[2] {
				continue // quick
			}
			t.Run(fmt.Sprint(name, spacing), func(t *testing.T) {
				v := chest(axes)
				in := write(t, filepath.Join(t.TempDir(), uid+".mhd"), v)
				o := prepare.Options{Out: t.TempDir(), Spec: ct.DefaultPrepareSpec(), Annotations: csv}
				o.Spec.SpacingMM = spacing
				sum := run(t, o, in)
				if sum.Prepared != 1 || sum.Nodules != 1 || sum.Positive != 1 || sum.Absent != 1 || len(sum.Lost) != 0 || !strings.Contains(sum.LUNA16, "1 of 888") {
					t.Errorf("summary = %+v", sum)
				}
				label, middle := brightest(t, o.Out, uid)
				for a := range 3 {
					if math.Abs(label[a]-middle[a]) > 0.6 {
						t.Errorf("the nodule is at %.2f (z, y, x), its label says %.2f", middle, label)
						break
					}
				}
				// The manifest leads from the voxel back to the patient.
				m, err := prepare.ReadManifest(o.Out)
				if err != nil {
					t.Fatal(err)
				}
				c := m.Cases[0]
				world := c.Grid.Geometry().World(label[2], label[1], label[0])
				for a := range 3 {
					if math.Abs(world[a]-nodule[a]) > 1e-6 {
						t.Errorf("the label lies at %v, want %v", world, nodule)
					}
				}
				if c.Nodules[0].DiameterVoxels != 2*noduleRadius/spacing[0] {
					t.Errorf("diameter = %v voxels", c.Nodules[0].DiameterVoxels)
				}
				b, err := os.ReadFile(filepath.Join(o.Out, c.Clean.Name))
				if err != nil {
					t.Fatal(err)
				}
				if hash := sha256.Sum256(b); hex.EncodeToString(hash[:]) != c.Clean.SHA256 || int64(len(b)) != c.Clean.Bytes {
					t.Errorf("the hash of %s is another", c.Clean.Name)
				}
				// What serves makes the same voxels.
				p, err := ct.Prepare(v, o.Spec, 1)
				if err != nil {
					t.Fatal(err)
				}
				if !slices.Equal(b[len(b)-len(p.Data):], p.Data) {
					t.Errorf("the voxels are not those of ct.Prepare")
				}
			})
		}
	}
}

func TestGivenMasks(t *testing.T) {
	v := chest(axial)
	dir := t.TempDir()
	in := write(t, filepath.Join(dir, uid+".mhd"), v)
	mask, err := ct.LungMask(v, 1)
	if err != nil {
		t.Fatal(err)
	}
	seg := chest(axial)
	for n, b := range mask.Bits {
		x := seg.World(float64(n%seg.Size[0]), 0, 0)[0]
		seg.HU[n] = ct.LabelTrachea * int16(1-b)
		if b != 0 {
			seg.HU[n] = ct.LabelRightLung
			if x > 0 {
				seg.HU[n] = ct.LabelLeftLung
			}
		}
	}
	masks := filepath.Join(dir, "masks")
	write(t, filepath.Join(masks, uid+".mhd"), seg)
	given, own := t.TempDir(), t.TempDir()
	csv := annotations(t, row(uid, nodule, 18))
	run(t, prepare.Options{Out: given, Masks: masks, Annotations: csv}, in)
	run(t, prepare.Options{Out: own, Annotations: csv}, in)
	a, err := prepare.ReadManifest(given)
	if err != nil {
		t.Fatal(err)
	}
	b, err := prepare.ReadManifest(own)
	if err != nil {
		t.Fatal(err)
	}
	if a.Settings.Lungs == b.Settings.Lungs {
		t.Errorf("the manifest does not tell the lungs apart: %q", a.Settings.Lungs)
	}
	if x, y := a.Cases[0].LungML, b.Cases[0].LungML; math.Abs(x/y-1) > 0.03 {
		t.Errorf("lungs of %v mL, want about %v", x, y)
	}
	for n := range 3 {
		if d := a.Cases[0].Grid.Size[n] - b.Cases[0].Grid.Size[n]; d < -4 || d > 4 {
			t.Errorf("box %v, want about %v", a.Cases[0].Grid.Size, b.Cases[0].Grid.Size)
		}
	}
	// A mask of another scan, an empty one, and none.
	for _, tt := range []struct {
		name, want string
		damage     func(v *ct.Volume)
	}{
		{"moved", ct.ErrOtherGrid.Error(), func(v *ct.Volume) { v.Origin[2] += 50 }},
		{"empty", "no voxel of value 3 or 4", func(v *ct.Volume) { clear(v.HU) }},
	} {
		wrong := chest(axial)
		copy(wrong.HU, seg.HU)
		tt.damage(wrong)
		folder := filepath.Join(dir, tt.name)
		write(t, filepath.Join(folder, uid+".mhd"), wrong)
		_, err := prepare.Run(t.Context(), []string{in}, prepare.Options{Out: t.TempDir(), Spec: quick(), Masks: folder})
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), uid) {
			t.Errorf("%s: %v, want an error with %q and the scan", tt.name, err, tt.want)
		}
	}
	_, err = prepare.Run(t.Context(), []string{in}, prepare.Options{Out: t.TempDir(), Spec: quick(), Masks: t.TempDir()})
	if err == nil || !strings.Contains(err.Error(), "no lung mask") {
		t.Errorf("without a mask: %v", err)
	}
}

func TestLostNodulesAreNamed(t *testing.T) {
	in := write(t, filepath.Join(t.TempDir(), uid+".mhd"), chest(axial))
	csv := annotations(t, row(uid, nodule, 18), row(uid, [3]float64{0, 0, 119}, 8), row(uid, [3]float64{0, 90, 0}, 12))
	for _, masking := range []bool{true, false} {
		spec := quick()
		spec.Masking = masking
		sum := run(t, prepare.Options{Out: t.TempDir(), Annotations: csv, Spec: spec}, in)
		if len(sum.Lost) < 1 || sum.Outside != len(sum.Lost) || !strings.Contains(strings.Join(sum.Lost, "\n"), uid+": the nodule of 8.0 mm at 0.0 0.0 119.0 (LPS) lies outside") {
			t.Errorf("masking %v: lost = %q", masking, sum.Lost)
		}
		if strings.Contains(fmt.Sprint(sum.Lost), "-80") {
			t.Errorf("the nodule in the lung is among the lost: %q", sum.Lost)
		}
	}
}

func TestRunGoesOnWhereItWasCutOff(t *testing.T) {
	dir, out := t.TempDir(), t.TempDir()
	write(t, filepath.Join(dir, uid+".mhd"), chest(axial))
	write(t, filepath.Join(dir, other+".mhd"), chest([3][3]float64{{-1, 0, 0}, {0, -1, 0}, {0, 0, 1}}))
	csv := annotations(t, row(uid, nodule, 18))
	o := prepare.Options{Out: out, Annotations: csv, Spec: quick(), Jobs: 1}
	ctx, cancel := context.WithCancel(t.Context())
	cut := o
	cut.Progress = func(done, total int) {
		if done == 1 && total == 2 {
			cancel()
		}
	}
	if _, err := prepare.Run(ctx, []string{dir}, cut); !errors.Is(err, context.Canceled) {
		t.Fatalf("Run = %v, want it cancelled", err)
	}
	// The last line of the journal was cut off in its middle.
	journal := filepath.Join(out, "manifest.partial")
	b, err := os.ReadFile(journal)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(journal, append(b, `{"uid":"1.2.8`...), 0o600); err != nil {
		t.Fatal(err)
	}
	if sum := run(t, o, dir); sum.Kept != 1 || sum.Prepared != 1 || sum.Cases != 2 || sum.Positive != 1 {
		t.Errorf("second run = %+v", sum)
	}
	manifest, err := os.ReadFile(filepath.Join(out, prepare.ManifestFile))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(journal); !os.IsNotExist(err) {
		t.Errorf("the journal is still there")
	}
	// Damaged output is made again, and everything is as before.
	name := filepath.Join(out, uid+"_clean.npy")
	f, err := os.OpenFile(name, os.O_RDWR, 0)
	if err == nil {
		_, err = f.WriteAt([]byte{1}, 5000)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		t.Fatal(err)
	}
	if sum := run(t, o, dir); sum.Kept != 1 || sum.Prepared != 1 {
		t.Errorf("run after damage = %+v", sum)
	}
	again, err := os.ReadFile(filepath.Join(out, prepare.ManifestFile))
	if err != nil || string(again) != string(manifest) {
		t.Errorf("the manifest changed: %v", err)
	}
	// Other annotations change one case only.
	o.Annotations = annotations(t, row(uid, nodule, 18), row(other, nodule, 18))
	if sum := run(t, o, dir); sum.Kept != 1 || sum.Prepared != 1 || sum.Positive != 2 {
		t.Errorf("run with other annotations = %+v", sum)
	}
	// A run of one scan keeps the other; other settings are refused.
	if sum := run(t, o, filepath.Join(dir, uid+".mhd")); sum.Kept != 1 || sum.Elsewhen != 1 || sum.Cases != 2 {
		t.Errorf("run of one scan = %+v", sum)
	}
	o.Spec.Masking = false
	if _, err := prepare.Run(t.Context(), []string{dir}, o); err == nil || !strings.Contains(err.Error(), "other settings") {
		t.Errorf("run with other settings = %v", err)
	}
	o.Spec.Masking = true
	if err := os.Remove(filepath.Join(out, other+"_label.npy")); err != nil {
		t.Fatal(err)
	}
	if _, err := prepare.Run(t.Context(), []string{filepath.Join(dir, uid+".mhd")}, o); err == nil || !strings.Contains(err.Error(), other+"_label.npy is missing") {
		t.Errorf("run beside a missing file = %v", err)
	}
}

func TestBrokenScanStopsTheRun(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, uid+".mhd"), chest(axial))
	empty := chest(axial)
	for n := range empty.HU {
		empty.HU[n] = 40
	}
	write(t, filepath.Join(dir, other+".mhd"), empty)
	_, err := prepare.Run(t.Context(), []string{dir}, prepare.Options{Out: t.TempDir(), Spec: quick()})
	if !errors.Is(err, ct.ErrNoLungs) || !strings.Contains(err.Error(), "scan "+other) {
		t.Errorf("Run = %v, want ErrNoLungs with the scan's name", err)
	}
}

// TestRealNodule follows the annotated nodule of a real scan from DICOM over
// MetaImage to the prepared box.
func TestRealNodule(t *testing.T) {
	data := os.Getenv("HILUM_DATA")
	if data == "" {
		data = filepath.Join("..", "..", "..", "shared", "data")
	}
	series := filepath.Join(data, "lidc-0001")
	if _, err := os.Stat(series); err != nil {
		t.Skip("the data set lidc-0001 is not beside the checkout (HILUM_DATA names another place)")
	}
	images, out := t.TempDir(), t.TempDir()
	if _, err := convert.Run(t.Context(), []string{series}, convert.Options{Out: images}); err != nil {
		t.Fatal(err)
	}
	sum := run(t, prepare.Options{Out: out, Spec: ct.DefaultPrepareSpec(), Annotations: filepath.Join(data, "luna16", "annotations.csv")}, images)
	if sum.Nodules != 1 || len(sum.Lost) != 0 {
		t.Fatalf("summary = %+v", sum)
	}
	found, err := volume.Find(images)
	if err != nil {
		t.Fatal(err)
	}
	label, middle := brightest(t, out, found.Scans[0].UID)
	for a := range 3 {
		// The nodule is no ball, and the chest wall is near.
		if math.Abs(label[a]-middle[a]) > 2.5 {
			t.Errorf("the nodule is at %.2f (z, y, x), its label says %.2f", middle, label)
			break
		}
	}
	m, err := prepare.ReadManifest(out)
	if err != nil {
		t.Fatal(err)
	}
	if kept := m.Cases[0].Nodules[0].Kept; kept != 1 {
		t.Errorf("%.3f of the nodule are in the box, want all", kept)
	}
}
