package node_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/dimse/dimsetest"
	"hilum/node"
	"hilum/node/config"
	"hilum/node/web"
)

const ctImageStorage = "1.2.840.10008.5.1.4.1.1.2"

// null is the test plugin, built once.
var null string

func TestMain(m *testing.M) {
	dir, err := os.MkdirTemp("", "hilum-node-test-")
	if err != nil {
		panic(err)
	}
	null = filepath.Join(dir, "null")
	if out, err := exec.Command("go", "build", "-o", null, "hilum/plugins/null").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build plugins/null: %v\n%s", err, out)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

// testConfig is a node on a free port with one plugin that is told what to do.
func testConfig(t *testing.T, args ...string) config.Config {
	t.Helper()
	cfg := config.Default()
	cfg.Listen = "127.0.0.1:0"
	cfg.Data = filepath.Join(t.TempDir(), "data")
	cfg.Series = config.Series{Quiet: 100 * time.Millisecond, AssociationWait: 100 * time.Millisecond, GapWait: 200 * time.Millisecond}
	cfg.Jobs.Backoff = 50 * time.Millisecond
	cfg.Plugins = []config.Plugin{config.DefaultPlugin()}
	cfg.Plugins[0].Name, cfg.Plugins[0].Path, cfg.Plugins[0].Args = "null", null, args
	return cfg
}

// start runs a node and a client of it; both end with the test.
func start(t *testing.T, cfg config.Config) (*node.Node, *web.Client) {
	t.Helper()
	return startLogging(t, cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
}

func startLogging(t *testing.T, cfg config.Config, log *slog.Logger) (*node.Node, *web.Client) {
	t.Helper()
	n, err := node.Start(t.Context(), node.Options{Config: cfg, Version: "test", Logger: log})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := n.Stop(ctx); err != nil {
			t.Error(err)
		}
	})
	client, err := web.Open(t.Context(), cfg.Data, nil, log)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	return n, client
}

// slice is the data set of one CT image, explicit little endian; edit changes
// it before it is written.
func slice(t *testing.T, series string, number int, edit func([]*dataset.Element) []*dataset.Element) (uid string, data []byte) {
	t.Helper()
	uid = fmt.Sprintf("%s.%d", series, number)
	elements := []*dataset.Element{
		dataset.MustElement(dicomtag.SOPClassUID, ctImageStorage),
		dataset.MustElement(dicomtag.SOPInstanceUID, uid),
		dataset.MustElement(dicomtag.StudyDate, "20260102"),
		dataset.MustElement(dicomtag.Modality, "CT"),
		dataset.MustElement(dicomtag.PatientName, "SECRET^NAME"),
		dataset.MustElement(dicomtag.PatientID, "SECRET-ID"),
		dataset.MustElement(dicomtag.StudyInstanceUID, "1.2.3"),
		dataset.MustElement(dicomtag.SeriesInstanceUID, series),
		dataset.MustElement(dicomtag.InstanceNumber, fmt.Sprint(number)),
		dataset.MustElement(dicomtag.ImagePositionPatient, "0", "0", fmt.Sprint(2*number)),
		dataset.MustElement(dicomtag.ImageOrientationPatient, "1", "0", "0", "0", "1", "0"),
		dataset.MustElement(dicomtag.FrameOfReferenceUID, "1.2.3.99"),
		dataset.MustElement(dicomtag.PixelData, bytes.Repeat([]byte{byte(number), 0}, 5000)),
	}
	if edit != nil {
		elements = edit(elements)
	}
	var out bytes.Buffer
	if err := dataset.WriteDataSet(&out, dataset.ExplicitVRLittleEndian, elements); err != nil {
		t.Fatal(err)
	}
	return uid, out.Bytes()
}

