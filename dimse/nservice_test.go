package dimse_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
)

const (
	commitClass    = "1.2.840.10008.1.20.1"
	commitInstance = "1.2.840.10008.1.20.1.1"
	mppsClass      = "1.2.840.10008.3.1.2.3.3"
)

// asked is what a normalized handler keeps of one request.
type asked struct {
	operation           dimse.NOperation
	sopClass, instance  string
	typeID              uint16
	attributes          []dataset.Tag
	transferSyntax      string
	data                string
	hasData, associated bool
}

// normalized is an NHandler that reads and remembers.
type normalized struct {
	answer func(*dimse.NRequest) (dimse.NResponse, error)
	mu     sync.Mutex
	asked  []asked
}

func (n *normalized) HandleN(_ context.Context, rq *dimse.NRequest) (dimse.NResponse, error) {
	data, err := io.ReadAll(rq.Data)
	if err != nil {
		return dimse.NResponse{}, err
	}
	n.mu.Lock()
	n.asked = append(n.asked, asked{rq.Operation, rq.SOPClassUID, rq.SOPInstanceUID, rq.TypeID, rq.Attributes, rq.TransferSyntaxUID, string(data), rq.HasData, rq.Association != nil})
	n.mu.Unlock()
	if n.answer != nil {
		return n.answer(rq)
	}
	return dimse.NResponse{}, nil
}

// nRequest is an association request for storage commitment (1) and MPPS (3).
func nRequest(roles ...pdu.RoleSelection) *pdu.AssociateRQ {
	rq := request()
	rq.Contexts = []pdu.PresentationContextRQ{
		{ID: 1, AbstractSyntax: commitClass, TransferSyntaxes: []string{implicitLE}},
		{ID: 3, AbstractSyntax: mppsClass, TransferSyntaxes: []string{explicitLE, implicitLE}},
		{ID: 5, AbstractSyntax: ctImage, TransferSyntaxes: []string{implicitLE}},
	}
	rq.User.Roles = roles
	return rq
}

func nServer(h *normalized) *dimse.Server {
	both := dimse.Roles{SCU: true, SCP: true}
	return &dimse.Server{Handler: &recorder{}, Normalized: map[string]dimse.NService{
		commitClass: {Handler: h, Requestor: both, MaxDataSet: 1000}, mppsClass: {Handler: h},
	}}
}

// nCommand is a DIMSE-N request, with a data set or without.
func nCommand(field uint16, class, instance string, data bool) dimsetest.Elements {
	e := dimsetest.Elements{dimsetest.CommandField: dimsetest.US(field), dimsetest.MessageID: dimsetest.US(77), dimsetest.DataSetType: dimsetest.US(0x0101)}
	if data {
		e[dimsetest.DataSetType] = dimsetest.US(1)
	}
	sopClass, sopInstance := uint16(0x0003), uint16(0x1001)
	if field == 0x0100 || field == 0x0140 {
		sopClass, sopInstance = 0x0002, 0x1000
	}
	e[sopClass] = dimsetest.UI(class)
	if instance != "" {
		e[sopInstance] = dimsetest.UI(instance)
	}
	return e
}

