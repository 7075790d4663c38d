package dimse

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"

	"hilum/dimse/dataset"
)

// Command fields of the DIMSE-N requests, PS3.7 E.1.
const (
	commandEventReportRQ uint16 = 0x0100
	commandGetNRQ        uint16 = 0x0110
	commandSetRQ         uint16 = 0x0120
	commandActionRQ      uint16 = 0x0130
	commandCreateRQ      uint16 = 0x0140
	commandDeleteRQ      uint16 = 0x0150
)

// NOperation is a DIMSE-N operation or notification, PS3.7 10.
type NOperation uint16

// The operations, and the notification N-EVENT-REPORT.
const (
	NEventReport = NOperation(commandEventReportRQ)
	NGet         = NOperation(commandGetNRQ)
	NSet         = NOperation(commandSetRQ)
	NAction      = NOperation(commandActionRQ)
	NCreate      = NOperation(commandCreateRQ)
	NDelete      = NOperation(commandDeleteRQ)
)

// String names the operation as PS3.7 does.
func (o NOperation) String() string {
	switch o {
	case NEventReport:
		return "N-EVENT-REPORT"
	case NGet:
		return "N-GET"
	case NSet:
		return "N-SET"
	case NAction:
		return "N-ACTION"
	case NCreate:
		return "N-CREATE"
	case NDelete:
		return "N-DELETE"
	}
	return fmt.Sprintf("command %04XH", uint16(o))
}

// DefaultMaxNDataSet is the longest data set of a DIMSE-N message that is taken
// where an NService names no other: a storage commitment of 100,000 instances
// has about 15 MB.
const DefaultMaxNDataSet = 32 << 20

// NService provides the DIMSE-N operations of one SOP class.
type NService struct {
	Handler NHandler
	// Requestor are the roles that the peer may have that requested the
	// association, PS3.7 D.3.3.4. The zero value is SCU only.
	Requestor Roles
	// MaxDataSet is the longest data set in bytes, as it is on the wire; 0 is
	// DefaultMaxNDataSet.
	MaxDataSet int64
}

func (s NService) maxDataSet() int64 {
	if s.MaxDataSet > 0 {
		return s.MaxDataSet
	}
	return DefaultMaxNDataSet
}

// NHandler carries out the DIMSE-N requests of a peer.
type NHandler interface {
	// HandleN must read rq.Data as far as it needs; what it leaves is drained. It
	// must not keep rq.Data, and must return when ctx ends. A *StatusError answers
	// its status; any other error is logged, which is why it must hold no patient
	// data, and answers 0110H without a comment. What the answer promises must be
	// durable by then. An operation that the handler does not provide is
	// ErrUnrecognized.
	HandleN(ctx context.Context, rq *NRequest) (NResponse, error)
}

// ErrUnrecognized answers an operation that the SOP class does not have.
var ErrUnrecognized = &StatusError{Status: StatusUnrecognized}

// NRequest is a DIMSE-N request of a peer.
type NRequest struct {
	Operation NOperation
	// Association is nil on an association that this side requested.
	Association    *Association
	MessageID      uint16
	SOPClassUID    string // the abstract syntax of the presentation context
	SOPInstanceUID string // empty only where N-CREATE leaves it to the SCP
	// TypeID is the Event Type ID or the Action Type ID; 0 where it is missing.
	TypeID uint16
	// Attributes is the Attribute Identifier List of N-GET; empty is all.
	Attributes        []dataset.Tag
	TransferSyntaxUID string // of Data, and for the data set of the response
	// Data is the data set; without one it is empty. It ends with io.EOF only
	// when it is whole.
	Data    io.Reader
	HasData bool
}

// NResponse is the response to a DIMSE-N request.
type NResponse struct {
	Status         Status // success or a warning; failures are a *StatusError
	SOPInstanceUID string // what N-CREATE made; else empty is that of the request
	// DataSet is encoded in TransferSyntaxUID, that of the request; nil is none.
	DataSet           []byte
	TransferSyntaxUID string // of what this side received
}

// nPeer is one association as far as the operations that the peer invokes on it
// are concerned.
type nPeer struct {
	services    map[string]NService
	association *Association // nil where this side requested it
	log         *slog.Logger
}

// normalized carries out a DIMSE-N request as acceptor. It returns nil where the
// association ends instead of an answer.
func (a *acceptor) normalized(ctx context.Context, pc *presentation, rq *command, data *dataStream) *StatusError {
	p := nPeer{services: a.set.normalized, association: a.association, log: a.log}
	status := p.perform(ctx, pc, rq, data)
	if status == nil && data.broken() == nil {
		a.fail(errStopping) // an abort makes the peer try again
	}
	return status
}

