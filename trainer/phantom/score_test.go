package phantom_test

import (
	"os"
	"path/filepath"
	"testing"

	"hilum/trainer/phantom"
)

func TestScore(t *testing.T) {
	truth := phantom.Truth{SeriesInstanceUID: "1", Nodules: []phantom.TrueNodule{
		{Center: [3]float64{0, 0, 0}, DiameterMM: 10},
		{Center: [3]float64{50, 0, 0}, DiameterMM: 20},
		{Center: [3]float64{0, 50, 0}, DiameterMM: 4},
	}}
	mark := func(x, y, z, p float64) phantom.Mark {
		return phantom.Mark{Center: [3]float64{x, y, z}, Probability: p}
	}
	tests := []struct {
		name                                   string
		marks                                  []phantom.Mark
		least                                  float64
		nodules, found, missed, false_, ignore int
		best                                   float64 // probability of the first hit
	}{
		{name: "nothing marked", least: 6, nodules: 2, missed: 2},
		{name: "perfect", marks: []phantom.Mark{mark(0, 0, 0, .9), mark(50, 0, 0, .8)}, least: 6, nodules: 2, found: 2, best: .9},
		{name: "on the surface is no hit", marks: []phantom.Mark{mark(5, 0, 0, .9)}, least: 6, nodules: 2, missed: 2, false_: 1},
		{name: "just inside is one", marks: []phantom.Mark{mark(4.999, 0, 0, .9)}, least: 6, nodules: 2, found: 1, missed: 1, best: .9},
		{name: "double hit: the most probable counts", marks: []phantom.Mark{mark(1, 0, 0, .3), mark(0, 1, 0, .7)}, least: 6, nodules: 2, found: 1, missed: 1, ignore: 1, best: .7},
		{name: "small nodule counts neither way", marks: []phantom.Mark{mark(0, 50, 0, .9)}, least: 6, nodules: 2, missed: 2, ignore: 1},
		{name: "and does when it is large enough", marks: []phantom.Mark{mark(0, 50, 0, .9)}, least: 4, nodules: 3, found: 1, missed: 2, best: .9},
		{name: "false positives", marks: []phantom.Mark{mark(0, 0, 30, .9), mark(0, 0, 31, .2)}, least: 6, nodules: 2, missed: 2, false_: 2},
		{name: "nothing to find", marks: []phantom.Mark{mark(0, 0, 0, .9)}, least: 99, ignore: 1},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := phantom.Score(truth, test.marks, test.least)
			if r.Nodules != test.nodules || len(r.Found) != test.found || len(r.Missed) != test.missed || len(r.FalsePositives) != test.false_ || r.Ignored != test.ignore {
				t.Errorf("Score = %d nodules, %d found, %d missed, %d false, %d ignored, want %d, %d, %d, %d, %d",
					r.Nodules, len(r.Found), len(r.Missed), len(r.FalsePositives), r.Ignored, test.nodules, test.found, test.missed, test.false_, test.ignore)
			}
			if test.best > 0 && r.Found[0].Mark.Probability != test.best {
				t.Errorf("first hit has probability %g, want %g", r.Found[0].Mark.Probability, test.best)
			}
			want := 1.0
			if test.nodules > 0 {
				want = float64(test.found) / float64(test.nodules)
			}
			if got := r.Sensitivity(); got != want {
				t.Errorf("Sensitivity() = %g, want %g", got, want)
			}
		})
	}
}

func TestReadTruthRefusals(t *testing.T) {
	tests := []struct{ name, text, want string }{
		{"empty", "", "not the truth of a phantom: EOF"},
		{"other JSON", `{"a": 1}`, `not the truth of a phantom: json: unknown field "a"`},
		{"no series", `{"nodules": []}`, "not the truth of a phantom: series_instance_uid is missing"},
		{"no size", `{"series_instance_uid": "1", "nodules": [{"center_lps_mm": [0, 0, 0]}]}`, "nodule 0 has no size"},
		{"far away", `{"series_instance_uid": "1", "nodules": [{"center_lps_mm": [1e9, 0, 0], "diameter_mm": 5}]}`, "nodule 0 has an impossible place or size"},
		{"more", `{"series_instance_uid": "1"} {}`, "not the truth of a phantom: there is more after its end"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "truth.json")
			if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := phantom.ReadTruth(file)
			if err == nil || err.Error() != file+": "+test.want {
				t.Errorf("ReadTruth = %v, want %s", err, test.want)
			}
		})
	}
	if _, err := phantom.ReadTruth(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("ReadTruth of a missing file = nil, want an error")
	}
}
