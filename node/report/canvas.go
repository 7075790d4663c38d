package report

import (
	"image"
	"image/color"

	"golang.org/x/image/draw"
	"golang.org/x/image/font"
	"golang.org/x/image/font/basicfont"
	"golang.org/x/image/math/fixed"
)

// canvas is a picture to draw on.
type canvas struct{ *image.RGBA }

var (
	black  = color.RGBA{A: 255}
	white  = color.RGBA{R: 230, G: 230, B: 230, A: 255}
	grey   = color.RGBA{R: 150, G: 150, B: 150, A: 255}
	yellow = color.RGBA{R: 255, G: 210, A: 255}
	red    = color.RGBA{R: 150, A: 255}
)

func newCanvas(width, height int) canvas {
	c := canvas{image.NewRGBA(image.Rect(0, 0, width, height))}
	c.fill(c.Bounds(), black)
	return c
}

func (c canvas) fill(r image.Rectangle, k color.Color) {
	draw.Draw(c, r, image.NewUniform(k), image.Point{}, draw.Src)
}

// text writes one line with its upper left corner at (x, y), scale times as large as the
// font, and cut at the right edge of the canvas.
func (c canvas) text(x, y, scale int, k color.Color, s string) {
	face := basicfont.Face7x13
	width := len(s) * face.Advance
	if width == 0 {
		return
	}
	line := image.NewAlpha(image.Rect(0, 0, width, face.Height))
	d := font.Drawer{Dst: line, Src: image.Opaque, Face: face, Dot: fixed.P(0, face.Ascent)}
	d.DrawString(s)
	mask := image.NewAlpha(image.Rect(0, 0, width*scale, face.Height*scale))
	draw.NearestNeighbor.Scale(mask, mask.Bounds(), line, line.Bounds(), draw.Src, nil)
	draw.DrawMask(c, mask.Bounds().Add(image.Pt(x, y)), image.NewUniform(k), image.Point{}, mask, image.Point{}, draw.Over)
}

// picture scales a grey picture into r without distorting it, and returns where it came
// to lie.
func (c canvas) picture(r image.Rectangle, g *image.Gray) image.Rectangle {
	w, h := r.Dx(), r.Dy()
	if g.Rect.Dx()*h > w*g.Rect.Dy() {
		h = max(1, w*g.Rect.Dy()/g.Rect.Dx())
	} else {
		w = max(1, h*g.Rect.Dx()/g.Rect.Dy())
	}
	at := image.Rect(0, 0, w, h).Add(r.Min).Add(image.Pt((r.Dx()-w)/2, (r.Dy()-h)/2))
	draw.BiLinear.Scale(c, at, g, g.Rect, draw.Src, nil)
	return at
}

// corners marks a square around a point and leaves what is in it to be seen.
func (c canvas) corners(x, y, half int, within image.Rectangle, k color.Color) {
	const arm = 10
	for _, sx := range []int{-1, 1} {
		for _, sy := range []int{-1, 1} {
			cx, cy := x+sx*half, y+sy*half
			for n := range arm {
				for _, p := range []image.Point{{cx - sx*n, cy}, {cx, cy - sy*n}} {
					if p.In(within) {
						c.Set(p.X, p.Y, k)
					}
				}
			}
		}
	}
}

// rgb are the pixels as DICOM has them: red, green, blue, row by row.
func (c canvas) rgb() []byte {
	out := make([]byte, 0, c.Rect.Dx()*c.Rect.Dy()*3)
	for i := 0; i < len(c.Pix); i += 4 {
		out = append(out, c.Pix[i], c.Pix[i+1], c.Pix[i+2])
	}
	return out
}
