package host

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"time"
)

const (
	defaultDeadline     = 15 * time.Minute // a large series on two old cores
	defaultStartTimeout = time.Minute      // models on a slow disk
)

// Spec says how to run one plugin.
type Spec struct {
	Name         string        // unique; lower case letters, digits and . _ -
	Path         string        // the executable
	Args         []string      // its arguments; paths in them must be absolute, the process runs in a folder of its own
	Env          []string      // KEY=value, beside the few variables a plugin gets anyway
	SHA256       string        // of the executable, hexadecimal; "": the hash it has when New looks
	Deadline     time.Duration // for one job; 0: 15 minutes
	StartTimeout time.Duration // from the fork to the answer of Describe; 0: a minute
	Processes    int           // jobs at a time, each in its own process; 0: 1
	Memory       int64         // bytes that one process may use with all it starts, without files; 0: three quarters of the machine
	Network      bool          // leave it the network of the node
	Read         []string      // files and folders of the plugin's own inside Options.Hide, beside Path
	Unconfined   bool          // leave it all that the node's user may do; its memory stays limited

	sum []byte // SHA256, decoded
}

// The name becomes a folder name and a part of log lines.
var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// check returns s with its defaults, an absolute path and a hash, or one
// sentence on what is wrong and what to do.
func (s Spec) check() (Spec, error) {
	if !namePattern.MatchString(s.Name) {
		return s, fmt.Errorf("plugin name %q: use 1 to 63 lower case letters, digits and . _ - with a letter or digit first", s.Name)
	}
	fail := func(format string, args ...any) (Spec, error) {
		return s, fmt.Errorf("plugin "+s.Name+": "+format, args...)
	}
	if s.Deadline < 0 || s.StartTimeout < 0 || s.Processes < 0 || s.Memory < 0 {
		return fail("deadline, start timeout, processes and memory must not be negative")
	}
	for _, kv := range s.Env {
		if key, _, ok := strings.Cut(kv, "="); !ok || key == "" {
			return fail("environment entry %q is not KEY=value", kv)
		}
	}
	if s.Deadline == 0 {
		s.Deadline = defaultDeadline
	}
	if s.StartTimeout == 0 {
		s.StartTimeout = defaultStartTimeout
	}
	if s.Processes == 0 {
		s.Processes = 1
	}
	if s.Memory == 0 {
		s.Memory = machineMemory() / 4 * 3
	}
	if s.Path == "" {
		return fail("no path is given")
	}
	path, err := filepath.Abs(s.Path) // the process runs in a folder of its own
	if err != nil {
		return fail("path %s: %w", s.Path, err)
	}
	s.Path = path
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return fail("there is no file %s: build it or correct its path in the configuration", path)
	case err != nil:
		return fail("look at %s: %w", path, err)
	case !info.Mode().IsRegular():
		return fail("%s is not a file: give the path of the executable", path)
	case info.Mode().Perm()&0o111 == 0:
		return fail("%s is not executable: chmod +x %s", path, path)
	}
	got, err := hashFile(path)
	if err != nil {
		return fail("read %s: %w", path, err)
	}
	if s.SHA256 == "" {
		s.SHA256 = hex.EncodeToString(got)
	}
	want, err := hex.DecodeString(s.SHA256)
	if err != nil || len(want) != sha256.Size {
		return fail("sha256 %q is not 64 hexadecimal digits", s.SHA256)
	}
	if string(want) != string(got) {
		return fail("%s has sha256 %x, the configuration wants %s: put the right file there or correct the configuration", path, got, s.SHA256)
	}
	s.sum = want
	return s, nil
}

// equal reports whether a process of a can go on as one of b.
func (s Spec) equal(b Spec) bool { return reflect.DeepEqual(s, b) }

func hashFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return nil, err
	}
	return h.Sum(nil), nil
}
