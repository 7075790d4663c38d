package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
)

// levels are how many images a store holds when it is measured.
var levels = []int{0, 1_000, 10_000, 100_000}

// growth measures one node whose store fills with small objects: at each level it is
// sent series of CT, as fast as they come.
func (b *bench) growth(ctx context.Context) (err error) {
	s := storescu{nodelay: true}
	node, err := b.start(ctx, hilumReceiver{b.hilum}, s.env())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, node.stop()) }()
	held, series := 0, 0
	for _, level := range levels {
		if held, err = b.fill(ctx, node.port, held, level); err != nil {
			return fmt.Errorf("fill the store: %w", err)
		}
		rate, err := b.medianOf(func() (float64, error) {
			folder := filepath.Join(b.work, "grow")
			if err := b.makeSeries(folder, "grow", series, ctPixels); err != nil {
				return 0, err
			}
			series++
			rate, err := b.send(ctx, s, node.port, []string{folder})
			return rate, errors.Join(err, os.RemoveAll(folder))
		})
		if err != nil {
			return err
		}
		b.row(fmt.Sprintf("%d images stored before", level), 1, "Hilum", rate, ctPixels, peakMemory(node.pid))
	}
	return nil
}

// fillBatch bounds the small objects that lie on the disk to be sent.
const fillBatch = 10_000

// fill sends small objects until the node holds so many of them, and returns how many
// it holds.
func (b *bench) fill(ctx context.Context, port, held, level int) (int, error) {
	for held < level {
		folder := filepath.Join(b.work, "fill")
		batch := 0
		for batch < min(fillBatch, level-held) {
			if err := b.makeSeries(folder, "fill", (held+batch)/b.slices, smallPixels); err != nil {
				return held, err
			}
			batch += b.slices
		}
		out, err := hilumSender{b.hilum}.command(ctx, folder, port).CombinedOutput()
		if err != nil {
			err = fmt.Errorf("hilum send: %w: %.300s", err, out)
		}
		if err := errors.Join(err, os.RemoveAll(folder)); err != nil {
			return held, err
		}
		held += batch
	}
	return held, nil
}

// hugeBytes is the pixel data of the huge object.
const hugeBytes = 2 << 30

// huge measures one multi-frame object of 2 GiB.
func (b *bench) huge(ctx context.Context) (err error) {
	folder := filepath.Join(b.work, "huge")
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(folder)) }()
	if err := writeHuge(filepath.Join(folder, "1.dcm")); err != nil {
		return err
	}
	one := *b
	one.slices = 1
	rate, peak, err := one.median(ctx, hilumReceiver{b.hilum}, hilumSender{b.hilum}, []string{folder})
	if err != nil {
		return fmt.Errorf("an object of 2 GiB: %w", err)
	}
	b.row("one object of 2 GiB, hilum send", 1, "Hilum", rate, hugeBytes, peak)
	return nil
}

// writeHuge writes the object as a file with a hole: reading it costs the sender no
// disk.
func writeHuge(name string) error {
	var out bytes.Buffer
	err := dataset.WriteFile(&out, dataset.ExplicitVRLittleEndian, []*dataset.Element{
		dataset.MustElement(dicomtag.SOPClassUID, "1.2.840.10008.5.1.4.1.1.2.1"), // Enhanced CT Image Storage
		dataset.MustElement(dicomtag.SOPInstanceUID, dataset.StableUID("bench", "huge", "image")),
		dataset.MustElement(dicomtag.Modality, "CT"),
		dataset.MustElement(dicomtag.PatientID, "BENCH"),
		dataset.MustElement(dicomtag.StudyInstanceUID, dataset.StableUID("bench", "huge", "study")),
		dataset.MustElement(dicomtag.SeriesInstanceUID, dataset.StableUID("bench", "huge", "series")),
		dataset.MustElement(dicomtag.NumberOfFrames, fmt.Sprint(hugeBytes/ctPixels)),
		dataset.MustElement(dicomtag.Rows, 512),
		dataset.MustElement(dicomtag.Columns, 512),
	})
	if err != nil {
		return err
	}
	out.WriteString("\xE0\x7F\x10\x00OW\x00\x00")
	head := binary.LittleEndian.AppendUint32(out.Bytes(), hugeBytes)
	if err := os.WriteFile(name, head, 0o644); err != nil {
		return err
	}
	return os.Truncate(name, int64(len(head))+hugeBytes)
}
