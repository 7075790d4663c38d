package ct

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"
)

// randomGrid returns a grid with about the given share of voxels set, in blobs.
func randomGrid(r *rand.Rand, size [3]int, share float64) *bitGrid {
	b := newBitGrid(size)
	for k := range size[2] {
		for j := range size[1] {
			on := false
			for i := range size[0] {
				if r.Float64() < 0.3 {
					on = r.Float64() < share
				}
				if on {
					b.set(i, j, k)
				}
			}
		}
	}
	return b
}

func sameGrid(t *testing.T, what string, got, want *bitGrid) {
	t.Helper()
	for n := range want.bits {
		if got.bits[n] != want.bits[n] {
			t.Fatalf("%s differs from brute force in word %d: got %064b, want %064b", what, n, got.bits[n], want.bits[n])
		}
	}
}

func TestDilateAndErodeAgainstBruteForce(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	for n, size := range [][3]int{{1, 1, 1}, {63, 5, 4}, {64, 6, 3}, {65, 7, 5}, {130, 9, 6}, {20, 20, 9}} {
		for _, radius := range []float64{0, 1, 2.5, 4} {
			spacing := [3]float64{1, 0.7, 1.3}
			t.Run(fmt.Sprintf("%v radius %g", size, radius), func(t *testing.T) {
				b := randomGrid(r, size, 0.15+0.1*float64(n))
				dilated, eroded := newBitGrid(size), newBitGrid(size)
				for k := range size[2] {
					for j := range size[1] {
						for i := range size[0] {
							hit, all := near(b, i, j, k, radius, spacing)
							if hit {
								dilated.set(i, j, k)
							}
							if all {
								eroded.set(i, j, k)
							}
						}
					}
				}
				sameGrid(t, "dilate", b.dilate(radius, spacing, 2), dilated)
				sameGrid(t, "erode", b.erode(radius, spacing, 2), eroded)
			})
		}
	}
}

// near tells whether any and whether every voxel of the grid within radius of
// (i,j,k) is in b.
func near(b *bitGrid, i, j, k int, radius float64, s [3]float64) (hit, all bool) {
	all = true
	for z := range b.nz {
		for y := range b.ny {
			for x := range b.nx {
				dx, dy, dz := float64(x-i)*s[0], float64(y-j)*s[1], float64(z-k)*s[2]
				if dx*dx+dy*dy+dz*dz <= radius*radius+1e-9 {
					hit = hit || b.get(x, y, z)
					all = all && b.get(x, y, z)
				}
			}
		}
	}
	return hit, all
}

func TestClosingKeepsAndFills(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	b := randomGrid(r, [3]int{70, 30, 12}, 0.3)
	closed, opened := b.closing(2, [3]float64{1, 1, 1}, 2), b.opening(2, [3]float64{1, 1, 1}, 2)
	lost := b.clone()
	lost.andNot(closed)
	if n := lost.count(); n != 0 {
		t.Errorf("closing lost %d voxels", n)
	}
	opened.andNot(b)
	if n := opened.count(); n != 0 {
		t.Errorf("opening added %d voxels", n)
	}
	again := closed.closing(2, [3]float64{1, 1, 1}, 2)
	inner := again.clone()
	inner.andNot(closed)
	// Away from the grid's border closing twice is closing once.
	for k := 4; k < 8; k++ {
		for j := 4; j < 26; j++ {
			for i := 4; i < 66; i++ {
				if inner.get(i, j, k) {
					t.Fatalf("closing again added voxel %d %d %d", i, j, k)
				}
			}
		}
	}
}

func TestBallReachesItsRadius(t *testing.T) {
	b := newBitGrid([3]int{41, 41, 41})
	b.set(20, 20, 20)
	d := b.dilate(10, [3]float64{1, 1, 1}, 1)
	for _, p := range [][3]int{{10, 20, 20}, {30, 20, 20}, {20, 10, 20}, {20, 20, 30}, {26, 28, 20}} {
		if !d.get(p[0], p[1], p[2]) {
			t.Errorf("voxel %v, 10 mm away, is not in the ball of 10 mm", p)
		}
	}
	want := 0
	for z := -10; z <= 10; z++ {
		for y := -10; y <= 10; y++ {
			for x := -10; x <= 10; x++ {
				if x*x+y*y+z*z <= 100 {
					want++
				}
			}
		}
	}
	if got := d.count(); got != want {
		t.Errorf("ball of 10 mm has %d voxels, want %d", got, want)
	}
}

func TestHullAgainstBruteForce(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	for range 60 {
		size := [3]int{3 + r.IntN(90), 3 + r.IntN(30), 1}
		b := newBitGrid(size)
		var points []point
		for range 1 + r.IntN(8) {
			p := point{r.IntN(size[0]), r.IntN(size[1])}
			b.set(p.x, p.y, 0)
			points = append(points, p)
		}
		want := newBitGrid(size)
		for j := range size[1] {
			for i := range size[0] {
				if inHull(points, point{i, j}) {
					want.set(i, j, 0)
				}
			}
		}
		got := newBitGrid(size)
		if n := b.hullPlane(0, got.bits); n != want.count() {
			t.Fatalf("hullPlane(%v) has %d voxels, want %d", points, n, want.count())
		}
		sameGrid(t, "hull", got, want)
	}
}

// inHull tells whether p is in the hull of points: no line through p has all of
// them strictly on one side.
func inHull(points []point, p point) bool {
	var angles []float64
	for _, q := range points {
		if q == p {
			return true
		}
		angles = append(angles, math.Atan2(float64(q.y-p.y), float64(q.x-p.x)))
	}
	for _, a := range angles { // is everything within half a turn from a?
		within := true
		for _, b := range angles {
			turn := math.Mod(b-a+4*math.Pi, 2*math.Pi)
			if turn > 2*math.Pi-1e-9 {
				turn = 0
			}
			within = within && turn < math.Pi-1e-9
		}
		if within {
			return false
		}
	}
	return true
}

func TestGrowHullsKeepsWhatGrowsTooMuch(t *testing.T) {
	b := newBitGrid([3]int{40, 40, 2})
	for i := range 40 { // slice 0: a thin L; slice 1: a disc with a small notch
		b.set(i, 0, 0)
		b.set(0, i, 0)
		for j := range 40 {
			if (i-20)*(i-20)+(j-20)*(j-20) <= 225 && (i < 30 || j != 20) {
				b.set(i, j, 1)
			}
		}
	}
	b.growHulls(1.5, 2)
	if got := popCount(b.plane(0)); got != 79 {
		t.Errorf("the L has %d voxels after growHulls, want its own 79", got)
	}
	if !b.get(33, 20, 1) {
		t.Errorf("the notch of the disc was not filled")
	}
}
