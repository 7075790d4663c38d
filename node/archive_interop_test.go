package node_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/config"
	"hilum/node/web"
)

// interopTimeout bounds what a foreign program does in one test.
const interopTimeout = time.Minute

// tool finds a program of another make, and skips the test without it.
func tool(t *testing.T, name, packageName string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		t.Skipf("%s is not installed (Debian: apt-get install %s)", name, packageName)
	}
	return path
}

func runTool(t *testing.T, path string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), interopTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Dir = t.TempDir()
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Errorf("%s %v: %v\n%s", filepath.Base(path), args, err, out)
	}
	return string(out)
}

// filesIn are the data sets of the DICOM files of a folder, as a taker has them.
func filesIn(t *testing.T, dir string) map[string][32]byte {
	t.Helper()
	got := map[string][32]byte{}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(dir, e.Name()))
		if err != nil {
			t.Fatal(err)
		}
		f, err := dataset.ReadHeaderFrom(bytes.NewReader(b), []dataset.Tag{dicomtag.SOPInstanceUID})
		if err != nil {
			t.Fatalf("%s: %v", e.Name(), err)
		}
		got[f.Header.String(dicomtag.SOPInstanceUID)+" "+f.TransferSyntaxUID] = sha256.Sum256(b[f.DataSetOffset:])
	}
	return got
}

func same(t *testing.T, what string, got, want map[string][32]byte) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s: %d images, want %d, byte for byte", what, len(got), len(want))
	}
}

func inSeries(series string) func(holding) bool {
	return func(h holding) bool { return h.series == series }
}

// TestDCMTKAsks: findscu, getscu and movescu against a node.
func TestDCMTKAsks(t *testing.T) {
	findscu, getscu, movescu := tool(t, "findscu", "dcmtk"), tool(t, "getscu", "dcmtk"), tool(t, "movescu", "dcmtk")
	port := strconv.Itoa(freePort(t))
	n, all := startArchive(t, func(c *config.Config) {
		c.MoveDestinations = []config.MoveDestination{moveDestination("MOVESCU", "127.0.0.1:"+port)}
	})
	host, nodePort, _ := net.SplitHostPort(n.Addr().String())
	ask := func(path string, args ...string) string {
		t.Helper()
		return runTool(t, path, append(append([]string{"-v", "-aet", "MOVESCU", "-aec", "HILUM"}, args...), host, nodePort)...)
	}
	out := ask(findscu, "-S", "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientName=M*", "-k", "StudyInstanceUID", "-k", "NumberOfStudyRelatedInstances")
	if !strings.Contains(out, "1.2.1") || !strings.Contains(out, "1.2.2") || strings.Contains(out, "1.2.3") || !strings.Contains(out, "[6 ]") && !strings.Contains(out, "[6]") {
		t.Errorf("findscu -S:\n%s", out)
	}
	out = ask(findscu, "-P", "-k", "QueryRetrieveLevel=PATIENT", "-k", "PatientID=P2", "-k", "PatientBirthDate")
	if !strings.Contains(out, "19500102") {
		t.Errorf("findscu -P:\n%s", out)
	}
	if out = ask(findscu, "-S", "--cancel", "1", "-k", "QueryRetrieveLevel=IMAGE", "-k", "StudyInstanceUID=1.2.1", "-k", "SeriesInstanceUID=1.2.1.1", "-k", "SOPInstanceUID"); !strings.Contains(out, "1.2.1.1.") {
		t.Errorf("findscu --cancel:\n%s", out)
	}
	// One context for each SOP class is what getscu proposes, Explicit VR first:
	// what is stored in Implicit VR has none.
	dir := t.TempDir()
	ask(getscu, "-S", "+B", "-od", dir, "-k", "QueryRetrieveLevel=STUDY", "-k", "StudyInstanceUID=1.2.1")
	same(t, "getscu", filesIn(t, dir), expected(all, inSeries("1.2.1.1")))
	dir = t.TempDir()
	ask(movescu, "-P", "+P", port, "-aem", "MOVESCU", "-od", dir, "-k", "QueryRetrieveLevel=STUDY", "-k", "PatientID=P1", "-k", "StudyInstanceUID=1.2.1")
	same(t, "movescu", filesIn(t, dir), expected(all, func(h holding) bool { return h.study == "1.2.1" }))
}

