package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"hilum/dimse/dataset"
	"hilum/node/config"
	"hilum/node/report"
	"hilum/node/task"
	"hilum/store"
)

// resultsFolder holds, within the data folder, what plugins found until the
// objects are made of it: a node that dies in between makes the very same
// objects after its restart. Masks and pictures make it too large for a job.
const resultsFolder = "results"

func (d *dispatcher) resultFile(job string) string {
	return filepath.Join(d.results, "job-"+job+".json")
}

// keep writes a result so that it survives the node.
func (d *dispatcher) keep(job string, r task.AnalysisResult) error {
	encoded, err := task.EncodeResult(r)
	if err != nil {
		return err
	}
	if err := writeDurably(d.resultFile(job), encoded); err != nil {
		return fmt.Errorf("keep the result: %w", err)
	}
	return nil
}

// kept is what earlier attempts at a job have left: nothing, the results of the first
// plugins, or all. What cannot be read is thrown away: the series is then analysed
// again.
func (d *dispatcher) kept(job string) (r task.AnalysisResult, err error) {
	encoded, err := os.ReadFile(d.resultFile(job))
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return r, fmt.Errorf("read the kept result: %w", err)
	}
	if err := json.Unmarshal(encoded, &r); err != nil {
		d.log.Warn("kept result is damaged, analysing again", "job", job)
		d.drop(job)
		return task.AnalysisResult{}, nil
	}
	return r, nil
}

// drop removes a kept result that is needed no more.
func (d *dispatcher) drop(job string) {
	if err := os.Remove(d.resultFile(job)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		d.log.Warn("kept result not removed", "job", job, "error", err)
	}
}

// sweepResults makes the folder of kept results, and removes from it what belongs to
// no job that still needs it.
func sweepResults(dir string, st *store.Store) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("make the folder of results: %w", err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("list the folder of results: %w", err)
	}
	for _, e := range entries {
		id, found := strings.CutPrefix(strings.TrimSuffix(e.Name(), ".json"), "job-")
		if found {
			j, err := st.Job(id)
			if err == nil && j.State != store.JobDone && j.State != store.JobDead {
				continue
			}
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return err
			}
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("remove an old result: %w", err)
		}
	}
	return nil
}

// writeDurably puts a file in place whole or not at all.
func writeDurably(name string, b []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), ".new-*")
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	folder, err := os.Open(filepath.Dir(name))
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}

// publish makes the objects of a result and stores them. The same result makes the
// same bytes, so that doing it twice stores them once.
func (d *dispatcher) publish(a task.Analysis, result *task.AnalysisResult) error {
	in, err := d.reportInput(a, result)
	if err != nil {
		return err
	}
	sr, err := report.SR(in)
	if err != nil {
		return fmt.Errorf("make the report: %w", err)
	}
	made := []madeDocument{{config.ResultSR, sr}}
	if d.wanted(config.ResultSEG) {
		seg, ok, err := report.SEG(in)
		if err != nil {
			return fmt.Errorf("make the segmentation: %w", err)
		}
		if ok {
			made = append(made, madeDocument{config.ResultSEG, seg})
		}
	}
	if d.wanted(config.ResultGSPS) {
		gsps, ok, err := report.GSPS(in)
		if err != nil {
			return fmt.Errorf("make the presentation state: %w", err)
		}
		if ok {
			made = append(made, madeDocument{config.ResultGSPS, gsps})
		}
	}
	if d.wanted(config.ResultSC) {
		pages, err := report.Captures(in)
		if err != nil {
			return fmt.Errorf("make the pictures: %w", err)
		}
		for _, page := range pages {
			made = append(made, madeDocument{config.ResultSC, page})
		}
	}
	result.Objects = nil
	for _, m := range made {
		if err := d.storeDocument(m.Document); err != nil {
			return fmt.Errorf("store the result: %w", err)
		}
		result.Objects = append(result.Objects, task.Made{Kind: m.kind, Object: task.Object{SOPClassUID: m.SOPClassUID, SOPInstanceUID: m.SOPInstanceUID}})
	}
	result.Report = result.Objects[0].Object
	return nil
}

type madeDocument struct {
	kind string
	report.Document
}

// wanted tells whether any destination takes a kind of result.
func (d *dispatcher) wanted(kind string) bool {
	return slices.ContainsFunc(d.destinations, func(dest config.Destination) bool { return slices.Contains(dest.Results, kind) })
}

// reportInput gathers what the objects say, and gives the findings their identity.
func (d *dispatcher) reportInput(a task.Analysis, result *task.AnalysisResult) (report.Input, error) {
	in := report.Input{
		SeriesInstanceUID: a.SeriesInstanceUID,
		Result:            result.Result,
		Revision:          a.Revision,
		Software:          result.Software,
		Station:           d.station,
		Now:               result.Ended,
	}
	var err error
	if in.Header, err = d.header(result.Instances); err != nil {
		return in, fmt.Errorf("read the header for the report: %w", err)
	}
	for _, im := range result.Instances {
		in.Images = append(in.Images, report.Image(im))
	}
	if in.Stack, err = d.stack(a.SeriesInstanceUID, in.Images); err != nil {
		return in, err
	}
	var earlier []report.Tracked
	if in.Predecessor, earlier, err = d.earlier(a); err != nil {
		return in, err
	}
	in.Tracking = report.Track(a.SeriesInstanceUID, result.Result.Description.Name, result.Result.Findings, earlier)
	result.Tracking = nil
	for _, t := range in.Tracking {
		result.Tracking = append(result.Tracking, task.Tracking(t))
	}
	return in, nil
}

