package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/audit"
	"hilum/node/config"
	"hilum/node/connect"
	"hilum/node/query"
	"hilum/store"
)

// maxProposals is the most presentation contexts of an association, PS3.8 9.3.2.2.
const maxProposals = 128

// CMove is part of dimse.Mover. Images go to configured destinations only, in the
// transfer syntaxes in which they are stored, over one association, which is
// opened again when it breaks.
func (a *archive) CMove(ctx context.Context, req *dimse.QueryRequest, progress func(dimse.SubOperations) error) (dimse.Retrieved, error) {
	to, known := a.destination(req.MoveDestination)
	if !known {
		return dimse.Retrieved{}, &dimse.StatusError{Status: dimse.StatusUnknownDestination, Comment: "the move destination is not configured here"}
	}
	wanted, err := query.ParseRetrieval(root(req.SOPClassUID), req.Identifier)
	if err != nil {
		return dimse.Retrieved{}, refuseIdentifier(err)
	}
	log := a.log.With("association", req.Association.ID(), "destination", to.AETitle)
	peer := auditPeer(req.Association)
	m := &mover{to: to, origin: dimse.MoveOriginator{AETitle: req.Association.CallingAETitle(), MessageID: req.MessageID}, log: log}
	r := &retrieval{archive: a, wanted: wanted, progress: progress, log: log, send: m.send, sent: audit.Studies{}}
	if err := r.survey(ctx, m.propose); err != nil {
		return r.done, err
	}
	defer m.close(ctx, &a.releases)
	if r.total > 0 {
		if err := m.connect(ctx); err != nil {
			log.Warn("move destination not reached", "error", err)
			r.unreachable, r.done.Comment = true, "the move destination cannot be reached"
		}
	}
	defer func() { a.audit.Sent(peer, audit.Peer{AETitle: to.AETitle, Address: to.Address}, r.sent) }()
	return r.run(ctx)
}

// CGet is part of dimse.Getter. Images go out on the contexts that the requestor
// proposed, as they are stored.
func (a *archive) CGet(ctx context.Context, req *dimse.QueryRequest, progress func(dimse.SubOperations) error) (dimse.Retrieved, error) {
	wanted, err := query.ParseRetrieval(root(req.SOPClassUID), req.Identifier)
	if err != nil {
		return dimse.Retrieved{}, refuseIdentifier(err)
	}
	r := &retrieval{archive: a, wanted: wanted, progress: progress, log: a.log.With("association", req.Association.ID()), sent: audit.Studies{}}
	r.send = func(ctx context.Context, in store.Instance, data io.Reader) (dimse.Status, error) {
		if !req.Fetches(in.SOPClassUID, in.TransferSyntaxUID) {
			return 0, dimse.ErrNoContext
		}
		status, err := req.Store(ctx, in.SOPClassUID, in.SOPInstanceUID, in.TransferSyntaxUID, data)
		if err != nil && !survivable(err) {
			err = &cutOff{err}
		}
		return status, err
	}
	if err := r.survey(ctx, func(dimse.PresentationKey) {}); err != nil {
		return r.done, err
	}
	peer := auditPeer(req.Association)
	defer func() { a.audit.Sent(peer, peer, r.sent) }()
	return r.run(ctx)
}

// survivable says whether only one sub-operation failed.
func survivable(err error) bool {
	var status *dimse.StatusError
	return errors.As(err, &status) || errors.Is(err, dimse.ErrNoContext) || errors.Is(err, dimse.ErrUnsent)
}

// cutOff is the end of what the sub-operations go to.
type cutOff struct{ err error }

func (e *cutOff) Error() string { return e.err.Error() }
func (e *cutOff) Unwrap() error { return e.err }

// retrieval carries out the sub-operations of a C-MOVE or C-GET.
type retrieval struct {
	archive  *archive
	wanted   *query.Retrieval
	progress func(dimse.SubOperations) error
	// send sends one image; a *cutOff means that no other can be sent.
	send        func(ctx context.Context, in store.Instance, data io.Reader) (dimse.Status, error)
	log         *slog.Logger
	total       int
	unreachable bool // every sub-operation fails
	done        dimse.Retrieved
	refused     map[dimse.PresentationKey]bool // named in the log already
	sent        audit.Studies                  // what got through
}

// survey counts the images and tells of each pair of SOP class and transfer syntax.
// The images are walked twice, so that not even their UIDs are held in memory.
func (r *retrieval) survey(ctx context.Context, pair func(dimse.PresentationKey)) error {
	seen := map[dimse.PresentationKey]bool{}
	err := r.wanted.Each(ctx, r.archive.store, func(in store.Instance) error {
		r.total++
		key := dimse.PresentationKey{AbstractSyntax: in.SOPClassUID, TransferSyntax: in.TransferSyntaxUID}
		if !seen[key] {
			seen[key] = true
			pair(key)
		}
		return nil
	})
	r.count()
	return err
}

// count sets how many sub-operations remain. Images may have come or gone since
// they were counted.
func (r *retrieval) count() {
	r.done.Remaining = max(r.total-r.done.Completed-r.done.Failed-r.done.Warning, 0)
}

