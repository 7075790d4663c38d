package report_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hilum/dimse/dataset"
	"hilum/node/report"
	"hilum/plugins/api"

	"github.com/grailbio/go-dicom/dicomtag"
)

// Grid of the source images in these tests: 40 × 30 pixels, 0.65 × 0.7 mm, 12 slices of
// 1.25 mm, as header's Pixel Spacing and Slice Thickness say.
const (
	columns, rows, depth = 40, 30, 12
	dx, dy, dz           = 0.65, 0.7, 1.25
)

var corner = [3]float64{-60, 20, -210}

func stackPlanes() []report.Plane {
	var planes []report.Plane
	for k := range depth {
		planes = append(planes, report.Plane{
			Image:   report.Image{SOPClassUID: ctStorage, SOPInstanceUID: fmt.Sprintf("2.25.2%d", k)},
			Columns: columns, Rows: rows,
			Position:    []float64{corner[0], corner[1], corner[2] + dz*float64(k)},
			Orientation: []float64{1, 0, 0, 0, 1, 0},
			Spacing:     []float64{dy, dx},
		})
	}
	return planes
}

// box is a mask on the grid of the images: voxels [lo,hi).
func box(lo, hi [3]int) *api.Mask {
	m := &api.Mask{
		Size: [3]int{hi[0] - lo[0], hi[1] - lo[1], hi[2] - lo[2]}, Spacing: [3]float64{dx, dy, dz},
		Origin: [3]float64{corner[0] + dx*float64(lo[0]), corner[1] + dy*float64(lo[1]), corner[2] + dz*float64(lo[2])},
		Axes:   [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
	}
	n := m.Size[0] * m.Size[1] * m.Size[2]
	m.Bits = bytes.Repeat([]byte{0xFF}, (n+7)/8)
	return m
}

// resultInput has three findings: two with masks, one of them oblique to the images.
func resultInput(t *testing.T) report.Input {
	t.Helper()
	in := input(t)
	var err error
	if in.Stack, err = report.NewStack(stackPlanes()); err != nil {
		t.Fatal(err)
	}
	in.Images = images(depth)
	view := api.View{Columns: 60, Rows: 60, Spacing: 0.5, Origin: [3]float64{-67, 15, -207}, ColumnAxis: [3]float64{1, 0, 0}, RowAxis: [3]float64{0, 1, 0}, Pixels: make([]byte, 3600)}
	for i := range view.Pixels {
		view.Pixels[i] = byte(i % 251)
	}
	in.Result.Findings[0].Mask = box([3]int{10, 12, 2}, [3]int{15, 16, 5})
	in.Result.Findings[0].Site, in.Result.Findings[0].LongAxisMM, in.Result.Findings[0].ShortAxisMM, in.Result.Findings[0].VolumeMM3 = api.SiteRightLowerLobe, 4.25, 3.5, 34.125
	in.Result.Findings[0].Views = []api.View{view, view, view}
	in.Result.Findings[1].Site = api.SiteLeftLung
	oblique := &api.Mask{
		Size: [3]int{9, 9, 9}, Spacing: [3]float64{0.5, 0.5, 0.5}, Origin: [3]float64{-45, 30, -204},
		Axes: [3][3]float64{{0.8, 0.6, 0}, {-0.6, 0.8, 0}, {0, 0, 1}}, Bits: bytes.Repeat([]byte{0xFF}, 92),
	}
	in.Result.Findings = append(in.Result.Findings, api.Finding{ID: "3", Center: [3]float64{-45, 32, -202}, DiameterMM: 4.5, Probability: 0.25, Mask: oblique})
	return in
}

// pythonWith is an interpreter with a package, or the end of the test.
func pythonWith(t *testing.T, module string) string {
	t.Helper()
	python := os.Getenv("HILUM_PYTHON")
	if python == "" {
		python = filepath.Join("..", "..", ".cache", "venv", "bin", "python")
	}
	if exec.Command(python, "-c", "import "+module).Run() != nil {
		t.Skipf("%s has no %s: make setup, or name another interpreter in HILUM_PYTHON", python, module)
	}
	return python
}

func save(t *testing.T, name string, d report.Document) string {
	t.Helper()
	name = filepath.Join(t.TempDir(), name+".dcm")
	if err := os.WriteFile(name, d.Bytes, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// objects makes all objects of in, by what they are.
func objects(t *testing.T, in report.Input) map[string]report.Document {
	t.Helper()
	out := map[string]report.Document{}
	var err error
	if out["sr"], err = report.SR(in); err != nil {
		t.Fatal(err)
	}
	seg, ok, err := report.SEG(in)
	if err != nil {
		t.Fatal(err)
	} else if ok {
		out["seg"] = seg
	}
	gsps, ok, err := report.GSPS(in)
	if err != nil {
		t.Fatal(err)
	} else if ok {
		out["gsps"] = gsps
	}
	pages, err := report.Captures(in)
	if err != nil {
		t.Fatal(err)
	}
	for n, page := range pages {
		out[fmt.Sprintf("sc%d", n+1)] = page
	}
	return out
}

// TestObjectsValid lets dciodvfy judge every object, and dcentvfy whether they agree
// about patient, study, series and frame of reference.
func TestObjectsValid(t *testing.T) {
	dciodvfy, dcentvfy := tool(t, "dciodvfy"), tool(t, "dcentvfy")
	many := resultInput(t)
	for n := range 20 { // more than fit on one page
		f := many.Result.Findings[0]
		f.ID, f.Center[2] = fmt.Sprint("more", n), f.Center[2]+float64(n)/10
		many.Result.Findings = append(many.Result.Findings, f)
	}
	nothing := resultInput(t)
	nothing.Result.Findings = nil
	for name, in := range map[string]report.Input{"findings": resultInput(t), "many": many, "nothing": nothing} {
		var files []string
		made := objects(t, in)
		for what, d := range made {
			file := save(t, what, d)
			files = append(files, file)
			out, _ := exec.Command(dciodvfy, file).CombinedOutput() // its exit status says nothing
			for line := range strings.SplitSeq(string(out), "\n") {
				if strings.HasPrefix(line, "Error") || strings.Contains(line, "not recognized") {
					t.Errorf("%s, %s: dciodvfy: %s", name, what, line)
				}
			}
			if len(out) == 0 {
				t.Errorf("%s, %s: dciodvfy says nothing", name, what)
			}
		}
		if want := map[string]int{"findings": 4, "many": 7, "nothing": 2}[name]; len(made) != want {
			t.Errorf("%s: %d objects, want %d", name, len(made), want)
		}
		if out, _ := exec.Command(dcentvfy, files...).CombinedOutput(); bytes.Contains(out, []byte("Error")) {
			t.Errorf("%s: dcentvfy: %s", name, out)
		}
	}
}

// TestObjectsRead lets highdicom and pydicom read SR and SEG, and compares every number
// with what went in.
func TestObjectsRead(t *testing.T) {
	python := pythonWith(t, "highdicom")
	in := resultInput(t)
	made := objects(t, in)
	out, err := exec.Command(python, filepath.Join("testdata", "read_results.py"),
		save(t, "sr", made["sr"]), save(t, "seg", made["seg"]), save(t, "sc", made["sc1"]), save(t, "gsps", made["gsps"])).Output()
	if err != nil {
		var e *exec.ExitError
		if errors.As(err, &e) {
			t.Fatalf("read_results.py: %v\n%s", err, e.Stderr)
		}
		t.Fatal(err)
	}
	var got struct {
		Groups []struct {
			UID, ID, Finding, Site, Side string
			Point                        [3]float64
			Numbers                      map[string]float64
			Units                        map[string]string
		}
		Segments []struct {
			UID, ID, Label string
			Voxels         int
			Slices         []string // SOP Instance UIDs of the source images
			First          [3]float64
		}
		Capture struct {
			Shape []int
			Burnt string
			Ink   int // pixels that are not black
		}
		Circles map[string][]struct{ X, Y, Radius float64 }
	}
	if err := json.Unmarshal(out, &got); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if len(got.Groups) != 3 {
		t.Fatalf("highdicom reads %d groups, want 3", len(got.Groups))
	}
	g := got.Groups[0]
	f := in.Result.Findings[0]
	want := map[string]float64{"Long axis": f.LongAxisMM, "Short axis": f.ShortAxisMM, "Diameter": 8.3, "Volume": 34.13, "Certainty of Finding": 91.53, "Probability of cancer": 37.5}
	for name, v := range want {
		if math.Abs(g.Numbers[name]-v) > 1e-9 {
			t.Errorf("highdicom reads %s = %v, want %v", name, g.Numbers[name], v)
		}
	}
	if len(g.Numbers) != len(want) || g.Units["Volume"] != "mm3" || g.Units["Long axis"] != "mm" || g.Units["Probability of cancer"] != "%" {
		t.Errorf("highdicom reads %v in %v", g.Numbers, g.Units)
	}
	for a := range 3 {
		if math.Abs(g.Point[a]-f.Center[a]) > 1e-4 {
			t.Errorf("highdicom reads the point %v, want %v", g.Point, f.Center)
		}
	}
	if g.Finding != "27925004" || g.Site != "266005" || g.Side != "24028007" || got.Groups[1].Site != "39607008" || got.Groups[1].Side != "7771000" || got.Groups[2].Side != "" {
		t.Errorf("finding, sites and sides: %+v", got.Groups)
	}
	if len(got.Segments) != 2 {
		t.Fatalf("highdicom reads %d segments, want 2", len(got.Segments))
	}
	s := got.Segments[0]
	if s.UID != g.UID || s.ID != g.ID || got.Segments[1].UID != got.Groups[2].UID {
		t.Errorf("SR and SEG track %s and %s, %s and %s", g.UID, s.UID, got.Groups[2].UID, got.Segments[1].UID)
	}
	first := [3]float64{corner[0] + 10*dx, corner[1] + 12*dy, corner[2] + 2*dz}
	if s.Voxels != 5*4*3 || len(s.Slices) != 3 || s.Slices[0] != "2.25.22" || math.Abs(s.First[0]-first[0])+math.Abs(s.First[1]-first[1])+math.Abs(s.First[2]-first[2]) > 1e-3 {
		t.Errorf("segment 1 = %+v, want 60 voxels in slices 2 to 4 from %v", s, first)
	}
	// 9 voxels of 0.5 mm a side: 4.5³ mm³, to the grain of the images.
	if volume := float64(got.Segments[1].Voxels) * dx * dy * dz; math.Abs(volume-91.1) > 15 {
		t.Errorf("the oblique mask has %.1f mm³ on the grid of the images, want 91", volume)
	}
	if fmt.Sprint(got.Capture.Shape) != "[1024 1024 3]" || got.Capture.Burnt != "NO" || got.Capture.Ink < 50_000 {
		t.Errorf("capture = %+v", got.Capture)
	}
	circles := got.Circles["2.25.22"] // z = -207.5: finding 1 is at -207.125
	if len(circles) != 1 || math.Abs(circles[0].X-((f.Center[0]-corner[0])/dx+0.5)) > 1e-3 || math.Abs(circles[0].Y-((f.Center[1]-corner[1])/dy+0.5)) > 1e-3 || circles[0].Radius < f.DiameterMM/2/dx {
		t.Errorf("circles = %+v", got.Circles)
	}
}

// TestNothingToDraw: no SEG is invented where no plugin gave a mask, none for images
// that are no stack.
func TestNothingToDraw(t *testing.T) {
	for name, change := range map[string]func(*report.Input){
		"no mask":  func(in *report.Input) { in.Result.Findings[0].Mask, in.Result.Findings[2].Mask = nil, nil },
		"no stack": func(in *report.Input) { in.Stack = nil },
		"masks elsewhere": func(in *report.Input) {
			for i := range in.Result.Findings {
				if m := in.Result.Findings[i].Mask; m != nil {
					m.Origin[2] += 500
				}
			}
		},
	} {
		in := resultInput(t)
		change(&in)
		if _, ok, err := report.SEG(in); ok || err != nil {
			t.Errorf("%s: SEG = %v, %v; want none", name, ok, err)
		}
	}
}

// TestNoNameBurntIn: the pixels of a capture do not depend on who the patient is.
func TestNoNameBurntIn(t *testing.T) {
	in := resultInput(t)
	first, err := report.Captures(in)
	if err != nil {
		t.Fatal(err)
	}
	in.Header = header(t, append(sourceElements()[2:],
		dataset.RawElement(dicomtag.SpecificCharacterSet, "CS", []byte("ISO_IR 100")), dataset.MustElement(dicomtag.PatientName, "OTHER^PERSON"))...)
	second, err := report.Captures(in)
	if err != nil {
		t.Fatal(err)
	}
	pixels := func(d report.Document) []byte { return d.Bytes[len(d.Bytes)-3*1024*1024:] }
	if len(first) != 1 || !bytes.Equal(pixels(first[0]), pixels(second[0])) {
		t.Error("the picture shows who the patient is")
	}
}

func TestNewStackRefuses(t *testing.T) {
	for name, change := range map[string]func([]report.Plane) []report.Plane{
		"empty":             func([]report.Plane) []report.Plane { return nil },
		"no position":       func(p []report.Plane) []report.Plane { p[3].Position = nil; return p },
		"NaN":               func(p []report.Plane) []report.Plane { p[3].Position[1] = math.NaN(); return p },
		"no right angle":    func(p []report.Plane) []report.Plane { p[0].Orientation[1] = 0.5; return p },
		"other orientation": func(p []report.Plane) []report.Plane { p[5].Orientation = []float64{0, 1, 0, 0, 0, -1}; return p },
		"other size":        func(p []report.Plane) []report.Plane { p[5].Rows++; return p },
		"huge":              func(p []report.Plane) []report.Plane { p[0].Rows = 1 << 40; return p },
		"no spacing":        func(p []report.Plane) []report.Plane { p[0].Spacing[0] = 0; return p },
	} {
		if s, err := report.NewStack(change(stackPlanes())); err == nil || s != nil {
			t.Errorf("%s: NewStack = %v, %v; want an error", name, s, err)
		}
	}
	twice := append(stackPlanes(), stackPlanes()...)
	if s, err := report.NewStack(twice); err != nil || len(s.Slices) != depth {
		t.Errorf("images in one place: %v", err)
	}
}

// TestTrack: a nodule keeps its identity where it is found again, whatever the plugin
// calls it now; two nodules never share one.
func TestTrack(t *testing.T) {
	at := func(id string, z, d float64) api.Finding {
		return api.Finding{ID: id, Center: [3]float64{0, 0, z}, DiameterMM: d}
	}
	track := func(earlier []report.Tracked, f ...api.Finding) ([]report.Tracking, []report.Tracked) {
		got := report.Track("2.25.1", "p", f, earlier)
		var all []report.Tracked
		for i := range f {
			all = append(all, report.Tracked{Tracking: got[i], Center: f[i].Center, DiameterMM: f[i].DiameterMM})
		}
		return got, append(all, earlier...)
	}
	first, known := track(nil, at("a", 0, 6), at("b", 50, 6), at("c", 100, 20))
	second, known := track(known, at("x", 52, 6), at("y", 1, 6), at("a", 70, 6), at("z", 108, 8))
	if second[0] != first[1] || second[1] != first[0] || second[3] != first[2] {
		t.Errorf("tracked %v, want b, a, new, c of %v", second, first)
	}
	if second[2].UID == first[0].UID || second[2].UID == "" {
		t.Error("a new nodule with an old number got the identity of another")
	}
	third, _ := track(known, at("q", 0.5, 6), at("r", 1.5, 6), at("s", 0, 6))
	seen := map[string]bool{}
	for _, tr := range third {
		if seen[tr.UID] {
			t.Errorf("two nodules share %s", tr.UID)
		}
		seen[tr.UID] = true
	}
	if third[2].UID == first[0].UID && third[0].UID != first[0].UID && third[1].UID != first[0].UID {
		t.Error("the latest place does not count: a was last seen at 1")
	}
}
