package main

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"math"

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

// selectCandidates turns the candidates of all tiles, in voxels of the prepared scan,
// into the ones to report, the most probable first.
func selectCandidates(all []nodule.Candidate, p *ct.Prepared, o models.Output) []nodule.Candidate {
	inLung := all[:0:0]
	for _, c := range all {
		if in := shareInLung(p.Mask, c); in > 0 && in >= o.MinInLung {
			inLung = append(inLung, c)
		}
	}
	kept := nodule.MergeNear(nodule.NMS(inLung, o.NMSIoU), o.Merge)
	return nodule.Top(kept, o.TopK)
}

// shareInLung returns how much of the ball of c lies in the lungs, 0 to 1. The
// mask holds nodules on the pleura; heart, vessels of the hilum and chest wall
// are not in it, and round things are plenty there.
func shareInLung(m *ct.Mask, c nodule.Candidate) float64 {
	r := max(c.Diameter/2, 1) // at least the voxel of the centre
	inside, all := 0, 0
	for z := math.Ceil(c.Z - r); z <= c.Z+r; z++ {
		for y := math.Ceil(c.Y - r); y <= c.Y+r; y++ {
			for x := math.Ceil(c.X - r); x <= c.X+r; x++ {
				dx, dy, dz := x-c.X, y-c.Y, z-c.Z
				if dx*dx+dy*dy+dz*dz > r*r {
					continue
				}
				all++
				if x >= 0 && y >= 0 && z >= 0 && x < float64(m.Size[0]) && y < float64(m.Size[1]) && z < float64(m.Size[2]) &&
					m.Bits[m.Index(int(x), int(y), int(z))] != 0 {
					inside++
				}
			}
		}
	}
	return float64(inside) / float64(max(all, 1))
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
