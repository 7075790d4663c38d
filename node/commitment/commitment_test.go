package commitment_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/commitment"
	"hilum/node/config"
	"hilum/node/task"
	"hilum/store"
	"hilum/store/storetest"
)

const ct, mr = "1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.4"

// keep stores an image of class under uid.
func keep(t *testing.T, st *store.Store, class, uid, bytes string) {
	t.Helper()
	w, err := st.NewInstance()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Abort() }()
	if _, err := w.Write([]byte(bytes)); err != nil {
		t.Fatal(err)
	}
	if _, err := w.Commit(store.Instance{SOPClassUID: class, SOPInstanceUID: uid, SeriesInstanceUID: "1.2", StudyInstanceUID: "1", TransferSyntaxUID: dataset.ExplicitVRLittleEndian}); err != nil {
		t.Fatal(err)
	}
}

// data is a data set of storage commitment, made without the code under test.
func data(t *testing.T, transaction string, good, failed []task.Object) []byte {
	t.Helper()
	items := func(objects []task.Object, more ...*dataset.Element) (out [][]*dataset.Element) {
		for _, o := range objects {
			out = append(out, append([]*dataset.Element{
				dataset.MustElement(dicomtag.ReferencedSOPClassUID, o.SOPClassUID), dataset.MustElement(dicomtag.ReferencedSOPInstanceUID, o.SOPInstanceUID)}, more...))
		}
		return out
	}
	var elements []*dataset.Element
	if transaction != "" {
		elements = append(elements, dataset.MustElement(dicomtag.TransactionUID, transaction))
	}
	if good != nil {
		elements = append(elements, dataset.Sequence(dicomtag.ReferencedSOPSequence, items(good)...))
	}
	if failed != nil {
		elements = append(elements, dataset.Sequence(dicomtag.FailedSOPSequence, items(failed, dataset.MustElement(dicomtag.FailureReason, 0x0112))...))
	}
	var b bytes.Buffer
	if err := dataset.WriteDataSet(&b, dataset.ImplicitVRLittleEndian, elements); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// many is a request for n images, one implicit element behind the other.
func many(transaction string, n int) []byte {
	element := func(b []byte, group, number uint16, value string) []byte {
		if len(value)%2 == 1 {
			value += "\x00"
		}
		b = binary.LittleEndian.AppendUint16(binary.LittleEndian.AppendUint16(b, group), number)
		return append(binary.LittleEndian.AppendUint32(b, uint32(len(value))), value...)
	}
	b := element(nil, 0x0008, 0x1195, transaction)
	b = append(b, 0x08, 0x00, 0x99, 0x11, 0xFF, 0xFF, 0xFF, 0xFF)
	for i := range n {
		item := element(element(nil, 0x0008, 0x1150, ct), 0x0008, 0x1155, fmt.Sprint("1.2.840.113619.2.55.3.604688119.971.1234567890.", i))
		b = append(b, 0xFE, 0xFF, 0x00, 0xE0)
		b = append(binary.LittleEndian.AppendUint32(b, uint32(len(item))), item...)
	}
	return append(b, 0xFE, 0xFF, 0xDD, 0xE0, 0, 0, 0, 0)
}

// outcome is what a peer was told, in the order of the data set.
type outcome struct {
	event  uint16
	text   string // "transaction good good / failed=reason"
	around string // "own" association or that of the "request"
}

// peer is a requester: it takes outcomes.
type peer struct {
	t      *testing.T
	around string
	answer func() error
	told   chan outcome
}

func (p *peer) HandleN(_ context.Context, rq *dimse.NRequest) (dimse.NResponse, error) {
	if rq.Operation != dimse.NEventReport || rq.SOPInstanceUID != "1.2.840.10008.1.20.1.1" {
		p.t.Errorf("peer was asked %s of %s", rq.Operation, rq.SOPInstanceUID)
	}
	tree, err := dataset.ReadTree(rq.Data, rq.TransferSyntaxUID, dataset.TreeLimits{Nodes: 1 << 20, Bytes: 32 << 20})
	if err != nil {
		return dimse.NResponse{}, err
	}
	text := tree.Text(dicomtag.TransactionUID)
	list := tree.Items(dicomtag.ReferencedSOPSequence)
	if len(list) > 10 {
		text += fmt.Sprintf(" %d of them", len(list))
		list = nil
	}
	for _, item := range list {
		text += " " + item.Text(dicomtag.ReferencedSOPInstanceUID)
	}
	for _, item := range tree.Items(dicomtag.FailedSOPSequence) {
		var reason []byte
		for _, n := range item {
			if n.Tag == dicomtag.FailureReason {
				reason = n.Value
			}
		}
		text += fmt.Sprintf(" %s=%02X%02X", item.Text(dicomtag.ReferencedSOPInstanceUID), reason[1], reason[0])
	}
	if p.answer != nil {
		if err := p.answer(); err != nil {
			return dimse.NResponse{}, err
		}
	}
	p.told <- outcome{rq.TypeID, text, p.around}
	return dimse.NResponse{}, nil
}

func logger(t *testing.T) *slog.Logger {
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelWarn}))
}

