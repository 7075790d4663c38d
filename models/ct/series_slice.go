package ct

import (
	"encoding/binary"
	"math"
	"slices"
	"strings"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
)

// SOP classes (PS3.4 B.5): what CT images are in, and a DICOMDIR.
const (
	ctImageStorage          = "1.2.840.10008.5.1.4.1.1.2"
	enhancedCTImageStorage  = "1.2.840.10008.5.1.4.1.1.2.1"
	legacyEnhancedCTStorage = "1.2.840.10008.5.1.4.1.1.2.2"
	mediaStorageDirectory   = "1.2.840.10008.1.3.10"
)

// Tolerances and limits of the values in a header.
const (
	pixelSpacingTolerance = 1e-3 // relative
	orientationTolerance  = 1e-3 // of a direction cosine: 0.06 degrees
	maxRescaleMagnitude   = 1e6  // slope and intercept beyond it are damage
)

// seriesTags are the elements that a slice is read from.
var seriesTags = []dataset.Tag{
	dicomtag.SOPClassUID, dicomtag.SOPInstanceUID, dicomtag.SeriesInstanceUID, dicomtag.FrameOfReferenceUID,
	dicomtag.ImageType, dicomtag.NumberOfFrames, dicomtag.SamplesPerPixel, dicomtag.PhotometricInterpretation,
	dicomtag.Rows, dicomtag.Columns, dicomtag.BitsAllocated, dicomtag.BitsStored, dicomtag.HighBit,
	dicomtag.PixelRepresentation, dicomtag.PixelPaddingValue, dicomtag.PixelPaddingRangeLimit,
	dicomtag.RescaleSlope, dicomtag.RescaleIntercept, dicomtag.RescaleType,
	dicomtag.ImagePositionPatient, dicomtag.ImageOrientationPatient, dicomtag.PixelSpacing,
}

// slice is one image of the series as its header describes it.
type slice struct {
	file              string // base name
	transferSyntaxUID string
	sopInstanceUID    string
	seriesUID         string
	frameOfReference  string
	localizer         bool

	info    PixelInfo
	rescale rescale

	position     [3]float64 // centre of the first pixel
	row, column  [3]float64 // direction of increasing column and of increasing row index
	pixelSpacing [2]float64 // mm between rows, mm between columns
	height       float64    // along the normal of the series
	twin         int        // for a duplicate position: index of the slice that was kept
}

// newSlice reads and checks the header of one image. file is only used to open
// the file again, never in a reason: its name may come from anywhere.
func newSlice(file string, f *dataset.File) (*slice, error) {
	h := f.Header
	s := &slice{
		file: file, transferSyntaxUID: f.TransferSyntaxUID,
		sopInstanceUID:   h.String(dicomtag.SOPInstanceUID),
		seriesUID:        h.String(dicomtag.SeriesInstanceUID),
		frameOfReference: h.String(dicomtag.FrameOfReferenceUID),
		localizer:        slices.Contains(h.Strings(dicomtag.ImageType), "LOCALIZER"),
	}
	switch class := h.String(dicomtag.SOPClassUID); class {
	case ctImageStorage:
	case enhancedCTImageStorage, legacyEnhancedCTStorage:
		return nil, seriesErrorf(MultiFrame, "The series holds Enhanced CT images of many frames, which are not read: have the scanner or PACS send it as single CT images.")
	default:
		return nil, seriesErrorf(NotCT, "The series holds an object that is not a CT image (SOP class %s).", cleanUID(class))
	}
	if n, ok := h.Int(dicomtag.NumberOfFrames); ok && n != 1 {
		return nil, seriesErrorf(MultiFrame, "The CT image %s has %d frames, where a slice has one.", s, n)
	}
	if s.localizer {
		return s, nil // has no place in the volume: nothing else is asked of it
	}
	if err := s.readPixelInfo(h); err != nil {
		return nil, err
	}
	if err := s.readRescale(h); err != nil {
		return nil, err
	}
	return s, s.readPlane(h)
}

// String names the image in a reason.
func (s *slice) String() string { return cleanUID(s.sopInstanceUID) }

// cleanUID returns a UID as it may stand in a reason or log line.
func cleanUID(uid string) string {
	if uid == "" || len(uid) > 64 || strings.Trim(uid, "0123456789.") != "" {
		return "without a valid UID"
	}
	return uid
}

