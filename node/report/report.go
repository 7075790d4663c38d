// Package report turns the findings of a plugin into DICOM objects.
//
// SR makes a Comprehensive 3D SR (PS3.3 A.35.13) after TID 1500 "Measurement Report" of
// PS3.16: one measurement group (TID 1410) for each finding, with its place as a point
// in the frame of reference of the images. The document names exactly the images that
// were analysed, the plugin, its version and the hash of each model.
//
// It refuses what would be a wrong report: findings with numbers that are none, images
// that are not named, positions without a frame of reference. It does not look at
// pixels, and it logs nothing: everything here is patient data.
package report

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"time"

	"hilum/dimse/dataset"
	"hilum/plugins/api"

	"github.com/grailbio/go-dicom/dicomtag"
)

// Comprehensive3DSR is the SOP class of the documents of SR.
const Comprehensive3DSR = "1.2.840.10008.5.1.4.1.1.88.34"

// Manufacturer is what Hilum calls itself in its objects. A node can tell its own
// results by it, and by the implementation class UID in Instance Creator UID.
const Manufacturer = "Hilum"

// seriesDescription is what a list of series in a viewer shows.
const seriesDescription = "Hilum nodule findings - RESEARCH USE ONLY"

// seriesNumber keeps our series behind those of scanners in a viewer's list.
const seriesNumber = 9800

// Limits of value representations (PS3.5 6.2).
const (
	maxSH = 16
	maxLO = 64
)

// ErrNoFrameOfReference is returned when there are findings but the source images name
// no frame of reference, so that no viewer could tell where a position is. Trying again
// cannot help.
var ErrNoFrameOfReference = errors.New("the source images have no Frame of Reference UID, so positions cannot be reported")

// Image names one instance.
type Image struct{ SOPClassUID, SOPInstanceUID string }

// Input is what a report says.
type Input struct {
	// Header is that of one source image, scanned with SourceTags. Patient and study
	// are copied from it as they are.
	Header            dataset.Header
	SeriesInstanceUID string
	Images            []Image // exactly those that were analysed
	Result            api.Result
	Revision          int    // of the series: it counts up as late images arrive
	Predecessor       *Image // the report that this one supersedes: of the same series and plugin
	Software          string // version of hilum
	Station           string // name of this node
	Now               time.Time
}

// Document is a finished object, ready to be stored.
type Document struct {
	SOPClassUID, SOPInstanceUID, SeriesInstanceUID, StudyInstanceUID, TransferSyntaxUID string
	Bytes                                                                               []byte // Part 10
}

// SR returns the report of one result. The same Input gives the same bytes. Reports of
// one plugin on one series are one SR series, its instances the revisions.
func SR(in Input) (Document, error) {
	if err := check(in); err != nil {
		return Document{}, fmt.Errorf("structured report: %w", err)
	}
	plugin := in.Result.Description.Name
	d := Document{
		SOPClassUID:       Comprehensive3DSR,
		StudyInstanceUID:  in.Header.String(dicomtag.StudyInstanceUID),
		SeriesInstanceUID: dataset.StableUID("sr series", in.SeriesInstanceUID, plugin),
		SOPInstanceUID: dataset.StableUID("sr", in.SeriesInstanceUID, plugin, in.Station,
			strconv.Itoa(in.Revision), in.Now.UTC().Format(time.RFC3339Nano)),
		TransferSyntaxUID: dataset.ExplicitVRLittleEndian,
	}
	c := &content{}
	elements := sourceElements(c, in.Header)
	elements = append(elements, documentElements(c, in, d)...)
	elements = append(elements, measurementReport(c, in)...)
	if c.err != nil {
		return Document{}, fmt.Errorf("structured report: %w", c.err)
	}
	var out bytes.Buffer
	if err := dataset.WriteFile(&out, d.TransferSyntaxUID, elements); err != nil {
		return Document{}, fmt.Errorf("structured report: %w", err)
	}
	d.Bytes = out.Bytes()
	return d, nil
}

