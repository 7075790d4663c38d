package commitment

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/config"
	"hilum/node/connect"
	"hilum/node/task"
	"hilum/store"
)

// asked is the kind of the records of what this node asked for.
const asked = "commitment-asked"

// State says how a transaction stands.
type State string

// The states of a transaction.
const (
	Pending   State = "pending"   // no outcome yet
	Committed State = "committed" // the destination has all of it for good
	Failed    State = "failed"    // it has not, for some of it or all
	Expired   State = "expired"   // its time was over before an outcome came
)

// Transaction is a request of this node and what became of it.
type Transaction struct {
	UID         string        `json:"uid"`
	Destination string        `json:"destination"` // its name
	AETitle     string        `json:"ae_title"`    // and the AE title that its outcome must come from
	Objects     []task.Object `json:"objects"`
	Asked       time.Time     `json:"asked"`
	Deadline    time.Time     `json:"deadline"`
	State       State         `json:"state"`
	Failures    []Failure     `json:"failures,omitempty"` // what the destination did not commit to
	Ended       time.Time     `json:"ended,omitzero"`
	Delivered   bool          `json:"delivered,omitempty"` // Requester.Ended has taken the outcome
}

// Requester is the SCU. Its fields must not change once it is in use. Run must be
// running for transactions to expire and for outcomes to be delivered again.
type Requester struct {
	Store *store.Store
	Rules config.Commitment
	// Calling is the AE title of the node.
	Calling string
	// Ended is called with the outcome of each transaction, at least once: again
	// by Run, also after a restart, until it returned nil. It must be quick. nil
	// takes everything.
	Ended func(Transaction) error
	Log   *slog.Logger
	Now   func() time.Time

	mu      sync.Mutex     // held while a transaction changes
	waiting sync.WaitGroup // goroutines that linger on an association
}

// Request asks a destination to commit to objects that it has accepted. It returns
// the transaction UID once the destination has taken the request; the outcome comes
// to Ended. A *dimse.StatusError and dimse.ErrNoContext say that the destination does
// not want it; other errors may pass. The association stays open for a while after
// Request, until ctx ends at the longest, for a destination that tells the outcome
// there.
func (r *Requester) Request(ctx context.Context, to config.Destination, objects []task.Object) (string, error) {
	if len(objects) == 0 || len(objects) > maxReferences {
		return "", fmt.Errorf("a transaction has 1 to %d objects, not %d", maxReferences, len(objects))
	}
	t := Transaction{
		UID: dataset.NewUID(), Destination: to.Name, AETitle: to.AETitle, Objects: objects,
		Asked: r.Now().UTC(), Deadline: r.Now().Add(r.Rules.Wait).UTC(), State: Pending,
	}
	// Its outcome may be there before the response to its request is.
	if err := r.write(t); err != nil {
		return "", fmt.Errorf("keep the transaction: %w", err)
	}
	conn, err := connect.Dial(ctx, to, r.Calling, connect.Association{
		Contexts: contexts(), Normalized: map[string]dimse.NService{SOPClass: {Handler: eventsOf{r, to.AETitle}}},
	})
	if err == nil {
		m := message{transaction: t.UID, objects: objects}
		_, err = conn.Invoke(ctx, &dimse.NInvocation{Operation: dimse.NAction, SOPClassUID: SOPClass, SOPInstanceUID: SOPInstance, TypeID: actionRequest, DataSet: m.encode})
		if err != nil {
			_ = conn.Close() // the request is what failed
			err = fmt.Errorf("ask %s (%s) for storage commitment: %w", to.Name, to.Address, err)
		}
	}
	if err != nil {
		return "", errors.Join(err, r.Store.WriteRecords(store.Record{Kind: asked, Key: t.UID}))
	}
	r.Log.Info("storage commitment asked for", "transaction", t.UID, "destination", to.Name, "instances", len(objects))
	r.waiting.Go(func() { r.linger(ctx, conn, t.UID) })
	return t.UID, nil
}

