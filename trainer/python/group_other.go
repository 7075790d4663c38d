//go:build unix && !linux

package python

import (
	"os/exec"
	"syscall"
)

// ownGroup puts the program into a process group of its own, so that a Ctrl-C
// reaches it once, by us.
func ownGroup(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} }

func runGroup(cmd *exec.Cmd) error { return cmd.Run() }

func killGroup(pid int) { _ = syscall.Kill(-pid, syscall.SIGKILL) } // it may be gone
