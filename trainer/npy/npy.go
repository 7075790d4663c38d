// Package npy reads and writes NumPy's .npy files (format versions 1.0 and 2.0,
// numpy.lib.format), the one form in which data pass from Go to the trainer.
//
// It is strict: arrays in Fortran order, of records, objects or text are
// refused, as is a header that NumPy itself would not write, a file that is
// shorter or longer than its shape says, and an array of another type than the
// one asked for. A file is not trusted: memory grows with the bytes that are
// there, under a limit.
package npy

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Value is a type of the elements of an array.
type Value interface {
	uint8 | int8 | uint16 | int16 | uint32 | int32 | uint64 | int64 | float32 | float64
}

// Array is an array in C order: the last index runs fastest.
type Array[T Value] struct {
	Shape []int
	Data  []T
}

// Limits of what is read.
const (
	// DefaultMaxBytes bounds the data of an array: a prepared scan has some
	// 30 MB, a whole CT as float64 2 GB.
	DefaultMaxBytes = 4 << 30
	maxHeader       = 64 << 10 // a header of 32 dimensions has 700 bytes
	maxDimensions   = 32       // NumPy's own, up to 1.26
	chunkBytes      = 256 << 10
	alignment       = 64 // of the data in the file
)

const magic = "\x93NUMPY"

// kindOf returns NumPy's letter and the size of a type.
func kindOf[T Value]() (kind byte, size int) {
	var v T
	switch any(v).(type) {
	case uint8:
		return 'u', 1
	case int8:
		return 'i', 1
	case uint16:
		return 'u', 2
	case int16:
		return 'i', 2
	case uint32:
		return 'u', 4
	case int32:
		return 'i', 4
	case uint64:
		return 'u', 8
	case int64:
		return 'i', 8
	case float32:
		return 'f', 4
	default:
		return 'f', 8
	}
}

// descr returns the type as a header has it.
func descr[T Value]() string {
	kind, size := kindOf[T]()
	order := "<"
	if size == 1 {
		order = "|"
	}
	return order + string(kind) + strconv.Itoa(size)
}

// elements returns the product of a shape.
func elements(shape []int) (int, error) {
	if len(shape) > maxDimensions {
		return 0, fmt.Errorf("it has %d dimensions, more than %d", len(shape), maxDimensions)
	}
	n, empty := 1, false
	for _, d := range shape {
		switch {
		case d < 0:
			return 0, errors.New("its shape has a negative number")
		case d == 0:
			empty = true
		case n > math.MaxInt/8/d:
			return 0, errors.New("its shape is larger than any memory")
		default:
			n *= d
		}
	}
	if empty {
		return 0, nil
	}
	return n, nil
}

// Write writes an array in the format that NumPy itself would choose.
func Write[T Value](w io.Writer, a Array[T]) error {
	n, err := elements(a.Shape)
	if err != nil {
		return fmt.Errorf("write npy: %w", err)
	}
	if n != len(a.Data) {
		return fmt.Errorf("write npy: %d values where the shape %v has %d", len(a.Data), a.Shape, n)
	}
	if _, err := w.Write(header(descr[T](), a.Shape)); err != nil {
		return fmt.Errorf("write npy: %w", err)
	}
	if bytes, ok := any(a.Data).([]uint8); ok {
		_, err = w.Write(bytes)
	} else {
		err = writeValues(w, a.Data)
	}
	if err != nil {
		return fmt.Errorf("write npy: %w", err)
	}
	return nil
}

// header returns everything before the data.
func header(descr string, shape []int) []byte {
	dims := make([]string, len(shape))
	for i, d := range shape {
		dims[i] = strconv.Itoa(d)
	}
	tuple := strings.Join(dims, ", ")
	if len(dims) == 1 {
		tuple += ","
	}
	text := fmt.Sprintf("{'descr': '%s', 'fortran_order': False, 'shape': (%s), }", descr, tuple)
	const before = len(magic) + 2 + 2 // version, length
	total := (before + len(text) + 1 + alignment - 1) / alignment * alignment
	b := append(make([]byte, 0, total), magic+"\x01\x00"...)
	b = binary.LittleEndian.AppendUint16(b, uint16(total-before)) // a shape of 32 dimensions is far below 64 KiB
	b = append(b, text...)
	for len(b) < total-1 {
		b = append(b, ' ')
	}
	return append(b, '\n')
}

