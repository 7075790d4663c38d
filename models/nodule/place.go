package nodule

// Place fills dst, [3, d, h, w] with the last axis fastest, with where each cell of
// a patch stands in the scan along z, y and x: -0.5 at the scan's beginning, 0.5 at
// its end. Cells count as evenly spread from the first to the last border of the
// patch, as in the networks of the DSB2017 winner (Liao et al. 2019) that read it.
// origin is the scan's voxel at the patch's voxel 0, all in voxels (z, y, x).
func Place(dst []float32, origin, patch, scan [3]int, stride int) {
	cells := [3]int{patch[0] / stride, patch[1] / stride, patch[2] / stride}
	i := 0
	for axis := range 3 {
		at := make([]float32, cells[axis])
		for k := range at {
			share := 0.0
			if len(at) > 1 {
				share = float64(k) / float64(len(at)-1)
			}
			at[k] = float32((float64(origin[axis])+share*float64(patch[axis]))/float64(scan[axis]) - 0.5)
		}
		for z := range cells[0] {
			for y := range cells[1] {
				for x := range cells[2] {
					dst[i] = at[[3]int{z, y, x}[axis]]
					i++
				}
			}
		}
	}
}
