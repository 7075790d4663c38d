package commitment

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"time"

	"hilum/dimse"
	"hilum/node/config"
	"hilum/node/connect"
	"hilum/node/task"
	"hilum/store"
)

// Queue is the queue of the outcomes that peers are to be told.
const Queue = "commitment"

// requested is the kind of the records of what peers asked for.
const requested = "commitment-requested"

const (
	// afterResponse is when an outcome is reported at the latest: sooner, as soon
	// as the response to its request is out.
	afterResponse = 2 * time.Second
	// busyPeer is the wait of an outcome while another one is on its way to the
	// same peer.
	busyPeer = time.Second
	// keepRequests is how long a transaction UID is remembered after its outcome
	// was told, to know it again.
	keepRequests = 7 * 24 * time.Hour
	// eventTimeout bounds the wait for the answer to an N-EVENT-REPORT.
	eventTimeout = 30 * time.Second
)

// request is what a peer asked for, as it is kept.
type request struct {
	AETitle     string        `json:"ae_title"`
	Transaction string        `json:"transaction"`
	Objects     []task.Object `json:"objects"`
	Received    time.Time     `json:"received"`
	// Duplicate says that the transaction UID was in use for other objects.
	Duplicate bool      `json:"duplicate,omitempty"`
	Told      time.Time `json:"told,omitzero"` // when the peer had the outcome
}

// Provider is the SCP. Its fields must not change once it is in use.
type Provider struct {
	Store *store.Store
	Rules config.Commitment
	Retry task.Retry
	// Calling is the AE title of the node.
	Calling string
	// Peer says where the peer of an AE title accepts associations.
	Peer func(aeTitle string) (config.Destination, bool)
	Log  *slog.Logger
	Now  func() time.Time

	mu   sync.Mutex        // guards all below
	open map[string]*asker // by request: who asked last and was not told yet
	busy map[string]bool   // by AE title: an outcome is on its way
	read map[string]int    // by peer address: references in requests that are not kept yet
}

// maxReading bounds those references: two of the largest requests, some 40 MB. Who sends
// more at a time, on as many associations as it may have, holds up nobody but itself.
const maxReading = 2 * maxReferences

var tooManyAtOnce = &dimse.StatusError{Status: dimse.StatusResourceLimitation, Comment: "too many references at a time, try again later"}

// reading is one request that is not kept yet.
type reading struct {
	p       *Provider
	address string
	count   int
}

// take counts a reference.
func (r *reading) take() error {
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	if r.p.read[r.address] >= maxReading {
		return tooManyAtOnce
	}
	if r.p.read == nil {
		r.p.read = map[string]int{}
	}
	r.p.read[r.address]++
	r.count++
	return nil
}

// end gives back what the request counted.
func (r *reading) end() {
	if r.count == 0 {
		return
	}
	r.p.mu.Lock()
	defer r.p.mu.Unlock()
	if r.p.read[r.address] -= r.count; r.p.read[r.address] <= 0 {
		delete(r.p.read, r.address)
	}
}

func host(a net.Addr) string {
	h, _, err := net.SplitHostPort(a.String())
	if err != nil {
		return a.String()
	}
	return h
}

// HandleN takes a request. It is answered with success once it is durable.
func (p *Provider) HandleN(_ context.Context, rq *dimse.NRequest) (dimse.NResponse, error) {
	switch {
	case rq.Operation != dimse.NAction:
		return dimse.NResponse{}, dimse.ErrUnrecognized
	case rq.SOPInstanceUID != SOPInstance:
		return dimse.NResponse{}, &dimse.StatusError{Status: dimse.StatusNoSuchInstance, Comment: "storage commitment has one well-known instance"}
	case rq.TypeID != actionRequest:
		return dimse.NResponse{}, &dimse.StatusError{Status: dimse.StatusNoSuchAction}
	}
	held := &reading{p: p, address: host(rq.Association.RemoteAddr())}
	defer held.end()
	m, err := readMessage(rq.Data, rq.TransferSyntaxUID, held.take)
	if err != nil {
		return dimse.NResponse{}, err
	}
	if len(m.objects) == 0 {
		return dimse.NResponse{}, &dimse.StatusError{Status: dimse.StatusMissingAttribute, Comment: "no references"}
	}
	// Who asks is known before the job is looked at: either the job is over by
	// then and keep begins it again, or Run sees after its end who came late.
	aeTitle := rq.Association.CallingAETitle()
	key := prefix(aeTitle, m.transaction) + digest(m.objects)
	who := &asker{rq.Association}
	p.mu.Lock()
	if p.open == nil {
		p.open = map[string]*asker{}
	}
	p.open[key] = who
	p.mu.Unlock()
	job, err := p.keep(aeTitle, key, m)
	if err != nil {
		p.told(key, who)
		return dimse.NResponse{}, p.refuse(err)
	}
	p.Log.Info("storage commitment requested", "transaction", m.transaction, "instances", len(m.objects), "association", rq.Association.ID())
	return dimse.NResponse{After: func() { p.due(job.ID) }}, nil
}

