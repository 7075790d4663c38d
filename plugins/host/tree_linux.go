package host

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// tree is a process of a plugin with all that it has started. In a process
// namespace the kernel keeps what lost its parent below the root. Elsewhere
// orphans become children of the node (see adopt), and one is known to be of
// this tree by its group, by having been seen before, by the folder of the
// socket in its environment, or, when it got rid of all that, by a session that
// is not the node's: then it is nobody's, and dies with the next tree.
type tree struct {
	root  int
	exact bool   // in a namespace
	mark  string // an entry of the environment that no other tree has

	mu   sync.Mutex        // guards seen
	seen map[int]procEntry // without root
}

// procEntry is what /proc/PID/stat says.
type procEntry struct {
	pid, parent, group, session int

	state byte
	start uint64 // ticks after boot: tells a process from a later one with its number
}

func (e procEntry) alive() bool { return e.state != 'Z' && e.state != 'X' }

func readProc(pid int) (procEntry, bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	end := bytes.LastIndexByte(text, ')') // the name of a program may hold anything
	if err != nil || end < 0 {
		return procEntry{}, false
	}
	fields := strings.Fields(string(text[end+1:]))
	if len(fields) < 20 {
		return procEntry{}, false
	}
	e := procEntry{pid: pid, state: fields[0][0]}
	e.parent, _ = strconv.Atoi(fields[1])
	e.group, _ = strconv.Atoi(fields[2])
	e.session, _ = strconv.Atoi(fields[3])
	e.start, _ = strconv.ParseUint(fields[19], 10, 64)
	return e, true
}

// look finds the living processes of the tree, without its root.
func (t *tree) look() []procEntry {
	t.mu.Lock()
	defer t.mu.Unlock()
	all := map[int]procEntry{}
	if t.exact {
		t.descend(t.root, all)
	} else {
		t.search(all)
	}
	t.seen = all
	var living []procEntry
	for _, e := range all {
		if e.alive() {
			living = append(living, e)
		}
	}
	return living
}

// descend follows the kernel's lists of children.
func (t *tree) descend(pid int, found map[int]procEntry) {
	lists, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid)) // only a bad pattern fails
	for _, list := range lists {
		text, err := os.ReadFile(list)
		if err != nil {
			continue // the thread has ended
		}
		for _, field := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(field)
			if _, known := found[child]; err != nil || known {
				continue
			}
			if e, ok := readProc(child); ok {
				found[child] = e
				t.descend(child, found)
			}
		}
	}
}

// search goes through all processes of the machine; t.mu is held.
func (t *tree) search(found map[int]procEntry) {
	names, err := os.ReadDir("/proc")
	if err != nil {
		return
	}
	children := map[int][]procEntry{}
	var add func(e procEntry)
	add = func(e procEntry) {
		if _, known := found[e.pid]; known || e.pid == t.root {
			return
		}
		found[e.pid] = e
		for _, c := range children[e.pid] {
			add(c)
		}
	}
	var ours []procEntry
	for _, name := range names {
		pid, err := strconv.Atoi(name.Name())
		if err != nil {
			continue
		}
		e, ok := readProc(pid)
		if !ok {
			continue
		}
		children[e.parent] = append(children[e.parent], e)
		before, known := t.seen[pid]
		if stray(e) {
			if !e.alive() {
				_, _ = syscall.Wait4(pid, nil, syscall.WNOHANG, nil) // nobody else will
				continue
			}
			ours = append(ours, e)
			continue
		}
		if e.parent == t.root || e.group == t.root || known && before.start == e.start || t.marked(pid) {
			ours = append(ours, e)
		}
	}
	for _, e := range ours {
		add(e)
	}
}

// adopt has orphans of this process's descendants become its children.
var adopt = sync.OnceFunc(func() {
	_ = unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) // a kernel before 3.4 leaves them to init
})

// stray reports whether a process was adopted: the node starts no child in
// another session than its own.
func stray(e procEntry) bool {
	session, err := unix.Getsid(0)
	return err == nil && e.parent == os.Getpid() && e.session != session
}

// marked reports whether a process got its environment from the plugin.
func (t *tree) marked(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && t.mark != "" && bytes.Contains(text, []byte(t.mark+"\x00"))
}

// kill kills what is left of the tree after its root. Each round finds what
// was forked during the last.
func (t *tree) kill() {
	for wait := time.Millisecond; wait < time.Second; wait *= 2 {
		living := t.look()
		if len(living) == 0 {
			return
		}
		for _, e := range living {
			if now, ok := readProc(e.pid); ok && now.start == e.start {
				_ = syscall.Kill(e.pid, syscall.SIGKILL) // the next round tells
			}
		}
		time.Sleep(wait) // the kernel tells only parents
	}
}

// memory is what the tree has in memory for itself: not files, and what
// processes share only once where the kernel says so. exact reads the page
// tables, which takes milliseconds.
func (t *tree) memory(exact bool) int64 {
	sum := memoryOf(t.root, exact)
	for _, e := range t.look() {
		sum += memoryOf(e.pid, exact)
	}
	return sum
}

func memoryOf(pid int, exact bool) int64 {
	if exact {
		if n, ok := sumKiB(fmt.Sprintf("/proc/%d/smaps_rollup", pid), "Pss_Anon:", "Pss_Shmem:"); ok {
			return n
		}
	}
	n, _ := sumKiB(fmt.Sprintf("/proc/%d/status", pid), "RssAnon:", "RssShmem:")
	return n
}

// sumKiB adds up lines of the form "RssAnon:   12 kB".
func sumKiB(file string, names ...string) (sum int64, found bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		for _, name := range names {
			if len(fields) > 1 && fields[0] == name {
				n, _ := strconv.ParseInt(fields[1], 10, 64)
				sum, found = sum+n<<10, true
			}
		}
	}
	return sum, found
}

// machineMemory is what this process may use: of the machine, or of its
// control groups.
func machineMemory() int64 {
	var info unix.Sysinfo_t
	if unix.Sysinfo(&info) != nil {
		return 0
	}
	total := int64(info.Totalram) * int64(info.Unit)
	files := []string{"/sys/fs/cgroup/memory/memory.limit_in_bytes"} // version 1, as a container sees it
	if root := cgroupRoot(); root != "" {
		for dir := cgroupOfSelf(); dir != "" && dir != "/" && dir != "."; dir = filepath.Dir(dir) {
			files = append(files, filepath.Join(root, dir, "memory.max"))
		}
		files = append(files, filepath.Join(root, "memory.max"))
	}
	for _, file := range files {
		if text, err := os.ReadFile(file); err == nil {
			if n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil && n > 0 {
				total = min(total, n)
			}
		}
	}
	return total
}
