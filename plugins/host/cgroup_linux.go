package host

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
)

// cgroup is a control group (version 2) of this process below which it may
// make others.
type cgroup struct {
	path   string // "": none
	memory bool   // its children can be limited
}

// ownCgroup finds the group in which plugins get theirs: the one that the
// node is in, or the one around it, as systemd's Delegate= and
// DelegateSubgroup= make it. The kernel limits the memory of a group's children
// only when the group itself holds no process, so the second may do more.
var ownCgroup = sync.OnceValue(func() cgroup {
	root, own := cgroupRoot(), cgroupOfSelf()
	if root == "" || own == "" {
		return cgroup{}
	}
	path := filepath.Join(root, own)
	first := tryCgroup(path)
	if first.memory || own == "/" {
		return first
	}
	if second := tryCgroup(filepath.Dir(path)); second.memory || first.path == "" {
		return second
	}
	return first
})

func tryCgroup(path string) cgroup {
	probe, err := os.MkdirTemp(path, "hilum-probe-")
	if err != nil {
		return cgroup{}
	}
	defer func() { _ = os.Remove(probe) }() // an empty group at worst
	if _, err := os.Stat(filepath.Join(probe, "cgroup.kill")); err != nil {
		return cgroup{} // a kernel before 5.14
	}
	limit := filepath.Join(probe, "memory.max")
	if _, err := os.Stat(limit); err != nil {
		_ = os.WriteFile(filepath.Join(path, "cgroup.subtree_control"), []byte("+memory"), 0) // the next look tells
	}
	_, err = os.Stat(limit)
	return cgroup{path: path, memory: err == nil}
}

// cgroupRoot returns where the unified hierarchy is mounted, "" for nowhere.
func cgroupRoot() string {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		before, after, _ := strings.Cut(s.Text(), " - ")
		if fields := strings.Fields(before); strings.HasPrefix(after, "cgroup2 ") && len(fields) > 4 {
			return fields[4]
		}
	}
	return ""
}

func cgroupOfSelf() string {
	text, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			return path
		}
	}
	return ""
}

// newCgroup makes a group for one process and all that it starts.
func newCgroup(parent cgroup, memory int64) (*os.File, error) {
	path := filepath.Join(parent.path, "hilum-"+rand.Text())
	if err := os.Mkdir(path, 0o755); err != nil {
		return nil, fmt.Errorf("make a control group: %w", err)
	}
	if parent.memory && memory > 0 {
		if err := errors.Join(
			os.WriteFile(filepath.Join(path, "memory.max"), []byte(strconv.FormatInt(memory, 10)), 0),
			os.WriteFile(filepath.Join(path, "memory.oom.group"), []byte("1"), 0),
		); err != nil {
			_ = os.Remove(path)
			return nil, fmt.Errorf("limit the memory of a control group: %w", err)
		}
		_ = os.WriteFile(filepath.Join(path, "memory.swap.max"), []byte("0"), 0) // not there without swap
	}
	f, err := os.Open(path)
	if err != nil {
		_ = os.Remove(path)
		return nil, fmt.Errorf("open a control group: %w", err)
	}
	return f, nil
}

// killCgroup kills all that is in the group.
func killCgroup(f *os.File) {
	_ = os.WriteFile(filepath.Join(f.Name(), "cgroup.kill"), []byte("1"), 0) // removal shows whether it worked
}

// removeCgroup removes a group once the kernel has let the killed go.
func removeCgroup(f *os.File) {
	_ = f.Close()
	for wait := time.Millisecond; os.Remove(f.Name()) != nil && wait < time.Second; wait *= 2 {
		killCgroup(f)
		time.Sleep(wait) // the kernel tells nobody who has no inotify there
	}
}

// cgroupKilled reports whether the memory limit ended something in the group.
func cgroupKilled(f *os.File) bool {
	text, err := os.ReadFile(filepath.Join(f.Name(), "memory.events"))
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(text)) {
		if n, ok := strings.CutPrefix(strings.TrimSpace(line), "oom_kill "); ok {
			return n != "0"
		}
	}
	return false
}
