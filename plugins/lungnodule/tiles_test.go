package main

import (
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"hilum/models"
	"hilum/models/ct"
	"hilum/models/nodule"
)

// scan makes a prepared scan of that size; every voxel is value(x, y, z), and
// lung where lung says so.
func scan(size [3]int, value func(x, y, z int) uint8, lung func(x, y, z int) bool) *ct.Prepared {
	g := ct.Geometry{
		Size: size, Spacing: [3]float64{1, 1, 1}, Origin: [3]float64{-100, -50, 20},
		Axes: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
	}
	p := &ct.Prepared{Geometry: g, Data: make([]uint8, g.Voxels()), Mask: &ct.Mask{Geometry: g, Bits: make([]uint8, g.Voxels())}}
	for z := range size[2] {
		for y := range size[1] {
			for x := range size[0] {
				i := g.Index(x, y, z)
				p.Data[i] = value(x, y, z)
				if lung(x, y, z) {
					p.Mask.Bits[i] = 1
				}
			}
		}
	}
	return p
}

func everywhere(int, int, int) bool { return true }

// chest is two lungs side by side that grow towards the bottom.
func chest(x, y, z int) bool {
	lung := func(cx float64) bool {
		r := 12 + float64(z)/5
		dx, dy := (float64(x)-cx)/r, (float64(y)-60)/r/1.4
		return z >= 4 && z < 116 && dx*dx+dy*dy < 1
	}
	return lung(45) || lung(125)
}

func planLungs(p *ct.Prepared, in models.Input, reach int) tiling {
	return plan(in, [3]int{p.Size[2], p.Size[1], p.Size[0]}, func(cell [3]int) cells { return lungCells(p.Mask, cell, reach) })
}

func TestPlanCoversWhatIsInReachOnce(t *testing.T) {
	tests := []struct {
		name  string
		size  [3]int // x, y, z
		in    models.Input
		reach int
		lung  func(x, y, z int) bool
	}{
		{"one tile", [3]int{20, 20, 20}, models.Input{Patch: [3]int{64, 64, 64}, Step: 4, Margin: 8}, 0, everywhere},
		{"several", [3]int{97, 51, 130}, models.Input{Patch: [3]int{64, 64, 64}, Step: 4, Margin: 8}, 0, everywhere},
		{"coarse step", [3]int{97, 51, 130}, models.Input{Patch: [3]int{64, 96, 64}, Step: 16, Margin: 8}, 0, everywhere},
		{"core below a step", [3]int{37, 21, 30}, models.Input{Patch: [3]int{64, 64, 64}, Step: 32, Margin: 28}, 0, everywhere},
		{"fixed patch", [3]int{97, 51, 130}, models.Input{Patch: [3]int{64, 48, 80}, Margin: 8}, 0, everywhere},
		{"no margin", [3]int{33, 32, 31}, models.Input{Patch: [3]int{32, 32, 32}, Step: 4}, 0, everywhere},
		{"one voxel", [3]int{1, 1, 1}, models.Input{Patch: [3]int{32, 32, 32}, Step: 4, Margin: 4}, 0, everywhere},
		{"more cuts than a block", [3]int{230, 20, 20}, models.Input{Patch: [3]int{32, 32, 32}, Step: 4, Margin: 8}, 0, everywhere},
		{"chest", [3]int{170, 120, 120}, models.Input{Patch: [3]int{96, 96, 96}, Step: 16, Margin: 16}, 5, chest},
		{"chest, one shape", [3]int{170, 120, 120}, models.Input{Patch: [3]int{64, 64, 64}, Margin: 16}, 5, chest},
		{"no lung", [3]int{40, 40, 40}, models.Input{Patch: [3]int{32, 32, 32}, Step: 4, Margin: 4}, 9, func(int, int, int) bool { return false }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := scan(tt.size, func(x, y, z int) uint8 { return 0 }, tt.lung)
			pl := planLungs(p, tt.in, tt.reach)
			seen := make([]uint8, p.Voxels())
			limit := tt.in.Patch[0] * tt.in.Patch[1] * tt.in.Patch[2]
			for _, k := range pl.tiles {
				for z := k.start[0]; z < min(k.start[0]+k.core[0], tt.size[2]); z++ {
					for y := k.start[1]; y < min(k.start[1]+k.core[1], tt.size[1]); y++ {
						for x := k.start[2]; x < min(k.start[2]+k.core[2], tt.size[0]); x++ {
							seen[p.Index(x, y, z)]++
						}
					}
				}
				for a, n := range k.patch {
					lo, hi := k.start[a]-tt.in.Margin, k.start[a]+k.core[a]+tt.in.Margin
					if k.origin[a] > max(lo, 0) || k.origin[a]+n < min(hi, tt.size[2-a]) || k.origin[a]+n < k.start[a]+k.core[a] || tt.in.Step == 0 && n != tt.in.Patch[a] || tt.in.Step > 0 && n%tt.in.Step != 0 {
						t.Errorf("patch %v around core %v does not fit %+v", k.patch, k.core, tt.in)
					}
				}
				if k.voxels() > limit {
					t.Errorf("patch %v is larger than %v", k.patch, tt.in.Patch)
				}
			}
			for z := range tt.size[2] {
				for y := range tt.size[1] {
					for x := range tt.size[0] {
						n := seen[p.Index(x, y, z)]
						if n > 1 || n == 0 && nearLung(p.Mask, nodule.Candidate{Z: float64(z), Y: float64(y), X: float64(x)}, float64(tt.reach)) {
							t.Fatalf("voxel %d,%d,%d is in %d cores (%+v)", x, y, z, n, pl)
						}
					}
				}
			}
			if again := planLungs(p, tt.in, tt.reach); !reflect.DeepEqual(again, pl) {
				t.Errorf("planned again: %+v, before %+v", again, pl)
			}
		})
	}
}

