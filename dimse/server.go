package dimse

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"hilum/dimse/pdu"
)

// Defaults of Server.
const (
	// DefaultMaxPDULength is a good compromise between system calls and memory;
	// DCMTK offers no more.
	DefaultMaxPDULength = 131072
	// DefaultMaxAssociations bounds memory: an association holds about twice the
	// PDU length.
	DefaultMaxAssociations = 100
	// DefaultMaxOperations hides the time a disk takes to make an image durable
	// behind the reception of the next ones.
	DefaultMaxOperations = 8
	// maxMaxOperations keeps a mistaken setting from costing memory.
	maxMaxOperations = 256
	// DefaultMaxBytesInFlight and DefaultMaxBytesInFlightPerAddress are some
	// hundred CT slices.
	DefaultMaxBytesInFlight           = 256 << 20
	DefaultMaxBytesInFlightPerAddress = 64 << 20
	// DefaultARTIM is the time for the association request, PS3.8 9.1.5.
	DefaultARTIM = 30 * time.Second
	// DefaultIdle is long enough for scanners that keep an association open
	// between two images.
	DefaultIdle = 5 * time.Minute
)

const (
	// minMaxPDULength keeps a mistaken setting from stalling every transfer.
	minMaxPDULength = 4096
	// pendingPerAssociation bounds the connections that are not associations
	// (before the request, or waiting to be closed) in relation to
	// MaxAssociations. Above it the oldest of them is closed, so that idle
	// connections cannot shut honest peers out.
	pendingPerAssociation = 2
	// shutdownGrace is how long Shutdown waits for associations that it had to
	// interrupt.
	shutdownGrace = 2 * time.Second
	// Back-off after a failed Accept (too many open files, for example).
	acceptDelayFirst = 5 * time.Millisecond
	acceptDelayMax   = time.Second
)

// ErrServerClosed is returned by Serve after Shutdown or Close.
var ErrServerClosed = errors.New("dimse: server closed")

// Handler carries out what peers ask for.
type Handler interface {
	// CStore stores one instance. It must read req.Data as far as it needs; what
	// it leaves is drained. It must not keep req.Data, and must return when ctx
	// ends. nil answers Success 0000H, so the instance must be durable by then;
	// a *StatusError answers its status; any other error is logged, which is why
	// it must hold no patient data, and answers 0110H without a comment. It runs on
	// a goroutine of its own, also several times at once for one association, see
	// Server.MaxOperations; ctx ends with the association.
	CStore(ctx context.Context, req *StoreRequest) error
}

// AssociationHandler may be implemented by a Handler to follow associations.
// Both methods are called on the goroutine of the association and must not
// block for long.
type AssociationHandler interface {
	// AssociationOpened is called when an association was accepted.
	AssociationOpened(a *Association)
	// AssociationClosed is called once for every AssociationOpened. err is nil
	// after a release, and otherwise says why the association ended.
	AssociationClosed(a *Association, err error)
}

// StoreRequest is one C-STORE-RQ. Data is the data set as it comes from the
// peer, encoded in TransferSyntaxUID; it ends with io.EOF only when it is whole.
type StoreRequest struct {
	Association       *Association
	MessageID         uint16
	SOPClassUID       string
	SOPInstanceUID    string
	TransferSyntaxUID string
	Data              io.Reader
}

