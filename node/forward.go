package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"time"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/access"
	"hilum/node/config"
	"hilum/node/task"
	"hilum/store"
)

// forwarder sends results to one destination.
type forwarder struct {
	store       *store.Store
	destination config.Destination
	calling     string // AE title
	log         *slog.Logger
	now         func() time.Time
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
	status, err := f.send(ctx, d.SOPInstanceUID)
	switch {
	case err == nil:
		reason := "stored by " + f.destination.Name
		if status != dimse.StatusSuccess {
			reason += fmt.Sprintf(" with warning %04XH", uint16(status))
		}
		log.Info("result delivered", "status", status)
		return f.end(job, store.JobDone, reason)
	case ctx.Err() != nil:
		return interrupted(f.store, job)
	case permanent(err):
		log.Error("result refused for good", "error", err)
		return f.end(job, store.JobDead, err.Error())
	case f.destination.Attempts > 0 && job.Attempts >= f.destination.Attempts:
		log.Error("delivery given up", "error", err)
		return f.end(job, store.JobDead, fmt.Sprintf("given up after %d attempts: %v", job.Attempts, err))
	}
	wait := task.Backoff(job.Attempts, f.destination.Backoff, f.destination.MaxBackoff)
	wait += time.Duration(rand.Int64N(int64(wait)/4 + 1)) // jitter: destinations that return must not be met by all at once
	log.Warn("result not delivered, trying again", "error", err, "in", wait)
	_, updateErr := f.store.UpdateJob(job.ID, func(j *store.Job) error {
		j.State, j.Reason, j.NotBefore = store.JobRetry, err.Error(), f.now().Add(wait)
		return nil
	})
	return updateErr
}

func (f *forwarder) end(job store.Job, state store.JobState, reason string) error {
	_, err := f.store.UpdateJob(job.ID, func(j *store.Job) error {
		j.State, j.Reason = state, reason
		return nil
	})
	return err
}

// send stores one object at the destination in an association of its own.
func (f *forwarder) send(ctx context.Context, sopInstanceUID string) (dimse.Status, error) {
	r, in, err := f.store.OpenInstance(sopInstanceUID)
	if err != nil {
		return 0, fmt.Errorf("open the object: %w", err)
	}
	defer r.Close()
	meta, err := dataset.ReadMeta(r)
	if err != nil {
		return 0, fmt.Errorf("read the object: %w", err)
	}
	if _, err := r.Seek(meta.DataSetOffset, io.SeekStart); err != nil {
		return 0, fmt.Errorf("read the object: %w", err)
	}
	client := dimse.Client{
		CallingAETitle: f.calling,
		CalledAETitle:  f.destination.AETitle,
		Timeout:        f.destination.Timeout,
		Contexts:       []dimse.PresentationContext{{AbstractSyntax: in.SOPClassUID, TransferSyntaxes: []string{in.TransferSyntaxUID}}},
	}
	if f.destination.TLS.Enabled {
		if client.TLS, err = access.ClientTLS(f.destination.TLS); err != nil {
			return 0, fmt.Errorf("TLS with %s: %w", f.destination.Name, err)
		}
	}
	conn, err := client.Dial(ctx, f.destination.Address)
	if err != nil {
		return 0, fmt.Errorf("connect to %s (%s): %w", f.destination.Name, f.destination.Address, err)
	}
	status, err := conn.Store(ctx, in.SOPClassUID, in.SOPInstanceUID, in.TransferSyntaxUID, r)
	if err != nil {
		_ = conn.Abort() // the object did not get through; what Abort says adds nothing
		return status, fmt.Errorf("send to %s (%s): %w", f.destination.Name, f.destination.Address, err)
	}
	if err := conn.Release(ctx); err != nil {
		f.log.Warn("destination did not release the association in order", "destination", f.destination.Name, "error", err)
	}
	return status, nil
}

// permanent reports whether a retry cannot help: no presentation context for
// the object, or a status that speaks of the object and not of the moment.
func permanent(err error) bool {
	if errors.Is(err, dimse.ErrNoContext) {
		return true
	}
	var status *dimse.StatusError
	if errors.As(err, &status) {
		return status.Status&0xFF00 != dimse.StatusOutOfResources && status.Status != dimse.StatusProcessingFailure
	}
	return false
}
