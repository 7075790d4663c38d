// Package availability is the SCU of Instance Availability Notification, PS3.4
// annex R: a peer, a RIS or workflow manager as a rule, is told which images of a
// series the node has, once the series is complete and again for each later
// revision of it.
//
// A notification is a job in the queue of its peer from before the series counts as
// complete, so that none is lost, and keeps its SOP Instance UID over all attempts,
// so that a peer that took it and whose answer was lost knows it again.
package availability

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/config"
	"hilum/node/connect"
	"hilum/node/mpps"
	"hilum/node/task"
	"hilum/store"
)

const (
	prefix = "availability/"
	// keep is how long a notification is remembered after its end.
	keep = 7 * 24 * time.Hour
	// answerTimeout bounds the wait for the answer to an N-CREATE.
	answerTimeout = 30 * time.Second
)

// notification is the payload of a job.
type notification struct {
	SOPInstanceUID    string `json:"sop_instance_uid"` // of the notification
	StudyInstanceUID  string `json:"study_instance_uid"`
	SeriesInstanceUID string `json:"series_instance_uid"`
	Revision          int    `json:"revision"`
}

// Notifier is the SCU. Its fields must not change once it is in use.
type Notifier struct {
	Store *store.Store
	Retry task.Retry
	// Calling is the AE title of the node, by which the images can be retrieved.
	Calling string
	Peers   []config.Destination // who is told
	Log     *slog.Logger
	Now     func() time.Time
}

// Queue is the queue of what a peer is to be told.
func Queue(aeTitle string) string { return prefix + aeTitle }

// Announce queues what the peers are told of a revision of a series. Called again
// for the same revision it changes nothing.
func (n *Notifier) Announce(s store.Series, revision int) error {
	for _, peer := range n.Peers {
		payload, err := json.Marshal(notification{dataset.NewUID(), s.StudyInstanceUID, s.SeriesInstanceUID, revision})
		if err != nil {
			return err
		}
		job := store.Job{
			Queue: Queue(peer.AETitle), Key: fmt.Sprintf("%s/%d", s.SeriesInstanceUID, revision), Group: s.SeriesInstanceUID,
			State: store.JobQueued, Reason: "the series is complete", Payload: payload,
		}
		if _, _, err := n.Store.Enqueue(job); err != nil {
			return fmt.Errorf("queue the availability of a series for %s: %w", peer.AETitle, err)
		}
	}
	return nil
}

// Run sends one notification to the peer whose job it is. It is for the worker of
// the peer's Queue.
func (n *Notifier) Run(ctx context.Context, job store.Job, to config.Destination) error {
	var what notification
	if err := json.Unmarshal(job.Payload, &what); err != nil {
		return n.Retry.Settle(ctx, n.Store, job, n.Now(), "", fmt.Errorf("the notification cannot be read: %w", err), true)
	}
	log := n.Log.With("peer", to.AETitle, "series", what.SeriesInstanceUID, "revision", what.Revision, "attempt", job.Attempts)
	images, err := n.Store.Instances(what.SeriesInstanceUID)
	if err == nil && len(images) == 0 {
		return n.Retry.Settle(ctx, n.Store, job, n.Now(), "the series is stored no more", nil, false)
	}
	if err == nil {
		err = n.send(ctx, what, images, to)
	}
	if err != nil {
		log.Warn("availability of images not told", "error", err)
		return n.Retry.Settle(ctx, n.Store, job, n.Now(), "", err, permanent(err))
	}
	log.Info("availability of images told", "instances", len(images))
	return n.Retry.Settle(ctx, n.Store, job, n.Now(), fmt.Sprintf("%s was told of %d images", to.AETitle, len(images)), nil, false)
}

// permanent reports whether another attempt cannot help: the peer does not take
// notifications, or not this one. What it may take another time is a failure of its
// own, or a lack of room (PS3.7 annex C).
func permanent(err error) bool {
	var status *dimse.StatusError
	if errors.As(err, &status) {
		return status.Status != dimse.StatusProcessingFailure && status.Status != dimse.StatusResourceLimitation
	}
	return errors.Is(err, dimse.ErrNoContext)
}

