//go:build unix && !linux

package volume

import (
	"os/exec"
	"syscall"
)

// ownGroup puts the child into a process group of its own, which is killed as a
// whole.
func ownGroup(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
}

func runGroup(cmd *exec.Cmd) error { return cmd.Run() }