// node is a listener with the service, and the work behind it.
type node struct {
	provider  *commitment.Provider
	requester *commitment.Requester
	address   string
	stop      func()
}

func listen(t *testing.T, s *dimse.Server) (address string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(l); !errors.Is(err, dimse.ErrServerClosed) {
			t.Error(err)
		}
	})
	stop = sync.OnceFunc(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = s.Shutdown(ctx)
		wg.Wait()
	})
	t.Cleanup(stop)
	return l.Addr().String(), stop
}

// start runs a node over a store; to is where CT1 accepts associations.
func start(t *testing.T, st *store.Store, rules config.Commitment, to string) *node {
	t.Helper()
	n := &node{
		provider: &commitment.Provider{Store: st, Rules: rules, Retry: task.Retry{Backoff: time.Millisecond, MaxBackoff: time.Millisecond}, Calling: "HILUM", Log: logger(t), Now: time.Now,
			Peer: func(title string) (config.Destination, bool) {
				return config.Destination{Name: title, AETitle: title, Address: to, Timeout: 5 * time.Second}, title == "CT1" && to != ""
			}},
		requester: &commitment.Requester{Store: st, Rules: rules, Calling: "HILUM", Log: logger(t), Now: time.Now},
	}
	if _, err := st.RequeueRunning(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { // what the worker of the node does
		for ctx.Err() == nil {
			changed := st.Changed()
			job, ok, err := st.Lease(commitment.Queue)
			switch {
			case err != nil:
				return
			case ok:
				if err := n.provider.Run(ctx, job); err != nil {
					t.Error(err)
				}
			default:
				wait := time.NewTimer(20 * time.Millisecond)
				select {
				case <-changed:
				case <-wait.C:
				case <-ctx.Done():
				}
			}
		}
	})
	service := commitment.Service{Provider: n.provider, Requester: n.requester}
	address, shut := listen(t, &dimse.Server{AETitle: "HILUM", Normalized: map[string]dimse.NService{commitment.SOPClass: service.NService()}})
	n.address = address
	n.stop = sync.OnceFunc(func() { shut(); cancel(); wg.Wait(); n.requester.Wait() })
	t.Cleanup(n.stop)
	return n
}

