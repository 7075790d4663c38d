// Package report turns the findings of a plugin into DICOM objects.
//
// SR makes a Comprehensive 3D SR (PS3.3 A.35.13) after TID 1500 "Measurement Report" of
// PS3.16: one measurement group (TID 1410) for each finding, with its place as a point
// in the frame of reference of the images. The document names exactly the images that
// were analysed, the plugin, its version and the hash of each model.
//
// For viewers that show no SR there are three more: SEG draws the masks of the findings
// as a Segmentation (A.51) on the grid of the images, GSPS lays circles over them as a
// Grayscale Softcopy Presentation State (A.33.1), and Captures are plain pictures
// (Secondary Capture, A.8.1). A nodule has the same Tracking UID in SR and SEG, and in
// the results of later revisions of its series (Track).
//
// The package refuses what would be a wrong report: findings with numbers that are none,
// images that are not named, positions without a frame of reference. It decodes no
// pixels of the source: the pictures of a Capture are the plugin's. It logs nothing:
// everything here is patient data.
package report

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"hilum/dimse/dataset"
	"hilum/plugins/api"

	"github.com/grailbio/go-dicom/dicomtag"
)

// Manufacturer is what Hilum calls itself in its objects. A node can tell its own
// results by it, and by the implementation class UID in Instance Creator UID.
const Manufacturer = "Hilum"

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
	Stack             *Stack  // where the images lie; nil: they are no stack of slices
	Result            api.Result
	Tracking          []Tracking // of the findings, in their order; nil: all are new
	Revision          int        // of the series: it counts up as late images arrive
	Predecessor       *Image     // the report that this one supersedes: of the same series and plugin
	Software          string     // version of hilum
	Station           string     // name of this node
	Now               time.Time
}

// SR returns the report of one result. The same Input gives the same bytes. Reports of
// one plugin on one series are one SR series, its instances the revisions.
func SR(in Input) (Document, error) {
	if err := check(in); err != nil {
		return Document{}, fmt.Errorf("structured report: %w", err)
	}
	c := &content{}
	d := newDocument(in, kindSR, 1)
	elements := slices.Concat(
		commonElements(c, in, d, kindSR, max(in.Revision, 1)),
		documentElements(c, in, d),
		measurementReport(c, in),
	)
	return d.finish(c, kindSR, elements)
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
	if in.Tracking != nil && len(in.Tracking) != len(in.Result.Findings) {
		return errors.New("not every finding has its tracking UID")
	}
	tracked := map[string]bool{}
	for _, t := range in.Tracking {
		if !dataset.ValidUID(t.UID) || t.ID == "" || tracked[t.UID] {
			return errors.New("a finding is tracked by something that is no UID, or that another one has too")
		}
		tracked[t.UID] = true
	}
	if in.Now.IsZero() {
		return errors.New("it has no time")
	}
	return nil
}

// documentElements are those of an SR document (PS3.3 C.17.2).
func documentElements(c *content, in Input, d Document) []*dataset.Element {
	out := []*dataset.Element{
		dataset.Sequence(dicomtag.ReferencedPerformedProcedureStepSequence),
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
