package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Detect reports what the kernel offers this process, root or not, in a
// container or not. It is asked once.
var Detect = sync.OnceValue(detect)

func detect() Isolation {
	i := Isolation{Processes: isolatedByTree, Memory: isolatedByWatch}
	abi := landlockABI()
	if abi >= 1 {
		i.Files = isolatedByLandlock
	}
	if abi >= 4 {
		i.Network = isolatedByLandlock
	}
	if group := ownCgroup(); group.path != "" {
		i.Processes = isolatedByCgroup
		if group.memory {
			i.Memory = isolatedByCgroup
		}
	}
	if canClone(syscall.CLONE_NEWNET) {
		i.Network = isolatedByNamespace
	}
	if canClone(syscall.CLONE_NEWPID) {
		i.Processes = isolatedByNamespace
	}
	return i
}

// canClone reports whether a child in a new namespace can be made. The child's
// program does not exist: that this is what fails shows that the rest works.
func canClone(flag uintptr) bool {
	cmd := exec.Cmd{Path: "/proc/self/none", Dir: "/", SysProcAttr: &syscall.SysProcAttr{}}
	addNamespaces(cmd.SysProcAttr, flag)
	err := cmd.Start()
	if err == nil { // a program of this name cannot be
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	return errors.Is(err, fs.ErrNotExist)
}

// addNamespaces asks for the child to be made in new namespaces. Who may not
// make these makes a user namespace around them, in which every id stays as it is.
func addNamespaces(a *syscall.SysProcAttr, flags uintptr) {
	a.Cloneflags |= flags
	if !hasCapability(unix.CAP_SYS_ADMIN) {
		a.Cloneflags |= syscall.CLONE_NEWUSER
		a.UidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getuid(), HostID: os.Getuid(), Size: 1}}
		a.GidMappings = []syscall.SysProcIDMap{{ContainerID: os.Getgid(), HostID: os.Getgid(), Size: 1}}
	}
}

func hasCapability(number int) bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[number/32].Effective&(1<<(number%32)) != 0
}

// attributes adds the namespaces of the child.
func (c *confinement) attributes(a *syscall.SysProcAttr) {
	var flags uintptr
	if c.Network == isolatedByNamespace {
		flags |= syscall.CLONE_NEWNET
	}
	if c.Processes == isolatedByNamespace {
		flags |= syscall.CLONE_NEWPID | syscall.CLONE_NEWIPC
	}
	if flags != 0 {
		addNamespaces(a, flags)
	}
}

// enter gives up, for the calling thread and for the child that it will fork,
// what the plugin shall not have. There is no way back: the thread must be
// locked to its goroutine and end with it. A thread is enough, because the
// rights of Linux belong to threads; and Go starts no thread from a locked one.
func (c *confinement) enter() error {
	if c.Files == "" && c.Network == "" {
		return nil
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("give up new privileges: %w", err)
	}
	if hasCapability(unix.CAP_SETPCAP) {
		// A plugin of root's is not root: it has no capability after its exec.
		for n := range uintptr(64) {
			if unix.Prctl(unix.PR_CAPBSET_DROP, n, 0, 0, 0) != nil {
				break // above the last one that this kernel knows
			}
		}
	}
	return c.landlock()
}

// tame keeps a started process from leaving memory images of patients on the
// disk, and has the kernel end it, and not the node, when memory runs out.
// Failures leave a process that is a little worse, and no reason not to run it.
func tame(pid int) {
	_ = unix.Prlimit(pid, unix.RLIMIT_CORE, &unix.Rlimit{}, nil)
	_ = os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("1000"), 0)
}
