package node_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node"
	"hilum/node/config"
)

const (
	explicitLE = dataset.ExplicitVRLittleEndian
	implicitLE = dataset.ImplicitVRLittleEndian
	mrImage    = "1.2.840.10008.5.1.4.1.1.4"
)

// holding is an image that a node holds: what came back must be these bytes.
type holding struct {
	uid, class, syntax, study, series string
	data                              []byte
}

// holdings are two patients: P1 with a study of two series (CT explicit, CT
// implicit) and one of MR, P2 with one of CT.
func holdings(t testing.TB) []holding {
	t.Helper()
	var all []holding
	add := func(class, syntax, patient, name, study, series string, number int) {
		uid := fmt.Sprintf("%s.%d", series, number)
		var b bytes.Buffer
		err := dataset.WriteDataSet(&b, syntax, []*dataset.Element{
			dataset.MustElement(dicomtag.SpecificCharacterSet, "ISO_IR 100"),
			dataset.MustElement(dicomtag.SOPClassUID, class), dataset.MustElement(dicomtag.SOPInstanceUID, uid),
			dataset.MustElement(dicomtag.StudyDate, "20240131"), dataset.MustElement(dicomtag.StudyTime, "101500"),
			dataset.MustElement(dicomtag.AccessionNumber), dataset.MustElement(dicomtag.StudyID, "1"),
			dataset.MustElement(dicomtag.Modality, map[string]string{ctImageStorage: "CT", mrImage: "MR"}[class]),
			dataset.RawElement(dicomtag.PatientName, "PN", []byte(name)), dataset.MustElement(dicomtag.PatientID, patient),
			dataset.MustElement(dicomtag.PatientBirthDate, "19500102"), dataset.MustElement(dicomtag.PatientSex, "M"),
			dataset.MustElement(dicomtag.StudyInstanceUID, study), dataset.MustElement(dicomtag.SeriesInstanceUID, series),
			dataset.MustElement(dicomtag.SeriesNumber, "1"), dataset.MustElement(dicomtag.InstanceNumber, fmt.Sprint(number)),
			dataset.MustElement(dicomtag.PixelData, bytes.Repeat([]byte{byte(number), 0}, 40_000)),
		})
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, holding{uid, class, syntax, study, series, b.Bytes()})
	}
	for n := range 3 {
		add(ctImageStorage, explicitLE, "P1", "M\xfcller^J\xf6rg", "1.2.1", "1.2.1.1", n+1)
		add(ctImageStorage, implicitLE, "P1", "M\xfcller^J\xf6rg", "1.2.1", "1.2.1.2", n+1)
	}
	add(mrImage, explicitLE, "P1", "M\xfcller^J\xf6rg", "1.2.2", "1.2.2.1", 1)
	add(ctImageStorage, explicitLE, "P2", "Doe^Jane", "1.2.3", "1.2.3.1", 1)
	return all
}

// startArchive runs a node that holds them, and that lets everybody ask.
func startArchive(t *testing.T, edit func(*config.Config)) (*node.Node, []holding) {
	t.Helper()
	return startArchiveLogging(t, slog.New(slog.NewTextHandler(t.Output(), nil)), edit)
}

func startArchiveLogging(t *testing.T, log *slog.Logger, edit func(*config.Config)) (*node.Node, []holding) {
	t.Helper()
	cfg := testConfig(t)
	cfg.Plugins = nil
	cfg.UnknownServices = []string{config.ServiceEcho, config.ServiceStore, config.ServiceFind, config.ServiceMove, config.ServiceGet}
	if edit != nil {
		edit(&cfg)
	}
	n, _ := startLogging(t, cfg, log)
	all := holdings(t)
	conn := archiveConn(t, n, dimse.PresentationContext{AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{explicitLE}},
		dimse.PresentationContext{AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{implicitLE}},
		dimse.PresentationContext{AbstractSyntax: mrImage, TransferSyntaxes: []string{explicitLE}})
	for _, h := range all {
		if _, err := conn.Store(t.Context(), h.class, h.uid, h.syntax, bytes.NewReader(h.data)); err != nil {
			t.Fatal(err)
		}
	}
	if err := conn.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
	return n, all
}

