package node

import (
	"context"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"hilum/node/assemble"
	"hilum/node/mpps"
	"hilum/node/rule"
	"hilum/node/task"
	"hilum/store"
)

// assembler watches arriving series, asks assemble.Decide about each when its
// time has come, and queues the analyses of those that are whole.
//
// What must survive a restart is in the store: a series that was arriving is
// watched again by the next node, its quiet time counted from the start.
type assembler struct {
	store  *store.Store
	rules  assemble.Rules
	router *router
	steps  mpps.Steps
	log    *slog.Logger
	now    func() time.Time

	// tell announces a revision of a series to peers, durably; nil: there are none.
	tell func(s store.Series, revision int) error

	wake chan struct{} // capacity 1: something is due earlier than the loop thinks

	mu       sync.Mutex           // guards arriving
	arriving map[string]*arriving // by SeriesInstanceUID
}

// arriving is a series that has images which no completion covers yet.
type arriving struct {
	lastImage    time.Time
	due          time.Time // when to decide next
	announced    bool      // its waiting jobs are in the queue
	listed       bool      // a completed procedure step names it: it may be whole before it is quiet
	looked       time.Time // when it was last decided on
	reported     int       // messages of procedure steps about it
	associations map[uint64]struct{}
}

func newAssembler(st *store.Store, rules assemble.Rules, way *router, log *slog.Logger, now func() time.Time) *assembler {
	return &assembler{
		store: st, rules: rules, router: way, steps: mpps.Steps{Store: st}, log: log, now: now,
		wake:     make(chan struct{}, 1),
		arriving: map[string]*arriving{},
	}
}

// resume takes up every series that was still arriving when the last node
// ended.
func (a *assembler) resume() error {
	all, err := a.store.AllSeries()
	if err != nil {
		return fmt.Errorf("find the series that were arriving: %w", err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range all {
		if s.State != store.SeriesGenerated && s.Instances != s.CompleteInstances {
			a.watch(s.SeriesInstanceUID)
		}
	}
	return nil
}

// received notes a new image of a series. It is called on the receive path
// and does no input or output.
func (a *assembler) received(series string, association uint64) {
	a.mu.Lock()
	s := a.watch(series)
	s.associations[association] = struct{}{}
	a.mu.Unlock()
}

// watch starts or renews the quiet time of a series; a.mu is held.
func (a *assembler) watch(series string) *arriving {
	s, ok := a.arriving[series]
	if !ok {
		s = &arriving{associations: map[uint64]struct{}{}}
		a.arriving[series] = s
	}
	s.lastImage = a.now()
	s.due = s.lastImage.Add(a.rules.Quiet)
	if s.listed {
		a.soon(s)
	}
	if !ok {
		a.poke() // later images only move the time out, and the loop sees that when it wakes
	}
	return s
}

// listedPause is the time between two looks at a series whose images a procedure
// step lists: each reads the whole series.
const listedPause = time.Second

// soon has a series decided on as soon as listedPause allows; a.mu is held.
func (a *assembler) soon(s *arriving) {
	if at := s.looked.Add(listedPause); at.Before(s.due) {
		s.due = at
		a.poke()
	}
}

// procedure notes that a performed procedure step has changed that names these
// series.
func (a *assembler) procedure(series []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, uid := range series {
		if s, ok := a.arriving[uid]; ok {
			s.listed = true
			s.reported++
			a.soon(s)
		}
	}
}

// closed notes the end of an association: series that it brought need not
// wait for it any more.
func (a *assembler) closed(association uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.arriving {
		if _, ok := s.associations[association]; ok {
			delete(s.associations, association)
			s.due = s.lastImage.Add(a.rules.Quiet)
			if s.listed {
				a.soon(s) // a look that was due before stays due
			}
			a.poke()
		}
	}
}

func (a *assembler) poke() {
	select {
	case a.wake <- struct{}{}:
	default: // the loop is about to look anyway
	}
}

// run decides on series until ctx ends.
func (a *assembler) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		case <-timer.C:
		}
		timer.Reset(a.pass())
	}
}

// idle is how long the loop sleeps when no series is arriving; a new one
// wakes it.
const idle = time.Hour

// retryPass is how long the loop waits after an error of the store.
const retryPass = 5 * time.Second

