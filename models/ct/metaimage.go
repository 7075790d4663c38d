package ct

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Limits of a MetaImage header; real ones have some 400 bytes.
const (
	maxMetaHeader = 64 << 10
	maxMetaLine   = 4 << 10
)

// metaHeader is what the header of a MetaImage says.
type metaHeader struct {
	geometry   Geometry // axes as found, perhaps left-handed
	element    metaElement
	bigEndian  bool
	compressed bool
	skip       int64  // bytes before the voxels; -1: the voxels are the last bytes
	file       string // of the voxels, in the same folder; "": behind the header
}

// ReadMetaImage reads the volume in a MetaImage: an .mhd header beside its .raw
// or .zraw file, or both in one .mha, as LUNA16 and ITK write them. Values are
// taken as Hounsfield units (or labels) and must be whole numbers or are rounded
// half to even; beyond int16 they are clamped.
//
// TransformMatrix is honoured with its flips. An image whose axes are
// left-handed comes back with its slices in reverse order, so that the axes of
// every Volume are a rotation; a voxel keeps its place in the patient.
func ReadMetaImage(name string) (*Volume, error) {
	v, err := readMetaImage(name)
	if err != nil {
		return nil, fmt.Errorf("read MetaImage %s: %w", filepath.Base(name), err)
	}
	return v, nil
}

func readMetaImage(name string) (*Volume, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	in := bufio.NewReader(f)
	h, read, err := readMetaHeader(in)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	size := info.Size() - read
	if h.file != "" {
		voxels, err := os.Open(filepath.Join(filepath.Dir(name), h.file))
		if err != nil {
			return nil, err
		}
		defer func() { _ = voxels.Close() }() // only read
		if info, err = voxels.Stat(); err != nil {
			return nil, err
		}
		if !info.Mode().IsRegular() {
			return nil, errors.New("its ElementDataFile is not a file")
		}
		size = info.Size()
		in = bufio.NewReader(voxels)
	}
	v := &Volume{Geometry: h.geometry}
	if v.HU, err = h.readVoxels(in, size); err != nil {
		return nil, err
	}
	v.turnRightHanded()
	if err := v.Validate(); err != nil {
		return nil, err
	}
	return v, nil
}

// readMetaHeader reads the lines "Key = value" up to ElementDataFile, which is
// the last, and returns how many bytes they have.
func readMetaHeader(in *bufio.Reader) (h metaHeader, read int64, err error) {
	values := map[string]string{}
	for {
		line, err := readLine(in)
		read += int64(len(line))
		if err != nil {
			return h, read, err
		}
		if read > maxMetaHeader {
			return h, read, errors.New("its header is longer than any MetaImage header")
		}
		key, value, ok := strings.Cut(string(line), "=")
		if !ok {
			if len(bytes.TrimSpace(line)) == 0 {
				continue
			}
			return h, read, errors.New("it is no MetaImage: a line of its header has no equals sign")
		}
		key = strings.TrimSpace(key)
		values[key] = strings.TrimSpace(value)
		if key == "ElementDataFile" {
			break
		}
	}
	return h, read, h.parse(values)
}

// readLine reads one line of at most maxMetaLine bytes.
func readLine(in *bufio.Reader) ([]byte, error) {
	var line []byte
	for {
		b, err := in.ReadByte()
		if errors.Is(err, io.EOF) {
			return line, errors.New("its header ends before ElementDataFile")
		}
		if err != nil {
			return line, err
		}
		if line = append(line, b); b == '\n' {
			return line, nil
		}
		if len(line) > maxMetaLine {
			return line, errors.New("it is no MetaImage: a line of its header is too long")
		}
	}
}

