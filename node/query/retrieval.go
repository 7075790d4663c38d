package query

import (
	"context"

	"hilum/dimse/dataset"
	"hilum/store"
)

// Retrieval is what a C-MOVE or C-GET asks for. It does not change.
type Retrieval struct{ scope scope }

// ParseRetrieval reads the identifier of a C-MOVE or C-GET, of which only the
// unique keys count (PS3.4 C.4.2.1.4). An error is an *Error.
func ParseRetrieval(root Root, h dataset.Header) (*Retrieval, error) {
	level, err := parseLevel(root, h)
	if err != nil {
		return nil, err
	}
	r := &Retrieval{}
	if r.scope, err = parseScope(root, level, h); err != nil {
		return nil, err
	}
	if level == Patient {
		r.scope.patient, err = single(h, Patient)
		r.scope.anyone = false
		return r, err
	}
	if r.scope.wanted, err = uids(h, level); err != nil {
		return nil, err
	}
	if len(r.scope.wanted) == 0 {
		return nil, wrong(uniqueKeys[level], "the unique key of level %s is missing", level)
	}
	return r, nil
}

// Each calls fn for every image, until it returns an error, which is returned, as
// is the error of ctx when that ends. Nothing else in the store waits meanwhile.
func (r *Retrieval) Each(ctx context.Context, s Store, fn func(store.Instance) error) error {
	one := func(inst store.Instance) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		return fn(inst)
	}
	return r.scope.eachStudy(s, func(_, series []store.Series) error {
		for _, v := range series {
			switch {
			case r.scope.series != "" && v.SeriesInstanceUID != r.scope.series,
				r.scope.level == Series && !r.scope.wanted[v.SeriesInstanceUID]:
				continue
			}
			if err := r.scope.eachImage(s, v.SeriesInstanceUID, one); err != nil {
				return err
			}
		}
		return nil
	})
}
