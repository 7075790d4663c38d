package report

import (
	"errors"
	"strings"

	"hilum/dimse/dataset"

	"github.com/grailbio/go-dicom/dicomtag"
)

// A code is one entry of a coding scheme (PS3.3 table 8.8-1).
type code struct{ value, scheme, meaning string }

// Codes of PS3.16.
var (
	codeReport         = code{"126000", "DCM", "Imaging Measurement Report"}
	codeLanguage       = code{"121049", "DCM", "Language of Content Item and Descendants"}
	codeEnglish        = code{"en-US", "RFC5646", "English (United States)"}
	codeObserverType   = code{"121005", "DCM", "Observer Type"}
	codeDevice         = code{"121007", "DCM", "Device"}
	codeDeviceUID      = code{"121012", "DCM", "Device Observer UID"}
	codeDeviceName     = code{"121013", "DCM", "Device Observer Name"}
	codeDeviceMaker    = code{"121014", "DCM", "Device Observer Manufacturer"}
	codeDeviceModel    = code{"121015", "DCM", "Device Observer Model Name"}
	codeProcedure      = code{"121058", "DCM", "Procedure reported"}
	codeChestCT        = code{"24627-2", "LN", "CT Chest"}
	codeImageLibrary   = code{"111028", "DCM", "Image Library"}
	codeImageGroup     = code{"126200", "DCM", "Image Library Group"}
	codeModality       = code{"121139", "DCM", "Modality"}
	codeCT             = code{"CT", "DCM", "Computed Tomography"}
	codeStudyDate      = code{"111060", "DCM", "Study Date"}
	codeFrame          = code{"112227", "DCM", "Frame of Reference UID"}
	codeRows           = code{"110910", "DCM", "Pixel Data Rows"}
	codeColumns        = code{"110911", "DCM", "Pixel Data Columns"}
	codeRowSpacing     = code{"111066", "DCM", "Vertical Pixel Spacing"}
	codeColumnSpacing  = code{"111026", "DCM", "Horizontal Pixel Spacing"}
	codeSliceThickness = code{"112225", "DCM", "Slice Thickness"}
	codeMeasurements   = code{"126010", "DCM", "Imaging Measurements"}
	codeGroup          = code{"125007", "DCM", "Measurement Group"}
	codeTrackingID     = code{"112039", "DCM", "Tracking Identifier"}
	codeTrackingUID    = code{"112040", "DCM", "Tracking Unique Identifier"}
	codeFinding        = code{"121071", "DCM", "Finding"}
	codeNodule         = code{"27925004", "SCT", "Nodule"}
	codeFindingSite    = code{"363698007", "SCT", "Finding Site"}
	codeLung           = code{"39607008", "SCT", "Lung"}
	codeLaterality     = code{"272741003", "SCT", "Laterality"}
	codeRight          = code{"24028007", "SCT", "Right"}
	codeLeft           = code{"7771000", "SCT", "Left"}
	codeRegion         = code{"111030", "DCM", "Image Region"}
	codeLongAxis       = code{"103339001", "SCT", "Long axis"}
	codeShortAxis      = code{"103340004", "SCT", "Short axis"}
	codeDiameter       = code{"81827009", "SCT", "Diameter"}
	codeVolume         = code{"118565006", "SCT", "Volume"}
	codeCertainty      = code{"111012", "DCM", "Certainty of Finding"}
	codeCancer         = code{"111047", "DCM", "Probability of cancer"}
	codeAlgorithm      = code{"111001", "DCM", "Algorithm Name"}
	codeVersion        = code{"111003", "DCM", "Algorithm Version"}
	codeParameters     = code{"111002", "DCM", "Algorithm Parameters"}
	codeEvaluations    = code{"C0034375", "UMLS", "Qualitative Evaluations"}
	codeAbnormal       = code{"49755003", "SCT", "Morphologically Abnormal Structure"}
	codeSegmentation   = code{"113076", "DCM", "Segmentation"}
	codeSourceImage    = code{"121322", "DCM", "Source image for image processing operation"}
	codeAI             = code{"123110", "DCM", "Artificial Intelligence"}
	codeNotSeen        = code{"47492008", "SCT", "Not seen"}
	codeComment        = code{"121106", "DCM", "Comment"}

	unitMM      = code{"mm", "UCUM", "millimeter"}
	unitMM3     = code{"mm3", "UCUM", "cubic millimeter"}
	unitPercent = code{"%", "UCUM", "Percent"}
	unitPixels  = code{"{pixels}", "UCUM", "pixels"}
)

// Relationships of PS3.3 C.17.3.2.4.
const (
	contains     = "CONTAINS"
	obsContext   = "HAS OBS CONTEXT"
	acqContext   = "HAS ACQ CONTEXT"
	conceptMod   = "HAS CONCEPT MOD"
	continuity   = "SEPARATE" // PS3.3 C.18.8: what a container holds is not one running text
	resourceDCMR = "DCMR"     // the templates of PS3.16
)