// ask sends an N-ACTION and returns the connection.
func ask(t *testing.T, n *node, p *peer, body []byte, change func(*dimse.NInvocation)) (*dimse.Conn, error) {
	t.Helper()
	client := dimse.Client{CallingAETitle: "CT1", CalledAETitle: "HILUM", Timeout: 10 * time.Second,
		Contexts: []dimse.PresentationContext{{AbstractSyntax: commitment.SOPClass, TransferSyntaxes: []string{dataset.ImplicitVRLittleEndian}}}}
	if p != nil {
		client.Normalized = map[string]dimse.NService{commitment.SOPClass: {Handler: p}}
	}
	conn, err := client.Dial(t.Context(), n.address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	rq := &dimse.NInvocation{Operation: dimse.NAction, SOPClassUID: commitment.SOPClass, SOPInstanceUID: commitment.SOPInstance, TypeID: 1,
		DataSet: func(string) ([]byte, error) { return body, nil }}
	if change != nil {
		change(rq)
	}
	_, err = conn.Invoke(t.Context(), rq)
	return conn, err
}

func objects(uids ...string) (out []task.Object) {
	for _, uid := range uids {
		out = append(out, task.Object{SOPClassUID: ct, SOPInstanceUID: uid})
	}
	return out
}

var openRules = config.Commitment{Report: config.ReportOpen, Wait: time.Hour, Linger: 5 * time.Second}

// TestOutcome asks for every kind of image, on an open association.
func TestOutcome(t *testing.T) {
	st := storetest.MustOpenDir(t, t.TempDir(), store.Options{MinFree: -1})
	keep(t, st, ct, "1.2.1", "one")
	keep(t, st, ct, "1.2.2", "two")
	keep(t, st, mr, "1.2.3", "three")
	keep(t, st, ct, "1.2.4", "four")
	keep(t, st, ct, "1.2.4", "other bytes")
	if err := st.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	rules := openRules
	rules.Verify = true
	n := start(t, st, rules, "")
	tests := []struct {
		name    string
		objects []task.Object
		want    outcome
	}{
		{"all there", objects("1.2.1", "1.2.2"), outcome{1, "2.25.1 1.2.1 1.2.2", "request"}},
		{"the same again", objects("1.2.1", "1.2.2"), outcome{1, "2.25.1 1.2.1 1.2.2", "request"}},
		{"the transaction is another", objects("1.2.1"), outcome{2, "2.25.1 1.2.1=0131", "request"}},
		{"none there", objects("9.9"), outcome{2, "2.25.4 9.9=0112", "request"}},
		{"another class", objects("1.2.1", "1.2.3"), outcome{2, "2.25.5 1.2.1 1.2.3=0119", "request"}},
		{"other bytes in quarantine", objects("1.2.4"), outcome{2, "2.25.6 1.2.4=0110", "request"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := &peer{t: t, around: "request", told: make(chan outcome, 1)}
			transaction := tt.want.text[:6]
			conn, err := ask(t, n, p, data(t, transaction, tt.objects, nil), nil)
			if err != nil {
				t.Fatal(err)
			}
			if came, err := conn.AwaitRequest(t.Context(), 10*time.Second); !came || err != nil {
				t.Fatalf("AwaitRequest() = %v, %v, want the outcome", came, err)
			}
			if got := <-p.told; got != tt.want {
				t.Errorf("told %+v, want %+v", got, tt.want)
			}
		})
	}
}

// TestRefusedRequests holds the statuses of what is no request.
func TestRefusedRequests(t *testing.T) {
	st := storetest.MustOpenDir(t, t.TempDir(), store.Options{MinFree: -1})
	n := start(t, st, openRules, "")
	good := data(t, "2.25.1", objects("1.2.1"), nil)
	tests := []struct {
		name   string
		body   []byte
		change func(*dimse.NInvocation)
		want   dimse.Status
	}{
		{"another instance", good, func(i *dimse.NInvocation) { i.SOPInstanceUID = "1.2.3" }, 0x0112},
		{"another action", good, func(i *dimse.NInvocation) { i.TypeID = 2 }, 0x0123},
		{"N-SET", good, func(i *dimse.NInvocation) { i.Operation = dimse.NSet }, 0x0211},
		{"no data set", nil, nil, 0x0120},
		{"no transaction", data(t, "", objects("1.2.1"), nil), nil, 0x0120},
		{"no UID", data(t, "../etc", objects("1.2.1"), nil), nil, 0x0106},
		{"no references", data(t, "2.25.1", nil, nil), nil, 0x0120},
		{"failures only", data(t, "2.25.1", nil, objects("1.2.1")), nil, 0x0120},
		{"an empty reference", data(t, "2.25.1", []task.Object{{}}, nil), nil, 0x0106},
		{"a reference that is a path", data(t, "2.25.1", objects("../../1"), nil), nil, 0x0106},
		{"cut off", good[:len(good)-3], nil, 0x0110},
		{"too many", many("2.25.1", 100_001), nil, 0x0213},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ask(t, n, nil, tt.body, tt.change)
			var status *dimse.StatusError
			if !errors.As(err, &status) || status.Status != tt.want {
				t.Errorf("N-ACTION = %v, want status %s", err, tt.want)
			}
		})
	}
	if jobs, err := st.Jobs(commitment.Queue); err != nil || len(jobs) != 0 {
		t.Errorf("refused requests left %d jobs, %v", len(jobs), err)
	}
}