// lines is a log that a test looks at.
type lines struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// TestGDCMAsks: gdcmscu --echo, --store, --find and --move against a node. Debian 12's gdcmscu
// aborts when it is done, whoever answered it, and prints nothing, so what the
// node has to say counts; nothing of the patient may be among it.
func TestGDCMAsks(t *testing.T) {
	gdcmscu := tool(t, "gdcmscu", "libgdcm-tools")
	port, log, folder := strconv.Itoa(freePort(t)), &lines{}, ""
	n, _ := startArchiveLogging(t, slog.New(slog.NewTextHandler(log, nil)), func(c *config.Config) {
		folder = c.Data
		c.MoveDestinations = []config.MoveDestination{moveDestination("GDCM", "127.0.0.1:"+port)}
	})
	host, nodePort, _ := net.SplitHostPort(n.Addr().String())
	uid, data := slice(t, "1.2.9.1", 1, nil)
	file := filepath.Join(t.TempDir(), "image.dcm")
	if err := os.WriteFile(file, append(dataset.AppendFileMeta(nil, explicitLE, ctImageStorage, uid), data...), 0o600); err != nil {
		t.Fatal(err)
	}
	ask := func(args ...string) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), interopTimeout)
		defer cancel()
		args = append(args, "--aetitle", "GDCM", "--call", "HILUM", host, nodePort)
		if args[0] == "--store" {
			args = append(args, file)
		}
		cmd := exec.CommandContext(ctx, gdcmscu, args...)
		cmd.Dir = t.TempDir()
		if out, err := cmd.CombinedOutput(); err != nil && !strings.Contains(string(out), "ProtocolStream as nullptr") {
			t.Errorf("gdcmscu %v: %v\n%s", args, err, out)
		}
	}
	ask("--echo")
	ask("--store")
	ask("--find", "--studyroot", "--study", "--key", "10,10,M*", "--key", "20,d")
	ask("--move", "--studyroot", "--study", "--key", "20,d,1.2.2", "--port-scp", port, "--output", t.TempDir())
	for _, want := range []string{`msg="association released" association=2`, // of C-ECHO
		"operation=C-FIND sop_class=" + dimse.StudyRootFind + ` message=1 status="status 0000H (success)" matches=2`,
		"operation=C-MOVE sop_class=" + dimse.StudyRootMove + ` message=1 status="status 0000H (success)" matches=0 completed=1 failed=0`} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log does not have %q:\n%s", want, log)
		}
	}
	client, err := web.Open(t.Context(), folder, nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if got := stored(t, client, uid); !bytes.Equal(got, data) {
		t.Errorf("%d bytes are stored, want the %d that gdcmscu sent", len(got), len(data))
	}
	for _, secret := range []string{"ller", "P1", "19500102", "SECRET"} {
		if strings.Contains(log.String(), secret) {
			t.Errorf("the log has %q:\n%s", secret, log)
		}
	}
}