// asker is one time that a request was made: the same request may come again.
type asker struct{ association *dimse.Association }

// asking returns who asked for a request's outcome and was not told yet, nil for nobody.
func (p *Provider) asking(key string) *asker {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open[key]
}

// told forgets one who asked, unless another did since.
func (p *Provider) told(key string, who *asker) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.open[key] == who {
		delete(p.open, key)
	}
}

func (p *Provider) refuse(err error) error {
	p.Log.Error("request for storage commitment not kept", "error", err)
	status := &dimse.StatusError{Status: dimse.StatusResourceLimitation, Comment: "not kept, try again later"}
	if errors.Is(err, store.ErrFull) {
		status.Comment = "no space left, try again later"
	}
	return status
}

// keep makes a request durable, with its job. The same request again is the same
// one; its outcome is then told again.
func (p *Provider) keep(aeTitle, key string, m message) (store.Job, error) {
	r := request{AETitle: aeTitle, Transaction: m.transaction, Objects: m.objects, Received: p.Now().UTC()}
	known := false
	err := p.Store.Records(requested, prefix(aeTitle, m.transaction), func(other string, _ []byte) error {
		known = known || other == key
		r.Duplicate = r.Duplicate || other != key
		return nil
	})
	if err != nil {
		return store.Job{}, err
	}
	if !known {
		// Below the reserve nothing that peers send is kept: an association that was
		// admitted before could fill the disk with requests, too.
		if err := p.Store.Room(); err != nil {
			return store.Job{}, err
		}
		b, err := json.Marshal(r)
		if err != nil {
			return store.Job{}, err
		}
		if err := p.Store.WriteRecords(store.Record{Kind: requested, Key: key, Value: b}); err != nil {
			return store.Job{}, err
		}
	}
	job, isNew, err := p.Store.Enqueue(store.Job{Queue: Queue, Key: key, State: store.JobRetry, NotBefore: p.Now().Add(afterResponse),
		Reason: fmt.Sprintf("%s asks for %d images, transaction %s", aeTitle, len(m.objects), m.transaction)})
	if err == nil && !isNew {
		job, err = p.again(job.ID)
	}
	return job, err
}

// again begins a job that has ended once more.
func (p *Provider) again(job string) (store.Job, error) {
	return p.Store.UpdateJob(job, func(j *store.Job) error {
		if j.State == store.JobDone || j.State == store.JobDead {
			j.State, j.NotBefore, j.Attempts = store.JobRetry, p.Now().Add(afterResponse), 0
		}
		return nil
	})
}

// prefix is what the keys of all requests of one transaction begin with.
func prefix(aeTitle, transaction string) string { return aeTitle + "\x00" + transaction + "\x00" }

// digest tells the objects of one request from those of another.
func digest(objects []task.Object) string {
	h := sha256.New()
	for _, o := range objects {
		_, _ = io.WriteString(h, o.SOPClassUID+"\x00"+o.SOPInstanceUID+"\x00") // never fails
	}
	return hex.EncodeToString(h.Sum(nil))
}