// Wait returns when no association is held open any more for an outcome. Whoever
// has ended the contexts of all Requests calls it before the store closes.
func (r *Requester) Wait() { r.waiting.Wait() }

// linger keeps the association open for an outcome that comes on it.
func (r *Requester) linger(ctx context.Context, conn *dimse.Conn, uid string) {
	defer conn.Close()
	for end := time.Now().Add(r.Rules.Linger); time.Now().Before(end); {
		came, err := conn.AwaitRequest(ctx, time.Until(end))
		if err != nil {
			return // the outcome comes on another association
		}
		if t, err := r.Transaction(uid); !came || err != nil || t.State != Pending {
			break
		}
	}
	_ = conn.Release(ctx) // the request was taken: nothing depends on it
}

// Transaction returns a transaction, or store.ErrNotFound.
func (r *Requester) Transaction(uid string) (Transaction, error) {
	b, err := r.Store.Record(asked, uid)
	if err != nil {
		return Transaction{}, err
	}
	var t Transaction
	if err := json.Unmarshal(b, &t); err != nil {
		return t, fmt.Errorf("transaction %s: %w", uid, err)
	}
	return t, nil
}

// Transactions returns all transactions that are kept, those that ended a week ago
// and more left out.
func (r *Requester) Transactions() ([]Transaction, error) {
	var list []Transaction
	err := r.Store.Records(asked, "", func(key string, value []byte) error {
		var t Transaction
		if err := json.Unmarshal(value, &t); err != nil {
			return fmt.Errorf("transaction %s: %w", key, err)
		}
		list = append(list, t)
		return nil
	})
	return list, err
}

func (r *Requester) write(t Transaction) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	return r.Store.WriteRecords(store.Record{Kind: asked, Key: t.UID, Value: b})
}

// HandleN takes an outcome that comes on an association of the destination.
func (r *Requester) HandleN(_ context.Context, rq *dimse.NRequest) (dimse.NResponse, error) {
	return r.event(rq, rq.Association.CallingAETitle())
}

// eventsOf takes an outcome that comes on the association of the request.
type eventsOf struct {
	requester *Requester
	aeTitle   string // of the destination
}

func (e eventsOf) HandleN(_ context.Context, rq *dimse.NRequest) (dimse.NResponse, error) {
	return e.requester.event(rq, e.aeTitle)
}

