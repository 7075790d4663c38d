// Command lungnodule is the plugin that finds lung nodules in a chest CT: it
// reads the series, prepares it as the model's manifest says, runs the network
// tile by tile on ONNX Runtime, has a classifier judge what it found, and
// returns that in patient coordinates. The node starts it; see plugins/api.
//
// It refuses series that cannot become a volume or show no lungs, and models
// whose file is not the one of their manifest.
package main

import (
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"

	"hilum/plugins/api"
)

// runtimeVariable names the ONNX Runtime library when --runtime does not.
const runtimeVariable = "HILUM_ONNXRUNTIME"

func main() {
	if len(os.Args) > 1 && os.Args[1] == volumeCommand {
		os.Exit(volumeMain(os.Args[2:], os.Stderr))
	}
	o, err := parseFlags(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		os.Exit(0)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "lungnodule:", err)
		os.Exit(2)
	}
	// Serve swaps os.Stderr; the log keeps the real one.
	o.log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	if o.runtime == "" {
		o.runtime = os.Getenv(runtimeVariable)
	}
	if err := findRuntime(&o); err != nil {
		// Not the end: Describe says it to the person who starts the node.
		o.log.Error("no runtime", "error", err)
	}
	api.Serve(newDetector(o))
}

// options are what the command line and the environment say.
type options struct {
	modelDir      string  // folder of the detector
	classifierDir string  // folder of the classifier; "": none
	runtime       string  // ONNX Runtime library or its folder; "": looked for
	threshold     float64 // lowest probability reported; 0: the manifest's
	log           *slog.Logger

	libraryPath string // the runtime's library that was found
	libraryErr  error  // or why there is none
}

// findRuntime looks for the library, and may start the program anew for it.
func findRuntime(o *options) error {
	executable, err := os.Executable()
	if err == nil {
		if o.libraryPath, err = findLibrary(o.runtime, executable); err == nil {
			err = ensureLoadPath(o.libraryPath)
		}
	}
	o.libraryErr = err
	return err
}

func parseFlags(args []string) (options, error) {
	var o options
	f := flag.NewFlagSet("lungnodule", flag.ContinueOnError)
	f.StringVar(&o.modelDir, "model", "", "model `folder` with model.onnx and model.json (required)")
	f.StringVar(&o.classifierDir, "classifier", "", "`folder` of a model that judges the findings (default: none)")
	f.StringVar(&o.runtime, "runtime", "", "ONNX Runtime library or the folder it is in (default: $"+runtimeVariable+
		", then .cache/runtime/current above this program, then the system's folders)")
	f.Float64Var(&o.threshold, "threshold", 0, "lowest probability that is reported (default: the manifest's)")
	if err := f.Parse(args); err != nil {
		return o, err
	}
	switch {
	case f.NArg() > 0:
		return o, fmt.Errorf("unknown argument %q", f.Arg(0))
	case o.modelDir == "":
		return o, errors.New("--model DIR is missing")
	case !(o.threshold >= 0 && o.threshold < 1):
		return o, fmt.Errorf("--threshold %g is not between 0 and 1", o.threshold)
	}
	return o, nil
}