// content builds the content items of a report and remembers the first error, so that
// a template reads like the table of PS3.16 it follows.
type content struct{ err error }

// item is one content item: the elements of one item of a Content Sequence.
type item = []*dataset.Element

func (c *content) element(t dataset.Tag, values ...any) *dataset.Element {
	e, err := dataset.NewElement(t, values...)
	if err != nil {
		c.err = errors.Join(c.err, err)
		return dataset.RawElement(t, "UN", nil)
	}
	return e
}

func (c *content) codeItem(k code) item {
	return item{
		c.element(dicomtag.CodeValue, k.value),
		c.element(dicomtag.CodingSchemeDesignator, k.scheme),
		c.element(dicomtag.CodeMeaning, k.meaning),
	}
}

// value begins a content item (PS3.3 C.17.3): its relationship, type, name, own
// elements and children.
func (c *content) value(relationship, valueType string, name code, children []item, elements ...*dataset.Element) item {
	out := item{c.element(dicomtag.ValueType, valueType)}
	if relationship != "" {
		out = append(out, c.element(dicomtag.RelationshipType, relationship))
	}
	if name != (code{}) {
		out = append(out, dataset.Sequence(dicomtag.ConceptNameCodeSequence, c.codeItem(name)))
	}
	out = append(out, elements...)
	if len(children) > 0 {
		out = append(out, dataset.Sequence(dicomtag.ContentSequence, children...))
	}
	return out
}

// container is a CONTAINER; template is its TID, "" if it is not the root of one.
func (c *content) container(relationship string, name code, template string, children ...item) item {
	elements := []*dataset.Element{c.element(dicomtag.ContinuityOfContent, continuity)}
	if template != "" {
		elements = append(elements, dataset.Sequence(dicomtag.ContentTemplateSequence, item{
			c.element(dicomtag.MappingResource, resourceDCMR),
			c.element(dicomtag.TemplateIdentifier, template),
		}))
	}
	return c.value(relationship, "CONTAINER", name, children, elements...)
}

func (c *content) code(relationship string, name, value code) item {
	return c.value(relationship, "CODE", name, nil, dataset.Sequence(dicomtag.ConceptCodeSequence, c.codeItem(value)))
}

// codeWith is a CODE with children of its own.
func (c *content) codeWith(relationship string, name, value code, children ...item) item {
	return c.value(relationship, "CODE", name, children, dataset.Sequence(dicomtag.ConceptCodeSequence, c.codeItem(value)))
}

func (c *content) text(relationship string, name code, s string) item {
	return c.value(relationship, "TEXT", name, nil, c.element(dicomtag.TextValue, plain(s)))
}

func (c *content) uid(relationship string, name code, uid string) item {
	return c.value(relationship, "UIDREF", name, nil, c.element(dicomtag.UID, uid))
}

func (c *content) date(relationship string, name code, date string) item {
	return c.value(relationship, "DATE", name, nil, c.element(dicomtag.Date, date))
}

func (c *content) number(relationship string, name code, number float64, unit code) item {
	return c.value(relationship, "NUM", name, nil, dataset.Sequence(dicomtag.MeasuredValueSequence, item{
		c.element(dicomtag.NumericValue, number),
		dataset.Sequence(dicomtag.MeasurementUnitsCodeSequence, c.codeItem(unit)),
	}))
}

func (c *content) image(relationship string, image Image) item {
	return c.value(relationship, "IMAGE", code{}, nil, dataset.Sequence(dicomtag.ReferencedSOPSequence, c.reference(image)))
}

// reference is an item that names an instance.
func (c *content) reference(image Image) item {
	return item{
		c.element(dicomtag.ReferencedSOPClassUID, image.SOPClassUID),
		c.element(dicomtag.ReferencedSOPInstanceUID, image.SOPInstanceUID),
	}
}

// point is a position in the frame of reference of the images (PS3.3 C.18.9).
func (c *content) point(relationship string, name code, position [3]float64, frameOfReferenceUID string) item {
	return c.value(relationship, "SCOORD3D", name, nil,
		c.element(dicomtag.GraphicType, "POINT"),
		c.element(dicomtag.GraphicData, position[0], position[1], position[2]),
		c.element(dicomtag.ReferencedFrameOfReferenceUID, frameOfReferenceUID))
}

// plain makes s fit any character set of the source, of which ASCII is the common part,
// and any text value: our own texts must not change what the patient's name means.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r == '\n' || r == '\t':
			return ' '
		case r < ' ' || r > '~':
			return '?'
		case r == '\\':
			return '/' // a separator of values in short text
		}
		return r
	}, s)
}

// shorten cuts plain text to what a VR holds.
func shorten(s string, limit int) string {
	s = plain(s)
	return strings.TrimSpace(s[:min(len(s), limit)])
}
