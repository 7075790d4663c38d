package codec

/*
#cgo pkg-config: charls
#include <charls/charls.h>

// hilum_jpegls_header reads the frame header of a JPEG-LS image.
static charls_jpegls_errc hilum_jpegls_header(const void *source, size_t size, charls_frame_info *frame) {
	charls_jpegls_decoder *decoder = charls_jpegls_decoder_create();
	if (!decoder)
		return CHARLS_JPEGLS_ERRC_NOT_ENOUGH_MEMORY;
	charls_jpegls_errc err = charls_jpegls_decoder_set_source_buffer(decoder, source, size);
	if (!err)
		err = charls_jpegls_decoder_read_header(decoder);
	if (!err)
		err = charls_jpegls_decoder_get_frame_info(decoder, frame);
	charls_jpegls_decoder_destroy(decoder);
	return err;
}

// hilum_jpegls_decode decodes into exactly capacity bytes.
static charls_jpegls_errc hilum_jpegls_decode(const void *source, size_t size, void *out, size_t capacity) {
	charls_jpegls_decoder *decoder = charls_jpegls_decoder_create();
	if (!decoder)
		return CHARLS_JPEGLS_ERRC_NOT_ENOUGH_MEMORY;
	size_t need = 0;
	charls_jpegls_errc err = charls_jpegls_decoder_set_source_buffer(decoder, source, size);
	if (!err)
		err = charls_jpegls_decoder_read_header(decoder);
	if (!err)
		err = charls_jpegls_decoder_get_destination_size(decoder, 0, &need);
	if (!err && need != capacity)
		err = CHARLS_JPEGLS_ERRC_DESTINATION_BUFFER_TOO_SMALL;
	if (!err)
		err = charls_jpegls_decoder_decode_to_buffer(decoder, out, capacity, 0);
	charls_jpegls_decoder_destroy(decoder);
	return err;
}
*/
import "C"

import (
	"bytes"
	"errors"
	"fmt"
	"unsafe"

	"hilum/models/ct"
)

func decodeJPEGLS(fragment []byte, info ct.PixelInfo) ([]byte, error) {
	// CharLS 2.4 reads for ever where the data end without a marker, so an
	// image without its end (ISO 14495-1 C.1.4) never reaches it.
	if fragment = bytes.TrimRight(fragment, "\x00"); !bytes.HasSuffix(fragment, []byte{0xFF, 0xD9}) {
		return nil, errors.New("the JPEG-LS data end without an end marker: they are cut short")
	}
	source, size := unsafe.Pointer(&fragment[0]), C.size_t(len(fragment))
	var frame C.charls_frame_info
	if code := C.hilum_jpegls_header(source, size, &frame); code != 0 {
		return nil, jpeglsError(code)
	}
	if err := info.CheckSize(uint64(frame.width), uint64(frame.height)); err != nil {
		return nil, err
	}
	if frame.component_count != 1 {
		return nil, fmt.Errorf("the JPEG-LS image has %d components where CT has 1", int(frame.component_count))
	}
	if err := info.CheckPrecision(int(frame.bits_per_sample), false); err != nil {
		return nil, err
	}
	pixels := info.Rows * info.Columns
	out := make([]byte, 2*pixels)
	target := out
	if frame.bits_per_sample <= 8 {
		target = out[pixels:] // one byte for a sample: decode to the end, then spread
	}
	if code := C.hilum_jpegls_decode(source, size, unsafe.Pointer(&target[0]), C.size_t(len(target))); code != 0 {
		return nil, jpeglsError(code)
	}
	if frame.bits_per_sample <= 8 {
		for i, sample := range target {
			out[2*i], out[2*i+1] = sample, 0
		}
	}
	return out, nil
}

func jpeglsError(code C.charls_jpegls_errc) error {
	return fmt.Errorf("JPEG-LS: %s", C.GoString(C.charls_get_error_message(code)))
}
