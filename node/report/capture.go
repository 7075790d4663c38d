package report

import (
	"cmp"
	"fmt"
	"image"
	"slices"

	"hilum/dimse/dataset"
	"hilum/plugins/api"

	"github.com/grailbio/go-dicom/dicomtag"
)

// How a page is laid out, in pixels.
const (
	pageWidth    = 1024
	pageHeight   = 1024
	bannerHeight = 64
	rowHeight    = 224
	tile         = 212
	rowsOfPage   = 4
	maxPages     = 4 // who wants more than 16 nodules wants the report
)

// Captures returns the pages of a picture of one result: the most probable findings, each
// in three planes with its diameter and probability, under a banner that says that this
// is research. The pictures are those of the plugin; a finding without is named in words.
// Nothing on a page says who the patient is. The same Input gives the same bytes.
func Captures(in Input) ([]Document, error) {
	if err := check(in); err != nil {
		return nil, fmt.Errorf("secondary capture: %w", err)
	}
	order := make([]int, len(in.Result.Findings))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int {
		return cmp.Compare(in.Result.Findings[b].Probability, in.Result.Findings[a].Probability)
	})
	shown := order[:min(len(order), maxPages*rowsOfPage)]
	pages := max(1, (len(shown)+rowsOfPage-1)/rowsOfPage)
	var out []Document
	for page := range pages {
		d, err := capture(in, page, pages, shown[min(page*rowsOfPage, len(shown)):min((page+1)*rowsOfPage, len(shown))])
		if err != nil {
			return nil, err
		}
		out = append(out, d)
	}
	return out, nil
}

func capture(in Input, page, pages int, findings []int) (Document, error) {
	c := &content{}
	d := newDocument(in, kindSC, page+1)
	elements := commonElements(c, in, d, kindSC, max(in.Revision-1, 0)*maxPages+page+1)
	elements = append(elements, lossy(c, in.Header)...)
	var sources []item
	for _, i := range findings {
		if in.Stack == nil {
			break
		}
		if slice, ok := in.Stack.nearest(in.Result.Findings[i].Center); ok && !slices.ContainsFunc(sources, func(s item) bool { return slices.Contains(s[1].Value, any(slice.SOPInstanceUID)) }) {
			sources = append(sources, c.reference(slice.Image))
		}
	}
	if len(sources) > 0 {
		elements = append(elements, dataset.Sequence(dicomtag.SourceImageSequence, sources...))
	}
	date, clock := in.clock()
	elements = append(elements,
		c.element(dicomtag.ConversionType, "WSD"),
		c.element(dicomtag.DateOfSecondaryCapture, date),
		c.element(dicomtag.TimeOfSecondaryCapture, clock),
		c.element(dicomtag.ImageType, "DERIVED", "SECONDARY"),
		c.element(dicomtag.PatientOrientation),
		c.element(dicomtag.BodyPartExamined, "CHEST"),
		c.element(dicomtag.DerivationDescription, "Pictures of computed findings. "+research),
		c.element(dicomtag.BurnedInAnnotation, "NO"), // PS3.3 C.7.6.1: nothing that identifies the patient
		dataset.RawElement(tagRecognizable, "CS", []byte("NO")),
		c.element(dicomtag.SamplesPerPixel, 3),
		c.element(dicomtag.PhotometricInterpretation, "RGB"),
		c.element(dicomtag.PlanarConfiguration, 0),
		c.element(dicomtag.Rows, pageHeight),
		c.element(dicomtag.Columns, pageWidth),
		c.element(dicomtag.BitsAllocated, 8),
		c.element(dicomtag.BitsStored, 8),
		c.element(dicomtag.HighBit, 7),
		c.element(dicomtag.PixelRepresentation, 0),
		dataset.RawElement(dicomtag.PixelData, "OB", drawPage(in, page, pages, findings).rgb()),
	)
	return d.finish(c, kindSC, elements)
}

// nearest is the slice that shows a point.
func (s *Stack) nearest(p [3]float64) (Slice, bool) {
	if len(s.Slices) == 0 {
		return Slice{}, false
	}
	return slices.MinFunc(s.Slices, func(a, b Slice) int {
		_, _, da := s.pixel(a, p)
		_, _, db := s.pixel(b, p)
		return cmp.Compare(max(da, -da), max(db, -db))
	}), true
}

