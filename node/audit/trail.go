// Package audit keeps the audit trail of PS3.15 A.5: who came and was refused, which
// user was taken for whom, which images came in and went out, who asked, when the
// node ran and when its configuration changed.
//
// Messages are XML in RFC 5424 syslog lines. They go to a file, each written before
// the next event, or to a syslog server by TLS (RFC 5425) or UDP (RFC 5426), or to
// both. Patients are named only where the configuration says so.
package audit

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"hilum/node/access"
	"hilum/node/config"
)

const (
	// maxWaiting bounds the messages that wait for the server: some 10 MB.
	maxWaiting = 10_000
	// maxDatagram is what one UDP message may carry; PS3.15 A.6.2 asks for 32768.
	maxDatagram = 65_000
	dialTimeout = 10 * time.Second
	firstPause  = time.Second
	longestWait = time.Minute
)

// Trail is the audit trail of one node. A nil Trail keeps nothing.
type Trail struct {
	rules  config.Audit
	node   Peer
	host   string
	log    *slog.Logger
	now    func() time.Time
	queue  chan []byte // to the server; nil without one
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu     sync.Mutex // guards all below
	file   *os.File   // nil without one
	lost   int        // messages that found the queue full
	closed bool
}

// Open begins the trail of a node at an address, which is nil where the
// configuration wants none.
func Open(rules config.Audit, node Peer, log *slog.Logger, now func() time.Time) (*Trail, error) {
	if rules.File == "" && rules.Server == "" {
		return nil, nil
	}
	host, err := os.Hostname()
	if err != nil || host == "" || strings.ContainsAny(host, " \t") {
		host = "-" // NILVALUE
	}
	t := &Trail{rules: rules, node: node, host: host, log: log, now: now}
	if err := t.Reopen(); err != nil {
		return nil, err
	}
	if rules.Server != "" {
		if _, err := access.ClientTLS(rules.TLS); rules.TLS.Enabled && err != nil {
			return nil, errors.Join(fmt.Errorf("audit: %w", err), t.closeFile())
		}
		t.queue = make(chan []byte, maxWaiting)
		ctx, cancel := context.WithCancel(context.Background())
		t.cancel = cancel
		t.done.Go(func() { t.deliver(ctx) })
	}
	return t, nil
}

// Reopen opens the file again, for whoever has moved it away.
func (t *Trail) Reopen() error {
	if t == nil || t.rules.File == "" {
		return nil
	}
	f, err := os.OpenFile(t.rules.File, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the audit trail: %w", err)
	}
	t.mu.Lock()
	old := t.file
	t.file = f
	t.mu.Unlock()
	if old != nil {
		return old.Close()
	}
	return nil
}

// Close ends the trail: what waits for the server is sent until ctx ends.
func (t *Trail) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	if t.closed {
		t.mu.Unlock()
		return nil
	}
	t.closed = true
	t.mu.Unlock()
	if t.queue != nil {
		close(t.queue)
		stop := context.AfterFunc(ctx, t.cancel)
		timer := time.AfterFunc(dialTimeout, t.cancel) // a server that is down holds up no end
		t.done.Wait()
		stop()
		timer.Stop()
		t.cancel()
	}
	return t.closeFile()
}

func (t *Trail) closeFile() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.file == nil {
		return nil
	}
	err := t.file.Close()
	t.file = nil
	return err
}

// Started and Stopped are Application Activity, PS3.15 A.5.3.1.
func (t *Trail) Started() { t.activity(dcm("110120", "Application Start")) }

// Stopped says that the node ends.
func (t *Trail) Stopped() { t.activity(dcm("110121", "Application Stop")) }

func (t *Trail) activity(kind code) {
	if t == nil {
		return
	}
	role := dcm("110150", "Application")
	t.keep(event{Action: execute, ID: dcm("110100", "Application Activity"), Type: &kind}, []participant{t.node.participant(false, &role)}, nil)
}