func writeValues[T Value](w io.Writer, data []T) error {
	_, size := kindOf[T]()
	buffer := make([]byte, 0, chunkBytes)
	for len(data) > 0 {
		n := min(len(data), chunkBytes/size)
		var err error
		if buffer, err = binary.Append(buffer[:0], binary.LittleEndian, data[:n]); err != nil {
			return err
		}
		if _, err := w.Write(buffer); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// WriteFile writes an array to a file, which appears whole or not at all and
// stays after a power cut.
func WriteFile[T Value](name string, a Array[T]) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("write npy: %w", err)
	}
	w := bufio.NewWriterSize(f, chunkBytes)
	err = Write(w, a)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Chmod(0o644) // CreateTemp makes it private; these are data files
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error says more
		return fmt.Errorf("write %s: %w", filepath.Base(name), err)
	}
	return nil
}

// Read reads one array of type T to the end of r, whose data may have at most
// maxBytes (below 1: DefaultMaxBytes).
func Read[T Value](r io.Reader, maxBytes int64) (Array[T], error) {
	a, err := read[T](r, maxBytes)
	if err != nil {
		return Array[T]{}, fmt.Errorf("read npy: %w", err)
	}
	return a, nil
}

// ReadFile reads the array of type T in a file.
func ReadFile[T Value](name string) (Array[T], error) {
	f, err := os.Open(name)
	if err != nil {
		return Array[T]{}, err
	}
	defer func() { _ = f.Close() }() // only read
	a, err := read[T](bufio.NewReaderSize(f, chunkBytes), DefaultMaxBytes)
	if err != nil {
		return Array[T]{}, fmt.Errorf("read %s: %w", filepath.Base(name), err)
	}
	return a, nil
}

func read[T Value](r io.Reader, maxBytes int64) (a Array[T], err error) {
	if maxBytes < 1 {
		maxBytes = DefaultMaxBytes
	}
	h, err := readHeader(r)
	if err != nil {
		return a, err
	}
	kind, size := kindOf[T]()
	if h.kind != kind || h.size != size {
		return a, fmt.Errorf("it holds values of type %c%d where %c%d are wanted", h.kind, h.size, kind, size)
	}
	n, err := elements(h.shape)
	if err != nil {
		return a, err
	}
	if int64(n) > maxBytes/int64(size) {
		return a, fmt.Errorf("its data have more than %d bytes", maxBytes)
	}
	var order binary.ByteOrder = binary.LittleEndian
	if h.bigEndian {
		order = binary.BigEndian
	}
	// The slice grows with what was read: the shape is only a claim.
	a.Shape = h.shape
	a.Data = make([]T, 0, min(n, chunkBytes/size))
	buffer := make([]byte, min(n*size, chunkBytes/size*size))
	for len(a.Data) < n {
		part := buffer[:min(len(buffer), (n-len(a.Data))*size)]
		if _, err := io.ReadFull(r, part); err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				return Array[T]{}, errors.New("it ends before its data do")
			}
			return Array[T]{}, err
		}
		from := len(a.Data)
		count := len(part) / size
		if cap(a.Data) < from+count {
			grown := make([]T, from, min(n, max(2*cap(a.Data), from+count)))
			copy(grown, a.Data)
			a.Data = grown
		}
		a.Data = a.Data[:from+count]
		if bytes, ok := any(a.Data[from:]).([]uint8); ok {
			copy(bytes, part)
		} else if _, err := binary.Decode(part, order, a.Data[from:]); err != nil {
			return Array[T]{}, err
		}
	}
	switch _, err := io.ReadFull(r, make([]byte, 1)); {
	case err == nil:
		return Array[T]{}, errors.New("it goes on after its data")
	case !errors.Is(err, io.EOF):
		return Array[T]{}, err
	}
	return a, nil
}
