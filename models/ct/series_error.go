package ct

import "fmt"

// ErrorKind is the reason why a series cannot become a volume.
type ErrorKind string

// The kinds of SeriesError.
const (
	NoImages         ErrorKind = "no-images"         // no DICOM image in the folder
	NotCT            ErrorKind = "not-ct"            // other objects than CT images, or values that are no Hounsfield units
	MultiFrame       ErrorKind = "multi-frame"       // Enhanced CT or another image of several frames
	Localizer        ErrorKind = "localizer"         // only localizer (scout) images
	TooFew           ErrorKind = "too-few"           // fewer than MinSlices slices
	TooLarge         ErrorKind = "too-large"         // more voxels or files than allowed
	MixedSeries      ErrorKind = "mixed-series"      // images of several series or frames of reference
	MixedOrientation ErrorKind = "mixed-orientation" // images that are not parallel
	MixedSize        ErrorKind = "mixed-size"        // images of different size or pixel spacing
	BadGeometry      ErrorKind = "geometry"          // position, orientation or spacing missing or impossible
	Tilted           ErrorKind = "tilted"            // parallel images that are not above each other (gantry tilt)
	Gap              ErrorKind = "gap"               // missing slices or uneven spacing
	Duplicate        ErrorKind = "duplicate"         // different images at one position
	Pixel            ErrorKind = "pixel"             // pixels damaged, too short or of a kind that is not read
	Damaged          ErrorKind = "damaged"           // a file whose header cannot be read
)

// SeriesError says why a series cannot become a volume. Trying again with the
// same files does not help. Reason is one sentence for a person, without
// patient data.
type SeriesError struct {
	Kind   ErrorKind
	Reason string
}

// Error returns the reason.
func (e *SeriesError) Error() string { return e.Reason }

func seriesErrorf(kind ErrorKind, format string, args ...any) error {
	return &SeriesError{Kind: kind, Reason: fmt.Sprintf(format, args...)}
}
