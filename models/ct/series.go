package ct

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
)

const (
	// MinSlices is the fewest slices that make a volume: two tell a spacing,
	// the third that it is even.
	MinSlices = 3
	// maxFiles bounds the folder of one series. The longest chest CT have
	// some 2,000 slices.
	maxFiles = 20000
)

// Options are what LoadSeries needs beside the folder. The zero value works for
// the transfer syntaxes that need no Decoder.
type Options struct {
	Decoder   Decoder // for JPEG-LS and JPEG 2000; nil: such a series is refused
	Threads   int     // files read and decoded at once; below 1: one for each processor
	MaxVoxels int64   // largest volume built; below 1 or over MaxVoxels: MaxVoxels
}

// LoadSeries builds the volume of the CT series whose Part 10 files lie in
// folder. Errors about the series are *SeriesError; others (a folder that
// cannot be read, ctx ended) may go away.
//
// Slices are sorted along the normal of the images, row × column direction,
// so that the axes are right-handed; the spacing along it comes from the
// positions, never from SliceThickness. An oblique series keeps its own axes.
// A tilted (sheared) one is refused. Each slice is rescaled with its own slope
// and intercept, rounded half to even and clamped to int16. Pixels that are
// padding (PixelPaddingValue to PixelPaddingRangeLimit) become AirHU.
//
// Files that are not DICOM, a DICOMDIR, localizers beside the slices, and second
// copies of a slice with the same pixels are left out and named in Notes.
// Different images at one position are refused.
func LoadSeries(ctx context.Context, folder string, o Options) (*Volume, error) {
	v, stack, err := openSeries(ctx, folder, &o)
	if err != nil {
		return nil, err
	}
	v.HU = make([]int16, v.Voxels())
	l := loader{folder: folder, decoder: o.Decoder, tables: map[rescale]*hounsfieldTable{}}
	area := v.Size[0] * v.Size[1]
	err = forEach(ctx, len(stack.slices), o.Threads, func(k int) error {
		return l.load(v.HU[k*area:(k+1)*area], stack.slices[k])
	})
	if err != nil {
		return nil, err
	}
	err = forEach(ctx, len(stack.duplicates), o.Threads, func(n int) error {
		d := stack.duplicates[n]
		hu := make([]int16, area)
		if err := l.load(hu, d); err != nil {
			return err
		}
		if !slices.Equal(hu, v.HU[d.twin*area:(d.twin+1)*area]) {
			return seriesErrorf(Duplicate, "The series holds %d images too many: different pixels at one position (slice %d of %d), as in a series of several phases or reconstructions.", len(stack.duplicates), d.twin+1, len(stack.slices))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return v, nil
}

// ReadSeriesHeader builds the same volume as LoadSeries from the headers alone:
// its HU are nil. Pixels that cannot be decoded are no error of it, nor are
// second copies of a slice with other pixels.
func ReadSeriesHeader(ctx context.Context, folder string, o Options) (*Volume, error) {
	v, _, err := openSeries(ctx, folder, &o)
	return v, err
}

// openSeries reads the headers of a series and puts its slices in order. It
// sets the defaults of o.
func openSeries(ctx context.Context, folder string, o *Options) (*Volume, *stack, error) {
	o.Threads = threadCount(o.Threads)
	if o.MaxVoxels < 1 || o.MaxVoxels > MaxVoxels {
		o.MaxVoxels = MaxVoxels
	}
	names, err := seriesFiles(folder)
	if err != nil {
		return nil, nil, err
	}
	found, notes, err := readHeaders(ctx, folder, names, o.Threads)
	if err != nil {
		return nil, nil, err
	}
	stack, err := newStack(found, o.MaxVoxels)
	if err != nil {
		return nil, nil, err
	}
	v := &Volume{
		Geometry:            stack.geometry,
		SeriesInstanceUID:   stack.slices[0].seriesUID,
		FrameOfReferenceUID: stack.frameOfReference,
		SOPClassUID:         ctImageStorage,
		Notes:               append(notes, stack.notes...),
	}
	for _, s := range stack.slices {
		v.SOPInstanceUIDs = append(v.SOPInstanceUIDs, s.sopInstanceUID)
	}
	return v, stack, nil
}

// seriesFiles returns the regular files of folder in name order.
func seriesFiles(folder string) ([]string, error) {
	d, err := os.Open(folder)
	if err != nil {
		return nil, fmt.Errorf("open the folder of the series: %w", err)
	}
	defer func() { _ = d.Close() }() // only read
	entries, err := d.ReadDir(maxFiles + 1)
	if err != nil && len(entries) > 0 {
		return nil, fmt.Errorf("list the folder of the series: %w", err)
	}
	if len(entries) > maxFiles {
		return nil, seriesErrorf(TooLarge, "The folder of the series holds more than %d files.", maxFiles)
	}
	var names []string
	for _, e := range entries {
		// A link is followed when it leads to a file.
		if e.Type()&^fs.ModeSymlink != 0 || strings.HasPrefix(e.Name(), ".") {
			continue
		}
		if info, err := os.Stat(filepath.Join(folder, e.Name())); err != nil || !info.Mode().IsRegular() {
			continue
		}
		names = append(names, e.Name())
	}
	slices.Sort(names)
	return names, nil
}

// readHeaders reads the header of each file. A nil slice stands for a file that
// is not an image; notes say how many.
func readHeaders(ctx context.Context, folder string, names []string, threads int) ([]*slice, []string, error) {
	all := make([]*slice, len(names))
	err := forEach(ctx, len(names), threads, func(n int) error {
		f, err := dataset.ReadHeader(filepath.Join(folder, names[n]), seriesTags)
		if errors.Is(err, dataset.ErrNotDICOM) {
			return nil
		}
		if err != nil {
			return readError(err, fmt.Sprintf("The header of file %d of %d of the series (in name order)", n+1, len(names)))
		}
		if f.Header.String(dicomtag.SOPClassUID) == "" && f.Meta.String(dicomtag.MediaStorageSOPClassUID) == mediaStorageDirectory {
			return nil
		}
		all[n], err = newSlice(names[n], f)
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	found := slices.DeleteFunc(all, func(s *slice) bool { return s == nil })
	if len(found) == 0 {
		return nil, nil, seriesErrorf(NoImages, "The folder of the series holds no DICOM image.")
	}
	var notes []string
	if n := len(names) - len(found); n > 0 {
		notes = append(notes, fmt.Sprintf("%d files of the folder are not DICOM images and were left out", n))
	}
	return found, notes, nil
}

// readError tells a damaged file from one that could not be read this time.
func readError(err error, what string) error {
	var damaged *dataset.Error
	if errors.As(err, &damaged) {
		return seriesErrorf(Damaged, "%s is damaged: %v.", what, damaged)
	}
	return fmt.Errorf("read an image of the series: %w", err)
}

// loader reads the pixels of slices; several goroutines may use it.
type loader struct {
	folder  string
	decoder Decoder

	mu     sync.Mutex // guards tables
	tables map[rescale]*hounsfieldTable
}

// load reads, decodes and rescales one slice.
func (l *loader) load(hu []int16, s *slice) error {
	f, err := dataset.ReadFile(filepath.Join(l.folder, s.file), seriesTags)
	if err != nil {
		return readError(err, fmt.Sprintf("The image %s", s))
	}
	// The file is read for the second time: only as the same image.
	again, err := newSlice(s.file, f)
	if err != nil || again.info != s.info || again.rescale != s.rescale || again.sopInstanceUID != s.sopInstanceUID {
		return errors.New("a file of the series changed while it was read")
	}
	cells := f.PixelData.Native
	key := s.rescale
	if len(f.PixelData.Fragments) > 0 {
		cells, err = decompress(f.TransferSyntaxUID, joined(f.PixelData.Fragments), s.info, l.decoder)
		if errors.Is(err, errNoDecoder) {
			return seriesErrorf(Pixel, "The pixels of the image %s are compressed in a way that is not read (transfer syntax %s).", s, cleanUID(f.TransferSyntaxUID))
		}
		if err != nil {
			return seriesErrorf(Pixel, "The pixels of the image %s cannot be decoded: %v.", s, err)
		}
		if f.TransferSyntaxUID != rleLossless {
			key.highBit = key.bitsStored - 1 // decoders align to the right
		}
	}
	if len(cells) == 0 {
		return seriesErrorf(Pixel, "The image %s has no pixels.", s)
	}
	if err := l.table(key).apply(hu, cells); err != nil {
		return seriesErrorf(Pixel, "The image %s is damaged: %v.", s, err)
	}
	return nil
}

// maxTables bounds the tables kept; a series where every slice has its own
// rescale values makes one for each slice.
const maxTables = 16

func (l *loader) table(r rescale) *hounsfieldTable {
	l.mu.Lock()
	t := l.tables[r]
	l.mu.Unlock()
	if t != nil {
		return t
	}
	t = r.table() // twice at worst, when two slices come first
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.tables) >= maxTables {
		clear(l.tables)
	}
	l.tables[r] = t
	return t
}

// joined returns the fragments of the only frame as one.
func joined(fragments [][]byte) []byte {
	if len(fragments) == 1 {
		return fragments[0]
	}
	return slices.Concat(fragments...)
}

// forEach calls work(0) to work(n-1), threads at a time, until one fails or
// ctx ends, and returns the error of the lowest index among those that ran, so
// that a damaged series names the same image each time or nearly so.
func forEach(ctx context.Context, n, threads int, work func(int) error) error {
	var (
		wg     sync.WaitGroup
		mu     sync.Mutex // guards next, failed, first
		next   int
		failed = n
		first  error
	)
	for range min(threads, n) {
		wg.Go(func() {
			for {
				mu.Lock()
				i := next
				next++
				stop := first != nil
				mu.Unlock()
				if i >= n || stop || ctx.Err() != nil {
					return
				}
				if err := work(i); err != nil {
					mu.Lock()
					if i < failed {
						failed, first = i, err
					}
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	if err := ctx.Err(); err != nil {
		return err
	}
	return first
}