// TestNormalizedRequests plays every DIMSE-N request, right and wrong, against
// the acceptor.
func TestNormalizedRequests(t *testing.T) {
	failing := func(err error) func(*dimse.NRequest) (dimse.NResponse, error) {
		return func(*dimse.NRequest) (dimse.NResponse, error) { return dimse.NResponse{}, err }
	}
	action := nCommand(0x0130, commitClass, commitInstance, true).With(0x1008, dimsetest.US(1))
	event := nCommand(0x0100, commitClass, commitInstance, true).With(0x1002, dimsetest.US(2))
	scp := []pdu.RoleSelection{{SOPClassUID: commitClass, SCP: true}}
	scu := []pdu.RoleSelection{{SOPClassUID: commitClass, SCU: true}}
	tests := []struct {
		name    string
		roles   []pdu.RoleSelection
		context byte
		rq      dimsetest.Elements
		data    string
		answer  func(*dimse.NRequest) (dimse.NResponse, error)
		status  int
		want    *asked
		rsp     dimsetest.Elements // elements of the response beside those of every one
		body    string
	}{
		{name: "N-ACTION", context: 1, rq: action, data: "12345678", want: &asked{dimse.NAction, commitClass, commitInstance, 1, nil, implicitLE, "12345678", true, true},
			rsp: dimsetest.Elements{0x1008: dimsetest.US(1), dimsetest.AffectedSOPInstanceUID: dimsetest.UI(commitInstance)}},
		{name: "N-EVENT-REPORT of an SCP", roles: scp, context: 1, rq: event, data: "1234", want: &asked{dimse.NEventReport, commitClass, commitInstance, 2, nil, implicitLE, "1234", true, true},
			rsp: dimsetest.Elements{0x1002: dimsetest.US(2), dimsetest.AffectedSOPInstanceUID: dimsetest.UI(commitInstance)}},
		{name: "N-EVENT-REPORT without role selection", context: 1, rq: event, data: "1234", want: &asked{dimse.NEventReport, commitClass, commitInstance, 2, nil, implicitLE, "1234", true, true}},
		{name: "N-EVENT-REPORT of an SCU", roles: scu, context: 1, rq: event, data: "1234", status: 0x0211},
		{name: "N-ACTION of an SCP", roles: scp, context: 1, rq: action, data: "1234", status: 0x0211},
		{name: "N-CREATE", context: 3, rq: nCommand(0x0140, mppsClass, "2.25.1", true), data: "12", want: &asked{dimse.NCreate, mppsClass, "2.25.1", 0, nil, explicitLE, "12", true, true}},
		{name: "N-CREATE that leaves the UID to the SCP", context: 3, rq: nCommand(0x0140, mppsClass, "", false),
			answer: func(*dimse.NRequest) (dimse.NResponse, error) { return dimse.NResponse{SOPInstanceUID: "2.25.9"}, nil },
			want:   &asked{dimse.NCreate, mppsClass, "", 0, nil, explicitLE, "", false, true},
			rsp:    dimsetest.Elements{dimsetest.AffectedSOPInstanceUID: dimsetest.UI("2.25.9")}},
		{name: "N-SET", context: 3, rq: nCommand(0x0120, mppsClass, "2.25.1", true), data: "12", want: &asked{dimse.NSet, mppsClass, "2.25.1", 0, nil, explicitLE, "12", true, true}},
		{name: "N-GET with a data set", context: 3, rq: nCommand(0x0110, mppsClass, "2.25.1", false).With(0x1005, []byte{0x40, 0, 0x52, 2}),
			answer: func(*dimse.NRequest) (dimse.NResponse, error) {
				return dimse.NResponse{DataSet: bytes.Repeat([]byte("ab"), 20_000)}, nil
			},
			want: &asked{dimse.NGet, mppsClass, "2.25.1", 0, []dataset.Tag{{Group: 0x40, Element: 0x252}}, explicitLE, "", false, true}, body: string(bytes.Repeat([]byte("ab"), 20_000))},
		{name: "N-DELETE that the class does not have", context: 3, rq: nCommand(0x0150, mppsClass, "2.25.1", false), answer: failing(dimse.ErrUnrecognized), status: 0x0211,
			want: &asked{dimse.NDelete, mppsClass, "2.25.1", 0, nil, explicitLE, "", false, true}},
		{name: "an error with its id", context: 3, rq: nCommand(0x0120, mppsClass, "2.25.1", false), status: 0x0110,
			answer: failing(&dimse.StatusError{Status: dimse.StatusProcessingFailure, ErrorID: 0xA710, Comment: "it is final"}),
			want:   &asked{dimse.NSet, mppsClass, "2.25.1", 0, nil, explicitLE, "", false, true},
			rsp:    dimsetest.Elements{0x0903: dimsetest.US(0xA710), dimsetest.ErrorComment: []byte("it is final ")[:11+1]}},
		{name: "an error that is not for the peer", context: 3, rq: nCommand(0x0120, mppsClass, "2.25.1", false), answer: failing(errors.New("disk on fire")), status: 0x0110,
			want: &asked{dimse.NSet, mppsClass, "2.25.1", 0, nil, explicitLE, "", false, true}},
		{name: "another class than the context's", context: 1, rq: action.With(0x0003, dimsetest.UI(mppsClass)), data: "1234", status: 0x0118},
		{name: "no class", context: 1, rq: action.With(0x0003, nil), data: "1234", status: 0x0118},
		{name: "no instance", context: 1, rq: action.With(0x1001, nil), data: "1234", status: 0x0117},
		{name: "an instance that is a path", context: 1, rq: action.With(0x1001, []byte("../../etc/passwd")), data: "1234", status: 0x0117},
		{name: "a data set that is too long", context: 1, rq: action, data: string(make([]byte, 1002)), status: 0x0213},
		{name: "on a storage context", context: 5, rq: action, data: "1234", status: 0x0211},
		{name: "C-STORE on a normalized context", context: 1, rq: dimsetest.StoreRQ(77, commitClass, "2.25.1"), data: "1234", status: 0x0122},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := &normalized{answer: tt.answer}
				p := dial(t, listen(t, nServer(h)))
				p.Associate(nRequest(tt.roles...))
				p.SendPDU(dimsetest.CommandPDU(tt.context, tt.rq))
				if tt.data != "" {
					half := len(tt.data) / 2
					p.SendPDU(dimsetest.DataPDU(tt.context, false, []byte(tt.data[:half])), dimsetest.DataPDU(tt.context, true, []byte(tt.data[half:])))
				}
				got := p.ExpectCommand(tt.context)
				if got.Number(dimsetest.Status) != tt.status || got.Number(dimsetest.MessageIDBeingRespondedTo) != 77 || got.Number(dimsetest.CommandField) != tt.rq.Number(dimsetest.CommandField)|0x8000 {
					t.Errorf("response = %v, want status %04X to message 77", got, tt.status)
				}
				for n, v := range tt.rsp {
					if !bytes.Equal(got[n], v) {
						t.Errorf("element (0000,%04X) of the response = %q, want %q", n, got[n], v)
					}
				}
				if body := expectData(t, p, got); body != tt.body {
					t.Errorf("data set of the response has %d bytes, want %d", len(body), len(tt.body))
				}
				if tt.want == nil && len(h.asked) > 0 && tt.status != 0x0213 || tt.want != nil && (len(h.asked) != 1 || !equalAsked(h.asked[0], *tt.want)) {
					t.Errorf("handler was asked %+v, want %+v", h.asked, tt.want)
				}
				// The association goes on, whatever it was.
				p.SendPDU(dimsetest.CommandPDU(3, nCommand(0x0110, mppsClass, "2.25.1", false)))
				p.ExpectType(pdu.TypeData)
			})
		})
	}
}

