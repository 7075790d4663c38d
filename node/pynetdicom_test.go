package node_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
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

// told is a line of testdata/pynet.py.
type told map[string]any

func (l told) is(event string) bool { return l["event"] == event }

// pynetAsk has pynetdicom ask a node once, and returns what it tells.
func pynetAsk(t *testing.T, n *node.Node, operation, title string, args ...string) []told {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), interopTimeout)
	defer cancel()
	_, port, _ := net.SplitHostPort(n.Addr().String())
	cmd := exec.CommandContext(ctx, pythonWith(t, "pynetdicom"), append([]string{filepath.Join("testdata", "pynet.py"), operation, title, port, "HILUM"}, args...)...)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("pynet.py %s: %v\n%s%s", operation, err, out, errs.Bytes())
	}
	var all []told
	for line := range bytes.Lines(out) {
		var l told
		if err := json.Unmarshal(line, &l); err != nil {
			t.Fatalf("pynet.py %s: %v in %s", operation, err, line)
		}
		all = append(all, l)
	}
	return all
}

// pynetServe runs pynetdicom as SCP, which keeps files in dir, until the test ends.
// What it tells is read from events.
func pynetServe(t *testing.T, title, dir string, others ...string) (address string, events <-chan told) {
	t.Helper()
	cmd := exec.Command(pythonWith(t, "pynetdicom"), append([]string{filepath.Join("testdata", "pynet.py"), "scp", title, dir}, others...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var errs lines
	cmd.Stderr = &errs
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	all := make(chan told, 1000)
	read := make(chan struct{})
	go func() {
		defer close(read)
		defer close(all)
		for s := bufio.NewScanner(out); s.Scan(); {
			var l told
			if json.Unmarshal(s.Bytes(), &l) == nil {
				all <- l
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-read
		_ = cmd.Wait() // "signal: killed"
		if t.Failed() {
			t.Logf("pynet.py scp: %s", errs.String())
		}
	})
	return fmt.Sprintf("127.0.0.1:%v", await(t, all, "listening")["port"]), all
}

// await returns the next event of a kind; others are passed over.
func await(t *testing.T, events <-chan told, event string) told {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), interopTimeout)
	defer cancel()
	for {
		select {
		case l, ok := <-events:
			if !ok {
				t.Fatalf("pynet.py ended before it told %q", event)
			}
			if l.is(event) {
				return l
			}
		case <-ctx.Done():
			t.Fatalf("pynet.py does not tell %q", event)
		}
	}
}

// only are the values under a key of all events of a kind.
func only(all []told, event, key string) []string {
	var values []string
	for _, l := range all {
		if l.is(event) {
			values = append(values, fmt.Sprint(l[key]))
		}
	}
	return values
}

// TestPynetdicomNegotiates: the whole of what PS3.7 annex D has to negotiate, with a
// user that is right, wrong and none.
func TestPynetdicomNegotiates(t *testing.T) {
	passcode, err := config.HashPasscode([]byte("open sesame"))
	if err != nil {
		t.Fatal(err)
	}
	n, _ := startArchive(t, func(c *config.Config) {
		c.UserIdentity, c.Users = config.IdentityChecked, []config.User{{Name: "anna", Passcode: passcode}}
		c.UnknownServices = append(c.UnknownServices, config.ServiceCommitment)
	})
	for _, user := range [][]string{nil, {"anna", "open sesame"}} {
		all := pynetAsk(t, n, "echo", "PYNET", user...)
		if got := only(all, "echo", "status"); !slices.Equal(got, []string{"0000", "0000", "0000"}) {
			t.Fatalf("C-ECHO as %v = %v of %v, want three times success", user, got, all)
		}
		for key, want := range map[string]any{
			"user": user != nil, "window": "[5 1]", "version": dataset.ImplementationVersionName,
			"roles": fmt.Sprint(map[string]any{
				dimse.VerificationSOPClass: []any{true, false}, ctImageStorage: []any{false, true}, mrImage: []any{true, true},
				dimse.StorageCommitmentSOPClass: []any{true, true}, dimse.StudyRootGet: []any{true, false},
			}),
		} {
			if fmt.Sprint(all[0][key]) != fmt.Sprint(want) {
				t.Errorf("as %v: %s = %v, want %v", user, key, all[0][key], want)
			}
		}
	}
	for _, user := range [][]string{{"anna", "wrong"}, {"anna"}, {"bob", "open sesame"}} {
		rejected := pynetAsk(t, n, "echo", "PYNET", user...)
		if got := fmt.Sprint(rejected[0]["result"], rejected[0]["source"], rejected[0]["reason"]); got != "1 2 1" {
			t.Errorf("as %v: rejected %s of %v, want 1 2 1", user, got, rejected)
		}
	}
}

// files writes a CT image of each transfer syntax, and returns their data sets.
func files(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	written := map[string][]byte{}
	for i, syntax := range []string{
		implicitLE, explicitLE, dataset.ExplicitVRBigEndian, dataset.DeflatedExplicitVRLittleEndian,
		"1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.70", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91",
	} {
		uid, data := slice(t, "1.2.3.4", i+1, nil)
		tree, err := dataset.ReadTree(bytes.NewReader(data), explicitLE, dataset.TreeLimits{Nodes: 1000, Bytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		elements, of := tree.Elements(), syntax
		if i > 3 { // encapsulated
			elements, of = without(elements, dicomtag.PixelData), explicitLE
		}
		var b bytes.Buffer
		if err := dataset.WriteDataSet(&b, of, elements); err != nil {
			t.Fatal(err)
		}
		if i > 3 {
			b.WriteString("\xE0\x7F\x10\x00OB\x00\x00\xFF\xFF\xFF\xFF\xFE\xFF\x00\xE0\x00\x00\x00\x00\xFE\xFF\x00\xE0\x04\x00\x00\x00abcd\xFE\xFF\xDD\xE0\x00\x00\x00\x00")
		}
		written[uid] = b.Bytes()
		file := append(dataset.AppendFileMeta(nil, syntax, ctImageStorage, uid), b.Bytes()...)
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)+".dcm"), file, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return written
}

// TestPynetdicomStores: every family of transfer syntaxes is kept as it came.
func TestPynetdicomStores(t *testing.T) {
	dir := t.TempDir()
	written := files(t, dir)
	cfg := testConfig(t)
	cfg.Plugins = nil
	n, client := start(t, cfg)
	for _, status := range only(pynetAsk(t, n, "store", "PYNET", dir), "store", "status") {
		if status != "0000" {
			t.Errorf("C-STORE = %s, want 0000", status)
		}
	}
	until(t, "all images", client.Studies, func(s []web.Study) bool {
		return len(s) == 1 && len(s[0].Series) == 1 && s[0].Series[0].Instances == len(written)
	})
	for uid, want := range written {
		r, err := client.Instance(t.Context(), uid)
		if err != nil {
			t.Errorf("%s: %v", uid, err)
			continue
		}
		var got bytes.Buffer
		_, err = got.ReadFrom(r)
		_ = r.Close()
		if err != nil || !bytes.HasSuffix(got.Bytes(), want) {
			t.Errorf("%s: not the bytes that were sent, %v", uid, err)
		}
	}
}

// TestPynetdicomAsks: queries on every level, one of them canceled, and retrieval in
// both ways.
func TestPynetdicomAsks(t *testing.T) {
	moved, got := t.TempDir(), t.TempDir()
	address, events := pynetServe(t, "PYNET", moved)
	n, all := startArchive(t, func(c *config.Config) {
		c.MoveDestinations = []config.MoveDestination{moveDestination("PYNET", address)}
	})
	find := func(model, cancelAfter, unique string, pairs ...string) (found, statuses []string) {
		t.Helper()
		lines := pynetAsk(t, n, "find", "PYNET", append([]string{model, cancelAfter}, pairs...)...)
		for _, l := range lines {
			statuses = append(statuses, fmt.Sprint(l["status"]))
			if uid, ok := l[unique]; ok {
				found = append(found, fmt.Sprint(uid))
			}
		}
		slices.Sort(found)
		return found, statuses
	}
	for _, tt := range []struct {
		model, unique string
		pairs, want   []string
	}{
		{"P", "PatientID", []string{"QueryRetrieveLevel=PATIENT", "PatientName=M?ller*", "PatientID="}, []string{"P1"}},
		{"S", "StudyInstanceUID", []string{"QueryRetrieveLevel=STUDY", "PatientID=P1", "StudyDate=20240101-", "StudyInstanceUID="}, []string{"1.2.1", "1.2.2"}},
		{"S", "SeriesInstanceUID", []string{"QueryRetrieveLevel=SERIES", "StudyInstanceUID=1.2.1", "Modality=CT", "SeriesInstanceUID="}, []string{"1.2.1.1", "1.2.1.2"}},
		{"S", "SOPInstanceUID", []string{"QueryRetrieveLevel=IMAGE", "StudyInstanceUID=1.2.1", "SeriesInstanceUID=1.2.1.1", "SOPInstanceUID="}, []string{"1.2.1.1.1", "1.2.1.1.2", "1.2.1.1.3"}},
	} {
		found, statuses := find(tt.model, "0", tt.unique, tt.pairs...)
		if !slices.Equal(found, tt.want) || statuses[len(statuses)-1] != "0000" {
			t.Errorf("C-FIND %v = %v, %v; want %v", tt.pairs, found, statuses, tt.want)
		}
	}
	// A cancel races the answers: the answer is that of a cancel or of the end.
	if _, statuses := find("S", "1", "", "QueryRetrieveLevel=STUDY", "StudyInstanceUID="); !slices.Contains([]string{"FE00", "0000"}, statuses[len(statuses)-1]) {
		t.Errorf("C-FIND canceled ends with %v", statuses)
	}
	if _, statuses := find("S", "0", "", "QueryRetrieveLevel=SERIES", "SeriesInstanceUID="); !slices.Equal(statuses, []string{"A900"}) {
		t.Errorf("C-FIND without the study = %v, want A900", statuses)
	}

	last := func(all []told) string { return fmt.Sprint(all[len(all)-1]["status"], " ", all[len(all)-1]["counts"]) }
	if end := last(pynetAsk(t, n, "get", "PYNET", "S", got, "QueryRetrieveLevel=STUDY", "StudyInstanceUID=1.2.2")); end != "0000 [0 1 0 0]" {
		t.Errorf("C-GET = %s", end)
	}
	same(t, "C-GET", filesIn(t, got), expected(all, func(h holding) bool { return h.study == "1.2.2" }))
	// What is stored in Implicit VR has no context there.
	if end := last(pynetAsk(t, n, "get", "PYNET", "P", t.TempDir(), "QueryRetrieveLevel=STUDY", "PatientID=P1", "StudyInstanceUID=1.2.1")); end != "B000 [0 3 3 0]" {
		t.Errorf("C-GET of what has no context = %s", end)
	}
	if end := last(pynetAsk(t, n, "move", "PYNET", "P", "PYNET", "QueryRetrieveLevel=PATIENT", "PatientID=P1")); end != "0000 [0 7 0 0]" {
		t.Errorf("C-MOVE = %s", end)
	}
	if from := await(t, events, "stored")["move"]; from != "PYNET" {
		t.Errorf("the Move Originator is %v, want PYNET", from)
	}
	same(t, "C-MOVE", filesIn(t, moved), expected(all, func(h holding) bool { return h.study != "1.2.3" }))
	if end := last(pynetAsk(t, n, "move", "PYNET", "S", "NOBODY", "QueryRetrieveLevel=STUDY", "StudyInstanceUID=1.2.1")); end != "A801 [0 0 0 0]" {
		t.Errorf("C-MOVE to nobody = %s", end)
	}
}

// TestPynetdicomCommits: storage commitment that pynetdicom asks for, its outcome on
// the association of the request and on another.
func TestPynetdicomCommits(t *testing.T) {
	for _, report := range []string{config.ReportOpen, config.ReportNew} {
		t.Run(report, func(t *testing.T) {
			address, events := pynetServe(t, "PYNET", t.TempDir())
			n, _ := startArchive(t, func(c *config.Config) {
				c.UnknownServices = append(c.UnknownServices, config.ServiceCommitment)
				c.Commitment.Report = report
				c.Peers = []config.Peer{{AETitle: "PYNET", ReportTo: address}}
			})
			wait := map[string]string{config.ReportOpen: "30", config.ReportNew: "0"}[report]
			for _, tt := range []struct {
				transaction string
				uids        []string
				want        string
			}{
				{"2.25.1", []string{"1.2.1.1.1", "1.2.1.2.1"}, "1 2.25.1 [1.2.1.1.1 1.2.1.2.1] []"},
				{"2.25.2", []string{"1.2.1.1.1", "9.9"}, "2 2.25.2 [1.2.1.1.1] [9.9]"},
			} {
				all := pynetAsk(t, n, "commit", "PYNET", append([]string{tt.transaction, wait}, tt.uids...)...)
				if got := only(all, "action", "status"); !slices.Equal(got, []string{"0000"}) {
					t.Fatalf("N-ACTION = %v, want 0000", all)
				}
				var outcome told
				if report == config.ReportNew {
					outcome = await(t, events, "outcome")
				} else if i := slices.IndexFunc(all, func(l told) bool { return l.is("outcome") }); i >= 0 {
					outcome = all[i]
				} else {
					t.Fatalf("no outcome on the association of the request: %v", all)
				}
				if got := fmt.Sprint(outcome["type"], " ", outcome["transaction"], " ", outcome["committed"], " ", outcome["failed"]); got != tt.want {
					t.Errorf("outcome %s, want %s", got, tt.want)
				}
			}
		})
	}
}

// TestPynetdicomIsAsked: a result counts as delivered when pynetdicom, which stores it,
// has committed itself to it on an association of its own.
func TestPynetdicomIsAsked(t *testing.T) {
	cfg := testConfig(t)
	port := freePort(t)
	cfg.Listen = fmt.Sprintf("127.0.0.1:%d", port)
	address, events := pynetServe(t, "PYNET", t.TempDir(), fmt.Sprintf("HILUM=%d", port))
	d := destination(address)
	d.AETitle, d.Commitment, d.Results = "PYNET", true, []string{config.ResultSR}
	cfg.Destinations = []config.Destination{d}
	n, client := start(t, cfg)
	send(t, n, "1.2.3.4", 1, 3)
	until(t, "the commitment", client.Deliveries, allDone(1))
	if status := await(t, events, "reported"); status["status"] != "0000" || fmt.Sprint(status["type"]) != "1" {
		t.Errorf("N-EVENT-REPORT = %v, want type 1 with status 0000", status)
	}
}

// TestPynetdicomPerforms: a performed procedure step from its beginning to its end,
// after which it may not change.
func TestPynetdicomPerforms(t *testing.T) {
	n, client := start(t, testConfig(t))
	all := pynetAsk(t, n, "step", "CT1", "2.25.7", "1.2.3", "1.2.3.4", "1.2.3.4.1")
	if got := append(only(all, "create", "status"), only(all, "set", "status")...); !slices.Equal(got, []string{"0000", "0000", "0110"}) {
		t.Errorf("N-CREATE, N-SET, N-SET = %v, want 0000, 0000, 0110", got)
	}
	send(t, n, "1.2.3.4", 1, 1)
	studies := until(t, "the study", client.Studies, func(s []web.Study) bool { return len(s) == 1 && len(s[0].Steps) == 1 })
	if s := studies[0].Steps[0]; s.SOPInstanceUID != "2.25.7" || s.Status != "COMPLETED" || s.Station != "CT1" || s.Images != 1 || !slices.Equal(s.Series, []string{"1.2.3.4"}) {
		t.Errorf("the study shows the step %+v", s)
	}
}

// TestPynetdicomAnswers: our SCU against pynetdicom.
func TestPynetdicomAnswers(t *testing.T) {
	k := &taker{}
	_, takerPort, _ := net.SplitHostPort(serveTaker(t, "TAKER", k, nil))
	address, _ := pynetServe(t, "PYNET", t.TempDir(), "TAKER="+takerPort)
	askedPeer(t, address, "PYNET", k, holdings(t))
}

// TestPynetdicomIsTold: each peer that wants it is told of a series once it is
// complete, with the step that it was made in, and again when an image comes late; of
// peers that are not there the others notice nothing.
func TestPynetdicomIsTold(t *testing.T) {
	address, events := pynetServe(t, "PYNET", t.TempDir())
	cfg := testConfig(t)
	cfg.Plugins = nil
	cfg.Reports.Backoff, cfg.Reports.MaxBackoff = 50*time.Millisecond, 100*time.Millisecond
	port := freePort(t)
	cfg.Peers = []config.Peer{
		{AETitle: "DEAD", ReportTo: fmt.Sprintf("127.0.0.1:%d", port), Availability: true},
		{AETitle: "PYNET", ReportTo: address, Availability: true},
		{AETitle: "SILENT", ReportTo: address},
	}
	n, _ := start(t, cfg)
	if got, _ := step(t, n, dimse.NCreate, "2.25.1", begun()); got != 0 {
		t.Fatalf("N-CREATE = %v", got)
	}
	if got, _ := step(t, n, dimse.NSet, "2.25.1", ended("COMPLETED", "1.2.3.4", "1.2.3.4.1", "1.2.3.4.2")); got != 0 {
		t.Fatalf("N-SET = %v", got)
	}
	send(t, n, "1.2.3.4", 1, 2)
	first := await(t, events, "created")
	if got, want := availability(t, first), "study 1.2.3 steps [2.25.1] series 1.2.3.4 images [1.2.3.4.1 1.2.3.4.2] ONLINE HILUM"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
	if first["sop_class"] != dimse.InstanceAvailabilitySOPClass {
		t.Errorf("SOP class %v, want Instance Availability Notification", first["sop_class"])
	}
	send(t, n, "1.2.3.4", 3, 3)
	second := await(t, events, "created")
	if got, want := availability(t, second), "study 1.2.3 steps [2.25.1] series 1.2.3.4 images [1.2.3.4.1 1.2.3.4.2 1.2.3.4.3] ONLINE HILUM"; got != want {
		t.Errorf("told %q of the later image, want %q", got, want)
	}
	if first["uid"] == second["uid"] {
		t.Errorf("two notifications have the SOP Instance UID %v", first["uid"])
	}
}

// availability is a notification in words, read from pydicom's JSON.
func availability(t *testing.T, l told) string {
	t.Helper()
	type element struct {
		Value []json.RawMessage `json:"Value"`
	}
	type item = map[string]element
	read := func(from item, tag string) (texts []string, items []item) {
		for _, v := range from[tag].Value {
			var text string
			var sub item
			if json.Unmarshal(v, &text) == nil {
				texts = append(texts, text)
			} else if json.Unmarshal(v, &sub) == nil {
				items = append(items, sub)
			}
		}
		return texts, items
	}
	only := func(from item, tag string) string {
		texts, _ := read(from, tag)
		return strings.Join(texts, "\\")
	}
	raw, err := json.Marshal(l["data"])
	if err != nil {
		t.Fatal(err)
	}
	var all item
	if err := json.Unmarshal(raw, &all); err != nil {
		t.Fatal(err)
	}
	steps, images := []string{}, []string{}
	_, performed := read(all, "00081111")
	for _, s := range performed {
		steps = append(steps, only(s, "00081155"))
	}
	_, series := read(all, "00081115")
	if len(series) != 1 {
		t.Fatalf("%d series in a notification, want 1", len(series))
	}
	state := map[string]bool{}
	_, held := read(series[0], "00081199")
	for _, h := range held {
		images = append(images, only(h, "00081155"))
		state[only(h, "00080056")+" "+only(h, "00080054")] = true
	}
	slices.Sort(images)
	return fmt.Sprint("study ", only(all, "0020000D"), " steps ", steps, " series ", only(series[0], "0020000E"), " images ", images, " ", strings.Join(slices.Sorted(maps.Keys(state)), ","))
}