// TestOwnAssociation tells the outcome to where the peer listens: it is gone, it
// is not there, it refuses, the node is restarted in between.
func TestOwnAssociation(t *testing.T) {
	dir := t.TempDir()
	st := storetest.MustOpenDir(t, dir, store.Options{MinFree: -1})
	keep(t, st, ct, "1.2.1", "one")
	l, err := net.Listen("tcp", "127.0.0.1:0") // a port where nobody answers yet
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	rules := openRules
	rules.Report = config.ReportNew
	n := start(t, st, rules, address)
	conn, err := ask(t, n, nil, data(t, "2.25.1", objects("1.2.1"), nil), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	for { // until it has failed once
		changed := st.Changed()
		jobs, err := st.Jobs(commitment.Queue)
		if err != nil || len(jobs) != 1 {
			t.Fatalf("Jobs() = %v, %v, want one", jobs, err)
		}
		if jobs[0].Attempts > 0 && jobs[0].State == store.JobRetry {
			break
		}
		<-changed
	}
	n.stop()
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}

	refusals := 2
	p := &peer{t: t, around: "own", told: make(chan outcome, 1), answer: func() error {
		if refusals--; refusals >= 0 {
			return &dimse.StatusError{Status: dimse.StatusProcessingFailure}
		}
		return nil
	}}
	server := &dimse.Server{AETitle: "CT1", Normalized: map[string]dimse.NService{commitment.SOPClass: {Handler: p, Requestor: dimse.Roles{SCP: true}}}}
	if l, err = net.Listen("tcp", address); err != nil {
		t.Skipf("the port is taken by another program meanwhile: %v", err)
	}
	go func() { _ = server.Serve(l) }()
	t.Cleanup(func() { _ = server.Close() })

	st = storetest.MustOpenDir(t, dir, store.Options{MinFree: -1})
	start(t, st, rules, address)
	if got, want := <-p.told, (outcome{1, "2.25.1 1.2.1", "own"}); got != want {
		t.Errorf("told %+v, want %+v", got, want)
	}
}

// TestNoAddress: the association is gone and nobody knows where the peer listens.
func TestNoAddress(t *testing.T) {
	st := storetest.MustOpenDir(t, t.TempDir(), store.Options{MinFree: -1})
	rules := openRules
	rules.Report = config.ReportNew
	n := start(t, st, rules, "")
	if _, err := ask(t, n, nil, data(t, "2.25.1", objects("1.2.1"), nil), nil); err != nil {
		t.Fatal(err)
	}
	for {
		changed := st.Changed()
		jobs, err := st.Jobs(commitment.Queue)
		if err != nil {
			t.Fatal(err)
		}
		if jobs[0].State == store.JobDead {
			if !bytes.Contains([]byte(jobs[0].Reason), []byte("report_to")) {
				t.Errorf("reason = %q, want what to do", jobs[0].Reason)
			}
			return
		}
		<-changed
	}
}

