package host

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Landlock (Documentation/userspace-api/landlock.rst of the kernel) takes
// rights of a thread away for good, without any privilege.

const (
	fileRead  = unix.LANDLOCK_ACCESS_FS_READ_FILE | unix.LANDLOCK_ACCESS_FS_EXECUTE | unix.LANDLOCK_ACCESS_FS_RESOLVE_UNIX
	fileWrite = unix.LANDLOCK_ACCESS_FS_WRITE_FILE | unix.LANDLOCK_ACCESS_FS_TRUNCATE | unix.LANDLOCK_ACCESS_FS_IOCTL_DEV
	treeRead  = fileRead | unix.LANDLOCK_ACCESS_FS_READ_DIR
	treeWrite = treeRead | fileWrite |
		unix.LANDLOCK_ACCESS_FS_REMOVE_DIR | unix.LANDLOCK_ACCESS_FS_REMOVE_FILE |
		unix.LANDLOCK_ACCESS_FS_MAKE_CHAR | unix.LANDLOCK_ACCESS_FS_MAKE_DIR | unix.LANDLOCK_ACCESS_FS_MAKE_REG |
		unix.LANDLOCK_ACCESS_FS_MAKE_SOCK | unix.LANDLOCK_ACCESS_FS_MAKE_FIFO | unix.LANDLOCK_ACCESS_FS_MAKE_BLOCK |
		unix.LANDLOCK_ACCESS_FS_MAKE_SYM | unix.LANDLOCK_ACCESS_FS_REFER

	// signalErratum is fixed where a thread in a domain may still signal its own
	// process, which Go's scheduler does.
	signalErratum = 1 << 1
)

// landlockABI returns the version of Landlock in the kernel, 0 for none.
func landlockABI() int {
	n, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(n)
}

func landlockErrata() int {
	n, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_ERRATA)
	if errno != 0 {
		return 0
	}
	return int(n)
}

// knownRights are the rights to files that a version knows.
func knownRights(abi int) uint64 {
	switch {
	case abi >= 9:
		return 1<<17 - 1
	case abi >= 5:
		return 1<<16 - 1
	case abi >= 3:
		return 1<<15 - 1
	case abi >= 2:
		return 1<<14 - 1
	}
	return 1<<13 - 1
}

// landlock restricts the calling thread.
func (c *confinement) landlock() error {
	abi := landlockABI()
	var attr unix.LandlockRulesetAttr
	if c.Files != "" {
		attr.Handled_access_fs = knownRights(abi)
	}
	if c.Network != "" && abi >= 4 {
		attr.Handled_access_net = unix.LANDLOCK_ACCESS_NET_BIND_TCP | unix.LANDLOCK_ACCESS_NET_CONNECT_TCP
	}
	size := uintptr(8) // what the version knows of the struct
	if abi >= 4 {
		size = 16
	}
	if abi >= 6 {
		size = 24
		attr.Scoped = unix.LANDLOCK_SCOPE_ABSTRACT_UNIX_SOCKET
		if landlockErrata()&signalErratum != 0 {
			attr.Scoped |= unix.LANDLOCK_SCOPE_SIGNAL
		}
	}
	if attr == (unix.LandlockRulesetAttr{}) {
		return nil
	}
	fd, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, uintptr(unsafe.Pointer(&attr)), size, 0)
	if errno != 0 {
		return fmt.Errorf("make a set of file rules: %w", errno)
	}
	rules := ruleset{fd: int(fd), known: attr.Handled_access_fs, hide: c.hide}
	defer func() { _ = unix.Close(rules.fd) }() // the kernel keeps what it needs
	if c.Files != "" {
		if err := c.allow(&rules); err != nil {
			return err
		}
	}
	if _, _, errno := unix.Syscall(unix.SYS_LANDLOCK_RESTRICT_SELF, uintptr(rules.fd), 0, 0); errno != 0 {
		return fmt.Errorf("take the file rules over: %w", errno)
	}
	return nil
}

// allow writes the rules: everything may be read but what is hidden, and
// written only what belongs to the plugin, and devices.
func (c *confinement) allow(r *ruleset) error {
	if err := r.allow("/", treeRead); err != nil {
		return err
	}
	if err := r.allow("/dev", treeRead|fileWrite); err != nil { // the driver of a GPU, /dev/null
		return err
	}
	if err := r.allow("/dev/shm", treeWrite); err != nil { // shared memory of Python's processes
		return err
	}
	if c.Network == isolatedByNamespace || c.Processes == isolatedByNamespace {
		// The thread that forks writes the id maps of a user namespace there.
		// Another process's memory stays out of reach.
		if !hasCapability(unix.CAP_SYS_ADMIN) {
			if err := r.allow("/proc", treeRead|fileWrite); err != nil {
				return err
			}
		}
	}
	for _, dir := range c.read {
		if err := r.add(dir, treeRead); err != nil {
			return err
		}
	}
	for _, dir := range c.write {
		if err := r.add(dir, treeWrite); err != nil {
			return err
		}
	}
	return nil
}

type ruleset struct {
	fd    int
	known uint64
	hide  []string
}

// allow grants rights to all below path except what is hidden. Landlock only
// knows how to allow a whole tree, so a tree with something hidden in it is
// allowed part by part, and its top can then not be listed.
func (r *ruleset) allow(path string, rights uint64) error {
	if slices.Contains(r.hide, path) {
		return nil
	}
	inside := strings.TrimSuffix(path, "/") + "/"
	if !slices.ContainsFunc(r.hide, func(h string) bool { return strings.HasPrefix(h, inside) }) {
		return r.add(path, rights)
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil // what the node may not list, its plugins may not either
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSymlink != 0 {
			continue // rules belong to what a link leads to
		}
		if err := r.allow(filepath.Join(path, e.Name()), rights); err != nil {
			return err
		}
	}
	return nil
}

// add grants rights to a file or a tree. What is not there needs none.
func (r *ruleset) add(path string, rights uint64) error {
	fd, err := unix.Open(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open %s for a file rule: %w", path, err)
	}
	defer func() { _ = unix.Close(fd) }() // only named it
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return fmt.Errorf("look at %s for a file rule: %w", path, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		rights &= fileRead | fileWrite
	}
	attr := unix.LandlockPathBeneathAttr{Allowed_access: rights & r.known, Parent_fd: int32(fd)}
	_, _, errno := unix.Syscall6(unix.SYS_LANDLOCK_ADD_RULE, uintptr(r.fd), unix.LANDLOCK_RULE_PATH_BENEATH, uintptr(unsafe.Pointer(&attr)), 0, 0, 0)
	if errno == unix.EBADFD { // a file of a kind that the kernel does not guard, such as a socket's
		return nil
	}
	if errno != 0 {
		return fmt.Errorf("add a file rule for %s: %w", path, errno)
	}
	return nil
}
