//go:build unix && !linux

package host

import "syscall"

// processAttributes puts the plugin into a group of its own. That it ends with
// the node is left to api.Serve, which watches stdin.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}

// reap waits for the end of the process and kills what it forked. Between the
// two the group's number is free for a moment; Linux closes that gap.
func (r *groupRunner) reap() {
	_ = r.cmd.Wait() // its error is the exit status, which ending reads from the state
	_ = syscall.Kill(-r.pid, syscall.SIGKILL)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state, r.reaped = r.cmd.ProcessState, true
}