// check refuses an Input that would make a wrong report.
func check(in Input) error {
	if !dataset.ValidUID(in.Header.String(dicomtag.StudyInstanceUID)) {
		return errors.New("the source images have no valid Study Instance UID")
	}
	if !dataset.ValidUID(in.SeriesInstanceUID) {
		return errors.New("the source images have no valid Series Instance UID")
	}
	if len(in.Images) == 0 {
		return errors.New("no analysed image is named")
	}
	images := in.Images
	if in.Predecessor != nil {
		images = append(images[:len(images):len(images)], *in.Predecessor)
	}
	for _, image := range images {
		if !dataset.ValidUID(image.SOPClassUID) || !dataset.ValidUID(image.SOPInstanceUID) {
			return errors.New("an image is named by something that is no UID")
		}
	}
	if err := in.Result.Description.Validate(); err != nil {
		return fmt.Errorf("description of the plugin: %w", err)
	}
	if err := in.Result.Validate(api.DefaultLimits()); err != nil {
		return err
	}
	if len(in.Result.Findings) > 0 && !dataset.ValidUID(in.Header.String(dicomtag.FrameOfReferenceUID)) {
		return ErrNoFrameOfReference
	}
	if in.Now.IsZero() {
		return errors.New("it has no time")
	}
	return nil
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

// documentElements are series, equipment, document and SOP common (PS3.3 C.17.1, C.7.5.1,
// C.17.2, C.12.1).
func documentElements(c *content, in Input, d Document) []*dataset.Element {
	now := in.Now
	if zone, err := time.Parse("-0700", in.Header.String(dicomtag.TimezoneOffsetFromUTC)); err == nil {
		now = now.In(zone.Location()) // it holds for every date and time of the object
	}
	date, clock := now.Format("20060102"), now.Format("150405")
	out := []*dataset.Element{
		c.element(dicomtag.Modality, "SR"),
		c.element(dicomtag.SeriesInstanceUID, d.SeriesInstanceUID),
		c.element(dicomtag.SeriesNumber, seriesNumber),
		c.element(dicomtag.SeriesDescription, seriesDescription),
		c.element(dicomtag.SeriesDate, date),
		c.element(dicomtag.SeriesTime, clock),
		dataset.Sequence(dicomtag.ReferencedPerformedProcedureStepSequence),

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
		c.element(dicomtag.InstanceNumber, max(in.Revision, 1)),
		c.element(dicomtag.ContentDate, date),
		c.element(dicomtag.ContentTime, clock),
		c.element(dicomtag.CompletionFlag, "COMPLETE"),
		c.element(dicomtag.VerificationFlag, "UNVERIFIED"),
		// No person has read it (PS3.3 C.17.2).
		c.element(dicomtag.PreliminaryFlag, "PRELIMINARY"),
		dataset.Sequence(dicomtag.PerformedProcedureCodeSequence),
		dataset.Sequence(dicomtag.CurrentRequestedProcedureEvidenceSequence, evidence(c, d.StudyInstanceUID, in.SeriesInstanceUID, in.Images...)),
	}
	if in.Predecessor != nil {
		out = append(out, dataset.Sequence(dicomtag.PredecessorDocumentsSequence, evidence(c, d.StudyInstanceUID, d.SeriesInstanceUID, *in.Predecessor)))
	}
	return out
}

// evidence names instances of one series (PS3.3 table C.17-3). Viewers refuse a report
// that refers to an image it does not list here.
func evidence(c *content, study, series string, images ...Image) item {
	references := make([]item, 0, len(images))
	for _, image := range images {
		references = append(references, c.reference(image))
	}
	return item{
		c.element(dicomtag.StudyInstanceUID, study),
		dataset.Sequence(dicomtag.ReferencedSeriesSequence, item{
			c.element(dicomtag.SeriesInstanceUID, series),
			dataset.Sequence(dicomtag.ReferencedSOPSequence, references...),
		}),
	}
}

// deviceUID is the same for every report of one node.
func deviceUID(in Input) string { return dataset.StableUID("device", in.Station) }