// send is N-CREATE, PS3.4 R.3.2.
func (n *Notifier) send(ctx context.Context, what notification, images []store.Instance, to config.Destination) error {
	steps, err := mpps.Steps{Store: n.Store}.OfSeries(what.SeriesInstanceUID)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	conn, err := connect.Dial(ctx, to, n.Calling, connect.Association{Contexts: []dimse.PresentationContext{{
		AbstractSyntax:   dimse.InstanceAvailabilitySOPClass,
		TransferSyntaxes: []string{dataset.ExplicitVRLittleEndian, dataset.ImplicitVRLittleEndian},
	}}})
	if err != nil {
		return err
	}
	defer conn.Close()
	elements := n.elements(what, images, steps)
	_, err = conn.Invoke(ctx, &dimse.NInvocation{
		Operation: dimse.NCreate, SOPClassUID: dimse.InstanceAvailabilitySOPClass, SOPInstanceUID: what.SOPInstanceUID,
		DataSet: func(transferSyntaxUID string) ([]byte, error) {
			var b bytes.Buffer
			err := dataset.WriteDataSet(&b, transferSyntaxUID, elements)
			return b.Bytes(), err
		},
	})
	var status *dimse.StatusError
	if errors.As(err, &status) && status.Status == dimse.StatusDuplicateInstance {
		err = nil // an earlier attempt came through
	}
	if err != nil {
		return fmt.Errorf("tell %s (%s): %w", to.Name, to.Address, err)
	}
	if err := conn.Release(ctx); err != nil {
		n.Log.Debug("peer did not release the association in order", "peer", to.AETitle, "error", err)
	}
	return nil
}

// elements are the attributes of PS3.4 table R.3.2-1. Nothing in them says who the
// patient is.
func (n *Notifier) elements(what notification, images []store.Instance, steps []mpps.List) []*dataset.Element {
	var performed [][]*dataset.Element
	for _, step := range steps {
		performed = append(performed, []*dataset.Element{
			dataset.MustElement(dicomtag.ReferencedSOPClassUID, dimse.PerformedProcedureStepSOPClass),
			dataset.MustElement(dicomtag.ReferencedSOPInstanceUID, step.Step),
			dataset.Sequence(dicomtag.PerformedWorkitemCodeSequence),
		})
	}
	held := make([][]*dataset.Element, len(images))
	for i, in := range images {
		held[i] = []*dataset.Element{
			dataset.MustElement(dicomtag.ReferencedSOPClassUID, in.SOPClassUID),
			dataset.MustElement(dicomtag.ReferencedSOPInstanceUID, in.SOPInstanceUID),
			dataset.MustElement(dicomtag.InstanceAvailability, "ONLINE"),
			dataset.MustElement(dicomtag.RetrieveAETitle, n.Calling),
		}
	}
	return []*dataset.Element{
		dataset.Sequence(dicomtag.ReferencedPerformedProcedureStepSequence, performed...),
		dataset.MustElement(dicomtag.StudyInstanceUID, what.StudyInstanceUID),
		dataset.Sequence(dicomtag.ReferencedSeriesSequence, []*dataset.Element{
			dataset.MustElement(dicomtag.SeriesInstanceUID, what.SeriesInstanceUID),
			dataset.Sequence(dicomtag.ReferencedSOPSequence, held...),
		}),
	}
}

// Forget deletes the jobs that ended long ago, and those of peers that are told no
// more.
func (n *Notifier) Forget() error {
	told := map[string]bool{}
	for _, peer := range n.Peers {
		told[Queue(peer.AETitle)] = true
	}
	jobs, err := n.Store.Jobs("")
	if err != nil {
		return err
	}
	var old []string
	for _, j := range jobs {
		ended := j.State == store.JobDone || j.State == store.JobDead
		if strings.HasPrefix(j.Queue, prefix) && (!told[j.Queue] || ended && n.Now().Sub(j.Updated) > keep) {
			old = append(old, j.ID)
		}
	}
	return n.Store.DeleteJobs(old)
}
