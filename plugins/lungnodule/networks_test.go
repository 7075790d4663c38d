package main

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"io"
	"math"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"hilum/models"
	"hilum/models/ct"
	"hilum/models/nodule"
	"hilum/plugins/api"
)

// A model folder of a test: a manifest and networks of testdata (networks.py
// says what they compute).
func modelFolder(t *testing.T, manifest any, network, rescoring string) string {
	t.Helper()
	dir := t.TempDir()
	text, err := json.Marshal(manifest)
	if err != nil {
		t.Fatal(err)
	}
	files := map[string][]byte{models.ManifestFile: text, models.NetworkFile: readNetwork(t, network)}
	if rescoring != "" {
		files[models.RescoreFile] = readNetwork(t, rescoring)
	}
	for name, data := range files {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func readNetwork(t *testing.T, name string) []byte {
	t.Helper()
	data, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func hashOf(t *testing.T, name string) string {
	sum := sha256.Sum256(readNetwork(t, name))
	return hex.EncodeToString(sum[:])
}

// coarseManifest is that of the blob detector on a grid of 2 mm: an eighth of
// the work, and its anchors are twice as large.
func coarseManifest(t *testing.T) models.Manifest {
	t.Helper()
	m, err := models.LoadManifest(blobFolder)
	if err != nil {
		t.Fatal(err)
	}
	m.Input.Prepare.SpacingMM = [3]float64{2, 2, 2}
	return m
}

const blobNetwork = blobFolder + "/" + models.NetworkFile

// judgeFolder is a model folder of judge.onnx.
func judgeFolder(t *testing.T) (string, models.ClassifierManifest) {
	t.Helper()
	m := models.ClassifierManifest{
		Common: coarseManifest(t).Common,
		Input: models.ClassifierInput{
			Crops: "crops", Diameter: "diameter_mm", SpacingMM: 1.25, WindowHU: [2]float64{-1000, 400}, PadValueHU: -1000, Size: 16,
		},
		Outputs: models.ClassifierOutputs{
			Malignancy: "malignancy", Texture: "texture", Leak: 0.02,
			TextureNames: []string{models.TextureSolid, models.TexturePartSolid, models.TextureGroundGlass},
		},
	}
	m.Name, m.Task, m.SHA256 = "judge", models.TaskNoduleClassification, hashOf(t, "testdata/judge.onnx")
	return modelFolder(t, m, "testdata/judge.onnx", ""), m
}

// TestJudgedFindings runs detector, second network and classifier on a phantom
// and computes by hand what the networks answer.
func TestJudgedFindings(t *testing.T) {
	library := installedRuntime(t)
	folder, _ := phantomSeries(t)
	manifest := coarseManifest(t)
	plain := analyse(t, options{modelDir: modelFolder(t, manifest, blobNetwork, ""), runtime: library}, folder)
	if len(plain.Findings) < 3 || plain.Malignancy != nil || plain.Findings[0].Malignancy != nil {
		t.Fatalf("without a classifier: %d findings, malignancy %v", len(plain.Findings), plain.Malignancy)
	}

	manifest.Rescore = &models.Rescore{
		SHA256: hashOf(t, "testdata/centre.onnx"), Input: "crops", Output: "logit", Size: 32, Batch: 3,
		Threshold: manifest.Output.Threshold, Weight: 0.25,
	}
	manifest.Output.Threshold = 0.01 // keeps all that the detector found
	classifier, judge := judgeFolder(t)
	o := options{modelDir: modelFolder(t, manifest, blobNetwork, "testdata/centre.onnx"), classifierDir: classifier, runtime: library}
	got := analyse(t, o, folder)
	if len(got.Findings) != len(plain.Findings) {
		t.Fatalf("%d findings, %d without the second network", len(got.Findings), len(plain.Findings))
	}
	before := map[string]float64{}
	for _, f := range plain.Findings {
		before[f.ID] = f.Probability
	}
	v, err := ct.LoadSeries(t.Context(), folder, ct.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := ct.Prepare(v, manifest.Input.Prepare, 0)
	if err != nil {
		t.Fatal(err)
	}
	last, none := 1.0, 1-judge.Outputs.Leak
	for i, f := range got.Findings {
		want := 0.75*before[f.ID] + 0.25*sigmoid(8*middle(p, manifest.Input, f.Center))
		if before[f.ID] == 0 || math.Abs(f.Probability-want) > 1e-4 || f.Probability > last {
			t.Errorf("finding %d has probability %g after %g, want %g", i, f.Probability, last, want)
		}
		last = f.Probability
		cube, err := v.Cut(f.Center, judge.Input.SpacingMM, judge.Input.Size, -1000)
		if err != nil {
			t.Fatal(err)
		}
		m := 0.0
		for _, hu := range cube {
			m += (min(max(float64(hu), -1000), 400) + 1000) / 1400 / float64(len(cube))
		}
		malignancy := sigmoid(2*m + 0.1*f.DiameterMM - 2)
		if f.Malignancy == nil || math.Abs(*f.Malignancy-malignancy) > 1e-4 {
			t.Fatalf("finding %d has malignancy %v, want %g", i, f.Malignancy, malignancy)
		}
		shares := map[string]float64{models.TextureSolid: 9 * m, models.TexturePartSolid: 4, models.TextureGroundGlass: 9 * (1 - m)}
		sum, texture := 0.0, models.TexturePartSolid
		for name, s := range shares {
			sum += math.Exp(s)
			if s > shares[texture] {
				texture = name
			}
		}
		if share := math.Exp(shares[texture]) / sum; f.Texture != texture || math.Abs(f.TextureProbability-share) > 1e-4 {
			t.Errorf("finding %d is %s (%g), want %s (%g)", i, f.Texture, f.TextureProbability, texture, share)
		}
		if i < caseFindings {
			none *= 1 - *f.Malignancy
		}
	}
	if got.Malignancy == nil || math.Abs(*got.Malignancy-(1-none)) > 1e-12 {
		t.Errorf("malignancy of the patient is %v, want %g", got.Malignancy, 1-none)
	}
	for _, key := range []string{"provider", "provider_rescore", "provider_classify"} {
		if got.Attributes[key] != models.ProviderCPU {
			t.Errorf("attribute %s is %q, want cpu", key, got.Attributes[key])
		}
	}

	// The same scan gives the same bytes, in another process too.
	again := analyse(t, o, folder)
	if !reflect.DeepEqual(again.Findings, got.Findings) || *again.Malignancy != *got.Malignancy {
		t.Errorf("a second run found %+v, the first %+v", again.Findings, got.Findings)
	}
}

// analyse runs one series through a plugin of its own.
func analyse(t *testing.T, o options, folder string) api.Result {
	t.Helper()
	d := newTestDetectorWith(t, o, io.Discard)
	r, err := d.Analyze(t.Context(), api.Job{ID: "test", Folder: folder}, func(float64, string) {})
	if err != nil {
		t.Fatal(err)
	}
	openedLibrary = d.library
	if err := r.Validate(api.DefaultLimits()); err != nil {
		t.Fatal(err)
	}
	return r
}

// middle is the mean of the 4³ voxels in the middle of the crop around a place,
// as the second network gets them.
func middle(p *ct.Prepared, in models.Input, centre [3]float64) float64 {
	x, y, z := p.Voxel(centre)
	first := func(v float64) int { return int(math.Floor(v-15.5+0.5)) + 14 }
	sum := 0.0
	for k := range 4 {
		for j := range 4 {
			for i := range 4 {
				at := [3]int{first(x) + i, first(y) + j, first(z) + k}
				v := in.Prepare.PadValue
				if at[0] >= 0 && at[1] >= 0 && at[2] >= 0 && at[0] < p.Size[0] && at[1] < p.Size[1] && at[2] < p.Size[2] {
					v = p.Data[p.Index(at[0], at[1], at[2])]
				}
				sum += (float64(v) - in.Scale.Subtract) / in.Scale.Divide
			}
		}
	}
	return sum / 64
}

func sigmoid(x float64) float64 { return 1 / (1 + math.Exp(-x)) }

// TestTilingsAgree cuts a scan in several ways. What the margin does not hold of
// what the network looks at, by far the least, may move a probability a little.
func TestTilingsAgree(t *testing.T) {
	library := installedRuntime(t)
	folder, _ := phantomSeries(t)
	var first api.Result
	for i, edge := range []int{192, 96} {
		m := coarseManifest(t)
		m.Input.Patch = [3]int{edge, edge, edge}
		r := analyse(t, options{modelDir: modelFolder(t, m, blobNetwork, ""), runtime: library, threshold: 0.1}, folder)
		if i == 0 {
			if first = r; len(r.Findings) < 3 {
				t.Fatalf("%d findings", len(r.Findings))
			}
			continue
		}
		if r.Attributes["patches"] == first.Attributes["patches"] {
			t.Errorf("with patches of %d the scan is cut like before: %s", edge, r.Attributes["patches"])
		}
		if len(r.Findings) != len(first.Findings) {
			t.Fatalf("patches of %d: %d findings, the first tiling has %d", edge, len(r.Findings), len(first.Findings))
		}
		for k, f := range r.Findings {
			if w := first.Findings[k]; distance(f.Center, w.Center) > 1e-2 || math.Abs(f.Probability-w.Probability) > 1e-2 || math.Abs(f.DiameterMM-w.DiameterMM) > 1e-2 {
				t.Errorf("patches of %d: finding %d is %v %g %g, in the first tiling %v %g %g", edge, k,
					f.Center, f.Probability, f.DiameterMM, w.Center, w.Probability, w.DiameterMM)
			}
		}
	}
}

// TestPleuralMass paints a mass of 40 mm into the wall of a phantom's chest,
// its centre more than 10 mm outside the lungs' mask, with a dense core that
// the detector of the test finds. A reach that holds the core reports it; one
// that does not is how a mask loses a lesion.
func TestPleuralMass(t *testing.T) {
	library := installedRuntime(t)
	folder, _ := phantomSeries(t)
	v, err := ct.LoadSeries(t.Context(), folder, ct.Options{})
	if err != nil {
		t.Fatal(err)
	}
	centre := paintMass(t, v)
	name := "mass.mha"
	scan := t.TempDir()
	if err := ct.WriteMetaImage(filepath.Join(scan, name), v, false); err != nil {
		t.Fatal(err)
	}

	m := coarseManifest(t)
	m.Name, m.SHA256 = "bright", hashOf(t, "testdata/bright.onnx")
	m.Input.Prepare.Masking, m.Input.Prepare.MarginVoxels = false, [2]int{16, 16}
	m.Input.Patch, m.Input.Step, m.Input.Margin, m.Input.Batch = [3]int{48, 48, 48}, 0, 8, 2
	m.Output.Anchors, m.Output.MinInLung, m.Output.Threshold = []float64{20}, 0, 0.001
	near := func(r api.Result) bool {
		for _, f := range r.Findings {
			if distance(f.Center, centre) < 20 {
				return true
			}
		}
		return false
	}
	m.Input.ReachMM = 25
	r := analyse(t, options{modelDir: modelFolder(t, m, "testdata/bright.onnx", ""), runtime: library}, scan)
	if !near(r) || r.Attributes["tiles"] == "0" {
		t.Errorf("the mass at %v is not among the findings %+v", centre, r.Findings)
	}
	m.Input.ReachMM = 4
	if r := analyse(t, options{modelDir: modelFolder(t, m, "testdata/bright.onnx", ""), runtime: library}, scan); near(r) {
		t.Error("with a reach of 4 mm the mass is found: the test's mask does not lose it")
	}
}

// paintMass paints the mass at the side of a lung and returns its centre.
func paintMass(t *testing.T, v *ct.Volume) [3]float64 {
	t.Helper()
	const radius, core, depth = 20.0, 9.0, 14.0 // mm; depth: of the centre in the wall
	mask, err := ct.LungMask(v, 0)
	if err != nil {
		t.Fatal(err)
	}
	// The outermost lung of the middle slice on its left.
	k, best := v.Size[2]/2, [3]int{-1}
	for j := range v.Size[1] {
		for i := v.Size[0] - 1; i >= 0 && i > best[0]; i-- {
			if mask.Bits[v.Index(i, j, k)] != 0 {
				best = [3]int{i, j, k}
				break
			}
		}
	}
	centre := v.World(float64(best[0]), float64(best[1]), float64(best[2]))
	centre[0] += depth
	for k := range v.Size[2] {
		for j := range v.Size[1] {
			for i := range v.Size[0] {
				switch d := distance(v.World(float64(i), float64(j), float64(k)), centre); {
				case d < core:
					v.HU[v.Index(i, j, k)] = 600
				case d < radius:
					v.HU[v.Index(i, j, k)] = 40
				}
			}
		}
	}
	if mask, err = ct.LungMask(v, 0); err != nil {
		t.Fatal(err)
	}
	gap := math.Inf(1)
	for k := range v.Size[2] {
		for j := range v.Size[1] {
			for i := range v.Size[0] {
				if mask.Bits[v.Index(i, j, k)] != 0 {
					gap = min(gap, distance(v.World(float64(i), float64(j), float64(k)), centre))
				}
			}
		}
	}
	if gap < 10 || gap > 20 {
		t.Fatalf("the mass lies %.1f mm outside the mask, want 10 to 20", gap)
	}
	return centre
}

func distance(a, b [3]float64) float64 {
	return math.Hypot(math.Hypot(a[0]-b[0], a[1]-b[1]), a[2]-b[2])
}

// TestPlaceInput runs a network whose answer is the place of each cell in the scan.
func TestPlaceInput(t *testing.T) {
	library := installedRuntime(t)
	folder, _ := phantomSeries(t)
	m := coarseManifest(t)
	m.Name, m.SHA256 = "place", hashOf(t, "testdata/place.onnx")
	m.Input.Place = "place"
	m.Input.Patch, m.Input.Step, m.Input.Margin, m.Input.Batch = [3]int{64, 64, 64}, 16, 8, 1
	m.Output.Anchors, m.Output.Threshold = []float64{10}, 0.9
	p := preparedSeries(t, folder, m)
	found, tiles := detected(t, options{modelDir: modelFolder(t, m, "testdata/place.onnx", ""), runtime: library}, p)
	if len(found) < 100 || len(tiles.tiles) < 2 {
		t.Fatalf("%d candidates in %d tiles are too few for a test", len(found), len(tiles.tiles))
	}
	for _, c := range found {
		at, fits := [3]float64{c.Z, c.Y, c.X}, false
		for _, k := range tiles.tiles {
			logit, o := 3.0, k.origin
			for axis, weight := range [3]float64{8, 4, 2} {
				cell := (at[axis] - float64(o[axis]) - 1.5) / 4
				share := cell / float64(k.patch[axis]/4-1)
				scan := float64(p.Size[2-axis])
				logit += weight * ((float64(o[axis])+share*float64(k.patch[axis]))/scan - 0.5)
			}
			inside := true
			for axis := range at {
				inside = inside && at[axis] > float64(k.start[axis]) && at[axis] < float64(k.start[axis]+k.core[axis])
			}
			fits = fits || inside && math.Abs(sigmoid(logit)-c.Probability) < 1e-5
		}
		if !fits {
			t.Fatalf("the candidate at %v has the probability %g, which is that of no tile it lies in", at, c.Probability)
		}
	}
}

func preparedSeries(t *testing.T, folder string, m models.Manifest) *ct.Prepared {
	t.Helper()
	v, err := ct.LoadSeries(t.Context(), folder, ct.Options{})
	if err != nil {
		t.Fatal(err)
	}
	p, err := ct.Prepare(v, m.Input.Prepare, 1)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// detected returns the candidates of a plugin of its own, before they are merged.
func detected(t *testing.T, o options, p *ct.Prepared) ([]nodule.Candidate, tiling) {
	t.Helper()
	d := newTestDetectorWith(t, o, io.Discard)
	if err := d.open(); err != nil {
		t.Fatal(err)
	}
	openedLibrary = d.library
	if err := d.use("cpu", 1); err != nil {
		t.Fatal(err)
	}
	defer d.engine.close()
	found, tiles, err := d.detect(t.Context(), p, func(float64, string) {})
	if err != nil {
		t.Fatal(err)
	}
	return found, tiles
}

// TestLookAgain runs a network that says something else in a mirror: it answers by
// the first slice of each cell, which is the last one where z runs the other way,
// and leans to one side.
func TestLookAgain(t *testing.T) {
	library := installedRuntime(t)
	folder, _ := phantomSeries(t)
	m := coarseManifest(t)
	m.Name, m.SHA256 = "lean", hashOf(t, "testdata/lean.onnx")
	m.Output.Anchors, m.Output.Threshold = []float64{10}, 0.05
	m.Input.Scale.Subtract = 40 // .8 lies between air and tissue
	p := preparedSeries(t, folder, m)
	slice := func(z, y, x int) (sum float64) { // mean of a cell's slice z
		for i := range 16 {
			v := m.Input.Prepare.PadValue
			if at := [3]int{x + i%4, y + i/4, z}; at[0] < p.Size[0] && at[1] < p.Size[1] && z < p.Size[2] {
				v = p.Data[p.Index(at[0], at[1], z)]
			}
			sum += (float64(v) - m.Input.Scale.Subtract) / m.Input.Scale.Divide / 16
		}
		return sum
	}
	for _, tt := range []struct {
		name    string
		in      models.Input
		mirrors []models.Mirror
		flipped float64 // of all looks, the share in which z runs the other way
	}{
		{"along z", models.Input{Patch: [3]int{64, 64, 64}, Step: 16, Margin: 8}, []models.Mirror{"z"}, 1. / 2},
		{"in plane", models.Input{Patch: [3]int{64, 64, 64}, Step: 16, Margin: 8}, []models.Mirror{"y", "yx"}, 0},
		{"everywhere", models.Input{Patch: [3]int{64, 80, 64}, Step: 16, Margin: 8}, []models.Mirror{"zyx", "x", "zx"}, 2. / 4},
		{"patches of one shape", models.Input{Patch: [3]int{32, 48, 64}, Margin: 8, Batch: 3}, []models.Mirror{"zy", "y"}, 1. / 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := m
			m.Input.Patch, m.Input.Step, m.Input.Margin, m.Input.Batch = tt.in.Patch, tt.in.Step, tt.in.Margin, max(1, tt.in.Batch)
			m.Again = &models.Again{From: 0.5, Mirrors: tt.mirrors}
			found, _ := detected(t, options{modelDir: modelFolder(t, m, "testdata/lean.onnx", ""), runtime: library}, p)
			again, once := 0, 0
			for _, c := range found {
				z, y, x := int(c.Z-1.5)/4*4, int(c.Y)/4*4, int(c.X)/4*4
				logit := 40 * (slice(z, y, x) - 0.8)
				share := 0.0
				if sigmoid(logit) < m.Again.From {
					once++
				} else {
					again++
					share = tt.flipped
				}
				logit += share * 40 * (slice(z+3, y, x) - slice(z, y, x))
				want := [4]float64{float64(z) + 1.5 + 2.5*(1-2*share), float64(y) + 1.5, float64(x) + 1.5, sigmoid(logit)}
				for i, v := range [4]float64{c.Z, c.Y, c.X, c.Probability} {
					if math.Abs(v-want[i]) > 1e-4 {
						t.Fatalf("candidate %+v, want %v", c, want)
					}
				}
			}
			if once < 20 || again < 20 {
				t.Errorf("%d candidates were looked at once and %d again: too few for a test", once, again)
			}
		})
	}
}
