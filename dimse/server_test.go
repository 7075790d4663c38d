package dimse_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
)

// TestServices sends one request on a context and holds the response to every
// element; then the association must still answer C-ECHO.
func TestServices(t *testing.T) {
	store := dimsetest.StoreRQ(258, ctImage, instanceUID)
	find := dimsetest.Elements{
		dimsetest.AffectedSOPClassUID: dimsetest.UI(findClass), dimsetest.CommandField: dimsetest.US(0x0020),
		dimsetest.MessageID: dimsetest.US(258), dimsetest.Priority: dimsetest.US(0), dimsetest.DataSetType: dimsetest.US(1),
	}
	action := dimsetest.Elements{
		0x0003: dimsetest.UI("1.2.840.10008.1.20.1"), dimsetest.CommandField: dimsetest.US(0x0130),
		dimsetest.MessageID: dimsetest.US(258), dimsetest.DataSetType: dimsetest.US(1), 0x1008: dimsetest.US(1),
	}
	// Commands of other services, and such that PS3.7 does not know.
	command := func(field uint16, dataSetType uint16) dimsetest.Elements {
		return store.With(dimsetest.CommandField, dimsetest.US(field)).With(dimsetest.DataSetType, dimsetest.US(dataSetType))
	}
	failing := func(err error) func(*dimse.StoreRequest) error {
		return func(*dimse.StoreRequest) error { return err }
	}
	tests := []struct {
		name    string
		context byte
		rq      dimsetest.Elements
		data    bool
		answer  func(*dimse.StoreRequest) error
		status  int
		comment string
		stored  bool
	}{
		{name: "echo", context: 1, rq: dimsetest.EchoRQ(258), status: 0},
		{name: "echo with a data set", context: 1, rq: dimsetest.EchoRQ(258).With(dimsetest.DataSetType, dimsetest.US(0)), data: true, status: 0},
		{name: "echo without a Data Set Type", context: 1, rq: dimsetest.EchoRQ(258).With(dimsetest.DataSetType, nil), status: 0},
		{name: "echo on a storage context", context: 3, rq: dimsetest.EchoRQ(258), status: 0x0122},
		{name: "store", context: 3, rq: store, data: true, status: 0, stored: true},
		{name: "store with an unknown element", context: 3, rq: store.With(0x5555, []byte("1234")), data: true, status: 0, stored: true},
		{name: "store with move originator", context: 3, rq: store.With(0x1030, []byte("MOVER ")), data: true, status: 0, stored: true},
		{name: "store on Verification", context: 1, rq: store, data: true, status: 0x0122},
		{name: "store of a class unknown here", context: 3, rq: store.With(dimsetest.AffectedSOPClassUID, dimsetest.UI(findClass)), data: true, status: 0x0122},
		{name: "store of another storage class", context: 3, rq: store.With(dimsetest.AffectedSOPClassUID, dimsetest.UI(mrImage)), data: true, status: 0xA900,
			comment: "Affected SOP Class is not that of the presentation context"},
		{name: "store without a SOP class", context: 3, rq: store.With(dimsetest.AffectedSOPClassUID, nil), data: true, status: 0xA900,
			comment: "Affected SOP Class is not that of the presentation context"},
		{name: "store without a SOP instance", context: 3, rq: store.With(dimsetest.AffectedSOPInstanceUID, nil), data: true, status: 0xC000,
			comment: "Affected SOP Instance UID is not a UID"},
		{name: "store with a path as SOP instance", context: 3, rq: store.With(dimsetest.AffectedSOPInstanceUID, []byte("../../x.")), data: true, status: 0xC000,
			comment: "Affected SOP Instance UID is not a UID"},
		{name: "store without a data set", context: 3, rq: store.With(dimsetest.DataSetType, dimsetest.US(0x0101)), status: 0xC000,
			comment: "C-STORE-RQ without a data set"},
		{name: "status of the handler", context: 3, rq: store, data: true, stored: true, status: 0xA700, comment: "disk full",
			answer: failing(fmt.Errorf("store: %w", &dimse.StatusError{Status: dimse.StatusOutOfResources, Comment: "disk full"}))},
		{name: "comment cut to 64 characters", context: 3, rq: store, data: true, stored: true, status: 0xC001, comment: strings.Repeat("x", 64),
			answer: failing(&dimse.StatusError{Status: 0xC001, Comment: strings.Repeat("x", 100)})},
		{name: "comment made fit", context: 3, rq: store, data: true, stored: true, status: 0xC001, comment: "a?b?c?",
			answer: failing(&dimse.StatusError{Status: 0xC001, Comment: "a\\b\nc\u00e9"})},
		{name: "warning of the handler", context: 3, rq: store, data: true, stored: true, status: 0xB000,
			answer: failing(&dimse.StatusError{Status: dimse.StatusCoercion})},
		{name: "any other error", context: 3, rq: store, data: true, stored: true, status: 0x0110, answer: failing(errors.New("secret detail"))},
		{name: "query", context: 1, rq: find, data: true, status: 0x0211},
		{name: "storage commitment", context: 1, rq: action, data: true, status: 0x0211},
		{name: "query on a storage context", context: 3, rq: command(0x0020, 1), data: true, status: 0x0211},
		{name: "retrieval on a storage context", context: 3, rq: command(0x0010, 1), data: true, status: 0x0211},
		{name: "N-DELETE on a storage context", context: 3, rq: command(0x0150, 0x0101), status: 0x0211},
		{name: "unknown command", context: 3, rq: command(0x0555, 0x0101), status: 0x0211},
		{name: "unknown command with a data set", context: 3, rq: command(0x0002, 1), data: true, status: 0x0211},
		{name: "command 0", context: 1, rq: command(0, 0x0101), status: 0x0211},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &recorder{answer: tt.answer}
				p := associate(t, listen(t, &dimse.Server{Handler: h}))
				p.SendPDU(dimsetest.CommandPDU(tt.context, tt.rq))
				if tt.data {
					p.SendPDU(dimsetest.DataPDU(tt.context, true, []byte("data")))
				}
				rsp := p.ExpectCommand(tt.context)
				want := map[uint16]int{
					dimsetest.CommandField:              tt.rq.Number(dimsetest.CommandField) | 0x8000,
					dimsetest.MessageIDBeingRespondedTo: 258,
					dimsetest.DataSetType:               0x0101,
					dimsetest.Status:                    tt.status,
				}
				for element, number := range want {
					if got := rsp.Number(element); got != number {
						t.Errorf("response (0000,%04X) = %04XH, want %04XH", element, got, number)
					}
				}
				if got := rsp.Text(dimsetest.ErrorComment); got != tt.comment {
					t.Errorf("error comment = %q, want %q", got, tt.comment)
				}
				for _, element := range []uint16{dimsetest.AffectedSOPClassUID, dimsetest.AffectedSOPInstanceUID} {
					if tt.rq[element] != nil && rsp.Text(element) != tt.rq.Text(element) {
						t.Errorf("response (0000,%04X) = %q, want that of the request %q", element, rsp.Text(element), tt.rq.Text(element))
					}
				}
				if got := h.take(); (len(got) == 1) != tt.stored {
					t.Errorf("handler got %v, want called %v", got, tt.stored)
				}
				p.SendPDU(dimsetest.CommandPDU(1, dimsetest.EchoRQ(9)))
				if got := p.ExpectCommand(1).Number(dimsetest.Status); got != 0 {
					t.Errorf("C-ECHO afterwards = %04XH, want 0000H", got)
				}
			})
		})
	}
}

