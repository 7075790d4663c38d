package dimse

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"hilum/dimse/dataset"
)

// The SOP classes of query and retrieve, PS3.4 C.6.
const (
	PatientRootFind = "1.2.840.10008.5.1.4.1.2.1.1"
	PatientRootMove = "1.2.840.10008.5.1.4.1.2.1.2"
	PatientRootGet  = "1.2.840.10008.5.1.4.1.2.1.3"
	StudyRootFind   = "1.2.840.10008.5.1.4.1.2.2.1"
	StudyRootMove   = "1.2.840.10008.5.1.4.1.2.2.2"
	StudyRootGet    = "1.2.840.10008.5.1.4.1.2.2.3"
)

// queryCommands are the commands of those SOP classes.
var queryCommands = map[string]uint16{
	PatientRootFind: commandFindRQ, PatientRootMove: commandMoveRQ, PatientRootGet: commandGetRQ,
	StudyRootFind: commandFindRQ, StudyRootMove: commandMoveRQ, StudyRootGet: commandGetRQ,
}

// inquires says whether a command is of query and retrieve, so that pending
// responses come in front of the final one.
func inquires(field uint16) bool {
	return field == commandFindRQ || field == commandMoveRQ || field == commandGetRQ
}

// queryTransferSyntaxes are those that identifiers are written in.
var queryTransferSyntaxes = []string{explicitLittleEndian, implicitLittleEndian, dataset.ExplicitVRBigEndian}

// QueryContext proposes one of the SOP classes of query and retrieve.
func QueryContext(sopClassUID string) PresentationContext {
	return PresentationContext{sopClassUID, queryTransferSyntaxes[:2]}
}

// maxIdentifier is the longest identifier that is read: one that lists 10,000 UIDs
// has 650 kB.
const maxIdentifier = 1 << 20

// Finder may be implemented by a Handler that answers C-FIND.
type Finder interface {
	// CFind calls match for every match, in any order. An error of match must be
	// returned, and CFind must return when ctx ends, as it does when the peer sends
	// C-CANCEL. nil answers Success; a *StatusError answers its status; any other
	// error is logged, which is why it must hold no patient data, and answers C000H.
	CFind(ctx context.Context, req *QueryRequest, match func(Match) error) error
}

// Mover may be implemented by a Handler that answers C-MOVE, and Getter by one
// that answers C-GET.
type Mover interface {
	// CMove sends what was asked for to req.MoveDestination, and calls progress
	// after each sub-operation. It returns what became of them, also where it has
	// not done all: an error of progress must be returned, and CMove must return
	// when ctx ends. Errors are those of CFind.
	CMove(ctx context.Context, req *QueryRequest, progress func(SubOperations) error) (Retrieved, error)
}

// Getter is described with Mover.
type Getter interface {
	// CGet is like CMove, and sends with req.Store.
	CGet(ctx context.Context, req *QueryRequest, progress func(SubOperations) error) (Retrieved, error)
}

// QueryRequest is a C-FIND-RQ, C-MOVE-RQ or C-GET-RQ.
type QueryRequest struct {
	Association *Association
	MessageID   uint16
	SOPClassUID string
	Identifier  dataset.Header // all its elements; it holds patient data
	// CombinedDateTime says that the extended negotiation agreed on matching a date
	// and its time together, PS3.4 C.5.1.1.2. Of C-FIND.
	CombinedDateTime bool
	MoveDestination  string // AE title, trimmed; of C-MOVE

	acceptor *acceptor
}

// Match is a pending response of C-FIND.
type Match struct {
	Identifier []*dataset.Element
	// Unsupported says that an optional key of the request is not supported.
	Unsupported bool
}

// SubOperations are the numbers of C-STORE sub-operations, PS3.7 9.1.4.1.
type SubOperations struct{ Remaining, Completed, Failed, Warning int }

// Retrieved is what became of a C-MOVE or C-GET.
type Retrieved struct {
	SubOperations
	FailedUIDs []string // SOP Instance UIDs, as many as the peer may be told
	Comment    string   // Error Comment; no patient data
	Status     Status   // for the requestor
}

// MaxFailedUIDs is how many a Failed SOP Instance UID List holds: the length of a
// value of VR UI has 16 bits.
const MaxFailedUIDs = 0xFFFE / (maxUID + 1)

// status is the final status that the numbers ask for, PS3.4 C.4.2.1.5.
func (r Retrieved) status() Status {
	switch {
	case r.Failed == 0 && r.Warning == 0:
		return StatusSuccess
	case r.Completed == 0 && r.Warning == 0:
		return StatusUnableToPerform
	}
	return StatusSubOperations
}

var failedSOPInstanceUIDList = dataset.Tag{Group: 0x0008, Element: 0x0058}

// failedList encodes the list of the final response; nil where there is none.
func (r Retrieved) failedList(transferSyntaxUID string) ([]byte, error) {
	if len(r.FailedUIDs) == 0 {
		return nil, nil
	}
	list := r.FailedUIDs[:min(len(r.FailedUIDs), MaxFailedUIDs)]
	value := []byte(joinUIDs(list))
	return encodeIdentifier(transferSyntaxUID, []*dataset.Element{dataset.RawElement(failedSOPInstanceUIDList, "UI", value)})
}

func joinUIDs(list []string) string {
	var b bytes.Buffer
	for i, uid := range list {
		if i > 0 {
			b.WriteByte('\\')
		}
		b.WriteString(uid)
	}
	return b.String()
}

func encodeIdentifier(transferSyntaxUID string, elements []*dataset.Element) ([]byte, error) {
	var b bytes.Buffer
	if err := dataset.WriteDataSet(&b, transferSyntaxUID, elements); err != nil {
		return nil, fmt.Errorf("encode the identifier: %w", err)
	}
	return b.Bytes(), nil
}

// readIdentifier reads an identifier of a peer. Its error is a *dataset.Error,
// errIdentifierTooLong, or one of the association.
func readIdentifier(data *dataStream, transferSyntaxUID string) (dataset.Header, error) {
	b, err := io.ReadAll(io.LimitReader(data, maxIdentifier+1))
	switch {
	case err != nil:
		return dataset.Header{}, err
	case len(b) > maxIdentifier:
		return dataset.Header{}, errIdentifierTooLong
	}
	return dataset.ScanAll(bytes.NewReader(b), transferSyntaxUID, dataset.Limits{MaxElementBytes: maxIdentifier})
}

var errIdentifierTooLong = errors.New("the identifier is too long")

// queryTransferSyntax says whether identifiers can be written in it.
func queryTransferSyntax(uid string) bool { return slices.Contains(queryTransferSyntaxes, uid) }

// providesQuery says whether the handler provides a SOP class of query and
// retrieve.
func providesQuery(h Handler, abstractSyntax string) bool {
	var ok bool
	switch queryCommands[abstractSyntax] {
	case commandFindRQ:
		_, ok = h.(Finder)
	case commandMoveRQ:
		_, ok = h.(Mover)
	case commandGetRQ:
		_, ok = h.(Getter)
	}
	return ok
}
