package report

import (
	"fmt"
	"math"

	"hilum/dimse/dataset"
	"hilum/plugins/api"

	"github.com/grailbio/go-dicom/dicomtag"
)

// Tags newer than go-dicom's dictionary (PS3.6).
var (
	tagTrackingID         = dataset.Tag{Group: 0x0062, Element: 0x0020} // UT
	tagTrackingUID        = dataset.Tag{Group: 0x0062, Element: 0x0021} // UI
	tagSegmentNumber      = dataset.Tag{Group: 0x0062, Element: 0x000B} // Referenced Segment Number, US
	tagSegmentIdentity    = dataset.Tag{Group: 0x0062, Element: 0x000A} // Segment Identification Sequence
	tagSegmentAlgorithms  = dataset.Tag{Group: 0x0062, Element: 0x0007} // Segmentation Algorithm Identification Sequence
	tagPreserved          = dataset.Tag{Group: 0x0028, Element: 0x135A} // Spatial Locations Preserved, CS
	tagRecognizable       = dataset.Tag{Group: 0x0028, Element: 0x0302} // Recognizable Visual Features, CS
	tagAlgorithmFamily    = dataset.Tag{Group: 0x0066, Element: 0x002F} // Algorithm Family Code Sequence
	tagAlgorithmName      = dataset.Tag{Group: 0x0066, Element: 0x0036} // LO
	tagAlgorithmVersion   = dataset.Tag{Group: 0x0066, Element: 0x0031} // LO
	tagAlgorithmParameter = dataset.Tag{Group: 0x0066, Element: 0x0032} // LT
)

// maxFrames bounds a segmentation: at 512² it is 64 MB. Findings beyond it, the less
// probable ones, have no segment.
const maxFrames = 2000

// frame is one image of a segment: the pixels of one finding in one slice.
type frame struct {
	segment int   // from 1
	slice   int   // in Stack.Slices
	pixels  []int // the indices of those that are set
}

// SEG returns the segmentation of one result: a segment for each finding with a mask,
// a frame for each slice that it is in, on the grid of the images. It returns false
// when there is nothing to draw: no mask, or images that are no stack. The same Input
// gives the same bytes.
func SEG(in Input) (Document, bool, error) {
	if err := check(in); err != nil {
		return Document{}, false, fmt.Errorf("segmentation: %w", err)
	}
	if in.Stack == nil {
		return Document{}, false, nil
	}
	c := &content{}
	var segments []item
	var frames []frame
	for i, f := range in.Result.Findings {
		if f.Mask == nil {
			continue
		}
		drawn := in.Stack.draw(f.Mask, len(segments)+1)
		if len(drawn) == 0 || len(frames)+len(drawn) > maxFrames {
			continue
		}
		frames = append(frames, drawn...)
		segments = append(segments, segment(c, in, f, in.track(i), len(segments)+1))
	}
	if len(segments) == 0 {
		return Document{}, false, nil
	}
	d := newDocument(in, kindSEG, 1)
	elements := commonElements(c, in, d, kindSEG, max(in.Revision, 1))
	elements = append(elements, frameOfReference(c, in)...)
	elements = append(elements, lossy(c, in.Header)...)
	elements = append(elements, segmentationElements(c, in, d, segments, frames)...)
	d, err := d.finish(c, kindSEG, elements)
	return d, err == nil, err
}

// draw samples a mask, which has a grid of its own, at the pixels of the stack.
func (s *Stack) draw(m *api.Mask, number int) []frame {
	// The box of the mask in pixels of each slice bounds the search.
	var corners [8][3]float64
	for n := range corners {
		corners[n] = m.Origin
		for a := range 3 {
			if n>>a&1 != 0 {
				for x := range 3 {
					corners[n][x] += float64(m.Size[a]-1) * m.Spacing[a] * m.Axes[a][x]
				}
			}
		}
	}
	reach := max(m.Spacing[0], m.Spacing[1], m.Spacing[2])
	var out []frame
	for k, slice := range s.Slices {
		lo, hi := [3]float64{math.Inf(1), math.Inf(1), math.Inf(1)}, [3]float64{math.Inf(-1), math.Inf(-1), math.Inf(-1)}
		for _, p := range corners {
			x, y, z := s.pixel(slice, p)
			for a, v := range [3]float64{x, y, z} {
				lo[a], hi[a] = min(lo[a], v), max(hi[a], v)
			}
		}
		if lo[2] > reach || hi[2] < -reach {
			continue
		}
		var pixels []int
		for row := max(0, int(lo[1]-reach/s.Spacing[1])); row <= min(s.Rows-1, int(hi[1]+reach/s.Spacing[1])+1); row++ {
			for column := max(0, int(lo[0]-reach/s.Spacing[0])); column <= min(s.Columns-1, int(hi[0]+reach/s.Spacing[0])+1); column++ {
				if inside(m, s.point(slice, float64(column), float64(row))) {
					pixels = append(pixels, row*s.Columns+column)
				}
			}
		}
		if len(pixels) > 0 {
			out = append(out, frame{number, k, pixels})
		}
	}
	return out
}