func (r *retrieval) run(ctx context.Context) (dimse.Retrieved, error) {
	err := r.wanted.Each(ctx, r.archive.store, func(in store.Instance) error {
		if r.unreachable {
			r.failed(in)
			return nil
		}
		status, err := r.one(ctx, in)
		var gone *cutOff
		switch {
		case err != nil && ctx.Err() != nil: // interrupted: it remains
			return ctx.Err()
		case errors.As(err, &gone):
			r.failed(in)
			return err
		case err != nil:
			r.failed(in)
			r.explain(in, err)
			r.unreachable = errors.Is(err, errGivenUp)
		case status.Warning():
			r.done.Warning++
		default:
			r.done.Completed++
		}
		if err == nil {
			r.sent.Add(studyOf(in), in.SOPClassUID)
		}
		r.count()
		if r.done.Remaining == 0 {
			return nil // the final response says it
		}
		return r.progress(r.done.SubOperations)
	})
	r.count()
	return r.done, err
}

func (r *retrieval) failed(in store.Instance) {
	r.done.Failed++
	if len(r.done.FailedUIDs) < dimse.MaxFailedUIDs {
		r.done.FailedUIDs = append(r.done.FailedUIDs, in.SOPInstanceUID)
	}
	r.count()
}

// explain logs why an image was not sent; of those for which there is no context,
// one for each kind.
func (r *retrieval) explain(in store.Instance, err error) {
	if errors.Is(err, dimse.ErrNoContext) {
		key := dimse.PresentationKey{AbstractSyntax: in.SOPClassUID, TransferSyntax: in.TransferSyntaxUID}
		if r.refused[key] {
			return
		}
		if r.refused == nil {
			r.refused = map[dimse.PresentationKey]bool{}
		}
		r.refused[key] = true
	}
	r.log.Warn("image not sent", "sop_instance", in.SOPInstanceUID, "sop_class", in.SOPClassUID, "transfer_syntax", in.TransferSyntaxUID, "error", err)
}

// one sends an image.
func (r *retrieval) one(ctx context.Context, in store.Instance) (dimse.Status, error) {
	f, _, err := r.archive.store.OpenInstance(in.SOPInstanceUID)
	if err != nil {
		return 0, fmt.Errorf("open the image: %w", err)
	}
	defer f.Close()
	meta, err := dataset.ReadMeta(f)
	if err != nil {
		return 0, fmt.Errorf("read the image: %w", err)
	}
	if _, err := f.Seek(meta.DataSetOffset, io.SeekStart); err != nil {
		return 0, fmt.Errorf("read the image: %w", err)
	}
	return r.send(ctx, in, f)
}

// mover sends to the destination of a C-MOVE.
type mover struct {
	to        config.MoveDestination
	origin    dimse.MoveOriginator
	log       *slog.Logger
	proposals []dimse.PresentationContext
	conn      *dimse.Conn // nil when there is none
	broken    int         // how often it broke in a row
}

// propose adds a context. What does not fit into an association fails with
// ErrNoContext: 128 kinds of images in one retrieval are none of this world.
func (m *mover) propose(key dimse.PresentationKey) {
	if len(m.proposals) < maxProposals {
		m.proposals = append(m.proposals, dimse.PresentationContext{AbstractSyntax: key.AbstractSyntax, TransferSyntaxes: []string{key.TransferSyntax}})
	}
}

// A peer that moves to itself may begin to listen only behind its request (GDCM does), so
// a port where nobody listens is tried more than once.
const (
	refusedTries = 5
	refusedPause = 100 * time.Millisecond
)

func (m *mover) connect(ctx context.Context) error {
	for try := 1; ; try++ {
		var err error
		m.conn, err = connect.Dial(ctx, config.Destination{
			Name: m.to.AETitle, AETitle: m.to.AETitle, Address: m.to.Address, TLS: m.to.TLS, Timeout: m.to.Timeout,
		}, m.to.CallingAETitle, connect.Association{Contexts: m.proposals})
		if try == refusedTries || !errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
		select {
		case <-time.After(refusedPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// maxBroken is how many images in a row may break the association before the
// destination is given up.
const maxBroken = 3

func (m *mover) send(ctx context.Context, in store.Instance, data io.Reader) (dimse.Status, error) {
	if m.conn == nil {
		if err := m.connect(ctx); err != nil {
			return 0, fmt.Errorf("%w: %w", errGivenUp, err)
		}
	}
	status, err := m.conn.StoreFor(ctx, m.origin, in.SOPClassUID, in.SOPInstanceUID, in.TransferSyntaxUID, data)
	if err == nil || survivable(err) {
		m.broken = 0
		return status, err
	}
	_ = m.conn.Abort() // it is broken; what Abort says adds nothing
	m.conn = nil
	if m.broken++; m.broken >= maxBroken {
		err = fmt.Errorf("%w: %w", errGivenUp, err)
	}
	return status, err
}

var errGivenUp = errors.New("the move destination is given up")

// close releases the association without waiting for it: a peer that moves to
// itself may not look at this one before it has the final response (GDCM does not).
func (m *mover) close(ctx context.Context, releases *sync.WaitGroup) {
	if m.conn == nil {
		return
	}
	if ctx.Err() != nil {
		_ = m.conn.Close() // canceled: what is on its way is of no use
		return
	}
	releases.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), m.to.Timeout)
		defer cancel()
		if err := m.conn.Release(ctx); err != nil {
			m.log.Warn("move destination did not release the association in order", "error", err)
			_ = m.conn.Close() // as above
		}
	})
}
