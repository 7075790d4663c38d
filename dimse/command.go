package dimse

import (
	"encoding/binary"
	"fmt"
	"strings"

	"hilum/dimse/dataset"
)

// Command fields, PS3.7 E.1. A response is its request with bit 15 set.
const (
	commandStoreRQ  uint16 = 0x0001
	commandGetRQ    uint16 = 0x0010
	commandFindRQ   uint16 = 0x0020
	commandMoveRQ   uint16 = 0x0021
	commandEchoRQ   uint16 = 0x0030
	commandCancelRQ uint16 = 0x0FFF
	commandResponse uint16 = 0x8000
)

// noDataSet is the Command Data Set Type (0000,0800) that says that no data set
// follows; every other value says that one does. PS3.7 9.3.
const noDataSet uint16 = 0x0101

// dataSetFollows is what this side writes there.
const dataSetFollows uint16 = 0x0000

// priorityMedium is the only priority used, PS3.7 9.1.1.1.6.
const priorityMedium uint16 = 0x0000

// Elements of group 0000, PS3.7 E.1.
const (
	elementGroupLength          = 0x0000
	elementAffectedSOPClass     = 0x0002
	elementRequestedSOPClass    = 0x0003
	elementCommandField         = 0x0100
	elementMessageID            = 0x0110
	elementMessageIDRespondedTo = 0x0120
	elementMoveDestination      = 0x0600
	elementPriority             = 0x0700
	elementDataSetType          = 0x0800
	elementStatus               = 0x0900
	elementOffendingElement     = 0x0901
	elementErrorComment         = 0x0902
	elementErrorID              = 0x0903
	elementAffectedSOPInstance  = 0x1000
	elementRequestedInstance    = 0x1001
	elementEventTypeID          = 0x1002
	elementAttributeList        = 0x1005
	elementActionTypeID         = 0x1008
	elementRemaining            = 0x1020 // numbers of sub-operations
	elementCompleted            = 0x1021
	elementFailed               = 0x1022
	elementWarning              = 0x1023
	elementMoveOriginator       = 0x1030
	elementMoveOriginatorID     = 0x1031
)

const (
	// maxCommandLength caps a command set. Honest ones have a few hundred bytes;
	// an attribute list of N-GET may make several thousand.
	maxCommandLength = 64 << 10
	// maxOffendingElements caps what a response names.
	maxOffendingElements = 16
	commandElementHeader = 8
)

// optional is a 16-bit element that may be missing.
type optional struct {
	value   uint16
	present bool
}

// command is a decoded command set. A missing text element is empty.
type command struct {
	affectedSOPClass     string
	requestedSOPClass    string
	affectedSOPInstance  string
	requestedSOPInstance string
	errorComment         string
	moveDestination      string
	field                optional
	messageID            optional
	respondedTo          optional
	dataSetType          optional
	status               optional
	errorID              optional
	eventType            optional
	actionType           optional
	offending            []dataset.Tag
	attributes           []dataset.Tag
	remaining            optional // numbers of sub-operations
	completed            optional
	failed               optional
	warning              optional

	reply   []byte         // the data set of its response, made here
	numbers *SubOperations // of its response, made here; nil is none
	after   func()         // called once the response is sent
}

// hasDataSet says whether a data set follows. PS3.7 9.3: the element is
// mandatory; without it nothing is taken to follow.
func (c *command) hasDataSet() bool { return c.dataSetType.present && c.dataSetType.value != noDataSet }

// decodeCommand decodes a command set: always implicit VR little endian, group
// 0000 only (PS3.7 6.3.1). Elements may come in any order; of one that comes
// twice the first counts; unknown ones are skipped; the group length is not
// believed.
func decodeCommand(b []byte) (*command, error) {
	c := new(command)
	seen := map[uint16]bool{}
	for len(b) > 0 {
		if len(b) < commandElementHeader {
			return nil, fmt.Errorf("decode command set: %d bytes after the last element", len(b))
		}
		group, element := binary.LittleEndian.Uint16(b), binary.LittleEndian.Uint16(b[2:])
		length := binary.LittleEndian.Uint32(b[4:])
		b = b[commandElementHeader:]
		if group != 0 {
			return nil, fmt.Errorf("decode command set: element (%04X,%04X) does not belong there", group, element)
		}
		if uint64(length) > uint64(len(b)) {
			return nil, fmt.Errorf("decode command set: element (0000,%04X) of %d bytes, %d are left", element, length, len(b))
		}
		value := b[:length]
		b = b[length:]
		if seen[element] {
			continue
		}
		seen[element] = true
		if err := c.set(element, value); err != nil {
			return nil, err
		}
	}
	if !c.field.present {
		return nil, fmt.Errorf("decode command set: Command Field (0000,0100) is missing")
	}
	return c, nil
}