// perform carries out a DIMSE-N request, and leaves the data set of the response
// in rq.reply. It returns nil where the association is broken or ctx has ended.
func (p nPeer) perform(ctx context.Context, pc *presentation, rq *command, data *dataStream) *StatusError {
	operation := NOperation(rq.field.value)
	log := p.log.With("operation", operation.String(), "sop_class", pc.abstractSyntax, "sop_instance", loggableUID(rq.sopInstance()))
	if refusal := p.check(pc, rq); refusal != nil {
		log.Warn("request refused", "status", refusal.Error())
		return refusal
	}
	service := p.services[pc.abstractSyntax]
	limited := &limitedData{r: data, left: service.maxDataSet()}
	rsp, err := service.Handler.HandleN(ctx, &NRequest{
		Operation: operation, Association: p.association, MessageID: rq.messageID.value,
		SOPClassUID: pc.abstractSyntax, SOPInstanceUID: rq.sopInstance(), TypeID: typeID(operation, rq),
		Attributes: rq.attributes, TransferSyntaxUID: pc.transferSyntax, Data: limited, HasData: rq.hasDataSet(),
	})
	if data.broken() != nil {
		return nil // the handler's error is only its echo
	}
	status := &StatusError{Status: rsp.Status}
	switch failure := (*StatusError)(nil); {
	case limited.exceeded:
		status = &StatusError{Status: StatusResourceLimitation, Comment: fmt.Sprintf("the data set has more than %d bytes", service.maxDataSet())}
	case errors.As(err, &failure):
		status = failure
	case err != nil && ctx.Err() != nil && errors.Is(err, context.Canceled):
		return nil
	case err != nil:
		log.Error("request not carried out", "error", err)
		return &StatusError{Status: StatusProcessingFailure}
	case rsp.SOPInstanceUID != "":
		rq.affectedSOPInstance = rsp.SOPInstanceUID
		fallthrough
	default:
		rq.reply = rsp.DataSet
	}
	if status.Status != StatusSuccess {
		log.Warn("request answered", "status", status.Error())
	}
	return status
}

func typeID(o NOperation, rq *command) uint16 {
	if o == NEventReport {
		return rq.eventType.value
	}
	return rq.actionType.value
}

// check finds what can be refused before the handler is asked.
func (p nPeer) check(pc *presentation, rq *command) *StatusError {
	operation := NOperation(rq.field.value)
	uid := rq.sopInstance()
	// PS3.7 D.3.3.4: an SCU invokes operations, an SCP notifies. This side
	// requested the association where there is none, and has the other role.
	scu, scp := pc.roles.SCU, pc.roles.SCP
	if p.association == nil {
		scu, scp = scp, scu
	}
	// Many SCPs report on an association of their own without role selection.
	scp = scp || !pc.roles.proposed
	switch {
	case rq.sopClass() != pc.abstractSyntax:
		return &StatusError{Status: StatusNoSuchClass, Comment: "the SOP class is not that of the presentation context"}
	case operation == NEventReport && !scp, operation != NEventReport && !scu:
		return &StatusError{Status: StatusUnrecognized, Comment: "not in the role negotiated for this SOP class"}
	case uid == "" && operation == NCreate:
		return nil
	case !dataset.ValidUID(uid):
		return &StatusError{Status: StatusInvalidInstance, Comment: "the SOP Instance UID is missing or is not a UID"}
	}
	return nil
}

// respond sends the response to a request, and the data set of it, if it has one.
func (x *exchange) respond(pc *presentation, rq *command, status *StatusError) error {
	if len(rq.reply) == 0 {
		return x.writeCommand(pc, response(rq, status))
	}
	return x.writeMessage(pc, response(rq, status), rq.reply)
}

// limitedData is a data set that ends with an error when it is too long.
type limitedData struct {
	r        io.Reader
	left     int64
	exceeded bool
}

var errDataSetTooLong = errors.New("the data set is too long")

func (l *limitedData) Read(p []byte) (int, error) {
	if l.exceeded {
		return 0, errDataSetTooLong
	}
	n, err := l.r.Read(p)
	if l.left -= int64(n); l.left < 0 {
		l.exceeded = true
		return 0, errDataSetTooLong
	}
	return n, err
}

// writeBatch is how much of a message is put together before it is written.
const writeBatch = 64 << 10

// writeMessage writes a command set and its data set, which has at least a byte.
func (x *exchange) writeMessage(pc *presentation, command, body []byte) error {
	x.writing.Lock()
	defer x.writing.Unlock()
	b, err := x.appendCommand(x.write[:0], pc, command)
	if err != nil {
		return err
	}
	size, err := fragmentSize(x.peerMax)
	if err != nil {
		return err
	}
	for len(body) > 0 {
		n := min(len(body), size)
		b = appendFragment(b, pc, body[:n], n == len(body))
		body = body[n:]
		if len(b) >= writeBatch || len(body) == 0 {
			if err := x.send(b); err != nil {
				return err
			}
			b = b[:0]
		}
	}
	x.write = b
	return nil
}
