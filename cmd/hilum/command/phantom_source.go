package command

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"hilum/trainer/insert"
)

// maxFolds is beyond any sensible cross-validation.
const maxFolds = 1000

// maxPatientsBytes bounds the list of patients.
const maxPatientsBytes = 16 << 20

// sources reads the real nodules of the patients that were asked for.
func (c *phantomCommand) sources() ([]insert.Source, error) {
	all, err := insert.ReadSources(c.source)
	if err != nil {
		return nil, err
	}
	if c.patients != "" {
		named, err := readPatients(c.patients)
		if err != nil {
			return nil, err
		}
		all = insert.OfPatients(all, func(p string) bool { return named[p] })
	}
	for _, f := range []struct {
		flag, text string
		keep       bool
	}{{"--fold", c.fold, true}, {"--without-fold", c.withoutFold, false}} {
		if f.text == "" {
			continue
		}
		k, n, err := parseFold(f.text)
		if err != nil {
			return nil, usage(fmt.Errorf("%s %q: %w", f.flag, f.text, err))
		}
		all = insert.OfPatients(all, func(p string) bool { return (insert.Fold(p, n) == k) == f.keep })
	}
	if len(all) == 0 {
		return nil, fmt.Errorf("no nodule in %s is of a patient that --patients, --fold and --without-fold leave", c.source)
	}
	return all, nil
}

func parseFold(text string) (k, n int, err error) {
	if got, err := fmt.Sscanf(text+"\n", "%d/%d\n", &k, &n); got != 2 || err != nil || n < 1 || n > maxFolds || k < 0 || k >= n {
		return 0, 0, errors.New("write it as K/N, from 0/N to N-1/N")
	}
	return k, n, nil
}

// readPatients reads a list with one patient a line.
func readPatients(name string) (map[string]bool, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	named := map[string]bool{}
	lines := bufio.NewScanner(io.LimitReader(f, maxPatientsBytes))
	for lines.Scan() {
		if p := strings.TrimSpace(lines.Text()); p != "" {
			named[p] = true
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("read the patients: %w", err)
	}
	if len(named) == 0 {
		return nil, fmt.Errorf("%s names no patient", name)
	}
	return named, nil
}
