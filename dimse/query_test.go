package dimse_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
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

const (
	getClass  = "1.2.840.10008.5.1.4.1.2.2.3"
	moveClass = "1.2.840.10008.5.1.4.1.2.2.2"
)

// queried is a Handler that answers queries with functions.
type queried struct {
	recorder
	find func(ctx context.Context, req *dimse.QueryRequest, match func(dimse.Match) error) error
	get  func(ctx context.Context, req *dimse.QueryRequest, progress func(dimse.SubOperations) error) (dimse.Retrieved, error)
}

func (a *queried) CFind(ctx context.Context, req *dimse.QueryRequest, match func(dimse.Match) error) error {
	return a.find(ctx, req, match)
}

func (a *queried) CGet(ctx context.Context, req *dimse.QueryRequest, progress func(dimse.SubOperations) error) (dimse.Retrieved, error) {
	return a.get(ctx, req, progress)
}

// identifierOf encodes an identifier in Implicit VR Little Endian.
func identifierOf(t testing.TB, elements ...*dataset.Element) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := dataset.WriteDataSet(&b, implicitLE, elements); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// asking is an association for C-FIND (7), C-GET (9) and CT, which it takes (11).
func asking(t testing.TB, s *dimse.Server) (*dimsetest.Peer, *pdu.AssociateAC) {
	t.Helper()
	return askingWith(t, s, nil)
}

// askingWith is asking with an asynchronous operations window.
func askingWith(t testing.TB, s *dimse.Server, window *pdu.AsyncOperations) (*dimsetest.Peer, *pdu.AssociateAC) {
	t.Helper()
	p := dial(t, listen(t, s))
	rq := request()
	rq.Contexts = append(rq.Contexts[:1],
		pdu.PresentationContextRQ{ID: 7, AbstractSyntax: findClass, TransferSyntaxes: []string{jpeg2000, implicitLE}},
		pdu.PresentationContextRQ{ID: 9, AbstractSyntax: getClass, TransferSyntaxes: []string{implicitLE}},
		pdu.PresentationContextRQ{ID: 11, AbstractSyntax: ctImage, TransferSyntaxes: []string{implicitLE}},
		pdu.PresentationContextRQ{ID: 13, AbstractSyntax: moveClass, TransferSyntaxes: []string{implicitLE}},
		pdu.PresentationContextRQ{ID: 15, AbstractSyntax: findClass, TransferSyntaxes: []string{jpeg2000}})
	rq.User.Roles = []pdu.RoleSelection{{SOPClassUID: ctImage, SCP: true}}
	rq.User.AsyncOperations = window
	rq.User.SOPClassExtended = []pdu.SOPClassExtended{{SOPClassUID: findClass, Information: []byte{1, 1, 1}}, {SOPClassUID: getClass, Information: []byte{1}}}
	return p, p.Associate(rq)
}

func queryRQ(field, messageID uint16, class string) dimsetest.Elements {
	return dimsetest.Elements{dimsetest.AffectedSOPClassUID: dimsetest.UI(class), dimsetest.CommandField: dimsetest.US(field),
		dimsetest.MessageID: dimsetest.US(messageID), dimsetest.Priority: dimsetest.US(0), dimsetest.DataSetType: dimsetest.US(1)}
}

func cancelRQ(messageID uint16) dimsetest.Elements {
	return dimsetest.Elements{dimsetest.CommandField: dimsetest.US(0x0FFF), dimsetest.MessageIDBeingRespondedTo: dimsetest.US(messageID), dimsetest.DataSetType: dimsetest.US(0x0101)}
}

