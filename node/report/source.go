package report

import (
	"hilum/dimse/dataset"

	"github.com/grailbio/go-dicom/dicomtag"
)

// copied are the attributes of the source images that a report repeats unchanged, byte
// for byte, in the characters they came in: who the patient is and which study this is.
// empty: the attribute is of type 2, so it is there without a value where the source
// has none.
var copied = []struct {
	tag   dataset.Tag
	empty bool
}{
	{dicomtag.SpecificCharacterSet, false},
	{dicomtag.TimezoneOffsetFromUTC, false},
	// PS3.3 C.7.1.1 Patient
	{dicomtag.PatientName, true},
	{dicomtag.PatientID, true},
	{dicomtag.IssuerOfPatientID, false},
	{dicomtag.PatientBirthDate, true},
	{dicomtag.PatientSex, true},
	{dicomtag.PatientIdentityRemoved, false},
	{dicomtag.DeidentificationMethod, false},
	// PS3.3 C.7.2.1 General Study
	{dicomtag.StudyInstanceUID, false},
	{dicomtag.StudyDate, true},
	{dicomtag.StudyTime, true},
	{dicomtag.ReferringPhysicianName, true},
	{dicomtag.StudyID, true},
	{dicomtag.AccessionNumber, true},
	{dicomtag.StudyDescription, false},
	// PS3.3 C.7.2.2 Patient Study
	{dicomtag.PatientAge, false},
	{dicomtag.PatientSize, false},
	{dicomtag.PatientWeight, false},
}

// used are the attributes of the source images that a report speaks of.
var used = []dataset.Tag{
	dicomtag.Modality,
	dicomtag.FrameOfReferenceUID,
	dicomtag.SliceThickness,
	dicomtag.PixelSpacing,
	dicomtag.Rows,
	dicomtag.Columns,
	dicomtag.LossyImageCompression,
	dicomtag.LossyImageCompressionRatio,
	dicomtag.LossyImageCompressionMethod,
	dicomtag.RescaleIntercept,
	dicomtag.RescaleSlope,
}

// SourceTags are the elements with which Input.Header must have been scanned. It must
// not be changed.
var SourceTags = sourceTags()

func sourceTags() []dataset.Tag {
	tags := make([]dataset.Tag, 0, len(copied)+len(used))
	for _, c := range copied {
		tags = append(tags, c.tag)
	}
	return append(tags, used...)
}
