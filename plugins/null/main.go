// Command null is the smallest plugin, and the one that tests break on purpose.
//
// It reads no pixels: it counts the files of the series and returns as many
// made-up findings as -findings says. It refuses a folder without DICOM files.
//
// -start and -job name what it does first, as a comma-separated list of
// behaviours such as "fork,panic" or "sleep=1s"; see behaviour.go. A series
// whose SeriesDescription begins with "null:" names them itself, which reaches
// the plugin through a whole node: "null: exit=3".
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"hilum/plugins/api"
)

func main() {
	p := plugin{}
	flag.IntVar(&p.findings, "findings", 1, "number of findings to return")
	flag.StringVar(&p.start, "start", "", "behaviours before the handshake")
	flag.StringVar(&p.job, "job", "", "behaviours of every job")
	flag.Parse()
	if err := behave(context.Background(), p.start, nil); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	api.Serve(p)
}

type plugin struct {
	findings   int
	start, job string
}

func (p plugin) Describe(context.Context) (api.Description, error) {
	return api.Description{
		Name: "null", Version: "1", Kind: api.KindDetector,
		Modalities: []string{"CT"}, Devices: []string{"cpu"}, Runtime: "none",
	}, nil
}

func (p plugin) Analyze(ctx context.Context, job api.Job, progress api.Progress) (api.Result, error) {
	progress(0, "counting files")
	files, err := countFiles(job.Folder)
	if err != nil {
		return api.Result{}, err
	}
	result := api.Result{
		Findings:   findings(p.findings),
		Device:     cmp.Or(job.Device, "cpu"),
		Attributes: map[string]string{"files": fmt.Sprint(files)},
	}
	do := p.job
	if own, ok := strings.CutPrefix(job.Series["SeriesDescription"], "null:"); ok {
		do = own
	}
	folder = job.Folder
	if err := behave(ctx, do, &result); err != nil {
		return api.Result{}, err
	}
	progress(1, "done")
	return result, nil
}

// countFiles counts the Part 10 files (PS3.10 7.1) of a series.
func countFiles(folder string) (int, error) {
	names, err := os.ReadDir(folder)
	if err != nil {
		return 0, fmt.Errorf("read the folder of the job: %w", err)
	}
	if len(names) == 0 {
		return 0, &api.InputError{Reason: "the series has no images"}
	}
	for _, name := range names {
		head := make([]byte, 132)
		f, err := os.Open(filepath.Join(folder, name.Name()))
		if err != nil {
			return 0, fmt.Errorf("open an image: %w", err)
		}
		_, err = io.ReadFull(f, head)
		_ = f.Close() // only read
		if err != nil || string(head[128:]) != "DICM" {
			return 0, &api.InputError{Reason: "a file of the series is not a DICOM file"}
		}
	}
	return len(names), nil
}

// findings makes n findings in a row along the patient's x axis.
func findings(n int) []api.Finding {
	all := make([]api.Finding, n)
	for i := range all {
		all[i] = api.Finding{
			ID:          fmt.Sprintf("null-%d", i+1),
			Center:      [3]float64{float64(i % 400), 0, 0},
			Size:        [3]float64{6, 6, 6},
			DiameterMM:  6,
			Probability: 0.5,
			Label:       "made up",
		}
	}
	return all
}
