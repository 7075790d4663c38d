package node_test

import (
	"bytes"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
	"hilum/node/config"
	"hilum/node/web"
)

// stored reads an image back and takes its file meta information off.
func stored(t *testing.T, client *web.Client, uid string) []byte {
	t.Helper()
	r, err := client.Instance(t.Context(), uid)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := dataset.ReadMeta(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return b[meta.DataSetOffset:]
}

// TestLongValues: an image whose every indexed text is far longer than the standard
// allows is stored as it came, and costs the index no more than another.
func TestLongValues(t *testing.T) {
	n, client := start(t, testConfig(t))
	long := strings.Repeat("\x01", 60_000) // each costs six bytes in JSON
	uid, data := slice(t, "1.2.3.4", 1, func(elements []*dataset.Element) []*dataset.Element {
		for _, tag := range dataset.IndexTags {
			info, err := dicomtag.Find(tag)
			if err != nil {
				t.Fatal(err)
			}
			switch info.VR {
			case "LO", "SH", "PN", "ST", "LT", "CS", "AS", "DA", "TM", "DT":
				if tag != dicomtag.SpecificCharacterSet && tag != dicomtag.Modality {
					elements = append(without(elements, tag), dataset.RawElement(tag, info.VR, []byte(long)))
				}
			}
		}
		return elements
	})
	conn := dial(t, n)
	status, err := conn.Store(t.Context(), ctImageStorage, uid, dataset.ExplicitVRLittleEndian, bytes.NewReader(data))
	if err != nil || status != dimse.StatusSuccess {
		t.Fatalf("Store = %v, %v; want success", status, err)
	}
	if got := stored(t, client, uid); !bytes.Equal(got, data) {
		t.Errorf("stored are %d bytes, want the %d that were sent", len(got), len(data))
	}
	studies, err := client.Studies(t.Context())
	if err != nil || len(studies) != 1 {
		t.Fatalf("Studies = %v, %v; want one", studies, err)
	}
}

// TestTolerated: what breaks a rule of PS3.5 and can be read all the same is stored byte
// for byte, in each transfer syntax that is not compressed, all on one association.
func TestTolerated(t *testing.T) {
	n, client := start(t, testConfig(t))
	syntaxes := []string{explicitLE, implicitLE, dataset.ExplicitVRBigEndian, dataset.DeflatedExplicitVRLittleEndian}
	c := dimse.Client{CallingAETitle: "CT1", CalledAETitle: "HILUM", Timeout: 10 * time.Second}
	for _, ts := range syntaxes {
		c.Contexts = append(c.Contexts, dimse.PresentationContext{AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{ts}})
	}
	conn, err := c.Dial(t.Context(), n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	number := 0
	store := func(name, ts string, damage func([]byte) []byte) {
		t.Helper()
		number++
		uid, data := slice(t, "1.2.3.4", number, nil)
		tree, err := dataset.ReadTree(bytes.NewReader(data), explicitLE, dataset.TreeLimits{Nodes: 1000, Bytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		// The pixels in front: what is put behind them is in the wrong order.
		elements := append(tree.Elements(), dataset.RawElement(dicomtag.PixelData, "OW", make([]byte, 32)))
		var b bytes.Buffer
		if err := dataset.WriteDataSet(&b, ts, elements); err != nil {
			t.Fatal(err)
		}
		sent := damage(b.Bytes())
		status, err := conn.Store(t.Context(), ctImageStorage, uid, ts, bytes.NewReader(sent))
		if err != nil || status != dimse.StatusSuccess {
			t.Errorf("%s: Store = %v, %v; want success", name, status, err)
		} else if got := stored(t, client, uid); !bytes.Equal(got, sent) {
			t.Errorf("%s: stored are %d bytes, want the %d that were sent", name, len(got), len(sent))
		}
	}
	behind := func(s string) func([]byte) []byte {
		return func(b []byte) []byte { return append(b, s...) }
	}
	for _, ts := range syntaxes {
		store("as it should be, in "+ts, ts, func(b []byte) []byte { return b })
	}
	for _, tt := range []struct {
		name   string
		damage func([]byte) []byte
	}{
		{"odd length", behind("\x08\x00\x70\x00LO\x03\x00abc")},
		{"wrong order", behind("\x08\x00\x70\x00LO\x04\x00abcd")},
		{"an element twice, the first counts", behind("\x20\x00\x0D\x00UI\x04\x009.9\x00")},
		{"unknown VR", behind("\x08\x00\x01\x00ZZ\x00\x00\x03\x00\x00\x00abc")},
		{"private element without creator", behind("\x09\x00\x01\x10UN\x00\x00\x02\x00\x00\x00\x00\x01")},
		{"implicit sequence as UN", behind("\x09\x00\x01\x10UN\x00\x00\xFF\xFF\xFF\xFF\xFE\xFF\x00\xE0\xFF\xFF\xFF\xFF\x10\x00\x20\x00\x02\x00\x00\x00no\xFE\xFF\x0D\xE0\x00\x00\x00\x00\xFE\xFF\xDD\xE0\x00\x00\x00\x00")},
		{"wrong group length", func(b []byte) []byte { return append([]byte("\x08\x00\x00\x00UL\x04\x00\xFF\xFF\xFF\xFF"), b...) }},
		{"zeros at the end", behind(strings.Repeat("\x00", 1001))},
		{"a sequence where text is due", behind("\x20\x00\x11\x00SQ\x00\x00\x00\x00\x00\x00")},
		{"a fragment where text is due", behind("\x20\x00\x10\x00OB\x00\x00\xFF\xFF\xFF\xFF\xFE\xFF\x00\xE0\x02\x00\x00\x00ab\xFE\xFF\xDD\xE0\x00\x00\x00\x00")},
		{"four billion rows", behind("\x28\x00\x10\x00UL\x04\x00\xFF\xFF\xFF\xFF")},
		{"a number that is none", behind("\x28\x00\x30\x00DS\x08\x00nonsense")},
		{"no number at all", behind("\x28\x00\x10\x00US\x00\x00")},
		{"text with a wrong character set", behind("\x08\x00\x30\x10LO\x04\x00\xFF\xFE\x80\x00")},
	} {
		store(tt.name, explicitLE, tt.damage)
	}
	if err := conn.Release(t.Context()); err != nil {
		t.Error(err)
	}
	until(t, "one series, complete", client.Studies, func(s []web.Study) bool {
		return len(s) == 1 && len(s[0].Series) == 1 && s[0].Series[0].Instances == number && s[0].Series[0].State == "complete"
	})
}

// TestHostileText: nothing that a peer says becomes a line of the log, a format of one, or
// a part of a file's name.
func TestHostileText(t *testing.T) {
	cfg, log := testConfig(t), &lines{}
	cfg.Plugins = nil
	cfg.UnknownServices = []string{config.ServiceEcho, config.ServiceStore, config.ServiceFind, config.ServiceMove, config.ServiceCommitment, config.ServiceMPPS}
	cfg.Audit.File = filepath.Join(t.TempDir(), "audit.log")
	n, client := startLogging(t, cfg, slog.New(slog.NewTextHandler(log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	const forged = "\nlevel=ERROR msg=forged\n"
	title := func(s string) (a pdu.AETitle) {
		copy(a[:], s+strings.Repeat(" ", len(a)))
		return a
	}
	request := func(calling string) *pdu.AssociateRQ {
		rq := &pdu.AssociateRQ{ProtocolVersion: 1, CalledAETitle: title("HILUM"), CallingAETitle: title(calling), ApplicationContext: pdu.ApplicationContextName,
			User: pdu.UserInformation{MaxLength: 16384, ImplementationClassUID: "../" + forged, ImplementationVersionName: "%s%n" + forged}}
		for i, class := range []string{ctImageStorage, dimse.StudyRootFind, dimse.StudyRootMove, dimse.StorageCommitmentSOPClass, stepClass, "../" + forged} {
			rq.Contexts = append(rq.Contexts, pdu.PresentationContextRQ{ID: byte(2*i + 1), AbstractSyntax: class, TransferSyntaxes: []string{explicitLE}})
		}
		return rq
	}
	dial := func() *dimsetest.Peer {
		conn, err := net.Dial("tcp", n.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		return dimsetest.NewPeer(t, conn)
	}
	for _, calling := range []string{"A\nB", `..\..\x`} {
		p := dial()
		p.SendPDU(request(calling))
		p.ExpectType(pdu.TypeAssociateRJ)
		p.Close()
	}
	p := dial()
	p.Associate(request("%s%n$(touch x)"))
	ask := func(context byte, rq dimsetest.Elements, data string) int {
		t.Helper()
		p.SendPDU(dimsetest.CommandPDU(context, rq), dimsetest.DataPDU(context, true, []byte(data)))
		return p.ExpectCommand(context).Number(dimsetest.Status)
	}
	evil := []string{"../../../x", "/etc/passwd", "%s%n%!d", "$(touch x)", "`touch x`", "a" + forged}
	for i, text := range evil {
		padded := text + strings.Repeat("\x00", len(text)%2)
		if got := ask(1, dimsetest.StoreRQ(uint16(i), ctImageStorage, text), "data"); got != 0xC000 {
			t.Errorf("C-STORE of instance %q = %04XH, want C000H", text, got)
		}
		for _, tag := range []dataset.Tag{dicomtag.StudyInstanceUID, dicomtag.SeriesInstanceUID, dicomtag.SOPInstanceUID} {
			uid, data := slice(t, "1.2.3.4", i+1, func(e []*dataset.Element) []*dataset.Element {
				return append(without(e, tag), dataset.RawElement(tag, "UI", []byte(text)))
			})
			if got := ask(1, dimsetest.StoreRQ(uint16(i), ctImageStorage, uid), string(data)); got != 0xA900 {
				t.Errorf("C-STORE with %q as %v = %04XH, want A900H", text, tag, got)
			}
		}
		uid, data := slice(t, "1.2.3.4", i+1, func(e []*dataset.Element) []*dataset.Element {
			for _, tag := range []dataset.Tag{dicomtag.PatientID, dicomtag.StudyID, dicomtag.SeriesDescription, dicomtag.Modality, dicomtag.StationName} {
				info, _ := dicomtag.Find(tag)
				e = append(without(e, tag), dataset.RawElement(tag, info.VR, []byte(text)))
			}
			return e
		})
		if got := ask(1, dimsetest.StoreRQ(uint16(i), ctImageStorage, uid), string(data)); got != 0 {
			t.Errorf("C-STORE with %q in the header = %04XH, want 0000H", text, got)
		}
		query := dimsetest.Elements{dimsetest.AffectedSOPClassUID: dimsetest.UI(dimse.StudyRootFind), dimsetest.CommandField: dimsetest.US(0x0020),
			dimsetest.MessageID: dimsetest.US(9), dimsetest.Priority: dimsetest.US(0), dimsetest.DataSetType: dimsetest.US(1)}
		key := "\x08\x00\x52\x00CS\x06\x00STUDY \x20\x00\x0D\x00UI" + string([]byte{byte(len(padded)), 0}) + padded
		if got := ask(3, query, key); got != 0xA900 {
			t.Errorf("C-FIND of study %q = %04XH, want A900H", text, got)
		}
		move := query.With(dimsetest.AffectedSOPClassUID, dimsetest.UI(dimse.StudyRootMove)).With(dimsetest.CommandField, dimsetest.US(0x0021)).With(0x0600, []byte(padded))
		if got := ask(5, move, key); got != 0xA801 {
			t.Errorf("C-MOVE to %q = %04XH, want A801H", text, got)
		}
		action := dimsetest.Elements{0x0003: dimsetest.UI(dimse.StorageCommitmentSOPClass), dimsetest.CommandField: dimsetest.US(0x0130), dimsetest.MessageID: dimsetest.US(9),
			dimsetest.DataSetType: dimsetest.US(1), 0x1001: dimsetest.UI(dimse.StorageCommitmentSOPInstance), 0x1008: dimsetest.US(1)}
		if got := ask(7, action, "\x08\x00\x95\x11UI"+string([]byte{byte(len(padded)), 0})+padded); got != 0x0106 {
			t.Errorf("N-ACTION of transaction %q = %04XH, want 0106H", text, got)
		}
		create := dimsetest.Elements{dimsetest.AffectedSOPClassUID: dimsetest.UI(stepClass), dimsetest.CommandField: dimsetest.US(0x0140), dimsetest.MessageID: dimsetest.US(9),
			dimsetest.DataSetType: dimsetest.US(1), dimsetest.AffectedSOPInstanceUID: []byte(padded)}
		if got := ask(9, create, "data"); got != 0x0117 {
			t.Errorf("N-CREATE of step %q = %04XH, want 0117H", text, got)
		}
	}
	p.SendPDU(&pdu.ReleaseRQ{})
	p.ExpectType(pdu.TypeReleaseRP)
	p.Close()
	until(t, "the series complete", client.Studies, func(s []web.Study) bool {
		return len(s) == 1 && len(s[0].Series) == 1 && s[0].Series[0].State == "complete" && s[0].Series[0].Instances == len(evil)
	})
	if err := n.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(log.String()) {
		if !strings.HasPrefix(line, "time=") || strings.Contains(line, "level=ERROR") && !strings.Contains(line, `\nlevel=ERROR`) || strings.Contains(line, "%!") && !strings.Contains(line, "%n%!d") {
			t.Errorf("the log has the line %q", line)
		}
	}
	trail, err := os.ReadFile(cfg.Audit.File)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(trail)) {
		if !strings.HasPrefix(line, "<8") {
			t.Errorf("the audit trail has the line %q", line)
		}
	}
	name := regexp.MustCompile(`^([a-z]+|[a-z]+\.(db|lock|sock)|[0-9a-f]{2}|[0-9a-f]{64}\.db|[0-9a-f]{16}\.journal)$`)
	err = filepath.WalkDir(cfg.Data, func(path string, d fs.DirEntry, err error) error {
		if err == nil && !name.MatchString(d.Name()) {
			t.Errorf("the data folder holds %s", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}
