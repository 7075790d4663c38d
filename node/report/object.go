package report

import (
	"bytes"
	"fmt"
	"strconv"
	"time"

	"hilum/dimse/dataset"

	"github.com/grailbio/go-dicom/dicomtag"
)

// SOP classes of the objects made here.
const (
	Comprehensive3DSR = "1.2.840.10008.5.1.4.1.1.88.34"
	Segmentation      = "1.2.840.10008.5.1.4.1.1.66.4"
	SecondaryCapture  = "1.2.840.10008.5.1.4.1.1.7"
	PresentationState = "1.2.840.10008.5.1.4.1.1.11.1"
)

// Document is a finished object, ready to be stored.
type Document struct {
	SOPClassUID, SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID, TransferSyntaxUID string
	Bytes                                                                               []byte // Part 10
}

// kind is what the objects of one sort have in common. Of one source series and plugin
// they are one series, its instances the revisions.
type kind struct {
	sopClass, modality string
	name               string // in UIDs and errors
	series             int    // Series Number, behind those of scanners in a viewer's list
	description        string // what a viewer's list of series shows
}

const research = "RESEARCH USE ONLY"

var (
	kindSR   = kind{Comprehensive3DSR, "SR", "sr", 9800, "Hilum nodule findings - " + research}
	kindSEG  = kind{Segmentation, "SEG", "seg", 9801, "Hilum nodule outlines - " + research}
	kindSC   = kind{SecondaryCapture, "OT", "sc", 9802, "Hilum nodule pictures - " + research}
	kindGSPS = kind{PresentationState, "PR", "gsps", 9803, "Hilum nodule circles - " + research}
)

// Limits of value representations (PS3.5 6.2).
const (
	maxSH = 16
	maxLO = 64
)

// newDocument names the number-th object of a kind that this result becomes.
func newDocument(in Input, k kind, number int) Document {
	plugin := in.Result.Description.Name
	parts := []string{k.name, in.SeriesInstanceUID, plugin, in.Station, strconv.Itoa(in.Revision), in.Now.UTC().Format(time.RFC3339Nano)}
	if number > 1 {
		parts = append(parts, strconv.Itoa(number))
	}
	return Document{
		SOPClassUID:       k.sopClass,
		StudyInstanceUID:  in.Header.String(dicomtag.StudyInstanceUID),
		SeriesInstanceUID: dataset.StableUID(k.name+" series", in.SeriesInstanceUID, plugin),
		SOPInstanceUID:    dataset.StableUID(parts...),
		TransferSyntaxUID: dataset.ExplicitVRLittleEndian,
	}
}

// finish writes the elements, unless one of them could not be made.
func (d Document) finish(c *content, k kind, elements []*dataset.Element) (Document, error) {
	if c.err != nil {
		return Document{}, fmt.Errorf("%s object: %w", k.name, c.err)
	}
	var out bytes.Buffer
	if err := dataset.WriteFile(&out, d.TransferSyntaxUID, elements); err != nil {
		return Document{}, fmt.Errorf("%s object: %w", k.name, err)
	}
	d.Bytes = out.Bytes()
	return d, nil
}

// commonElements are what every object has: patient and study of the source, series,
// equipment, SOP common (PS3.3 C.7.1, C.7.2, C.7.3.1, C.7.5.1, C.12.1). A series grows with
// every revision, so it has no date and time of its own.
func commonElements(c *content, in Input, d Document, k kind, instance int) []*dataset.Element {
	date, clock := in.clock()
	return append(sourceElements(c, in.Header),
		c.element(dicomtag.Modality, k.modality),
		c.element(dicomtag.SeriesInstanceUID, d.SeriesInstanceUID),
		c.element(dicomtag.SeriesNumber, k.series),
		c.element(dicomtag.SeriesDescription, k.description),

		c.element(dicomtag.Manufacturer, Manufacturer),
		c.element(dicomtag.ManufacturerModelName, shorten("Hilum "+in.Result.Description.Name, maxLO)),
		c.element(dicomtag.DeviceSerialNumber, shorten(deviceUID(in), maxLO)),
		c.element(dicomtag.SoftwareVersions, shorten(in.Software, maxLO), shorten(in.Result.Description.Name+" "+in.Result.Description.Version, maxLO)),
		c.element(dicomtag.StationName, shorten(in.Station, maxSH)),

		c.element(dicomtag.SOPClassUID, d.SOPClassUID),
		c.element(dicomtag.SOPInstanceUID, d.SOPInstanceUID),
		c.element(dicomtag.InstanceCreationDate, date),
		c.element(dicomtag.InstanceCreationTime, clock),
		c.element(dicomtag.InstanceCreatorUID, dataset.ImplementationClassUID),
		c.element(dicomtag.InstanceNumber, instance),
		c.element(dicomtag.ContentDate, date),
		c.element(dicomtag.ContentTime, clock),
	)
}

// clock is date and time of the result in the time zone that the source says.
func (in Input) clock() (date, clock string) {
	now := in.Now
	if zone, err := time.Parse("-0700", in.Header.String(dicomtag.TimezoneOffsetFromUTC)); err == nil {
		now = now.In(zone.Location()) // it holds for every date and time of the object
	}
	return now.Format("20060102"), now.Format("150405")
}

// sourceElements copies patient and study.
func sourceElements(c *content, source dataset.Header) []*dataset.Element {
	var out []*dataset.Element
	for _, attribute := range copied {
		if e, ok := source.Element(attribute.tag); ok {
			out = append(out, e)
		} else if attribute.empty {
			out = append(out, c.element(attribute.tag))
		}
	}
	if source.String(dicomtag.PatientIdentityRemoved) == "YES" && !source.Has(dicomtag.DeidentificationMethod) {
		// PS3.3 C.7.1.1: required; the source has its method in a sequence.
		out = append(out, c.element(dicomtag.DeidentificationMethod, "See source images"))
	}
	return out
}

// frameOfReference are the elements of PS3.3 C.7.4.1.
func frameOfReference(c *content, in Input) []*dataset.Element {
	return []*dataset.Element{
		c.element(dicomtag.FrameOfReferenceUID, in.Header.String(dicomtag.FrameOfReferenceUID)),
		c.element(dicomtag.PositionReferenceIndicator),
	}
}

// lossy says that the source images lost something in compression, if they did: what
// is derived from them has lost it too (PS3.3 C.7.6.1.1.5).
func lossy(c *content, source dataset.Header) []*dataset.Element {
	if source.String(dicomtag.LossyImageCompression) != "01" {
		return []*dataset.Element{c.element(dicomtag.LossyImageCompression, "00")}
	}
	out := []*dataset.Element{c.element(dicomtag.LossyImageCompression, "01")}
	for _, t := range []dataset.Tag{dicomtag.LossyImageCompressionRatio, dicomtag.LossyImageCompressionMethod} {
		if e, ok := source.Element(t); ok {
			out = append(out, e)
		}
	}
	return out
}

// deviceUID is the same for every object of one node.
func deviceUID(in Input) string { return dataset.StableUID("device", in.Station) }
