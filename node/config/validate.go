package config

import (
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Bounds of the numbers, each with its reason.
const (
	minPDU          = 4096     // less makes every image thousands of PDUs
	maxPDU          = 16 << 20 // a PDU is held in memory, per association
	maxAssociations = 10_000   // each costs buffers and a file descriptor
	maxFailures     = 100_000  // more is no limit
	maxOperations   = 256      // each may hold a buffer
	minInFlight     = 1 << 20  // less makes every peer wait for each answer
	maxAttempts     = 1000     // with back-off this is weeks
	maxProcesses    = 64       // each loads its model
	maxMatches      = 10_000_000
	maxThreads      = 1024 // more than any machine has cores
	maxRuleName     = 64   // a column of a table
	minQuiet        = time.Millisecond
	maxAETitle      = 16 // PS3.5 6.2, VR AE
	maxModality     = 16 // PS3.5 6.2, VR CS
)

var (
	nameRule     = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	modalityRule = regexp.MustCompile(`^[A-Z0-9_ ]+$`)
	policies     = []string{"keep-first", "replace", "reject"}
	levels       = []string{"debug", "info", "warn", "error"}
	formats      = []string{"text", "json"}
	results      = []string{ResultSR, ResultSEG, ResultSC, ResultGSPS}
	unknowns     = []string{UnknownAccept, UnknownRefuse}
	services     = []string{ServiceEcho, ServiceStore, ServiceFind, ServiceMove, ServiceGet, ServiceCommitment, ServiceMPPS}
	reports      = []string{ReportOpen, ReportNew}
	fallbacks    = []string{FallbackFailed, FallbackBusy, FallbackNever}
	priorities   = []string{PriorityRoutine, PriorityUrgent}
	deviceRule   = regexp.MustCompile(`^[a-z][a-z0-9]{0,31}(:[0-9]{1,3})?$`)
	identities   = []string{IdentityIgnored, IdentityChecked, IdentityRequired}
)

// Validate checks every value and names the key of each that cannot be used;
// the error is made of *Error values, one a line. Load and Parse have done it
// already.
func (c *Config) Validate() error {
	p := &problems{file: c.File}
	c.validate(p)
	return p.err()
}

func (c *Config) validate(p *problems) {
	v := validator{problems: p, lines: c.lines}
	v.aeTitle("ae_title", c.AETitle)
	v.listen(c.Listen, c.Insecure || c.TLS.Certificate != "")
	v.tls("tls", c.TLS.Certificate, c.TLS.Key)
	if c.TLS.ClientCA != "" && c.TLS.Certificate == "" {
		v.problem("tls.client_ca", "peers show certificates only under TLS: write tls.certificate too")
	}
	v.required("data", c.Data)
	v.between("max_pdu", c.MaxPDU, minPDU, maxPDU)
	v.between("max_associations", c.MaxAssociations, 1, maxAssociations)
	v.between("max_associations_per_address", c.MaxAssociationsPerAddress, 0, maxAssociations)
	v.between("max_failures_per_address", c.MaxFailuresPerAddress, 0, maxFailures)
	v.between("max_operations", c.MaxOperations, 1, maxOperations)
	v.atLeast("max_in_flight", c.MaxInFlight, minInFlight)
	v.atLeast("max_in_flight_per_address", c.MaxInFlightPerAddress, minInFlight)
	v.positive("timeouts.artim", c.Timeouts.ARTIM)
	v.positive("timeouts.idle", c.Timeouts.Idle)
	v.notNegative("timeouts.lifetime", c.Timeouts.Lifetime)
	if c.Series.Quiet < minQuiet {
		v.problem("series.quiet", "%s is too short: no series would ever grow, write at least %s", short(c.Series.Quiet), short(minQuiet))
	}
	if c.Series.AssociationWait < c.Series.Quiet {
		v.problem("series.association_wait", "%s is shorter than series.quiet (%s): a series whose association is still open is waited for longer, not less", short(c.Series.AssociationWait), short(c.Series.Quiet))
	}
	if c.Series.GapWait < c.Series.Quiet {
		v.problem("series.gap_wait", "%s is shorter than series.quiet (%s): a series with a gap is waited for longer, not less", short(c.Series.GapWait), short(c.Series.Quiet))
	}
	v.between("jobs.attempts", c.Jobs.Attempts, 1, maxAttempts)
	v.backoff("jobs", c.Jobs.Backoff, c.Jobs.MaxBackoff)
	v.between("jobs.threads", c.Jobs.Threads, 0, maxThreads)
	v.oneOf("commitment.report", c.Commitment.Report, reports)
	v.between("reports.attempts", c.Reports.Attempts, 0, maxAttempts)
	v.backoff("reports", c.Reports.Backoff, c.Reports.MaxBackoff)
	v.positive("reports.timeout", c.Reports.Timeout)
	v.positive("mpps.keep", c.MPPS.Keep)
	v.positive("commitment.wait", c.Commitment.Wait)
	v.notNegative("commitment.linger", c.Commitment.Linger)
	v.oneOf("duplicates", c.Duplicates, policies)
	if c.Audit.Server != "" {
		v.address("audit.server", c.Audit.Server)
	}
	v.clientTLS("audit.tls", c.Audit.TLS)
	v.oneOf("log.level", c.Log.Level, levels)
	v.oneOf("log.format", c.Log.Format, formats)
	v.peers(c)
	v.users(c)
	v.destinations(c)
	v.moveDestinations(c)
	v.between("max_matches", c.MaxMatches, 0, maxMatches)
	v.plugins(c)
	v.devices(c)
	v.pipelines(c)
	v.rules(c)
}

type validator struct {
	*problems
	lines map[string]int
}

// problem reports key at its line, or at the line of what it belongs to when
// the file does not have it.
func (v validator) problem(key, format string, args ...any) {
	line := 0
	for k := key; k != "" && line == 0; {
		line = v.lines[k]
		k = k[:max(0, strings.LastIndexAny(k, ".["))]
	}
	v.add(line, key, format, args...)
}

func (v validator) peers(c *Config) {
	v.oneOf("unknown_peers", c.UnknownPeers, unknowns)
	for i, s := range c.UnknownServices {
		v.oneOf(fmt.Sprintf("unknown_services[%d]", i), s, services)
	}
	if len(c.UnknownServices) == 0 && c.UnknownPeers == UnknownAccept {
		v.problem("unknown_services", "the list is empty: unknown peers would be accepted for nothing, write unknown_peers: refuse")
	}
	if c.UnknownPeers == UnknownRefuse && len(c.Peers) == 0 {
		v.problem("unknown_peers", "unknown peers are refused and `peers` names none: every association would be refused")
	}
	seen := map[string]int{}
	for i, p := range c.Peers {
		key := fmt.Sprintf("peers[%d]", i)
		v.aeTitle(key+".ae_title", p.AETitle)
		if first, twice := seen[p.AETitle]; twice && p.AETitle != "" {
			v.problem(key+".ae_title", "%q is the AE title of peers[%d] too: write one rule for it", p.AETitle, first)
		} else {
			seen[p.AETitle] = i
		}
		for j, a := range p.Addresses {
			if _, err := ParseNetwork(a); err != nil {
				v.problem(fmt.Sprintf("%s.addresses[%d]", key, j), "%v", err)
			}
		}
		if len(p.Certificates) > 0 && c.TLS.ClientCA == "" {
			v.problem(key+".certificates", "peers are not asked for certificates: write tls.client_ca too")
		}
		for j, name := range p.Certificates {
			if name == "" || len(name) > maxCertificateName {
				v.problem(fmt.Sprintf("%s.certificates[%d]", key, j), "neither the 64 hex digits of a SHA-256 nor a name")
			}
		}
		for j, title := range p.Called {
			v.aeTitle(fmt.Sprintf("%s.called[%d]", key, j), title)
		}
		for j, s := range p.Services {
			v.oneOf(fmt.Sprintf("%s.services[%d]", key, j), s, services)
		}
		if p.ReportTo != "" {
			v.address(key+".report_to", p.ReportTo)
		}
		if _, ok := c.ReportTo(p.AETitle); p.Availability && !ok {
			v.problem(key+".availability", "where the peer accepts associations is not known: write report_to")
		}
		v.clientTLS(key+".tls", p.TLS)
	}
}

// ParseNetwork reads an item of Peer.Addresses.
func ParseNetwork(s string) (netip.Prefix, error) {
	if ip, err := netip.ParseAddr(s); err == nil && ip.Zone() == "" {
		ip = ip.Unmap()
		return netip.PrefixFrom(ip, ip.BitLen()), nil
	}
	p, err := netip.ParsePrefix(s)
	switch {
	case err != nil || p.Addr().Is4In6():
		return netip.Prefix{}, fmt.Errorf("%q is not an IP address or a network: write 10.1.2.3 or 10.1.2.0/24", s)
	case p.Masked() != p:
		return netip.Prefix{}, fmt.Errorf("%q is an address within the network %s: write one of the two", s, p.Masked())
	}
	return p, nil
}

func (v validator) users(c *Config) {
	v.oneOf("user_identity", c.UserIdentity, identities)
	if c.UserIdentity == IdentityRequired && len(c.Users) == 0 {
		v.problem("user_identity", "a user is required and `users` names none: every association would be refused")
	}
	seen := map[string]int{}
	for i, u := range c.Users {
		key := fmt.Sprintf("users[%d]", i)
		v.name(key, u.Name, seen, i)
		if _, err := parsePasscode(u.Passcode); u.Passcode != "" && err != nil {
			v.problem(key+".passcode", "%v", err) // and not the value: it may be the passcode itself
		}
	}
}

func (v validator) destinations(c *Config) {
	seen := map[string]int{}
	for i, d := range c.Destinations {
		key := fmt.Sprintf("destinations[%d]", i)
		v.name(key, d.Name, seen, i)
		v.aeTitle(key+".ae_title", d.AETitle)
		if d.CallingAETitle != c.AETitle { // which has been looked at
			v.aeTitle(key+".calling_ae_title", d.CallingAETitle)
		}
		if v.address(key+".address", d.Address) && d.Address == c.Listen {
			v.problem(key+".address", "%s is this node: its results would come back to it", d.Address)
		}
		v.clientTLS(key+".tls", d.TLS)
		if len(d.Results) == 0 {
			v.problem(key+".results", "the list is empty: nothing would ever be sent there")
		}
		for j, r := range d.Results {
			v.oneOf(fmt.Sprintf("%s.results[%d]", key, j), r, results)
		}
		v.positive(key+".timeout", d.Timeout)
		v.between(key+".attempts", d.Attempts, 0, maxAttempts)
		v.backoff(key, d.Backoff, d.MaxBackoff)
	}
}

// clientTLS looks at the TLS with a peer that the node connects to.
func (v validator) clientTLS(key string, t DestinationTLS) {
	v.tls(key, t.Certificate, t.Key)
	if !t.Enabled && t != (DestinationTLS{}) {
		v.problem(key+".enabled", "the other keys of %s do nothing without it: write enabled: true", key)
	}
	if strings.ContainsAny(t.ServerName, " /:") {
		v.problem(key+".server_name", "%q is not the name of a host", t.ServerName)
	}
}

func (v validator) moveDestinations(c *Config) {
	seen := map[string]int{}
	for i, d := range c.MoveDestinations {
		key := fmt.Sprintf("move_destinations[%d]", i)
		v.aeTitle(key+".ae_title", d.AETitle)
		if first, twice := seen[d.AETitle]; twice && d.AETitle != "" {
			v.problem(key+".ae_title", "%q is the AE title of move_destinations[%d] too: write one of them", d.AETitle, first)
		} else {
			seen[d.AETitle] = i
		}
		if d.CallingAETitle != c.AETitle { // which has been looked at
			v.aeTitle(key+".calling_ae_title", d.CallingAETitle)
		}
		if v.address(key+".address", d.Address) && d.Address == c.Listen {
			v.problem(key+".address", "%s is this node: its images would come back to it", d.Address)
		}
		v.clientTLS(key+".tls", d.TLS)
		v.positive(key+".timeout", d.Timeout)
	}
}

func (v validator) plugins(c *Config) {
	seen := map[string]int{}
	for i, pl := range c.Plugins {
		key := fmt.Sprintf("plugins[%d]", i)
		v.name(key, pl.Name, seen, i)
		v.required(key+".path", pl.Path)
		if b, err := hex.DecodeString(pl.SHA256); pl.SHA256 != "" && (err != nil || len(b) != 32) {
			v.problem(key+".sha256", "%q is not a SHA-256: write the 64 hex digits that sha256sum prints", pl.SHA256)
		}
		for j, kv := range pl.Env {
			if name, _, ok := strings.Cut(kv, "="); !ok || name == "" {
				v.problem(fmt.Sprintf("%s.env[%d]", key, j), "%q is not KEY=value", kv)
			}
		}
		v.positive(key+".deadline", pl.Deadline)
		v.between(key+".processes", pl.Processes, 1, maxProcesses)
		v.devicesOf(c, key, pl)
		if len(pl.Modalities) == 0 {
			v.problem(key+".modalities", "the list is empty: no series would ever go to this plugin")
		}
		for j, m := range pl.Modalities {
			if len(m) > maxModality || !modalityRule.MatchString(m) {
				v.problem(fmt.Sprintf("%s.modalities[%d]", key, j), "%q is not a modality: write capitals as DICOM does, such as CT", m)
			}
		}
	}
}

// aeTitle holds a title to PS3.5 6.2, VR AE: 1 to 16 characters of the default
// repertoire without backslash and control characters. Leading and trailing
// spaces mean nothing there, so they are refused as a slip of the pen.
func (v validator) aeTitle(key, s string) {
	switch {
	case s == "":
		v.problem(key, "missing: write an AE title of 1 to %d characters", maxAETitle)
	case len(s) > maxAETitle:
		v.problem(key, "%q has %d characters: an AE title has at most %d", s, len(s), maxAETitle)
	case strings.TrimSpace(s) != s:
		v.problem(key, "%q begins or ends with a space, which an AE title cannot", s)
	case strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' || r == '\\' }):
		v.problem(key, "%q has a character that an AE title cannot have: use letters, digits and signs of ASCII, no backslash", s)
	}
}

// tls holds that a certificate and its key come together.
func (v validator) tls(key, certificate, private string) {
	switch {
	case certificate == "" && private != "":
		v.problem(key+".certificate", "missing: a key is of no use without its certificate")
	case certificate != "" && private == "":
		v.problem(key+".key", "missing: a certificate is of no use without its key")
	}
}

// maxCertificateName bounds a DNS name, RFC 1035 2.3.4.
const maxCertificateName = 253

// listen refuses an address that others can reach unless there is TLS or it is
// said that this is wanted.
func (v validator) listen(address string, wanted bool) {
	host, port, err := net.SplitHostPort(address)
	if _, errPort := strconv.ParseUint(port, 10, 16); err != nil || errPort != nil {
		v.problem("listen", "%q is not an address: write host:port, such as 127.0.0.1:11112", address)
		return
	}
	if ip, err := netip.ParseAddr(host); host == "localhost" || err == nil && ip.Unmap().IsLoopback() {
		return
	}
	if !wanted {
		v.problem("listen", "%s can be reached from other machines, and DICOM without TLS is neither encrypted nor authenticated: write tls.certificate and tls.key, or insecure: true if the network is trusted, or listen on 127.0.0.1", address)
	}
}

func (v validator) address(key, s string) bool {
	host, port, err := net.SplitHostPort(s)
	number, errPort := strconv.ParseUint(port, 10, 16)
	switch {
	case s == "":
		v.problem(key, "missing: write host:port, such as 127.0.0.1:11113")
	case err != nil || errPort != nil || number == 0 || host == "" || strings.ContainsAny(host, " /"):
		v.problem(key, "%q is not an address: write host:port, such as 127.0.0.1:11113", s)
	default:
		return true
	}
	return false
}

func (v validator) name(key, name string, seen map[string]int, i int) {
	first, twice := seen[name]
	switch {
	case name == "":
		v.problem(key+".name", "missing: every item needs a name")
	case !nameRule.MatchString(name):
		v.problem(key+".name", "%q is not a name: use letters, digits, dot, dash and underscore, at most 64, a letter or digit first", name)
	case twice:
		list := key[:strings.LastIndexByte(key, '[')]
		v.problem(key+".name", "%q is the name of %s[%d] too: names are unique", name, list, first)
	default:
		seen[name] = i
	}
}

func (v validator) required(key, s string) {
	if s == "" {
		v.problem(key, "missing: write a path")
	} else if strings.ContainsRune(s, 0) {
		v.problem(key, "%q is not a path", s)
	}
}

func (v validator) atLeast(key string, n, least Bytes) {
	if n < least {
		v.problem(key, "%s is too little: write at least %s", n, least)
	}
}

func (v validator) between(key string, n, low, high int) {
	if n < low || n > high {
		v.problem(key, "%d is out of range: write a number from %d to %d", n, low, high)
	}
}

func (v validator) positive(key string, d time.Duration) {
	if d <= 0 {
		v.problem(key, "%s is too short: write a duration above zero, such as 30s", short(d))
	}
}

func (v validator) notNegative(key string, d time.Duration) {
	if d < 0 {
		v.problem(key, "%s is negative: write a duration such as 30s, or 0s", short(d))
	}
}

func (v validator) backoff(key string, first, longest time.Duration) {
	v.positive(key+".backoff", first)
	if longest < first {
		v.problem(key+".max_backoff", "%s is shorter than %s.backoff (%s)", short(longest), key, short(first))
	}
}

func (v validator) oneOf(key, s string, words []string) {
	for _, w := range words {
		if s == w {
			return
		}
	}
	hint := "write " + strings.Join(words[:len(words)-1], ", ") + " or " + words[len(words)-1]
	if near := nearest(strings.ToLower(s), words); near != "" {
		hint = fmt.Sprintf("did you mean %q?", near)
	}
	v.problem(key, "%q is unknown: %s", s, hint)
}
