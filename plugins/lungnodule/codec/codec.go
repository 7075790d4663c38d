// Package codec decodes the compressed CT images that have no decoder in Go:
// JPEG-LS (ISO 14495-1) through CharLS and JPEG 2000 (ISO 15444-1) through
// OpenJPEG, as a ct.Decoder.
//
// It is the only cgo beside the inference runtime, and belongs in a plugin
// process: the libraries have had memory errors on damaged images, and such a
// process may die. Before a library sees a codestream, what the codestream
// declares of itself (size, components, bits, tiles, precincts) is compared
// with the DICOM header in Go, so that it cannot ask for more memory than the
// image it belongs to.
package codec

import (
	"fmt"

	"hilum/models/ct"
)

// Transfer syntaxes (PS3.6 table A-1) that Decode reads.
const (
	JPEGLSLossless     = "1.2.840.10008.1.2.4.80"
	JPEGLSNearLossless = "1.2.840.10008.1.2.4.81"
	JPEG2000Lossless   = "1.2.840.10008.1.2.4.90"
	JPEG2000           = "1.2.840.10008.1.2.4.91"
)

var _ ct.Decoder = Decode

// Decode decodes one image to little-endian samples of 16 bits. It may be
// called from several goroutines at once.
func Decode(transferSyntaxUID string, fragment []byte, info ct.PixelInfo) ([]byte, error) {
	switch transferSyntaxUID {
	case JPEGLSLossless, JPEGLSNearLossless:
		return decodeJPEGLS(fragment, info)
	case JPEG2000Lossless, JPEG2000:
		return decodeJPEG2000(fragment, info)
	}
	return nil, fmt.Errorf("transfer syntax %q is neither JPEG-LS nor JPEG 2000", transferSyntaxUID)
}