func TestOffendingElements(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &recorder{answer: func(*dimse.StoreRequest) error {
			return &dimse.StatusError{Status: 0xA900, OffendingElements: []dataset.Tag{{Group: 0x0008, Element: 0x0018}, {Group: 0x7FE0, Element: 0x0010}}}
		}}
		p := associate(t, listen(t, &dimse.Server{Handler: h}))
		p.SendPDU(dimsetest.CommandPDU(3, dimsetest.StoreRQ(1, ctImage, instanceUID)), dimsetest.DataPDU(3, true, []byte("data")))
		want := []byte{0x08, 0x00, 0x18, 0x00, 0xe0, 0x7f, 0x10, 0x00}
		if got := p.ExpectCommand(3)[dimsetest.OffendingElement]; !bytes.Equal(got, want) {
			t.Errorf("offending elements = %x, want %x", got, want)
		}
	})
}

// TestFragments stores the same bytes cut in every way the standard allows.
func TestFragments(t *testing.T) {
	data := bytes.Repeat([]byte("0123456789abcdef"), 100)
	command := dimsetest.StoreRQ(1, ctImage, instanceUID).Bytes()
	pdv := func(isCommand, last bool, b []byte) pdu.PDV {
		return pdu.PDV{ContextID: 3, Command: isCommand, Last: last, Fragment: b}
	}
	tests := []struct {
		name string
		pdus []pdu.PDU
	}{
		{"a PDU each", []pdu.PDU{pdu.NewData(pdv(true, true, command)), pdu.NewData(pdv(false, true, data))}},
		{"both in one PDU", []pdu.PDU{pdu.NewData(pdv(true, true, command), pdv(false, true, data))}},
		{"command in pieces", []pdu.PDU{pdu.NewData(pdv(true, false, command[:10]), pdv(true, false, command[10:50])), pdu.NewData(pdv(true, true, command[50:]), pdv(false, true, data))}},
		{"data in pieces", []pdu.PDU{pdu.NewData(pdv(true, true, command), pdv(false, false, data[:700])), pdu.NewData(pdv(false, false, data[700:702]), pdv(false, true, data[702:]))}},
		{"empty last fragment", []pdu.PDU{pdu.NewData(pdv(true, false, command), pdv(true, true, nil)), pdu.NewData(pdv(false, false, data)), pdu.NewData(pdv(false, true, nil))}},
		{"odd fragments", []pdu.PDU{pdu.NewData(pdv(true, true, command)), pdu.NewData(pdv(false, false, data[:33])), pdu.NewData(pdv(false, true, data[33:]))}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &recorder{}
				p := associate(t, listen(t, &dimse.Server{Handler: h}))
				p.SendPDU(tt.pdus...)
				if got := p.ExpectCommand(3).Number(dimsetest.Status); got != 0 {
					t.Fatalf("status = %04XH, want 0000H", got)
				}
				want := stored{ctImage, instanceUID, explicitLE, "TEST", int64(len(data)), sha256.Sum256(data)}
				if got := h.take(); len(got) != 1 || got[0] != want {
					t.Errorf("stored %v, want %v", got, want)
				}
			})
		})
	}
}

