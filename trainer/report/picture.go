package report

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"image"
	"image/color"
	"image/png"
	"math"

	"hilum/models/ct"
)

// A picture is three planes side by side, each around the finding.
const (
	panelPixels = 160
	panelGap    = 8
	pixelMM     = 0.4
	fieldMM     = 64 // panelPixels × pixelMM

	// The lung window, in HU.
	windowLow  = -1350
	windowHigh = 150

	ringGap     = 4.0 // pixels between a nodule's edge and its ring
	falseRingMM = 8.0 // radius of the ring around a false positive
)

// Width and Height of a picture in pixels, for the page.
const (
	pictureWidth  = 3*panelPixels + 2*panelGap
	pictureHeight = panelPixels
)

// planes are the three directions of view, as seen on a workstation: axial from
// the feet, coronal from the front, sagittal from the patient's left. Each has
// the LPS direction to the right and downwards in the picture.
var planes = []struct {
	name        string
	right, down [3]float64
}{
	{"axial", [3]float64{1, 0, 0}, [3]float64{0, 1, 0}},
	{"coronal", [3]float64{1, 0, 0}, [3]float64{0, 0, -1}},
	{"sagittal", [3]float64{0, 1, 0}, [3]float64{0, 0, -1}},
}

// draw makes the pictures of the first findings of each list. Each scan is
// loaded once, one after the other: one alone takes hundreds of megabytes.
func (v *view) draw(ctx context.Context) error {
	wanted := map[string][]*card{}
	var order []string
	for _, list := range [][]card{v.Misses, v.FPs} {
		for i := range list[:min(len(list), v.Pictures)] {
			c := &list[i]
			if wanted[c.Series] == nil {
				order = append(order, c.Series)
			}
			wanted[c.Series] = append(wanted[c.Series], c)
		}
	}
	for i, uid := range order {
		if err := ctx.Err(); err != nil {
			return err
		}
		volume, err := v.Volume(ctx, uid)
		switch {
		case errors.Is(err, ErrNoVolume):
			v.NoVolume += len(wanted[uid])
		case err != nil:
			return fmt.Errorf("pictures of the scan %s: %w", uid, err)
		default:
			for _, c := range wanted[uid] {
				if err := c.draw(volume); err != nil {
					return err
				}
			}
		}
		if v.Progress != nil {
			v.Progress(i+1, len(order))
		}
	}
	return nil
}

func (c *card) draw(v *ct.Volume) error {
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&out, picture(v, c.Center)); err != nil {
		return fmt.Errorf("encode a picture: %w", err)
	}
	c.Picture = template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(out.Bytes())) //nolint:gosec // our own PNG
	for i, p := range planes {
		c.Panels = append(c.Panels, panel{p.name, float64(i*(panelPixels+panelGap)) + panelPixels/2, panelPixels / 2})
	}
	return nil
}

// picture draws the three planes through a point. Gaps are transparent, and so
// is what lies outside the volume.
func picture(v *ct.Volume, center [3]float64) image.Image {
	img := image.NewNRGBA(image.Rect(0, 0, pictureWidth, pictureHeight))
	for n, plane := range planes {
		for row := range panelPixels {
			for col := range panelPixels {
				a := (float64(col) + 0.5 - panelPixels/2) * pixelMM
				b := (float64(row) + 0.5 - panelPixels/2) * pixelMM
				p := center
				for d := range p {
					p[d] += a*plane.right[d] + b*plane.down[d]
				}
				hu, ok := sample(v, p)
				if !ok {
					continue
				}
				g := uint8(255*min(max((hu-windowLow)/(windowHigh-windowLow), 0), 1) + 0.5)
				img.SetNRGBA(n*(panelPixels+panelGap)+col, row, color.NRGBA{g, g, g, 255})
			}
		}
	}
	return img
}

// sample returns the linearly interpolated value at a point in the patient, and
// false outside the volume.
func sample(v *ct.Volume, p [3]float64) (float64, bool) {
	var at [3]int
	var part [3]float64
	x, y, z := v.Voxel(p)
	for a, f := range [3]float64{x, y, z} {
		last := float64(v.Size[a] - 1)
		if !(f >= -0.5 && f <= last+0.5) {
			return 0, false
		}
		f = min(max(f, 0), last)
		at[a] = min(int(math.Floor(f)), max(v.Size[a]-2, 0))
		part[a] = f - float64(at[a])
	}
	sum := 0.0
	for corner := range 8 {
		weight, index := 1.0, at
		for a := range 3 {
			if corner>>a&1 == 1 {
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
	return sum, true
}
