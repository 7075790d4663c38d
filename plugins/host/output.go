package host

import (
	"bufio"
	"io"
	"strings"
	"sync"

	"hilum/plugins/api"
)

const (
	// maxOutputBytes is how much of what a process printed is kept: enough for
	// the stacks of a Go panic or a Python traceback.
	maxOutputBytes = 64 << 10

	// maxLineBytes cuts endless lines. A handshake line with its certificate
	// has about one KiB.
	maxLineBytes = 8 << 10

	// maxQuoteBytes bounds what of a process's output goes into an error sentence.
	maxQuoteBytes = 300
)

// output keeps the last lines of a process, without the names it was told to hide.
type output struct {
	mu     sync.Mutex // guards all fields
	lines  []string
	bytes  int
	hidden *strings.Replacer
}

// hide replaces what identifies the patient of the running job by a mark.
func (o *output) hide(r *strings.Replacer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.hidden = r
}

// add keeps one line and returns it as kept.
func (o *output) add(line string) string {
	line = api.CleanText(line, maxLineBytes)
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.hidden != nil {
		line = o.hidden.Replace(line)
	}
	o.lines = append(o.lines, line)
	o.bytes += len(line) + 1
	drop := 0
	for o.bytes > maxOutputBytes {
		o.bytes -= len(o.lines[drop]) + 1
		drop++
	}
	o.lines = o.lines[drop:]
	return line
}

// hideIn does to other words of the process what add does to its output.
func (o *output) hideIn(s string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.hidden == nil {
		return s
	}
	return o.hidden.Replace(s)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return strings.Join(o.lines, "\n")
}

// readLines calls fn with every line of r until it ends. A line longer than
// maxLineBytes comes in pieces. A read error ends it like an end of file: it is
// the host that closes the pipe of a dead process.
func readLines(r io.Reader, fn func(string)) {
	b := bufio.NewReaderSize(r, maxLineBytes)
	for {
		line, err := b.ReadSlice('\n')
		if len(line) > 0 {
			fn(strings.TrimRight(string(line), "\r\n"))
		}
		if err != nil && err != bufio.ErrBufferFull {
			return
		}
	}
}

// tellingLine returns the line that says why a program ended: the head of a Go
// panic, else the last line (where a Python traceback names its exception).
func tellingLine(output string) string {
	last := ""
	for line := range strings.Lines(output) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "panic:") || strings.HasPrefix(line, "fatal error:") {
			last = line
			break
		}
		if line != "" {
			last = line
		}
	}
	return api.CleanText(last, maxQuoteBytes)
}
