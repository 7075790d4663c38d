package phantom

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
)

const (
	explicitLittleEndian = "1.2.840.10008.1.2.1"       // PS3.5 A.2
	ctImageStorage       = "1.2.840.10008.5.1.4.1.1.2" // PS3.4 B.5
	rescaleIntercept     = -1024
)

// series holds what the images of one phantom have in common.
type series struct {
	grid
	uid, study, frame string
	seed              int64
}

// newSeries chooses the UIDs: the same options give the same.
func newSeries(o Options) series {
	uid := func(what string) string {
		return dataset.StableUID("hilum phantom", what, fmt.Sprint(o.Seed, o.Slices, o.Rows, o.Nodules, o.Noise))
	}
	return series{grid: o.grid(), uid: uid("series"), study: uid("study"), frame: uid("frame of reference"), seed: o.Seed}
}

// write writes slice k, with these HU, as a CT Image Storage object. Instance
// numbers count from the head down, as scanners do.
func (s series) write(name string, k int, hu []int16) error {
	pixels := make([]byte, 2*len(hu))
	for i, v := range hu {
		binary.LittleEndian.PutUint16(pixels[2*i:], uint16(int(v)-rescaleIntercept))
	}
	number := s.slices - k
	position := vec{s.x(0), s.x(0), s.z(k)}.add(patientOffset)
	e := dataset.MustElement
	const date, time = "20260102", "101500" // fixed: the same options give the same bytes
	elements := []*dataset.Element{
		e(dicomtag.ImageType, "ORIGINAL", "PRIMARY", "AXIAL"),
		e(dicomtag.SOPClassUID, ctImageStorage),
		e(dicomtag.SOPInstanceUID, dataset.StableUID("hilum phantom", "image", s.uid, strconv.Itoa(number))),
		e(dicomtag.StudyDate, date),
		e(dicomtag.SeriesDate, date),
		e(dicomtag.AcquisitionDate, date),
		e(dicomtag.ContentDate, date),
		e(dicomtag.StudyTime, time),
		e(dicomtag.SeriesTime, time),
		e(dicomtag.AcquisitionTime, time),
		e(dicomtag.ContentTime, time),
		e(dicomtag.AccessionNumber),
		e(dicomtag.Modality, "CT"),
		e(dicomtag.Manufacturer, "Hilum phantom"),
		e(dicomtag.ManufacturerModelName, "phantom"),
		e(dicomtag.ReferringPhysicianName),
		e(dicomtag.StudyDescription, "Synthetic chest CT"),
		e(dicomtag.SeriesDescription, "Chest "+strconv.FormatFloat(s.dz, 'g', 4, 64)+" mm, synthetic"),
		e(dicomtag.PatientName, "PHANTOM^HILUM"),
		e(dicomtag.PatientID, fmt.Sprintf("PHANTOM-%d", s.seed)),
		e(dicomtag.PatientBirthDate),
		e(dicomtag.PatientSex, "O"),
		e(dicomtag.BodyPartExamined, "CHEST"),
		e(dicomtag.SliceThickness, s.dz),
		e(dicomtag.KVP, 120),
		e(dicomtag.ConvolutionKernel, "SYNTHETIC"),
		e(dicomtag.PatientPosition, "HFS"),
		e(dicomtag.StudyInstanceUID, s.study),
		e(dicomtag.SeriesInstanceUID, s.uid),
		e(dicomtag.StudyID, "1"),
		e(dicomtag.SeriesNumber, 2),
		e(dicomtag.AcquisitionNumber, 1),
		e(dicomtag.InstanceNumber, number),
		e(dicomtag.ImagePositionPatient, position[0], position[1], position[2]),
		e(dicomtag.ImageOrientationPatient, 1, 0, 0, 0, 1, 0),
		e(dicomtag.FrameOfReferenceUID, s.frame),
		e(dicomtag.PositionReferenceIndicator),
		e(dicomtag.SamplesPerPixel, 1),
		e(dicomtag.PhotometricInterpretation, "MONOCHROME2"),
		e(dicomtag.Rows, s.n),
		e(dicomtag.Columns, s.n),
		e(dicomtag.PixelSpacing, s.pixel, s.pixel),
		e(dicomtag.BitsAllocated, 16),
		e(dicomtag.BitsStored, 12),
		e(dicomtag.HighBit, 11),
		e(dicomtag.PixelRepresentation, 0),
		e(dicomtag.WindowCenter, -550),
		e(dicomtag.WindowWidth, 1600),
		e(dicomtag.RescaleIntercept, rescaleIntercept),
		e(dicomtag.RescaleSlope, 1),
		e(dicomtag.RescaleType, "HU"),
		dataset.RawElement(dicomtag.PixelData, "OW", pixels),
	}
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	if err := dataset.WriteFile(f, explicitLittleEndian, elements); err != nil {
		_ = f.Close() // the error above says more
		return err
	}
	return f.Close()
}
