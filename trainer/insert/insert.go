// Package insert puts lung nodules of known place and size into chest CT scans,
// so that a detector can be trained and measured where annotated scans are few.
//
// Real nodules are transplanted from crops with masks (ReadSources), turned,
// mirrored and scaled a little; simulated ones (solid, part-solid and
// ground-glass, lobulated, spiculated, calcified) are random spheres. Both are
// drawn on a grid finer than the scan's, blurred by the in-plane point spread
// that the scan itself shows and by the thickness of its slices, and blended
// with what is there: tissue stays where it is denser than the nodule, and the
// noise that the blend takes away is put back with the scan's own strength and
// grain. Places are in the lungs (ct.LungMask), a third of them at the pleura,
// some at a vessel, all apart from one another and from nodules that are known.
//
// A nodule that would not be seen, because it is buried in tissue or too faint,
// is drawn again elsewhere. What a detector reaches on inserted nodules is no
// substitute for a figure on real ones.
package insert

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"

	"hilum/models/ct"
)

// Kinds and places of nodules, as truth files name them.
const (
	KindSolid       = "solid"
	KindPartSolid   = "part-solid"
	KindGroundGlass = "ground-glass"

	PlaceIsolated      = "isolated"
	PlaceJuxtaPleural  = "juxta-pleural"
	PlaceJuxtaVascular = "juxta-vascular"

	OriginReal      = "real"
	OriginSimulated = "simulated"
)

// Sphere is a finding that is known already.
type Sphere struct {
	Center     [3]float64 // LPS mm
	DiameterMM float64    // not positive: not measured
}

// Options describe what is put into one scan.
type Options struct {
	Nodules   int       // default 5
	Seed      int64     // with the scan's name it decides everything random
	Name      string    // of the scan
	Sources   []Source  // real nodules; none: only simulated ones
	RealShare float64   // of the nodules that are real where there are Sources; 0: two thirds, 1: all
	Diameters []float64 // mm, to draw from; none: the lognormal distribution of LUNA16's
	Clear     []Sphere  // no nodule is put on or near these
	Threads   int       // for the lung mask; 0: all cores
}

const (
	maxNodules       = 60
	defaultNodules   = 5
	defaultRealShare = 2.0 / 3
	pleuralShare     = 1.0 / 3
	vascularShare    = 0.2

	placeTries  = 4000 // random places for one nodule before another is drawn
	noduleTries = 40   // nodules drawn before the lungs count as full
	gap         = 5.0  // mm between the surfaces of two findings
	unmeasured  = 6.0  // mm: the diameter that a finding without one is given
)

// Lognormal fit of LUNA16's diameters, and the range that is drawn.
const (
	logMean, logSpread = 1.992, 0.473
	smallest, largest  = 3.3, 32.0
)

// ErrFull is returned when there is no room for a nodule in the lungs.
var ErrFull = errors.New("no room for another nodule in these lungs")

// Nodule is what was put into a scan, as it is and not as it was found.
type Nodule struct {
	Center     [3]float64 `json:"center_lps_mm"`
	DiameterMM float64    `json:"diameter_mm"` // of the ball of the same volume; at the pleura: of what stands out of the wall
	Kind       string     `json:"kind"`        // solid, part-solid, ground-glass
	Place      string     `json:"place"`       // isolated, juxta-pleural, juxta-vascular
	Origin     string     `json:"origin"`      // real, simulated
	Spiculated bool       `json:"spiculated"`
	Calcified  bool       `json:"calcified"`
	File       string     `json:"source_file,omitempty"`    // of a real one
	Patient    string     `json:"source_patient,omitempty"` // of a real one: split data by it
	Scale      float64    `json:"scale,omitempty"`          // of a real one
	ContrastHU float64    `json:"contrast_hu"`              // mean change of its voxels
}

// Scanner is what the scan shows of the scanner.
type Scanner struct {
	PointSpreadMM float64 `json:"point_spread_mm"` // standard deviation in the plane
	NoiseHU       float64 `json:"noise_hu"`        // standard deviation in soft tissue
	NoiseGrain    float64 `json:"noise_grain"`     // correlation between neighbouring pixels
}

