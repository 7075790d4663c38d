package codec

/*
#cgo pkg-config: libopenjp2
#include "hilum_j2k.h"
*/
import "C"

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"hilum/models/ct"
)

// messageSize bounds what OpenJPEG says of an error.
const messageSize = 200

func decodeJPEG2000(fragment []byte, info ct.PixelInfo) ([]byte, error) {
	codestream, err := findCodestream(fragment)
	if err != nil {
		return nil, err
	}
	if err := checkCodestream(codestream, info); err != nil {
		return nil, err
	}
	samples := make([]uint16, info.Rows*info.Columns)
	var message [messageSize]byte
	ok := C.hilum_j2k_decode(
		(*C.uint8_t)(unsafe.Pointer(&codestream[0])), C.size_t(len(codestream)),
		C.uint32_t(info.Columns), C.uint32_t(info.Rows),
		(*C.uint16_t)(unsafe.Pointer(&samples[0])),
		(*C.char)(unsafe.Pointer(&message[0])), messageSize)
	if ok == 0 {
		text, _, _ := strings.Cut(string(message[:]), "\x00")
		if text = strings.TrimSpace(strings.ToValidUTF8(text, "?")); text == "" {
			return nil, errors.New("JPEG 2000: the codestream is damaged")
		}
		return nil, fmt.Errorf("JPEG 2000: %s", text)
	}
	// Every platform with these libraries and ONNX Runtime is little-endian.
	return unsafe.Slice((*byte)(unsafe.Pointer(&samples[0])), 2*len(samples)), nil
}
