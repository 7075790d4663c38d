package node_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"hilum/node/config"
	"hilum/node/web"
)

// TestCommitted: a result counts as delivered when Orthanc has committed itself to it.
func TestCommitted(t *testing.T) {
	cfg := testConfig(t)
	port := freePort(t)
	cfg.Listen = fmt.Sprintf("127.0.0.1:%d", port)
	dicom, _ := orthanc(t, fmt.Sprintf(`, "DicomModalities": {"hilum": ["HILUM", "127.0.0.1", %d]}`, port))
	d := destination(fmt.Sprintf("127.0.0.1:%d", dicom))
	d.Commitment, d.Results = true, []string{config.ResultSR, config.ResultSC}
	cfg.Destinations = []config.Destination{d}
	n, client := start(t, cfg)
	send(t, n, "1.2.3.4", 1, 3)
	for _, one := range until(t, "both commitments", client.Deliveries, allDone(2)) {
		if !strings.Contains(one.Reason, "committed itself") {
			t.Errorf("%s: reason %q", one.Kind, one.Reason)
		}
	}
}

// TestNotCommitted: where no outcome comes in time, or the destination knows no
// commitment, the result does not count as delivered, and the reason is there.
func TestNotCommitted(t *testing.T) {
	p := &pacs{}
	cfg := testConfig(t)
	cfg.Commitment.Wait = time.Second
	d := destination(p.listen(t))
	d.Commitment = true
	cfg.Destinations = []config.Destination{d}
	n, client := start(t, cfg)
	send(t, n, "1.2.3.4", 1, 3)
	until(t, "the dead letter", client.Deliveries, func(d []web.Delivery) bool {
		return len(d) == 1 && d[0].State == "dead" && d[0].Reason != ""
	})
	if got, _ := p.count(t.Context()); got != 1 {
		t.Errorf("stored %d times, want once", got)
	}
}
