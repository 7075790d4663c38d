package host

import (
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// memoryInterval is how often the memory of a tree is looked at. A program
// that fills memory at full speed gets some hundred MiB beyond its limit.
const memoryInterval = 100 * time.Millisecond

// searchInterval is the same where all processes of the machine must be
// looked at for it.
const searchInterval = 500 * time.Millisecond

// platform is what the runner holds of the kernel's.
type platform struct {
	group *os.File // the control group, nil for none
	tree  *tree
}

// processAttributes puts the plugin into a group of its own and has the kernel
// kill it when the node dies in whatever way.
func (r *groupRunner) processAttributes() (*syscall.SysProcAttr, error) {
	a := &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if r.confine.Processes == isolatedByCgroup || r.confine.Memory == isolatedByCgroup {
		group, err := newCgroup(ownCgroup(), r.confine.memory)
		if err != nil {
			return nil, err
		}
		r.group = group
		a.UseCgroupFD, a.CgroupFD = true, int(group.Fd())
	}
	if r.confine.Processes == isolatedByTree {
		adopt()
	}
	r.confine.attributes(a)
	return a, nil
}

// notBorn frees what processAttributes made for a process that did not start.
func (r *groupRunner) notBorn() {
	if r.group != nil {
		removeCgroup(r.group)
	}
}

// born takes note of the process that was just started; r.mu is held.
func (r *groupRunner) born() {
	r.tree = &tree{
		root:  r.pid,
		exact: r.confine.Processes == isolatedByNamespace,
		mark:  "PLUGIN_UNIX_SOCKET_DIR=" + r.socketDir,
	}
}

// guard watches the memory of the tree until the process ends.
func (r *groupRunner) guard(done <-chan struct{}) {
	tame(r.pid)
	interval := memoryInterval
	if !r.tree.exact {
		interval = searchInterval
	}
	tick := time.NewTicker(interval)
	defer tick.Stop()
	for {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		used := r.tree.memory(false)
		r.used.Store(used)
		limit := r.confine.memory
		if limit == 0 || used <= limit || r.confine.Memory == isolatedByCgroup {
			continue
		}
		if used = r.tree.memory(true); used > limit {
			r.kill(fmt.Sprintf("used %s of memory, more than its limit of %s, and was killed", mebibytes(used), mebibytes(limit)))
		}
	}
}

func mebibytes(n int64) string { return fmt.Sprintf("%d MiB", (n+1<<19)>>20) }

// beforeKill takes note of what a signal to the process group will not reach,
// while it still has its parents.
func (r *groupRunner) beforeKill() {
	r.mu.Lock()
	t := r.tree
	r.mu.Unlock()
	if t != nil && r.confine.Processes == isolatedByTree {
		t.look()
	}
}

// awaitDeath waits for the end of the process. The dead process stays in the
// table, so its number, which is the group's too, cannot become somebody
// else's before the kill.
func (r *groupRunner) awaitDeath() {
	for unix.Waitid(unix.P_PID, r.pid, nil, unix.WEXITED|unix.WNOWAIT, nil) == unix.EINTR {
	}
}

// reap kills what the dead process has forked, and takes it out of the table.
func (r *groupRunner) reap() {
	_ = r.signal(syscall.SIGKILL) // fails only when the group is empty
	if r.confine.Processes == isolatedByTree {
		r.tree.kill()
	}
	if r.group != nil {
		killCgroup(r.group)
		if cgroupKilled(r.group) {
			r.setReason(fmt.Sprintf("used more memory than its limit of %s and was killed", mebibytes(r.confine.memory)))
		}
		removeCgroup(r.group)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_ = r.cmd.Wait() // its error is the exit status, which ending reads from the state
	r.state, r.reaped = r.cmd.ProcessState, true
}
