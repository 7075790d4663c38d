package commitment

import (
	"bytes"
	"errors"
	"io"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/task"
)

// The SOP class and its one instance.
const (
	SOPClass    = dimse.StorageCommitmentSOPClass
	SOPInstance = dimse.StorageCommitmentSOPInstance
)

const (
	actionRequest      = 1 // PS3.4 J.3.2.1
	eventComplete      = 1 // PS3.4 J.3.3.1
	eventFailuresExist = 2
)

// maxReferences bounds the images of one transaction: about 20 MB of memory.
const maxReferences = 100_000

// The reasons of PS3.3 C.14.1.1 that a Provider gives.
const (
	reasonProcessing = uint16(dimse.StatusProcessingFailure)
	reasonNoInstance = uint16(dimse.StatusNoSuchInstance)
	reasonConflict   = uint16(dimse.StatusClassConflict)
	reasonDuplicate  = uint16(dimse.StatusDuplicateTransaction)
)

// Failure is an object that is not committed to.
type Failure struct {
	task.Object
	Reason uint16 `json:"reason"` // PS3.3 C.14.1.1; 0 where the peer gives none
}

// message is the data set of a request or of an outcome.
type message struct {
	transaction string
	objects     []task.Object
	failures    []Failure
}

// tooMany is the answer to a message with more references than are taken.
var tooMany = &dimse.StatusError{Status: dimse.StatusResourceLimitation, Comment: "more than 100000 references in a transaction"}

// readMessage reads a data set, bounded. take, unless nil, is asked before each
// reference. Its error is a *dimse.StatusError, that of take or that of r.
func readMessage(r io.Reader, transferSyntaxUID string, take func() error) (message, error) {
	v := &visitor{classes: map[string]string{}, take: take}
	err := dataset.Walk(r, transferSyntaxUID, dataset.DefaultLimits, v)
	var damaged *dataset.Error
	switch {
	case errors.As(err, &damaged):
		return message{}, &dimse.StatusError{Status: dimse.StatusProcessingFailure, Comment: "damaged data set: " + damaged.Problem, OffendingElements: []dataset.Tag{damaged.Tag}}
	case err != nil:
		return message{}, err
	case v.transaction == "":
		return message{}, &dimse.StatusError{Status: dimse.StatusMissingAttribute, Comment: "no Transaction UID", OffendingElements: []dataset.Tag{dicomtag.TransactionUID}}
	case !dataset.ValidUID(v.transaction):
		return message{}, &dimse.StatusError{Status: dimse.StatusInvalidAttribute, Comment: "the Transaction UID is not a UID", OffendingElements: []dataset.Tag{dicomtag.TransactionUID}}
	case len(v.objects)+len(v.failures) == 0:
		return message{}, &dimse.StatusError{Status: dimse.StatusMissingAttribute, Comment: "no references", OffendingElements: []dataset.Tag{dicomtag.ReferencedSOPSequence}}
	}
	return v.message, nil
}

// visitor gathers a message.
type visitor struct {
	message
	take    func() error      // nil: nobody asks
	classes map[string]string // the few classes, each kept once
	path    []dataset.Tag     // the open sequences
	current *Failure          // the open item of a list of references
}

func (v *visitor) Wants(t dataset.Tag) bool {
	switch len(v.path) {
	case 0:
		return t == dicomtag.TransactionUID
	case 1:
		return v.current != nil && (t == dicomtag.ReferencedSOPClassUID || t == dicomtag.ReferencedSOPInstanceUID || t == dicomtag.FailureReason)
	}
	return false
}

func (v *visitor) Value(t dataset.Tag, _ string, b []byte) error {
	text := string(bytes.Trim(b, " \x00"))
	switch t {
	case dicomtag.TransactionUID:
		if v.transaction == "" {
			v.transaction = text
		}
	case dicomtag.ReferencedSOPClassUID:
		known, ok := v.classes[text]
		if !ok {
			known = text
			v.classes[text] = text
		}
		v.current.SOPClassUID = known
	case dicomtag.ReferencedSOPInstanceUID:
		v.current.SOPInstanceUID = text
	case dicomtag.FailureReason:
		if len(b) == 2 {
			v.current.Reason = uint16(b[0]) | uint16(b[1])<<8
		}
	}
	return nil
}

func (v *visitor) Open(t dataset.Tag) error {
	v.path = append(v.path, t)
	return nil
}

func (v *visitor) Item() error {
	if len(v.path) != 1 || v.path[0] != dicomtag.ReferencedSOPSequence && v.path[0] != dicomtag.FailedSOPSequence {
		return nil
	}
	if err := v.endItem(); err != nil {
		return err
	}
	if len(v.objects)+len(v.failures) >= maxReferences {
		return tooMany
	}
	if v.take != nil {
		if err := v.take(); err != nil {
			return err
		}
	}
	v.current = new(Failure)
	return nil
}

func (v *visitor) Close() error {
	var err error
	if len(v.path) == 1 {
		err = v.endItem()
	}
	v.path = v.path[:len(v.path)-1]
	return err
}

// endItem takes over the item that was open, if one was.
func (v *visitor) endItem() error {
	if v.current == nil {
		return nil
	}
	f := *v.current
	v.current = nil
	for _, uid := range []struct {
		value string
		tag   dataset.Tag
	}{{f.SOPClassUID, dicomtag.ReferencedSOPClassUID}, {f.SOPInstanceUID, dicomtag.ReferencedSOPInstanceUID}} {
		if !dataset.ValidUID(uid.value) {
			return &dimse.StatusError{Status: dimse.StatusInvalidAttribute, Comment: "a reference without a valid UID", OffendingElements: []dataset.Tag{uid.tag}}
		}
	}
	if v.path[0] == dicomtag.FailedSOPSequence {
		v.failures = append(v.failures, f)
	} else {
		v.objects = append(v.objects, f.Object)
	}
	return nil
}

// encode writes a message.
func (m message) encode(transferSyntaxUID string) ([]byte, error) {
	elements := []*dataset.Element{uid(dicomtag.TransactionUID, m.transaction)}
	if len(m.objects) > 0 {
		items := make([][]*dataset.Element, len(m.objects))
		for i, o := range m.objects {
			items[i] = reference(o)
		}
		elements = append(elements, dataset.Sequence(dicomtag.ReferencedSOPSequence, items...))
	}
	if len(m.failures) > 0 {
		items := make([][]*dataset.Element, len(m.failures))
		for i, f := range m.failures {
			reason := dataset.RawElement(dicomtag.FailureReason, "US", []byte{byte(f.Reason), byte(f.Reason >> 8)})
			items[i] = append(reference(f.Object), reason)
		}
		elements = append(elements, dataset.Sequence(dicomtag.FailedSOPSequence, items...))
	}
	var out bytes.Buffer
	if err := dataset.WriteDataSet(&out, transferSyntaxUID, elements); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func reference(o task.Object) []*dataset.Element {
	return []*dataset.Element{uid(dicomtag.ReferencedSOPClassUID, o.SOPClassUID), uid(dicomtag.ReferencedSOPInstanceUID, o.SOPInstanceUID)}
}

func uid(t dataset.Tag, value string) *dataset.Element {
	return dataset.RawElement(t, "UI", []byte(value))
}

// contexts propose the SOP class.
func contexts() []dimse.PresentationContext {
	return []dimse.PresentationContext{{AbstractSyntax: SOPClass, TransferSyntaxes: []string{dataset.ExplicitVRLittleEndian, dataset.ImplicitVRLittleEndian}}}
}
