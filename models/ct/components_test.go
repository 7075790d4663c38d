package ct

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// flood labels a grid one voxel at a time.
func flood(b *bitGrid, planar bool) (labels []int, sizes []int) {
	labels = make([]int, b.nx*b.ny*b.nz)
	at := func(p [3]int) *int { return &labels[(p[2]*b.ny+p[1])*b.nx+p[0]] }
	for k := range b.nz {
		for j := range b.ny {
			for i := range b.nx {
				if !b.get(i, j, k) || *at([3]int{i, j, k}) != 0 {
					continue
				}
				sizes = append(sizes, 0)
				stack := [][3]int{{i, j, k}}
				*at(stack[0]) = len(sizes)
				for len(stack) > 0 {
					p := stack[len(stack)-1]
					stack = stack[:len(stack)-1]
					sizes[len(sizes)-1]++
					for a := range 3 {
						for d := -1; d <= 1; d += 2 {
							q := p
							q[a] += d
							if (a == 2 && planar) || q[a] < 0 || q[a] >= b.size()[a] || !b.get(q[0], q[1], q[2]) || *at(q) != 0 {
								continue
							}
							*at(q) = len(sizes)
							stack = append(stack, q)
						}
					}
				}
			}
		}
	}
	return labels, sizes
}

func TestLabelAgainstFlood(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 8))
	for _, size := range [][3]int{{1, 1, 1}, {64, 3, 3}, {63, 8, 5}, {130, 12, 6}, {17, 17, 17}} {
		for _, planar := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v planar %v", size, planar), func(t *testing.T) {
				b := randomGrid(r, size, 0.4)
				labels, sizes := flood(b, planar)
				c := b.label(planar)
				if len(c.voxels) != len(sizes) {
					t.Fatalf("label found %d components, want %d", len(c.voxels), len(sizes))
				}
				// Both number components in the order of their first voxel.
				for n, want := range sizes {
					if c.voxels[n] != want {
						t.Errorf("component %d has %d voxels, want %d", n, c.voxels[n], want)
					}
				}
				c.each(func(n int32, j, k, lo, hi int) {
					for i := lo; i < hi; i++ {
						if want := labels[(k*b.ny+j)*b.nx+i] - 1; int(n) != want {
							t.Fatalf("voxel %d %d %d is in component %d, want %d", i, j, k, n, want)
						}
					}
				})
				sameGrid(t, "all components", c.pick(func(int32) bool { return true }), b)
			})
		}
	}
}

func TestFillHoles(t *testing.T) {
	b := newBitGrid([3]int{70, 10, 10})
	for k := 1; k < 9; k++ {
		for j := 1; j < 9; j++ {
			for i := 1; i < 69; i++ {
				b.set(i, j, k)
			}
		}
	}
	full := b.clone()
	b.bits[(4*b.ny+4)*b.words] &^= 1 << 10 // a hole inside
	b.bits[(5*b.ny+1)*b.words] &^= 1 << 20 // a bay at the surface
	hollow := b.clone()
	b.fillHoles()
	if !b.get(10, 4, 4) || b.get(20, 1, 5) {
		t.Errorf("fillHoles: hole filled %v, bay filled %v, want true, false", b.get(10, 4, 4), b.get(20, 1, 5))
	}
	hollow.fillPlanarHoles(0, 1)
	if hollow.get(10, 4, 4) {
		t.Errorf("fillPlanarHoles(0) filled a hole of one voxel")
	}
	hollow.fillPlanarHoles(1, 2)
	if !hollow.get(10, 4, 4) {
		t.Errorf("fillPlanarHoles(1) left a hole of one voxel")
	}
	full.andNot(b)
	if n := full.count(); n != 1 {
		t.Errorf("fillHoles left %d voxels open, want the bay alone", n)
	}
}

func TestBoxAndRuns(t *testing.T) {
	b := newBitGrid([3]int{128, 4, 4})
	if _, _, ok := b.box(); ok {
		t.Errorf("an empty grid has a box")
	}
	fillRow(b.row(2, 1), 5, 128)
	fillRow(b.row(3, 3), 3, 4)
	lo, hi, ok := b.box()
	if lo != [3]int{3, 2, 1} || hi != [3]int{128, 4, 4} || !ok {
		t.Errorf("box = %v %v %v, want [3 2 1] [128 4 4] true", lo, hi, ok)
	}
	runs := appendRuns(nil, b.row(2, 1))
	if len(runs) != 1 || runs[0].lo != 5 || runs[0].hi != 128 {
		t.Errorf("appendRuns = %v, want one run 5..128", runs)
	}
}
