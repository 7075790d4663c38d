package store

import (
	"errors"
	"fmt"
	"log/slog"

	"go.etcd.io/bbolt"
)

// A migration turns files of one schema version into the next. Steps are small
// and never skip one: a folder of any older version passes all that follow it.
//
// Whoever changes what doc.go describes raises schemaVersion, adds the step
// from the version before, and adds a data folder written by the version before
// to testdata, which TestOldVersions opens, checks and reads for ever after.
type migration struct {
	index  func(*bbolt.Tx) error // on index.db; nil: nothing to do
	series func(*bbolt.Tx) error // on each series file; nil: nothing to do
}

// migrations holds at n-1 the step from version n to n+1. Version 1 is the first.
var migrations = []migration{
	{index: migrateToStudies},
}

// migrator brings bbolt files to the newest version.
type migrator struct {
	steps []migration
	log   *slog.Logger
}

// newest is the version that all files have in the end.
func (m migrator) newest() uint64 { return uint64(len(m.steps)) + 1 }

// migrateIndex brings index.db up to date, all steps and the new version in one
// transaction: after a crash it is old or new.
func (m migrator) migrateIndex(db *bbolt.DB, from uint64) error {
	err := update(db, func(tx *bbolt.Tx) error {
		return m.run(tx, from, func(s migration) func(*bbolt.Tx) error { return s.index })
	})
	if err != nil {
		return writeError(fmt.Sprintf("bring the index from format %d to %d", from, m.newest()), err)
	}
	m.log.Info("index brought to a newer format", "from", from, "to", m.newest())
	return nil
}

// migrateSeries brings one series file up to date when it is opened: a store of
// years must not keep the node from starting.
func (m migrator) migrateSeries(db *bbolt.DB) error {
	var from uint64
	err := view(db, func(tx *bbolt.Tx) error {
		if meta := tx.Bucket(bucketMeta); meta != nil {
			from = getUint(meta, keySchema)
		}
		return nil
	})
	if err != nil || from == 0 || from >= m.newest() {
		return err // what is wrong with it, checkSeriesFile says
	}
	err = update(db, func(tx *bbolt.Tx) error {
		return m.run(tx, from, func(s migration) func(*bbolt.Tx) error { return s.series })
	})
	if err != nil {
		return writeError(fmt.Sprintf("bring a series file from format %d to %d", from, m.newest()), err)
	}
	return nil
}

func (m migrator) run(tx *bbolt.Tx, from uint64, part func(migration) func(*bbolt.Tx) error) error {
	if from == 0 {
		return errors.New("format 0 is none")
	}
	for _, step := range m.steps[from-1:] {
		if fn := part(step); fn != nil {
			if err := fn(tx); err != nil {
				return err
			}
		}
	}
	return putUint(tx.Bucket(bucketMeta), keySchema, m.newest())
}