// TestViolations are messages that end the association, and with which A-ABORT.
func TestViolations(t *testing.T) {
	store := dimsetest.StoreRQ(1, ctImage, instanceUID)
	command := dimsetest.CommandPDU(3, store)
	fragment := func(id byte) *pdu.Data { return dimsetest.DataPDU(id, false, []byte("1234")) }
	bare := func(b []byte) *pdu.Data {
		return pdu.NewData(pdu.PDV{ContextID: 1, Command: true, Last: true, Fragment: b})
	}
	provider := func(r pdu.AbortReason) *pdu.Abort { return &pdu.Abort{Source: pdu.AbortSourceProvider, Reason: r} }
	user := &pdu.Abort{}
	var flood []pdu.PDU
	for range 5 {
		flood = append(flood, pdu.NewData(pdu.PDV{ContextID: 1, Command: true, Fragment: make([]byte, 16000)}))
	}
	tests := []struct {
		name string
		send []pdu.PDU
		want *pdu.Abort
	}{
		{"context not accepted", []pdu.PDU{dimsetest.CommandPDU(9, store)}, provider(pdu.ReasonInvalidParameter)},
		{"context 0", []pdu.PDU{dimsetest.CommandPDU(0, store)}, provider(pdu.ReasonInvalidParameter)},
		{"data before a command", []pdu.PDU{fragment(3)}, provider(pdu.ReasonUnexpectedParameter)},
		{"data on another context", []pdu.PDU{command, fragment(3), fragment(5)}, provider(pdu.ReasonInvalidParameter)},
		{"command on two contexts", []pdu.PDU{pdu.NewData(pdu.PDV{ContextID: 3, Command: true, Fragment: []byte("1234")}, pdu.PDV{ContextID: 1, Command: true, Last: true})}, provider(pdu.ReasonInvalidParameter)},
		{"command within the data set", []pdu.PDU{command, fragment(3), command}, provider(pdu.ReasonUnexpectedParameter)},
		{"empty command set", []pdu.PDU{bare(nil)}, user},
		{"command set cut", []pdu.PDU{bare([]byte{0, 0, 0, 1, 2, 0, 0, 0, 0x30})}, user},
		{"element longer than the command set", []pdu.PDU{bare([]byte{0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff, 0x30, 0})}, user},
		{"element of another group", []pdu.PDU{bare([]byte{8, 0, 0, 1, 2, 0, 0, 0, 0x30, 0})}, user},
		{"command field of 4 bytes", []pdu.PDU{bare([]byte{0, 0, 0, 1, 4, 0, 0, 0, 0x30, 0, 0, 0})}, user},
		{"no command field", []pdu.PDU{bare(dimsetest.EchoRQ(1).With(dimsetest.CommandField, nil).Bytes())}, user},
		{"no message ID", []pdu.PDU{bare(dimsetest.EchoRQ(1).With(dimsetest.MessageID, nil).Bytes())}, user},
		{"a response", []pdu.PDU{bare(dimsetest.EchoRQ(1).With(dimsetest.CommandField, dimsetest.US(0x8030)).Bytes())}, user},
		{"command set without end", flood, user},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &recorder{}
				p := associate(t, listen(t, &dimse.Server{Handler: h}))
				for _, one := range tt.send {
					p.SendPDU(one)
				}
				p.Expect(tt.want)
				closedByARTIM(t, p)
				if _, ends := h.ends(); len(ends) != 1 || ends[0] == nil {
					t.Errorf("AssociationClosed got %v, want one error", ends)
				}
			})
		})
	}
}

