package models

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Names of the two files of a model folder.
const (
	ManifestFile = "model.json"
	NetworkFile  = "model.onnx"
)

// maxNetworkBytes is the largest network that is loaded: 2 GiB is protobuf's,
// and so ONNX's, own limit for one file.
const maxNetworkBytes = 2 << 30

// ErrManifest is returned when model.json cannot be used; the message says
// which key. Only another file helps.
var ErrManifest = errors.New("the model's manifest cannot be used")

// ErrMissing is returned when the model folder or one of its two files is not
// there.
var ErrMissing = errors.New("the model is not there")

// HashError is returned when model.onnx is not the file that the manifest
// describes. Only restoring one of the two helps.
type HashError struct {
	File string // model.onnx with its folder
	Want string // of the manifest
	Got  string // of the file
}

func (e *HashError) Error() string {
	return fmt.Sprintf("%s has SHA-256 %s but its manifest says %s: the file was changed or cut off; "+
		"restore the model folder from its source, or export the model again so that both files fit", e.File, e.Got, e.Want)
}

// Model is a model folder whose two files fit together.
type Model struct {
	Manifest
	Dir     string
	Network []byte // model.onnx, the very bytes whose hash was verified
}

// Load reads the model in dir and verifies it. The network is read once and
// kept, so that what runs is what was verified.
func Load(dir string) (*Model, error) {
	m, err := LoadManifest(dir)
	if err != nil {
		return nil, err
	}
	name := filepath.Join(dir, NetworkFile)
	network, err := readBounded(name, maxNetworkBytes)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(network)
	if got := hex.EncodeToString(sum[:]); got != m.SHA256 {
		return nil, &HashError{File: name, Want: m.SHA256, Got: got}
	}
	return &Model{Manifest: m, Dir: dir, Network: network}, nil
}

// LoadManifest reads the manifest in dir without looking at the network.
func LoadManifest(dir string) (Manifest, error) {
	name := filepath.Join(dir, ManifestFile)
	data, err := readBounded(name, maxManifestBytes)
	if err != nil {
		return Manifest{}, err
	}
	m, err := ParseManifest(data)
	if err != nil {
		return Manifest{}, fmt.Errorf("%w: %s: %w", ErrManifest, name, err)
	}
	return m, nil
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(name string, limit int64) ([]byte, error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: there is no file %s; a model folder holds %s and %s", ErrMissing, name, ManifestFile, NetworkFile)
	case err != nil:
		return nil, fmt.Errorf("read the model: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("%w: %s is not a file", ErrMissing, name)
	case info.Size() > limit:
		return nil, fmt.Errorf("%s has %d bytes, at most %d are read", name, info.Size(), limit)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, fmt.Errorf("read the model: %w", err)
	}
	defer func() { _ = f.Close() }() // read only: nothing can be lost
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read the model: %w", err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("%s has more than %d bytes", name, limit)
	}
	return data, nil
}
