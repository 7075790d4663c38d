package assemble_test

import (
	"math"
	"strings"
	"testing"
	"time"

	"hilum/node/assemble"
)

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	rules = assemble.Rules{Quiet: time.Minute, AssociationWait: 3 * time.Minute, GapWait: 5 * time.Minute}
)

func TestDecide(t *testing.T) {
	regular := assemble.Geometry{Regular: true}
	gap := assemble.Geometry{Problem: "a gap in the slice positions (about 1 missing)"}
	for _, tt := range []struct {
		name     string
		evidence assemble.Evidence
		complete bool
		again    time.Duration // after the last image; 0 = never
		reason   string
	}{
		{"nothing", assemble.Evidence{}, false, 0, "no new image"},
		{"arriving", assemble.Evidence{Now: start.Add(time.Second), Instances: 3}, false, time.Minute, "3 images, waiting for 1m0s"},
		{"quiet and regular", assemble.Evidence{Now: start.Add(time.Minute), Instances: 99, Geometry: regular}, true, 0, "99 images, no new one for 1m0s, slices evenly spaced"},
		{"quiet without geometry", assemble.Evidence{Now: start.Add(time.Minute), Instances: 1}, true, 0, "1 image, no new one for 1m0s"},
		{"association open", assemble.Evidence{Now: start.Add(time.Minute), Instances: 9, Associations: 1, Geometry: regular}, false, 3 * time.Minute, "still open"},
		{"association open all day", assemble.Evidence{Now: start.Add(3 * time.Minute), Instances: 9, Associations: 1, Geometry: regular}, true, 0, "although an association"},
		{"gap", assemble.Evidence{Now: start.Add(4 * time.Minute), Instances: 9, Geometry: gap}, false, 5 * time.Minute, "a gap in the slice"},
		{"gap outranks association", assemble.Evidence{Now: start.Add(4 * time.Minute), Instances: 9, Associations: 2, Geometry: gap}, false, 5 * time.Minute, "a gap in the slice"},
		{"gap for good", assemble.Evidence{Now: start.Add(5 * time.Minute), Instances: 9, Geometry: gap}, true, 0, "although a gap"},
		{"nothing new since completion", assemble.Evidence{Now: start.Add(time.Hour), Instances: 9, Completed: 9}, false, 0, "no new image"},
		{"late image", assemble.Evidence{Now: start.Add(time.Minute), Instances: 10, Completed: 9, Geometry: regular}, true, 0, "(9 when last complete)"},
		{"all that a step lists", assemble.Evidence{Now: start.Add(time.Second), Instances: 9, Associations: 1, Geometry: gap, Procedure: assemble.Procedure{Step: "2.25.7", Listed: 9}}, true, 0, "all that performed procedure step 2.25.7 lists, although a gap"},
		{"less than a step lists", assemble.Evidence{Now: start.Add(time.Second), Instances: 7, Procedure: assemble.Procedure{Step: "2.25.7", Listed: 9, Missing: 2}}, false, time.Minute, "2 of the 9 that performed procedure step 2.25.7 lists are missing"},
		{"less than a step lists, for good", assemble.Evidence{Now: start.Add(time.Minute), Instances: 7, Procedure: assemble.Procedure{Step: "2.25.7", Listed: 9, Missing: 2}}, true, 0, "2 of the 9 that performed procedure step 2.25.7 lists are missing"},
		{"late image beyond the list", assemble.Evidence{Now: start.Add(time.Second), Instances: 10, Completed: 9, Procedure: assemble.Procedure{Step: "2.25.7", Listed: 9}}, false, time.Minute, "10 images, waiting"},
		{"clock set back", assemble.Evidence{Now: start.Add(-time.Hour), Instances: 10}, false, time.Minute, "waiting"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := tt.evidence
			e.LastImage = start
			got := assemble.Decide(e, rules)
			if got.Complete != tt.complete || !strings.Contains(got.Reason, tt.reason) {
				t.Errorf("Decide = %v %q, want %v with %q", got.Complete, got.Reason, tt.complete, tt.reason)
			}
			want := time.Time{}
			if tt.again > 0 {
				want = start.Add(tt.again)
			}
			if !got.Again.Equal(want) {
				t.Errorf("Again = %v, want %v", got.Again, want)
			}
		})
	}
}

// A gap wait shorter than the quiet time must not shorten it, and the doubt
// must still stand in the reason.
func TestDecideShortGapWait(t *testing.T) {
	got := assemble.Decide(assemble.Evidence{Now: start.Add(time.Minute), LastImage: start, Instances: 5,
		Geometry: assemble.Geometry{Problem: "a gap"}}, assemble.Rules{Quiet: time.Minute, GapWait: time.Second})
	if !got.Complete || !strings.Contains(got.Reason, "although a gap") {
		t.Errorf("Decide = %+v, want complete although a gap", got)
	}
}

func TestExamine(t *testing.T) {
	axial := []float64{1, 0, 0, 0, 1, 0}
	stack := func(z ...float64) (s []assemble.Slice) {
		for i, z := range z {
			s = append(s, assemble.Slice{Position: []float64{-100, -100, z}, Orientation: axial, InstanceNumber: i + 1})
		}
		return s
	}
	numbered := func(n ...int) (s []assemble.Slice) {
		for _, n := range n {
			s = append(s, assemble.Slice{InstanceNumber: n})
		}
		return s
	}
	oblique := stack(1, 2, 3)
	oblique[1].Orientation = []float64{1, 0, 0, 0, 0, 1}
	for _, tt := range []struct {
		name    string
		images  []assemble.Slice
		regular bool
		problem string
	}{
		{"none", nil, false, ""},
		{"one", stack(1), false, ""},
		{"regular, any order", stack(3, 1, 2, 5, 4), true, ""},
		{"uneven by microns", stack(0, 3.27, 6.5401, 9.8099), true, ""},
		{"one gap", stack(1, 2, 4, 5, 6), false, "a gap in the slice positions (about 1 missing)"},
		{"two gaps", stack(1, 2, 4, 5, 6, 9, 10), false, "2 gaps in the slice positions (about 3 missing)"},
		{"each position twice", stack(1, 1, 2, 2, 3, 3), true, ""},
		{"planes mixed", oblique, false, ""},
		{"numbers whole", numbered(1, 2, 3, 4), false, ""},
		{"numbers with a hole", numbered(1, 2, 4), false, "a gap in the instance numbers (1 missing)"},
		{"numbers repeat", numbered(1, 1, 2, 4), false, ""},
		{"numbers not contiguous at all", numbered(100, 200, 300), false, ""},
		{"not a number", []assemble.Slice{{Position: []float64{0, 0, math.NaN()}, Orientation: axial}}, false, ""},
		{"degenerate orientation", []assemble.Slice{{Position: []float64{0, 0, 1}, Orientation: make([]float64, 6)}}, false, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := assemble.Examine(tt.images)
			if got.Regular != tt.regular || got.Problem != tt.problem {
				t.Errorf("Examine = %+v, want regular %v, problem %q", got, tt.regular, tt.problem)
			}
		})
	}
}
