package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"iter"
	"math"
	"slices"

	"hilum/models"
	"hilum/models/ct"
	"hilum/models/nodule"
	"hilum/plugins/api"
)

// maxDiameterMM cuts wild boxes: no nodule or mass is wider, and one box as
// large as the chest would swallow all others.
const maxDiameterMM = 150

// idBytes is the length of a finding's identity before it becomes hexadecimal.
const idBytes = 8

// firstLook is how many candidates are looked at first.
const firstLook = 4096

// selectCandidates turns the candidates of all tiles, in voxels of the prepared scan,
// into the ones to report, the most probable first.
//
// Whether a candidate stays depends on more probable ones only. So only as many are
// looked at as it takes to fill the report: with a low threshold a network has a
// hundred thousand, and most of the time would go into those that nobody asks for.
func selectCandidates(all []nodule.Candidate, p *ct.Prepared, m models.Manifest) []nodule.Candidate {
	o, reach := m.Output, float64(reachVoxels(m.Input))
	sorted := slices.Clone(all)
	nodule.Sort(sorted)
	var inLung []nodule.Candidate
	seen := 0
	for look := firstLook; ; look *= 4 {
		look = min(look, len(sorted))
		for _, c := range sorted[seen:look] {
			if nearLung(p.Mask, c, reach) && (o.MinInLung == 0 || shareInLung(p.Mask, c) >= o.MinInLung) {
				inLung = append(inLung, c)
			}
		}
		seen = look
		kept := nodule.MergeNear(nodule.NMS(inLung, o.NMSIoU), o.Merge)
		if seen == len(sorted) || o.TopK > 0 && len(kept) >= o.TopK {
			return nodule.Top(kept, o.TopK)
		}
	}
}

// shareInLung returns how much of the ball of c lies in the lungs, 0 to 1. The
// mask holds nodules on the pleura; heart, vessels of the hilum and chest wall
// are not in it, and round things are plenty there.
func shareInLung(m *ct.Mask, c nodule.Candidate) float64 {
	inside, all := 0, 0
	for lung := range ball(m, c, c.Diameter/2) {
		all++
		if lung {
			inside++
		}
	}
	return float64(inside) / float64(max(all, 1))
}

// nearLung tells whether the centre of c lies within reach voxels of the lungs.
func nearLung(m *ct.Mask, c nodule.Candidate, reach float64) bool {
	for lung := range ball(m, c, reach) {
		if lung {
			return true
		}
	}
	return false
}

// ball says of every voxel within the radius of the centre of c whether it is
// lung. It has at least the voxel of the centre.
func ball(m *ct.Mask, c nodule.Candidate, radius float64) iter.Seq[bool] {
	r := max(radius, 1)
	return func(yield func(bool) bool) {
		for z := math.Ceil(c.Z - r); z <= c.Z+r; z++ {
			for y := math.Ceil(c.Y - r); y <= c.Y+r; y++ {
				for x := math.Ceil(c.X - r); x <= c.X+r; x++ {
					dx, dy, dz := x-c.X, y-c.Y, z-c.Z
					if dx*dx+dy*dy+dz*dz > r*r {
						continue
					}
					in := x >= 0 && y >= 0 && z >= 0 && x < float64(m.Size[0]) && y < float64(m.Size[1]) && z < float64(m.Size[2]) &&
						m.Bits[m.Index(int(x), int(y), int(z))] != 0
					if !yield(in) {
						return
					}
				}
			}
		}
	}
}

// findings places candidates in the patient. Voxels of a prepared scan are
// cubes, or nearly: the diameter is scaled by their mean edge.
func findings(cs []nodule.Candidate, g ct.Geometry, seriesUID, modelSHA256 string) []api.Finding {
	edge := math.Cbrt(g.Spacing[0] * g.Spacing[1] * g.Spacing[2])
	out := make([]api.Finding, len(cs))
	for i, c := range cs {
		d := c.Diameter * edge
		p := g.World(c.X, c.Y, c.Z)
		out[i] = api.Finding{
			ID:          identity(seriesUID, modelSHA256, p),
			Center:      p,
			Size:        [3]float64{d, d, d},
			DiameterMM:  d,
			Probability: c.Probability,
			Label:       "nodule",
		}
	}
	return out
}

// identity is the same whenever the same model finds the same place in the
// same series, to a tenth of a millimetre.
func identity(seriesUID, modelSHA256 string, p [3]float64) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s|%s|%.1f|%.1f|%.1f", seriesUID, modelSHA256, p[0], p[1], p[2]))
	return hex.EncodeToString(sum[:idBytes])
}