func (c *command) set(element uint16, value []byte) error {
	var number *optional
	switch element {
	case elementAffectedSOPClass:
		c.affectedSOPClass = trimValue(value)
	case elementRequestedSOPClass:
		c.requestedSOPClass = trimValue(value)
	case elementAffectedSOPInstance:
		c.affectedSOPInstance = trimValue(value)
	case elementErrorComment:
		c.errorComment = wireComment(trimValue(value))
	case elementMoveDestination:
		c.moveDestination = trimValue(value)
	case elementRemaining:
		number = &c.remaining
	case elementCompleted:
		number = &c.completed
	case elementFailed:
		number = &c.failed
	case elementWarning:
		number = &c.warning
	case elementOffendingElement:
		c.offending = decodeTags(value, maxOffendingElements)
	case elementAttributeList:
		c.attributes = decodeTags(value, maxCommandLength)
	case elementRequestedInstance:
		c.requestedSOPInstance = trimValue(value)
	case elementEventTypeID:
		number = &c.eventType
	case elementActionTypeID:
		number = &c.actionType
	case elementErrorID:
		number = &c.errorID
	case elementCommandField:
		number = &c.field
	case elementMessageID:
		number = &c.messageID
	case elementMessageIDRespondedTo:
		number = &c.respondedTo
	case elementDataSetType:
		number = &c.dataSetType
	case elementStatus:
		number = &c.status
	}
	if number != nil {
		if len(value) != 2 {
			return fmt.Errorf("decode command set: element (0000,%04X) of %d bytes, must be 2", element, len(value))
		}
		*number = optional{value: binary.LittleEndian.Uint16(value), present: true}
	}
	return nil
}

// decodeTags decodes a value of VR AT, of which limit tags are kept.
func decodeTags(value []byte, limit int) []dataset.Tag {
	var tags []dataset.Tag
	for ; len(value) >= 4 && len(tags) < limit; value = value[4:] {
		tags = append(tags, dataset.Tag{Group: binary.LittleEndian.Uint16(value), Element: binary.LittleEndian.Uint16(value[2:])})
	}
	return tags
}

func trimValue(b []byte) string { return strings.Trim(string(b), " \x00") }

// commandWriter encodes a command set. Elements are added in the order of their
// tags.
type commandWriter struct{ b []byte }

func newCommandWriter(field uint16, affectedSOPClass string) *commandWriter {
	w := &commandWriter{b: make([]byte, 0, 512)}
	w.element(elementGroupLength, make([]byte, 4)) // filled in by bytes
	if affectedSOPClass != "" {
		w.uid(elementAffectedSOPClass, affectedSOPClass)
	}
	w.number(elementCommandField, field)
	return w
}

func (w *commandWriter) element(element uint16, value []byte) {
	w.b = binary.LittleEndian.AppendUint16(w.b, 0)
	w.b = binary.LittleEndian.AppendUint16(w.b, element)
	w.b = binary.LittleEndian.AppendUint32(w.b, uint32(len(value)))
	w.b = append(w.b, value...)
}

func (w *commandWriter) number(element, v uint16) {
	w.element(element, binary.LittleEndian.AppendUint16(nil, v))
}

func (w *commandWriter) uid(element uint16, s string) { w.padded(element, s, 0) }

func (w *commandWriter) text(element uint16, s string) { w.padded(element, s, ' ') }

func (w *commandWriter) padded(element uint16, s string, pad byte) {
	b := []byte(s)
	if len(b)%2 == 1 {
		b = append(b, pad)
	}
	w.element(element, b)
}

func (w *commandWriter) tags(element uint16, tags []dataset.Tag) {
	var b []byte
	for _, t := range tags {
		b = binary.LittleEndian.AppendUint16(b, t.Group)
		b = binary.LittleEndian.AppendUint16(b, t.Element)
	}
	w.element(element, b)
}

// bytes returns the command set with its group length.
func (w *commandWriter) bytes() []byte {
	const lengthElement = commandElementHeader + 4
	binary.LittleEndian.PutUint32(w.b[commandElementHeader:], uint32(len(w.b)-lengthElement))
	return w.b
}

// response encodes the answer to a request. PS3.7 9.3 and 10.3: the affected SOP
// class and instance are those of the request, and so are the types of an event
// and an action.
func response(rq *command, e *StatusError) []byte {
	w := newCommandWriter(rq.field.value|commandResponse, rq.sopClass())
	w.number(elementMessageIDRespondedTo, rq.messageID.value)
	if len(rq.reply) > 0 {
		w.number(elementDataSetType, dataSetFollows)
	} else {
		w.number(elementDataSetType, noDataSet)
	}
	w.number(elementStatus, uint16(e.Status))
	if tags := e.OffendingElements; len(tags) > 0 {
		w.tags(elementOffendingElement, tags[:min(len(tags), maxOffendingElements)])
	}
	if comment := wireComment(e.Comment); comment != "" {
		w.text(elementErrorComment, comment)
	}
	if e.ErrorID != 0 {
		w.number(elementErrorID, e.ErrorID)
	}
	if uid := rq.sopInstance(); uid != "" {
		w.uid(elementAffectedSOPInstance, uid)
	}
	if rq.eventType.present {
		w.number(elementEventTypeID, rq.eventType.value)
	}
	if rq.actionType.present {
		w.number(elementActionTypeID, rq.actionType.value)
	}
	if rq.numbers != nil {
		rq.numbers.write(w, e.Status.Pending() || e.Status == StatusCanceled)
	}
	return w.bytes()
}

// sopClass is the SOP class of a request: the affected or the requested one, as
// the operation has it.
func (c *command) sopClass() string {
	if c.affectedSOPClass != "" {
		return c.affectedSOPClass
	}
	return c.requestedSOPClass
}

// sopInstance is the same for the SOP instance.
func (c *command) sopInstance() string {
	if c.affectedSOPInstance != "" {
		return c.affectedSOPInstance
	}
	return c.requestedSOPInstance
}
