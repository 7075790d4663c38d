package phantom

import (
	"math"
	"testing"
)

// TestNodulesAreInTheLungs is a test from inside, because only the body knows
// where its lungs end.
func TestNodulesAreInTheLungs(t *testing.T) {
	b := newBody(11)
	nodules, err := placeNodules(b, rng(11, "nodules"), 30)
	if err != nil {
		t.Fatal(err)
	}
	places, kinds := map[string]int{}, map[string]int{}
	for i, n := range nodules {
		places[n.place]++
		kinds[n.kind]++
		volume := 0.0
		const samples = 300
		for j := range samples {
			u := spiral(j, samples)
			r := n.surface(u)
			volume += r * r * r / samples
			if depth := b.lung.at(n.centre.add(u.mul(r))); depth < 0 {
				t.Errorf("nodule %d of %.1f mm (%s) reaches %.2f mm out of the lung", i, 2*n.radius, n.place, -depth)
				break
			}
		}
		if got := math.Cbrt(volume); math.Abs(got-n.radius) > 0.02*n.radius {
			t.Errorf("nodule %d has the volume of a ball of radius %.2f, want %.2f", i, got, n.radius)
		}
		for j, o := range nodules[:i] {
			if d := n.centre.sub(o.centre).norm(); d < n.radius+o.radius {
				t.Errorf("nodules %d and %d overlap: %.1f mm apart", i, j, d)
			}
		}
	}
	for _, place := range []string{PlaceIsolated, PlaceJuxtaPleural, PlaceJuxtaVascular} {
		if places[place] == 0 {
			t.Errorf("of %d nodules none is %s", len(nodules), place)
		}
	}
	if kinds[KindSolid] <= len(nodules)/2 {
		t.Errorf("%d of %d nodules are solid, want most", kinds[KindSolid], len(nodules))
	}
}

// TestRedistance compares the distance field of a ball with the distance.
func TestRedistance(t *testing.T) {
	centre := vec{10, -5, 120}
	f := newField(func(p vec) float64 { return superellipse(p.sub(centre), vec{60, 60, 60}) })
	// The power 2.5 makes no ball; along the axes the distance is exact.
	f.redistance()
	for _, d := range []float64{20, 40, 55, 60, 65, 80} {
		p := centre.add(vec{d, 0, 0})
		if got, want := f.at(p), 60-d; math.Abs(got-want) > 1 {
			t.Errorf("at %g mm from the middle the distance to the surface is %.2f, want %g", d, got, want)
		}
	}
}

func TestVesselTreeFollowsMurray(t *testing.T) {
	g := grower{r: rng(1, "test"), power: 3, tip: 0.5}
	var points []vec
	for i := range 1000 {
		points = append(points, spiral(i, 1000).mul(40))
	}
	if got, want := g.grow(vec{-60, 0, 0}, vec{1, 0, 0}, points), 0.5*10.0; math.Abs(got-want) > 1e-9 {
		t.Errorf("the trunk of 1000 ends of 0.5 mm has a radius of %g, want %g", got, want)
	}
}

func TestGaussIsNormal(t *testing.T) {
	const n = 200_000
	var sum, squares float64
	for i := range uint64(n) {
		v := float64(gauss(i))
		sum, squares = sum+v, squares+v*v
	}
	if mean := sum / n; math.Abs(mean) > 0.01 {
		t.Errorf("mean = %g, want 0", mean)
	}
	if deviation := math.Sqrt(squares / n); math.Abs(deviation-1) > 0.01 {
		t.Errorf("standard deviation = %g, want 1", deviation)
	}
}
