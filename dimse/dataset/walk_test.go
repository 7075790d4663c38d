package dataset_test

import (
	"bytes"
	"errors"
	"reflect"
	"testing"

	"hilum/dimse/dataset"

	"github.com/grailbio/go-dicom/dicomtag"
)

var treeLimits = dataset.TreeLimits{Nodes: 10_000, Bytes: 1 << 20}

// TestReadTree: nested elements are found in every transfer syntax, empty
// sequences and items included.
func TestReadTree(t *testing.T) {
	elements := []*dataset.Element{
		dataset.MustElement(dicomtag.SpecificCharacterSet, "ISO_IR 192"),
		dataset.MustElement(dicomtag.StudyDescription, "Thorax für alle"),
		dataset.MustElement(dicomtag.ReferencedSOPClassUID, "1.2.3"),
		dataset.Sequence(dicomtag.ProcedureCodeSequence),
		dataset.Sequence(dicomtag.PerformedSeriesSequence,
			[]*dataset.Element{dataset.MustElement(dicomtag.SeriesInstanceUID, "1.2.4"), dataset.Sequence(dicomtag.ReferencedImageSequence,
				[]*dataset.Element{dataset.MustElement(dicomtag.ReferencedSOPInstanceUID, "1.2.4.1")},
				[]*dataset.Element{dataset.MustElement(dicomtag.ReferencedSOPInstanceUID, "1.2.4.2")})},
			nil,
			[]*dataset.Element{dataset.MustElement(dicomtag.SeriesInstanceUID, "1.2.5")}),
		dataset.MustElement(dicomtag.Rows, 512),
	}
	for _, ts := range []string{dataset.ImplicitVRLittleEndian, dataset.ExplicitVRLittleEndian, dataset.ExplicitVRBigEndian, dataset.DeflatedExplicitVRLittleEndian} {
		var b bytes.Buffer
		if err := dataset.WriteDataSet(&b, ts, elements); err != nil {
			t.Fatal(err)
		}
		tree, err := dataset.ReadTree(&b, ts, treeLimits)
		if err != nil {
			t.Fatalf("%s: ReadTree = %v", ts, err)
		}
		series := tree.Items(dicomtag.PerformedSeriesSequence)
		if len(series) != 3 || len(series[1]) != 0 || series[2].Text(dicomtag.SeriesInstanceUID) != "1.2.5" {
			t.Fatalf("%s: items are %v, want three, the second empty", ts, series)
		}
		images := series[0].Items(dicomtag.ReferencedImageSequence)
		if len(images) != 2 || images[1].Text(dicomtag.ReferencedSOPInstanceUID) != "1.2.4.2" {
			t.Errorf("%s: nested items are %v, want two", ts, images)
		}
		if got := tree.Text(dicomtag.StudyDescription); got != "Thorax für alle" {
			t.Errorf("%s: Text(StudyDescription) = %q", ts, got)
		}
		if !tree.Has(dicomtag.ProcedureCodeSequence) || tree.Has(dicomtag.PatientID) || tree.Text(dicomtag.PatientID) != "" {
			t.Errorf("%s: Has and Text of what is empty or missing", ts)
		}
		// Written and read again it is the same.
		var again bytes.Buffer
		if err := dataset.WriteDataSet(&again, dataset.ExplicitVRLittleEndian, tree.Elements()); err != nil {
			t.Fatal(err)
		}
		if got, err := dataset.ReadTree(&again, dataset.ExplicitVRLittleEndian, treeLimits); err != nil || !reflect.DeepEqual(got, tree) {
			t.Errorf("%s: written and read again it is %v, %v, want %v", ts, got, err, tree)
		}
	}
}

func TestTreeMerge(t *testing.T) {
	read := func(elements ...*dataset.Element) dataset.Tree {
		var b bytes.Buffer
		if err := dataset.WriteDataSet(&b, dataset.ExplicitVRLittleEndian, elements); err != nil {
			t.Fatal(err)
		}
		tree, err := dataset.ReadTree(&b, dataset.ExplicitVRLittleEndian, treeLimits)
		if err != nil {
			t.Fatal(err)
		}
		return tree
	}
	old := read(dataset.MustElement(dicomtag.Modality, "CT"), dataset.MustElement(dicomtag.StudyID, "1"))
	merged := old.Merge(read(dataset.MustElement(dicomtag.StudyID, "2"), dataset.MustElement(dicomtag.Rows, 3)))
	if merged.Text(dicomtag.Modality) != "CT" || merged.Text(dicomtag.StudyID) != "2" || !merged.Has(dicomtag.Rows) || len(merged) != 3 || old.Text(dicomtag.StudyID) != "1" {
		t.Errorf("Merge() = %v", merged)
	}
}

// TestReadTreeLimits: what is too large is refused, however it is built, and
// costs no more than what was taken of it.
func TestReadTreeLimits(t *testing.T) {
	items := &builder{}
	items.long(0x0008, 0x1140, "SQ", undefined, "")
	for range 100_000 {
		items.item(0)
	}
	values := &builder{}
	for i := range 100 {
		values.long(0x0009, 0x1000+uint16(i), "UT", 60_000, string(make([]byte, 60_000)))
	}
	siblings := &builder{}
	for i := range 5000 {
		siblings.short(0x0009, 0xFFFF-uint16(i), "SH", "")
	}
	for name, b := range map[string]*builder{"items": items, "values": values, "siblings": siblings} {
		size := b.Len()
		var err error
		got := allocated(func() { _, err = dataset.ReadTree(b, dataset.ExplicitVRLittleEndian, treeLimits) })
		if damaged := (*dataset.Error)(nil); !errors.As(err, &damaged) {
			t.Errorf("%s: ReadTree = %v, want an *Error", name, err)
		}
		if got > 8<<20 {
			t.Errorf("%s: ReadTree of %d bytes allocates %d", name, size, got)
		}
	}
}

// FuzzReadTree holds that a tree is read or an *Error returned, never both, that
// what was read can be written and read again, and that memory is bounded by the
// bytes given.
func FuzzReadTree(f *testing.F) {
	fuzzSeeds(f, func(_ string, syntax byte, data []byte) { f.Add(syntax, data) })
	b := &builder{}
	nest(b, 64)
	f.Add(byte(0), b.Bytes())
	f.Fuzz(func(t *testing.T, syntax byte, data []byte) {
		ts := fuzzSyntaxes[int(syntax)%len(fuzzSyntaxes)]
		var tree dataset.Tree
		var err error
		got := allocated(func() { tree, err = dataset.ReadTree(bytes.NewReader(data), ts, treeLimits) })
		if limit := scanAllocations(len(data)) + 32*uint64(len(data)); ts != dataset.DeflatedExplicitVRLittleEndian && got > limit {
			t.Errorf("ReadTree of %d bytes allocates %d", len(data), got)
		}
		if err != nil {
			if damaged := (*dataset.Error)(nil); !errors.As(err, &damaged) || tree != nil {
				t.Errorf("ReadTree = %v, %v, want an *Error alone", tree, err)
			}
			return
		}
		// With its VRs, as it is kept: without them a value under the tag of a sequence is none.
		var out bytes.Buffer
		if err := dataset.WriteDataSet(&out, dataset.ExplicitVRLittleEndian, tree.Elements()); err != nil {
			return // elements that do not belong in a data set are read and not written
		}
		if again, err := dataset.ReadTree(&out, dataset.ExplicitVRLittleEndian, treeLimits); err != nil || len(again) != len(tree) {
			t.Errorf("written and read again: %d elements, %v, want %d", len(again), err, len(tree))
		}
	})
}