// TestQueryNegotiation: the services that the handler has, identifiers uncompressed,
// the role of C-GET, and the extended negotiation.
func TestQueryNegotiation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		_, ac := asking(t, &dimse.Server{Handler: &queried{}})
		for i, want := range []struct {
			result pdu.ContextResult
			syntax string
		}{{pdu.ContextAccepted, implicitLE}, {pdu.ContextAccepted, implicitLE}, {pdu.ContextAccepted, implicitLE}, {pdu.ContextAccepted, implicitLE},
			{pdu.ContextAbstractNotSupported, implicitLE}, {pdu.ContextTransfersNotSupported, implicitLE}} {
			if got := ac.Contexts[i]; got.Result != want.result || got.TransferSyntax != want.syntax {
				t.Errorf("context %d is answered %v, want %v", got.ID, got, want)
			}
		}
		if got := ac.User.Roles; len(got) != 1 || got[0] != (pdu.RoleSelection{SOPClassUID: ctImage, SCP: true}) {
			t.Errorf("roles %v, want SCP of CT", got)
		}
		if x := ac.User.SOPClassExtended; len(x) != 2 || !bytes.Equal(x[0].Information, []byte{0, 1, 0}) || !bytes.Equal(x[1].Information, []byte{0}) {
			t.Errorf("extended negotiation %v, want combined dates and times only", x)
		}
	})
}

// TestFindCanceled: C-CANCEL is heard while matches are found, and answered at once.
func TestFindCanceled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := asking(t, &dimse.Server{Handler: &queried{find: func(ctx context.Context, req *dimse.QueryRequest, match func(dimse.Match) error) error {
			if !req.CombinedDateTime || req.Identifier.String(dicomtag.PatientID) != "P1" {
				t.Errorf("request %+v", req)
			}
			if err := match(dimse.Match{Identifier: []*dataset.Element{dataset.MustElement(dicomtag.PatientID, "P1")}, Unsupported: true}); err != nil {
				return err
			}
			<-ctx.Done()
			return ctx.Err()
		}}})
		p.SendPDU(dimsetest.CommandPDU(7, queryRQ(0x0020, 5, findClass)), dimsetest.DataPDU(7, true, identifierOf(t, dataset.MustElement(dicomtag.PatientID, "P1"))))
		d := p.ExpectType(pdu.TypeData).(*pdu.Data)
		command, _ := d.Next()
		rsp, err := dimsetest.ParseCommand(command.Fragment)
		if err != nil || rsp.Number(dimsetest.Status) != 0xFF01 || rsp.Number(dimsetest.MessageIDBeingRespondedTo) != 5 {
			t.Fatalf("got %v, %v, want a pending response", rsp, err)
		}
		if body, ok := p.ExpectType(pdu.TypeData).(*pdu.Data).Next(); !ok || body.Command || !bytes.Contains(body.Fragment, []byte("P1")) {
			t.Errorf("no identifier behind it")
		}
		p.SendPDU(dimsetest.CommandPDU(7, cancelRQ(4))) // of another message
		synctest.Wait()
		p.ExpectSilence()
		time.Sleep(time.Hour) // who waits for an answer may be silent
		synctest.Wait()
		p.ExpectSilence()
		p.SendPDU(dimsetest.CommandPDU(7, cancelRQ(5)))
		if rsp := p.ExpectCommand(7); rsp.Number(dimsetest.Status) != 0xFE00 || rsp.Number(dimsetest.CommandField) != 0x8020 {
			t.Errorf("got %v, want C-FIND-RSP with FE00", rsp)
		}
		p.SendPDU(dimsetest.CommandPDU(7, cancelRQ(5))) // too late
		p.SendPDU(dimsetest.CommandPDU(1, dimsetest.EchoRQ(6)))
		if rsp := p.ExpectCommand(1); rsp.Number(dimsetest.Status) != 0 {
			t.Errorf("C-ECHO afterwards: %v", rsp)
		}
	})
}