func equalAsked(a, b asked) bool {
	same := len(a.attributes) == len(b.attributes)
	for i := range b.attributes {
		same = same && a.attributes[i] == b.attributes[i]
	}
	a.attributes, b.attributes = nil, nil
	return same && a.operation == b.operation && a.sopClass == b.sopClass && a.instance == b.instance && a.typeID == b.typeID &&
		a.transferSyntax == b.transferSyntax && a.data == b.data && a.hasData == b.hasData && a.associated == b.associated
}

// expectData gathers the data set that follows a command, if one does.
func expectData(t *testing.T, p *dimsetest.Peer, command dimsetest.Elements) string {
	t.Helper()
	if command.Number(dimsetest.DataSetType) == 0x0101 {
		return ""
	}
	var body []byte
	for {
		d := p.ExpectType(pdu.TypeData).(*pdu.Data)
		for d.More() {
			v, _ := d.Next()
			body = append(body, v.Fragment...)
			if v.Last {
				return string(body)
			}
		}
	}
}

// TestNormalizedRoles holds the answers to role selection, PS3.7 D.3.3.4.
func TestNormalizedRoles(t *testing.T) {
	tests := []struct {
		name     string
		class    string
		id       byte
		scu, scp bool
		result   pdu.ContextResult
		want     *pdu.RoleSelection
	}{
		{"both, both possible", commitClass, 0, true, true, pdu.ContextAccepted, &pdu.RoleSelection{SOPClassUID: commitClass, SCU: true, SCP: true}},
		{"SCP, both possible", commitClass, 0, false, true, pdu.ContextAccepted, &pdu.RoleSelection{SOPClassUID: commitClass, SCP: true}},
		{"both, SCU possible", mppsClass, 1, true, true, pdu.ContextAccepted, &pdu.RoleSelection{SOPClassUID: mppsClass, SCU: true}},
		{"SCP, SCU possible", mppsClass, 1, false, true, pdu.ContextUserRejection, nil},
		{"neither", commitClass, 0, false, false, pdu.ContextAccepted, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := dial(t, listen(t, nServer(&normalized{})))
				ac := p.Associate(nRequest(pdu.RoleSelection{SOPClassUID: tt.class, SCU: tt.scu, SCP: tt.scp}))
				if got := ac.Contexts[tt.id].Result; got != tt.result {
					t.Errorf("context of %s = %v, want %v", tt.class, got, tt.result)
				}
				switch got := ac.User.Roles; {
				case tt.want == nil && len(got) != 0, tt.want != nil && (len(got) != 1 || got[0] != *tt.want):
					t.Errorf("roles = %v, want %v", got, tt.want)
				}
			})
		})
	}
}

