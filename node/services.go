package node

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"hilum/dimse"
	"hilum/node/availability"
	"hilum/node/commitment"
	"hilum/node/config"
	"hilum/node/mpps"
	"hilum/node/task"
	"hilum/store"
)

// services are the DIMSE-N services of the node: what peers ask for beside
// storage, and what the node tells them.
type services struct {
	provider  *commitment.Provider
	requester *commitment.Requester // for whoever sends to destinations
	mpps      *mpps.Provider
	notifier  *availability.Notifier
	keep      time.Duration // of performed procedure steps
	log       *slog.Logger
	now       func() time.Time
}

// newServices makes the services. peer says where the peer of an AE title accepts
// associations, as of the last reload.
func newServices(cfg config.Config, peer func(string) (config.Destination, bool), st *store.Store, procedure func([]string), log *slog.Logger, now func() time.Time) *services {
	retry := task.Retry{Attempts: cfg.Reports.Attempts, Backoff: cfg.Reports.Backoff, MaxBackoff: cfg.Reports.MaxBackoff}
	return &services{
		provider: &commitment.Provider{
			Store: st, Rules: cfg.Commitment, Retry: retry, Calling: cfg.AETitle, Peer: peer, Log: log, Now: now,
		},
		requester: &commitment.Requester{Store: st, Rules: cfg.Commitment, Calling: cfg.AETitle, Log: log, Now: now},
		mpps:      &mpps.Provider{Steps: mpps.Steps{Store: st}, Changed: procedure, Log: log, Now: now},
		notifier: &availability.Notifier{
			Store: st, Retry: retry, Calling: cfg.AETitle, Peers: cfg.Notified(), Log: log, Now: now,
		},
		keep: cfg.MPPS.Keep,
		log:  log,
		now:  now,
	}
}

// normalized are the services for the listener.
func (s *services) normalized() map[string]dimse.NService {
	return map[string]dimse.NService{
		dimse.StorageCommitmentSOPClass:      commitment.Service{Provider: s.provider, Requester: s.requester}.NService(),
		dimse.PerformedProcedureStepSOPClass: s.mpps.NService(),
	}
}

// reporters is how many outcomes and notifications are on their way at a time, so
// that a peer that does not answer does not hold up the others.
const reporters = 4

// forgetPause is the time between two looks at what may be forgotten.
const forgetPause = time.Hour

// start does the work of the services until ctx ends.
func (s *services) start(ctx context.Context, group *sync.WaitGroup, w worker) {
	w.queue, w.run = commitment.Queue, s.provider.Run
	for range reporters {
		group.Go(func() { w.work(ctx) })
	}
	for _, peer := range s.notifier.Peers {
		w := w // one for each, so that a peer that does not answer holds up no other
		w.queue = availability.Queue(peer.AETitle)
		w.run = func(ctx context.Context, job store.Job) error { return s.notifier.Run(ctx, job, peer) }
		group.Go(func() { w.work(ctx) })
	}
	group.Go(func() {
		s.requester.Run(ctx)
		s.requester.Wait()
	})
	group.Go(func() { s.forget(ctx) })
}

// forget has the services forget what is old.
func (s *services) forget(ctx context.Context) {
	ticker := time.NewTicker(forgetPause)
	defer ticker.Stop()
	for {
		if err := s.provider.Forget(); err != nil {
			s.log.Error("old requests for storage commitment not forgotten", "error", err)
		}
		if err := s.notifier.Forget(); err != nil {
			s.log.Error("old notifications of availability not forgotten", "error", err)
		}
		if _, err := s.mpps.Steps.Forget(s.now(), s.keep); err != nil {
			s.log.Error("old performed procedure steps not forgotten", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}
