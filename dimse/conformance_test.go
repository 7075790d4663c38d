package dimse_test

import (
	"crypto/tls"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

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
		fmt.Sprintf("| %d MiB of all peers and %d MiB of one address by default", dimse.DefaultMaxBytesInFlight>>20, dimse.DefaultMaxBytesInFlightPerAddress>>20),
		"| answer (requestor) | " + strconv.Itoa(int(dimse.DefaultTimeout.Minutes())) + " min |",
	} {
		if !strings.Contains(string(b), want) {
			t.Errorf("CONFORMANCE.md does not say %q", want)
		}
	}
}

// TestConformanceOfNegotiation holds the rows on negotiation against what a
// server answers.
func TestConformanceOfNegotiation(t *testing.T) {
	b, err := os.ReadFile("CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		rq := fullRequest()
		ac := dial(t, listen(t, &dimse.Server{Handler: &recorder{}})).Associate(rq)
		window := ac.User.AsyncOperations
		for _, want := range []string{
			fmt.Sprintf("| asynchronous operations window | invoked: the smaller of what is proposed and %d by default,", dimse.DefaultMaxOperations),
			fmt.Sprintf("performed: %d", window.Performed),
			fmt.Sprintf("| SOP class extended negotiation | storage is answered % X (", ac.User.SOPClassExtended[0].Information),
			fmt.Sprintf("by its rule, %d/%d/%d", dimse.ErrCallingAETitle.Result, dimse.ErrCallingAETitle.Source, dimse.ErrCallingAETitle.Reason),
			fmt.Sprintf("user identity %d/%d/%d", dimse.ErrUserIdentity.Result, dimse.ErrUserIdentity.Source, dimse.ErrUserIdentity.Reason),
		} {
			if !strings.Contains(string(b), want) {
				t.Errorf("CONFORMANCE.md does not say %q", want)
			}
		}
	})
}

// TestConformanceOfTLS holds the cipher suites listed against the profile.
func TestConformanceOfTLS(t *testing.T) {
	b, err := os.ReadFile("CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	profile := dimse.TLSProfile()
	var names []string
	for _, suite := range profile.CipherSuites {
		names = append(names, tls.CipherSuiteName(suite))
	}
	listed := regexp.MustCompile(`TLS_[A-Z0-9_]+`).FindAllString(string(b), -1)
	if !slices.Equal(listed, names) || profile.MinVersion != tls.VersionTLS12 {
		t.Errorf("CONFORMANCE.md lists %v, the profile is %v from version %04X", listed, names, profile.MinVersion)
	}
}