// readPixelInfo reads the image pixel module (PS3.3 C.7.6.3). CT has one sample
// of 16 allocated bits (PS3.3 C.8.2.1.1).
func (s *slice) readPixelInfo(h dataset.Header) error {
	if n, ok := h.Int(dicomtag.SamplesPerPixel); ok && n != 1 {
		return seriesErrorf(Pixel, "The image %s has %d samples for each pixel, where CT has one.", s, n)
	}
	// PS3.3 allows MONOCHROME1, which only turns the display round. No CT
	// scanner writes it, and converters that do often turn the values as well:
	// what they mean cannot be told.
	if p := h.String(dicomtag.PhotometricInterpretation); p != "MONOCHROME2" {
		return seriesErrorf(Pixel, "The image %s has another photometric interpretation than MONOCHROME2, so its grey values are not safe to read.", s)
	}
	if n, ok := h.Int(dicomtag.BitsAllocated); !ok || n != bitsAllocated {
		return seriesErrorf(Pixel, "The image %s does not have 16 bits allocated for each pixel, as CT images must.", s)
	}
	representation, ok := h.Int(dicomtag.PixelRepresentation)
	if !ok || representation != 0 && representation != 1 {
		return seriesErrorf(Pixel, "The image %s does not say whether its pixels are signed (PixelRepresentation).", s)
	}
	s.info.Signed = representation == 1
	for tag, to := range map[dataset.Tag]*int{
		dicomtag.Rows: &s.info.Rows, dicomtag.Columns: &s.info.Columns,
		dicomtag.BitsStored: &s.info.BitsStored, dicomtag.HighBit: &s.info.HighBit,
	} {
		n, ok := h.Int(tag)
		if !ok {
			return seriesErrorf(Pixel, "The image %s does not give its Rows, Columns, BitsStored and HighBit.", s)
		}
		*to = n
	}
	if err := s.info.validate(); err != nil {
		return seriesErrorf(Pixel, "The header of the image %s is damaged: %v.", s, err)
	}
	return nil
}

// readRescale reads what turns pixels into Hounsfield units (PS3.3 C.11.1.1.2
// and C.7.5.1.1.2 for the padding).
func (s *slice) readRescale(h dataset.Header) error {
	slope, okSlope := h.Float(dicomtag.RescaleSlope)
	intercept, okIntercept := h.Float(dicomtag.RescaleIntercept)
	if !okSlope || !okIntercept {
		return seriesErrorf(NotCT, "The image %s has no RescaleSlope and RescaleIntercept, so its values are not Hounsfield units.", s)
	}
	if !(math.Abs(slope) <= maxRescaleMagnitude) || slope == 0 || !(math.Abs(intercept) <= maxRescaleMagnitude) {
		return seriesErrorf(NotCT, "The image %s has an impossible RescaleSlope or RescaleIntercept.", s)
	}
	// US is "unspecified", which some scanners write for plain CT.
	if t := h.String(dicomtag.RescaleType); t != "" && t != "HU" && t != "US" && t != "HU_MOD" {
		return seriesErrorf(NotCT, "The values of the image %s are not Hounsfield units (RescaleType).", s)
	}
	s.rescale = rescale{
		slope: slope, intercept: intercept,
		bitsStored: s.info.BitsStored, highBit: s.info.HighBit, signed: s.info.Signed,
	}
	if low, ok := s.padding(h, dicomtag.PixelPaddingValue); ok {
		high, ok := s.padding(h, dicomtag.PixelPaddingRangeLimit)
		if !ok {
			high = low
		}
		s.rescale.padded, s.rescale.padLow, s.rescale.padHigh = true, min(low, high), max(low, high)
	}
	return nil
}

// padding reads a padding value. Its VR is US or SS, as PixelRepresentation
// says, whatever a writer or an implicit VR made of it.
func (s *slice) padding(h dataset.Header, tag dataset.Tag) (int, bool) {
	b := h.Bytes(tag)
	if len(b) != 2 {
		return 0, false
	}
	v := binary.LittleEndian.Uint16(b)
	if s.info.Signed {
		return int(int16(v)), true
	}
	return int(v), true
}

// readPlane reads the image plane module (PS3.3 C.7.6.2).
func (s *slice) readPlane(h dataset.Header) error {
	position, err1 := h.Floats(dicomtag.ImagePositionPatient)
	orientation, err2 := h.Floats(dicomtag.ImageOrientationPatient)
	spacing, err3 := h.Floats(dicomtag.PixelSpacing)
	if err1 != nil || err2 != nil || err3 != nil || len(position) != 3 || len(orientation) != 6 || len(spacing) != 2 {
		return seriesErrorf(BadGeometry, "The image %s does not give its position, orientation and pixel spacing.", s)
	}
	s.position = [3]float64(position)
	s.row, s.column = [3]float64(orientation[:3]), [3]float64(orientation[3:])
	s.pixelSpacing = [2]float64(spacing)
	if !orthonormal(s.row, s.column) {
		return seriesErrorf(BadGeometry, "The orientation of the image %s is impossible: its direction cosines are not unit vectors at a right angle.", s)
	}
	for _, x := range s.position {
		if !(math.Abs(x) <= maxCoordinate) {
			return seriesErrorf(BadGeometry, "The position of the image %s is impossible.", s)
		}
	}
	for _, x := range s.pixelSpacing {
		if !(x > 0 && x <= maxSpacing) {
			return seriesErrorf(BadGeometry, "The pixel spacing of the image %s is impossible.", s)
		}
	}
	return nil
}
