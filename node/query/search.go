package query

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
	"hilum/store"
)

// Store is what a query walks; *store.Store does it.
type Store interface {
	EachStudy(fn func(series []store.Series) error) error
	EachPatient(fn func(series []store.Series) error) error
	StudySeries(studyUID string) ([]store.Series, error)
	PatientSeries(patientID string) ([]store.Series, error)
	EachInstance(seriesUID string, fn func(store.Instance) error) error
	Instance(sopInstanceUID string) (store.Instance, error)
}

// entity is one patient, study, series or image with what is above it.
type entity struct {
	header                                          map[string]string // of an image of it
	retrieveAETitle                                 string
	patientStudies, patientSeries, patientInstances int
	studySeries, studyInstances, seriesInstances    int
	modalities                                      []string
	classes                                         *sopClasses // of the study; nil for a patient
}

// sopClasses are those of a study. They may have to be read from the images, once
// for all that is found in the study.
type sopClasses struct {
	list    []string
	unknown []string // series that an older version began
	store   Store
}

func count(n int) []string { return []string{strconv.Itoa(n)} }

// values returns the values of an attribute, at least one, which may be empty.
func (e *entity) values(a attribute) ([]string, error) {
	if a.counted != nil {
		if a.tag == dicomtag.SOPClassesInStudy {
			return e.classes.all()
		}
		return a.counted(e), nil
	}
	return splitValues(a, e.header[a.keyword]), nil
}