// TestHostileQueries: what is wrong with a request costs that request only.
func TestHostileQueries(t *testing.T) {
	good := identifierOf(t, dataset.MustElement(dicomtag.PatientID, "P1"))
	for _, tt := range []struct {
		name    string
		context byte
		command dimsetest.Elements
		data    []byte
		status  int
	}{
		{"not a data set", 7, queryRQ(0x0020, 1, findClass), []byte("GET / HTTP/1.1\r\n"), 0xC000},
		{"a length beyond the end", 7, queryRQ(0x0020, 1, findClass), good[:len(good)-1], 0xC000},
		{"deep sequences", 7, queryRQ(0x0020, 1, findClass), bytes.Repeat([]byte{0x08, 0, 0x15, 0x11, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE, 0xFF, 0, 0xE0, 0xFF, 0xFF, 0xFF, 0xFF}, 2000), 0xC000},
		{"longer than is read", 7, queryRQ(0x0020, 1, findClass), bytes.Repeat([]byte{0x10, 0, 0x20, 0, 0, 0, 0, 0}, 1<<17+1), 0xA700},
		{"no identifier", 7, queryRQ(0x0020, 1, findClass).With(dimsetest.DataSetType, dimsetest.US(0x0101)), nil, 0xC000},
		{"another SOP class", 7, queryRQ(0x0020, 1, getClass), good, 0x0122},
		{"C-GET on a context of C-FIND", 7, queryRQ(0x0010, 1, findClass), good, 0x0122},
		{"C-MOVE without a mover", 7, queryRQ(0x0021, 1, findClass), good, 0x0122},
		{"C-FIND on a context of CT", 11, queryRQ(0x0020, 1, ctImage), good, 0x0211},
		{"C-STORE on a context of C-FIND", 7, dimsetest.StoreRQ(1, findClass, instanceUID), good, 0x0122},
		{"C-STORE by who takes only", 11, dimsetest.StoreRQ(1, ctImage, instanceUID), good, 0x0124},
		{"good", 7, queryRQ(0x0020, 1, findClass), good, 0},
		{"empty", 7, queryRQ(0x0020, 1, findClass), []byte{}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, _ := asking(t, &dimse.Server{Handler: &queried{find: func(context.Context, *dimse.QueryRequest, func(dimse.Match) error) error { return nil }}})
				p.SendPDU(dimsetest.CommandPDU(tt.context, tt.command))
				for data := tt.data; tt.data != nil; {
					n := min(len(data), 16000)
					p.SendPDU(dimsetest.DataPDU(tt.context, n == len(data), data[:n]))
					if data = data[n:]; len(data) == 0 {
						break
					}
				}
				rsp := p.ExpectCommand(tt.context)
				if rsp.Number(dimsetest.Status) != tt.status || strings.Contains(rsp.Text(dimsetest.ErrorComment), "P1") {
					t.Errorf("got %04XH %q, want %04XH", rsp.Number(dimsetest.Status), rsp.Text(dimsetest.ErrorComment), tt.status)
				}
				p.SendPDU(dimsetest.CommandPDU(1, dimsetest.EchoRQ(2)))
				if rsp := p.ExpectCommand(1); rsp.Number(dimsetest.Status) != 0 {
					t.Errorf("C-ECHO afterwards: %v", rsp)
				}
			})
		})
	}
}

// TestGetUnanswered: who asks for images and does not take them is not waited for
// without end, and an abort ends what is under way.
func TestGetUnanswered(t *testing.T) {
	for _, abort := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			ended := make(chan error, 1)
			p, _ := asking(t, &dimse.Server{Idle: time.Minute, Handler: &queried{get: func(ctx context.Context, req *dimse.QueryRequest, _ func(dimse.SubOperations) error) (dimse.Retrieved, error) {
				_, err := req.Store(ctx, ctImage, instanceUID, implicitLE, io.MultiReader(strings.NewReader("data"), strings.NewReader(" set")))
				ended <- err
				return dimse.Retrieved{}, err
			}}})
			p.SendPDU(dimsetest.CommandPDU(9, queryRQ(0x0010, 5, getClass)), dimsetest.DataPDU(9, true, identifierOf(t, dataset.MustElement(dicomtag.PatientID, "P1"))))
			d := p.ExpectType(pdu.TypeData).(*pdu.Data)
			command, _ := d.Next()
			rq, err := dimsetest.ParseCommand(command.Fragment)
			if err != nil || command.ContextID != 11 || rq.Number(dimsetest.CommandField) != 1 || rq.Text(dimsetest.AffectedSOPInstanceUID) != instanceUID {
				t.Fatalf("got %v, %v, want C-STORE-RQ", rq, err)
			}
			p.ExpectType(pdu.TypeData) // its data set
			if abort {
				p.SendPDU(&pdu.Abort{})
				p.ExpectClosed()
			} else {
				p.ExpectType(pdu.TypeAbort)
			}
			if err := <-ended; err == nil {
				t.Error("Store = nil, want an error")
			}
		})
	}
}