// TestPlanIsCheap compares with the even grid of the largest cube, and holds
// that two far parts are not searched as one.
func TestPlanIsCheap(t *testing.T) {
	in := models.Input{Patch: [3]int{96, 96, 96}, Step: 16, Margin: 16}
	p := scan([3]int{170, 120, 120}, func(x, y, z int) uint8 { return 0 }, chest)
	voxels := func(in models.Input, reach int) (n int) {
		for _, k := range planLungs(p, in, reach).tiles {
			n += k.voxels()
		}
		return n
	}
	even := in
	even.Step = 0
	for reach, most := range map[int]int{0: 70, 5: 80, 20: 100} { // percent of the grid
		if got, grid := voxels(in, reach), voxels(even, reach); got > grid*most/100 {
			t.Errorf("reach %d: %d voxels in all, the grid has %d", reach, got, grid)
		}
	}
	in.Patch = [3]int{256, 256, 256}
	p = scan([3]int{240, 30, 30}, func(x, y, z int) uint8 { return 0 }, func(x, y, z int) bool { return x < 10 || x > 230 })
	if pl := planLungs(p, in, 3); len(pl.tiles) != 2 || pl.shapes() != "1*48x48x32 1*48x48x48" {
		t.Errorf("two far parts are searched as %s", pl.shapes())
	}
	// Nothing outside the scan is looked at, except for whole steps.
	p = scan([3]int{96, 80, 70}, func(x, y, z int) uint8 { return 0 }, everywhere)
	if pl := planLungs(p, in, 3); pl.shapes() != "1*80x80x96" {
		t.Errorf("a scan of 70x80x96 is searched as %s", pl.shapes())
	}
}

func TestPlanSkipsTilesWithoutLung(t *testing.T) {
	in := models.Input{Patch: [3]int{48, 48, 48}, Margin: 8}
	p := scan([3]int{96, 32, 32}, func(x, y, z int) uint8 { return 0 }, func(x, _, _ int) bool { return x < 20 })
	if pl := planLungs(p, in, 0); len(pl.tiles) != 1 || pl.skip != 2 {
		t.Errorf("%d tiles, %d skipped, want 1 and 2", len(pl.tiles), pl.skip)
	}
	if pl := planLungs(p, in, 13); len(pl.tiles) != 2 || pl.skip != 1 {
		t.Errorf("with a reach of 13: %d tiles, %d skipped, want 2 and 1", len(pl.tiles), pl.skip)
	}
}

// BenchmarkPlan covers lungs of the usual size.
func BenchmarkPlan(b *testing.B) {
	in := models.Input{Patch: [3]int{256, 256, 256}, Step: 16, Margin: 16}
	p := scan([3]int{340, 300, 330}, func(x, y, z int) uint8 { return 0 }, func(x, y, z int) bool { return chest(x/2, y/2, z/3) })
	for b.Loop() {
		planLungs(p, in, 20)
	}
}

func TestFill(t *testing.T) {
	value := func(x, y, z int) uint8 { return uint8(x + 10*y + 100*z) }
	p := scan([3]int{5, 4, 2}, value, everywhere)
	const pad = 170
	table := newScaling(models.Scale{Subtract: 128, Divide: 128})
	pl := planLungs(p, models.Input{Patch: [3]int{8, 8, 8}, Step: 4, Margin: 2}, 0)
	if len(pl.tiles) < 2 {
		t.Fatalf("%d tiles", len(pl.tiles))
	}
	for _, k := range pl.tiles {
		got := make([]float32, k.voxels())
		for i := range got {
			got[i] = -99
		}
		o := k.origin
		fill(got, p, o, k.patch, table, pad)
		i := 0
		for z := o[0]; z < o[0]+k.patch[0]; z++ {
			for y := o[1]; y < o[1]+k.patch[1]; y++ {
				for x := o[2]; x < o[2]+k.patch[2]; x++ {
					want := float32(pad-128) / 128
					if x >= 0 && x < 5 && y >= 0 && y < 4 && z >= 0 && z < 2 {
						want = (float32(value(x, y, z)) - 128) / 128
					}
					if got[i] != want {
						t.Fatalf("tile at %v: voxel %d,%d,%d is %g, want %g", k.start, x, y, z, got[i], want)
					}
					i++
				}
			}
		}
	}
}