// pass announces new series, decides on those that are due, and returns the
// time until the next is.
func (a *assembler) pass() time.Duration {
	var fresh, due []string
	a.mu.Lock()
	now := a.now()
	for uid, s := range a.arriving {
		if !s.announced {
			fresh = append(fresh, uid)
		}
		if !s.due.After(now) {
			due = append(due, uid)
		}
	}
	a.mu.Unlock()

	slices.Sort(fresh) // map order must not decide whose job is first
	slices.Sort(due)
	for _, uid := range fresh {
		if err := a.announce(uid); err != nil {
			a.log.Error("series not announced, trying again", "series", uid, "error", err)
			return retryPass
		}
	}
	for _, uid := range due {
		if err := a.decide(uid); err != nil {
			a.log.Error("series not decided on, trying again", "series", uid, "error", err)
			return retryPass
		}
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	next := idle
	for _, s := range a.arriving {
		next = min(next, s.due.Sub(a.now()))
	}
	return max(next, 0)
}

// announce puts the jobs of a new revision into the queue as waiting, so that
// a person sees the series on its way from its first image on.
func (a *assembler) announce(uid string) error {
	s, err := a.store.Series(uid)
	if err != nil {
		return err
	}
	if s.Instances == s.CompleteInstances {
		return nil // its last image was counted before it was noted here
	}
	reason := fmt.Sprintf("the series is arriving; it is complete after %s without a new image", a.rules.Quiet)
	routes, err := a.router.routes(s)
	if err != nil {
		return err
	}
	for _, r := range routes {
		if _, _, err := a.store.Enqueue(a.analysis(s, r, store.JobWaiting, reason)); err != nil {
			return err
		}
	}
	if s.State == store.SeriesComplete || s.Reason == "" {
		if err := a.store.UpdateSeries(uid, func(s *store.Series) error {
			s.State, s.Reason = store.SeriesReceiving, reason
			return nil
		}); err != nil {
			return err
		}
	}
	lists, err := a.steps.OfSeries(uid)
	if err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if w, ok := a.arriving[uid]; ok {
		w.announced = true
		if len(lists) > 0 && !w.listed {
			w.listed = true
			a.soon(w)
		}
	}
	return nil
}

// decide asks for the verdict on one series and carries it out.
func (a *assembler) decide(uid string) error {
	a.mu.Lock()
	w, ok := a.arriving[uid]
	if !ok {
		a.mu.Unlock()
		return nil
	}
	lastImage := w.lastImage
	associations := len(w.associations)
	w.looked = a.now()
	reported := w.reported
	a.mu.Unlock()

	s, err := a.store.Series(uid)
	if err != nil {
		return err
	}
	images, err := a.store.Instances(uid)
	if err != nil {
		return err
	}
	procedure, err := a.evidence(uid, images)
	if err != nil {
		return err
	}
	verdict := assemble.Decide(assemble.Evidence{
		Now:          a.now(),
		LastImage:    lastImage,
		Associations: associations,
		Instances:    len(images),
		Completed:    s.CompleteInstances,
		Geometry:     assemble.Examine(slicesOf(images)),
		Procedure:    procedure,
	}, a.rules)

	if verdict.Complete {
		if err := a.complete(s, len(images), verdict.Reason); err != nil {
			return err
		}
	} else if !verdict.Again.IsZero() {
		if err := a.explain(s, verdict.Reason); err != nil {
			return err
		}
	}

	a.mu.Lock()
	defer a.mu.Unlock()
	switch {
	case !w.lastImage.Equal(lastImage): // images arrived meanwhile: a new revision begins
		w.announced = w.announced && !verdict.Complete
		a.poke()
	case verdict.Again.IsZero():
		delete(a.arriving, uid) // a step adds nothing to a series that is whole
	case w.reported != reported: // a step came meanwhile, and has set when to look again
		a.poke()
	default:
		w.due = verdict.Again
	}
	return nil
}

// evidence holds what performed procedure steps list of a series against its images.
func (a *assembler) evidence(series string, images []store.Instance) (assemble.Procedure, error) {
	lists, err := a.steps.OfSeries(series)
	if err != nil || len(lists) == 0 {
		return assemble.Procedure{}, err
	}
	stored := make(map[string]bool, len(images))
	for _, in := range images {
		stored[in.SOPInstanceUID] = true
	}
	return mpps.Compare(lists, stored), nil
}

// complete queues the analyses of a series that is whole, then records the
// completion. In this order, because a crash between the two completes the
// series once more after the restart and finds the jobs already there.
func (a *assembler) complete(s store.Series, instances int, reason string) error {
	routes, err := a.router.routes(s)
	if err != nil {
		return err
	}
	if err := a.withdraw(s, routes); err != nil {
		return err
	}
	for _, r := range routes {
		job, isNew, err := a.store.Enqueue(a.analysis(s, r, store.JobQueued, reason))
		if err != nil {
			return err
		}
		if isNew || job.State != store.JobWaiting {
			continue
		}
		if _, err := a.store.UpdateJob(job.ID, func(j *store.Job) error {
			j.State, j.Reason = store.JobQueued, reason
			return nil
		}); err != nil {
			return err
		}
	}
	if a.tell != nil {
		if err := a.tell(s, s.Revision+1); err != nil {
			return err
		}
	}
	if why := resultOf(s); why != "" {
		reason += "; not analysed: " + why
	} else if len(routes) == 0 {
		reason += "; no rule sends it to a plugin"
	}
	a.log.Info("series complete", "series", s.SeriesInstanceUID, "instances", instances, "jobs", len(routes), "reason", reason)
	return a.store.UpdateSeries(s.SeriesInstanceUID, func(s *store.Series) error {
		s.State = store.SeriesComplete
		s.Reason = reason
		s.Revision++
		s.CompleteInstances = instances
		return nil
	})
}

// withdraw ends the waiting jobs of a series that goes elsewhere than when its
// first image came: a later image, or a reload, changed what the rules say.
func (a *assembler) withdraw(s store.Series, routes []rule.Route) error {
	var queues []string
	for _, r := range routes {
		queues = append(queues, a.analysis(s, r, store.JobQueued, "").Queue)
	}
	for _, p := range a.router.now.Load().pipelines {
		for _, queue := range task.AnalysisQueues(p.Name) {
			job, ok, err := a.store.FindJob(queue, task.AnalysisKey(s.SeriesInstanceUID, s.Revision+1))
			if err != nil {
				return err
			}
			if !ok || job.State != store.JobWaiting || slices.Contains(queues, queue) {
				continue
			}
			if _, err := a.store.UpdateJob(job.ID, func(j *store.Job) error {
				j.State, j.Reason = store.JobDead, "the whole series goes elsewhere by the rules"
				return nil
			}); err != nil {
				return err
			}
		}
	}
	return nil
}

// explain shows in the series and its waiting jobs what is waited for.
func (a *assembler) explain(s store.Series, reason string) error {
	routes, err := a.router.routes(s)
	if err != nil {
		return err
	}
	for _, r := range routes {
		job, _, err := a.store.Enqueue(a.analysis(s, r, store.JobWaiting, reason))
		if err != nil {
			return err
		}
		if job.State != store.JobWaiting || job.Reason == reason {
			continue
		}
		if _, err := a.store.UpdateJob(job.ID, func(j *store.Job) error { j.Reason = reason; return nil }); err != nil {
			return err
		}
	}
	return a.store.UpdateSeries(s.SeriesInstanceUID, func(s *store.Series) error { s.Reason = reason; return nil })
}

// analysis is the job of the next revision of a series.
func (a *assembler) analysis(s store.Series, r rule.Route, state store.JobState, reason string) store.Job {
	return task.NewAnalysis(task.Analysis{
		SeriesInstanceUID: s.SeriesInstanceUID,
		StudyInstanceUID:  s.StudyInstanceUID,
		Plugin:            r.Pipeline,
		Revision:          s.Revision + 1,
		Urgent:            r.Urgent,
	}, state, reason)
}

// slicesOf takes from the indexed headers what completeness looks at.
func slicesOf(images []store.Instance) []assemble.Slice {
	out := make([]assemble.Slice, len(images))
	for i, in := range images {
		out[i] = assemble.Slice{
			Position:       decimals(in.Header["ImagePositionPatient"]),
			Orientation:    decimals(in.Header["ImageOrientationPatient"]),
			InstanceNumber: integer(in.Header["InstanceNumber"]),
		}
	}
	return out
}