// parse fills h from the header's values. Keys have several names in the files
// of different programs.
func (h *metaHeader) parse(values map[string]string) error {
	first := func(keys ...string) string {
		for _, key := range keys {
			if v, ok := values[key]; ok {
				return v
			}
		}
		return ""
	}
	if n := first("NDims"); n != "3" {
		return fmt.Errorf("it has NDims %q, where a volume has 3", n)
	}
	if n := first("ElementNumberOfChannels"); n != "" && n != "1" {
		return errors.New("its voxels have several channels")
	}
	var err error
	if h.element, err = metaElementOf(first("ElementType")); err != nil {
		return err
	}
	size, err := metaNumbers(first("DimSize"), 3)
	if err != nil {
		return fmt.Errorf("its DimSize: %w", err)
	}
	matrix := []float64{1, 0, 0, 0, 1, 0, 0, 0, 1}
	origin, spacing := make([]float64, 3), []float64{1, 1, 1}
	for _, field := range []struct {
		text string
		name string
		to   *[]float64
	}{
		{first("TransformMatrix", "Rotation", "Orientation"), "TransformMatrix", &matrix},
		{first("Offset", "Position", "Origin"), "Offset", &origin},
		{first("ElementSpacing", "ElementSize"), "ElementSpacing", &spacing},
	} {
		if field.text == "" {
			continue
		}
		if *field.to, err = metaNumbers(field.text, len(*field.to)); err != nil {
			return fmt.Errorf("its %s: %w", field.name, err)
		}
	}
	for a := range 3 {
		if size[a] != float64(int(size[a])) {
			return errors.New("its DimSize is not whole")
		}
		h.geometry.Size[a] = int(size[a])
	}
	h.geometry.Spacing, h.geometry.Origin = [3]float64(spacing), [3]float64(origin)
	if err := h.setAxes([3]float64(matrix[:3]), [3]float64(matrix[3:6]), [3]float64(matrix[6:])); err != nil {
		return err
	}
	if h.skip, err = strconv.ParseInt(firstOf(first("HeaderSize"), "0"), 10, 64); err != nil || h.skip < -1 {
		return errors.New("its HeaderSize is impossible")
	}
	if h.bigEndian, err = metaBool(first("BinaryDataByteOrderMSB", "ElementByteOrderMSB")); err != nil {
		return err
	}
	if h.compressed, err = metaBool(first("CompressedData")); err != nil {
		return err
	}
	if binary, err := metaBool(firstOf(first("BinaryData"), "True")); err != nil || !binary {
		return errors.New("its voxels are written as text, which is not read")
	}
	return h.setFile(values["ElementDataFile"])
}

// setAxes takes the rows of TransformMatrix: row a is the direction of index
// axis a.
func (h *metaHeader) setAxes(x, y, z [3]float64) error {
	if !orthonormal(x, y) {
		return errors.New("its TransformMatrix is not a rotation")
	}
	h.geometry.Axes = rotation(x, y)
	if distance(h.geometry.Axes[2], z) > orthonormalTolerance {
		for n := range h.geometry.Axes[2] {
			h.geometry.Axes[2][n] *= -1
		}
		if distance(h.geometry.Axes[2], z) > orthonormalTolerance {
			return errors.New("its TransformMatrix is not a rotation")
		}
	}
	// Validate wants a rotation: the handedness is put right after reading.
	right := h.geometry
	right.Axes = rotation(x, y)
	return right.Validate()
}

// setFile takes ElementDataFile. A path that leaves the folder of the header is
// refused: a header may come from anywhere.
func (h *metaHeader) setFile(file string) error {
	switch {
	case file == "LOCAL" || file == "local" || file == "Local":
		return nil
	case file == "LIST" || strings.Contains(file, "%"):
		return errors.New("its voxels are spread over several files, which is not read")
	case file == "" || file == "." || file == ".." || strings.ContainsAny(file, "/\\\x00"):
		return errors.New("its ElementDataFile is not the name of a file beside it")
	}
	h.file = file
	return nil
}

func firstOf(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func metaBool(text string) (bool, error) {
	switch strings.ToLower(text) {
	case "true", "1":
		return true, nil
	case "false", "0", "":
		return false, nil
	}
	return false, errors.New("a value of its header is neither True nor False")
}

func metaNumbers(text string, n int) ([]float64, error) {
	fields := strings.Fields(text)
	if len(fields) != n {
		return nil, fmt.Errorf("%d values where there must be %d", len(fields), n)
	}
	out := make([]float64, n)
	for i, field := range fields {
		var err error
		if out[i], err = strconv.ParseFloat(field, 64); err != nil || !(out[i] >= -1e12 && out[i] <= 1e12) {
			return nil, fmt.Errorf("value %d is not a number", i+1)
		}
	}
	return out, nil
}

// turnRightHanded reverses the slices of a volume with left-handed axes.
func (v *Volume) turnRightHanded() {
	if dot(cross(v.Axes[0], v.Axes[1]), v.Axes[2]) > 0 {
		return
	}
	n, area := v.Size[2], v.Size[0]*v.Size[1]
	v.Origin = v.World(0, 0, float64(n-1))
	for a := range v.Axes[2] {
		v.Axes[2][a] *= -1
	}
	held := make([]int16, area)
	for k := range n / 2 {
		low, high := v.HU[k*area:(k+1)*area], v.HU[(n-1-k)*area:(n-k)*area]
		copy(held, low)
		copy(low, high)
		copy(high, held)
	}
}