// TestMoveOriginator: a sub-operation names the C-MOVE that it is of.
func TestMoveOriginator(t *testing.T) {
	conn, p := open(t)
	go func() {
		_, _ = conn.StoreFor(t.Context(), dimse.MoveOriginator{AETitle: "WS1", MessageID: 77}, ctImage, instanceUID, explicitLE, strings.NewReader("data"))
	}()
	d := p.ExpectType(pdu.TypeData).(*pdu.Data)
	command, _ := d.Next()
	rq, err := dimsetest.ParseCommand(command.Fragment)
	if err != nil || rq.Text(0x1030) != "WS1" || rq.Number(0x1031) != 77 {
		t.Errorf("got %v, %v; want the originator WS1, message 77", rq, err)
	}
}

// TestRequestBesideGet: a peer whose second request has no room while its C-GET waits
// for it would wait for ever, and keep its place, if that request waited too.
func TestRequestBesideGet(t *testing.T) {
	t.Run("window", func(t *testing.T) { requestBesideGet(t, &dimse.Server{}, nil) })
	t.Run("bytes in flight", func(t *testing.T) {
		requestBesideGet(t, &dimse.Server{MaxBytesInFlight: 1}, &pdu.AsyncOperations{Invoked: 2, Performed: 1})
	})
}

func requestBesideGet(t *testing.T, s *dimse.Server, window *pdu.AsyncOperations) {
	synctest.Test(t, func(t *testing.T) {
		stored := make(chan error, 1)
		s.Idle = time.Hour
		s.Handler = &queried{get: func(ctx context.Context, req *dimse.QueryRequest, _ func(dimse.SubOperations) error) (dimse.Retrieved, error) {
			status, err := req.Store(ctx, ctImage, instanceUID, implicitLE, strings.NewReader("data"))
			if err == nil && status != 0 {
				err = fmt.Errorf("status %04XH", status)
			}
			stored <- err
			return dimse.Retrieved{SubOperations: dimse.SubOperations{Completed: 1}}, err
		}}
		p, _ := askingWith(t, s, window)
		keys := identifierOf(t, dataset.MustElement(dicomtag.PatientID, "P1"))
		p.SendPDU(dimsetest.CommandPDU(9, queryRQ(0x0010, 5, getClass)), dimsetest.DataPDU(9, true, keys))
		next := func() dimsetest.Elements {
			for {
				v, _ := p.ExpectType(pdu.TypeData).(*pdu.Data).Next()
				if !v.Command {
					continue // the data set of the sub-operation
				}
				c, err := dimsetest.ParseCommand(v.Fragment)
				if err != nil {
					t.Fatal(err)
				}
				return c
			}
		}
		rq := next()
		if rq.Number(dimsetest.CommandField) != 1 {
			t.Fatalf("got %v, want C-STORE-RQ", rq)
		}
		p.SendPDU(dimsetest.CommandPDU(7, queryRQ(0x0020, 6, findClass)), dimsetest.DataPDU(7, true, keys))
		if rsp := next(); rsp.Number(dimsetest.MessageIDBeingRespondedTo) != 6 || rsp.Number(dimsetest.Status) != 0x0213 {
			t.Errorf("the second request is answered %v, want 0213H", rsp)
		}
		p.SendPDU(dimsetest.CommandPDU(11, dimsetest.Elements{
			dimsetest.CommandField: dimsetest.US(0x8001), dimsetest.MessageIDBeingRespondedTo: dimsetest.US(uint16(rq.Number(dimsetest.MessageID))),
			dimsetest.DataSetType: dimsetest.US(0x0101), dimsetest.Status: dimsetest.US(0),
		}))
		if err := <-stored; err != nil {
			t.Errorf("Store = %v", err)
		}
		if rsp := next(); rsp.Number(dimsetest.MessageIDBeingRespondedTo) != 5 || rsp.Number(dimsetest.Status) != 0 {
			t.Errorf("C-GET is answered %v, want success", rsp)
		}
	})
}
