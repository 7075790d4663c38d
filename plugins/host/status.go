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
	StateBroken   State = "broken"   // failed too often; is not started again before a reload
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
	Isolation   Isolation       `json:"isolation"`          // what the kernel holds it to
	MemoryBytes int64           `json:"memory_bytes"`       // with all that it started, when last looked at
	MemoryLimit int64           `json:"memory_limit_bytes"` // 0: none
	LastOutput  string          `json:"last_output,omitempty"`
}

// Status describes every process, in the order of the configuration.
func (h *Host) Status() []Status {
	var all []Status
	for _, p := range h.current() {
		for _, s := range p.slots {
			all = append(all, s.status())
		}
	}
	return all
}

// Capacity returns how many jobs the plugin can run at a time now: its
// processes that wait for a job or run one. Options.Changed tells of a change.
func (h *Host) Capacity(name string) int {
	n := 0
	for _, p := range h.current() {
		if p.spec.Name != name {
			continue
		}
		for _, s := range p.slots {
			if state, _ := s.now(); state == StateReady || state == StateBusy {
				n++
			}
		}
	}
	return n
}

// Description returns what the plugin last said it is, zero before it did.
func (h *Host) Description(name string) api.Description {
	for _, st := range h.Status() {
		if st.Name == name && st.Description.Name != "" {
			return st.Description
		}
	}
	return api.Description{}
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
		State: s.state, Restarts: s.restarts, Problem: s.problem, Description: s.description,
		Isolation: s.confine.Isolation, MemoryLimit: s.confine.memory,
	}
	if s.process != nil {
		st.Pid = s.process.runner.processID()
		st.MemoryBytes = s.process.runner.used.Load()
	}
	if s.output != nil {
		st.LastOutput = s.output.String()
	}
	return st
}
