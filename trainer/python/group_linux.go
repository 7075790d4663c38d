package python

import (
	"os/exec"
	"runtime"
	"syscall"
)

// ownGroup puts the program into a process group of its own, so that a Ctrl-C
// reaches it once, by us, and has the kernel ask it to end when we die.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGTERM}
}

// runGroup runs the program. It keeps its OS thread: Linux sends the parent
// death signal when the thread that forked dies, not the process.
func runGroup(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}

func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) } // it may be gone
