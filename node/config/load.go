package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// maxFileBytes bounds what is read: a configuration is a page of text, and a
// person who names an image by mistake should learn it at once.
const maxFileBytes = 1 << 20

// Load reads a configuration file, sets what it leaves out to the defaults,
// resolves relative paths against the folder of the file and validates the
// result. With path "" it reads hilum.yaml of the working folder if there is
// one, and else returns the defaults with paths in the working folder.
// The error is made of *Error values, one a line.
func Load(path string) (Config, error) {
	optional := path == ""
	if optional {
		path = DefaultFile
	}
	text, err := readFile(path)
	if optional && errors.Is(err, fs.ErrNotExist) {
		c := Default()
		return finish(c, ".")
	}
	if err != nil {
		return Config{}, &Error{File: path, Problem: err.Error()}
	}
	c, err := Parse(path, text)
	if err != nil {
		return Config{}, err
	}
	return finish(c, filepath.Dir(path))
}

// Parse decodes and validates the text of a configuration file. Paths stay as
// written; the name is used in errors only.
func Parse(name string, text []byte) (Config, error) {
	c := Default()
	c.File = name
	p := &problems{file: name}
	c.lines = decode(text, &c, p)
	c.complete()
	if len(p.list) == 0 {
		// Validate speaks of values, which a file that could not be read
		// has none of.
		c.validate(p)
	}
	if err := p.err(); err != nil {
		return Config{}, err
	}
	return c, nil
}

// complete fills what follows from other keys.
func (c *Config) complete() {
	for i := range c.Destinations {
		if c.Destinations[i].CallingAETitle == "" {
			c.Destinations[i].CallingAETitle = c.AETitle
		}
		d := &c.Destinations[i]
		d.TLS.complete(c.TLS)
		if !c.written(fmt.Sprintf("destinations[%d].max_backoff", i)) {
			d.MaxBackoff = max(d.MaxBackoff, d.Backoff)
		}
	}
	for i := range c.MoveDestinations {
		d := &c.MoveDestinations[i]
		if d.CallingAETitle == "" {
			d.CallingAETitle = c.AETitle
		}
		d.TLS.complete(c.TLS)
	}
	for i := range c.Peers {
		c.Peers[i].TLS.complete(c.TLS)
	}
	if !c.written("reports.max_backoff") {
		c.Reports.MaxBackoff = max(c.Reports.MaxBackoff, c.Reports.Backoff)
	}
	if !c.written("series.association_wait") {
		c.Series.AssociationWait = associationQuiets * c.Series.Quiet
	}
	if !c.written("series.gap_wait") {
		c.Series.GapWait = gapQuiets * c.Series.Quiet
	}
	if !c.written("jobs.max_backoff") {
		c.Jobs.MaxBackoff = max(c.Jobs.MaxBackoff, c.Jobs.Backoff)
	}
}

// complete has the node show its own certificate where there is no other.
func (t *DestinationTLS) complete(own TLS) {
	if t.Enabled && t.Certificate == "" && t.Key == "" {
		t.Certificate, t.Key = own.Certificate, own.Key
	}
}

func (t *DestinationTLS) resolve(path func(*string)) {
	path(&t.CA)
	path(&t.Certificate)
	path(&t.Key)
}

// written tells whether the file has the key.
func (c *Config) written(key string) bool {
	_, ok := c.lines[key]
	return ok
}

// finish makes the paths absolute.
func finish(c Config, folder string) (Config, error) {
	folder, err := filepath.Abs(folder)
	if err != nil {
		return Config{}, fmt.Errorf("find the folder of the configuration: %w", err)
	}
	resolve := func(p *string) {
		if *p != "" && !filepath.IsAbs(*p) {
			*p = filepath.Join(folder, *p)
		}
	}
	resolve(&c.Data)
	resolve(&c.Scratch)
	resolve(&c.TLS.Certificate)
	resolve(&c.TLS.Key)
	resolve(&c.TLS.ClientCA)
	for i := range c.Destinations {
		c.Destinations[i].TLS.resolve(resolve)
	}
	for i := range c.Peers {
		c.Peers[i].TLS.resolve(resolve)
	}
	for i := range c.MoveDestinations {
		c.MoveDestinations[i].TLS.resolve(resolve)
	}
	for i := range c.Plugins {
		resolve(&c.Plugins[i].Path)
		resolve(&c.Plugins[i].Model)
		resolve(&c.Plugins[i].Classifier)
	}
	return c, nil
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, noFileError{path}
	}
	if err != nil {
		return nil, errors.Unwrap(err) // the path is named by the caller
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxFileBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the configuration: %w", errors.Unwrap(err))
	}
	if len(text) > maxFileBytes {
		return nil, fmt.Errorf("larger than %d bytes: this is not a configuration file", maxFileBytes)
	}
	return text, nil
}

type noFileError struct{ path string }

func (e noFileError) Error() string { return "no such file" }
func (e noFileError) Unwrap() error { return fs.ErrNotExist }
