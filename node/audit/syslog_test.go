package audit_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hilum/dimse/dimsetest"
	"hilum/node/audit"
	"hilum/node/config"
)

// headLength is what PS3.15 A.6 has every receiver take.
const headLength = 32768

// studies names what an association can bring: some have many SOP classes, some a long
// Patient ID. Two hundred make many messages.
func studies(count int) audit.Studies {
	s := audit.Studies{}
	for n := range count {
		study := audit.Study{StudyInstanceUID: fmt.Sprintf("1.2.840.113619.2.55.3.604688119.971.1234567890.%d", n), PatientID: fmt.Sprint("P", n)}
		if n%50 == 0 {
			study.PatientID = strings.Repeat(`"<&`+"\n", 250)
		}
		for class := range 1 + n%50 {
			s.Add(study, fmt.Sprintf("1.2.840.10008.5.1.4.1.1.%d", class))
		}
	}
	return s
}

// everything has a trail tell of every kind of event, and returns how many messages of
// each kind there must be at least.
func everything(trail *audit.Trail, count int) map[string]int {
	peer := audit.Peer{AETitle: "CT1", Address: "10.1.2.3:104"}
	trail.Started()
	trail.Refused(peer, "calling AE title")
	trail.Refused(audit.Peer{Address: "[fd00::1%eth0]:5"}, "") // without an AE title
	trail.LoggedIn(peer, "anna", true)
	trail.LoggedIn(peer, "", false)
	trail.LoggedIn(peer, strings.Repeat("\"", 65_000), false)
	trail.Configured(nil)
	trail.Configured(errors.New("line 3: \x00 is no key"))
	trail.Received(peer, studies(count))
	trail.Sent(peer, audit.Peer{AETitle: "PACS", Address: "pacs.example:104"}, studies(count))
	trail.Results(audit.Peer{AETitle: "PACS", Address: "10.1.2.4:104"}, studies(count))
	trail.Queried(peer, "1.2.840.10008.5.1.4.1.2.2.1")
	trail.Stopped()
	return map[string]int{"110100": 2, "110104": 3, "110112": 1, "110113": 4, "110114": 3}
}

// wantEverything holds lines of a trail against everything.
func wantEverything(t *testing.T, lines []string, count int, want map[string]int) {
	t.Helper()
	got, counts := map[string]int{}, map[string]int{}
	for _, line := range lines {
		if len(line) > headLength {
			t.Errorf("a message has %d bytes, more than any receiver must take", len(line))
		}
		_, body, ok := strings.Cut(line, "<?xml version=\"1.0\" encoding=\"UTF-8\"?>")
		if !ok {
			t.Fatalf("no message: %.200s", line)
		}
		m := wantValid(t, body)
		got[m.find("EventIdentification").find("EventID").attrs["csd-code"]]++
		for _, o := range m.children {
			if o.name == "ParticipantObjectIdentification" && o.attrs["ParticipantObjectTypeCodeRole"] == "3" {
				counts[o.attrs["ParticipantObjectID"]]++
			}
		}
	}
	for kind, n := range want {
		if got[kind] < n || kind != "110104" && got[kind] > n {
			t.Errorf("%d messages of kind %s, want %d", got[kind], kind, n)
		}
	}
	for study := range studies(count) {
		if counts[study.StudyInstanceUID] != 3 {
			t.Errorf("study %s is named %d times, want 3", study.StudyInstanceUID, counts[study.StudyInstanceUID])
		}
	}
}

// TestSchema: every kind of message is valid by the schema of PS3.15 A.5.1, and none is
// longer than what every receiver takes.
func TestSchema(t *testing.T) {
	file := filepath.Join(t.TempDir(), "audit.log")
	trail := open(t, config.Audit{File: file, PatientID: true})
	const count = 200
	want := everything(trail, count)
	closed(t, trail)
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	wantEverything(t, strings.Split(strings.TrimSuffix(string(b), "\n"), "\n"), count, want)
}

