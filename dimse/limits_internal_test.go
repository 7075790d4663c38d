package dimse

import (
	"fmt"
	"os"
	"strings"
	"testing"

	"hilum/dimse/pdu"
)

// TestConformanceOfLimits keeps the limits of CONFORMANCE.md true that are no options.
func TestConformanceOfLimits(t *testing.T) {
	b, err := os.ReadFile("CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("%d by default, configurable from %d; PDUs up to %d bytes longer are tolerated", DefaultMaxPDULength, minMaxPDULength, pdu.DataSlack),
		fmt.Sprintf("%d KiB where it says 0 (no limit), never above %d MiB", unlimitedPDU>>10, maxSendPDU>>20),
		fmt.Sprintf("| A-ASSOCIATE-RQ, -AC | at most %d MiB, at most 256 transfer syntaxes in a context", pdu.MaxAssociateLength>>20), // 257: TestDecodeInvalid
		fmt.Sprintf("| presentation contexts | up to %d,", pdu.MaxPresentationContexts),
		fmt.Sprintf("%d by default, configurable from 1 to %d (0 proposed is any number)", DefaultMaxOperations, maxMaxOperations),
		fmt.Sprintf("has more than %d KiB or no Message ID", maxCommandLength>>10),
		fmt.Sprintf("the data set of a message has at most %d MiB", DefaultMaxNDataSet>>20),
		fmt.Sprintf("| identifiers | at most %d bytes", maxIdentifier),
		fmt.Sprintf("Error Comment has at most %d ASCII characters", len(wireComment(strings.Repeat("x", 1000)))),
		fmt.Sprintf("storage is answered % X (", storageSupport()),
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("CONFORMANCE.md does not say %q", want)
		}
	}
	if set := (&Server{AETitle: "HILUM", MaxPDULength: 1, MaxOperations: 100_000}); set.prepare() != nil || set.prepared.maxPDULength != minMaxPDULength || set.prepared.maxOperations != maxMaxOperations {
		t.Errorf("a server takes PDUs of %d bytes and %d operations, want %d and %d", set.prepared.maxPDULength, set.prepared.maxOperations, minMaxPDULength, maxMaxOperations)
	}
}