// TestNormalizedClient holds the two sides against each other: requests of the
// requestor, and events of the acceptor on the same association.
func TestNormalizedClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var association *dimse.Association
		server := &normalized{answer: func(rq *dimse.NRequest) (dimse.NResponse, error) {
			association = rq.Association
			if rq.Operation == dimse.NGet {
				return dimse.NResponse{Status: 0x0107, DataSet: []byte("got it")}, nil
			}
			if rq.Operation == dimse.NSet {
				return dimse.NResponse{}, &dimse.StatusError{Status: 0x0110, ErrorID: 0xA710}
			}
			return dimse.NResponse{}, nil
		}}
		l := listen(t, nServer(server))
		raw, err := l.Dial()
		if err != nil {
			t.Fatal(err)
		}
		events := &normalized{}
		client := dimse.Client{CallingAETitle: "CT1", CalledAETitle: "HILUM",
			Contexts: []dimse.PresentationContext{
				{AbstractSyntax: commitClass, TransferSyntaxes: []string{implicitLE}}, {AbstractSyntax: mppsClass, TransferSyntaxes: []string{explicitLE}},
			},
			Roles:      map[string]dimse.Roles{commitClass: {SCU: true, SCP: true}},
			Normalized: map[string]dimse.NService{commitClass: {Handler: events}},
		}
		conn, err := client.Associate(t.Context(), raw)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if got, want := conn.Roles(commitClass), (dimse.Roles{SCU: true, SCP: true}); got != want {
			t.Errorf("Roles(commitment) = %v, want %v", got, want)
		}
		if got, want := conn.Roles(mppsClass), (dimse.Roles{SCU: true}); got != want {
			t.Errorf("Roles(mpps) = %v, want %v", got, want)
		}
		if _, err := conn.Invoke(t.Context(), &dimse.NInvocation{Operation: dimse.NAction, SOPClassUID: commitClass, SOPInstanceUID: commitInstance, TypeID: 1,
			DataSet: func(ts string) ([]byte, error) { return []byte("data in " + ts + " "), nil }}); err != nil {
			t.Fatalf("Invoke(N-ACTION) = %v, want no error", err)
		}
		if got := server.asked[0]; got.data != "data in "+implicitLE+" " || got.typeID != 1 || got.instance != commitInstance {
			t.Errorf("server was asked %+v, want the data set in the agreed transfer syntax", got)
		}
		rsp, err := conn.Invoke(t.Context(), &dimse.NInvocation{Operation: dimse.NGet, SOPClassUID: mppsClass, SOPInstanceUID: "2.25.1", Attributes: []dataset.Tag{{Group: 8, Element: 0x60}}})
		if err != nil || rsp.Status != 0x0107 || string(rsp.DataSet) != "got it" || rsp.TransferSyntaxUID != explicitLE || rsp.SOPInstanceUID != "2.25.1" {
			t.Errorf("Invoke(N-GET) = %+v, %v, want a warning with a data set", rsp, err)
		}
		var status *dimse.StatusError
		if _, err := conn.Invoke(t.Context(), &dimse.NInvocation{Operation: dimse.NSet, SOPClassUID: mppsClass, SOPInstanceUID: "2.25.1"}); !errors.As(err, &status) || status.ErrorID != 0xA710 {
			t.Errorf("Invoke(N-SET) = %v, want the error id A710", err)
		}
		if _, err := conn.Invoke(t.Context(), &dimse.NInvocation{Operation: dimse.NCreate, SOPClassUID: "1.2.3"}); !errors.Is(err, dimse.ErrNoContext) {
			t.Errorf("Invoke(unknown class) = %v, want ErrNoContext", err)
		}

		// Nothing comes: the association goes on.
		begin := time.Now()
		if came, err := conn.AwaitRequest(t.Context(), 5*time.Second); came || err != nil || time.Since(begin) != 5*time.Second {
			t.Errorf("AwaitRequest() = %v, %v after %s, want nothing after 5s", came, err, time.Since(begin))
		}
		report := &dimse.NInvocation{Operation: dimse.NEventReport, SOPClassUID: commitClass, SOPInstanceUID: commitInstance, TypeID: 1,
			DataSet: func(string) ([]byte, error) { return make([]byte, 100_000), nil }}
		sent := make(chan error, 1)
		go func() { _, err := association.Invoke(t.Context(), report); sent <- err }()
		if came, err := conn.AwaitRequest(t.Context(), 5*time.Second); !came || err != nil {
			t.Errorf("AwaitRequest() = %v, %v, want the event", came, err)
		}
		if err := <-sent; err != nil {
			t.Errorf("Invoke(N-EVENT-REPORT) = %v, want no error", err)
		}
		if len(events.asked) != 1 || len(events.asked[0].data) != 100_000 || events.asked[0].associated {
			t.Errorf("client was asked %d times, want once with 100000 bytes", len(events.asked))
		}

		// The end of the association ends what waits for it.
		go func() { _, err := association.Invoke(t.Context(), report); sent <- err }()
		synctest.Wait()
		_ = conn.Abort()
		if err := <-sent; !errors.Is(err, dimse.ErrConnClosed) {
			t.Errorf("Invoke() at the end of the association = %v, want ErrConnClosed", err)
		}
		synctest.Wait()
		if _, err := association.Invoke(t.Context(), report); !errors.Is(err, dimse.ErrConnClosed) {
			t.Errorf("Invoke() after the end of the association = %v, want ErrConnClosed", err)
		}
	})
}