func splitValues(a attribute, text string) []string {
	switch a.vr {
	case "LT", "ST", "UT", "UR":
		return []string{text}
	}
	values := strings.Split(text, `\`)
	for i := range values {
		values[i] = strings.Trim(values[i], " ")
	}
	return values
}

// Find calls found with the identifier of every match, until it returns an error,
// which is returned, as is the error of ctx when that ends. Nothing else in the
// store waits meanwhile, and found may take its time.
func (q *Query) Find(ctx context.Context, s Store, found func(identifier []*dataset.Element) error) error {
	try := func(e *entity) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		e.retrieveAETitle = q.options.RetrieveAETitle
		for _, c := range q.conditions {
			if ok, err := c.match(e); err != nil || !ok {
				return err
			}
		}
		identifier, err := q.identifier(e)
		if err != nil {
			return err
		}
		return found(identifier)
	}
	if q.scope.level == Patient {
		return q.scope.eachPatient(s, func(series []store.Series) error { return try(patientEntity(series)) })
	}
	return q.scope.eachStudy(s, func(patient, series []store.Series) error {
		study := studyEntity(s, patient, series)
		if q.scope.level == Study {
			return try(study)
		}
		for _, v := range series {
			if q.scope.series != "" && v.SeriesInstanceUID != q.scope.series {
				continue
			}
			e := *study
			e.header, e.seriesInstances = v.Header, v.Instances
			if q.scope.level == Series {
				if err := try(&e); err != nil {
					return err
				}
				continue
			}
			err := q.scope.eachImage(s, v.SeriesInstanceUID, func(inst store.Instance) error {
				image := e
				image.header = inst.Header
				return try(&image)
			})
			if err != nil {
				return err
			}
		}
		return nil
	})
}

func patientEntity(series []store.Series) *entity {
	e := &entity{header: series[0].Header, patientSeries: len(series)}
	studies := map[string]bool{}
	for _, v := range series {
		studies[v.StudyInstanceUID] = true
		e.patientInstances += v.Instances
	}
	e.patientStudies = len(studies)
	return e
}

func studyEntity(s Store, patient, series []store.Series) *entity {
	e := patientEntity(patient)
	e.header, e.studySeries = series[0].Header, len(series)
	e.classes = &sopClasses{store: s}
	for _, v := range series {
		e.studyInstances += v.Instances
		e.modalities = addNew(e.modalities, v.Modality)
		for _, class := range v.SOPClasses {
			e.classes.list = addNew(e.classes.list, class)
		}
		if v.SOPClasses == nil {
			e.classes.unknown = append(e.classes.unknown, v.SeriesInstanceUID)
		}
	}
	return e
}

// all reads the images of the series whose classes are unknown.
func (c *sopClasses) all() ([]string, error) {
	for len(c.unknown) > 0 {
		err := c.store.EachInstance(c.unknown[0], func(inst store.Instance) error {
			c.list = addNew(c.list, inst.SOPClassUID)
			return nil
		})
		if err != nil {
			return nil, err
		}
		c.unknown = c.unknown[1:]
	}
	return c.list, nil
}

func addNew(list []string, s string) []string {
	if s == "" || slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// eachPatient walks the patients of the scope.
func (c scope) eachPatient(s Store, fn func(series []store.Series) error) error {
	if c.anyone {
		return s.EachPatient(fn)
	}
	series, err := s.PatientSeries(c.patient)
	if err != nil || len(series) == 0 {
		return err
	}
	return fn(series)
}

// eachStudy walks the studies of the scope by the shortest way. fn gets all
// series of the patient, as far as they were asked for, and those of the study.
func (c scope) eachStudy(s Store, fn func(patient, series []store.Series) error) error {
	switch {
	case c.study != "":
		return c.oneStudy(s, c.study, fn)
	case c.level == Study && len(c.wanted) > 0:
		for uid := range c.wanted {
			if err := c.oneStudy(s, uid, fn); err != nil {
				return err
			}
		}
		return nil
	case !c.anyone:
		all, err := s.PatientSeries(c.patient)
		if err != nil {
			return err
		}
		for _, series := range byStudy(all) {
			if err := fn(all, series); err != nil {
				return err
			}
		}
		return nil
	}
	return s.EachStudy(func(series []store.Series) error { return c.withPatient(s, series, fn) })
}

func (c scope) oneStudy(s Store, uid string, fn func(patient, series []store.Series) error) error {
	series, err := s.StudySeries(uid)
	if err != nil {
		return err
	}
	if !c.anyone {
		series = slices.DeleteFunc(series, func(v store.Series) bool { return strings.Trim(v.Header["PatientID"], " ") != c.patient })
	}
	if len(series) == 0 {
		return nil
	}
	return c.withPatient(s, series, fn)
}

// withPatient adds the other series of the patient where a key counts them.
func (c scope) withPatient(s Store, series []store.Series, fn func(patient, series []store.Series) error) error {
	if !c.countsPatient {
		return fn(series, series)
	}
	patient, err := s.PatientSeries(series[0].Header["PatientID"])
	if err != nil {
		return err
	}
	if len(patient) == 0 {
		patient = series // deleted meanwhile
	}
	return fn(patient, series)
}

// byStudy groups series, which are in the order of time, by study.
func byStudy(all []store.Series) [][]store.Series {
	var order []string
	groups := map[string][]store.Series{}
	for _, v := range all {
		if groups[v.StudyInstanceUID] == nil {
			order = append(order, v.StudyInstanceUID)
		}
		groups[v.StudyInstanceUID] = append(groups[v.StudyInstanceUID], v)
	}
	list := make([][]store.Series, len(order))
	for i, uid := range order {
		list[i] = groups[uid]
	}
	return list
}

// eachImage walks the images of a series, or looks up those that are wanted.
func (c scope) eachImage(s Store, seriesUID string, fn func(store.Instance) error) error {
	if c.level != Image || len(c.wanted) == 0 {
		return s.EachInstance(seriesUID, fn)
	}
	for uid := range c.wanted {
		inst, err := s.Instance(uid)
		switch {
		case errors.Is(err, store.ErrNotFound):
			continue
		case err != nil:
			return err
		case inst.SeriesInstanceUID != seriesUID:
			continue
		}
		if err := fn(inst); err != nil {
			return err
		}
	}
	return nil
}
