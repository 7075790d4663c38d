package main

import (
	"bytes"

	"hilum/plugins/api"
)

// picture gives every finding a mask, a cube of 6 mm, and three views.
func picture(findings []api.Finding) {
	const voxels, edge, pixels = 6, 1.0, 32
	axes := [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}
	for i := range findings {
		f := &findings[i]
		f.Mask = &api.Mask{
			Size: [3]int{voxels, voxels, voxels}, Spacing: [3]float64{edge, edge, edge}, Axes: axes,
			Bits: bytes.Repeat([]byte{0xFF}, voxels*voxels*voxels/8),
		}
		for a := range 3 {
			f.Mask.Origin[a] = f.Center[a] - edge*(voxels-1)/2
		}
		f.VolumeMM3, f.LongAxisMM, f.ShortAxisMM = voxels*voxels*voxels*edge*edge*edge, voxels*edge, voxels*edge
		for n := range api.MaxViews {
			v := api.View{
				Columns: pixels, Rows: pixels, Spacing: edge, Origin: f.Center,
				ColumnAxis: axes[n%2], RowAxis: axes[min(n+1, 2)], Pixels: make([]byte, pixels*pixels),
			}
			for p := range v.Pixels {
				v.Pixels[p] = byte(7 * p)
			}
			f.Views = append(f.Views, v)
		}
	}
}
