// Package ct turns a chest CT into a volume of Hounsfield units with its place
// in the patient, and prepares that volume for a model.
//
// LoadSeries reads the Part 10 files of one series (CT Image Storage, PS3.3
// A.3 and C.7.6.2), ReadMetaImage reads the .mhd and .mha files that LUNA16
// and ITK use. Uncompressed, deflated, RLE Lossless (PS3.5 annex G) and JPEG
// Lossless pixels (ISO 10918-1 process 14) are decoded here in Go; JPEG-LS and
// JPEG 2000 need a Decoder, which the plugin process brings.
//
// The package refuses, with a *SeriesError in one sentence, whatever is not one
// regular grid of CT slices: localizers, mixed series or orientations, missing
// slices, damaged pixels. It never guesses and never skips an image silently.
// The files are not trusted: every length, size and number is checked before
// it is used.
package ct

// MaxVoxels is the largest volume that is built: 2 GiB of memory as int16. A
// 512² × 4096 or a 1024² × 1024 scan fits.
const MaxVoxels = 1 << 30

// AirHU is the value of voxels where a scanner has put padding: outside the
// reconstructed circle there is air.
const AirHU = -1024

// Volume is a CT scan in Hounsfield units. LoadSeries and ReadMetaImage make
// it; Geometry.Validate holds for every volume they return.
type Volume struct {
	Geometry
	HU []int16 // Geometry.Voxels() values, x fastest; see Index

	SeriesInstanceUID   string   // empty when not read from DICOM
	FrameOfReferenceUID string   // empty when the images name none
	SOPInstanceUIDs     []string // of slice k; nil when not read from DICOM
	SOPClassUID         string   // of the images; empty when not read from DICOM

	Notes []string // what a reader did that a person should know, without patient data
}

// Mask is a selection of voxels on a grid.
type Mask struct {
	Geometry
	Bits []uint8 // 0 or 1 for each voxel, x fastest
}