func TestCancelIsIgnored(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := associate(t, listen(t, &dimse.Server{}))
		cancel := dimsetest.Elements{dimsetest.CommandField: dimsetest.US(0x0FFF), 0x0120: dimsetest.US(1), dimsetest.DataSetType: dimsetest.US(0x0101)}
		p.SendPDU(dimsetest.CommandPDU(1, cancel), dimsetest.CommandPDU(1, dimsetest.EchoRQ(2)))
		if got := p.ExpectCommand(1).Number(dimsetest.MessageIDBeingRespondedTo); got != 2 {
			t.Errorf("first response is for message %d, want 2", got)
		}
	})
}

// TestTruncatedDataSet holds that a handler never takes a cut for an end.
func TestTruncatedDataSet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		got := make(chan error, 1)
		l := listen(t, &dimse.Server{Handler: handlerFunc(func(_ context.Context, req *dimse.StoreRequest) error {
			_, err := io.ReadAll(req.Data)
			got <- err
			return err
		})})
		p := associate(t, l)
		p.SendPDU(dimsetest.CommandPDU(3, dimsetest.StoreRQ(1, ctImage, instanceUID)), dimsetest.DataPDU(3, false, []byte("1234")))
		p.Close()
		if err := <-got; err == nil { // which one it is depends on the connection
			t.Error("reading a data set that was cut off = nil, want an error")
		}
	})
}

type handlerFunc func(context.Context, *dimse.StoreRequest) error

func (f handlerFunc) CStore(ctx context.Context, req *dimse.StoreRequest) error { return f(ctx, req) }

// TestHandlerLeavesData answers although the handler read nothing.
func TestHandlerLeavesData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := listen(t, &dimse.Server{Handler: handlerFunc(func(context.Context, *dimse.StoreRequest) error { return nil })})
		p := associate(t, l)
		for id := range uint16(3) {
			p.SendPDU(dimsetest.CommandPDU(3, dimsetest.StoreRQ(id, ctImage, instanceUID)),
				dimsetest.DataPDU(3, false, make([]byte, 10000)), dimsetest.DataPDU(3, true, make([]byte, 10000)))
			if got := p.ExpectCommand(3).Number(dimsetest.MessageIDBeingRespondedTo); got != int(id) {
				t.Errorf("response for message %d, want %d", got, id)
			}
		}
	})
}

// TestSmallPeerPDU cuts responses to what the peer takes.
func TestSmallPeerPDU(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := dial(t, listen(t, &dimse.Server{}))
		rq := request()
		rq.User.MaxLength = 31 // fragments of 24 bytes
		p.Associate(rq)
		p.SendPDU(dimsetest.CommandPDU(1, dimsetest.EchoRQ(3)))
		var command []byte
		for last := false; !last; {
			d := p.ExpectType(pdu.TypeData).(*pdu.Data)
			if n := len(dimsetest.Encode(t, d)) - pdu.HeaderLength; n > 31 {
				t.Fatalf("PDU of %d bytes, want at most 31", n)
			}
			v, _ := d.Next()
			if len(v.Fragment)%2 == 1 {
				t.Errorf("fragment of %d bytes, want an even number", len(v.Fragment))
			}
			command, last = append(command, v.Fragment...), v.Last
		}
		if e, err := dimsetest.ParseCommand(command); err != nil || e.Number(dimsetest.Status) != 0 {
			t.Errorf("response = %v, %v, want success", e, err)
		}
	})
}

