package node_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node"
	"hilum/node/config"
	"hilum/node/web"
)

func program(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		path = filepath.Join("/usr/sbin", name) // where Debian has Orthanc
		if _, err := os.Stat(path); err != nil {
			t.Skipf("%s is not installed: make setup", name)
		}
	}
	return path
}

// pythonWith is an interpreter with a package, or the end of the test.
func pythonWith(t *testing.T, module string) string {
	t.Helper()
	python := os.Getenv("HILUM_PYTHON")
	if python == "" {
		python = filepath.Join("..", ".cache", "venv", "bin", "python")
	}
	if exec.Command(python, "-c", "import "+module).Run() != nil {
		t.Skipf("%s has no %s: make setup, or name another interpreter in HILUM_PYTHON", python, module)
	}
	return python
}

// peer runs a program that listens on the last port named, until the test ends or the
// function returned is called.
func peer(t *testing.T, port int, name string, args ...string) (stop func()) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := false
	stop = func() {
		if !done {
			done = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // "signal: killed"
		}
	}
	t.Cleanup(stop)
	until(t, "the start of "+filepath.Base(name), func(context.Context) (bool, error) {
		conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			return false, err
		}
		return true, conn.Close()
	}, func(up bool) bool { return up })
	return stop
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// orthanc runs a PACS and returns its DICOM and HTTP ports.
func orthanc(t *testing.T, extra string) (dicom, web int) {
	t.Helper()
	name := program(t, "Orthanc")
	dir := t.TempDir()
	dicom, web = freePort(t), freePort(t)
	text := fmt.Sprintf(`{"Name": "PACS", "StorageDirectory": %q, "IndexDirectory": %q, "DicomAet": "PACS", "DicomPort": %d,
"HttpPort": %d, "HttpServerEnabled": true, "RemoteAccessAllowed": false, "AuthenticationEnabled": false, "Plugins": []%s}`,
		filepath.Join(dir, "db"), filepath.Join(dir, "db"), dicom, web, extra)
	file := filepath.Join(dir, "orthanc.json")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	peer(t, web, name, file)
	return dicom, web
}

