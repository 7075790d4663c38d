package report

import (
	"cmp"
	"math"
	"slices"
	"strconv"

	"hilum/dimse/dataset"
	"hilum/plugins/api"
)

// Tracking is the identity of one nodule over all reports and segmentations of its
// series (PS3.3 C.8.20.4, PS3.16 TID 1410): the UID for programs, the ID for people.
type Tracking struct {
	ID  string `json:"id"`
	UID string `json:"uid"`
}

// Tracked is a nodule of an earlier result of the same series.
type Tracked struct {
	Tracking
	Center     [3]float64 // LPS mm
	DiameterMM float64
}

// nearMM is how far the centre of a nodule may move from one result to the next: as far
// as its radius, and at least as far as a thick slice moves the centre of a small one.
const nearMM = 3.0

// Track gives every finding its identity: that of the nearest earlier nodule at its
// place, or a new one. earlier lists the nodules of all earlier results of the series,
// the latest result first; of one nodule its latest place counts. No two findings get
// the same identity, and the same arguments give the same answer.
func Track(seriesInstanceUID, plugin string, findings []api.Finding, earlier []Tracked) []Tracking {
	var nodules []Tracked
	known := map[string]bool{}
	for _, n := range earlier {
		if !known[n.UID] {
			known[n.UID] = true
			nodules = append(nodules, n)
		}
	}
	type pair struct {
		finding, nodule int
		distance        float64
	}
	var pairs []pair
	for i, f := range findings {
		for k, n := range nodules {
			d := math.Hypot(math.Hypot(f.Center[0]-n.Center[0], f.Center[1]-n.Center[1]), f.Center[2]-n.Center[2])
			if d <= max(nearMM, f.DiameterMM/2, n.DiameterMM/2) {
				pairs = append(pairs, pair{i, k, d})
			}
		}
	}
	slices.SortStableFunc(pairs, func(a, b pair) int { return cmp.Compare(a.distance, b.distance) })
	out := make([]Tracking, len(findings))
	taken := make([]bool, len(nodules))
	for _, p := range pairs {
		if out[p.finding].UID == "" && !taken[p.nodule] {
			out[p.finding], taken[p.nodule] = nodules[p.nodule].Tracking, true
		}
	}
	for i, f := range findings {
		if out[i].UID != "" {
			continue
		}
		t := newTracking(seriesInstanceUID, plugin, f, i)
		for n := 2; known[t.UID]; n++ { // a plugin that numbers its findings uses a number again
			again := f
			again.ID = nonEmpty(f.ID, strconv.Itoa(i+1)) + "." + strconv.Itoa(n)
			t = newTracking(seriesInstanceUID, plugin, again, i)
		}
		known[t.UID] = true
		out[i] = t
	}
	return out
}

func newTracking(seriesInstanceUID, plugin string, f api.Finding, index int) Tracking {
	id := nonEmpty(f.ID, strconv.Itoa(index+1))
	return Tracking{ID: plugin + " " + id, UID: dataset.StableUID("finding", seriesInstanceUID, plugin, id)}
}

// track is the identity of a finding; without Input.Tracking it is a new one.
func (in Input) track(index int) Tracking {
	if index < len(in.Tracking) {
		return in.Tracking[index]
	}
	return newTracking(in.SeriesInstanceUID, in.Result.Description.Name, in.Result.Findings[index], index)
}
