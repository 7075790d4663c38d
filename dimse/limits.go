package dimse

import (
	"net"
	"net/netip"
	"time"
)

const (
	// failureWindow is the time over which failures are counted, and for which an
	// address that had too many is refused.
	failureWindow = time.Minute
	// maxAddresses bounds the memory of the counts. Above it, addresses that have
	// no connection are forgotten, those with old failures first.
	maxAddresses = 4096
	// ipv6Peer is the part of an IPv6 address that names a peer: whoever has one
	// address of such a network usually has all of them, RFC 4291 2.5.4.
	ipv6Peer = 64
)

// address is what a Server counts for one peer address.
type address struct {
	connections  int // open, associations included
	associations int
	failures     int       // within the window
	window       time.Time // when it began
	told         bool      // the log has it that the address is refused
}

// addressKey names the peer behind a connection.
func addressKey(a net.Addr) string {
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return a.String() // not a network of IP
	}
	ip := ap.Addr().Unmap().WithZone("")
	if ip.Is6() {
		if p, err := ip.Prefix(ipv6Peer); err == nil {
			return p.String()
		}
	}
	return ip.String()
}

// addressOf returns the counts of a peer address. s.mu must be held.
func (s *Server) addressOf(key string) *address {
	a := s.addresses[key]
	if a == nil {
		if len(s.addresses) >= maxAddresses {
			s.forgetAddresses()
		}
		a = &address{}
		s.addresses[key] = a
	}
	if now := time.Now(); now.Sub(a.window) >= failureWindow {
		a.failures, a.window, a.told = 0, now, false
	}
	return a
}

// forgetAddresses makes room. s.mu must be held.
func (s *Server) forgetAddresses() {
	now := time.Now()
	for key, a := range s.addresses {
		if a.connections == 0 && (a.failures == 0 || now.Sub(a.window) >= failureWindow) {
			delete(s.addresses, key)
		}
	}
	for key, a := range s.addresses {
		if len(s.addresses) < maxAddresses {
			return
		}
		if a.connections == 0 {
			delete(s.addresses, key)
		}
	}
}

// refused says whether connections of the address are closed unheard, because
// too many of them failed lately. s.mu must be held.
func (s *Server) refused(key string, a *address) bool {
	limit := s.prepared.maxFailures
	if limit == 0 || a.failures < limit {
		return false
	}
	if !a.told {
		a.told = true
		s.prepared.log.Warn("connections of an address are refused for a while: too many failed", "address", key, "failures", a.failures, "for", failureWindow)
	}
	return true
}

// failed counts a connection that became no association by the peer's fault.
func (s *Server) failed(a *acceptor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addressOf(a.address).failures++
}
