package dimse_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"hilum/dimse"
	"hilum/dimse/dataset"
)

// TestConformanceStatement keeps the numbers of CONFORMANCE.md true.
func TestConformanceStatement(t *testing.T) {
	b, err := os.ReadFile("CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		dataset.ImplementationClassUID, dataset.ImplementationVersionName,
		strconv.Itoa(dimse.DefaultMaxPDULength) + " by default", strconv.Itoa(dimse.DefaultMaxAssociations) + " by default",
		"| ARTIM | " + strconv.Itoa(int(dimse.DefaultARTIM.Seconds())) + " s |", "| idle | " + strconv.Itoa(int(dimse.DefaultIdle.Minutes())) + " min |",
		"| answer (requestor) | " + strconv.Itoa(int(dimse.DefaultTimeout.Minutes())) + " min |",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("CONFORMANCE.md does not say %q", want)
		}
	}
}
