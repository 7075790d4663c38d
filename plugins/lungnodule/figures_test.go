package main

import (
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"testing"
	"time"

	"hilum/plugins/api"
	"hilum/trainer/phantom"
)

var (
	figuresModel = flag.String("model", blobFolder, "model folder to measure with -figures")
	figures      = flag.Bool("figures", false, "measure the model card's figures on phantoms (minutes)")
)

// TestFigures prints what models/README.md says of a model on phantoms:
//
//	go test ./plugins/lungnodule -run TestFigures -figures -v
func TestFigures(t *testing.T) {
	if !*figures {
		t.Skip("measures the model card's figures only with -figures")
	}
	const (
		scans = 6
		least = 6.0 // mm
	)
	o := options{modelDir: *figuresModel, runtime: installedRuntime(t), threshold: 0.02, log: newTestDetector(t, blobFolder, "", io.Discard).log}
	if err := findRuntime(&o); err != nil {
		t.Fatal(err)
	}
	d := newDetector(o)
	type count struct{ found, nodules int }
	thresholds := []float64{0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9}
	all, kinds := map[float64]*count{}, map[string]*count{}
	wrong := map[float64]int{}
	var spent time.Duration
	for seed := range int64(scans) {
		dir := filepath.Join(t.TempDir(), "series")
		truth, err := phantom.Write(t.Context(), dir, phantom.Options{Seed: 100 + seed}, nil)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		r, err := d.Analyze(t.Context(), api.Job{ID: "figures", Folder: dir}, func(float64, string) {})
		if err != nil {
			t.Fatal(err)
		}
		spent += time.Since(start)
		for _, threshold := range thresholds {
			var marks []phantom.Mark
			for _, f := range r.Findings {
				if f.Probability >= threshold {
					marks = append(marks, phantom.Mark{Center: f.Center, Probability: f.Probability})
				}
			}
			s := phantom.Score(truth, marks, least)
			add := func(m *count, found, nodules int) *count {
				if m == nil {
					m = &count{}
				}
				m.found, m.nodules = m.found+found, m.nodules+nodules
				return m
			}
			all[threshold] = add(all[threshold], len(s.Found), s.Nodules)
			wrong[threshold] += len(s.FalsePositives)
			if threshold != 0.5 {
				continue
			}
			for _, h := range s.Found {
				kinds[h.Nodule.Kind] = add(kinds[h.Nodule.Kind], 1, 1)
				kinds[h.Nodule.Place] = add(kinds[h.Nodule.Place], 1, 1)
			}
			for _, n := range s.Missed {
				kinds[n.Kind] = add(kinds[n.Kind], 0, 1)
				kinds[n.Place] = add(kinds[n.Place], 0, 1)
			}
		}
	}
	for _, threshold := range thresholds {
		c := all[threshold]
		fmt.Printf("threshold %.2f: %d of %d nodules of %g mm and more (%.2f), %.1f false positives a scan\n",
			threshold, c.found, c.nodules, least, float64(c.found)/float64(c.nodules), float64(wrong[threshold])/scans)
	}
	for kind, c := range kinds {
		fmt.Printf("at 0.5, %s: %d of %d\n", kind, c.found, c.nodules)
	}
	fmt.Printf("%.1f s a scan\n", spent.Seconds()/scans)
}
