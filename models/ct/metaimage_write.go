package ct

import (
	"bufio"
	"compress/zlib"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// WriteMetaImage writes v as MetaImage of MET_SHORT: name.mha in one file,
// name.mhd with the voxels in name.raw or, compressed, name.zraw beside it.
// Every file appears whole or not at all.
func WriteMetaImage(name string, v *Volume, compress bool) error {
	if err := v.Validate(); err != nil {
		return fmt.Errorf("write MetaImage: %w", err)
	}
	if len(v.HU) != v.Voxels() {
		return errors.New("write MetaImage: the volume has another number of voxels than its size says")
	}
	base, extension := strings.TrimSuffix(name, filepath.Ext(name)), filepath.Ext(name)
	var data string
	switch {
	case extension == ".mha":
		return writeWhole(name, func(w io.Writer) error {
			if _, err := io.WriteString(w, metaHeaderText(v, compress, "LOCAL")); err != nil {
				return err
			}
			return writeVoxels(w, v.HU, compress)
		})
	case extension != ".mhd":
		return errors.New("write MetaImage: the name must end in .mhd or .mha")
	case compress:
		data = base + ".zraw"
	default:
		data = base + ".raw"
	}
	err := writeWhole(data, func(w io.Writer) error { return writeVoxels(w, v.HU, compress) })
	if err != nil {
		return err
	}
	return writeWhole(name, func(w io.Writer) error {
		_, err := io.WriteString(w, metaHeaderText(v, compress, filepath.Base(data)))
		return err
	})
}

func metaHeaderText(v *Volume, compress bool, file string) string {
	numbers := func(values ...float64) string {
		var texts []string
		for _, x := range values {
			texts = append(texts, strconv.FormatFloat(x, 'g', -1, 64))
		}
		return strings.Join(texts, " ")
	}
	truth := map[bool]string{true: "True", false: "False"}
	lines := []string{
		"ObjectType = Image",
		"NDims = 3",
		"BinaryData = True",
		"BinaryDataByteOrderMSB = False",
		"CompressedData = " + truth[compress],
		"TransformMatrix = " + numbers(append(append(v.Axes[0][:], v.Axes[1][:]...), v.Axes[2][:]...)...),
		"Offset = " + numbers(v.Origin[:]...),
		"CenterOfRotation = 0 0 0",
		"ElementSpacing = " + numbers(v.Spacing[:]...),
		fmt.Sprintf("DimSize = %d %d %d", v.Size[0], v.Size[1], v.Size[2]),
		"ElementType = MET_SHORT",
		"ElementDataFile = " + file,
	}
	return strings.Join(lines, "\n") + "\n"
}

func writeVoxels(w io.Writer, hu []int16, compress bool) error {
	if compress {
		z := zlib.NewWriter(w)
		if err := writeVoxels(z, hu, false); err != nil {
			return err
		}
		return z.Close()
	}
	buffer := make([]byte, 0, 2*metaChunk)
	for len(hu) > 0 {
		n := min(metaChunk, len(hu))
		buffer = buffer[:0]
		for _, v := range hu[:n] {
			buffer = binary.LittleEndian.AppendUint16(buffer, uint16(v))
		}
		if _, err := w.Write(buffer); err != nil {
			return err
		}
		hu = hu[n:]
	}
	return nil
}

// writeWhole writes a file under another name and moves it into place.
func writeWhole(name string, write func(io.Writer) error) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("write MetaImage: %w", err)
	}
	w := bufio.NewWriter(f)
	err = write(w)
	if err == nil {
		err = w.Flush()
	}
	if err == nil {
		err = f.Chmod(0o644) // CreateTemp makes it private; these are data files
	}
	if err == nil {
		err = f.Sync() // or a power cut could leave the name without the voxels
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		_ = os.Remove(f.Name()) // the first error says more
		return fmt.Errorf("write MetaImage: %w", err)
	}
	return nil
}