// drawPage draws one page of findings.
func drawPage(in Input, page, pages int, findings []int) canvas {
	p := newCanvas(pageWidth, pageHeight)
	p.fill(image.Rect(0, 0, pageWidth, bannerHeight), red)
	p.text(16, 6, 2, white, research+" - NOT FOR DIAGNOSIS")
	description := in.Result.Description
	p.text(16, 40, 1, white, plain(fmt.Sprintf("Hilum %s, %s %s: computed, checked by no person", in.Software, description.Name, description.Version)))
	if len(findings) == 0 {
		p.text(16, 2*bannerHeight, 2, white, fmt.Sprintf("No nodule found in %d images.", len(in.Images)))
	}
	for n, i := range findings {
		drawFinding(p, bannerHeight+8+n*rowHeight, in, i, page*rowsOfPage+n+1)
	}
	footer := fmt.Sprintf("page %d of %d", page+1, pages)
	if hidden := len(in.Result.Findings) - maxPages*rowsOfPage; hidden > 0 && page == pages-1 {
		footer += fmt.Sprintf("; %d less probable findings are in the structured report only", hidden)
	}
	for _, m := range description.Models {
		footer += plain("; model " + m.Name + " " + m.Version + " " + m.SHA256[:min(len(m.SHA256), 12)])
	}
	p.text(16, pageHeight-24, 1, grey, footer)
	return p
}

// planes are the names of the views, in the order of the contract.
var planes = [api.MaxViews]string{"axial", "coronal", "sagittal"}

func drawFinding(p canvas, top int, in Input, index, number int) {
	f := in.Result.Findings[index]
	for n := range planes {
		r := image.Rect(0, 0, tile, tile).Add(image.Pt(8+n*(tile+8), top))
		if n >= len(f.Views) {
			if n == 0 {
				p.text(r.Min.X+8, top+tile/2, 1, grey, "no picture from the plugin")
			}
			continue
		}
		v := f.Views[n]
		at := p.picture(r, &image.Gray{Pix: v.Pixels, Stride: v.Columns, Rect: image.Rect(0, 0, v.Columns, v.Rows)})
		// The mark stands around the finding, where it is in this view.
		scale := float64(at.Dx()) / float64(v.Columns)
		d := [3]float64{f.Center[0] - v.Origin[0], f.Center[1] - v.Origin[1], f.Center[2] - v.Origin[2]}
		x := at.Min.X + int((dot(d, v.ColumnAxis)/v.Spacing+0.5)*scale)
		y := at.Min.Y + int((dot(d, v.RowAxis)/v.Spacing+0.5)*scale)
		half := int(max(f.DiameterMM, f.LongAxisMM)/2/v.Spacing*scale) + 6
		p.corners(x, y, half, at, yellow)
		p.text(r.Min.X+4, r.Max.Y-16, 1, yellow, planes[n])
	}
	x, y := 8+api.MaxViews*(tile+8)+8, top+4
	p.text(x, y, 2, white, fmt.Sprintf("Nodule %d", number))
	lines := []string{}
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	if f.DiameterMM > 0 {
		add("diameter    %.1f mm", f.DiameterMM)
	}
	if f.LongAxisMM > 0 {
		add("axes        %.1f x %.1f mm", f.LongAxisMM, f.ShortAxisMM)
	}
	if f.VolumeMM3 > 0 {
		add("volume      %.0f mm3", f.VolumeMM3)
	}
	add("probability %.0f %%", 100*f.Probability)
	if f.Malignancy != nil {
		add("malignancy  %.0f %%", 100**f.Malignancy)
	}
	if f.Site != "" {
		add("site        %s", f.Site)
	}
	if in.Stack != nil {
		if s, ok := in.Stack.nearest(f.Center); ok {
			k := slices.IndexFunc(in.Stack.Slices, func(o Slice) bool { return o.SOPInstanceUID == s.SOPInstanceUID })
			add("slice       %d of %d from the feet", k+1, len(in.Stack.Slices))
		}
	}
	add("position    %.0f %.0f %.0f mm", f.Center[0], f.Center[1], f.Center[2])
	for n, line := range lines {
		p.text(x, y+36+n*18, 1, white, plain(line))
	}
}
