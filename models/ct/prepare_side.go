package ct

// Side tells the lungs apart.
type Side int

// The values of Side. Right and left are the patient's.
const (
	NoLung Side = iota
	RightLung
	LeftLung
)

// Side returns the lung that a voxel of the box belongs to: NoLung where Mask is 0, and
// for every voxel of a Prepared that Prepare did not make.
func (p *Prepared) Side(i, j, k int) Side {
	if p.sides[0] == nil || i < 0 || j < 0 || k < 0 || i >= p.Size[0] || j >= p.Size[1] || k >= p.Size[2] {
		return NoLung
	}
	i, j, k = i+p.sideAt[0], j+p.sideAt[1], k+p.sideAt[2]
	for n, lung := range p.sides {
		if lung.row(j, k)[i>>6]>>(i&63)&1 != 0 {
			return RightLung + Side(n)
		}
	}
	return NoLung
}