// Refused is Security Alert, Node Authentication, PS3.15 A.5.3.11: an association
// that was not accepted. reason is without patient data.
func (t *Trail) Refused(peer Peer, reason string) {
	if t == nil {
		return
	}
	kind := dcm("110126", "Node Authentication")
	t.keep(event{Action: execute, Outcome: minorFailure, ID: dcm("110113", "Security Alert"), Type: &kind, Reason: reason},
		[]participant{t.node.participant(false, nil), peer.participant(true, nil)},
		[]object{{ID: peer.name(), Type: 2, Role: 13, IDType: dcm("110182", "Node ID")}})
}

// LoggedIn is User Authentication, PS3.15 A.5.3.12: a user that a peer named, and
// whether he was taken for who he says he is.
func (t *Trail) LoggedIn(peer Peer, user string, taken bool) {
	if t == nil {
		return
	}
	kind := dcm("110122", "Login")
	e := event{Action: execute, ID: dcm("110114", "User Authentication"), Type: &kind}
	if !taken {
		e.Outcome, e.Reason = minorFailure, "the user or the passcode is wrong"
	}
	p := peer.participant(true, nil)
	if user != "" {
		p.UserID = clip(user)
	}
	t.keep(e, []participant{p, t.node.participant(false, nil)}, nil)
}

// Configured is Security Alert, Security Configuration: a reload, and why it failed
// if it did.
func (t *Trail) Configured(err error) {
	if t == nil {
		return
	}
	kind := dcm("110129", "Security Configuration")
	e := event{Action: execute, ID: dcm("110113", "Security Alert"), Type: &kind}
	if err != nil {
		e.Outcome, e.Reason = minorFailure, err.Error()
	}
	t.keep(e, []participant{t.node.participant(true, nil)}, []object{{ID: t.node.AETitle, Type: 2, Role: 13, IDType: dcm("110182", "Node ID")}})
}

// Received is DICOM Instances Transferred, PS3.15 A.5.3.7: what an association
// brought.
func (t *Trail) Received(from Peer, studies Studies) {
	t.transferred(create, from, from, t.self(), studies)
}

// Sent is the same for images and results that went out. requestor is the peer that
// asked for them, the node itself for its results.
func (t *Trail) Sent(requestor, to Peer, studies Studies) {
	t.transferred(read, requestor, t.self(), to, studies)
}

// Results is Sent for what the node sends of itself.
func (t *Trail) Results(to Peer, studies Studies) { t.Sent(t.self(), to, studies) }

func (t *Trail) self() Peer {
	if t == nil {
		return Peer{}
	}
	return t.node
}

func (t *Trail) transferred(how action, requestor, from, to Peer, studies Studies) {
	if t == nil || len(studies) == 0 {
		return
	}
	sends, receives := dcm("110153", "Source Role ID"), dcm("110152", "Destination Role ID")
	who := []participant{from.participant(from == requestor, &sends), to.participant(to == requestor, &receives)}
	if requestor != from && requestor != to {
		who = append(who, requestor.participant(true, nil))
	}
	groups, err := parts(studies.objects(t.rules.PatientID))
	if err != nil {
		t.log.Error("audit message not made", "error", err)
		return
	}
	for _, objects := range groups {
		t.keep(event{Action: how, ID: dcm("110104", "DICOM Instances Transferred")}, who, objects)
	}
}

// Queried is Query, PS3.15 A.5.3.10, without the keys, which name patients.
func (t *Trail) Queried(by Peer, sopClassUID string) {
	if t == nil {
		return
	}
	asks, answers := dcm("110153", "Source Role ID"), dcm("110152", "Destination Role ID")
	t.keep(event{Action: execute, ID: dcm("110112", "Query")},
		[]participant{by.participant(true, &asks), t.node.participant(false, &answers)},
		[]object{{ID: sopClassUID, Type: 2, Role: 3, IDType: dcm("110181", "SOP Class UID")}})
}

