package convert

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
	"hilum/models/ct"
	"hilum/trainer/volume"
)

const (
	explicitLittleEndian = "1.2.840.10008.1.2.1"       // PS3.5 A.2
	ctImageStorage       = "1.2.840.10008.5.1.4.1.1.2" // PS3.4 B.5

	// manufacturer tells whose images they are. Only such are written over.
	manufacturer = "Hilum"

	// maxSide is the most rows or columns an image can have: they are US.
	maxSide = 1<<16 - 1
)

// fileName is how the images of a series are called.
var fileName = regexp.MustCompile(`^[0-9]{6}\.dcm$`)

// toDICOM writes the series into a folder of its own, which appears whole: it
// is filled under another name and then renamed.
func (o Options) toDICOM(ctx context.Context, s volume.Scan, header *ct.Volume, load func() (*ct.Volume, error), threads int) (*ct.Volume, bool, error) {
	switch {
	case header.Size[2] < ct.MinSlices:
		return nil, false, fmt.Errorf("it has %d slices, and a series of fewer than %d is no volume again", header.Size[2], ct.MinSlices)
	case header.Size[0] > maxSide || header.Size[1] > maxSide:
		return nil, false, fmt.Errorf("its slices have %d × %d voxels, more than a DICOM image can have", header.Size[0], header.Size[1])
	}
	folder := o.target(s)
	whole, err := wholeSeries(ctx, folder, header, threads)
	if err != nil || whole {
		return header, false, err
	}
	v, err := load()
	if err != nil {
		return nil, false, err
	}
	partial := filepath.Join(o.Out, "."+s.UID+".partial")
	if err := os.RemoveAll(partial); err != nil { // of a run that was cut off
		return nil, false, err
	}
	if err := os.Mkdir(partial, 0o755); err != nil {
		return nil, false, err
	}
	if err := newSeries(s.UID, v).write(ctx, partial, v); err != nil {
		_ = os.RemoveAll(partial) // the error above says more
		return nil, false, err
	}
	if err := os.RemoveAll(folder); err != nil { // a series of ours that is not whole; see wholeSeries
		return nil, false, err
	}
	if err := os.Rename(partial, folder); err != nil {
		return nil, false, err
	}
	return v, true, syncFolder(o.Out)
}

// wholeSeries tells whether the folder holds the series already. A folder that
// holds anything that this package did not write is not touched: that is an
// error.
func wholeSeries(ctx context.Context, folder string, want *ct.Volume, threads int) (bool, error) {
	entries, err := os.ReadDir(folder)
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, e := range entries {
		f, err := dataset.ReadHeader(filepath.Join(folder, e.Name()), []dataset.Tag{dicomtag.Manufacturer})
		if err != nil || !fileName.MatchString(e.Name()) || f.Header.String(dicomtag.Manufacturer) != manufacturer {
			return false, fmt.Errorf("%s holds %q, which is not of a converted series: empty the folder or choose another one with --out", folder, e.Name())
		}
	}
	if len(entries) != want.Size[2] {
		return false, nil
	}
	got, err := ct.ReadSeriesHeader(ctx, folder, ct.Options{Threads: threads})
	if err != nil {
		return false, ctx.Err() // whatever is wrong with it, it is written anew
	}
	if want.HU != nil { // read from a MetaImage: the UIDs tell whether it is the same
		s := newSeries(filepath.Base(folder), want)
		return got.SOPInstanceUIDs[0] == s.instance(want.Size[2]) || got.SOPInstanceUIDs[0] == s.instance(1), nil
	}
	return sameGrid(got.Geometry, want.Geometry), nil
}

// series is what the images of one series have in common.
type series struct {
	uid, study, frame, patient string
	content                    string // hash of the voxels and their place
}

// newSeries chooses the UIDs, which are the same for the same scan. A name that
// is a UID becomes the Series Instance UID, so that LUNA16's tables go on
// fitting; everything else is made of the contents, so that two scans never
// share an image.
func newSeries(name string, v *ct.Volume) series {
	h := sha256.New()
	fmt.Fprintln(h, v.Geometry) // a hash never fails
	buffer := make([]byte, 0, 2*v.Size[0])
	for at := 0; at < len(v.HU); at += v.Size[0] {
		buffer = buffer[:0]
		for _, hu := range v.HU[at : at+v.Size[0]] {
			buffer = binary.LittleEndian.AppendUint16(buffer, uint16(hu))
		}
		h.Write(buffer)
	}
	s := series{uid: name, content: hex.EncodeToString(h.Sum(nil))}
	if !plainUID(name) {
		s.uid = dataset.StableUID("hilum convert", "series", name, s.content)
	}
	s.study = dataset.StableUID("hilum convert", "study", s.uid)
	s.frame = dataset.StableUID("hilum convert", "frame of reference", s.uid)
	if v.FrameOfReferenceUID != "" {
		s.frame = v.FrameOfReferenceUID
	}
	id := sha256.Sum256([]byte("hilum convert patient " + s.uid))
	s.patient = strings.ToUpper(hex.EncodeToString(id[:6]))
	return s
}

