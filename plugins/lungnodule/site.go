package main

import (
	"hilum/models/ct"
	"hilum/plugins/api"
)

// clearShare is what one lung must have of the lung around a finding for the finding to
// be in it: between the lungs, where they almost touch, the side stays open.
const clearShare = 0.8

// site returns the lung that a finding is in, from the lungs as they were found; "" when
// it is not clear. Lobes are not known: nobody looked for the fissures.
func site(p *ct.Prepared, f api.Finding) api.Site {
	x, y, z := p.Voxel(f.Center)
	reach := max(f.DiameterMM/2, 2)
	var votes [ct.LeftLung + 1]int
	var lo, hi [3]int
	for a, c := range [3]float64{x, y, z} {
		lo[a], hi[a] = int(c-reach/p.Spacing[a]), int(c+reach/p.Spacing[a])+1
		lo[a], hi[a] = max(lo[a], 0), min(hi[a], p.Size[a]-1)
	}
	for k := lo[2]; k <= hi[2]; k++ {
		for j := lo[1]; j <= hi[1]; j++ {
			for i := lo[0]; i <= hi[0]; i++ {
				votes[p.Side(i, j, k)]++
			}
		}
	}
	right, left := float64(votes[ct.RightLung]), float64(votes[ct.LeftLung])
	switch all := right + left; {
	case all == 0:
		return ""
	case right >= clearShare*all:
		return api.SiteRightLung
	case left >= clearShare*all:
		return api.SiteLeftLung
	}
	return ""
}
