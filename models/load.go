package models

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Names of the files of a model folder.
const (
	ManifestFile = "model.json"
	NetworkFile  = "model.onnx"
	RescoreFile  = "rescore.onnx" // where the manifest has rescore
)

// maxNetworkBytes is the largest network that is loaded: 2 GiB is protobuf's,
// and so ONNX's, own limit for one file.
const maxNetworkBytes = 2 << 30

// ErrManifest is returned when model.json cannot be used; the message says
// which key. Only another file helps.
var ErrManifest = errors.New("the model's manifest cannot be used")

// ErrMissing is returned when the model folder or one of its files is not
// there.
var ErrMissing = errors.New("the model is not there")

// HashError is returned when a network is not the file that the manifest
// describes. Only restoring one of the two helps.
type HashError struct {
	File string // the network with its folder
	Want string // of the manifest
	Got  string // of the file
}

func (e *HashError) Error() string {
	return fmt.Sprintf("%s has SHA-256 %s but its manifest says %s: the file was changed or cut off; "+
		"restore the model folder from its source, or export the model again so that its files fit", e.File, e.Got, e.Want)
}

// Model is the folder of a detector whose files fit together.
type Model struct {
	Manifest
	Dir       string
	Network   []byte // model.onnx, the very bytes whose hash was verified
	Rescoring []byte // rescore.onnx, likewise; nil without Manifest.Rescore
}

// Classifier is the folder of a classifier whose files fit together.
type Classifier struct {
	ClassifierManifest
	Dir     string
	Network []byte // model.onnx, the very bytes whose hash was verified
}

// Load reads the detector in dir and verifies it. Its networks are read once
// and kept, so that what runs is what was verified.
func Load(dir string) (*Model, error) {
	m, err := LoadManifest(dir)
	if err != nil {
		return nil, err
	}
	out := &Model{Manifest: m, Dir: dir}
	if out.Network, err = readNetwork(dir, NetworkFile, m.SHA256); err != nil {
		return nil, err
	}
	if m.Rescore != nil {
		if out.Rescoring, err = readNetwork(dir, RescoreFile, m.Rescore.SHA256); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// LoadClassifier reads the classifier in dir as Load reads a detector.
func LoadClassifier(dir string) (*Classifier, error) {
	m, err := readManifest(dir, ParseClassifierManifest)
	if err != nil {
		return nil, err
	}
	network, err := readNetwork(dir, NetworkFile, m.SHA256)
	if err != nil {
		return nil, err
	}
	return &Classifier{ClassifierManifest: m, Dir: dir, Network: network}, nil
}

// LoadManifest reads a detector's manifest in dir without looking at the
// networks.
func LoadManifest(dir string) (Manifest, error) { return readManifest(dir, ParseManifest) }

// Verify reads and verifies the model in dir, which must be for that task; ""
// is any.
func Verify(dir, task string) (Common, error) {
	data, err := readBounded(filepath.Join(dir, ManifestFile), maxManifestBytes)
	if err != nil {
		return Common{}, err
	}
	var c struct {
		Task string `json:"task"`
	}
	// What is no manifest of a classifier is read as one of a detector, which
	// says what is wrong.
	if task == "" && json.Unmarshal(data, &c) == nil {
		task = c.Task
	}
	if task == TaskNoduleClassification {
		m, err := LoadClassifier(dir)
		if err != nil {
			return Common{}, err
		}
		return m.Common, nil
	}
	m, err := Load(dir)
	if err != nil {
		return Common{}, err
	}
	return m.Common, nil
}

func readManifest[T any](dir string, parse func([]byte) (T, error)) (m T, err error) {
	name := filepath.Join(dir, ManifestFile)
	data, err := readBounded(name, maxManifestBytes)
	if err != nil {
		return m, err
	}
	if m, err = parse(data); err != nil {
		return m, fmt.Errorf("%w: %s: %w", ErrManifest, name, err)
	}
	return m, nil
}

func readNetwork(dir, file, want string) ([]byte, error) {
	name := filepath.Join(dir, file)
	network, err := readBounded(name, maxNetworkBytes)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(network)
	if got := hex.EncodeToString(sum[:]); got != want {
		return nil, &HashError{File: name, Want: want, Got: got}
	}
	return network, nil
}

// readBounded reads a regular file of at most limit bytes.
func readBounded(name string, limit int64) ([]byte, error) {
	info, err := os.Stat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: there is no file %s; a model folder holds %s and the networks that it names", ErrMissing, name, ManifestFile)
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
