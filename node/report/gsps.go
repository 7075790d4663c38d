package report

import (
	"fmt"
	"math"
	"slices"

	"hilum/dimse/dataset"

	"github.com/grailbio/go-dicom/dicomtag"
)

// The grey values of a presentation state: the usual lung window.
const (
	lungCenter = -600
	lungWidth  = 1500
)

// graphicLayer names the layer of the circles.
const graphicLayer = "NODULES"

// minCircleMM keeps the circle of a small nodule visible.
const minCircleMM = 3

// maxCircles bounds the circles of one presentation state: viewers draw them all.
const maxCircles = 5000

// GSPS returns a presentation state that circles every finding in each slice that its
// ball cuts. It returns false when there is nothing to circle: no finding, or images
// that are no stack. The same Input gives the same bytes.
func GSPS(in Input) (Document, bool, error) {
	if err := check(in); err != nil {
		return Document{}, false, fmt.Errorf("presentation state: %w", err)
	}
	if in.Stack == nil || len(in.Result.Findings) == 0 {
		return Document{}, false, nil
	}
	c := &content{}
	var annotations []item
	circles := 0
	for _, slice := range in.Stack.Slices {
		graphics, texts := in.circles(c, slice)
		if len(graphics) == 0 {
			continue
		}
		if circles += len(graphics); circles > maxCircles {
			break
		}
		annotations = append(annotations, item{
			dataset.Sequence(dicomtag.ReferencedImageSequence, c.reference(slice.Image)),
			c.element(dicomtag.GraphicLayer, graphicLayer),
			dataset.Sequence(dicomtag.TextObjectSequence, texts...),
			dataset.Sequence(dicomtag.GraphicObjectSequence, graphics...),
		})
	}
	if len(annotations) == 0 {
		return Document{}, false, nil
	}
	d := newDocument(in, kindGSPS, 1)
	elements := commonElements(c, in, d, kindGSPS, max(in.Revision, 1))
	elements = append(elements, presentationElements(c, in)...)
	elements = append(elements, dataset.Sequence(dicomtag.GraphicAnnotationSequence, annotations...))
	d, err := d.finish(c, kindGSPS, elements)
	return d, err == nil, err
}

// circles are the cuts of the findings' balls with one slice (PS3.3 C.10.5), in pixels
// whose first has its upper left corner at 0\0.
func (in Input) circles(c *content, slice Slice) (graphics, texts []item) {
	s := in.Stack
	reach := max(s.between(), sameMM) / 2 // a nodule between two slices is circled in the nearest
	for i, f := range in.Result.Findings {
		x, y, z := s.pixel(slice, f.Center)
		radius := max(f.DiameterMM, f.LongAxisMM, minCircleMM) / 2
		if math.Abs(z) > max(radius, reach) || x < 0 || y < 0 || x > float64(s.Columns-1) || y > float64(s.Rows-1) {
			continue
		}
		around := radius + 2 // mm beside the nodule, not on its edge
		right := min(x+0.5+around/s.Spacing[0], float64(s.Columns))
		graphics = append(graphics, item{
			c.element(dicomtag.GraphicAnnotationUnits, "PIXEL"),
			c.element(dicomtag.GraphicDimensions, 2),
			c.element(dicomtag.NumberOfGraphicPoints, 2),
			c.element(dicomtag.GraphicData, x+0.5, y+0.5, right, y+0.5),
			c.element(dicomtag.GraphicType, "CIRCLE"),
			c.element(dicomtag.GraphicFilled, "N"),
		})
		texts = append(texts, item{
			c.element(dicomtag.AnchorPointAnnotationUnits, "PIXEL"),
			c.element(dicomtag.UnformattedTextValue, plain(fmt.Sprintf("Nodule %d, %.1f mm, %.0f %%", i+1, f.DiameterMM, 100*f.Probability))),
			c.element(dicomtag.AnchorPoint, right, y+0.5),
			c.element(dicomtag.AnchorPointVisibility, "N"),
		})
	}
	return graphics, texts
}

// presentationElements say which images are shown, how much of them, and how (PS3.3
// C.11.10, C.11.11, C.10.4, C.10.7, C.11.1, C.11.8, C.11.6).
func presentationElements(c *content, in Input) []*dataset.Element {
	s := in.Stack
	var references []item
	for _, slice := range s.Slices {
		references = append(references, c.reference(slice.Image))
	}
	date, clock := in.clock()
	out := []*dataset.Element{
		c.element(dicomtag.Laterality), // PS3.3 C.7.3.1: of type 2C, and the circles may be on both sides
		c.element(dicomtag.PresentationCreationDate, date),
		c.element(dicomtag.PresentationCreationTime, clock),
		c.element(dicomtag.ContentLabel, "NODULES"),
		c.element(dicomtag.ContentDescription, research),
		c.element(dicomtag.ContentCreatorName),
		dataset.Sequence(dicomtag.ReferencedSeriesSequence, item{
			c.element(dicomtag.SeriesInstanceUID, in.SeriesInstanceUID),
			dataset.Sequence(dicomtag.ReferencedImageSequence, references...),
		}),
		dataset.Sequence(dicomtag.DisplayedAreaSelectionSequence, item{
			c.element(dicomtag.DisplayedAreaTopLeftHandCorner, 1, 1),
			c.element(dicomtag.DisplayedAreaBottomRightHandCorner, s.Columns, s.Rows),
			c.element(dicomtag.PresentationSizeMode, "SCALE TO FIT"),
			c.element(dicomtag.PresentationPixelSpacing, s.Spacing[1], s.Spacing[0]),
		}),
		dataset.Sequence(dicomtag.GraphicLayerSequence, item{
			c.element(dicomtag.GraphicLayer, graphicLayer),
			c.element(dicomtag.GraphicLayerOrder, 1),
			c.element(dicomtag.GraphicLayerDescription, research),
		}),
		dataset.Sequence(dicomtag.SoftcopyVOILUTSequence, item{
			c.element(dicomtag.WindowCenter, lungCenter),
			c.element(dicomtag.WindowWidth, lungWidth),
		}),
		c.element(dicomtag.PresentationLUTShape, "IDENTITY"),
	}
	intercept, okI := in.Header.Float(dicomtag.RescaleIntercept)
	slope, okS := in.Header.Float(dicomtag.RescaleSlope)
	if okI && okS && slope != 0 {
		out = append(out,
			c.element(dicomtag.RescaleIntercept, intercept),
			c.element(dicomtag.RescaleSlope, slope),
			c.element(dicomtag.RescaleType, "HU"))
	}
	return slices.Clip(out)
}
