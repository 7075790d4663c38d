package main

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
)

// TestRoadDCMTK sends real chest CTs with DCMTK's storescu and looks at all
// that must come of it: stored bytes, completion, findings, report at the PACS.
func TestRoadDCMTK(t *testing.T) {
	if testing.Short() {
		t.Skip("minutes of analysis")
	}
	storescu := tool(t, "storescu", "dcmtk")
	storescp := tool(t, "storescp", "dcmtk")
	dsrdump := tool(t, "dsrdump", "dcmtk")
	plugin, library := lungnodule(t)
	data := shared(t)

	pacs := t.TempDir()
	pacsPort := receive(t, storescp, pacs)
	p := newProcess(t, fmt.Sprintf(`series: {quiet: 2s}
destinations:
  - {name: pacs, ae_title: PACS, address: "127.0.0.1:%d"}
plugins:
  - {name: lungnodule, path: %s, model: %s, args: [--runtime, %s]}
`, pacsPort, plugin, filepath.Join(checkout(t), "models", "nodule-blob"), library))
	p.start()

	for i, tt := range []struct {
		folder string
		args   []string // of storescu
		slices int
	}{
		{"ct-chest-siemens", nil, 99},
		{"ct-chest-ge-jpegls", []string{"-xt"}, 135},
		{"lidc-0002-j2k", []string{"-xv"}, 261},
	} {
		t.Run(tt.folder, func(t *testing.T) {
			files, err := filepath.Glob(filepath.Join(data, tt.folder, "*.dcm"))
			if err != nil || len(files) != tt.slices {
				t.Fatalf("%d files, %v; want %d", len(files), err, tt.slices)
			}
			run(t, storescu, append(append(tt.args, "-aec", "HILUM", "127.0.0.1", fmt.Sprint(p.port)), files...)...)
			jobs := p.waitJobs(i+1, 5*time.Minute)
			j := jobs[i]
			if j.State != "done" || j.Plugin != "lungnodule" {
				t.Fatalf("job = %+v", j)
			}
			s := findSeries(t, list[study](p, "study", "list"), j.SeriesInstanceUID)
			if s.instances != tt.slices || s.state != "complete" || !strings.Contains(s.reason, fmt.Sprint(tt.slices, " images")) {
				t.Errorf("series = %+v, want %d images, complete", s, tt.slices)
			}
			findings := list[finding](p, "finding", "list", "--series", j.SeriesInstanceUID)
			if len(findings) != j.Findings || j.Findings == 0 {
				t.Errorf("%d findings listed, the job says %d; want some", len(findings), j.Findings)
			}
			for k, f := range findings {
				if f.Probability < 0 || f.Probability > 1 || f.DiameterMM <= 0 || k > 0 && f.Probability > findings[k-1].Probability {
					t.Errorf("finding %d = %+v, want probability 0 to 1 in falling order and a diameter", k, f)
				}
			}
			t.Logf("%s: %d findings, the first %+v", tt.folder, len(findings), findings[0])

			// What DCMTK sends is not what is in the file (it writes some
			// lengths anew), so the yardstick is what its own receiver keeps
			// when told to keep the bytes.
			bits := t.TempDir()
			bitsPort := receive(t, storescp, bits, "+B", "+xa", "-uf")
			run(t, storescu, append(append(tt.args, "127.0.0.1", fmt.Sprint(bitsPort)), files...)...)
			export := t.TempDir()
			p.hilum("study", "export", "--out", export, "--series", j.SeriesInstanceUID, s.study)
			compareDataSets(t, export, bits, tt.slices)

			var reports []string
			poll(t, "the report at the PACS", time.Minute, func() bool {
				reports, _ = filepath.Glob(filepath.Join(pacs, "SR*"))
				return len(reports) == i+1
			})
			poll(t, "the end of the deliveries", time.Minute, func() bool {
				for _, d := range list[struct{ State string }](p, "delivery", "list") {
					if d.State != "done" {
						return false
					}
				}
				return true
			})
			if dciodvfy, err := exec.LookPath("dciodvfy"); err == nil { // outlines and pictures, too
				outlines, _ := filepath.Glob(filepath.Join(pacs, "SG*"))
				pictures, _ := filepath.Glob(filepath.Join(pacs, "SC*"))
				if len(outlines) != i+1 || len(pictures) < i+1 {
					all, _ := filepath.Glob(filepath.Join(pacs, "*"))
					t.Errorf("%d segmentations and %d pictures at the PACS, want one and more a series: %q", len(outlines), len(pictures), all)
				}
				for _, file := range append(outlines, pictures...) {
					out, _ := exec.Command(dciodvfy, file).CombinedOutput()
					for line := range strings.SplitSeq(string(out), "\n") {
						if strings.HasPrefix(line, "Error") {
							t.Errorf("dciodvfy: %s: %s", filepath.Base(file), line)
						}
					}
				}
			}
			for _, r := range reports {
				out := run(t, dsrdump, r)
				if !strings.Contains(out, "Imaging Measurement Report") {
					t.Errorf("dsrdump of the report at the PACS: %s", out)
				}
				if dciodvfy, err := exec.LookPath("dciodvfy"); err == nil {
					if out, _ := exec.Command(dciodvfy, r).CombinedOutput(); bytes.Contains(out, []byte("Error")) {
						t.Errorf("dciodvfy: %s", out)
					}
				}
			}
		})
	}
	for _, d := range list[struct{ State, Reason string }](p, "delivery", "list") {
		if d.State != "done" {
			t.Errorf("delivery = %+v, want done", d)
		}
	}
}

