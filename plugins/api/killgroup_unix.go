//go:build unix

package api

import (
	"os"
	"syscall"
)

// killGroup kills the process and what it forked, if it leads its group as it
// does under the host. In any other group there may be somebody else's processes.
func killGroup() {
	if pid := os.Getpid(); syscall.Getpgrp() == pid {
		_ = syscall.Kill(-pid, syscall.SIGKILL) // the caller exits anyway
	}
}
