package dimse_test

import (
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
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

// TestConformanceOfQuery holds the rows on query and retrieve against what is
// accepted and answered.
func TestConformanceOfQuery(t *testing.T) {
	b, err := os.ReadFile("CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		rq := request()
		classes := []string{dimse.PatientRootFind, dimse.PatientRootMove, dimse.PatientRootGet, dimse.StudyRootFind, dimse.StudyRootMove, dimse.StudyRootGet}
		for i, uid := range classes {
			rq.Contexts = append(rq.Contexts, pdu.PresentationContextRQ{ID: byte(7 + 2*i), AbstractSyntax: uid, TransferSyntaxes: []string{implicitLE}})
		}
		ac := dial(t, listen(t, &dimse.Server{Handler: &queried{}})).Associate(rq)
		for i, uid := range classes {
			_, provided := any(&queried{}).(dimse.Mover)
			wanted := provided || !strings.HasSuffix(uid, ".2") // it has no C-MOVE
			if accepted := ac.Contexts[3+i].Result == pdu.ContextAccepted; accepted != wanted || !strings.Contains(string(b), uid) {
				t.Errorf("%s accepted %v, want %v, and to be listed in CONFORMANCE.md", uid, accepted, wanted)
			}
		}
		for _, want := range []string{"at most 1048576 bytes, else A700H", dimse.StatusUnknownDestination.String()[:5], dimse.StatusCanceled.String()[:5], dimse.StatusPendingWarning.String()[:5]} {
			if !strings.Contains(string(b), want) {
				t.Errorf("CONFORMANCE.md does not say %q", want)
			}
		}
	})
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

// TestConformanceOfRejections holds the sentence on rejections against what a peer is told.
func TestConformanceOfRejections(t *testing.T) {
	b, err := os.ReadFile("CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Join(strings.Fields(string(b)), " ")
	for what, change := range map[string]func(*pdu.AssociateRQ){
		"protocol version":    func(rq *pdu.AssociateRQ) { rq.ProtocolVersion = 2 },
		"application context": func(rq *pdu.AssociateRQ) { rq.ApplicationContext = "1.2.3" },
		"calling AE title with control characters or a backslash, or by its rule,": func(rq *pdu.AssociateRQ) { copy(rq.CallingAETitle[:], `A\B`) },
		"called AE title": func(rq *pdu.AssociateRQ) { rq.CalledAETitle = title("OTHER") },
		"too many associations, or no room to store anything,": nil,
	} {
		synctest.Test(t, func(t *testing.T) {
			l := listen(t, &dimse.Server{MaxAssociations: 1})
			rq := request()
			if change != nil {
				change(rq)
			} else {
				associate(t, l)
			}
			p := dial(t, l)
			p.SendPDU(rq)
			rj := p.ExpectType(pdu.TypeAssociateRJ).(*pdu.AssociateRJ)
			if want := fmt.Sprintf("%s %d/%d/%d", what, rj.Result, rj.Source, rj.Reason); !strings.Contains(text, want) {
				t.Errorf("CONFORMANCE.md does not say %q", want)
			}
		})
	}
	if want := fmt.Sprintf("%d/%d/%d", dimse.ErrNoRoom.Result, dimse.ErrNoRoom.Source, dimse.ErrNoRoom.Reason); !strings.Contains(text, "no room to store anything, "+want) {
		t.Errorf("CONFORMANCE.md does not say that no room is rejected with %s", want)
	}
}

// TestConformanceOfStatuses: the table of statuses of C-STORE names those that a server
// sends, and no others.
func TestConformanceOfStatuses(t *testing.T) {
	b, err := os.ReadFile("CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^\| ([0-9A-F]{4})H \|`).FindAllStringSubmatch(string(b), -1) {
		listed[m[1]] = true
	}
	sent := map[string]bool{}
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		p := window(t, listen(t, &dimse.Server{Handler: g}), 3)
		store := dimsetest.StoreRQ(1, ctImage, instanceUID)
		ask := func(context byte, rq dimsetest.Elements) {
			p.SendPDU(dimsetest.CommandPDU(context, rq), dimsetest.DataPDU(context, true, []byte("data")))
			sent[fmt.Sprintf("%04X", p.ExpectCommand(context).Number(dimsetest.Status))] = true
		}
		for _, answer := range []error{nil, errors.New("not for the peer")} {
			g.open[1] <- answer
			ask(3, store)
		}
		ask(1, store)
		ask(3, store.With(dimsetest.AffectedSOPClassUID, dimsetest.UI(mrImage)))
		ask(3, store.With(dimsetest.AffectedSOPInstanceUID, dimsetest.UI("x")))
		invoke(p, 1) // and runs
		ask(3, store)
		g.open[1] <- nil
		p.ExpectCommand(3)
	})
	if !maps.Equal(listed, sent) {
		t.Errorf("CONFORMANCE.md lists %v, a server sends %v", listed, sent)
	}
}
