package main

import (
	"math"

	"hilum/models/ct"
	"hilum/plugins/api"
)

// measure completes the findings with what can be seen in the scan itself: the lung they
// are in, outline, volume and axes, and for the most probable ones three pictures.
func measure(findings []api.Finding, v *ct.Volume, p *ct.Prepared) {
	for n := range findings {
		f := &findings[n]
		f.Site = site(p, *f)
		if n < maxPictured {
			f.Views = views(v, *f)
		}
		o := grow(v, p, *f)
		if o == nil {
			continue
		}
		f.Mask = o.mask(v.Geometry)
		f.VolumeMM3 = float64(o.voxels) * v.Spacing[0] * v.Spacing[1] * v.Spacing[2]
		f.LongAxisMM, f.ShortAxisMM = o.axes(v.Spacing)
	}
}

// axes are the longest diameter of the outline in one slice and the longest at a right
// angle to it in the same slice, in mm, as a radiologist measures them: pixels count from
// edge to edge.
func (o *outline) axes(spacing [3]float64) (long, short float64) {
	for k := range o.size[2] {
		rim := o.rim(k, spacing)
		var direction [2]float64
		best := 0.0
		for i, a := range rim {
			for _, b := range rim[i+1:] {
				x, y := b[0]-a[0], b[1]-a[1]
				if d := math.Hypot(x, y); d > best {
					best, direction = d, [2]float64{x / d, y / d}
				}
			}
		}
		if best <= long {
			continue
		}
		lo, hi := math.Inf(1), math.Inf(-1)
		for _, a := range rim {
			across := -a[0]*direction[1] + a[1]*direction[0]
			lo, hi = min(lo, across), max(hi, across)
		}
		long, short = best, min(hi-lo, best)
	}
	return long, short
}

// rim lists, in mm, the middles of the edges between pixels of a slice that are in the
// outline and those that are not.
func (o *outline) rim(k int, spacing [3]float64) [][2]float64 {
	var out [][2]float64
	at := func(i, j int) bool {
		return i >= 0 && j >= 0 && i < o.size[0] && j < o.size[1] && o.set[(k*o.size[1]+j)*o.size[0]+i]
	}
	for j := range o.size[1] {
		for i := range o.size[0] {
			if !at(i, j) {
				continue
			}
			for _, d := range [][2]int{{1, 0}, {-1, 0}, {0, 1}, {0, -1}} {
				if !at(i+d[0], j+d[1]) {
					out = append(out, [2]float64{(float64(i) + float64(d[0])/2) * spacing[0], (float64(j) + float64(d[1])/2) * spacing[1]})
				}
			}
		}
	}
	return out
}

// The pictures: how many findings have some, how large they are and what they show.
const (
	maxPictured  = 16
	viewPixels   = 96
	viewLeastMM  = 50.0
	viewLowHU    = -1350.0 // the usual lung window: -600, width 1500
	viewHighHU   = 150.0
	viewDiameter = 2.0 // edge of the picture, in diameters of the finding
)

// views are an axial, a coronal and a sagittal picture around a finding, as they hang on
// a radiologist's wall: the patient's right on the left, the head above.
func views(v *ct.Volume, f api.Finding) []api.View {
	edge := max(viewLeastMM, viewDiameter*f.DiameterMM)
	spacing := edge / viewPixels
	out := make([]api.View, 0, api.MaxViews)
	for _, axes := range [api.MaxViews][2][3]float64{
		{{1, 0, 0}, {0, 1, 0}},
		{{1, 0, 0}, {0, 0, -1}},
		{{0, 1, 0}, {0, 0, -1}},
	} {
		w := api.View{
			Columns: viewPixels, Rows: viewPixels, Spacing: spacing, ColumnAxis: axes[0], RowAxis: axes[1],
			Pixels: make([]byte, viewPixels*viewPixels),
		}
		for n := range w.Origin {
			w.Origin[n] = f.Center[n] - spacing*(viewPixels-1)/2*(axes[0][n]+axes[1][n])
		}
		for row := range viewPixels {
			for column := range viewPixels {
				at := w.Origin
				for n := range at {
					at[n] += spacing * (float64(column)*axes[0][n] + float64(row)*axes[1][n])
				}
				grey := (hounsfield(v, at) - viewLowHU) / (viewHighHU - viewLowHU) * 255
				w.Pixels[row*viewPixels+column] = byte(min(max(grey, 0), 255) + 0.5)
			}
		}
		out = append(out, w)
	}
	return out
}

// hounsfield is the value at a point, interpolated; air outside the scan.
func hounsfield(v *ct.Volume, at [3]float64) float64 {
	x, y, z := v.Voxel(at)
	var lo [3]int
	var part [3]float64
	for a, c := range [3]float64{x, y, z} {
		if !(c >= 0 && c <= float64(v.Size[a]-1)) {
			return ct.AirHU
		}
		lo[a] = min(int(c), max(v.Size[a]-2, 0))
		part[a] = c - float64(lo[a])
	}
	sum := 0.0
	for corner := range 8 {
		weight := 1.0
		index := lo
		for a := range 3 {
			if corner>>a&1 != 0 {
				weight *= part[a]
				index[a] = min(index[a]+1, v.Size[a]-1)
			} else {
				weight *= 1 - part[a]
			}
		}
		if weight > 0 {
			sum += weight * float64(v.HU[v.Index(index[0], index[1], index[2])])
		}
	}
	return sum
}