func archiveConn(t *testing.T, n *node.Node, contexts ...dimse.PresentationContext) *dimse.Conn {
	t.Helper()
	c := dimse.Client{CallingAETitle: "WS1", CalledAETitle: "HILUM", Timeout: 10 * time.Second, Contexts: contexts}
	conn, err := c.Dial(t.Context(), n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// keys makes an identifier of keyword=value.
func keys(t testing.TB, pairs ...string) []*dataset.Element {
	t.Helper()
	var elements []*dataset.Element
	for _, p := range pairs {
		name, value, _ := strings.Cut(p, "=")
		info, err := dicomtag.FindByName(name)
		if err != nil {
			t.Fatal(err)
		}
		elements = append(elements, dataset.RawElement(info.Tag, info.VR, []byte(value)))
	}
	return elements
}

// taker is a Handler that keeps what it is sent.
type taker struct {
	answer func(uid string) error // nil takes everything
	began  chan struct{}          // where not nil, told of each image; it must be heard

	mu  sync.Mutex
	got map[string][32]byte // by SOP Instance UID and transfer syntax
}

func (k *taker) CStore(ctx context.Context, req *dimse.StoreRequest) error {
	b, err := io.ReadAll(req.Data)
	if err != nil {
		return err
	}
	if k.began != nil {
		select {
		case k.began <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	if k.answer != nil {
		if err := k.answer(req.SOPInstanceUID); err != nil {
			return err
		}
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.got == nil {
		k.got = map[string][32]byte{}
	}
	k.got[req.SOPInstanceUID+" "+req.TransferSyntaxUID] = sha256.Sum256(b)
	return nil
}

func (k *taker) taken() map[string][32]byte {
	k.mu.Lock()
	defer k.mu.Unlock()
	return maps.Clone(k.got)
}

// expected is what a taker of some holdings has.
func expected(all []holding, wanted func(holding) bool) map[string][32]byte {
	m := map[string][32]byte{}
	for _, h := range all {
		if wanted(h) {
			m[h.uid+" "+h.syntax] = sha256.Sum256(h.data)
		}
	}
	return m
}

func everything(holding) bool { return true }

// serveTaker runs a destination until the test ends and returns its address.
func serveTaker(t *testing.T, title string, k *taker, classes func(string) bool) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &dimse.Server{AETitle: title, Handler: k, SOPClasses: classes}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() { _ = s.Close(); <-ended })
	return l.Addr().String()
}

func moveDestination(title, address string) config.MoveDestination {
	return config.MoveDestination{AETitle: title, Address: address, CallingAETitle: "HILUM", Timeout: 10 * time.Second}
}

// TestFind asks a node over the network: matches, a refusal with its element, and
// the limit.
func TestFind(t *testing.T) {
	n, _ := startArchive(t, func(c *config.Config) { c.MaxMatches = 2 })
	conn := archiveConn(t, n, dimse.QueryContext(dimse.StudyRootFind), dimse.QueryContext(dimse.PatientRootFind))
	find := func(model string, pairs ...string) ([]string, error) {
		var found []string
		_, err := conn.Find(t.Context(), model, keys(t, pairs...), func(h dataset.Header) bool {
			found = append(found, h.String(dicomtag.StudyInstanceUID)+" "+h.String(dicomtag.PatientName))
			return true
		})
		slices.Sort(found)
		return found, err
	}
	const study = "QueryRetrieveLevel=STUDY"
	if got, err := find(dimse.StudyRootFind, study, "StudyInstanceUID=", "PatientName=m*"); err != nil || !slices.Equal(got, []string{"1.2.1 Müller^Jörg", "1.2.2 Müller^Jörg"}) {
		t.Errorf("studies by name: %q, %v", got, err)
	}
	if got, err := find(dimse.PatientRootFind, study, "PatientID=P2", "StudyInstanceUID=", "PatientName="); err != nil || !slices.Equal(got, []string{"1.2.3 Doe^Jane"}) {
		t.Errorf("studies of a patient: %q, %v", got, err)
	}
	var refused *dimse.StatusError
	_, err := find(dimse.PatientRootFind, study, "StudyInstanceUID=")
	if !errors.As(err, &refused) || refused.Status != dimse.StatusDataSetMismatch || !slices.Equal(refused.OffendingElements, []dataset.Tag{dicomtag.PatientID}) {
		t.Errorf("no patient in Patient Root: %v %+v, want A900 for Patient ID", err, refused)
	}
	got, err := find(dimse.StudyRootFind, study, "StudyInstanceUID=")
	if !errors.As(err, &refused) || refused.Status != dimse.StatusOutOfResources || len(got) != 2 {
		t.Errorf("more than the limit: %q, %v; want two and A700", got, err)
	}
}

// TestServices: without a rule nobody asks for patients, and a rule names what a
// peer may do.
func TestServices(t *testing.T) {
	n, _ := startArchive(t, func(c *config.Config) {
		c.UnknownServices = []string{config.ServiceEcho, config.ServiceStore}
		c.Peers = []config.Peer{{AETitle: "ARCHIVE"}, {AETitle: "VIEWER", Services: []string{config.ServiceFind, config.ServiceGet}}, {AETitle: "WS1"}}
	})
	all := []string{dimse.StudyRootFind, dimse.PatientRootFind, dimse.StudyRootMove, dimse.PatientRootMove, dimse.StudyRootGet, dimse.PatientRootGet, ctImageStorage}
	for calling, want := range map[string][]string{
		"UNKNOWN": {ctImageStorage}, "ARCHIVE": all, "VIEWER": {dimse.StudyRootFind, dimse.PatientRootFind, dimse.StudyRootGet, dimse.PatientRootGet},
	} {
		var contexts []dimse.PresentationContext
		for _, uid := range all {
			contexts = append(contexts, dimse.PresentationContext{AbstractSyntax: uid, TransferSyntaxes: []string{explicitLE}})
		}
		c := dimse.Client{CallingAETitle: calling, CalledAETitle: "HILUM", Timeout: 10 * time.Second, Contexts: contexts}
		conn, err := c.Dial(t.Context(), n.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, uid := range all {
			if conn.Accepted(uid, explicitLE) {
				got = append(got, uid)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s may use %v, want %v", calling, got, want)
		}
		_ = conn.Close()
	}
	// Who may get but not store takes images, and stores none.
	viewer := dimse.Client{CallingAETitle: "VIEWER", CalledAETitle: "HILUM", Timeout: 10 * time.Second, Roles: map[string]dimse.Roles{mrImage: {SCU: true, SCP: true}},
		Contexts: []dimse.PresentationContext{dimse.QueryContext(dimse.StudyRootGet), {AbstractSyntax: mrImage, TransferSyntaxes: []string{explicitLE}}}}
	conn, err := viewer.Dial(t.Context(), n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if done, err := conn.Get(t.Context(), dimse.StudyRootGet, keys(t, "QueryRetrieveLevel=STUDY", "StudyInstanceUID=1.2.2"), &taker{}, nil); err != nil || done.Completed != 1 {
		t.Errorf("Get = %+v, %v; want one image", done, err)
	}
	var refused *dimse.StatusError
	if _, err := conn.Store(t.Context(), mrImage, "1.2.9", explicitLE, strings.NewReader("no data set")); !errors.As(err, &refused) || refused.Status != dimse.StatusNotAuthorized {
		t.Errorf("Store = %v, want not authorized", err)
	}
}

const patientLevel, studyLevel = "QueryRetrieveLevel=PATIENT", "QueryRetrieveLevel=STUDY"

// TestMove sends to destinations of every kind.
func TestMove(t *testing.T) {
	refusing := &taker{answer: func(uid string) error {
		switch {
		case strings.HasSuffix(uid, ".2"):
			return &dimse.StatusError{Status: dimse.StatusOutOfResources}
		case strings.HasSuffix(uid, ".3"):
			return &dimse.StatusError{Status: dimse.StatusCoercion}
		}
		return nil
	}}
	good, breaking := &taker{}, &taker{answer: func(uid string) error {
		if uid == "1.2.1.1.2" {
			panic("a destination that aborts")
		}
		return nil
	}}
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	deadAddress := dead.Addr().String()
	_ = dead.Close()
	goodAddress := serveTaker(t, "GOOD", good, nil)
	mrOnly := serveTaker(t, "MRONLY", &taker{}, func(uid string) bool { return uid == mrImage })
	n, all := startArchive(t, func(c *config.Config) {
		c.MoveDestinations = []config.MoveDestination{
			moveDestination("GOOD", goodAddress), moveDestination("REFUSING", serveTaker(t, "REFUSING", refusing, nil)), moveDestination("DEAD", deadAddress),
			moveDestination("MRONLY", mrOnly), moveDestination("BREAKING", serveTaker(t, "BREAKING", breaking, nil)), moveDestination("OTHERTITLE", goodAddress),
		}
	})
	conn := archiveConn(t, n, dimse.QueryContext(dimse.PatientRootMove), dimse.QueryContext(dimse.StudyRootMove))
	patient := keys(t, patientLevel, "PatientID=P1")
	type numbers = dimse.SubOperations
	for _, tt := range []struct {
		destination string
		status      dimse.Status
		want        numbers
		failed      []string
	}{
		{"GOOD", dimse.StatusSuccess, numbers{Completed: 7}, nil},
		{"NOBODY", dimse.StatusUnknownDestination, numbers{}, nil},
		{"REFUSING", dimse.StatusSubOperations, numbers{Completed: 3, Failed: 2, Warning: 2}, []string{"1.2.1.1.2", "1.2.1.2.2"}},
		{"MRONLY", dimse.StatusSubOperations, numbers{Completed: 1, Failed: 6}, []string{"1.2.1.1.1", "1.2.1.1.2", "1.2.1.1.3", "1.2.1.2.1", "1.2.1.2.2", "1.2.1.2.3"}},
		{"BREAKING", dimse.StatusSubOperations, numbers{Completed: 6, Failed: 1}, []string{"1.2.1.1.2"}},
		{"DEAD", dimse.StatusUnableToPerform, numbers{Failed: 7}, []string{"1.2.1.1.1", "1.2.1.1.2", "1.2.1.1.3", "1.2.1.2.1", "1.2.1.2.2", "1.2.1.2.3", "1.2.2.1.1"}},
		{"OTHERTITLE", dimse.StatusUnableToPerform, numbers{Failed: 7}, []string{"1.2.1.1.1", "1.2.1.1.2", "1.2.1.1.3", "1.2.1.2.1", "1.2.1.2.2", "1.2.1.2.3", "1.2.2.1.1"}},
	} {
		t.Run(tt.destination, func(t *testing.T) {
			last := 7
			done, err := conn.Move(t.Context(), dimse.PatientRootMove, tt.destination, patient, func(n dimse.SubOperations) bool {
				if n.Remaining >= last || n.Remaining+n.Completed+n.Failed+n.Warning != 7 {
					t.Errorf("pending response with %+v after %d remained", n, last)
				}
				last = n.Remaining
				return true
			})
			var failure *dimse.StatusError
			if status := done.Status; status.Failure() != errors.As(err, &failure) || status != tt.status {
				t.Errorf("Move = %v, %v; want %v", status, err, tt.status)
			}
			slices.Sort(done.FailedUIDs)
			if done.SubOperations != tt.want || !slices.Equal(done.FailedUIDs, tt.failed) {
				t.Errorf("sub-operations %+v, failed %v; want %+v, %v", done.SubOperations, done.FailedUIDs, tt.want, tt.failed)
			}
		})
	}
	if got, want := good.taken(), expected(all, func(h holding) bool { return h.study != "1.2.3" }); !maps.Equal(got, want) {
		t.Errorf("GOOD has %d images, want %d, byte for byte", len(got), len(want))
	}
	done, err := conn.Move(t.Context(), dimse.StudyRootMove, "GOOD", keys(t, studyLevel, "StudyInstanceUID=9.9"), nil)
	if err != nil || done.Status != dimse.StatusSuccess || done.SubOperations != (numbers{}) {
		t.Errorf("a study that is not there: %+v, %v; want success without sub-operations", done, err)
	}
}

// TestMoveCanceled: C-CANCEL ends a C-MOVE whose destination does not answer, and
// the association goes on; so does another that moves meanwhile.
func TestMoveCanceled(t *testing.T) {
	slow, good := &taker{began: make(chan struct{})}, &taker{}
	n, _ := startArchive(t, func(c *config.Config) {
		c.MoveDestinations = []config.MoveDestination{
			moveDestination("SLOW", serveTaker(t, "SLOW", slow, nil)), moveDestination("GOOD", serveTaker(t, "GOOD", good, nil)),
		}
	})
	conn := archiveConn(t, n, dimse.QueryContext(dimse.StudyRootMove))
	study := keys(t, studyLevel, "StudyInstanceUID=1.2.1")
	type result struct {
		done dimse.Retrieved
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		done, err := conn.Move(t.Context(), dimse.StudyRootMove, "SLOW", study, func(n dimse.SubOperations) bool { return n.Completed < 2 })
		ended <- result{done, err}
	}()
	<-slow.began
	<-slow.began // two images of six are taken, the third hangs
	other := archiveConn(t, n, dimse.QueryContext(dimse.StudyRootMove))
	if done, err := other.Move(t.Context(), dimse.StudyRootMove, "GOOD", study, nil); err != nil || done.Completed != 6 {
		t.Errorf("beside a slow destination: %+v, %v; want 6 images", done, err)
	}
	r := <-ended
	if r.err != nil || r.done.Status != dimse.StatusCanceled || r.done.Completed != 2 || r.done.Remaining != 4 || r.done.Failed != 0 {
		t.Errorf("canceled: %+v, %v; want FE00 with 2 completed, 4 remaining", r.done, r.err)
	}
	if done, err := conn.Move(t.Context(), dimse.StudyRootMove, "GOOD", study, nil); err != nil || done.Completed != 6 {
		t.Errorf("after a cancellation: %+v, %v; want 6 images", done, err)
	}
}

// TestGet fetches over the association that asks.
func TestGet(t *testing.T) {
	n, all := startArchive(t, nil)
	both := dimse.Roles{SCU: true, SCP: true}
	ct := func(syntax string) dimse.PresentationContext {
		return dimse.PresentationContext{AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{syntax}}
	}
	mr := dimse.PresentationContext{AbstractSyntax: mrImage, TransferSyntaxes: []string{explicitLE}}
	refusing := &taker{answer: func(uid string) error {
		if uid == "1.2.2.1.1" {
			return errors.New("no")
		}
		return nil
	}}
	for _, tt := range []struct {
		name     string
		contexts []dimse.PresentationContext
		roles    map[string]dimse.Roles
		taker    *taker
		status   dimse.Status
		want     func(holding) bool
	}{
		{"everything", []dimse.PresentationContext{ct(explicitLE), ct(implicitLE), mr}, map[string]dimse.Roles{ctImageStorage: both, mrImage: {SCP: true}}, &taker{}, dimse.StatusSuccess, everything},
		{"no context for implicit", []dimse.PresentationContext{ct(explicitLE), mr}, map[string]dimse.Roles{ctImageStorage: both, mrImage: both}, &taker{}, dimse.StatusSubOperations,
			func(h holding) bool { return h.syntax == explicitLE }},
		{"no role for MR", []dimse.PresentationContext{ct(explicitLE), ct(implicitLE), mr}, map[string]dimse.Roles{ctImageStorage: both}, &taker{}, dimse.StatusSubOperations,
			func(h holding) bool { return h.class == ctImageStorage }},
		{"one is refused", []dimse.PresentationContext{ct(explicitLE), ct(implicitLE), mr}, map[string]dimse.Roles{ctImageStorage: both, mrImage: both}, refusing, dimse.StatusSubOperations,
			func(h holding) bool { return h.class == ctImageStorage }},
		{"no context at all", nil, nil, &taker{}, dimse.StatusUnableToPerform, func(holding) bool { return false }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := dimse.Client{CallingAETitle: "WS1", CalledAETitle: "HILUM", Timeout: 10 * time.Second, Roles: tt.roles,
				Contexts: append(tt.contexts, dimse.QueryContext(dimse.PatientRootGet), dimse.VerificationContext())}
			conn, err := c.Dial(t.Context(), n.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			done, err := conn.Get(t.Context(), dimse.PatientRootGet, keys(t, patientLevel, "PatientID=P1"), tt.taker, nil)
			if done.Status != tt.status || done.Status.Failure() != (err != nil) {
				t.Errorf("Get = %v, %v; want %v", done.Status, err, tt.status)
			}
			want := expected(all, func(h holding) bool { return h.study != "1.2.3" && tt.want(h) })
			if got := tt.taker.taken(); !maps.Equal(got, want) && len(got)+len(want) > 0 {
				t.Errorf("got %d images, want %d, byte for byte", len(got), len(want))
			}
			if done.Completed != len(want) || done.Failed != 7-len(want) || len(done.FailedUIDs) != done.Failed {
				t.Errorf("sub-operations %+v, want %d completed and the others failed", done, len(want))
			}
			if err := conn.Echo(t.Context()); err != nil {
				t.Errorf("Echo afterwards = %v", err)
			}
		})
	}
}

// TestGetCanceled: C-CANCEL ends a C-GET behind the sub-operation under way, the numbers
// say what was done, and the association goes on.
func TestGetCanceled(t *testing.T) {
	n, _ := startArchive(t, nil)
	c := dimse.Client{CallingAETitle: "WS1", CalledAETitle: "HILUM", Timeout: 10 * time.Second, Roles: map[string]dimse.Roles{ctImageStorage: {SCP: true}},
		Contexts: []dimse.PresentationContext{dimse.QueryContext(dimse.StudyRootGet), dimse.VerificationContext(),
			{AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{explicitLE}}, {AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{implicitLE}}}}
	conn, err := c.Dial(t.Context(), n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	study, k := keys(t, studyLevel, "StudyInstanceUID=1.2.1"), &taker{}
	done, err := conn.Get(t.Context(), dimse.StudyRootGet, study, k, func(n dimse.SubOperations) bool { return n.Completed < 2 })
	taken := len(k.taken())
	if err != nil || done.Status != dimse.StatusCanceled || done.Completed != taken || done.Remaining != 6-taken || done.Failed != 0 || taken < 2 || taken > 3 {
		t.Errorf("canceled after two: %+v, %v with %d taken; want FE00 and the numbers of what was taken", done, err, taken)
	}
	k = &taker{}
	if done, err := conn.Get(t.Context(), dimse.StudyRootGet, study, k, nil); err != nil || done.Completed != 6 || len(k.taken()) != 6 {
		t.Errorf("after a cancellation: %+v, %v; want 6 images", done, err)
	}
}
