package prepare

import (
	"math"

	"hilum/models/ct"
	"hilum/trainer/luna"
)

// Nodule is an annotated nodule and its place in the prepared box.
type Nodule struct {
	Center         [3]float64 `json:"center_lps_mm"`
	DiameterMM     float64    `json:"diameter_mm"`
	Voxel          [3]float64 `json:"voxel_zyx"`       // of the centre, in the box
	DiameterVoxels float64    `json:"diameter_voxels"` // of the x axis, as models are
	Inside         bool       `json:"inside"`          // the centre is in the box
	// Kept is the share of the nodule's ball that is in the box as the scan has
	// it: not cut off and not masked.
	Kept float64 `json:"kept"`
}

// leastKept is the share of a nodule's ball that must be there. A nodule on the
// pleura may lose the part of its ball that is rib: an annotation is round, the
// nodule is not.
const leastKept = 0.75

// lost says in what way a nodule is not whole, or nothing.
func (n Nodule) lost() string {
	switch {
	case !n.Inside:
		return "lies outside the box around the lungs"
	case n.Kept < leastKept:
		return "is cut off or masked: only a part of it is left"
	}
	return ""
}

func sameNodules(have []Nodule, rows []luna.Nodule) bool {
	if len(have) != len(rows) {
		return false
	}
	for i, n := range rows {
		if have[i].Center != n.Center || have[i].DiameterMM != n.Diameter {
			return false
		}
	}
	return true
}

// place returns the nodules of a scan in the voxels of the box.
func place(v *ct.Volume, p *ct.Prepared, spec ct.PrepareSpec, rows []luna.Nodule) []Nodule {
	out := make([]Nodule, 0, len(rows))
	for _, row := range rows {
		x, y, z := p.Voxel(row.Center)
		out = append(out, Nodule{
			Center: row.Center, DiameterMM: row.Diameter,
			Voxel: [3]float64{z, y, x}, DiameterVoxels: row.Diameter / p.Spacing[0],
			Inside: inside(p.Size, x, y, z),
			Kept:   kept(v, p, spec, [3]float64{x, y, z}, row.Diameter/2),
		})
	}
	return out
}

func inside(size [3]int, x, y, z float64) bool {
	for a, at := range [3]float64{x, y, z} {
		if !(at >= -0.5 && at < float64(size[a])-0.5) {
			return false
		}
	}
	return true
}

// kept returns the share of a ball's voxels that have the value of the scan.
func kept(v *ct.Volume, p *ct.Prepared, spec ct.PrepareSpec, centre [3]float64, radius float64) float64 {
	var lo, hi [3]int
	for a := range 3 {
		reach := radius / p.Spacing[a]
		lo[a], hi[a] = int(math.Ceil(centre[a]-reach)), int(math.Floor(centre[a]+reach))
		if lo[a] > hi[a] { // smaller than a voxel
			lo[a] = int(math.Round(centre[a]))
			hi[a] = lo[a]
		}
	}
	all, there := 0, 0
	for k := lo[2]; k <= hi[2]; k++ {
		for j := lo[1]; j <= hi[1]; j++ {
			for i := lo[0]; i <= hi[0]; i++ {
				at := [3]float64{float64(i), float64(j), float64(k)}
				d := 0.0
				for a := range 3 {
					d += (at[a] - centre[a]) * (at[a] - centre[a]) * p.Spacing[a] * p.Spacing[a]
				}
				if d > radius*radius && lo != hi {
					continue
				}
				all++
				if !inside(p.Size, at[0], at[1], at[2]) {
					continue
				}
				got := p.Data[p.Index(i, j, k)]
				// The padding value is also that of soft tissue: masked is what
				// would be something else.
				if got != spec.PadValue || math.Abs(windowed(v, spec.WindowHU, p.World(at[0], at[1], at[2]))-float64(got)) <= 1 {
					there++
				}
			}
		}
	}
	if all == 0 {
		return 0
	}
	return float64(there) / float64(all)
}

// windowed returns the window value of the scan at a point, interpolated.
func windowed(v *ct.Volume, window [2]float64, point [3]float64) float64 {
	x, y, z := v.Voxel(point)
	var low [3]int
	var part [3]float64
	for a, at := range [3]float64{x, y, z} {
		at = min(max(at, 0), float64(v.Size[a]-1))
		low[a] = min(int(at), max(0, v.Size[a]-2))
		part[a] = at - float64(low[a])
	}
	sum := 0.0
	for corner := range 8 {
		w := 1.0
		var at [3]int
		for a := range 3 {
			if corner>>a&1 != 0 {
				at[a], w = min(low[a]+1, v.Size[a]-1), w*part[a]
			} else {
				at[a], w = low[a], w*(1-part[a])
			}
		}
		if w > 0 {
			hu := float64(v.HU[v.Index(at[0], at[1], at[2])])
			sum += w * min(max(hu, window[0]), window[1])
		}
	}
	return (sum - window[0]) / (window[1] - window[0]) * math.MaxUint8
}

// lungML returns the volume of the lungs in millilitres.
func lungML(p *ct.Prepared) float64 {
	n := 0
	for _, b := range p.Mask.Bits {
		n += int(b)
	}
	return math.Round(float64(n) * p.Spacing[0] * p.Spacing[1] * p.Spacing[2] / 1000)
}