// TestConformance keeps the numbers of the conformance statement true.
func TestConformance(t *testing.T) {
	b, err := os.ReadFile("../../dimse/CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(b)), " ")
	for _, want := range []string{fmt.Sprintf("Messages wait for a server that is down, %d at most", audit.MaxWaiting), fmt.Sprintf("No message is longer than %d bytes", headLength)} {
		if !strings.Contains(text, want) {
			t.Errorf("CONFORMANCE.md does not say %q", want)
		}
	}
}

// rsyslog runs Debian's syslog daemon until the test ends: with TLS on a port, or UDP. It
// writes each message that it understood into the file as its parts and a line's end.
func rsyslog(t *testing.T, ca string, c *dimsetest.Certificate) (address, out string) {
	t.Helper()
	daemon, err := exec.LookPath("/usr/sbin/rsyslogd")
	if err != nil {
		t.Skip("rsyslogd is not installed (Debian: apt-get install rsyslog rsyslog-gnutls)")
	}
	dir := t.TempDir()
	out = filepath.Join(dir, "out")
	input, global := "", ""
	if c != nil {
		if found, _ := filepath.Glob("/usr/lib/*/rsyslog/lmnsd_gtls.so"); len(found) == 0 {
			t.Skip("rsyslogd has no TLS (Debian: apt-get install rsyslog-gnutls)")
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address = l.Addr().String()
		_ = l.Close()
		global = fmt.Sprintf(" defaultNetstreamDriver=\"gtls\" defaultNetstreamDriverCAFile=%q defaultNetstreamDriverCertFile=%q defaultNetstreamDriverKeyFile=%q", ca, c.File, c.KeyFile)
		input = "module(load=\"imtcp\" streamDriver.name=\"gtls\" streamDriver.mode=\"1\" streamDriver.authMode=\"anon\" maxSessions=\"8\")\ninput(type=\"imtcp\" address=\"127.0.0.1\" port=\"%s\" ruleset=\"audit\")\n"
	} else {
		l, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address = l.LocalAddr().String()
		_ = l.Close()
		input = "module(load=\"imudp\")\ninput(type=\"imudp\" address=\"127.0.0.1\" port=\"%s\" ruleset=\"audit\")\n"
	}
	_, port, _ := net.SplitHostPort(address)
	text := fmt.Sprintf("global(workDirectory=%q maxMessageSize=\"64k\" parser.escapeControlCharactersOnReceive=\"off\"%s)\n", dir, global) +
		fmt.Sprintf(input, port) +
		"template(name=\"parts\" type=\"string\" string=\"%pri% %app-name% %msgid% %structured-data% %msg%\\n\")\n" +
		fmt.Sprintf("ruleset(name=\"audit\") { action(type=\"omfile\" file=%q template=\"parts\") }\n", out)
	file := filepath.Join(dir, "rsyslog.conf")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, daemon, "-n", "-f", file, "-i", filepath.Join(dir, "pid"))
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		_ = cmd.Wait()
		if t.Failed() {
			t.Logf("rsyslogd: %s", said.String())
		}
	})
	return address, out
}

// TestRsyslog: a syslog daemon understands every message, by TLS and by UDP, and has each
// of them whole.
func TestRsyslog(t *testing.T) {
	for _, secure := range []bool{true, false} {
		t.Run(map[bool]string{true: "TLS", false: "UDP"}[secure], func(t *testing.T) {
			rules, count := config.Audit{PatientID: true}, 200
			var out string
			if secure {
				ca := dimsetest.NewAuthority(t)
				certificate := ca.Issue("syslog")
				rules.Server, out = rsyslog(t, ca.File, &certificate)
				rules.TLS = config.DestinationTLS{Enabled: true, CA: ca.File}
			} else {
				rules.Server, out = rsyslog(t, "", nil)
				count = 25 // what the system keeps of datagrams that come all at once is little
			}
			received := func() []string {
				b, _ := os.ReadFile(out)
				lines := strings.Split(string(b), "\n")
				return lines[:len(lines)-1]
			}
			// A datagram to nobody is lost: first the daemon must be there.
			poll := func(what string, good func() bool) {
				t.Helper()
				tick, end := time.NewTicker(50*time.Millisecond), time.After(30*time.Second)
				defer tick.Stop()
				for !good() {
					select {
					case <-tick.C:
					case <-end:
						t.Fatalf("%s: %d messages are there", what, len(received()))
					}
				}
			}
			if !secure {
				conn, err := net.Dial("udp", rules.Server)
				if err != nil {
					t.Fatal(err)
				}
				defer conn.Close()
				poll("the daemon listens", func() bool {
					_, _ = conn.Write([]byte("<85>1 - - test - ready - x")) // refused as long as nobody is there
					return len(received()) > 0
				})
			}
			trail := open(t, rules)
			want := everything(trail, count)
			closed(t, trail)
			var lines []string
			poll("the last message", func() bool {
				lines = slices.DeleteFunc(received(), func(l string) bool { return strings.Contains(l, " ready ") })
				return len(lines) > 0 && strings.Contains(lines[len(lines)-1], "Application Stop")
			})
			for _, l := range lines {
				if !strings.HasPrefix(l, "85 hilum DICOM+RFC3881 - ") && !strings.HasPrefix(l, "84 hilum DICOM+RFC3881 - ") {
					t.Errorf("the daemon understood %.80q", l)
				}
			}
			wantEverything(t, lines, count, want)
		})
	}
}