// inside tells whether the voxel of the mask at a point is set.
func inside(m *api.Mask, p [3]float64) bool {
	d := [3]float64{p[0] - m.Origin[0], p[1] - m.Origin[1], p[2] - m.Origin[2]}
	var at [3]int
	for a := range at {
		v := math.Round(dot(d, m.Axes[a]) / m.Spacing[a])
		if !(v >= 0 && v < float64(m.Size[a])) {
			return false
		}
		at[a] = int(v)
	}
	n := (at[2]*m.Size[1]+at[1])*m.Size[0] + at[0]
	return m.Bits[n/8]>>(n%8)&1 != 0
}

// segment describes one finding (PS3.3 C.8.20.4).
func segment(c *content, in Input, f api.Finding, t Tracking, number int) item {
	region := codeLung
	if known, ok := sites[f.Site]; ok {
		region = known.site
	}
	description := in.Result.Description
	algorithm := item{
		dataset.Sequence(tagAlgorithmFamily, c.codeItem(codeAI)),
		dataset.RawElement(tagAlgorithmName, "LO", []byte(shorten(description.Name, maxLO))),
		dataset.RawElement(tagAlgorithmVersion, "LO", []byte(shorten(description.Version, maxLO))),
	}
	if len(description.Models) > 0 {
		m := description.Models[0]
		algorithm = append(algorithm, dataset.RawElement(tagAlgorithmParameter, "LT",
			[]byte(plain(fmt.Sprintf("model=%s version=%s sha256=%s", m.Name, m.Version, m.SHA256)))))
	}
	anatomy := c.codeItem(region)
	if known, ok := sites[f.Site]; ok && known.site == codeLung {
		anatomy = append(anatomy, dataset.Sequence(dicomtag.AnatomicRegionModifierSequence, c.codeItem(known.side)))
	}
	return item{
		c.element(dicomtag.SegmentNumber, number),
		c.element(dicomtag.SegmentLabel, shorten(fmt.Sprintf("Nodule %d", number), maxLO)),
		c.element(dicomtag.SegmentDescription, shorten(fmt.Sprintf("%s, probability %.0f %%", t.ID, 100*f.Probability), maxLO)),
		c.element(dicomtag.SegmentAlgorithmType, "AUTOMATIC"),
		c.element(dicomtag.SegmentAlgorithmName, shorten(description.Name+" "+description.Version, maxLO)),
		dataset.Sequence(tagSegmentAlgorithms, algorithm),
		dataset.Sequence(dicomtag.SegmentedPropertyCategoryCodeSequence, c.codeItem(codeAbnormal)),
		dataset.Sequence(dicomtag.SegmentedPropertyTypeCodeSequence, c.codeItem(codeNodule)),
		dataset.Sequence(dicomtag.AnatomicRegionSequence, anatomy),
		dataset.RawElement(tagTrackingID, "UT", []byte(plain(t.ID))),
		dataset.RawElement(tagTrackingUID, "UI", []byte(t.UID)),
	}
}