// TestManyReferences: the largest transaction there is, told in one event.
func TestManyReferences(t *testing.T) {
	st := storetest.MustOpenDir(t, t.TempDir(), store.Options{MinFree: -1})
	n := start(t, st, openRules, "")
	got := make(chan int, 1)
	client := dimse.Client{CallingAETitle: "CT1", CalledAETitle: "HILUM", Timeout: time.Minute,
		Contexts:   []dimse.PresentationContext{{AbstractSyntax: commitment.SOPClass, TransferSyntaxes: []string{dataset.ImplicitVRLittleEndian}}},
		Normalized: map[string]dimse.NService{commitment.SOPClass: {Handler: counter(got)}}}
	conn, err := client.Dial(t.Context(), n.address)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Invoke(t.Context(), &dimse.NInvocation{Operation: dimse.NAction, SOPClassUID: commitment.SOPClass, SOPInstanceUID: commitment.SOPInstance, TypeID: 1,
		DataSet: func(string) ([]byte, error) { return many("2.25.1", 100_000), nil }}); err != nil {
		t.Fatal(err)
	}
	if came, err := conn.AwaitRequest(t.Context(), time.Minute); !came || err != nil {
		t.Fatalf("AwaitRequest() = %v, %v, want the outcome", came, err)
	}
	if n := <-got; n != 100_000 {
		t.Errorf("told of %d images, want 100000", n)
	}
}

// counter counts the images in an outcome.
type counter chan int

func (c counter) HandleN(_ context.Context, rq *dimse.NRequest) (dimse.NResponse, error) {
	tree, err := dataset.ReadTree(rq.Data, rq.TransferSyntaxUID, dataset.TreeLimits{Nodes: 1 << 20, Bytes: 32 << 20})
	c <- len(tree.Items(dicomtag.FailedSOPSequence))
	return dimse.NResponse{}, err
}

// TestRequest plays the requester against the provider of another node, with the
// outcome on the same association and on another.
func TestRequest(t *testing.T) {
	for _, report := range []string{config.ReportOpen, config.ReportNew} {
		t.Run(report, func(t *testing.T) {
			pacs := storetest.MustOpenDir(t, t.TempDir(), store.Options{MinFree: -1})
			keep(t, pacs, ct, "1.2.1", "one")
			own := storetest.MustOpenDir(t, t.TempDir(), store.Options{MinFree: -1})
			ended := make(chan commitment.Transaction, 1)
			here := start(t, own, openRules, "")
			here.requester.Ended = func(tr commitment.Transaction) error { ended <- tr; return nil }
			rules := openRules
			rules.Report = report
			there := start(t, pacs, rules, here.address)
			there.provider.Peer = func(title string) (config.Destination, bool) {
				return config.Destination{Name: "hilum", AETitle: "HILUM", CallingAETitle: "PACS", Address: here.address, Timeout: 5 * time.Second}, title == "HILUM"
			}
			destination := config.Destination{Name: "pacs", AETitle: "PACS", Address: there.address, Timeout: 5 * time.Second}
			// The other node is called HILUM too.
			destination.AETitle = "HILUM"
			if report == config.ReportNew {
				there.provider.Calling = "HILUM"
				there.provider.Peer = func(title string) (config.Destination, bool) {
					return config.Destination{Name: "hilum", AETitle: "HILUM", Address: here.address, Timeout: 5 * time.Second}, title == "HILUM"
				}
			}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			uid, err := here.requester.Request(ctx, destination, objects("1.2.1"))
			if err != nil {
				t.Fatal(err)
			}
			if got := <-ended; got.UID != uid || got.State != commitment.Committed || len(got.Failures) != 0 {
				t.Errorf("transaction = %+v, want it committed", got)
			}
			if uid, err = here.requester.Request(ctx, destination, objects("1.2.1", "1.2.2")); err != nil {
				t.Fatal(err)
			}
			got := <-ended
			if got.UID != uid || got.State != commitment.Failed || len(got.Failures) != 1 || got.Failures[0].SOPInstanceUID != "1.2.2" || got.Failures[0].Reason != 0x0112 {
				t.Errorf("transaction = %+v, want 1.2.2 failed for 0112", got)
			}
			cancel()
		})
	}
}

