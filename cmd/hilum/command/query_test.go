package command_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node"
	"hilum/node/config"
)

// keeper counts what it is sent.
type keeper struct{ n chan string }

func (k keeper) CStore(_ context.Context, req *dimse.StoreRequest) error {
	k.n <- req.SOPInstanceUID
	return nil
}

// TestQueryCommands: find, get and move against a node, in all forms, and what is
// wrong with their flags.
func TestQueryCommands(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	k := keeper{make(chan string, 10)}
	destination := &dimse.Server{AETitle: "WS1", Handler: k}
	ended := make(chan error, 1)
	go func() { ended <- destination.Serve(l) }()
	t.Cleanup(func() { _ = destination.Close(); <-ended })

	cfg := config.Default()
	cfg.Listen, cfg.Data = "127.0.0.1:0", filepath.Join(t.TempDir(), "data")
	cfg.Peers = []config.Peer{{AETitle: "HILUM-SCU"}}
	cfg.MoveDestinations = []config.MoveDestination{{AETitle: "WS1", Address: l.Addr().String(), CallingAETitle: "HILUM", Timeout: 10 * time.Second}}
	n, err := node.Start(t.Context(), node.Options{Config: cfg, Version: "test", Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	peer := []string{"--to", n.Addr().String(), "--called", "HILUM"}
	dir := t.TempDir()
	for i := range 2 {
		var b bytes.Buffer
		uid := fmt.Sprint("1.2.3.4.", i+1)
		err := dataset.WriteFile(&b, dataset.ImplicitVRLittleEndian, []*dataset.Element{
			dataset.MustElement(dicomtag.SOPClassUID, "1.2.840.10008.5.1.4.1.1.2"), dataset.MustElement(dicomtag.SOPInstanceUID, uid),
			dataset.MustElement(dicomtag.StudyInstanceUID, "1.2.3"), dataset.MustElement(dicomtag.SeriesInstanceUID, "1.2.3.4"), dataset.MustElement(dicomtag.Modality, "CT"),
			dataset.MustElement(dicomtag.PatientName, "DOE^JANE"), dataset.MustElement(dicomtag.PatientID, "P1\x1b[31m"), dataset.MustElement(dicomtag.StudyDate, "20260102"),
		})
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, uid+".dcm"), b.Bytes(), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if _, errs, code := run(append([]string{"send", dir}, peer...)...); code != 0 {
		t.Fatal(errs)
	}
	out := filepath.Join(t.TempDir(), "out")
	for _, tt := range []struct {
		name   string
		args   []string
		code   int
		stdout []string
		stderr []string
	}{
		{"find", []string{"find", "-k", "PatientName=doe*", "-k", "StudyDate=20260101-"}, 0, []string{"PatientName", "DOE^JANE", "1.2.3", "P1\uFFFD[31m", "2"}, nil},
		{"find nothing", []string{"find", "-k", "PatientName=X*"}, 0, []string{"PatientName"}, nil},
		{"find patients", []string{"find", "--level", "patient"}, 0, []string{"DOE^JANE"}, nil},
		{"find images by number", []string{"find", "--level", "image", "-k", "0020,000d=1.2.3", "-k", "0020,000e=1.2.3.4"}, 0, []string{"1.2.3.4.1", "1.2.3.4.2"}, nil},
		{"find, refused", []string{"find", "--level", "series"}, 1, nil, []string{"A900H"}},
		{"find, not allowed", []string{"find", "--calling", "STRANGER"}, 1, nil, []string{"STRANGER", "must be told"}},
		{"move", []string{"move", "--destination", "WS1", "-k", "StudyInstanceUID=1.2.3"}, 0, []string{"2 images sent, 0 with a warning, 0 failed"}, nil},
		{"move to nobody", []string{"move", "--destination", "NOBODY", "-k", "StudyInstanceUID=1.2.3"}, 1, nil, []string{"does not know the destination"}},
		{"get", []string{"get", "--out", out, "-k", "StudyInstanceUID=1.2.3", "--json"}, 0, []string{`"completed": 2`, `"failed_sop_instance_uids": []`}, nil},
		{"get again", []string{"get", "--out", out, "-k", "StudyInstanceUID=1.2.3"}, 1, nil, []string{"000001.dcm"}},
		{"get what has no context", []string{"get", "--out", t.TempDir(), "--sop-class", "1.2.840.10008.5.1.4.1.1.4", "-k", "StudyInstanceUID=1.2.3"}, 3, []string{"2 failed"}, []string{"not sent: 1.2.3.4.1"}},
		{"unknown level", []string{"find", "--level", "frame"}, 2, nil, []string{"frame"}},
		{"unknown model", []string{"find", "--model", "x"}, 2, nil, []string{"--model"}},
		{"patients of Study Root", []string{"find", "--model", "study", "--level", "patient"}, 2, nil, []string{"no level patient"}},
		{"unknown key", []string{"find", "-k", "PatientNmae=x"}, 2, nil, []string{"PatientNmae"}},
		{"key twice", []string{"find", "-k", "PatientID=x", "-k", "PatientID=y"}, 2, nil, []string{"twice"}},
		{"sequence", []string{"find", "-k", "ProcedureCodeSequence"}, 2, nil, []string{"sequence"}},
		{"move without destination", []string{"move"}, 2, nil, []string{"--destination"}},
		{"get without folder", []string{"get"}, 2, nil, []string{"--out"}},
		{"get of no class", []string{"get", "--out", t.TempDir(), "--sop-class", "x"}, 2, nil, []string{"--sop-class"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stdout, stderr, code := run(append(tt.args, peer...)...)
			if code != tt.code {
				t.Errorf("exit code %d, want %d\n%s%s", code, tt.code, stdout, stderr)
			}
			for _, want := range tt.stdout {
				if !strings.Contains(stdout, want) {
					t.Errorf("standard output lacks %q:\n%s", want, stdout)
				}
			}
			for _, want := range tt.stderr {
				if !strings.Contains(stderr, want) {
					t.Errorf("standard error lacks %q:\n%s", want, stderr)
				}
			}
			if strings.Contains(stderr, "DOE") || strings.ContainsRune(stdout, 0x1b) {
				t.Errorf("patient data on standard error, or an escape on standard output:\n%s%s", stdout, stderr)
			}
		})
	}
	if len(k.n) != 2 {
		t.Errorf("the destination got %d images, want 2", len(k.n))
	}
	for i := range 2 {
		name := filepath.Join(out, fmt.Sprintf("%06d.dcm", i+1))
		f, err := dataset.ReadHeader(name, []dataset.Tag{dicomtag.PatientName})
		if err != nil || f.TransferSyntaxUID != dataset.ImplicitVRLittleEndian {
			t.Errorf("%s: %v, %v", name, f, err)
		}
	}
	stdout, _, _ := run(append([]string{"find", "--json"}, peer...)...)
	var found []map[string]string
	if err := json.Unmarshal([]byte(stdout), &found); err != nil || len(found) != 1 || found[0]["PatientName"] != "DOE^JANE" {
		t.Errorf("find --json: %v, %v", found, err)
	}
}
