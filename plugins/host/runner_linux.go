package host

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// processAttributes puts the plugin into a group of its own and has the kernel
// kill it when the node dies in whatever way.
func processAttributes() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// reap waits for the end of the process and kills what it forked.
func (r *groupRunner) reap() {
	// With WNOWAIT the dead process stays in the table, so its number, which is
	// the group's too, cannot become somebody else's before the kill.
	for unix.Waitid(unix.P_PID, r.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
	_ = r.signal(syscall.SIGKILL) // fails only when the group is empty
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.cmd.Wait() // its error is the exit status, which ending reads from the state
	r.state, r.reaped = r.cmd.ProcessState, true
}