// Server accepts associations and provides C-ECHO and C-STORE on them. Its
// fields must not change after the first call of Serve; the zero value of each
// but Handler and AETitle is usable.
type Server struct {
	// AETitle is the title peers must call, unless AcceptAnyCalledAETitle.
	AETitle                string
	AcceptAnyCalledAETitle bool
	// Handler stores instances; without one only Verification is accepted.
	Handler Handler
	// SOPClasses says which abstract syntaxes are accepted. nil accepts
	// Verification and the storage SOP classes of the standard.
	SOPClasses func(abstractSyntax string) bool
	// Normalized are the DIMSE-N services, by abstract syntax, which they make
	// accepted.
	Normalized map[string]NService
	// AcceptPrivateSOPClasses also accepts private abstract syntaxes, and ones
	// the standard may yet define for storage, as storage SOP classes.
	AcceptPrivateSOPClasses bool
	// Admit decides who may have an association, and for what; nil admits
	// everybody. A *RejectError that it returns is what the peer is told; any
	// other error is logged and tells the peer nothing but that it is rejected.
	// It is called on the goroutine of the association and must return when ctx
	// ends.
	Admit func(ctx context.Context, rq *AssociationRequest) (Admission, error)
	// MaxPDULength is the longest P-DATA-TF that peers may send.
	MaxPDULength uint32
	// MaxAssociations is the number of associations at a time; one more is
	// rejected as transient, local limit exceeded.
	MaxAssociations int
	// MaxAssociationsPerAddress is the same for the associations of one peer
	// address; 0 is no limit but MaxAssociations.
	MaxAssociationsPerAddress int
	// MaxFailuresPerAddress is how many connections of one peer address may fail
	// within a minute: rejected for good, not DICOM, or without a request in
	// time. Above it they are closed unheard until the minute is over. 0 is no
	// limit.
	MaxFailuresPerAddress int
	// MaxOperations is how many operations of one association are carried out at
	// once, where its peer asks for an asynchronous operations window. CStore is
	// called that many times at once for one association. 1 is one at a time.
	MaxOperations int
	// MaxBytesInFlight and MaxBytesInFlightPerAddress bound the bytes that were
	// received and not answered yet, of all peers and of one address. Above them
	// no association may begin an operation beside another of its own: nothing
	// more is read from it. An operation counts at least operationCost.
	MaxBytesInFlight, MaxBytesInFlightPerAddress int64
	// ARTIM bounds the wait for the request and for the peer's close; Idle the
	// wait for a PDU and for a write; Lifetime, where not 0, the whole
	// association.
	ARTIM, Idle, Lifetime time.Duration
	// Logger gets events; nil discards them.
	Logger *slog.Logger

	flow flow

	mu        sync.Mutex // guards all below
	prepared  *settings
	closed    bool
	listeners map[net.Listener]struct{}
	acceptors map[*acceptor]struct{}
	addresses map[string]*address
	opened    int // established associations
	lastID    uint64
	ctx       context.Context
	cancel    context.CancelFunc
	running   sync.WaitGroup // acceptors; Add only under mu while !closed
}

// settings is a Server's configuration with its defaults filled in.
type settings struct {
	calledAETitle    string
	anyCalledAETitle bool
	handler          Handler
	normalized       map[string]NService
	admit            func(context.Context, *AssociationRequest) (Admission, error)
	supports         func(abstractSyntax string) bool
	transferSyntaxes map[string]bool
	maxPDULength     uint32
	maxAssociations  int
	maxPerAddress    int // 0 is none
	maxFailures      int // 0 is none
	maxOperations    int
	artim, idle      time.Duration
	lifetime         time.Duration
	log              *slog.Logger
}

// prepare fills in the defaults. s.mu must be held.
func (s *Server) prepare() error {
	if s.prepared != nil {
		return nil
	}
	set := &settings{
		anyCalledAETitle: s.AcceptAnyCalledAETitle,
		handler:          s.Handler,
		normalized:       s.Normalized,
		admit:            s.Admit,
		supports:         s.SOPClasses,
		transferSyntaxes: knownTransferSyntaxes(),
		maxPDULength:     max(orDefault(s.MaxPDULength, DefaultMaxPDULength), minMaxPDULength),
		maxAssociations:  orDefault(s.MaxAssociations, DefaultMaxAssociations),
		maxPerAddress:    max(s.MaxAssociationsPerAddress, 0),
		maxFailures:      max(s.MaxFailuresPerAddress, 0),
		maxOperations:    min(orDefault(s.MaxOperations, DefaultMaxOperations), maxMaxOperations),
		artim:            orDefault(s.ARTIM, DefaultARTIM),
		idle:             orDefault(s.Idle, DefaultIdle),
		lifetime:         s.Lifetime,
		log:              s.Logger,
	}
	if set.log == nil {
		set.log = slog.New(slog.DiscardHandler)
	}
	if set.supports == nil {
		set.supports = defaultSOPClasses(s.Handler, s.AcceptPrivateSOPClasses)
	} else if s.AcceptPrivateSOPClasses {
		chosen := set.supports
		set.supports = func(uid string) bool { return chosen(uid) || privateStorage(uid) }
	}
	if len(s.Normalized) > 0 {
		others := set.supports
		set.supports = func(uid string) bool { _, ok := s.Normalized[uid]; return ok || others(uid) }
	}
	if !s.AcceptAnyCalledAETitle {
		title, err := pdu.NewAETitle(s.AETitle)
		if err != nil {
			return err
		}
		set.calledAETitle = title.String()
	}
	s.listeners = map[net.Listener]struct{}{}
	s.acceptors = map[*acceptor]struct{}{}
	s.addresses = map[string]*address{}
	s.flow.limit = orDefault(s.MaxBytesInFlight, DefaultMaxBytesInFlight)
	s.flow.perAddress = orDefault(s.MaxBytesInFlightPerAddress, DefaultMaxBytesInFlightPerAddress)
	s.flow.addresses = map[string]int64{}
	s.ctx, s.cancel = context.WithCancel(context.Background())
	s.prepared = set
	return nil
}

