package dimse_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"sync"
	"testing"

	"hilum/dimse"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
)

const (
	verification = "1.2.840.10008.1.1"
	ctImage      = "1.2.840.10008.5.1.4.1.1.2"
	mrImage      = "1.2.840.10008.5.1.4.1.1.4"
	privateClass = "1.3.46.670589.2.5.1.1"
	findClass    = "1.2.840.10008.5.1.4.1.2.2.1"
	implicitLE   = "1.2.840.10008.1.2"
	explicitLE   = "1.2.840.10008.1.2.1"
	jpeg2000     = "1.2.840.10008.1.2.4.90"
	instanceUID  = "2.25.1234567890"
)

// stored is what a recorder keeps of one C-STORE.
type stored struct {
	sopClass, sopInstance, transferSyntax, calling string
	size                                           int64
	sum                                            [32]byte
}

// recorder is a Handler that reads and remembers.
type recorder struct {
	answer func(*dimse.StoreRequest) error // after reading; nil answers success

	mu     sync.Mutex
	stored []stored
	opened int
	closed []error
}

func (r *recorder) CStore(_ context.Context, req *dimse.StoreRequest) error {
	h := sha256.New()
	n, err := io.Copy(h, req.Data)
	if err != nil {
		return err
	}
	s := stored{req.SOPClassUID, req.SOPInstanceUID, req.TransferSyntaxUID, req.Association.CallingAETitle(), n, [32]byte(h.Sum(nil))}
	r.mu.Lock()
	r.stored = append(r.stored, s)
	r.mu.Unlock()
	if r.answer != nil {
		return r.answer(req)
	}
	return nil
}

func (r *recorder) AssociationOpened(*dimse.Association) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.opened++
}

func (r *recorder) AssociationClosed(_ *dimse.Association, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = append(r.closed, err)
}

// take returns and forgets what was stored.
func (r *recorder) take() []stored {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := r.stored
	r.stored = nil
	return s
}

// ends returns how many associations were opened and with what each ended.
func (r *recorder) ends() (int, []error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opened, append([]error(nil), r.closed...)
}

// listen serves on a listener in memory until the test ends.
func listen(t testing.TB, s *dimse.Server) *dimsetest.Listener {
	l := dimsetest.NewListener()
	serve(t, s, l)
	return l
}

// listenTCP serves on the loopback interface until the test ends and returns
// the address.
func listenTCP(t testing.TB, s *dimse.Server) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	serve(t, s, l)
	return l.Addr().String()
}

func serve(t testing.TB, s *dimse.Server, l net.Listener) {
	if s.AETitle == "" {
		s.AETitle = "HILUM"
	}
	ended := make(chan error, 1)
	go func() { ended <- s.Serve(l) }()
	t.Cleanup(func() {
		_ = s.Close()
		if err := <-ended; !errors.Is(err, dimse.ErrServerClosed) {
			t.Errorf("Serve() = %v, want ErrServerClosed", err)
		}
	})
}

// dial returns a raw peer connected to l.
func dial(t testing.TB, l *dimsetest.Listener) *dimsetest.Peer {
	t.Helper()
	conn, err := l.Dial()
	if err != nil {
		t.Fatal(err)
	}
	return dimsetest.NewPeer(t, conn)
}

func title(s string) pdu.AETitle {
	t, err := pdu.NewAETitle(s)
	if err != nil {
		panic(err)
	}
	return t
}

// request is an A-ASSOCIATE-RQ for Verification (1), CT (3) and MR (5).
func request() *pdu.AssociateRQ {
	return &pdu.AssociateRQ{
		ProtocolVersion: 1, CalledAETitle: title("HILUM"), CallingAETitle: title("TEST"),
		ApplicationContext: pdu.ApplicationContextName,
		Contexts: []pdu.PresentationContextRQ{
			{ID: 1, AbstractSyntax: verification, TransferSyntaxes: []string{implicitLE}},
			{ID: 3, AbstractSyntax: ctImage, TransferSyntaxes: []string{explicitLE, implicitLE}},
			{ID: 5, AbstractSyntax: mrImage, TransferSyntaxes: []string{implicitLE}},
		},
		User: pdu.UserInformation{MaxLength: 16384, ImplementationClassUID: "1.2.3"},
	}
}

// associate returns a raw peer with an open association.
func associate(t testing.TB, l *dimsetest.Listener) *dimsetest.Peer {
	t.Helper()
	p := dial(t, l)
	p.Associate(request())
	return p
}