// due has the outcome told as soon as the response to the request is out.
func (p *Provider) due(job string) {
	_, err := p.Store.UpdateJob(job, func(j *store.Job) error {
		if j.State == store.JobRetry && j.Attempts == 0 {
			j.State, j.NotBefore = store.JobQueued, time.Time{}
		}
		return nil
	})
	if err != nil && !errors.Is(err, store.ErrClosed) { // it is due a little later then
		p.Log.Error("outcome of storage commitment not brought forward", "job", job, "error", err)
	}
}

// Run tells a peer the outcome of one request. It is for the workers of Queue,
// of which there may be several.
func (p *Provider) Run(ctx context.Context, job store.Job) error {
	b, err := p.Store.Record(requested, job.Key)
	var r request
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err != nil {
		return p.settle(ctx, job, "", fmt.Errorf("the request cannot be read: %w", err), true)
	}
	if !p.begin(r.AETitle) {
		_, err := p.Store.UpdateJob(job.ID, func(j *store.Job) error {
			j.State, j.NotBefore, j.Attempts = store.JobRetry, p.Now().Add(busyPeer), max(j.Attempts-1, 0)
			return nil
		})
		return err
	}
	defer p.end(r.AETitle)
	outcome, err := p.outcome(ctx, r)
	if err != nil {
		return p.settle(ctx, job, "", err, false)
	}
	who := p.asking(job.Key)
	where, permanent, err := p.tell(ctx, who, r.AETitle, outcome)
	p.told(job.Key, who) // where it failed, the next attempt has an association of its own
	log := p.Log.With("transaction", r.Transaction, "peer", r.AETitle, "committed", len(outcome.objects), "failed", len(outcome.failures), "attempt", job.Attempts)
	if err != nil {
		log.Warn("outcome of storage commitment not told", "error", err)
		return p.settle(ctx, job, "", err, permanent)
	}
	log.Info("outcome of storage commitment told", "association", where)
	r.Told = p.Now().UTC()
	if b, err = json.Marshal(r); err == nil {
		err = p.Store.WriteRecords(store.Record{Kind: requested, Key: job.Key, Value: b})
	}
	if err != nil {
		return err
	}
	err = p.settle(ctx, job, fmt.Sprintf("%s was told %s: %d committed, %d failed", r.AETitle, where, len(outcome.objects), len(outcome.failures)), nil, false)
	if err == nil && p.asking(job.Key) != nil {
		_, err = p.again(job.ID)
	}
	return err
}

func (p *Provider) settle(ctx context.Context, job store.Job, done string, err error, permanent bool) error {
	return p.Retry.Settle(ctx, p.Store, job, p.Now(), done, err, permanent)
}

func (p *Provider) begin(aeTitle string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy[aeTitle] {
		return false
	}
	if p.busy == nil {
		p.busy = map[string]bool{}
	}
	p.busy[aeTitle] = true
	return true
}

func (p *Provider) end(aeTitle string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.busy, aeTitle)
}

// outcome looks at every image that was asked for.
func (p *Provider) outcome(ctx context.Context, r request) (message, error) {
	m := message{transaction: r.Transaction}
	doubtful := map[string]bool{}
	quarantined, err := p.Store.Quarantined()
	if err != nil {
		return m, fmt.Errorf("list quarantine: %w", err)
	}
	for _, q := range quarantined {
		doubtful[q.Instance.SOPInstanceUID] = true
	}
	for _, o := range r.Objects {
		if err := ctx.Err(); err != nil {
			return m, err
		}
		reason := reasonDuplicate
		if !r.Duplicate {
			if reason, err = p.look(ctx, o, doubtful); err != nil {
				return m, err
			}
		}
		if reason == 0 {
			m.objects = append(m.objects, o)
		} else {
			m.failures = append(m.failures, Failure{o, reason})
		}
	}
	return m, nil
}

