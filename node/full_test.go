package node_test

import (
	"strings"
	"testing"
	"time"

	"hilum/dimse"
)

// TestNoRoom: below min_free a new association is refused for the moment.
func TestNoRoom(t *testing.T) {
	cfg := testConfig(t)
	cfg.MinFree = 1 << 60
	n, _ := start(t, cfg)
	client := dimse.Client{CallingAETitle: "CT1", CalledAETitle: "HILUM", Timeout: 10 * time.Second, Contexts: []dimse.PresentationContext{
		{AbstractSyntax: dimse.VerificationSOPClass, TransferSyntaxes: []string{"1.2.840.10008.1.2"}},
	}}
	conn, err := client.Dial(t.Context(), n.Addr().String())
	if err == nil {
		_ = conn.Abort()
	}
	if err == nil || !strings.Contains(err.Error(), "result 2, source 3, reason 2") {
		t.Errorf("Dial = %v, want rejected for now: result 2, source 3, reason 2", err)
	}
}