// TestPanicEndsOneAssociation keeps the stack out of the answer, the value out
// of the log, and the other associations alive.
func TestPanicEndsOneAssociation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		h := &recorder{answer: func(*dimse.StoreRequest) error { panic("Doe^Jane") }}
		l := listen(t, &dimse.Server{Handler: h, Logger: slog.New(slog.NewTextHandler(&log, nil))})
		other := associate(t, l)
		p := associate(t, l)
		p.SendPDU(dimsetest.CommandPDU(3, dimsetest.StoreRQ(1, ctImage, instanceUID)), dimsetest.DataPDU(3, true, []byte("data")))
		p.Expect(&pdu.Abort{})
		closedAtOnce(t, p)
		other.SendPDU(dimsetest.CommandPDU(1, dimsetest.EchoRQ(1)))
		other.ExpectCommand(1)
		synctest.Wait()
		if text := log.String(); !strings.Contains(text, "server_test.go") || strings.Contains(text, "Doe") {
			t.Errorf("log = %s, want the stack and not the panic's value", text)
		}
		if opened, ends := h.ends(); opened != 2 || len(ends) != 1 || ends[0] == nil {
			t.Errorf("opened %d, closed with %v, want 2 and one error", opened, ends)
		}
	})
}

func TestAssociationLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := listen(t, &dimse.Server{MaxAssociations: 2})
		first := associate(t, l)
		associate(t, l)
		third := dial(t, l)
		third.SendPDU(request())
		third.Expect(&pdu.AssociateRJ{Result: pdu.RejectedTransient, Source: pdu.RejectSourcePresentation, Reason: pdu.RejectLimitExceeded})
		third.Close()
		first.SendPDU(&pdu.ReleaseRQ{})
		first.Expect(&pdu.ReleaseRP{})
		associate(t, l).SendPDU(&pdu.Abort{}) // the place is free although the peer has not closed
		synctest.Wait()
		associate(t, l).Close() // and after an abort
		synctest.Wait()
		associate(t, l) // and when the peer is gone
	})
}

// TestDeafPeers: a peer that asks and does not read its answers is given up after the idle
// time, whatever it asked for, and its operation ends.
func TestDeafPeers(t *testing.T) {
	const idle = time.Minute
	keys := identifierOf(t, dataset.MustElement(dicomtag.PatientID, "P1"))
	for name, ask := range map[string][]pdu.PDU{
		"C-ECHO":  {dimsetest.CommandPDU(1, dimsetest.EchoRQ(1))},
		"C-STORE": {dimsetest.CommandPDU(3, dimsetest.StoreRQ(1, ctImage, instanceUID)), dimsetest.DataPDU(3, true, []byte("data"))},
		"C-FIND":  {dimsetest.CommandPDU(7, queryRQ(0x0020, 1, findClass)), dimsetest.DataPDU(7, true, keys)},
		"C-GET":   {dimsetest.CommandPDU(9, queryRQ(0x0010, 1, getClass)), dimsetest.DataPDU(9, true, keys)},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &queried{
					find: func(_ context.Context, _ *dimse.QueryRequest, match func(dimse.Match) error) error {
						for {
							if err := match(dimse.Match{Identifier: []*dataset.Element{dataset.MustElement(dicomtag.PatientID, "P1")}}); err != nil {
								return err
							}
						}
					},
					get: func(ctx context.Context, req *dimse.QueryRequest, _ func(dimse.SubOperations) error) (dimse.Retrieved, error) {
						_, err := req.Store(ctx, ctImage, instanceUID, explicitLE, strings.NewReader("data"))
						return dimse.Retrieved{}, err
					},
				}
				conn, err := listen(t, &dimse.Server{Handler: h, Idle: idle}).Dial()
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				rq := request()
				rq.Contexts = append(rq.Contexts, pdu.PresentationContextRQ{ID: 7, AbstractSyntax: findClass, TransferSyntaxes: []string{implicitLE}},
					pdu.PresentationContextRQ{ID: 9, AbstractSyntax: getClass, TransferSyntaxes: []string{implicitLE}})
				rq.User.Roles = []pdu.RoleSelection{{SOPClassUID: ctImage, SCU: true, SCP: true}}
				if _, err := conn.Write(dimsetest.Encode(t, rq)); err != nil {
					t.Fatal(err)
				}
				if p, err := pdu.NewReader(conn, 1<<20).Next(); err != nil || p.Type() != pdu.TypeAssociateAC {
					t.Fatalf("got %v, %v, want A-ASSOCIATE-AC", p, err)
				}
				if _, err := conn.Write(dimsetest.Encode(t, ask...)); err != nil {
					t.Fatal(err)
				}
				time.Sleep(idle + 2*time.Second) // fake time: and what an A-ABORT may take
				synctest.Wait()
				if opened, closed := h.ends(); opened != 1 || len(closed) != 1 || closed[0] == nil {
					t.Errorf("opened %d, closed with %v, want one error", opened, closed)
				}
			})
		})
	}
}

