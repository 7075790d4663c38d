package node

import (
	"errors"
	"fmt"

	"hilum/node/commitment"
	"hilum/node/task"
	"hilum/store"
)

// await marks a delivery that the destination has stored and not yet committed itself
// to. It holds up nothing that comes after it.
func (f *forwarder) await(job store.Job, p task.Progress) error {
	_, err := f.store.UpdateJob(job.ID, func(j *store.Job) error {
		j.State, j.Reason, j.Result = store.JobWaiting, f.stored(p)+"; its storage commitment is awaited", task.EncodeProgress(p)
		return nil
	})
	return err
}

// ended takes what became of a transaction.
func (f *forwarder) ended(t commitment.Transaction) error {
	switch {
	case t.State == commitment.Committed:
		return f.outcome(t.UID, nil)
	case len(t.Failures) > 0:
		return f.outcome(t.UID, fmt.Errorf("failure reason %04XH", t.Failures[0].Reason))
	}
	return f.outcome(t.UID, errors.New("no outcome came in time"))
}

// outcome ends or repeats the delivery that waits for a transaction: committed is nil
// when the destination has committed itself. An outcome that nobody waits for any more
// changes nothing.
func (f *forwarder) outcome(transaction string, committed error) error {
	jobs, err := f.store.Jobs(task.DeliveryQueue(f.destination.Name))
	if err != nil {
		return fmt.Errorf("find the delivery of a transaction: %w", err)
	}
	for _, j := range jobs {
		p, err := task.DecodeProgress(j)
		if err != nil {
			return err
		}
		// The outcome can be faster than await: then the job still runs.
		if p.Transaction != transaction {
			if j.State == store.JobRunning {
				return errors.New("a delivery to this destination is under way")
			}
			continue
		}
		if j.State != store.JobWaiting {
			return nil
		}
		log := f.log.With("delivery", j.ID, "destination", f.destination.Name, "transaction", transaction)
		if committed != nil {
			return f.failed(log, j, fmt.Errorf("%s has not committed itself to the object: %w", f.destination.Name, committed))
		}
		log.Info("result delivered and committed")
		return f.end(j, store.JobDone, f.stored(p)+", which has committed itself to keep it")
	}
	return nil
}