// askedPeer is what our SCU is tried on: find, move to a taker, get.
func askedPeer(t *testing.T, address, called string, k *taker, all []holding) {
	t.Helper()
	both := dimse.Roles{SCU: true, SCP: true}
	c := dimse.Client{CallingAETitle: "TAKER", CalledAETitle: called, Timeout: 20 * time.Second, Roles: map[string]dimse.Roles{ctImageStorage: both, mrImage: both},
		Contexts: []dimse.PresentationContext{
			{AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{explicitLE}}, {AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{implicitLE}},
			{AbstractSyntax: mrImage, TransferSyntaxes: []string{explicitLE}},
			dimse.QueryContext(dimse.StudyRootFind), dimse.QueryContext(dimse.StudyRootMove), dimse.QueryContext(dimse.StudyRootGet),
		}}
	var conn *dimse.Conn
	for deadline := time.Now().Add(interopTimeout); ; { // until the program listens
		var err error
		if conn, err = c.Dial(t.Context(), address); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
		wait, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		<-wait.Done()
		cancel()
	}
	defer conn.Close()
	for _, h := range all {
		if _, err := conn.Store(t.Context(), h.class, h.uid, h.syntax, bytes.NewReader(h.data)); err != nil {
			t.Fatal(err)
		}
	}
	var studies []string
	status, err := conn.Find(t.Context(), dimse.StudyRootFind, keys(t, "QueryRetrieveLevel=STUDY", "PatientID=P1", "StudyInstanceUID=", "PatientName="), func(h dataset.Header) bool {
		studies = append(studies, h.String(dicomtag.StudyInstanceUID))
		return true
	})
	if err != nil || status != dimse.StatusSuccess || len(studies) != 2 {
		t.Errorf("Find: %v, %v, %v; want two studies", studies, status, err)
	}
	study := keys(t, studyLevel, "StudyInstanceUID=1.2.1")
	done, err := conn.Move(t.Context(), dimse.StudyRootMove, "TAKER", study, nil)
	if err != nil || done.Completed != 6 || len(k.taken()) != 6 {
		t.Errorf("Move: %+v, %v, %d taken; want 6", done, err, len(k.taken()))
	}
	if done, err := conn.Move(t.Context(), dimse.StudyRootMove, "NOBODY", study, nil); err == nil {
		t.Errorf("Move to nobody: %+v, want a refusal", done)
	}
	got := &taker{}
	done, err = conn.Get(t.Context(), dimse.StudyRootGet, keys(t, studyLevel, "StudyInstanceUID=1.2.2"), got, nil)
	if err != nil || done.Completed != 1 || len(got.taken()) != 1 {
		t.Errorf("Get: %+v, %v, %d taken; want 1", done, err, len(got.taken()))
	}
	if err := conn.Release(t.Context()); err != nil {
		t.Errorf("Release = %v", err)
	}
}

// background runs a server of another make until the test ends.
func background(t *testing.T, path string, args ...string) {
	t.Helper()
	cmd := exec.Command(path, args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// TestDCMTKAnswers: our SCU against dcmqrscp.
func TestDCMTKAnswers(t *testing.T) {
	dcmqrscp := tool(t, "dcmqrscp", "dcmtk")
	k := &taker{}
	_, takerPort, _ := net.SplitHostPort(serveTaker(t, "TAKER", k, nil))
	dir, port := t.TempDir(), strconv.Itoa(freePort(t))
	text := fmt.Sprintf("NetworkTCPPort = %s\nMaxPDUSize = 16384\nMaxAssociations = 16\nHostTable BEGIN\ntaker = (TAKER, 127.0.0.1, %s)\nHostTable END\nVendorTable BEGIN\nVendorTable END\nAETable BEGIN\nQRSCP %s RW (200, 1024mb) ANY\nAETable END\n",
		port, takerPort, dir)
	file := filepath.Join(t.TempDir(), "dcmqrscp.cfg")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, dcmqrscp, "-c", file, "--single-process")
	askedPeer(t, "127.0.0.1:"+port, "QRSCP", k, holdings(t))
}

// startOrthanc runs an Orthanc that knows some modalities: name, AE title, port.
func startOrthanc(t *testing.T, modalities map[string]string) (port string) {
	t.Helper()
	orthanc := tool(t, "Orthanc", "orthanc")
	port = strconv.Itoa(freePort(t))
	table := map[string][]any{}
	for title, p := range modalities {
		n := 0
		if _, err := fmt.Sscan(p, &n); err != nil {
			t.Fatal(err)
		}
		table[strings.ToLower(title)] = []any{title, "127.0.0.1", n}
	}
	number := 0
	if _, err := fmt.Sscan(port, &number); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	b, err := json.Marshal(map[string]any{
		"StorageDirectory": dir, "IndexDirectory": dir, "DicomAet": "ORTHANC", "DicomPort": number, "HttpServerEnabled": false,
		"DicomCheckCalledAet": false, "DicomModalities": table, "Plugins": []string{}, "DicomAlwaysAllowStore": true, "DicomAlwaysAllowGet": true, "DicomAlwaysAllowFind": true,
	})
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "orthanc.json")
	if err := os.WriteFile(file, b, 0o600); err != nil {
		t.Fatal(err)
	}
	background(t, orthanc, file)
	return port
}

// TestOrthancAnswers: our SCU against Orthanc.
func TestOrthancAnswers(t *testing.T) {
	k := &taker{}
	_, takerPort, _ := net.SplitHostPort(serveTaker(t, "TAKER", k, nil))
	askedPeer(t, "127.0.0.1:"+startOrthanc(t, map[string]string{"TAKER": takerPort}), "ORTHANC", k, holdings(t))
}

