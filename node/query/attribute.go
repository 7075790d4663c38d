package query

import (
	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
)

// attribute is a key that is supported.
type attribute struct {
	tag     dataset.Tag
	level   Level  // from which on it has a value
	keyword string // in the header of an image
	vr      string
	counted func(*entity) []string // of a computed one; nil otherwise
}

// headerLevels are the indexed elements (dataset.IndexTags) of the upper levels,
// as PS3.3 has them in the modules of the patient, the study and the series; all
// others are of the image.
var headerLevels = map[Level][]dataset.Tag{
	Patient: {dicomtag.PatientName, dicomtag.PatientID, dicomtag.PatientBirthDate, dicomtag.PatientSex},
	Study: {
		dicomtag.StudyInstanceUID, dicomtag.StudyDate, dicomtag.StudyTime, dicomtag.AccessionNumber, dicomtag.StudyID,
		dicomtag.StudyDescription, dicomtag.ReferringPhysicianName, dicomtag.PatientAge,
	},
	Series: {
		dicomtag.SeriesInstanceUID, dicomtag.Modality, dicomtag.SeriesNumber, dicomtag.SeriesDate, dicomtag.SeriesTime,
		dicomtag.SeriesDescription, dicomtag.BodyPartExamined, dicomtag.ProtocolName, dicomtag.PatientPosition,
		dicomtag.Manufacturer, dicomtag.ManufacturerModelName, dicomtag.InstitutionName, dicomtag.StationName,
		dicomtag.FrameOfReferenceUID,
	},
}

// computed are the keys of PS3.4 C.3.4 that no image has.
var computed = []attribute{
	{tag: dicomtag.NumberOfPatientRelatedStudies, level: Patient, counted: func(e *entity) []string { return count(e.patientStudies) }},
	{tag: dicomtag.NumberOfPatientRelatedSeries, level: Patient, counted: func(e *entity) []string { return count(e.patientSeries) }},
	{tag: dicomtag.NumberOfPatientRelatedInstances, level: Patient, counted: func(e *entity) []string { return count(e.patientInstances) }},
	{tag: dicomtag.NumberOfStudyRelatedSeries, level: Study, counted: func(e *entity) []string { return count(e.studySeries) }},
	{tag: dicomtag.NumberOfStudyRelatedInstances, level: Study, counted: func(e *entity) []string { return count(e.studyInstances) }},
	{tag: dicomtag.ModalitiesInStudy, level: Study, counted: func(e *entity) []string { return e.modalities }},
	{tag: dicomtag.SOPClassesInStudy, level: Study, counted: func(e *entity) []string { return e.classes.list }},
	{tag: dicomtag.NumberOfSeriesRelatedInstances, level: Series, counted: func(e *entity) []string { return count(e.seriesInstances) }},
	// All that is stored is on disk.
	{tag: dicomtag.InstanceAvailability, level: Patient, counted: func(*entity) []string { return []string{"ONLINE"} }},
	{tag: dicomtag.RetrieveAETitle, level: Patient, counted: func(e *entity) []string { return []string{e.retrieveAETitle} }},
}

var attributes = supportedAttributes()

func supportedAttributes() map[dataset.Tag]attribute {
	all := map[dataset.Tag]attribute{}
	for _, t := range dataset.IndexTags {
		if t != dicomtag.SpecificCharacterSet {
			all[t] = described(attribute{tag: t, level: Image})
		}
	}
	for level, tags := range headerLevels {
		for _, t := range tags {
			all[t] = described(attribute{tag: t, level: level})
		}
	}
	for _, a := range computed {
		all[a.tag] = described(a)
	}
	return all
}

// countsPatient says whether a key counts what the patient has beyond the study.
func countsPatient(t dataset.Tag) bool {
	switch t {
	case dicomtag.NumberOfPatientRelatedStudies, dicomtag.NumberOfPatientRelatedSeries, dicomtag.NumberOfPatientRelatedInstances:
		return true
	}
	return false
}

// described adds what the dictionary knows.
func described(a attribute) attribute {
	if info, err := dicomtag.Find(a.tag); err == nil {
		a.keyword, a.vr = info.Name, info.VR
	}
	return a
}

// housekeeping are elements of an identifier that are no keys.
func housekeeping(t dataset.Tag) bool {
	switch t {
	case dicomtag.SpecificCharacterSet, dicomtag.QueryRetrieveLevel, dicomtag.TimezoneOffsetFromUTC:
		return true
	}
	return false
}

// SupportedKeys are the keys that are matched and returned on a level, those of
// the levels above included.
func SupportedKeys(l Level) []dataset.Tag {
	var tags []dataset.Tag
	for t, a := range attributes {
		if a.level <= l {
			tags = append(tags, t)
		}
	}
	return tags
}