// TestEvents holds what the requester makes of outcomes, right and wrong.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		st := storetest.MustOpenDir(t, t.TempDir(), store.Options{MinFree: -1})
		var ended []commitment.Transaction
		busy := true
		r := &commitment.Requester{Store: st, Rules: config.Commitment{Wait: time.Minute}, Log: logger(t), Now: time.Now,
			Ended: func(tr commitment.Transaction) error {
				if ended = append(ended, tr); busy {
					return errors.New("try again")
				}
				return nil
			}}
		if _, err := r.Request(t.Context(), config.Destination{Address: "127.0.0.1:1"}, nil); err == nil {
			t.Error("Request(nothing) = nil, want an error")
		}
		begin := func(uid string) {
			value := fmt.Sprintf(`{"uid":%q,"destination":"pacs","ae_title":"PACS","state":"pending","deadline":%q,"objects":[{"sop_class_uid":%q,"sop_instance_uid":"1.2.1"},{"sop_class_uid":%q,"sop_instance_uid":"1.2.2"}]}`,
				uid, time.Now().Add(time.Minute).Format(time.RFC3339Nano), ct, ct)
			if err := st.WriteRecords(store.Record{Kind: "commitment-asked", Key: uid, Value: []byte(value)}); err != nil {
				t.Fatal(err)
			}
		}
		event := func(from string, typeID uint16, body []byte) error {
			h := commitment.EventsOf(r, from)
			rsp, err := h.HandleN(t.Context(), &dimse.NRequest{Operation: dimse.NEventReport, SOPClassUID: commitment.SOPClass, SOPInstanceUID: commitment.SOPInstance,
				TypeID: typeID, TransferSyntaxUID: dataset.ImplicitVRLittleEndian, Data: bytes.NewReader(body)})
			if rsp.After != nil {
				rsp.After()
			}
			return err
		}
		begin("2.25.1")
		for _, tt := range []struct {
			name  string
			from  string
			event uint16
			body  []byte
			want  dimse.Status
		}{
			{"another transaction", "PACS", 1, data(t, "2.25.99", objects("1.2.1"), nil), 0x0115},
			{"another peer", "EVIL", 1, data(t, "2.25.1", objects("1.2.1", "1.2.2"), nil), 0x0124},
			{"another event", "PACS", 3, data(t, "2.25.1", objects("1.2.1"), nil), 0x0113},
			{"nothing in it", "PACS", 1, data(t, "2.25.1", nil, nil), 0x0120},
		} {
			var status *dimse.StatusError
			if err := event(tt.from, tt.event, tt.body); !errors.As(err, &status) || status.Status != tt.want {
				t.Errorf("%s: %v, want %s", tt.name, err, tt.want)
			}
		}
		if tr, err := r.Transaction("2.25.1"); err != nil || tr.State != commitment.Pending {
			t.Fatalf("transaction = %+v, %v, want it pending still", tr, err)
		}
		// Event 1 that leaves one out does not commit to it.
		if err := event("PACS", 1, data(t, "2.25.1", objects("1.2.1"), nil)); err != nil {
			t.Fatal(err)
		}
		tr, err := r.Transaction("2.25.1")
		if err != nil || tr.State != commitment.Failed || len(tr.Failures) != 1 || tr.Failures[0].SOPInstanceUID != "1.2.2" || tr.Delivered {
			t.Errorf("transaction = %+v, %v, want 1.2.2 failed and not delivered", tr, err)
		}
		busy = false
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		begin("2.25.2") // nobody answers
		go func() { defer close(done); r.Run(ctx) }()
		time.Sleep(150 * time.Second)
		synctest.Wait()
		if len(ended) != 3 || ended[1].UID != "2.25.1" || ended[2].UID != "2.25.2" || ended[2].State != commitment.Expired {
			t.Errorf("delivered %+v, want 2.25.1 again and 2.25.2 expired", ended)
		}
		// Late is better than never.
		if err := event("PACS", 1, data(t, "2.25.2", objects("1.2.1", "1.2.2"), nil)); err != nil {
			t.Fatal(err)
		}
		if tr, err := r.Transaction("2.25.2"); err != nil || tr.State != commitment.Committed || !tr.Delivered || len(ended) != 4 {
			t.Errorf("transaction = %+v, %v, want it committed and delivered", tr, err)
		}
		time.Sleep(8 * 24 * time.Hour)
		synctest.Wait()
		if all, err := r.Transactions(); err != nil || len(all) != 0 {
			t.Errorf("%d transactions are kept after a week, %v", len(all), err)
		}
		cancel()
		<-done
	})
}