func TestSelectCandidates(t *testing.T) {
	// Lung is x < 50; beyond it is chest wall.
	p := scan([3]int{100, 40, 40}, func(x, y, z int) uint8 { return 0 }, func(x, _, _ int) bool { return x < 50 })
	at := func(x, d, prob float64) nodule.Candidate {
		return nodule.Candidate{Z: 20, Y: 20, X: x, Diameter: d, Probability: prob}
	}
	in := []nodule.Candidate{
		at(20, 10, 0.7), at(21, 9, 0.9), // one nodule, twice
		at(47, 16, 0.8),  // a mass on the pleura, more than half in the lung
		at(55, 16, 0.85), // one more outside than inside
		at(70, 16, 0.95), // in the chest wall
		at(5, 5, 0.6),
		{Z: -30, Y: 20, X: 20, Diameter: 10, Probability: 0.9}, // outside the scan
	}
	model := models.Manifest{
		Input:  models.Input{Prepare: ct.DefaultPrepareSpec(), ReachMM: 10},
		Output: models.Output{NMSIoU: 0.05, Merge: 1, MinInLung: 0.5, TopK: 10},
	}
	got := selectCandidates(in, p, model)
	want := []nodule.Candidate{at(21, 9, 0.9), at(47, 16, 0.8), at(5, 5, 0.6)}
	model.Output.MinInLung, model.Output.Merge = 0, 0.5
	if loose := selectCandidates(in, p, model); !slices.Contains(loose, in[3]) || len(loose) != 3 {
		t.Errorf("with min_in_lung 0 selected %v, want the one within reach of the lung too", loose)
	}
	if len(got) != len(want) {
		t.Fatalf("selected %v, want %v", got, want)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("finding %d is %v, want %v", i, got[i], want[i])
		}
	}
}

// TestSelectLooksAtEnough holds that candidates which are not looked at would not have
// been reported.
func TestSelectLooksAtEnough(t *testing.T) {
	p := scan([3]int{120, 120, 120}, func(x, y, z int) uint8 { return 0 }, func(x, _, _ int) bool { return x < 60 })
	r := rand.New(rand.NewPCG(3, 4))
	in := make([]nodule.Candidate, 3*firstLook)
	for i := range in {
		in[i] = nodule.Candidate{Z: r.Float64() * 120, Y: r.Float64() * 120, X: r.Float64() * 120, Diameter: 3 + r.Float64()*9, Probability: r.Float64()}
	}
	model := models.Manifest{
		Input:  models.Input{Prepare: ct.DefaultPrepareSpec(), ReachMM: 2},
		Output: models.Output{NMSIoU: 0.05, Merge: 1, TopK: 0},
	}
	all := selectCandidates(in, p, model)
	for _, k := range []int{1, 20, 100, len(all), 1000 * firstLook} {
		model.Output.TopK = k
		if got := selectCandidates(in, p, model); !slices.Equal(got, all[:min(k, len(all))]) {
			t.Errorf("the first %d of %d are not those that looking at all gives", k, len(all))
		}
	}
}

func TestFindings(t *testing.T) {
	g := ct.Geometry{
		Size: [3]int{10, 10, 10}, Spacing: [3]float64{2, 2, 2}, Origin: [3]float64{-100, -50, 20},
		Axes: [3][3]float64{{0, 1, 0}, {-1, 0, 0}, {0, 0, 1}}, // x runs along LPS y
	}
	cs := []nodule.Candidate{{X: 3, Y: 2, Z: 1, Diameter: 4, Probability: 0.75}}
	f := findings(cs, g, "1.2.3", "ab")[0]
	if want := [3]float64{-104, -44, 22}; f.Center != want {
		t.Errorf("centre %v, want %v", f.Center, want)
	}
	if f.DiameterMM != 8 || f.Size != [3]float64{8, 8, 8} || f.Probability != 0.75 {
		t.Errorf("finding %+v, want 8 mm and 0.75", f)
	}
	if err := f.Validate(); err != nil {
		t.Error(err)
	}
	if again := findings(cs, g, "1.2.3", "ab")[0]; again.ID != f.ID {
		t.Errorf("the same finding is %s and %s", f.ID, again.ID)
	}
	if other := findings(cs, g, "1.2.4", "ab")[0]; other.ID == f.ID {
		t.Error("findings of two series share an ID")
	}
}
