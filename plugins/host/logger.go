package host

import (
	"bufio"
	"bytes"
	"io"
	"log/slog"

	"github.com/hashicorp/go-hclog"
)

// libraryLogger sends go-plugin's own messages to log at debug level: they
// speak of the library, not of anything a person running a node can change.
func libraryLogger(log *slog.Logger) hclog.Logger {
	return hclog.New(&hclog.LoggerOptions{
		Level:       hclog.Debug,
		Output:      lineWriter{log},
		DisableTime: true,
	})
}

type lineWriter struct{ log *slog.Logger }

var _ io.Writer = lineWriter{}

func (w lineWriter) Write(p []byte) (int, error) {
	for s := bufio.NewScanner(bytes.NewReader(p)); s.Scan(); {
		w.log.Debug("go-plugin", "message", s.Text())
	}
	return len(p), nil
}