// maxText bounds what a peer or an error puts into a message as text: a user name may
// have 64 KiB.
const maxText = 512

func clip(s string) string { return s[:min(len(s), maxText)] }

// keep writes a message to the file and queues it for the server.
func (t *Trail) keep(e event, who []participant, what []object) {
	e.Time, e.Reason = t.now().UTC(), clip(e.Reason)
	m := message{Event: e, Participants: who, Source: source{ID: t.node.AETitle, Type: code{Value: "4"}}, Objects: what}
	text, err := m.syslog(t.host)
	if err != nil {
		t.log.Error("audit message not made", "error", err)
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return
	}
	if t.file != nil {
		if _, err := t.file.Write(append(text, '\n')); err != nil {
			t.log.Error("audit message not written", "event", e.ID.Text, "error", err)
		}
	}
	if t.queue == nil {
		return
	}
	select {
	case t.queue <- text:
		if t.lost > 0 {
			t.log.Error("audit messages did not reach the server: too many waited for it", "lost", t.lost)
			t.lost = 0
		}
	default:
		if t.lost == 0 {
			t.log.Error("audit messages wait for the server and there is no room for more: they are lost there", "waiting", maxWaiting)
		}
		t.lost++
	}
}

// deliver sends what is queued, each message until the server has taken it, as far
// as TCP or UDP can tell.
func (t *Trail) deliver(ctx context.Context) {
	var conn net.Conn
	defer func() {
		if conn != nil {
			_ = conn.Close()
		}
	}()
	pause := firstPause
	for text := range t.queue {
		for ctx.Err() == nil {
			var err error
			if conn == nil {
				conn, err = t.dial(ctx)
			}
			if err == nil {
				if err = t.write(conn, text); err == nil {
					pause = firstPause
					break
				}
				_ = conn.Close()
				conn = nil
			}
			t.log.Warn("audit message not sent, trying again", "server", t.rules.Server, "error", err, "in", pause)
			select {
			case <-ctx.Done():
			case <-time.After(pause):
			}
			pause = min(2*pause, longestWait)
		}
	}
	if ctx.Err() != nil {
		t.log.Error("audit messages may not have reached the server at the end of the node", "server", t.rules.Server)
	}
}

func (t *Trail) dial(ctx context.Context) (net.Conn, error) {
	dialer := &net.Dialer{Timeout: dialTimeout}
	if !t.rules.TLS.Enabled {
		return dialer.DialContext(ctx, "udp", t.rules.Server)
	}
	c, err := access.ClientTLS(t.rules.TLS) // read anew: certificates change
	if err != nil {
		return nil, err
	}
	conn, err := (&tls.Dialer{NetDialer: dialer, Config: c}).DialContext(ctx, "tcp", t.rules.Server)
	if err != nil {
		return nil, err
	}
	return &watched{Conn: conn, ended: watch(conn)}, nil
}

// watched is a connection to a server that never says anything: what reading from it
// returns is its end, which the first write after it would not notice.
type watched struct {
	net.Conn
	ended <-chan struct{}
}

func watch(conn net.Conn) <-chan struct{} {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		var b [512]byte
		for {
			if _, err := conn.Read(b[:]); err != nil {
				return
			}
		}
	}()
	return ended
}

func (w *watched) Write(b []byte) (int, error) {
	select {
	case <-w.ended:
		return 0, errors.New("the server has closed the connection")
	default:
		return w.Conn.Write(b)
	}
}

func (t *Trail) write(conn net.Conn, text []byte) error {
	if err := conn.SetWriteDeadline(time.Now().Add(dialTimeout)); err != nil {
		return err
	}
	if t.rules.TLS.Enabled {
		_, err := conn.Write(frame(text))
		return err
	}
	_, err := conn.Write(text[:min(len(text), maxDatagram)])
	return err
}