// Result is a scan with nodules.
type Result struct {
	Volume  *ct.Volume // v itself, changed
	Nodules []Nodule
	Scanner Scanner
}

// Into puts nodules into v, which it changes, also when it fails.
func Into(ctx context.Context, v *ct.Volume, o Options) (*Result, error) {
	if o.Nodules == 0 {
		o.Nodules = defaultNodules
	}
	if o.Nodules < 0 || o.Nodules > maxNodules {
		return nil, fmt.Errorf("%d nodules in a scan are not possible: choose 1 to %d", o.Nodules, maxNodules)
	}
	if o.RealShare == 0 {
		o.RealShare = defaultRealShare
	}
	if len(o.Sources) == 0 {
		o.RealShare = 0
	}
	for _, d := range o.Diameters {
		if !(d > 0 && d < 200) {
			return nil, fmt.Errorf("a diameter of %g mm to draw from is no nodule's", d)
		}
	}
	mask, err := ct.LungMask(v, o.Threads)
	if err != nil {
		return nil, err
	}
	s := &site{Volume: v, mask: mask.Bits, scanner: measure(v)}
	if s.lung = s.lungVoxels(); len(s.lung) == 0 {
		return nil, ct.ErrNoLungs
	}
	for _, c := range o.Clear {
		if c.DiameterMM <= 0 {
			c.DiameterMM = unmeasured
		}
		s.taken = append(s.taken, c)
	}
	r := rng(o.Seed, o.Name)
	out := &Result{Volume: v, Scanner: s.scanner}
	for i := range o.Nodules {
		n, err := s.insert(ctx, r, o)
		if errors.Is(err, ErrFull) {
			return nil, fmt.Errorf("nodule %d of %d: %w: ask for fewer", i+1, o.Nodules, err)
		}
		if err != nil {
			return nil, err
		}
		out.Nodules = append(out.Nodules, n)
		s.taken = append(s.taken, Sphere{Center: n.Center, DiameterMM: n.DiameterMM})
	}
	return out, nil
}

// insert draws nodules and places until one can be seen.
func (s *site) insert(ctx context.Context, r *rand.Rand, o Options) (Nodule, error) {
	for range noduleTries {
		if err := ctx.Err(); err != nil {
			return Nodule{}, err
		}
		place := PlaceIsolated
		switch p := r.Float64(); {
		case p < pleuralShare:
			place = PlaceJuxtaPleural
		case p < pleuralShare+vascularShare:
			place = PlaceJuxtaVascular
		}
		diameter := o.diameter(r)
		spot, ok := s.spot(r, place, diameter/2)
		if !ok {
			continue
		}
		object, n, err := o.draw(r, diameter, s, spot)
		if err != nil {
			return n, err
		}
		n.Place = place
		if s.paste(r, object, spot, &n) {
			return n, nil
		}
	}
	return Nodule{}, ErrFull
}

// draw makes a nodule of that diameter for a spot.
func (o Options) draw(r *rand.Rand, diameter float64, s *site, spot spot) (object, Nodule, error) {
	if r.Float64() < o.RealShare {
		return transplant(r, o.Sources, diameter, s, spot)
	}
	object, n := simulate(r, diameter, spot)
	return object, n, nil
}

func (o Options) diameter(r *rand.Rand) float64 {
	if n := len(o.Diameters); n > 0 {
		return o.Diameters[r.IntN(n)]
	}
	return min(max(math.Exp(logMean+logSpread*r.NormFloat64()), smallest), largest)
}

// rng returns the source of random numbers of one scan.
func rng(seed int64, name string) *rand.Rand {
	h := uint64(14695981039346656037) // FNV-1a
	for _, c := range []byte(name) {
		h = (h ^ uint64(c)) * 1099511628211
	}
	return rand.New(rand.NewPCG(uint64(seed), h))
}
