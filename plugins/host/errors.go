package host

import (
	"errors"
	"fmt"
	"time"
)

var (
	// ErrStopped is returned when the host stops or has stopped. Trying again
	// helps once a host runs.
	ErrStopped = errors.New("the plugin host is stopped")

	// ErrUnknownPlugin is returned when no plugin has the name asked for.
	ErrUnknownPlugin = errors.New("no plugin of this name is configured")
)

// StartError is returned when a plugin cannot be started. Trying again helps
// only after a person has changed something.
type StartError struct {
	Plugin     string
	Reason     string
	LastOutput string // the last lines of the process, if it ran
}

func (e *StartError) Error() string {
	return fmt.Sprintf("plugin %s cannot start: %s", e.Plugin, e.Reason)
}

// CrashError is returned when the process died, or had to be killed, while it
// worked on the job. Another attempt may work.
type CrashError struct {
	Plugin     string
	Reason     string // how it ended
	LastOutput string // the last lines of the process
}

func (e *CrashError) Error() string {
	return fmt.Sprintf("plugin %s crashed during the job: it %s%s", e.Plugin, e.Reason, quoteLast(e.LastOutput))
}

// DeadlineError is returned when the job took longer than Spec.Deadline.
type DeadlineError struct {
	Plugin     string
	Deadline   time.Duration
	Killed     bool   // it did not stop when asked either
	LastOutput string // the last lines of the process
}

func (e *DeadlineError) Error() string {
	how := "was stopped"
	if e.Killed {
		how = "was killed"
	}
	return fmt.Sprintf("plugin %s did not finish within %s and %s%s", e.Plugin, e.Deadline, how, quoteLast(e.LastOutput))
}

// FailureError is returned when the plugin answered the job with an error of
// its own and lives on. Another attempt may work. Lines that the plugin printed
// just before may be missing from LastOutput: they come by another way.
type FailureError struct {
	Plugin     string
	Reason     string
	LastOutput string // the last lines of the process
}

func (e *FailureError) Error() string {
	return fmt.Sprintf("plugin %s failed: %s", e.Plugin, e.Reason)
}

// quoteLast picks the line of the output that says most, for one-sentence errors.
func quoteLast(output string) string {
	if line := tellingLine(output); line != "" {
		return fmt.Sprintf("; its last words: %s", line)
	}
	return ""
}
