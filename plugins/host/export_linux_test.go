package host

// HasCgroup reports whether tests of control groups can run.
func HasCgroup() bool { return ownCgroup().path != "" }

// SetIsolation holds all processes of a host that was not started to i.
func SetIsolation(h *Host, i Isolation) {
	for _, p := range h.plugins {
		for _, s := range p.slots {
			s.confine.Isolation = i
		}
	}
}