// header reads what the report copies from the first image analysed.
func (d *dispatcher) header(images []task.Object) (dataset.Header, error) {
	if len(images) == 0 {
		return dataset.Header{}, errors.New("no image was analysed")
	}
	r, _, err := d.store.OpenInstance(images[0].SOPInstanceUID)
	if err != nil {
		return dataset.Header{}, err
	}
	defer r.Close()
	file, err := dataset.ReadHeaderFrom(r, report.SourceTags)
	if err != nil {
		return dataset.Header{}, err
	}
	return file.Header, nil
}

// stack says where the analysed images lie; nil when they are no stack, so that nothing
// can be drawn on them.
func (d *dispatcher) stack(series string, analysed []report.Image) (*report.Stack, error) {
	all, err := d.store.Instances(series)
	if err != nil {
		return nil, fmt.Errorf("list the series: %w", err)
	}
	named := make(map[report.Image]bool, len(analysed))
	for _, image := range analysed {
		named[image] = true
	}
	planes := make([]report.Plane, 0, len(analysed))
	for _, in := range all {
		image := report.Image{SOPClassUID: in.SOPClassUID, SOPInstanceUID: in.SOPInstanceUID}
		if !named[image] {
			continue // it came later, and belongs to the next revision
		}
		planes = append(planes, report.Plane{
			Image:       image,
			Columns:     integer(in.Header["Columns"]),
			Rows:        integer(in.Header["Rows"]),
			Position:    decimals(in.Header["ImagePositionPatient"]),
			Orientation: decimals(in.Header["ImageOrientationPatient"]),
			Spacing:     decimals(in.Header["PixelSpacing"]),
		})
	}
	stack, err := report.NewStack(planes)
	if err != nil {
		d.log.Info("nothing can be drawn on the images of the series", "series", series, "reason", err)
		return nil, nil
	}
	return stack, nil
}

// storeDocument stores an object like any, in a series that is never an input.
func (d *dispatcher) storeDocument(doc report.Document) error {
	file, err := dataset.ReadHeaderFrom(bytes.NewReader(doc.Bytes), dataset.IndexTags)
	if err != nil {
		return err
	}
	w, err := d.store.NewInstance()
	if err != nil {
		return err
	}
	defer func() { _ = w.Abort() }() // harmless after Commit
	if _, err := w.Write(doc.Bytes); err != nil {
		return err
	}
	outcome, err := w.Commit(store.Instance{
		SOPInstanceUID:    doc.SOPInstanceUID,
		SOPClassUID:       doc.SOPClassUID,
		SeriesInstanceUID: doc.SeriesInstanceUID,
		StudyInstanceUID:  doc.StudyInstanceUID,
		TransferSyntaxUID: doc.TransferSyntaxUID,
		Source:            d.station,
		Header:            file.Header.Map(),
	})
	if err != nil {
		return err
	}
	if outcome == store.Conflict || outcome == store.Rejected {
		return fmt.Errorf("another object has the UID %s", doc.SOPInstanceUID)
	}
	return d.store.UpdateSeries(doc.SeriesInstanceUID, func(s *store.Series) error {
		s.State, s.Reason = store.SeriesGenerated, "made by this node"
		s.CompleteInstances = s.Instances
		return nil
	})
}

// earlier finds the report that this one supersedes, of the last revision of the series
// that was analysed so, and the nodules of all former ones, the latest first.
func (d *dispatcher) earlier(a task.Analysis) (*report.Image, []report.Tracked, error) {
	var all []store.Job
	for _, queue := range task.AnalysisQueues(a.Plugin) {
		jobs, err := d.store.Jobs(queue)
		if err != nil {
			return nil, nil, fmt.Errorf("find the result that this one supersedes: %w", err)
		}
		all = append(all, jobs...)
	}
	type former struct {
		revision int
		result   task.AnalysisResult
	}
	var found []former
	for _, j := range all {
		if j.State != store.JobDone || !strings.HasPrefix(j.Key, a.SeriesInstanceUID+"/") {
			continue
		}
		other, err := task.DecodeAnalysis(j)
		if err != nil {
			return nil, nil, err
		}
		if other.SeriesInstanceUID != a.SeriesInstanceUID || other.Revision >= a.Revision {
			continue
		}
		result, err := task.DecodeAnalysisResult(j)
		if err != nil {
			return nil, nil, err
		}
		found = append(found, former{other.Revision, result})
	}
	if len(found) == 0 {
		return nil, nil, nil
	}
	slices.SortFunc(found, func(a, b former) int { return b.revision - a.revision })
	var nodules []report.Tracked
	for _, f := range found {
		for i, finding := range f.result.Result.Findings {
			if i < len(f.result.Tracking) { // results of version 0.1 have none
				nodules = append(nodules, report.Tracked{Tracking: report.Tracking(f.result.Tracking[i]), Center: finding.Center, DiameterMM: finding.DiameterMM})
			}
		}
	}
	last := report.Image(found[0].result.Report)
	return &last, nodules, nil
}