// instance returns the SOP Instance UID of an image.
func (s series) instance(number int) string {
	return dataset.StableUID("hilum convert", "image", s.uid, s.content, strconv.Itoa(number))
}

// plainUID tells whether a name is a UID without leading zeros (PS3.5 9.1).
func plainUID(name string) bool {
	if !dataset.ValidUID(name) || !strings.Contains(name, ".") {
		return false
	}
	for part := range strings.SplitSeq(name, ".") {
		if len(part) > 1 && part[0] == '0' {
			return false
		}
	}
	return true
}

// write writes all images, the slice at the end of axis k first, as scanners
// count from the head down.
func (s series) write(ctx context.Context, folder string, v *ct.Volume) error {
	area := v.Size[0] * v.Size[1]
	for k := range v.Size[2] {
		if err := ctx.Err(); err != nil {
			return err
		}
		number := v.Size[2] - k
		var file bytes.Buffer
		if err := dataset.WriteFile(&file, explicitLittleEndian, s.image(v, k, number, v.HU[k*area:(k+1)*area])); err != nil {
			return fmt.Errorf("make image %d: %w", number, err)
		}
		if err := writeSynced(filepath.Join(folder, fmt.Sprintf("%06d.dcm", number)), file.Bytes()); err != nil {
			return err
		}
	}
	return syncFolder(folder)
}

// image returns slice k as a CT Image Storage object (PS3.3 A.3.3). Its pixels
// are the HU themselves, signed, with slope 1: no value is lost.
func (s series) image(v *ct.Volume, k, number int, hu []int16) []*dataset.Element {
	pixels := make([]byte, 0, 2*len(hu))
	for _, x := range hu {
		pixels = binary.LittleEndian.AppendUint16(pixels, uint16(x))
	}
	at := v.World(0, 0, float64(k))
	x, y := v.Axes[0], v.Axes[1]
	e := dataset.MustElement
	return []*dataset.Element{
		e(dicomtag.ImageType, "DERIVED", "SECONDARY", "AXIAL"),
		e(dicomtag.SOPClassUID, ctImageStorage),
		e(dicomtag.SOPInstanceUID, s.instance(number)),
		e(dicomtag.StudyDate),
		e(dicomtag.ContentDate),
		e(dicomtag.StudyTime),
		e(dicomtag.ContentTime),
		e(dicomtag.AccessionNumber),
		e(dicomtag.Modality, "CT"),
		e(dicomtag.Manufacturer, manufacturer),
		e(dicomtag.ReferringPhysicianName),
		e(dicomtag.StudyDescription, "Converted CT"),
		e(dicomtag.SeriesDescription, "Converted CT"),
		e(dicomtag.PatientName, "CONVERTED^"+s.patient),
		e(dicomtag.PatientID, "HILUM-"+s.patient),
		e(dicomtag.PatientBirthDate),
		e(dicomtag.PatientSex, "O"),
		e(dicomtag.BodyPartExamined, "CHEST"),
		e(dicomtag.SliceThickness, v.Spacing[2]),
		e(dicomtag.KVP),
		e(dicomtag.PatientPosition, patientPosition(v.Axes)),
		e(dicomtag.StudyInstanceUID, s.study),
		e(dicomtag.SeriesInstanceUID, s.uid),
		e(dicomtag.StudyID, "1"),
		e(dicomtag.SeriesNumber, 1),
		e(dicomtag.AcquisitionNumber, 1),
		e(dicomtag.InstanceNumber, number),
		e(dicomtag.ImagePositionPatient, at[0], at[1], at[2]),
		e(dicomtag.ImageOrientationPatient, x[0], x[1], x[2], y[0], y[1], y[2]),
		e(dicomtag.FrameOfReferenceUID, s.frame),
		e(dicomtag.PositionReferenceIndicator),
		e(dicomtag.SamplesPerPixel, 1),
		e(dicomtag.PhotometricInterpretation, "MONOCHROME2"),
		e(dicomtag.Rows, v.Size[1]),
		e(dicomtag.Columns, v.Size[0]),
		e(dicomtag.PixelSpacing, v.Spacing[1], v.Spacing[0]), // PS3.3 10.7.1.3: rows first
		e(dicomtag.BitsAllocated, 16),
		e(dicomtag.BitsStored, 16),
		e(dicomtag.HighBit, 15),
		e(dicomtag.PixelRepresentation, 1),
		e(dicomtag.WindowCenter, -550),
		e(dicomtag.WindowWidth, 1600),
		e(dicomtag.RescaleIntercept, 0),
		e(dicomtag.RescaleSlope, 1),
		e(dicomtag.RescaleType, "HU"),
		dataset.RawElement(dicomtag.PixelData, "OW", pixels),
	}
}

// patientPosition names the position in which a scanner would have made such
// axes, the head first: lying on the back, or on the belly when the image is
// turned round.
func patientPosition(axes [3][3]float64) string {
	if axes[0][0] < 0 && axes[1][1] < 0 {
		return "HFP"
	}
	return "HFS"
}

func writeSynced(name string, b []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// syncFolder makes the names in a folder last.
func syncFolder(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
