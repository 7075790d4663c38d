package main

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
)

const ctImageStorage = "1.2.840.10008.5.1.4.1.1.2"

// makeSets writes one folder of images for each sender, each a series of its
// own.
func (b *bench) makeSets(name string, pixelBytes int) ([]string, error) {
	folders := make([]string, maxSenders)
	for i := range folders {
		folders[i] = filepath.Join(b.work, fmt.Sprintf("%s-%d", name, i))
		if err := b.makeSeries(folders[i], name, i, pixelBytes); err != nil {
			return nil, err
		}
	}
	return folders, nil
}

// makeSeries writes the images of one series into a folder, beside what is there.
func (b *bench) makeSeries(folder, set string, series, pixelBytes int) error {
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	for k := range b.slices {
		if err := writeImage(filepath.Join(folder, fmt.Sprintf("%d-%04d.dcm", series, k)), set, series, k, pixelBytes); err != nil {
			return err
		}
	}
	return nil
}

func writeImage(file, set string, series, slice, pixelBytes int) error {
	// Noise, so that no file system or store gains by compressing it.
	random := rand.New(rand.NewPCG(uint64(series), uint64(slice)))
	pixels := make([]byte, pixelBytes)
	for i := 0; i+8 <= len(pixels); i += 8 {
		v := random.Uint64()
		for j := range 8 {
			pixels[i+j] = byte(v >> (8 * j))
		}
	}
	side := 512
	if pixelBytes != ctPixels {
		side = 41
	}
	seriesUID := dataset.StableUID("bench", set, fmt.Sprint(series))
	var out bytes.Buffer
	err := dataset.WriteFile(&out, dataset.ExplicitVRLittleEndian, []*dataset.Element{
		dataset.MustElement(dicomtag.SOPClassUID, ctImageStorage),
		dataset.MustElement(dicomtag.SOPInstanceUID, dataset.StableUID(seriesUID, fmt.Sprint(slice))),
		dataset.MustElement(dicomtag.StudyDate, "20260102"),
		dataset.MustElement(dicomtag.Modality, "CT"),
		dataset.MustElement(dicomtag.PatientName, "BENCH^HILUM"),
		dataset.MustElement(dicomtag.PatientID, fmt.Sprintf("BENCH-%d", series)),
		dataset.MustElement(dicomtag.StudyInstanceUID, dataset.StableUID("study", seriesUID)),
		dataset.MustElement(dicomtag.SeriesInstanceUID, seriesUID),
		dataset.MustElement(dicomtag.InstanceNumber, fmt.Sprint(slice+1)),
		dataset.MustElement(dicomtag.ImagePositionPatient, "0", "0", fmt.Sprint(slice)),
		dataset.MustElement(dicomtag.FrameOfReferenceUID, dataset.StableUID("frame", seriesUID)),
		dataset.MustElement(dicomtag.PixelSpacing, "0.7", "0.7"),
		dataset.MustElement(dicomtag.ImageOrientationPatient, "1", "0", "0", "0", "1", "0"),
		dataset.MustElement(dicomtag.Rows, side),
		dataset.MustElement(dicomtag.Columns, side),
		dataset.MustElement(dicomtag.SamplesPerPixel, 1),
		dataset.MustElement(dicomtag.PhotometricInterpretation, "MONOCHROME2"),
		dataset.MustElement(dicomtag.BitsAllocated, 16),
		dataset.MustElement(dicomtag.BitsStored, 16),
		dataset.MustElement(dicomtag.HighBit, 15),
		dataset.MustElement(dicomtag.PixelRepresentation, 0),
		dataset.MustElement(dicomtag.PixelData, pixels),
	})
	if err != nil {
		return fmt.Errorf("make image %d: %w", slice, err)
	}
	return os.WriteFile(file, out.Bytes(), 0o644)
}

// rawWrites is the limit: the same number of writers, each writing an image's
// bytes to a new file and waiting for fdatasync, with no protocol at all.
func (b *bench) rawWrites(writers int) (rate float64, err error) {
	dir, err := os.MkdirTemp(b.work, "raw-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	syscall.Sync()
	image := make([]byte, ctPixels+1000)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(image) // no zeros, which some disks do not write
	errs := make([]error, writers)
	var group sync.WaitGroup
	begin := time.Now()
	for w := range writers {
		group.Go(func() {
			for k := range b.slices {
				if errs[w] = writeSynced(filepath.Join(dir, fmt.Sprintf("%d-%d", w, k)), image); errs[w] != nil {
					return
				}
			}
		})
	}
	group.Wait()
	elapsed := time.Since(begin)
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return float64(writers*b.slices) / elapsed.Seconds(), nil
}

func writeSynced(name string, data []byte) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	if _, err := f.Write(data); err != nil {
		_ = f.Close()
		return err
	}
	if err := syscall.Fdatasync(int(f.Fd())); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}
