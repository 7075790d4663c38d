package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	ort "github.com/yalue/onnxruntime_go"
)

// Names of shared libraries in a folder of ONNX Runtime.
const (
	libraryName      = "libonnxruntime.so"
	openVINOLibrary  = "libonnxruntime_providers_openvino.so"
	cudaLibrary      = "libonnxruntime_providers_cuda.so"
	projectRuntime   = ".cache/runtime/current" // where make runtime puts it, from the project's folder
	projectRuntimeUp = 3                        // folders above the program that are searched for it (bin/plugins)
)

// systemFolders are searched last, for a runtime installed with the system.
var systemFolders = []string{
	"/usr/local/lib", "/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib",
}

// errNoRuntime is returned when no ONNX Runtime library is found.
var errNoRuntime = errors.New("the ONNX Runtime library is not installed; install it with: make runtime")

// findLibrary returns the path of the ONNX Runtime library. named is a file or
// a folder, or "" for the usual places; executable is this program's path.
func findLibrary(named, executable string) (string, error) {
	if named != "" {
		info, err := os.Stat(named)
		if err != nil {
			return "", fmt.Errorf("there is no ONNX Runtime at %s (named by --runtime or %s); install it with: make runtime", named, runtimeVariable)
		}
		if !info.IsDir() {
			return filepath.Abs(named)
		}
		if name := libraryIn(named); name != "" {
			return filepath.Abs(name)
		}
		return "", fmt.Errorf("the folder %s (named by --runtime or %s) holds no %s; install it with: make runtime", named, runtimeVariable, libraryName)
	}
	var folders []string
	for dir, n := filepath.Dir(executable), 0; n <= projectRuntimeUp; dir, n = filepath.Dir(dir), n+1 {
		folders = append(folders, filepath.Join(dir, projectRuntime))
	}
	for _, dir := range append(folders, systemFolders...) {
		if name := libraryIn(dir); name != "" {
			return name, nil
		}
	}
	return "", errNoRuntime
}

// libraryIn returns the newest ONNX Runtime library in a folder, or "".
func libraryIn(dir string) string {
	// The link "current" is followed now: the files beside the library must be
	// those of the same version even if the link moves while we run.
	if real, err := filepath.EvalSymlinks(dir); err == nil {
		dir = real
	}
	names, err := filepath.Glob(filepath.Join(dir, libraryName+"*"))
	if err != nil || len(names) == 0 {
		return ""
	}
	return slices.MaxFunc(names, func(a, b string) int { return compareVersions(filepath.Base(a), filepath.Base(b)) })
}

// compareVersions orders libonnxruntime.so.1.9.0 before libonnxruntime.so.1.24.1.
func compareVersions(a, b string) int {
	return slices.CompareFunc(strings.Split(a, "."), strings.Split(b, "."), func(x, y string) int {
		if len(x) != len(y) {
			return len(x) - len(y)
		}
		return strings.Compare(x, y)
	})
}

// library is the loaded ONNX Runtime. There is one in a process.
type library struct {
	path    string
	version string
}

// openLibrary loads the runtime. It must be called once.
func openLibrary(path string) (*library, error) {
	ort.SetSharedLibraryPath(path)
	if err := ort.InitializeEnvironment(ort.WithLogLevelError()); err != nil {
		return nil, fmt.Errorf("load ONNX Runtime from %s: %w; install the version that fits with: make runtime", path, err)
	}
	return &library{path: path, version: ort.GetVersion()}, nil
}

// has tells whether the runtime came with that provider.
func (l *library) has(provider string) bool {
	_, err := os.Stat(filepath.Join(filepath.Dir(l.path), provider))
	return err == nil
}