// receive runs DCMTK's storescp into a folder until the test ends.
func receive(t *testing.T, storescp, dir string, args ...string) (port int) {
	t.Helper()
	port = freePort(t)
	cmd := exec.Command(storescp, append(args, "-od", dir, "-aet", "PACS", fmt.Sprint(port))...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait() // "signal: killed"
	})
	poll(t, "storescp", 10*time.Second, func() bool {
		_, _, code := hilum("echo", "--to", fmt.Sprintf("127.0.0.1:%d", port), "--called", "PACS")
		return code == 0
	})
	return port
}

func run(t *testing.T, program string, args ...string) string {
	t.Helper()
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", program, err, out)
	}
	return string(out)
}

type seriesState struct {
	study, state, reason string
	instances            int
}

func findSeries(t *testing.T, studies []study, uid string) seriesState {
	t.Helper()
	for _, st := range studies {
		for _, s := range st.Series {
			if s.SeriesInstanceUID == uid {
				return seriesState{st.StudyInstanceUID, s.State, s.Reason, s.Instances}
			}
		}
	}
	t.Fatalf("series %s is not listed", uid)
	return seriesState{}
}

// compareDataSets holds the data sets of two folders of Part 10 files against
// each other, byte for byte; the file meta information is each writer's own.
func compareDataSets(t *testing.T, got, want string, n int) {
	t.Helper()
	a, b := dataSets(t, got), dataSets(t, want)
	if len(a) != n || len(b) != n {
		t.Fatalf("%d and %d images to compare, want %d", len(a), len(b), n)
	}
	for uid, data := range b {
		if !bytes.Equal(a[uid], data) {
			t.Errorf("image %s: %d bytes kept, %d sent, not the same", uid, len(a[uid]), len(data))
		}
	}
}

func dataSets(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	err := filepath.WalkDir(dir, func(name string, e os.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		f, err := dataset.ReadHeader(name, []dataset.Tag{dicomtag.SOPInstanceUID})
		if err != nil {
			return err
		}
		data, err := os.ReadFile(name)
		out[f.Header.String(dicomtag.SOPInstanceUID)] = data[f.DataSetOffset:]
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}
