package command

import (
	"fmt"
	"io"
	"math"
	"strconv"

	"hilum/trainer/froc"
)

// evaluationResult is what train evaluate --json prints; its keys stay.
type evaluationResult struct {
	CPM            float64           `json:"cpm"`
	CPMLow         float64           `json:"cpm_low"`
	CPMHigh        float64           `json:"cpm_high"`
	Rates          [7]float64        `json:"false_positives_per_scan"`
	Sensitivity    [7]float64        `json:"sensitivity"`
	SensLow        [7]float64        `json:"sensitivity_low"`
	SensHigh       [7]float64        `json:"sensitivity_high"`
	Thresholds     [7]*float64       `json:"threshold"` // null: no mark stays within the rate
	TP             int               `json:"tp"`
	FN             int               `json:"fn"`
	FP             int               `json:"fp"`
	Ignored        int               `json:"ignored"`
	Doubles        int               `json:"double_hits"`
	Marks          int               `json:"marks"`
	OverLimit      int               `json:"marks_over_limit"`
	Scans          int               `json:"scans"`
	Positive       int               `json:"positive_scans"`
	Samples        int               `json:"bootstrap_samples"`
	Outside        froc.Left         `json:"outside"` // rows of other scans
	BySize         []evaluationGroup `json:"by_size"`
	ByFold         []evaluationGroup `json:"by_fold"`
	Misses         []evaluationMiss  `json:"misses"`
	FalsePositives []evaluationFalse `json:"worst_false_positives"`
}

// evaluationGroup is a size or a fold. Without nodules it has no CPM.
type evaluationGroup struct {
	Name        string      `json:"name"`
	Scans       int         `json:"scans"`
	Nodules     int         `json:"nodules"`
	Found       int         `json:"found"`
	FP          int         `json:"fp"`
	CPM         *float64    `json:"cpm"`
	Sensitivity [7]*float64 `json:"sensitivity"`
}

// evaluationMiss is a nodule that is not found, or only beyond the last rate.
type evaluationMiss struct {
	Series      string     `json:"seriesuid"`
	Center      [3]float64 `json:"center"`
	Diameter    float64    `json:"diameter_mm"`
	Nearest     *float64   `json:"nearest_mark_mm"` // null: no mark in the scan
	Probability *float64   `json:"probability"`     // null: never marked
}

type evaluationFalse struct {
	Series      string     `json:"seriesuid"`
	Center      [3]float64 `json:"center"`
	Probability float64    `json:"probability"`
	Rate        *float64   `json:"false_positives_per_scan"` // null: beyond the limit of marks
	Nearest     *float64   `json:"nearest_nodule_mm"`        // null: no nodule in the scan
}

// worstListed is how many false positives --json lists.
const worstListed = 100

func evaluationJSON(r *froc.Result) evaluationResult {
	e := evaluationResult{
		CPM: r.CPM, CPMLow: r.CPMLow, CPMHigh: r.CPMHigh,
		Rates: froc.Rates(), Sensitivity: r.Sensitivity, SensLow: r.SensLow, SensHigh: r.SensHigh,
		Thresholds: finiteSeven(r.ProbabilityAtRates),
		TP:         r.TP, FN: r.FN, FP: r.FP, Ignored: r.Ignored, Doubles: r.Doubles, Marks: r.Marks, OverLimit: r.OverLimit,
		Scans: r.Scans, Positive: r.PositiveScans, Samples: r.Samples, Outside: r.Left,
		BySize: groupsJSON(r.BySize), ByFold: groupsJSON(r.ByFold),
		Misses: []evaluationMiss{}, FalsePositives: []evaluationFalse{},
	}
	for _, n := range r.Misses() {
		e.Misses = append(e.Misses, evaluationMiss{n.SeriesUID, n.Center, n.Diameter, finite(n.Nearest), finite(n.Probability)})
	}
	for _, f := range r.FalsePositives[:min(len(r.FalsePositives), worstListed)] {
		e.FalsePositives = append(e.FalsePositives, evaluationFalse{f.SeriesUID, f.Center, f.Probability, finite(f.Rate), finite(f.Nearest)})
	}
	return e
}

func groupsJSON(groups []froc.Group) []evaluationGroup {
	out := []evaluationGroup{}
	for _, g := range groups {
		out = append(out, evaluationGroup{g.Name, g.Scans, g.Nodules, g.Found, g.FP, finite(g.CPM), finiteSeven(g.Sensitivity)})
	}
	return out
}

// finite is x, or nothing: JSON has no infinities.
func finite(x float64) *float64 {
	if math.IsInf(x, 0) || math.IsNaN(x) {
		return nil
	}
	return &x
}

func finiteSeven(values [7]float64) (out [7]*float64) {
	for i, x := range values {
		out[i] = finite(x)
	}
	return out
}

// showEvaluation prints the measurement for people.
func showEvaluation(out io.Writer, r *froc.Result) error {
	interval := ""
	if r.Samples > 0 {
		interval = fmt.Sprintf("  (95 %% interval %.4f to %.4f, %d bootstrap samples)", r.CPMLow, r.CPMHigh, r.Samples)
	}
	fmt.Fprintf(out, "CPM %.4f%s\n%d of %s found, %d missed; %s (%.1f per scan), %d ignored; %s, %d with nodules\n\n",
		r.CPM, interval, r.TP, number(r.TP+r.FN, "nodule"), r.FN, number(r.FP, "false positive"),
		float64(r.FP)/float64(r.Scans), r.Ignored, number(r.Scans, "scan"), r.PositiveScans)
	t := newTable(out, "FALSE POSITIVES PER SCAN", "SENSITIVITY", "95 % INTERVAL", "THRESHOLD")
	for i, fp := range froc.Rates() {
		interval, threshold := "", ""
		if r.Samples > 0 {
			interval = fmt.Sprintf("%.4f to %.4f", r.SensLow[i], r.SensHigh[i])
		}
		if p := r.ProbabilityAtRates[i]; !math.IsNaN(p) {
			threshold = strconv.FormatFloat(p, 'g', 4, 64)
		}
		t.row(fp, fmt.Sprintf("%.4f", r.Sensitivity[i]), interval, threshold)
	}
	if err := t.flush(); err != nil {
		return err
	}
	if err := showGroups(out, "DIAMETER", r.BySize); err != nil || r.ByFold == nil {
		return err
	}
	return showGroups(out, "FOLD", r.ByFold)
}

func showGroups(out io.Writer, what string, groups []froc.Group) error {
	fmt.Fprintln(out)
	t := newTable(out, what, "SCANS", "NODULES", "FOUND", "1/8", "1/4", "1/2", "1", "2", "4", "8", "CPM")
	for _, g := range groups {
		row := []any{g.Name, g.Scans, g.Nodules, g.Found}
		for _, s := range append(g.Sensitivity[:], g.CPM) {
			text := ""
			if !math.IsNaN(s) {
				text = fmt.Sprintf("%.3f", s)
			}
			row = append(row, text)
		}
		t.row(row...)
	}
	return t.flush()
}