func orDefault[T int | int64 | uint32 | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

// Serve accepts connections on l until Shutdown or Close, then closes l and
// returns ErrServerClosed. It may be called for several listeners.
func (s *Server) Serve(l net.Listener) error {
	defer func() { _ = l.Close() }() // a second close says only that it was
	if err := s.addListener(l); err != nil {
		return err
	}
	defer s.removeListener(l)
	delay := acceptDelayFirst
	for {
		conn, err := l.Accept()
		if err != nil {
			if s.ctx.Err() != nil || s.isClosed() {
				return ErrServerClosed
			}
			if errors.Is(err, net.ErrClosed) {
				return err
			}
			s.prepared.log.Error("accept failed, trying again", "error", err, "delay", delay)
			select {
			case <-time.After(delay):
			case <-s.ctx.Done():
				return ErrServerClosed
			}
			delay = min(2*delay, acceptDelayMax)
			continue
		}
		delay = acceptDelayFirst
		s.start(conn)
	}
}

func (s *Server) addListener(l net.Listener) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrServerClosed
	}
	if err := s.prepare(); err != nil {
		return err
	}
	s.listeners[l] = struct{}{}
	return nil
}

func (s *Server) removeListener(l net.Listener) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.listeners, l)
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

// start tracks a connection from the moment it was accepted and runs its
// acceptor.
func (s *Server) start(conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		_ = conn.Close() // nothing was said yet
		return
	}
	key := addressKey(conn.RemoteAddr())
	from := s.addressOf(key)
	if s.refused(key, from) {
		_ = conn.Close() // a peer like this gets no answer that costs anything
		return
	}
	s.evictPending(key, from)
	s.lastID++
	a := newAcceptor(s, s.lastID, conn)
	a.address = key
	from.connections++
	s.acceptors[a] = struct{}{}
	s.running.Go(a.run)
}

// evictPending closes the oldest connection that is no association, when there
// are too many: of the new peer's address, if that has too many of its own, or
// else of all. s.mu must be held.
func (s *Server) evictPending(key string, from *address) {
	limit := s.prepared.maxPerAddress
	own := limit > 0 && from.connections-from.associations >= pendingPerAssociation*limit
	if !own && len(s.acceptors)-s.opened < pendingPerAssociation*s.prepared.maxAssociations {
		return
	}
	var oldest *acceptor
	for a := range s.acceptors {
		if !a.established && (!own || a.address == key) && (oldest == nil || a.id < oldest.id) {
			oldest = a
		}
	}
	if oldest != nil {
		s.prepared.log.Warn("connection closed: too many connections without an association", "remote", oldest.remote())
		oldest.cut() // its goroutine notices and ends
	}
}

// establish counts a as an association, unless there are too many already.
func (s *Server) establish(a *acceptor) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := s.addressOf(a.address)
	if limit := s.prepared.maxPerAddress; s.opened >= s.prepared.maxAssociations || limit > 0 && from.associations >= limit {
		return false
	}
	s.opened++
	from.associations++
	a.established = true
	return true
}

// disestablish undoes establish when the association ended or was rejected; the
// connection may live on until the peer closes it. It may be called twice.
func (s *Server) disestablish(a *acceptor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.established {
		s.opened--
		s.addresses[a.address].associations-- // it stays while it has connections
		a.established = false
	}
}

func (s *Server) forget(a *acceptor) {
	s.disestablish(a) // after a panic it may not have been
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.acceptors, a)
	s.addresses[a.address].connections-- // as above
}

// Shutdown stops accepting, aborts associations that are between two messages
// and lets running operations end and be answered; then their associations are
// aborted too, so that the peers send the rest again. When ctx ends first,
// everything is interrupted, and the error is that of ctx.
func (s *Server) Shutdown(ctx context.Context) error {
	s.closeListeners()
	s.each((*acceptor).stop)
	ended := make(chan struct{})
	go func() { // ends with the acceptors, which Close ends below
		s.running.Wait()
		close(ended)
	}()
	select {
	case <-ended:
		s.cancelContext()
		return nil
	case <-ctx.Done():
	}
	s.cancelContext()
	s.each((*acceptor).interrupt)
	select {
	case <-ended:
	case <-time.After(shutdownGrace):
		s.each((*acceptor).cut)
	}
	return ctx.Err()
}

// Close stops accepting and closes every connection at once. It does not wait
// for handlers; Shutdown does. It may be called any number of times.
func (s *Server) Close() error {
	s.closeListeners()
	s.cancelContext()
	s.each((*acceptor).cut)
	return nil
}

func (s *Server) closeListeners() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	for l := range s.listeners {
		_ = l.Close() // Serve reports what matters
	}
}

func (s *Server) cancelContext() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cancel != nil {
		s.cancel()
	}
}

func (s *Server) each(do func(*acceptor)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for a := range s.acceptors {
		do(a)
	}
}
