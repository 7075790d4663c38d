package volume

import (
	"os/exec"
	"runtime"
	"syscall"
)

// ownGroup puts the child into a process group of its own, which is killed as a
// whole, and lets the kernel end the child when this process dies.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

// runGroup runs the child. It keeps its OS thread: Linux sends the parent death
// signal when the thread that forked dies, not the process.
func runGroup(cmd *exec.Cmd) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	return cmd.Run()
}
