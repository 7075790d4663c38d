package node_test

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"hilum/dimse"
	"hilum/dimse/dataset"
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

// TestRejectDuplicates: with duplicates: reject, other bytes under a known UID
// are refused with 0111H; the same bytes again are a success.
func TestRejectDuplicates(t *testing.T) {
	cfg := testConfig(t)
	cfg.Duplicates = "reject"
	n, client := start(t, cfg)
	c := dimse.Client{CallingAETitle: "CT1", CalledAETitle: "HILUM", Timeout: 10 * time.Second, Contexts: []dimse.PresentationContext{
		{AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{dataset.ExplicitVRLittleEndian}},
	}}
	conn, err := c.Dial(t.Context(), n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	uid, first := slice(t, "1.2.3.4", 1, nil)
	other := bytes.Clone(first)
	other[len(other)-1] ^= 1
	for _, tt := range []struct {
		data []byte
		want dimse.Status
	}{{first, dimse.StatusSuccess}, {other, dimse.StatusDuplicateInstance}, {first, dimse.StatusSuccess}} {
		status, err := conn.Store(t.Context(), ctImageStorage, uid, dataset.ExplicitVRLittleEndian, bytes.NewReader(tt.data))
		if status != tt.want {
			t.Errorf("Store = %v, %v; want %v", status, err, tt.want)
		}
	}
	if err := conn.Release(t.Context()); err != nil {
		t.Error(err)
	}
	if list, err := client.Quarantine(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("Quarantine = %v, %v; want nothing", list, err)
	}
}