// TestSlowPeersBlockNobody opens more silent connections than there are places.
func TestSlowPeersBlockNobody(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := listen(t, &dimse.Server{MaxAssociations: 3})
		var silent []*dimsetest.Peer
		for range 20 {
			p := dial(t, l)
			p.Send([]byte{1, 0}) // half a header
			silent = append(silent, p)
		}
		associate(t, l)
		closedAtOnce(t, silent[0]) // the oldest made room
		silent[len(silent)-1].ExpectSilence()
	})
}

func TestShutdown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		running, finish := make(chan struct{}), make(chan struct{})
		h := &recorder{answer: func(*dimse.StoreRequest) error {
			close(running)
			<-finish
			return nil
		}}
		s := &dimse.Server{Handler: h}
		l := listen(t, s)
		silent, between, busy := dial(t, l), associate(t, l), associate(t, l)
		busy.SendPDU(dimsetest.CommandPDU(3, dimsetest.StoreRQ(1, ctImage, instanceUID)), dimsetest.DataPDU(3, true, []byte("data")))
		<-running
		ended := make(chan error, 1)
		go func() { ended <- s.Shutdown(t.Context()) }()
		silent.ExpectClosed()
		between.Expect(&pdu.Abort{}) // at once, it was idle
		between.Close()
		if _, err := l.Dial(); err == nil {
			t.Error("Dial after Shutdown = nil, want an error")
		}
		close(finish)
		if got := busy.ExpectCommand(3).Number(dimsetest.Status); got != 0 {
			t.Errorf("status of the running operation = %04XH, want 0000H", got)
		}
		busy.Expect(&pdu.Abort{}) // only then
		if err := <-ended; err != nil {
			t.Errorf("Shutdown() = %v, want nil", err)
		}
		if err := s.Serve(dimsetest.NewListener()); !errors.Is(err, dimse.ErrServerClosed) {
			t.Errorf("Serve() after Shutdown = %v, want ErrServerClosed", err)
		}
	})
}

// TestShutdownInterrupts ends operations that outlast the caller's patience.
func TestShutdownInterrupts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := handlerFunc(func(ctx context.Context, req *dimse.StoreRequest) error {
			_, err := io.Copy(io.Discard, req.Data)
			if err == nil {
				<-ctx.Done()
				err = ctx.Err()
			}
			return err
		})
		s := &dimse.Server{Handler: h}
		l := listen(t, s)
		receiving, working := associate(t, l), associate(t, l)
		store := dimsetest.CommandPDU(3, dimsetest.StoreRQ(1, ctImage, instanceUID))
		receiving.SendPDU(store, dimsetest.DataPDU(3, false, []byte("1234")))
		working.SendPDU(store, dimsetest.DataPDU(3, true, []byte("1234")))
		synctest.Wait()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Shutdown() = %v, want context.DeadlineExceeded", err)
		}
		receiving.Expect(&pdu.Abort{})
		working.Expect(&pdu.Abort{}) // no failure status: the peer shall try again
	})
}

// TestCloseTwice closes from several goroutines, before and after Serve.
func TestCloseTwice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		unused := &dimse.Server{AETitle: "HILUM"}
		if err := errors.Join(unused.Close(), unused.Close(), unused.Shutdown(t.Context())); err != nil {
			t.Errorf("Close of a server that never served = %v, want nil", err)
		}
		s := &dimse.Server{}
		l := listen(t, s)
		p := associate(t, l)
		for range 4 {
			go func() { _ = s.Close() }()
		}
		p.ExpectClosed()
	})
}

func TestServeNeedsAETitle(t *testing.T) {
	err := (&dimse.Server{}).Serve(dimsetest.NewListener())
	if !errors.Is(err, pdu.ErrAETitle) {
		t.Errorf("Serve() without an AE title = %v, want ErrAETitle", err)
	}
}
