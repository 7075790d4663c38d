package node_test

import (
	"errors"
	"testing"
	"time"

	"hilum/dimse"
	"hilum/node/config"
)

// TestReloadPeers: a reload changes who may come and where images may be moved to; an
// association that is open goes on.
func TestReloadPeers(t *testing.T) {
	cfg := testConfig(t)
	cfg.Plugins = nil
	n, _ := start(t, cfg)
	dial := func(title string) (*dimse.Conn, error) {
		c := dimse.Client{CallingAETitle: title, CalledAETitle: "HILUM", Timeout: 10 * time.Second,
			Contexts: []dimse.PresentationContext{{AbstractSyntax: dimse.VerificationSOPClass, TransferSyntaxes: []string{implicitLE}}}}
		return c.Dial(t.Context(), n.Addr().String())
	}
	old, err := dial("STRANGER")
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()

	next := cfg
	next.UnknownPeers = config.UnknownRefuse
	next.Peers = []config.Peer{{AETitle: "CT1"}}
	bad := next
	bad.Peers = []config.Peer{{AETitle: "CT1", TLS: config.DestinationTLS{Enabled: true, CA: "/nowhere/ca.pem"}}}
	if err := n.Reload(t.Context(), bad); err == nil {
		t.Error("Reload with a file that is not there: no error")
	}
	if c, err := dial("STRANGER"); err != nil {
		t.Errorf("after a reload that failed, STRANGER is refused: %v", err)
	} else {
		_ = c.Release(t.Context())
	}
	if err := n.Reload(t.Context(), next); err != nil {
		t.Fatal(err)
	}
	if _, err := dial("STRANGER"); !isReject(err, dimse.ErrCallingAETitle) {
		t.Errorf("after the reload, STRANGER gets %v, want %v", err, dimse.ErrCallingAETitle)
	}
	c, err := dial("CT1")
	if err != nil {
		t.Fatalf("after the reload, CT1 is refused: %v", err)
	}
	_ = c.Release(t.Context())
	if err := old.Echo(t.Context()); err != nil {
		t.Errorf("the association that was open: %v", err)
	}
}

// isReject reports whether err is this rejection.
func isReject(err error, want *dimse.RejectError) bool {
	var got *dimse.RejectError
	return errors.As(err, &got) && *got == *want
}

// TestReloadMoveDestinations: C-MOVE knows a new peer after a reload.
func TestReloadMoveDestinations(t *testing.T) {
	dir := t.TempDir()
	address, _ := pynetServe(t, "PYNET", dir)
	var cfg config.Config
	n, all := startArchive(t, func(c *config.Config) { cfg = *c })
	move := func() string {
		lines := pynetAsk(t, n, "move", "PYNET", "P", "PYNET", "QueryRetrieveLevel=PATIENT", "PatientID=P1")
		status, _ := lines[len(lines)-1]["status"].(string)
		return status
	}
	if got := move(); got != "A801" {
		t.Errorf("C-MOVE to a peer that is not configured = %s, want A801", got)
	}
	cfg.MoveDestinations = []config.MoveDestination{moveDestination("PYNET", address)}
	if err := n.Reload(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	if got := move(); got != "0000" {
		t.Errorf("C-MOVE after the reload = %s, want 0000", got)
	}
	same(t, "C-MOVE", filesIn(t, dir), expected(all, func(h holding) bool { return h.study != "1.2.3" }))
}