// look says why an image cannot be committed to, 0 where it can.
func (p *Provider) look(ctx context.Context, o task.Object, doubtful map[string]bool) (uint16, error) {
	in, err := p.Store.Instance(o.SOPInstanceUID)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return reasonNoInstance, nil
	case errors.Is(err, store.ErrDamaged):
		p.Log.Error("image not committed to: it cannot be read", "sop_instance", o.SOPInstanceUID, "error", err)
		return reasonProcessing, nil
	case err != nil:
		return 0, fmt.Errorf("look for an image: %w", err)
	case in.SOPClassUID != o.SOPClassUID:
		return reasonConflict, nil
	case in.SHA256 == [32]byte{}:
		return reasonProcessing, nil
	case doubtful[o.SOPInstanceUID]:
		// The peer may mean the bytes that were not kept.
		p.Log.Warn("image not committed to: other bytes came under its UID too", "sop_instance", o.SOPInstanceUID)
		return reasonProcessing, nil
	case !p.Rules.Verify:
		return 0, nil
	}
	good, err := p.verify(ctx, o.SOPInstanceUID)
	if err == nil && good {
		return 0, nil
	}
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	p.Log.Error("image not committed to: its bytes do not match its checksum", "sop_instance", o.SOPInstanceUID, "error", err)
	return reasonProcessing, nil
}

// verify reads an image and compares it with its checksum.
func (p *Provider) verify(ctx context.Context, sopInstanceUID string) (bool, error) {
	r, in, err := p.Store.OpenInstance(sopInstanceUID)
	if err != nil {
		return false, err
	}
	defer r.Close()
	h := sha256.New()
	buffer := make([]byte, 256<<10)
	for {
		n, err := r.Read(buffer)
		h.Write(buffer[:n])
		switch {
		case err == io.EOF:
			return [32]byte(h.Sum(nil)) == in.SHA256, nil
		case err != nil:
			return false, err
		case ctx.Err() != nil:
			return false, ctx.Err()
		}
	}
}

// tell sends the outcome and says how.
func (p *Provider) tell(ctx context.Context, who *asker, aeTitle string, m message) (how string, permanent bool, err error) {
	event := &dimse.NInvocation{Operation: dimse.NEventReport, SOPClassUID: SOPClass, SOPInstanceUID: SOPInstance, TypeID: eventComplete, DataSet: m.encode}
	if len(m.failures) > 0 {
		event.TypeID = eventFailuresExist
	}
	ctx, cancel := context.WithTimeout(ctx, eventTimeout)
	defer cancel()
	if who != nil && p.Rules.Report == config.ReportOpen {
		if _, err = who.association.Invoke(ctx, event); err == nil {
			return "on the association of its request", false, nil
		}
		// It has ended, or its peer does not want the outcome there.
	}
	to, ok := p.Peer(aeTitle)
	if !ok {
		return "", true, fmt.Errorf("the association of the request is over, and `peers` does not say where %s accepts associations: write `report_to`, then retry", aeTitle)
	}
	conn, err := connect.Dial(ctx, to, p.Calling, connect.Association{Contexts: contexts(), Roles: map[string]dimse.Roles{SOPClass: {SCP: true}}})
	if err != nil {
		return "", false, err
	}
	defer conn.Close()
	if _, err := conn.Invoke(ctx, event); err != nil {
		return "", false, fmt.Errorf("tell %s (%s): %w", to.Name, to.Address, err)
	}
	if err := conn.Release(ctx); err != nil {
		p.Log.Debug("peer did not release the association in order", "peer", aeTitle, "error", err)
	}
	return "on an association of its own", false, nil
}

// Forget forgets requests whose outcome was told long ago.
func (p *Provider) Forget() error {
	var old []store.Record
	var keys []string
	err := p.Store.Records(requested, "", func(key string, value []byte) error {
		var r struct {
			Received time.Time `json:"received"`
			Told     time.Time `json:"told"`
		}
		if err := json.Unmarshal(value, &r); err != nil {
			return fmt.Errorf("request for storage commitment: %w", err)
		}
		if !r.Told.IsZero() && p.Now().Sub(r.Told) > keepRequests {
			old = append(old, store.Record{Kind: requested, Key: key})
			keys = append(keys, key)
		}
		return nil
	})
	if err != nil || len(old) == 0 {
		return err
	}
	jobs, err := p.Store.Jobs(Queue)
	if err != nil {
		return err
	}
	byKey := map[string]string{}
	for _, j := range jobs {
		byKey[j.Key] = j.ID
	}
	var ids []string
	for _, key := range keys {
		ids = append(ids, byKey[key])
	}
	if err := p.Store.DeleteJobs(ids); err != nil {
		return err
	}
	return p.Store.WriteRecords(old...)
}