// segmentationElements are image, segments, functional groups, dimensions and references
// (PS3.3 C.8.20.2, C.7.6.16, C.7.6.17, C.12.2).
func segmentationElements(c *content, in Input, d Document, segments []item, frames []frame) []*dataset.Element {
	s := in.Stack
	organization := dataset.StableUID("seg dimensions", d.SOPInstanceUID)
	var perFrame []item
	first := map[int]int{} // of each segment: its first slice
	used := map[int]bool{}
	pixels := make([]byte, (len(frames)*s.Columns*s.Rows+7)/8)
	for n, f := range frames {
		if _, ok := first[f.segment]; !ok {
			first[f.segment] = f.slice
		}
		used[f.slice] = true
		perFrame = append(perFrame, frameItem(c, s.Slices[f.slice], f, f.slice-first[f.segment]+1))
		for _, p := range f.pixels {
			at := n*s.Columns*s.Rows + p // PS3.5 8.1.1: frames follow each other bit by bit
			pixels[at>>3] |= 1 << (at & 7)
		}
	}
	var references []item
	for k, slice := range s.Slices {
		if used[k] {
			references = append(references, c.reference(slice.Image))
		}
	}
	measures := item{
		c.element(dicomtag.PixelSpacing, s.Spacing[1], s.Spacing[0]),
		c.element(dicomtag.SliceThickness, s.thickness(in.Header)),
	}
	if between := s.between(); between > 0 {
		measures = append(measures, c.element(dicomtag.SpacingBetweenSlices, between))
	}
	return []*dataset.Element{
		c.element(dicomtag.ImageType, "DERIVED", "PRIMARY"),
		c.element(dicomtag.ContentLabel, "NODULES"),
		c.element(dicomtag.ContentDescription, research),
		c.element(dicomtag.ContentCreatorName),
		c.element(dicomtag.SamplesPerPixel, 1),
		c.element(dicomtag.PhotometricInterpretation, "MONOCHROME2"),
		c.element(dicomtag.Rows, s.Rows),
		c.element(dicomtag.Columns, s.Columns),
		c.element(dicomtag.BitsAllocated, 1),
		c.element(dicomtag.BitsStored, 1),
		c.element(dicomtag.HighBit, 0),
		c.element(dicomtag.PixelRepresentation, 0),
		c.element(dicomtag.NumberOfFrames, len(frames)),
		c.element(dicomtag.SegmentationType, "BINARY"),
		dataset.Sequence(dicomtag.SegmentSequence, segments...),
		dataset.Sequence(dicomtag.DimensionOrganizationSequence, item{c.element(dicomtag.DimensionOrganizationUID, organization)}),
		dataset.Sequence(dicomtag.DimensionIndexSequence,
			item{
				c.element(dicomtag.DimensionOrganizationUID, organization),
				c.element(dicomtag.DimensionIndexPointer, tagSegmentNumber),
				c.element(dicomtag.FunctionalGroupPointer, tagSegmentIdentity),
				c.element(dicomtag.DimensionDescriptionLabel, "Segment"),
			},
			item{
				c.element(dicomtag.DimensionOrganizationUID, organization),
				c.element(dicomtag.DimensionIndexPointer, dicomtag.ImagePositionPatient),
				c.element(dicomtag.FunctionalGroupPointer, dicomtag.PlanePositionSequence),
				c.element(dicomtag.DimensionDescriptionLabel, "Slice"),
			}),
		dataset.Sequence(dicomtag.SharedFunctionalGroupsSequence, item{
			dataset.Sequence(dicomtag.PixelMeasuresSequence, measures),
			dataset.Sequence(dicomtag.PlaneOrientationSequence, item{
				c.element(dicomtag.ImageOrientationPatient, s.Axes[0][0], s.Axes[0][1], s.Axes[0][2], s.Axes[1][0], s.Axes[1][1], s.Axes[1][2]),
			}),
		}),
		dataset.Sequence(dicomtag.PerFrameFunctionalGroupsSequence, perFrame...),
		dataset.Sequence(dicomtag.ReferencedSeriesSequence, item{
			c.element(dicomtag.SeriesInstanceUID, in.SeriesInstanceUID),
			dataset.Sequence(dicomtag.ReferencedInstanceSequence, references...),
		}),
		dataset.RawElement(dicomtag.PixelData, "OB", pixels),
	}
}

// frameItem says which segment a frame shows, where it lies, and of which image it is.
func frameItem(c *content, slice Slice, f frame, index int) item {
	source := append(c.reference(slice.Image),
		dataset.RawElement(tagPreserved, "CS", []byte("YES")),
		dataset.Sequence(dicomtag.PurposeOfReferenceCodeSequence, c.codeItem(codeSourceImage)))
	return item{
		dataset.Sequence(dicomtag.FrameContentSequence, item{c.element(dicomtag.DimensionIndexValues, f.segment, index)}),
		dataset.Sequence(dicomtag.PlanePositionSequence, item{
			c.element(dicomtag.ImagePositionPatient, slice.Position[0], slice.Position[1], slice.Position[2]),
		}),
		dataset.Sequence(tagSegmentIdentity, item{c.element(tagSegmentNumber, f.segment)}),
		dataset.Sequence(dicomtag.DerivationImageSequence, item{
			dataset.Sequence(dicomtag.SourceImageSequence, source),
			dataset.Sequence(dicomtag.DerivationCodeSequence, c.codeItem(codeSegmentation)),
		}),
	}
}

// thickness is that of the slices, or their distance where no header says it.
func (s *Stack) thickness(source dataset.Header) float64 {
	if t, ok := source.Float(dicomtag.SliceThickness); ok && t > 0 {
		return t
	}
	return max(s.between(), sameMM)
}