// TestEventCrossesRequest has an event come while the response to a request is
// awaited.
func TestEventCrossesRequest(t *testing.T) {
	came, sent := make(chan struct{}), make(chan error, 1)
	server := &normalized{answer: func(rq *dimse.NRequest) (dimse.NResponse, error) {
		go func() {
			_, err := rq.Association.Invoke(t.Context(), &dimse.NInvocation{Operation: dimse.NEventReport, SOPClassUID: commitClass, SOPInstanceUID: commitInstance, TypeID: 1})
			sent <- err
		}()
		<-came // the event is there before this response is
		return dimse.NResponse{}, nil
	}}
	events := &normalized{answer: func(*dimse.NRequest) (dimse.NResponse, error) { close(came); return dimse.NResponse{}, nil }}
	client := dimse.Client{CallingAETitle: "CT1", CalledAETitle: "HILUM",
		Contexts:   []dimse.PresentationContext{{AbstractSyntax: commitClass, TransferSyntaxes: []string{implicitLE}}},
		Normalized: map[string]dimse.NService{commitClass: {Handler: events}},
	}
	conn, err := client.Dial(t.Context(), listenTCP(t, nServer(server)))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Invoke(t.Context(), &dimse.NInvocation{Operation: dimse.NAction, SOPClassUID: commitClass, SOPInstanceUID: commitInstance, TypeID: 1}); err != nil {
		t.Errorf("Invoke() that crosses an event = %v, want no error", err)
	}
	if err := <-sent; err != nil {
		t.Errorf("Invoke(N-EVENT-REPORT) that crosses a request = %v, want no error", err)
	}
}