// event takes an outcome. It is answered with success once it is durable; one that
// is known already is taken again.
func (r *Requester) event(rq *dimse.NRequest, from string) (dimse.NResponse, error) {
	switch {
	case rq.Operation != dimse.NEventReport:
		return dimse.NResponse{}, dimse.ErrUnrecognized
	case rq.SOPInstanceUID != SOPInstance:
		return dimse.NResponse{}, &dimse.StatusError{Status: dimse.StatusNoSuchInstance, Comment: "storage commitment has one well-known instance"}
	case rq.TypeID != eventComplete && rq.TypeID != eventFailuresExist:
		return dimse.NResponse{}, &dimse.StatusError{Status: dimse.StatusNoSuchEventType}
	}
	m, err := readMessage(rq.Data, rq.TransferSyntaxUID, nil)
	if err != nil {
		return dimse.NResponse{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	t, err := r.Transaction(m.transaction)
	switch {
	case errors.Is(err, store.ErrNotFound):
		return dimse.NResponse{}, &dimse.StatusError{Status: dimse.StatusInvalidArgument, Comment: "no such transaction"}
	case err != nil:
		return dimse.NResponse{}, err
	case t.AETitle != from:
		r.Log.Warn("outcome of storage commitment refused: it comes from another AE title than was asked", "transaction", t.UID, "destination", t.Destination)
		return dimse.NResponse{}, &dimse.StatusError{Status: dimse.StatusNotAuthorized, Comment: "another AE title was asked"}
	case t.State != Pending && t.State != Expired:
		return dimse.NResponse{}, nil
	}
	t.Failures = failures(t.Objects, m)
	t.State, t.Ended, t.Delivered = Committed, r.Now().UTC(), false
	if len(t.Failures) > 0 {
		t.State = Failed
	}
	if err := r.write(t); err != nil {
		return dimse.NResponse{}, err
	}
	r.Log.Info("outcome of storage commitment received", "transaction", t.UID, "destination", t.Destination, "state", string(t.State), "failed", len(t.Failures))
	return dimse.NResponse{After: func() { r.deliver(t) }}, nil
}

// failures are the objects that an outcome does not name as committed, or names as
// failed.
func failures(objects []task.Object, m message) []Failure {
	good := make(map[task.Object]bool, len(m.objects))
	for _, o := range m.objects {
		good[o] = true
	}
	bad := make(map[string]uint16, len(m.failures))
	for _, f := range m.failures {
		bad[f.SOPInstanceUID] = f.Reason
	}
	var out []Failure
	for _, o := range objects {
		if reason, failed := bad[o.SOPInstanceUID]; failed || !good[o] {
			out = append(out, Failure{o, reason})
		}
	}
	return out
}

// deliver hands an outcome to Ended and notes that it was taken.
func (r *Requester) deliver(t Transaction) {
	if r.Ended != nil {
		if err := r.Ended(t); err != nil {
			r.Log.Error("outcome of storage commitment not taken, trying again", "transaction", t.UID, "error", err)
			return
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now, err := r.Transaction(t.UID)
	if err == nil && now.State == t.State { // and not a late outcome after the expiry
		now.Delivered = true
		err = r.write(now)
	}
	if err != nil && !errors.Is(err, store.ErrClosed) {
		r.Log.Error("outcome of storage commitment not noted as taken", "transaction", t.UID, "error", err)
	}
}

// requesterPause is the time between two looks at the transactions.
const requesterPause = time.Minute

// Run has transactions expire, delivers outcomes again that were not taken, and
// forgets old transactions, until ctx ends.
func (r *Requester) Run(ctx context.Context) {
	ticker := time.NewTicker(requesterPause)
	defer ticker.Stop()
	for {
		if err := r.pass(); err != nil {
			r.Log.Error("transactions of storage commitment not looked at, trying again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (r *Requester) pass() error {
	all, err := r.Transactions()
	if err != nil {
		return err
	}
	for _, t := range all {
		switch now := r.Now(); {
		case t.State == Pending && now.After(t.Deadline):
			if err := r.expire(t.UID); err != nil {
				return err
			}
		case t.State != Pending && !t.Delivered:
			r.deliver(t)
		case t.State != Pending && now.Sub(t.Ended) > keepRequests:
			if err := r.Store.WriteRecords(store.Record{Kind: asked, Key: t.UID}); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r *Requester) expire(uid string) error {
	r.mu.Lock()
	t, err := r.Transaction(uid)
	if err == nil && t.State == Pending {
		t.State, t.Ended = Expired, r.Now().UTC()
		err = r.write(t)
	}
	r.mu.Unlock()
	if err != nil {
		return err
	}
	if t.State == Expired {
		r.Log.Warn("storage commitment expired: no outcome came in time", "transaction", t.UID, "destination", t.Destination)
		r.deliver(t)
	}
	return nil
}

// Service answers both what peers ask of the Provider and what they tell the
// Requester.
type Service struct {
	Provider  *Provider
	Requester *Requester
}

// HandleN hands a request to whom it is for.
func (s Service) HandleN(ctx context.Context, rq *dimse.NRequest) (dimse.NResponse, error) {
	if rq.Operation == dimse.NEventReport {
		return s.Requester.HandleN(ctx, rq)
	}
	return s.Provider.HandleN(ctx, rq)
}

// NService is the service for a server: peers may be SCU and SCP.
func (s Service) NService() dimse.NService {
	return dimse.NService{Handler: s, Requestor: dimse.Roles{SCU: true, SCP: true}}
}
