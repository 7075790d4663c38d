package node_test

import (
	"net"
	"testing"
	"time"

	"hilum/dimse/dataset"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
	"hilum/node/config"
)

// TestLimits: each limit of the configuration reaches the listener. What it does there,
// the tests of package dimse hold.
func TestLimits(t *testing.T) {
	rq := &pdu.AssociateRQ{ProtocolVersion: 1, ApplicationContext: pdu.ApplicationContextName,
		Contexts: []pdu.PresentationContextRQ{{ID: 1, AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{dataset.ExplicitVRLittleEndian}}},
		User:     pdu.UserInformation{MaxLength: 16384, AsyncOperations: &pdu.AsyncOperations{}}}
	copy(rq.CalledAETitle[:], "HILUM           ")
	copy(rq.CallingAETitle[:], "CT1             ")
	full := &pdu.AssociateRJ{Result: pdu.RejectedTransient, Source: pdu.RejectSourcePresentation, Reason: pdu.RejectLimitExceeded}
	const soon = 100 * time.Millisecond
	type dial func() *dimsetest.Peer
	second := func(t *testing.T, dial dial) {
		dial().Associate(rq)
		p := dial()
		p.SendPDU(rq)
		p.Expect(full)
	}
	for _, tt := range []struct {
		name string
		edit func(*config.Config)
		play func(t *testing.T, dial dial)
	}{
		{"max_associations", func(c *config.Config) { c.MaxAssociations = 1 }, second},
		{"max_associations_per_address", func(c *config.Config) { c.MaxAssociationsPerAddress = 1 }, second},
		{"max_failures_per_address", func(c *config.Config) { c.MaxFailuresPerAddress = 1 }, func(t *testing.T, dial dial) {
			p := dial()
			p.Send([]byte("GET / HTTP/1.1\r\n\r\n"))
			p.Expect(&pdu.Abort{})
			p.ExpectClosed()
			dial().ExpectClosed() // unheard
		}},
		{"max_pdu", func(c *config.Config) { c.MaxPDU = 32768 }, func(t *testing.T, dial dial) {
			if got := dial().Associate(rq).User.MaxLength; got != 32768 {
				t.Errorf("maximum PDU length %d, want 32768", got)
			}
		}},
		{"max_operations", func(c *config.Config) { c.MaxOperations = 3 }, func(t *testing.T, dial dial) {
			if got := dial().Associate(rq).User.AsyncOperations; got == nil || got.Invoked != 3 {
				t.Errorf("window %+v, want 3", got)
			}
		}},
		{"timeouts.artim", func(c *config.Config) { c.Timeouts.ARTIM = soon }, func(t *testing.T, dial dial) { dial().ExpectClosed() }},
		{"timeouts.idle", func(c *config.Config) { c.Timeouts.Idle = soon }, func(t *testing.T, dial dial) {
			p := dial()
			p.Associate(rq)
			p.Expect(&pdu.Abort{})
		}},
		{"timeouts.lifetime", func(c *config.Config) { c.Timeouts.Lifetime = soon }, func(t *testing.T, dial dial) {
			p := dial()
			p.Associate(rq)
			p.Expect(&pdu.Abort{})
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cfg := testConfig(t)
			cfg.Plugins = nil
			tt.edit(&cfg)
			n, _ := start(t, cfg)
			tt.play(t, func() *dimsetest.Peer {
				conn, err := net.DialTimeout("tcp", n.Addr().String(), 10*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				return dimsetest.NewPeer(t, conn)
			})
		})
	}
}