// fromOrthanc writes every object that the PACS gives back into a folder.
func fromOrthanc(t *testing.T, port int) string {
	t.Helper()
	get := func(path string) []byte {
		resp, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d%s", port, path))
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("Orthanc: %s, %v", resp.Status, err)
		}
		return b
	}
	var ids []string
	if err := json.Unmarshal(get("/instances"), &ids); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, id := range ids {
		if err := os.WriteFile(filepath.Join(dir, id), get("/instances/"+id+"/file"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// fromNode writes every object of the deliveries to a destination as the node has it.
func fromNode(t *testing.T, client *web.Client, destination string) (dir string, kinds map[string]int) {
	t.Helper()
	dir, kinds = t.TempDir(), map[string]int{}
	deliveries, err := client.Deliveries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range deliveries {
		if d.Destination != destination {
			continue
		}
		kinds[d.Kind]++
		r, err := client.Instance(t.Context(), d.SOPInstanceUID)
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(r)
		_ = r.Close()
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, d.Kind+d.SOPInstanceUID), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir, kinds
}

// sendStack stores slices of 32 × 32 pixels of 1 mm, 2 mm apart, around the origin.
func sendStack(t *testing.T, n *node.Node, series string, first, last int) {
	t.Helper()
	conn := dial(t, n)
	for i := first; i <= last; i++ {
		uid, data := slice(t, series, i, func(e []*dataset.Element) []*dataset.Element {
			var out []*dataset.Element
			for _, el := range e {
				if el.Tag != dicomtag.ImagePositionPatient {
					out = append(out, el)
				}
			}
			return append(out,
				dataset.MustElement(dicomtag.ImagePositionPatient, "-16", "-16", strconv.Itoa(2*i-6)),
				dataset.MustElement(dicomtag.Rows, 32), dataset.MustElement(dicomtag.Columns, 32),
				dataset.MustElement(dicomtag.PixelSpacing, "1", "1"), dataset.MustElement(dicomtag.SliceThickness, "2"))
		})
		if _, err := conn.Store(t.Context(), ctImageStorage, uid, dataset.ExplicitVRLittleEndian, bytes.NewReader(data)); err != nil {
			t.Fatalf("image %d: %v", i, err)
		}
	}
	if err := conn.Release(t.Context()); err != nil {
		t.Fatal(err)
	}
}

var allResults = []string{config.ResultSR, config.ResultSEG, config.ResultSC, config.ResultGSPS}

func allDone(n int) func([]web.Delivery) bool {
	return func(d []web.Delivery) bool {
		for _, one := range d {
			if one.State != "done" {
				return false
			}
		}
		return len(d) == n
	}
}

// TestResultsAtPACS: DCMTK and Orthanc store every kind of result and give it back
// unchanged; a late slice makes results that supersede the first ones and track the
// same nodules.
func TestResultsAtPACS(t *testing.T) {
	storescp, dcentvfy, dsrdump, python := program(t, "storescp"), program(t, "dcentvfy"), program(t, "dsrdump"), pythonWith(t, "pydicom")
	archive := t.TempDir()
	archivePort := freePort(t)
	peer(t, archivePort, storescp, "-od", archive, "-aet", "ARCHIVE", strconv.Itoa(archivePort))
	pacsPort, pacsWeb := orthanc(t, "")

	cfg := testConfig(t, "-findings", "2", "-job", "pictures")
	for name, port := range map[string]int{"archive": archivePort, "pacs": pacsPort} {
		d := destination(fmt.Sprintf("127.0.0.1:%d", port))
		d.Name, d.AETitle, d.Results = name, strings.ToUpper(name), allResults
		cfg.Destinations = append(cfg.Destinations, d)
	}
	n, client := start(t, cfg)
	sendStack(t, n, "1.2.3.4", 1, 5)
	until(t, "eight deliveries", client.Deliveries, allDone(8))
	sendStack(t, n, "1.2.3.4", 6, 6)
	until(t, "sixteen deliveries", client.Deliveries, allDone(16))

	sent, kinds := fromNode(t, client, "pacs")
	if fmt.Sprint(kinds) != "map[gsps:2 sc:2 seg:2 sr:2]" {
		t.Errorf("delivered %v, want two of each", kinds)
	}
	for name, got := range map[string]string{"storescp": archive, "Orthanc": fromOrthanc(t, pacsWeb)} {
		if out, err := exec.Command(python, filepath.Join("testdata", "same.py"), sent, got).CombinedOutput(); err != nil || !bytes.Contains(out, []byte("8 objects compared, 0 differ")) {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
	files, err := filepath.Glob(filepath.Join(sent, "*"))
	if err != nil {
		t.Fatal(err)
	}
	if out, _ := exec.Command(dcentvfy, files...).CombinedOutput(); bytes.Contains(out, []byte("Error")) {
		t.Errorf("dcentvfy: %s", out)
	}
	// The reports, the first and the one that supersedes it.
	var reports []string
	jobs, err := client.Jobs(t.Context())
	if err != nil || len(jobs) != 2 {
		t.Fatalf("jobs = %v, %v", jobs, err)
	}
	for _, j := range jobs {
		out, err := exec.Command(dsrdump, filepath.Join(sent, "sr"+j.Report)).Output()
		if err != nil {
			t.Fatal(err)
		}
		reports = append(reports, string(out))
	}
	uid := regexp.MustCompile(`"Tracking Unique Identifier"\)="([0-9.]+)"`)
	first, second := uid.FindAllString(reports[0], -1), uid.FindAllString(reports[1], -1)
	if len(first) != 2 || fmt.Sprint(first) != fmt.Sprint(second) || first[0] == first[1] {
		t.Errorf("tracked %v, then %v; want the same two", first, second)
	}
	if strings.Contains(reports[0], "Predecessor Docs") || !strings.Contains(reports[1], "Predecessor Docs    : 1") {
		t.Errorf("predecessors: %s\n%s", reports[0], reports[1])
	}
}

// TestHostileDestinations: four destinations that refuse, abort and sleep hold up
// nobody; what they did not take is a dead letter with its reason, and arrives, in
// order, when a person retries it and the destination is well again.
func TestHostileDestinations(t *testing.T) {
	storescp := program(t, "storescp")
	dir := t.TempDir()
	cfg := testConfig(t, "-findings", "2", "-job", "pictures")
	run := func(name string, port int, args ...string) (stop func()) {
		folder := filepath.Join(dir, name)
		if err := os.MkdirAll(folder, 0o700); err != nil {
			t.Fatal(err)
		}
		return peer(t, port, storescp, append(args, "-od", folder, "-aet", "PACS", "+xa", strconv.Itoa(port))...)
	}
	ports, stops := map[string]int{}, map[string]func(){}
	for name, args := range map[string][]string{
		"good": nil, "refuse": {"--refuse"}, "abort-during": {"--abort-during"}, "abort-after": {"--abort-after"}, "sleep-during": {"--sleep-during", "5"},
	} {
		ports[name] = freePort(t)
		stops[name] = run(name, ports[name], args...)
		d := destination(fmt.Sprintf("127.0.0.1:%d", ports[name]))
		d.Name, d.Results, d.Attempts, d.Timeout = name, []string{config.ResultSR, config.ResultSEG}, 2, time.Second
		cfg.Destinations = append(cfg.Destinations, d)
	}
	n, client := start(t, cfg)
	sendStack(t, n, "1.2.3.4", 1, 5)
	until(t, "the end of all deliveries", client.Deliveries, func(d []web.Delivery) bool {
		ended := 0
		for _, one := range d {
			if one.State == "done" && one.Destination == "good" || one.State == "dead" && one.Destination != "good" {
				ended++
			}
		}
		return ended == 10
	})
	deliveries, err := client.Deliveries(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var lastGood, firstDead time.Time
	for _, d := range deliveries {
		switch {
		case d.Destination == "good":
			lastGood = d.Updated
		case d.Attempts != 2 || !strings.Contains(d.Reason, "given up after 2 attempts: ") || !strings.Contains(d.Reason, d.Destination):
			t.Errorf("%s: %d attempts, reason %q", d.Destination, d.Attempts, d.Reason)
		case d.Destination == "sleep-during" && (firstDead.IsZero() || d.Updated.Before(firstDead)):
			firstDead = d.Updated
		}
	}
	if lastGood.After(firstDead) {
		t.Error("the destination that sleeps held up the good one")
	}
	for _, d := range deliveries {
		if d.Destination == "good" {
			continue
		}
		if stop := stops[d.Destination]; stop != nil {
			stop()
			delete(stops, d.Destination)
			run(d.Destination, ports[d.Destination])
		}
		if _, err := client.RetryDelivery(t.Context(), d.ID); err != nil {
			t.Error(err)
		}
	}
	until(t, "the deliveries after the retry", client.Deliveries, allDone(10))
	for name := range ports {
		if files, err := os.ReadDir(filepath.Join(dir, name)); err != nil || len(files) != 2 {
			t.Errorf("%s has %d files, %v; want 2", name, len(files), err)
		}
	}
}

// TestOrder: results of one series arrive in their order, also when the first is not
// taken at once; those of other series pass.
func TestOrder(t *testing.T) {
	p := &pacs{refuse: func(data []byte) error {
		if bytes.Contains(data, []byte("1.2.3.4.5")) { // an image of series 1.2.3.4 that the second report names, too
			return nil
		}
		return &dimse.StatusError{Status: dimse.StatusOutOfResources}
	}}
	cfg := testConfig(t)
	d := destination(p.listen(t))
	d.Backoff, d.MaxBackoff = time.Second, time.Second
	cfg.Destinations = []config.Destination{d}
	n, client := start(t, cfg)
	send(t, n, "1.2.3.4", 1, 3)
	until(t, "the first refusal", client.Deliveries, func(d []web.Delivery) bool { return len(d) == 1 && d[0].State == "retry" })
	send(t, n, "1.2.3.4", 4, 5) // its report would be taken
	send(t, n, "1.2.3.9", 5, 5) // it has no 1.2.3.4.5: refused, too
	until(t, "three deliveries", client.Deliveries, func(d []web.Delivery) bool {
		return len(d) == 3 && d[0].State == "retry" && d[0].Attempts > 1
	})
	if got, _ := p.count(t.Context()); got != 0 {
		t.Fatal("the second report of a series overtook the first")
	}
	p.mu.Lock()
	p.refuse = nil
	p.mu.Unlock()
	until(t, "all deliveries", client.Deliveries, allDone(3))
	jobs, err := client.Jobs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var order []string
	for _, data := range p.received {
		for _, j := range jobs {
			h, err := dataset.Scan(bytes.NewReader(data), dataset.ExplicitVRLittleEndian, []dataset.Tag{dicomtag.SOPInstanceUID}, dataset.DefaultLimits)
			if err != nil {
				t.Fatal(err)
			}
			if h.String(dicomtag.SOPInstanceUID) == j.Report && j.SeriesInstanceUID == "1.2.3.4" {
				order = append(order, strconv.Itoa(j.Revision))
			}
		}
	}
	if fmt.Sprint(order) != "[1 2]" {
		t.Errorf("revisions arrived in the order %v", order)
	}
}

// TestUnreachable: while a destination cannot be reached, it is asked once in each
// back-off and not once for each result that waits.
func TestUnreachable(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := l.Addr().String()
	_ = l.Close()
	cfg := testConfig(t)
	d := destination(address)
	d.Backoff, d.MaxBackoff = time.Hour, time.Hour
	cfg.Destinations = []config.Destination{d}
	n, client := start(t, cfg)
	send(t, n, "1.2.3.4", 1, 3)
	until(t, "the first failure", client.Deliveries, func(d []web.Delivery) bool { return len(d) == 1 && d[0].State == "retry" })
	send(t, n, "1.2.3.5", 1, 3)
	until(t, "the second analysis", client.Jobs, jobIn("done", 1))
	p := &pacs{}
	if l, err = net.Listen("tcp", address); err != nil {
		t.Skipf("the port is taken by another program meanwhile: %v", err)
	}
	p.serve(t, l)
	list, err := client.Deliveries(t.Context())
	if err != nil || len(list) != 2 || list[1].State != "queued" || list[1].Attempts != 0 {
		t.Fatalf("deliveries = %+v, %v; want the second untried", list, err)
	}
	if _, err := client.RetryDelivery(t.Context(), list[0].ID); err != nil { // which ends the pause
		t.Fatal(err)
	}
	until(t, "both deliveries", client.Deliveries, allDone(2))
}

// TestResultsAreNoInput: pictures and reports of whatever program are stored and never
// analysed, whatever modality they claim.
func TestResultsAreNoInput(t *testing.T) {
	n, client := start(t, testConfig(t))
	for i, class := range []string{"1.2.840.10008.5.1.4.1.1.7", "1.2.840.10008.5.1.4.1.1.7.4", "1.2.840.10008.5.1.4.1.1.66.4", "1.2.840.10008.5.1.4.1.1.88.34"} {
		c := dimse.Client{CallingAETitle: "OTHER_AI", CalledAETitle: "HILUM", Timeout: 10 * time.Second, Contexts: []dimse.PresentationContext{
			{AbstractSyntax: class, TransferSyntaxes: []string{dataset.ExplicitVRLittleEndian}},
		}}
		conn, err := c.Dial(t.Context(), n.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		uid, data := slice(t, fmt.Sprintf("1.2.3.%d", 40+i), 1, func(e []*dataset.Element) []*dataset.Element {
			return append(e[1:], dataset.MustElement(dicomtag.SOPClassUID, class)) // the modality stays CT
		})
		if _, err := conn.Store(t.Context(), class, uid, dataset.ExplicitVRLittleEndian, bytes.NewReader(data)); err != nil {
			t.Fatal(err)
		}
		if err := conn.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	studies := until(t, "completion", client.Studies, func(s []web.Study) bool {
		for _, one := range s {
			for _, series := range one.Series {
				if series.State != "complete" {
					return false
				}
			}
		}
		return len(s) == 1 && len(s[0].Series) == 4
	})
	for _, s := range studies[0].Series {
		if !strings.Contains(s.Reason, "not analysed: it holds results") {
			t.Errorf("reason = %q", s.Reason)
		}
	}
	if jobs, err := client.Jobs(t.Context()); err != nil || len(jobs) != 0 {
		t.Errorf("jobs = %+v, %v; want none", jobs, err)
	}
}
