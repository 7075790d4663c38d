package host

import "hilum/plugins/api"

// State is what a process is doing.
type State string

// The states of a process.
const (
	StateStopped  State = "stopped"
	StateStarting State = "starting"
	StateReady    State = "ready"    // waits for a job
	StateBusy     State = "busy"     // runs a job
	StateWaiting  State = "waiting"  // died or could not start; waits for its restart
	StateStopping State = "stopping" // was asked to end
)

// Status describes one process of a plugin.
type Status struct {
	Name        string          `json:"name"`
	Process     int             `json:"process"` // 0 to Spec.Processes-1
	Path        string          `json:"path"`
	SHA256      string          `json:"sha256"`
	State       State           `json:"state"`
	Pid         int             `json:"pid,omitempty"` // 0: no process
	Restarts    int             `json:"restarts"`
	Problem     string          `json:"problem,omitempty"` // why it was restarted last, or cannot start
	Description api.Description `json:"description"`
	LastOutput  string          `json:"last_output,omitempty"`
}

// Status describes every process, in the order of the configuration.
func (h *Host) Status() []Status {
	var all []Status
	for _, name := range h.names {
		for _, s := range h.plugins[name].slots {
			all = append(all, s.status())
		}
	}
	return all
}

// Pid returns the process id of the first living process of the plugin, 0 if
// there is none.
func (h *Host) Pid(name string) int {
	for _, st := range h.Status() {
		if st.Name == name && st.Pid != 0 {
			return st.Pid
		}
	}
	return 0
}

func (s *slot) status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{
		Name: s.spec.Name, Process: s.number, Path: s.spec.Path, SHA256: s.spec.SHA256,
		State: s.state, Restarts: s.restarts, Problem: s.problem,
	}
	if s.process != nil {
		st.Pid = s.process.runner.processID()
		st.Description = s.process.description
	}
	if s.output != nil {
		st.LastOutput = s.output.String()
	}
	return st
}