// TestEventAnsweredBadly plays what a peer may make of an N-EVENT-REPORT.
func TestEventAnsweredBadly(t *testing.T) {
	rsp := dimsetest.Elements{dimsetest.CommandField: dimsetest.US(0x8100), dimsetest.MessageIDBeingRespondedTo: dimsetest.US(1),
		dimsetest.DataSetType: dimsetest.US(0x0101), dimsetest.Status: dimsetest.US(0)}
	tests := []struct {
		name   string
		answer []pdu.PDU
		want   func(error) bool
		goesOn bool
	}{
		{"right", []pdu.PDU{dimsetest.CommandPDU(1, rsp)}, func(err error) bool { return err == nil }, true},
		{"with a data set", []pdu.PDU{dimsetest.CommandPDU(1, rsp.With(dimsetest.DataSetType, dimsetest.US(1))), dimsetest.DataPDU(1, true, []byte("1234"))}, func(err error) bool { return err == nil }, true},
		{"failure", []pdu.PDU{dimsetest.CommandPDU(1, rsp.With(dimsetest.Status, dimsetest.US(0x0110)))}, func(err error) bool {
			var s *dimse.StatusError
			return errors.As(err, &s) && s.Status == 0x0110
		}, true},
		{"another message", []pdu.PDU{dimsetest.CommandPDU(1, rsp.With(dimsetest.MessageIDBeingRespondedTo, dimsetest.US(2)))}, closed, false},
		{"no message", []pdu.PDU{dimsetest.CommandPDU(1, rsp.With(dimsetest.MessageIDBeingRespondedTo, nil))}, closed, false},
		{"no status", []pdu.PDU{dimsetest.CommandPDU(1, rsp.With(dimsetest.Status, nil))}, closed, false},
		{"another operation", []pdu.PDU{dimsetest.CommandPDU(1, rsp.With(dimsetest.CommandField, dimsetest.US(0x8130)))}, closed, false},
		{"another context", []pdu.PDU{dimsetest.CommandPDU(3, rsp)}, closed, false},
		{"abort", []pdu.PDU{&pdu.Abort{}}, closed, false},
		{"release", []pdu.PDU{&pdu.ReleaseRQ{}}, closed, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var association *dimse.Association
				h := &normalized{answer: func(rq *dimse.NRequest) (dimse.NResponse, error) {
					association = rq.Association
					return dimse.NResponse{}, nil
				}}
				p := dial(t, listen(t, nServer(h)))
				p.Associate(nRequest())
				p.SendPDU(dimsetest.CommandPDU(1, nCommand(0x0130, commitClass, commitInstance, false)))
				p.ExpectCommand(1)
				sent := make(chan error, 1)
				go func() {
					_, err := association.Invoke(t.Context(), &dimse.NInvocation{Operation: dimse.NEventReport, SOPClassUID: commitClass, SOPInstanceUID: commitInstance, TypeID: 1})
					sent <- err
				}()
				if got := p.ExpectCommand(1); got.Number(0x1002) != 1 || got.Text(dimsetest.AffectedSOPClassUID) != commitClass || got.Text(dimsetest.AffectedSOPInstanceUID) != commitInstance {
					t.Errorf("N-EVENT-REPORT-RQ = %v, want event 1 of the well-known instance", got)
				}
				p.SendPDU(tt.answer...)
				if err := <-sent; !tt.want(err) {
					t.Errorf("Invoke() = %v", err)
				}
				if tt.goesOn {
					p.SendPDU(dimsetest.CommandPDU(1, nCommand(0x0130, commitClass, commitInstance, false)))
					p.ExpectCommand(1)
				}
			})
		})
	}
}

func closed(err error) bool { return errors.Is(err, dimse.ErrConnClosed) }
