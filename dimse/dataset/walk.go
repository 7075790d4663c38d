package dataset

import (
	"fmt"
	"io"
	"strings"

	"github.com/grailbio/go-dicom/dicomtag"
)

// Visitor is told what Walk meets, in the order of the data set. An error that one
// of its methods returns ends the walk and is returned by Walk.
type Visitor interface {
	// Wants says whether Value should be called for an element of this tag, at the
	// place where the walk is.
	Wants(t Tag) bool
	// Value is an element that was wanted: the bytes as found, with their padding,
	// numbers little endian. Values longer than Limits.MaxElementBytes and pixel
	// data are left out. b is the visitor's to keep.
	Value(t Tag, vr string, b []byte) error
	// Open begins a sequence, Item each of its items, and Close ends it.
	Open(sequence Tag) error
	Item() error
	Close() error
}

// Walk is Scan for data sets whose sequences matter: v is told of every element at
// every depth that it wants, and of every sequence. Errors are those of Scan.
func Walk(r io.Reader, transferSyntaxUID string, lim Limits, v Visitor) error {
	s := scanner{lim: lim.withDefaults(), header: newHeader(nil), visitor: v}
	return s.run(r, transferSyntaxUID)
}

// Node is one element that ReadTree found. A sequence has VR SQ and Items, each in
// the order of the data set; every other element has a Value as Visitor gets it.
type Node struct {
	Tag   Tag
	VR    string
	Value []byte
	Items []Tree
}

// Tree is a data set, or an item of one, with everything in it that is not too
// long to keep. It holds patient data: it must not be logged.
type Tree []Node

// TreeLimits bound what a Tree may cost beside what Limits bound.
type TreeLimits struct {
	Nodes int // elements and items at all depths
	Bytes int // of all values
}

// ReadTree reads a whole data set into a Tree. Of an element that comes twice the
// first counts. A data set beyond the limits is refused with an *Error.
func ReadTree(r io.Reader, transferSyntaxUID string, lim TreeLimits) (Tree, error) {
	b := &treeBuilder{left: lim, open: []*Tree{new(Tree)}}
	if err := Walk(r, transferSyntaxUID, DefaultLimits, b); err != nil {
		return nil, err
	}
	return *b.open[0], nil
}

// maxSiblings bounds the elements of one item, which are searched one by one. Those
// of real ones are some dozen.
const maxSiblings = 1024

// treeBuilder makes a Tree of what Walk meets.
type treeBuilder struct {
	left TreeLimits
	open []*Tree // the items that are open, the data set first; nil: a sequence that is dropped
	seqs []*Node // the sequences that are open; nil: dropped
}

var errTreeTooLarge = &Error{Problem: "it has more elements or bytes than are taken of such a data set"}

func (b *treeBuilder) Wants(Tag) bool { return b.open[len(b.open)-1] != nil }

func (b *treeBuilder) Value(t Tag, vr string, value []byte) error {
	_, err := b.add(Node{Tag: t, VR: vr, Value: value})
	return err
}

func (b *treeBuilder) add(n Node) (*Node, error) {
	into := b.open[len(b.open)-1]
	if into == nil || into.find(n.Tag) != nil || n.Tag.Element == 0 {
		return nil, nil
	}
	b.left.Nodes--
	b.left.Bytes -= len(n.Value)
	if b.left.Nodes < 0 || b.left.Bytes < 0 || len(*into) >= maxSiblings {
		return nil, errTreeTooLarge
	}
	*into = append(*into, n)
	return &(*into)[len(*into)-1], nil
}

func (b *treeBuilder) Open(t Tag) error {
	n, err := b.add(Node{Tag: t, VR: "SQ"})
	b.seqs = append(b.seqs, n)
	b.open = append(b.open, nil) // until an item begins
	return err
}

func (b *treeBuilder) Item() error {
	if b.left.Nodes--; b.left.Nodes < 0 {
		return errTreeTooLarge
	}
	n := b.seqs[len(b.seqs)-1]
	if n == nil {
		return nil
	}
	n.Items = append(n.Items, nil)
	b.open[len(b.open)-1] = &n.Items[len(n.Items)-1]
	return nil
}

func (b *treeBuilder) Close() error {
	b.seqs = b.seqs[:len(b.seqs)-1]
	b.open = b.open[:len(b.open)-1]
	return nil
}

func (t Tree) find(tag Tag) *Node {
	for i := len(t) - 1; i >= 0; i-- { // elements come in order: the last is met first
		if t[i].Tag == tag {
			return &t[i]
		}
	}
	return nil
}

// Has reports whether an element is there, be it empty.
func (t Tree) Has(tag Tag) bool { return t.find(tag) != nil }

// Text returns the value of an element in ASCII or, by Specific Character Set, as
// UTF-8, without padding and surrounding spaces; "" where it is missing or empty.
func (t Tree) Text(tag Tag) string {
	n := t.find(tag)
	if n == nil || n.VR == "SQ" {
		return ""
	}
	var sets []string
	if v := vrOf(n.VR); v.charset() {
		if c := t.find(dicomtag.SpecificCharacterSet); c != nil {
			sets = strings.Split(string(trimPadding(c.Value)), `\`)
		}
	}
	return strings.TrimSpace(decodeText(trimPadding(n.Value), sets, n.VR == "PN"))
}

// Items returns the items of a sequence.
func (t Tree) Items(tag Tag) []Tree {
	if n := t.find(tag); n != nil {
		return n.Items
	}
	return nil
}

// Merge returns t with the top-level elements of other in the place of its own.
func (t Tree) Merge(other Tree) Tree {
	merged := make(Tree, 0, len(t)+len(other))
	for _, n := range t {
		if !other.Has(n.Tag) {
			merged = append(merged, n)
		}
	}
	return append(merged, other...)
}

// Elements returns the tree as elements that WriteDataSet writes.
func (t Tree) Elements() []*Element {
	out := make([]*Element, 0, len(t))
	for _, n := range t {
		if n.VR != "SQ" {
			v := n.VR
			if !vrOf(v).known() {
				v = "UN"
			}
			out = append(out, RawElement(n.Tag, v, n.Value))
			continue
		}
		items := make([][]*Element, len(n.Items))
		for i, item := range n.Items {
			items[i] = item.Elements()
		}
		out = append(out, Sequence(n.Tag, items...))
	}
	return out
}

// String says how large the tree is, and nothing of what is in it.
func (t Tree) String() string { return fmt.Sprintf("data set of %d elements", len(t)) }
