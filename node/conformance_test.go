package node_test

import (
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
	"hilum/node"
	"hilum/node/config"
	"hilum/node/mpps"
)

func conformance(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("../dimse/CONFORMANCE.md")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// services reads the table of services: whether a node is SCP of each SOP class, by what
// the last column says.
func services(t *testing.T, text string) map[string]string {
	t.Helper()
	_, table, _ := strings.Cut(text, "## Services")
	table, _, _ = strings.Cut(table, "\n## ")
	uid := regexp.MustCompile(`\b\d+(\.\d+){4,}`)
	scp := map[string]string{}
	for line := range strings.Lines(table) {
		cells := strings.Split(line, "|")
		if len(cells) < 5 || strings.HasPrefix(strings.TrimSpace(cells[1]), "SOP class") || strings.HasPrefix(cells[1], "---") {
			continue
		}
		answer := strings.TrimSpace(cells[3])
		switch {
		case answer == "yes", strings.HasPrefix(answer, "the node: "), strings.HasSuffix(answer, "the node does"), answer == "as above":
			answer = "yes"
		case answer == "by option":
		case answer == "no", strings.HasPrefix(answer, "no: the presentation context is answered \"abstract syntax not supported\""):
			answer = "no"
		default:
			t.Fatalf("the table of services says %q of SCP", answer)
		}
		for _, class := range uid.FindAllString(cells[1], -1) {
			if strings.Contains(cells[1], "under "+class) {
				class += ".9999"
			}
			scp[class] = answer
		}
	}
	return scp
}

// otherClasses are SOP classes of the standard that a node is not SCP of: worklists,
// printing, the retired ones of Patient/Study Only, media creation, and more.
var otherClasses = []string{
	"1.2.840.10008.5.1.4.31", "1.2.840.10008.5.1.4.34.6.1", "1.2.840.10008.5.1.4.34.6.3", "1.2.840.10008.5.1.1.9", "1.2.840.10008.5.1.1.16", "1.2.840.10008.5.1.1.33",
	"1.2.840.10008.5.1.4.1.2.3.1", "1.2.840.10008.5.1.4.1.2.3.2", "1.2.840.10008.5.1.4.1.2.3.3", "1.2.840.10008.5.1.4.1.2.4.2", "1.2.840.10008.5.1.4.1.2.4.3", "1.2.840.10008.5.1.4.1.2.5.3",
	"1.2.840.10008.3.1.2.3.1", "1.2.840.10008.3.1.2.3.2", "1.2.840.10008.3.1.2.3.4", "1.2.840.10008.3.1.2.3.5", "1.2.840.10008.1.20.2", "1.2.840.10008.1.9", "1.2.840.10008.1.40", "1.2.840.10008.1.42",
	"1.2.840.10008.5.1.4.38.2", "1.2.840.10008.5.1.4.39.2", "1.2.840.10008.5.1.4.37.1", "1.2.840.10008.5.1.4.41", "1.2.840.10008.5.1.4.42", "1.2.840.10008.5.1.4.45.2", "1.2.840.10008.1.3.10",
}

// TestConformanceOfServices: a node accepts the SOP classes that the conformance statement
// lists, in the transfer syntaxes that it lists, and no others.
func TestConformanceOfServices(t *testing.T) {
	text := conformance(t)
	listed := services(t, text)
	for _, class := range []string{dimse.VerificationSOPClass, dimse.StorageCommitmentSOPClass, dimse.PerformedProcedureStepSOPClass, dimse.InstanceAvailabilitySOPClass,
		dimse.PatientRootFind, dimse.PatientRootMove, dimse.PatientRootGet, dimse.StudyRootFind, dimse.StudyRootMove, dimse.StudyRootGet} {
		if listed[class] == "" {
			t.Errorf("the table of services does not have %s", class)
		}
	}
	for class := range dataset.StorageSOPClasses { // one row says so of all
		listed[class] = "yes"
	}
	listed["1.3.46.670589.2.5.1.1"] = "by option" // private
	for _, class := range otherClasses {
		listed[class] = "no"
	}
	for _, private := range []bool{false, true} {
		cfg := testConfig(t)
		cfg.Plugins = nil
		cfg.AcceptPrivateSOPClasses = private
		cfg.UnknownServices = []string{config.ServiceEcho, config.ServiceStore, config.ServiceFind, config.ServiceMove, config.ServiceGet, config.ServiceCommitment, config.ServiceMPPS}
		n, _ := start(t, cfg)
		var contexts []pdu.PresentationContextRQ
		for class := range listed {
			contexts = append(contexts, pdu.PresentationContextRQ{AbstractSyntax: class, TransferSyntaxes: []string{dataset.ImplicitVRLittleEndian}})
		}
		for _, result := range propose(t, n, contexts) {
			class := result.abstractSyntax
			accepted := listed[class] == "yes" || listed[class] == "by option" && private
			if (result.Result == pdu.ContextAccepted) != accepted || !accepted && result.Result != pdu.ContextAbstractNotSupported {
				t.Errorf("with accept_private_sop_classes %v: %s is answered %d, listed as %q", private, class, result.Result, listed[class])
			}
		}
		// Storage takes every transfer syntax; queries those that are listed.
		_, row, _ := strings.Cut(text, "| transfer syntaxes of identifiers |")
		row, _, _ = strings.Cut(row, "|")
		names := map[string]string{dataset.ImplicitVRLittleEndian: "Implicit", dataset.ExplicitVRLittleEndian: "Explicit VR Little Endian", dataset.ExplicitVRBigEndian: "Explicit VR Big Endian"}
		contexts = nil
		for _, ts := range dataset.TransferSyntaxes {
			for _, class := range []string{ctImageStorage, dimse.StudyRootFind} {
				contexts = append(contexts, pdu.PresentationContextRQ{AbstractSyntax: class, TransferSyntaxes: []string{ts.UID}})
			}
		}
		for _, result := range propose(t, n, contexts) {
			accepted := result.abstractSyntax == ctImageStorage || names[result.proposed] != "" && strings.Contains(strings.Replace(row, "Implicit and Explicit VR", "Implicit, Explicit VR", 1), names[result.proposed])
			if (result.Result == pdu.ContextAccepted) != accepted || accepted && result.TransferSyntax != result.proposed {
				t.Errorf("%s in %s is answered %d with %s", result.abstractSyntax, result.proposed, result.Result, result.TransferSyntax)
			}
		}
	}
}

// answered is the answer to a proposal.
type answered struct {
	pdu.PresentationContextAC
	abstractSyntax, proposed string
}

// propose asks for all contexts, 128 in an association.
func propose(t *testing.T, n *node.Node, contexts []pdu.PresentationContextRQ) (all []answered) {
	t.Helper()
	for len(contexts) > 0 {
		some := contexts[:min(len(contexts), pdu.MaxPresentationContexts)]
		contexts = contexts[len(some):]
		rq := &pdu.AssociateRQ{ProtocolVersion: 1, ApplicationContext: pdu.ApplicationContextName, User: pdu.UserInformation{MaxLength: 16384}}
		copy(rq.CalledAETitle[:], "HILUM           ")
		copy(rq.CallingAETitle[:], "CT1             ")
		for i := range some {
			some[i].ID = byte(2*i + 1)
		}
		rq.Contexts = some
		conn, err := net.DialTimeout("tcp", n.Addr().String(), 10*time.Second)
		if err != nil {
			t.Fatal(err)
		}
		p := dimsetest.NewPeer(t, conn)
		ac := p.Associate(rq)
		p.Close()
		for i, answer := range ac.Contexts {
			all = append(all, answered{answer, some[i].AbstractSyntax, some[i].TransferSyntaxes[0]})
		}
	}
	return all
}

// TestConformanceOfDefaults keeps the numbers of the statement true that the node sets.
func TestConformanceOfDefaults(t *testing.T) {
	text := strings.Join(strings.Fields(conformance(t)), " ")
	c := config.Default()
	for _, want := range []string{
		fmt.Sprintf("| maximum PDU length received | %d by default", c.MaxPDU),
		fmt.Sprintf("| associations at a time | %d by default, configurable; by configuration also for each peer address (IPv6: each /64 network), %d in the node", c.MaxAssociations, c.MaxAssociationsPerAddress),
		fmt.Sprintf("so many a minute for each peer address, %d in the node", c.MaxFailuresPerAddress),
		fmt.Sprintf("the smaller of what is proposed and %d by default", c.MaxOperations),
		fmt.Sprintf("| %d MiB of all peers and %d MiB of one address by default", c.MaxInFlight>>20, c.MaxInFlightPerAddress>>20),
		fmt.Sprintf("| matches | at most %d by default", c.MaxMatches),
		fmt.Sprintf("| ARTIM | %d s |", int(c.Timeouts.ARTIM.Seconds())),
		fmt.Sprintf("| idle | %d min |", int(c.Timeouts.Idle.Minutes())),
		"| lifetime | none |",
		fmt.Sprintf("of MPPS %d MiB, else 0213H", (&mpps.Provider{}).NService().MaxDataSet>>20),
		fmt.Sprintf("values of at most %d bytes", node.MaxHeaderValue),
	} {
		if !strings.Contains(text, want) {
			t.Errorf("CONFORMANCE.md does not say %q", want)
		}
	}
	if c.Timeouts.Lifetime != 0 {
		t.Errorf("the lifetime is %v by default, the statement says none", c.Timeouts.Lifetime)
	}
}
