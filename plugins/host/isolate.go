package host

import "strings"

// Isolation says what this machine's kernel holds a plugin to. An empty text
// means: nothing.
type Isolation struct {
	// Files: "landlock". The plugin writes nothing but its own folder, and reads
	// nothing of Options.Hide but its own jobs.
	Files string `json:"files,omitempty"`
	// Network: "namespace" (none at all) or "landlock" (no TCP).
	Network string `json:"network,omitempty"`
	// Processes: "namespace" (all that it started dies with it, and it sees no
	// others), "cgroup" (all dies with it) or "tree" (what is found of it dies).
	Processes string `json:"processes,omitempty"`
	// Memory: "cgroup" (the kernel's own limit) or "watched".
	Memory string `json:"memory,omitempty"`
}

// String says it in one line: "files by landlock, network by namespace, …".
func (i Isolation) String() string {
	var parts []string
	for _, p := range [...][2]string{{"files", i.Files}, {"network", i.Network}, {"processes", i.Processes}, {"memory", i.Memory}} {
		if p[1] != "" {
			parts = append(parts, p[0]+" by "+p[1])
		}
	}
	return strings.Join(parts, ", ")
}

// For returns what of i holds for a plugin of this Spec.
func (i Isolation) For(s Spec) Isolation {
	if s.Unconfined {
		i.Files, i.Network = "", ""
		if i.Processes == isolatedByNamespace {
			i.Processes = isolatedByTree
		}
	}
	if s.Network {
		i.Network = ""
	}
	return i
}

const (
	isolatedByNamespace = "namespace"
	isolatedByLandlock  = "landlock"
	isolatedByCgroup    = "cgroup"
	isolatedByTree      = "tree"
	isolatedByWatch     = "watched"
)

// confinement is what one process is held to.
type confinement struct {
	Isolation
	hide   []string // folders and files that it must not see, clean and without links
	read   []string // folders inside them that it may read all the same
	write  []string // folders that it may write
	memory int64    // bytes; 0: no limit
}
