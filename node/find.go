package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/audit"
	"hilum/node/config"
	"hilum/node/query"
	"hilum/store"
)

// archive answers what peers ask of the store: C-FIND here, C-MOVE and C-GET in
// retrieve.go. Who may ask, the access rules have decided when the association was
// accepted; the network side logs who asked, and what became of it.
type archive struct {
	store      *store.Store
	aeTitle    string
	known      atomic.Pointer[[]config.MoveDestination] // as of the last reload
	maxMatches int                                      // 0 is no limit
	log        *slog.Logger
	audit      *audit.Trail
	releases   sync.WaitGroup // of associations with move destinations
}

func newArchive(st *store.Store, cfg config.Config, trail *audit.Trail, log *slog.Logger) *archive {
	a := &archive{store: st, aeTitle: cfg.AETitle, maxMatches: cfg.MaxMatches, log: log, audit: trail}
	a.known.Store(&cfg.MoveDestinations)
	return a
}

// destination is the peer that C-MOVE means by an AE title.
func (a *archive) destination(aeTitle string) (config.MoveDestination, bool) {
	for _, d := range *a.known.Load() {
		if d.AETitle == aeTitle {
			return d, true
		}
	}
	return config.MoveDestination{}, false
}

// root is the information model of a SOP class.
func root(sopClassUID string) query.Root {
	switch sopClassUID {
	case dimse.PatientRootFind, dimse.PatientRootMove, dimse.PatientRootGet:
		return query.PatientRoot
	}
	return query.StudyRoot
}

// CFind is part of dimse.Finder.
func (a *archive) CFind(ctx context.Context, req *dimse.QueryRequest, match func(dimse.Match) error) error {
	q, err := query.Parse(root(req.SOPClassUID), req.Identifier, query.Options{
		RetrieveAETitle: a.aeTitle, CombinedDateTime: req.CombinedDateTime,
	})
	if err != nil {
		return refuseIdentifier(err)
	}
	a.audit.Queried(auditPeer(req.Association), req.SOPClassUID)
	matches := 0
	return q.Find(ctx, a.store, func(identifier []*dataset.Element) error {
		if matches++; a.maxMatches > 0 && matches > a.maxMatches {
			return &dimse.StatusError{Status: dimse.StatusOutOfResources, Comment: fmt.Sprintf("more than %d matches, ask for less", a.maxMatches)}
		}
		return match(dimse.Match{Identifier: identifier, Unsupported: q.Unsupported})
	})
}

// refuseIdentifier maps what is wrong with an identifier to A900H, PS3.4 table
// C.4-1: identifier does not match SOP class.
func refuseIdentifier(err error) error {
	var wrong *query.Error
	if !errors.As(err, &wrong) {
		return err
	}
	return &dimse.StatusError{Status: dimse.StatusDataSetMismatch, Comment: wrong.Problem, OffendingElements: wrong.Tags}
}