func dial(t *testing.T, n *node.Node) *dimse.Conn {
	t.Helper()
	c := dimse.Client{CallingAETitle: "CT1", CalledAETitle: "HILUM", Timeout: 10 * time.Second, Contexts: []dimse.PresentationContext{
		{AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{dataset.ExplicitVRLittleEndian}},
	}}
	conn, err := c.Dial(t.Context(), n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// send stores images first to last of a series in one association.
func send(t *testing.T, n *node.Node, series string, first, last int) {
	t.Helper()
	conn := dial(t, n)
	for i := first; i <= last; i++ {
		uid, data := slice(t, series, i, nil)
		if _, err := conn.Store(t.Context(), ctImageStorage, uid, dataset.ExplicitVRLittleEndian, bytes.NewReader(data)); err != nil {
			t.Fatalf("image %d: %v", i, err)
		}
	}
	if err := conn.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

// until polls what a person would look at until it is as wanted; the deadline
// is the test's own.
func until[T any](t *testing.T, what string, ask func(context.Context) (T, error), good func(T) bool) T {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for {
		v, err := ask(ctx)
		if err == nil && good(v) {
			return v
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s did not happen; last seen %+v, %v", what, v, err)
		case <-tick.C:
		}
	}
}

func jobIn(state string, index int) func([]web.Job) bool {
	return func(jobs []web.Job) bool { return len(jobs) > index && jobs[index].State == state }
}

// pacs is a destination that keeps what it is sent, or answers as told.
type pacs struct {
	mu       sync.Mutex
	answer   error // to the next C-STORE
	refuse   func(data []byte) error
	received [][]byte
}

func (p *pacs) CStore(_ context.Context, req *dimse.StoreRequest) error {
	data, err := io.ReadAll(req.Data)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	answer := p.answer
	p.answer = nil
	if answer == nil && p.refuse != nil {
		answer = p.refuse(data)
	}
	if answer == nil {
		p.received = append(p.received, data)
	}
	return answer
}

func (p *pacs) count(context.Context) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.received), nil
}

func (p *pacs) listen(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return p.serve(t, l)
}

func (p *pacs) serve(t *testing.T, l net.Listener) string {
	t.Helper()
	server := &dimse.Server{AETitle: "PACS", Handler: p, Logger: slog.New(slog.DiscardHandler)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, dimse.ErrServerClosed) {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

func destination(address string) config.Destination {
	return config.Destination{Name: "pacs", Results: []string{config.ResultSR}, AETitle: "PACS", Address: address, Timeout: 5 * time.Second, Backoff: 20 * time.Millisecond, MaxBackoff: 100 * time.Millisecond}
}

// TestRoad: images in, report out, and a late image makes a second report that
// supersedes the first.
func TestRoad(t *testing.T) {
	p := &pacs{}
	cfg := testConfig(t, "-findings", "2")
	cfg.Destinations = []config.Destination{destination(p.listen(t))}
	n, client := start(t, cfg)
	send(t, n, "1.2.3.4", 1, 5)
	jobs := until(t, "the first analysis", client.Jobs, jobIn("done", 0))
	if jobs[0].Findings != 2 || jobs[0].SeriesInstanceUID != "1.2.3.4" || jobs[0].Plugin != "null" || jobs[0].Revision != 1 {
		t.Errorf("job = %+v", jobs[0])
	}
	until(t, "the first delivery", p.count, func(n int) bool { return n == 1 })

	send(t, n, "1.2.3.4", 6, 6)
	until(t, "the second analysis", client.Jobs, jobIn("done", 1))
	until(t, "the second delivery", p.count, func(n int) bool { return n == 2 })
	job, err := client.Job(t.Context(), jobs[0].ID)
	if err != nil || len(job.Detail.Instances) != 5 {
		t.Fatalf("first job = %+v, %v; want 5 images", job, err)
	}

	want := []dataset.Tag{dicomtag.Modality, dicomtag.PatientName, dicomtag.StudyInstanceUID, dicomtag.PredecessorDocumentsSequence}
	h, err := dataset.Scan(bytes.NewReader(p.received[1]), dataset.ExplicitVRLittleEndian, want, dataset.DefaultLimits)
	if err != nil || h.String(dicomtag.Modality) != "SR" || h.String(dicomtag.PatientName) != "SECRET^NAME" || h.String(dicomtag.StudyInstanceUID) != "1.2.3" {
		t.Errorf("report: %v, %v", h.Map(), err)
	}
	if !bytes.Contains(p.received[1], []byte(job.Report)) {
		t.Error("the second report does not name the first, which it supersedes")
	}
	if studies, err := client.Studies(t.Context()); err != nil || len(studies) != 1 || len(studies[0].Series) != 2 {
		t.Errorf("studies = %+v, %v; want one with the CT and the report series", studies, err)
	} else if ct, sr := studies[0].Series[0], studies[0].Series[1]; ct.State != "complete" || ct.Revision != 2 || sr.State != "generated" || sr.Instances != 2 {
		t.Errorf("series = %+v", studies[0].Series)
	}
}

// TestOwnReportIsNoInput: a PACS that sends our report, or images that carry
// our name, starts nothing.
func TestOwnReportIsNoInput(t *testing.T) {
	n, client := start(t, testConfig(t))
	conn := dial(t, n)
	uid, data := slice(t, "1.2.3.4", 1, func(e []*dataset.Element) []*dataset.Element {
		return append(e, dataset.MustElement(dicomtag.Manufacturer, "Hilum"))
	})
	if _, err := conn.Store(t.Context(), ctImageStorage, uid, dataset.ExplicitVRLittleEndian, bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	until(t, "completion", client.Studies, func(s []web.Study) bool { return len(s) == 1 && s[0].Series[0].State == "complete" })
	if jobs, err := client.Jobs(t.Context()); err != nil || len(jobs) != 0 {
		t.Errorf("jobs = %+v, %v; want none", jobs, err)
	}
}

// TestRefused: a bad object costs its C-STORE and nothing else; the peer is told which
// element is to blame, and neither it nor the log anything of the patient.
func TestRefused(t *testing.T) {
	log := &lines{}
	n, client := startLogging(t, testConfig(t), slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	conn := dial(t, n)
	without := func(tag dataset.Tag) func([]*dataset.Element) []*dataset.Element {
		return func(e []*dataset.Element) []*dataset.Element {
			var out []*dataset.Element
			for _, el := range e {
				if el.Tag != tag {
					out = append(out, el)
				}
			}
			return out
		}
	}
	replace := func(tag dataset.Tag, value string) func([]*dataset.Element) []*dataset.Element {
		return func(e []*dataset.Element) []*dataset.Element {
			return append(without(tag)(e), dataset.MustElement(tag, value))
		}
	}
	for _, tt := range []struct {
		name    string
		edit    func([]*dataset.Element) []*dataset.Element
		cut     int // bytes off the end
		status  dimse.Status
		comment string
		element dataset.Tag
	}{
		{"truncated", nil, 100, dimse.StatusCannotUnderstand, "byte", dicomtag.PixelData},
		{"cut within a UID", without(dicomtag.PixelData), 3, dimse.StatusCannotUnderstand, "byte", dicomtag.FrameOfReferenceUID},
		{"no class", without(dicomtag.SOPClassUID), 0, dimse.StatusDataSetMismatch, "SOP Class UID is missing", dicomtag.SOPClassUID},
		{"no instance", without(dicomtag.SOPInstanceUID), 0, dimse.StatusDataSetMismatch, "SOP Instance UID is missing", dicomtag.SOPInstanceUID},
		{"no series", without(dicomtag.SeriesInstanceUID), 0, dimse.StatusDataSetMismatch, "Series Instance UID is missing", dicomtag.SeriesInstanceUID},
		{"no study", without(dicomtag.StudyInstanceUID), 0, dimse.StatusDataSetMismatch, "Study Instance UID is missing", dicomtag.StudyInstanceUID},
		{"empty study", replace(dicomtag.StudyInstanceUID, ""), 0, dimse.StatusDataSetMismatch, "Study Instance UID is missing", dicomtag.StudyInstanceUID},
		{"path as UID", replace(dicomtag.SeriesInstanceUID, "../../etc"), 0, dimse.StatusDataSetMismatch, "Series Instance UID is not a UID", dicomtag.SeriesInstanceUID},
		{"a name as UID", replace(dicomtag.StudyInstanceUID, "SECRET^NAME"), 0, dimse.StatusDataSetMismatch, "Study Instance UID is not a UID", dicomtag.StudyInstanceUID},
		{"other instance", replace(dicomtag.SOPInstanceUID, "9.9.9"), 0, dimse.StatusDataSetMismatch, "SOP Instance UID differs", dicomtag.SOPInstanceUID},
		{"other class", replace(dicomtag.SOPClassUID, "1.2.840.10008.5.1.4.1.1.4"), 0, dimse.StatusDataSetMismatch, "SOP Class UID differs", dicomtag.SOPClassUID},
	} {
		t.Run(tt.name, func(t *testing.T) {
			uid, data := slice(t, "1.2.3.4", 1, tt.edit)
			_, err := conn.Store(t.Context(), ctImageStorage, uid, dataset.ExplicitVRLittleEndian, bytes.NewReader(data[:len(data)-tt.cut]))
			var status *dimse.StatusError
			if !errors.As(err, &status) || status.Status != tt.status || !strings.Contains(status.Comment, tt.comment) {
				t.Fatalf("Store = %v, want %s with %q", err, tt.status, tt.comment)
			}
			if !slices.Equal(status.OffendingElements, []dataset.Tag{tt.element}) || len(status.Comment) > 64 {
				t.Errorf("offending elements %v, comment %q; want %v and at most 64 characters", status.OffendingElements, status.Comment, tt.element)
			}
			if err != nil && strings.Contains(err.Error(), "SECRET") {
				t.Error("the answer holds patient data")
			}
		})
	}
	if studies, err := client.Studies(t.Context()); err != nil || len(studies) != 0 {
		t.Errorf("studies = %+v, %v; want none", studies, err)
	}
	uid, data := slice(t, "1.2.3.4", 1, nil)
	if _, err := conn.Store(t.Context(), ctImageStorage, uid, dataset.ExplicitVRLittleEndian, bytes.NewReader(data)); err != nil {
		t.Errorf("a good image after the bad ones: %v", err)
	}
	if strings.Contains(log.String(), "SECRET") {
		t.Errorf("the log holds patient data:\n%s", log)
	}
}

// TestDead: what cannot be analysed ends dead at once, what fails is tried
// again and then ends dead, each with its reason; a retry by hand queues it.
func TestDead(t *testing.T) {
	for _, tt := range []struct {
		behaviour string
		attempts  int
		reason    string
	}{
		{"refuse", 1, "null was told to refuse"},
		{"fail", 2, "given up after 2 attempts"},
		{"exit=3", 2, "given up after 2 attempts"},
	} {
		t.Run(tt.behaviour, func(t *testing.T) {
			cfg := testConfig(t, "-job", tt.behaviour)
			cfg.Jobs.Attempts = 2
			n, client := start(t, cfg)
			send(t, n, "1.2.3.4", 1, 3)
			jobs := until(t, "the end of the job", client.Jobs, jobIn("dead", 0))
			if !strings.Contains(jobs[0].Reason, tt.reason) || jobs[0].Attempts != tt.attempts {
				t.Errorf("job = %+v, want %d attempts and %q", jobs[0], tt.attempts, tt.reason)
			}
			if j, err := client.RetryJob(t.Context(), jobs[0].ID); err != nil || j.State != "queued" {
				t.Errorf("retry = %+v, %v", j, err)
			}
			until(t, "the end of the second round", client.Jobs, func(again []web.Job) bool {
				return again[0].State == "dead" && again[0].Updated.After(jobs[0].Updated)
			})
		})
	}
}

// TestDelivery: a destination that is away is tried again, one that is out of
// resources too, one that refuses the object makes a dead letter.
func TestDelivery(t *testing.T) {
	t.Run("away, then busy, then there", func(t *testing.T) {
		p := &pacs{answer: &dimse.StatusError{Status: dimse.StatusOutOfResources}}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		cfg := testConfig(t)
		cfg.Destinations = []config.Destination{destination(l.Addr().String())}
		_ = l.Close() // nobody listens there yet
		n, client := start(t, cfg)
		send(t, n, "1.2.3.4", 1, 3)
		until(t, "a failed delivery", client.Deliveries, func(d []web.Delivery) bool { return len(d) == 1 && d[0].State == "retry" && d[0].Attempts >= 2 })

		l, err = net.Listen("tcp", cfg.Destinations[0].Address)
		if err != nil {
			t.Fatal(err)
		}
		server := &dimse.Server{AETitle: "PACS", Handler: p, Logger: slog.New(slog.DiscardHandler)}
		served := make(chan error, 1)
		go func() { served <- server.Serve(l) }()
		until(t, "the delivery", client.Deliveries, func(d []web.Delivery) bool { return d[0].State == "done" })
		if got, _ := p.count(t.Context()); got != 1 {
			t.Errorf("%d reports arrived, want 1", got)
		}
		_ = server.Close()
		<-served
	})
	t.Run("refused", func(t *testing.T) {
		p := &pacs{answer: &dimse.StatusError{Status: dimse.StatusDataSetMismatch, Comment: "not wanted"}}
		cfg := testConfig(t)
		cfg.Destinations = []config.Destination{destination(p.listen(t))}
		n, client := start(t, cfg)
		send(t, n, "1.2.3.4", 1, 3)
		d := until(t, "the dead letter", client.Deliveries, func(d []web.Delivery) bool { return len(d) == 1 && d[0].State == "dead" })
		if !strings.Contains(d[0].Reason, "A900") {
			t.Errorf("reason = %q, want the status", d[0].Reason)
		}
		if _, err := client.RetryDelivery(t.Context(), d[0].ID); err != nil {
			t.Fatal(err)
		}
		until(t, "the delivery after a retry by hand", p.count, func(n int) bool { return n == 1 })
	})
}

// TestRestart: a node that is stopped in the middle of an analysis, and while
// a series is arriving, goes on after its restart.
func TestRestart(t *testing.T) {
	cfg := testConfig(t, "-job", "wait")
	n, client := start(t, cfg)
	send(t, n, "1.2.3.4", 1, 3)
	until(t, "the start of the analysis", client.Jobs, jobIn("running", 0))
	send(t, n, "1.2.3.5", 1, 3)
	if err := n.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	cfg.Plugins[0].Args = nil
	_, client = start(t, cfg)
	jobs := until(t, "the end of both analyses", client.Jobs, func(jobs []web.Job) bool {
		return len(jobs) == 2 && jobs[0].State == "done" && jobs[1].State == "done"
	})
	if jobs[0].Attempts != 1 {
		t.Errorf("attempts = %d, want 1: an interrupted one does not count", jobs[0].Attempts)
	}
}

// TestStartErrors: each ends in one sentence that says what to do, and leaves
// nothing running.
func TestStartErrors(t *testing.T) {
	busy, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer busy.Close()
	running := testConfig(t)
	start(t, running)
	for _, tt := range []struct {
		name string
		edit func(*config.Config)
		want string
	}{
		{"port in use", func(c *config.Config) { c.Listen = busy.Addr().String() }, "is in use by another program"},
		{"data folder in use", func(c *config.Config) { c.Data = running.Data }, "in use"},
		{"plugin missing", func(c *config.Config) { c.Plugins[0].Path = "/nonexistent/plugin" }, "/nonexistent/plugin"},
		{"plugin checksum", func(c *config.Config) { c.Plugins[0].SHA256 = strings.Repeat("0", 64) }, "0000"},
		{"plugin dies", func(c *config.Config) { c.Plugins[0].Args = []string{"-start", "say=no library here,exit=1"} }, "no library here"},
		{"certificate missing", func(c *config.Config) {
			c.TLS = config.TLS{Certificate: "/nonexistent/cert.pem", Key: "/nonexistent/key.pem"}
		}, "/nonexistent/cert.pem"},
		{"authority of a destination missing", func(c *config.Config) {
			d := destination("127.0.0.1:1")
			d.TLS = config.DestinationTLS{Enabled: true, CA: "/nonexistent/ca.pem"}
			c.Destinations = []config.Destination{d}
		}, "/nonexistent/ca.pem"},
		{"model missing", func(c *config.Config) { c.Plugins[0].Model = "/nonexistent/model" }, "/nonexistent/model"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig(t)
			tt.edit(&cfg)
			_, err := node.Start(t.Context(), node.Options{Config: cfg, Version: "test", Logger: slog.New(slog.DiscardHandler), AllPlugins: true})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Fatalf("Start = %v, want %q", err, tt.want)
			}
			if _, err := os.Stat(filepath.Join(cfg.Data, "admin.sock")); err == nil && cfg.Data != running.Data {
				t.Error("the admin socket was left behind")
			}
		})
	}
}

// TestPeers: the node keeps to the rules of its configuration.
func TestPeers(t *testing.T) {
	cfg := testConfig(t)
	cfg.UnknownPeers = config.UnknownRefuse
	cfg.Peers = []config.Peer{
		{AETitle: "CT1", Addresses: []string{"127.0.0.0/8"}, Called: []string{"RESEARCH"}, Services: []string{config.ServiceEcho}},
		{AETitle: "CT2", Addresses: []string{"192.0.2.1"}},
	}
	n, _ := start(t, cfg)
	for _, tt := range []struct {
		calling, called string
		ok              bool
	}{
		{"CT1", "RESEARCH", true},
		{"CT1", "HILUM", false},
		{"CT2", "HILUM", false},
		{"CT3", "HILUM", false},
	} {
		c := dimse.Client{CallingAETitle: tt.calling, CalledAETitle: tt.called, Timeout: 10 * time.Second, Contexts: []dimse.PresentationContext{
			dimse.VerificationContext(), {AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{dataset.ExplicitVRLittleEndian}},
		}}
		conn, err := c.Dial(t.Context(), n.Addr().String())
		if (err == nil) != tt.ok {
			t.Errorf("%s calls %s: %v, want ok %v", tt.calling, tt.called, err, tt.ok)
		}
		if err != nil {
			continue
		}
		if err := conn.Echo(t.Context()); err != nil || conn.Accepted(ctImageStorage, dataset.ExplicitVRLittleEndian) {
			t.Errorf("%s: echo %v, storage %v; want echo only", tt.calling, err, !conn.Accepted(ctImageStorage, dataset.ExplicitVRLittleEndian))
		}
		if err := conn.Release(t.Context()); err != nil {
			t.Error(err)
		}
	}
}

// TestDeliveryUnderTLS: a destination that demands a certificate gets that of
// the node; one whose certificate is not trusted gets nothing.
func TestDeliveryUnderTLS(t *testing.T) {
	ca, other := dimsetest.NewAuthority(t), dimsetest.NewAuthority(t)
	serverTLS := dimse.TLSProfile()
	serverTLS.Certificates = []tls.Certificate{ca.Issue("pacs").TLS}
	serverTLS.ClientAuth, serverTLS.ClientCAs = tls.RequireAndVerifyClientCert, ca.Pool
	p := &pacs{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	own := ca.Issue("node")
	trusted := destination(p.serve(t, tls.NewListener(l, serverTLS)))
	trusted.TLS = config.DestinationTLS{Enabled: true, CA: ca.File, Certificate: own.File, Key: own.KeyFile}
	stranger := trusted
	stranger.Name, stranger.TLS.CA = "stranger", other.File
	cfg := testConfig(t)
	cfg.Destinations = []config.Destination{trusted, stranger}
	n, client := start(t, cfg)
	send(t, n, "1.2.3.4", 1, 3)
	until(t, "a delivery and a failed one", client.Deliveries, func(d []web.Delivery) bool {
		states := map[string]string{}
		for _, one := range d {
			states[one.Destination] = one.State + " " + one.Reason
		}
		return strings.HasPrefix(states["pacs"], "done") && strings.HasPrefix(states["stranger"], "retry") && strings.Contains(states["stranger"], "unknown authority")
	})
	if got, _ := p.count(t.Context()); got != 1 {
		t.Errorf("%d reports arrived, want 1", got)
	}
}
