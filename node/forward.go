package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/audit"
	"hilum/node/config"
	"hilum/node/connect"
	"hilum/node/task"
	"hilum/store"
)

// forwarder sends results to one destination, one after the other. Results of one
// series arrive in the order in which they were made; others pass one that the
// destination does not take for the moment.
type forwarder struct {
	store       *store.Store
	destination config.Destination
	calling     string // AE title
	committer   committer
	audit       *audit.Trail
	log         *slog.Logger
	now         func() time.Time

	mu   sync.Mutex // guards down
	down outage
}

// committer asks a destination for storage commitment and returns the transaction.
type committer interface {
	Request(ctx context.Context, to config.Destination, objects []task.Object) (string, error)
}

// outage says that a destination could not be reached: until then nothing else is
// tried there, unless a person queues the delivery again that met it.
type outage struct {
	job   string
	until time.Time
}

// unreachable is an error from before the object was offered: it says nothing about
// the object and all about the destination.
type unreachable struct{ err error }

func (e *unreachable) Error() string { return e.err.Error() }
func (e *unreachable) Unwrap() error { return e.err }

// hold is until when the destination is left alone.
func (f *forwarder) hold() time.Time {
	f.mu.Lock()
	down := f.down
	f.mu.Unlock()
	if down.job == "" {
		return time.Time{}
	}
	if j, err := f.store.Job(down.job); err == nil && j.State == store.JobRetry {
		return down.until
	}
	return time.Time{} // queued again by hand, or gone
}

func (f *forwarder) reached(job string, until time.Time) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.down = outage{job, until}
}

// run sends one object. Whatever may pass (no connection, an association
// refused for the moment, a destination out of resources) is tried again; an
// object that the destination refuses for what it is goes to the dead letters.
func (f *forwarder) run(ctx context.Context, job store.Job) error {
	d, err := task.DecodeDelivery(job)
	if err != nil {
		return f.end(job, store.JobDead, err.Error())
	}
	log := f.log.With("delivery", job.ID, "destination", f.destination.Name, "sop_instance", d.SOPInstanceUID, "attempt", job.Attempts)
	progress, err := f.deliver(ctx, d)
	if err == nil {
		f.reached("", time.Time{})
		if progress.Transaction != "" {
			log.Info("result stored, its storage commitment is awaited", "status", progress.Status, "transaction", progress.Transaction)
			return f.await(job, progress)
		}
		log.Info("result delivered", "status", progress.Status)
		return f.end(job, store.JobDone, f.stored(progress))
	}
	if ctx.Err() != nil {
		return interrupted(f.store, job)
	}
	return f.failed(log, job, err)
}

// failed says when a delivery is tried again, if at all.
func (f *forwarder) failed(log *slog.Logger, job store.Job, err error) error {
	switch {
	case permanent(err):
		log.Error("result refused for good", "error", err)
		return f.end(job, store.JobDead, err.Error())
	case f.destination.Attempts > 0 && job.Attempts >= f.destination.Attempts:
		log.Error("delivery given up", "error", err)
		return f.end(job, store.JobDead, fmt.Sprintf("given up after %s: %v", count(job.Attempts, "attempt"), err))
	}
	wait := task.Backoff(job.Attempts, f.destination.Backoff, f.destination.MaxBackoff)
	wait += time.Duration(rand.Int64N(int64(wait)/4 + 1)) // jitter: destinations that return must not be met by all at once
	until := f.now().Add(wait)
	log.Warn("result not delivered, trying again", "error", err, "in", wait)
	_, updateErr := f.store.UpdateJob(job.ID, func(j *store.Job) error {
		j.State, j.Reason, j.NotBefore = store.JobRetry, err.Error(), until
		return nil
	})
	if updateErr == nil && errors.As(err, new(*unreachable)) {
		f.reached(job.ID, until)
	}
	return updateErr
}

func (f *forwarder) end(job store.Job, state store.JobState, reason string) error {
	_, err := f.store.UpdateJob(job.ID, func(j *store.Job) error {
		j.State, j.Reason = state, reason
		return nil
	})
	return err
}

func (f *forwarder) stored(p task.Progress) string {
	reason := "stored by " + f.destination.Name
	if p.Status != statusText(dimse.StatusSuccess) {
		reason += " with warning " + p.Status
	}
	return reason
}

func statusText(s dimse.Status) string { return fmt.Sprintf("%04XH", uint16(s)) }

// deliver stores one object at the destination in an association of its own, and asks
// for its commitment where that is wanted.
func (f *forwarder) deliver(ctx context.Context, d task.Delivery) (task.Progress, error) {
	in, status, err := f.send(ctx, d.SOPInstanceUID)
	if err != nil {
		return task.Progress{}, err
	}
	p := task.Progress{Status: statusText(status)}
	if !f.destination.Commitment {
		return p, nil
	}
	p.Transaction, err = f.committer.Request(ctx, f.destination, []task.Object{{SOPClassUID: in.SOPClassUID, SOPInstanceUID: in.SOPInstanceUID}})
	return p, err
}

// send stores one object at the destination.
func (f *forwarder) send(ctx context.Context, sopInstanceUID string) (store.Instance, dimse.Status, error) {
	r, in, err := f.store.OpenInstance(sopInstanceUID)
	if errors.Is(err, store.ErrNotFound) {
		return in, 0, &goneError{sopInstanceUID}
	}
	if err != nil {
		return in, 0, fmt.Errorf("open the object: %w", err)
	}
	defer r.Close()
	meta, err := dataset.ReadMeta(r)
	if err != nil {
		return in, 0, fmt.Errorf("read the object: %w", err)
	}
	if _, err := r.Seek(meta.DataSetOffset, io.SeekStart); err != nil {
		return in, 0, fmt.Errorf("read the object: %w", err)
	}
	conn, err := connect.Dial(ctx, f.destination, f.calling, connect.Association{
		Contexts: []dimse.PresentationContext{{AbstractSyntax: in.SOPClassUID, TransferSyntaxes: []string{in.TransferSyntaxUID}}},
	})
	if err != nil {
		return in, 0, &unreachable{err}
	}
	status, err := conn.Store(ctx, in.SOPClassUID, in.SOPInstanceUID, in.TransferSyntaxUID, r)
	if err != nil {
		_ = conn.Abort() // the object did not get through; what Abort says adds nothing
		return in, status, fmt.Errorf("send to %s (%s): %w", f.destination.Name, f.destination.Address, err)
	}
	studies := audit.Studies{}
	studies.Add(studyOf(in), in.SOPClassUID)
	f.audit.Results(audit.Peer{AETitle: f.destination.AETitle, Address: f.destination.Address}, studies)
	if err := conn.Release(ctx); err != nil {
		f.log.Warn("destination did not release the association in order", "destination", f.destination.Name, "error", err)
	}
	return in, status, nil
}

// goneError is returned for an object that the store has no more.
type goneError struct{ uid string }

func (e *goneError) Error() string { return "the object " + e.uid + " is not stored any more" }

// permanent reports whether a retry cannot help: no such object, no presentation
// context for it, or a status that speaks of the object and not of the moment.
func permanent(err error) bool {
	if errors.Is(err, dimse.ErrNoContext) || errors.As(err, new(*goneError)) {
		return true
	}
	var status *dimse.StatusError
	if errors.As(err, &status) {
		return status.Status&0xFF00 != dimse.StatusOutOfResources && status.Status != dimse.StatusProcessingFailure
	}
	return false
}