// TestOrthancTakes: a node moves images to Orthanc, which then holds them.
func TestOrthancTakes(t *testing.T) {
	k := &taker{}
	_, takerPort, _ := net.SplitHostPort(serveTaker(t, "TAKER", k, nil))
	port := startOrthanc(t, map[string]string{"TAKER": takerPort})
	n, all := startArchive(t, func(c *config.Config) {
		c.MoveDestinations = []config.MoveDestination{moveDestination("ORTHANC", "127.0.0.1:"+port)}
	})
	conn := archiveConn(t, n, dimse.QueryContext(dimse.PatientRootMove))
	for deadline := time.Now().Add(interopTimeout); ; {
		done, err := conn.Move(t.Context(), dimse.PatientRootMove, "ORTHANC", keys(t, patientLevel, "PatientID=P1"), nil)
		if err == nil && done.Completed == 7 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("Move = %+v, %v; want 7 images", done, err)
		}
	}
	back := dimse.Client{CallingAETitle: "TAKER", CalledAETitle: "ORTHANC", Timeout: 20 * time.Second, Contexts: []dimse.PresentationContext{dimse.QueryContext(dimse.PatientRootMove)}}
	orthanc, err := back.Dial(t.Context(), "127.0.0.1:"+port)
	if err != nil {
		t.Fatal(err)
	}
	defer orthanc.Close()
	if done, err := orthanc.Move(t.Context(), dimse.PatientRootMove, "TAKER", keys(t, patientLevel, "PatientID=P1"), nil); err != nil || len(k.taken()) != 7 {
		t.Errorf("back from Orthanc: %+v, %v, %d images; want 7 of %d", done, err, len(k.taken()), len(all))
	}
}

// TestOrthancAsks: Orthanc, told so over REST, sends to a node, queries it, and has it
// move to Orthanc what it found.
func TestOrthancAsks(t *testing.T) {
	listen := freePort(t)
	dicom, web := orthanc(t, fmt.Sprintf(`, "DicomModalities": {"hilum": ["HILUM", "127.0.0.1", %d]}`, listen))
	_, all := startArchive(t, func(c *config.Config) {
		c.Listen = fmt.Sprintf("127.0.0.1:%d", listen)
		c.MoveDestinations = []config.MoveDestination{moveDestination("PACS", fmt.Sprintf("127.0.0.1:%d", dicom))}
	})
	ask := func(path string, body []byte) (answer struct{ ID, Status string }) {
		t.Helper()
		resp, err := http.Post(fmt.Sprintf("http://127.0.0.1:%d%s", web, path), "application/octet-stream", bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("Orthanc: %s: %s, %v\n%s", path, resp.Status, err, b)
		}
		_ = json.Unmarshal(b, &answer) // some answers have no ID
		return answer
	}
	ask("/modalities/hilum/echo", []byte("{}"))

	uid, data := slice(t, "1.2.9.1", 1, nil)
	stored := ask("/instances", append(dataset.AppendFileMeta(nil, explicitLE, ctImageStorage, uid), data...))
	ask("/modalities/hilum/store", []byte(stored.ID))
	found := ask("/modalities/hilum/query", []byte(`{"Level": "Series", "Query": {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.9.1"}}`))
	resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/queries/%s/answers", web, found.ID))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var answers []string
	if err := json.NewDecoder(resp.Body).Decode(&answers); err != nil || len(answers) != 1 {
		t.Errorf("Orthanc finds %d series, %v; want the one that it sent", len(answers), err)
	}

	found = ask("/modalities/hilum/query", []byte(`{"Level": "Study", "Query": {"PatientID": "P1", "StudyInstanceUID": ""}}`))
	ask("/queries/"+found.ID+"/retrieve", []byte("PACS"))
	dir := fromOrthanc(t, web)
	names, err := filepath.Glob(filepath.Join(dir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	var got [][]byte
	for _, name := range names {
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, b)
	}
	moved := 0
	for _, h := range all {
		if h.study != "1.2.3" && slices.ContainsFunc(got, func(b []byte) bool { return bytes.HasSuffix(b, h.data) }) {
			moved++
		}
	}
	if moved != 7 || len(got) != 8 {
		t.Errorf("Orthanc has %d images, 7 of them as the node has them? %d; want 8 and 7", len(got), moved)
	}
}
