//go:build unix && !linux

package host

import "syscall"

type platform struct{}

// processAttributes puts the plugin into a group of its own. That it ends with
// the node is left to api.Serve, which watches stdin.
func (r *groupRunner) processAttributes() (*syscall.SysProcAttr, error) {
	return &syscall.SysProcAttr{Setpgid: true}, nil
}

func (r *groupRunner) notBorn() {}

func (r *groupRunner) born() {}

func (r *groupRunner) guard(done <-chan struct{}) { <-done }

func (r *groupRunner) beforeKill() {}

func machineMemory() int64 { return 0 }

// awaitDeath waits for the end of the process. From here to the kill the number
// of its group is free for a moment; Linux closes that gap.
func (r *groupRunner) awaitDeath() { _ = r.cmd.Wait() } // its error is the exit status

// reap kills what the dead process has forked.
func (r *groupRunner) reap() {
	_ = syscall.Kill(-r.pid, syscall.SIGKILL)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.state, r.reaped = r.cmd.ProcessState, true
}
