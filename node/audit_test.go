package node_test

import (
	"bufio"
	"encoding/xml"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/config"
)

// audited is what the tests read of a message.
type audited struct {
	Event struct {
		Action  string `xml:"EventActionCode,attr"`
		Outcome int    `xml:"EventOutcomeIndicator,attr"`
		ID      struct {
			Code string `xml:"csd-code,attr"`
		} `xml:"EventID"`
		Type struct {
			Code string `xml:"csd-code,attr"`
		} `xml:"EventTypeCode"`
	} `xml:"EventIdentification"`
	Participants []struct {
		User      string `xml:"UserID,attr"`
		Requestor bool   `xml:"UserIsRequestor,attr"`
		Network   string `xml:"NetworkAccessPointID,attr"`
	} `xml:"ActiveParticipant"`
	Source struct {
		ID string `xml:"AuditSourceID,attr"`
	} `xml:"AuditSourceIdentification"`
	Objects []struct {
		ID          string `xml:"ParticipantObjectID,attr"`
		Description struct {
			SOPClass []struct {
				Instances int `xml:"NumberOfInstances,attr"`
			} `xml:"SOPClass"`
		} `xml:"ParticipantObjectDescription"`
	} `xml:"ParticipantObjectIdentification"`
}

func (a audited) String() string {
	text := a.Event.Action + " " + a.Event.ID.Code
	if a.Event.Type.Code != "" {
		text += "/" + a.Event.Type.Code
	}
	text += fmt.Sprintf(" %d", a.Event.Outcome)
	for _, p := range a.Participants {
		text += " " + p.User
		if p.Requestor {
			text += "*"
		}
	}
	for _, o := range a.Objects {
		text += " " + o.ID
		for _, c := range o.Description.SOPClass {
			text += fmt.Sprintf("(%d)", c.Instances)
		}
	}
	return text
}

// readAudit reads a file of audit messages.
func readAudit(t *testing.T, name string) (all []string) {
	t.Helper()
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	s := bufio.NewScanner(f)
	s.Buffer(nil, 1<<20)
	for s.Scan() {
		head, body, ok := strings.Cut(s.Text(), " - \xEF\xBB\xBF")
		if fields := strings.Fields(head); !ok || len(fields) != 6 || fields[5] != "DICOM+RFC3881" || fields[0] != "<85>1" && fields[0] != "<84>1" {
			t.Fatalf("no RFC 5424 message: %s", s.Text())
		}
		var a audited
		if err := xml.Unmarshal([]byte(body), &a); err != nil {
			t.Fatalf("%v in %s", err, body)
		}
		if a.Source.ID != "HILUM" {
			t.Errorf("audit source %q, want HILUM", a.Source.ID)
		}
		all = append(all, a.String())
	}
	return all
}

// TestAuditTrail follows what a node says of its own life: its start, who came and was
// refused, what came in, was asked for and went out, a reload, its end.
func TestAuditTrail(t *testing.T) {
	for _, patients := range []bool{false, true} {
		t.Run(fmt.Sprintf("patients=%t", patients), func(t *testing.T) {
			passcode, err := config.HashPasscode([]byte("open sesame"))
			if err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(t.TempDir(), "audit.log")
			var cfg config.Config
			n, _ := startArchive(t, func(c *config.Config) {
				c.Audit = config.Audit{File: file, PatientID: patients}
				c.UserIdentity, c.Users = config.IdentityChecked, []config.User{{Name: "anna", Passcode: passcode}}
				c.Peers = []config.Peer{{AETitle: "FAR", Addresses: []string{"10.1.2.3"}}}
				cfg = *c
			})
			pynetAsk(t, n, "echo", "FAR")
			pynetAsk(t, n, "echo", "PYNET", "anna", "wrong")
			pynetAsk(t, n, "echo", "PYNET", "anna", "open sesame")
			conn := archiveConn(t, n, dimse.QueryContext(dimse.StudyRootFind))
			if _, err := conn.Find(t.Context(), dimse.StudyRootFind, keys(t, "QueryRetrieveLevel=STUDY", "PatientID=P1", "StudyInstanceUID="), func(dataset.Header) bool { return true }); err != nil {
				t.Fatal(err)
			}
			got := t.TempDir()
			pynetAsk(t, n, "get", "PYNET", "S", got, "QueryRetrieveLevel=STUDY", "StudyInstanceUID=1.2.2")
			if err := os.Rename(file, file+".1"); err != nil {
				t.Fatal(err)
			}
			if err := n.Reload(t.Context(), cfg); err != nil {
				t.Fatal(err)
			}
			if err := n.Stop(t.Context()); err != nil {
				t.Fatal(err)
			}

			p1, p2 := "", ""
			if patients {
				p1, p2 = " P1", " P2"
			}
			// Each peer has its goroutine: only the order of what one peer does is certain.
			want := []string{
				"E 110100/110120 0 HILUM",
				"C 110104 0 WS1* HILUM 1.2.1(6)" + p1 + " 1.2.2(1) 1.2.3(1)" + p2,
				"E 110113/110126 4 HILUM FAR* FAR",
				"E 110114/110122 4 anna* HILUM",
				"E 110114/110122 0 anna* HILUM",
				"E 110112 0 WS1* HILUM " + dimse.StudyRootFind,
				"R 110104 0 HILUM PYNET* 1.2.2(1)" + p1,
			}
			all := readAudit(t, file+".1")
			slices.Sort(all)
			slices.Sort(want)
			if !slices.Equal(all, want) {
				t.Errorf("audit trail\n%s\nwant\n%s", strings.Join(all, "\n"), strings.Join(want, "\n"))
			}
			if all := readAudit(t, file); !slices.Equal(all, []string{"E 110113/110129 0 HILUM* HILUM", "E 110100/110121 0 HILUM"}) {
				t.Errorf("after the reload and the end: %v", all)
			}
		})
	}
}
