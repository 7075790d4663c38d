package main

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/web"
)

const (
	// crashEnv says how long TestCrash goes on: `make crash-test DURATION=10m`.
	crashEnv     = "HILUM_CRASH_DURATION"
	crashSenders = 6
	crashRoot    = "1.2.826.0.1.3680043.9999.77"
	// crashKills is how often one data folder is killed before all of it is
	// compared and a new one begins: it bounds the disk that the test takes.
	crashKills = 10
)

// crashImage makes the data set of an image from its number alone.
func crashImage(t *testing.T, series, number int) (uid string, data []byte) {
	seriesUID := fmt.Sprintf("%s.%d", crashRoot, series)
	uid = fmt.Sprintf("%s.%d", seriesUID, number)
	pixels := make([]byte, []int{600, 9_000, 131_072, 524_288, 20_000, 1_500_000}[number%6])
	_, _ = rand.NewChaCha8([32]byte{byte(series), byte(series >> 8), byte(number), byte(number >> 8)}).Read(pixels) // never fails
	var out bytes.Buffer
	err := dataset.WriteDataSet(&out, dataset.ExplicitVRLittleEndian, []*dataset.Element{
		dataset.MustElement(dicomtag.SOPClassUID, ctImageStorage),
		dataset.MustElement(dicomtag.SOPInstanceUID, uid),
		dataset.MustElement(dicomtag.Modality, "CT"),
		dataset.MustElement(dicomtag.StudyInstanceUID, crashRoot),
		dataset.MustElement(dicomtag.SeriesInstanceUID, seriesUID),
		dataset.MustElement(dicomtag.InstanceNumber, fmt.Sprint(number)),
		dataset.MustElement(dicomtag.PixelData, pixels),
	})
	if err != nil {
		t.Error(err)
	}
	return uid, out.Bytes()
}

// crashRun is one data folder under test.
type crashRun struct {
	*process
	random *rand.Rand

	mu           sync.Mutex        // guards what follows
	acknowledged map[[2]int]bool   // series and number
	uids         map[string][2]int // every image that was sent, answered or not
	duplicates   int               // sent again and acknowledged again
}

// TestCrash kills the node at random moments, again and again, while several
// senders store images as fast as they can. After every restart each image that
// was acknowledged since the last one is compared byte for byte; now and then all
// are, and every image listed that was not acknowledged must be whole too.
func TestCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("kills processes for seconds")
	}
	duration := 4 * time.Second
	if s := os.Getenv(crashEnv); s != "" {
		var err error
		if duration, err = time.ParseDuration(s); err != nil {
			t.Fatalf("%s: %v", crashEnv, err)
		}
	}
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 1))
	begin := time.Now()
	kills, images, duplicates, unanswered := 0, 0, 0, 0
	for series := 0; time.Since(begin) < duration; {
		r := &crashRun{random: random, acknowledged: map[[2]int]bool{}, uids: map[string][2]int{},
			process: newProcess(t, "series: {quiet: 500ms}\nplugins:\n  - {name: \"null\", path: "+filepath.Join(bin, "null")+"}\n")}
		r.start()
		for k := 0; k < crashKills && time.Since(begin) < duration; k++ {
			r.round(series)
			series += crashSenders
			kills++
			r.start()
			r.verifyRound(series - crashSenders)
			t.Logf("%s: %d kills, %d images acknowledged in this folder", time.Since(begin).Round(time.Second), kills, len(r.acknowledged))
		}
		unanswered += r.verifyAll()
		images, duplicates = images+len(r.acknowledged), duplicates+r.duplicates
		r.stop()
		if out, stderr, code := hilum("store", "check", "--config", r.config); code != 0 {
			t.Errorf("hilum store check = %d\n%s%s", code, out, stderr)
		}
		if t.Failed() {
			t.Fatalf("seed %d, folder %s", seed, filepath.Dir(r.config))
		}
		if err := os.RemoveAll(filepath.Join(filepath.Dir(r.config), "data")); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d: %d kills in %s; %d acknowledged images (%d of them sent twice) are there byte for byte, %d unanswered ones too, whole",
		seed, kills, time.Since(begin).Round(time.Second), images, duplicates, unanswered)
}

// round has every sender store into a series of its own until the node is
// killed.
func (r *crashRun) round(first int) {
	var senders sync.WaitGroup
	for i := range crashSenders {
		senders.Go(func() { r.sender(first + i) })
	}
	// From the middle of the first image to long after filing began.
	wait := time.Duration(r.random.ExpFloat64() * float64(1200*time.Millisecond))
	<-time.After(min(wait, 8*time.Second))
	r.kill()
	senders.Wait()
}

// sender stores images 0, 1, 2 … of a series until the node is gone, a few in
// each association, every now and then one a second time.
func (r *crashRun) sender(series int) {
	client := dimse.Client{CallingAETitle: "CT1", CalledAETitle: "HILUM", Timeout: 10 * time.Second, Contexts: []dimse.PresentationContext{
		{AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{dataset.ExplicitVRLittleEndian}},
	}}
	for number := 0; ; {
		conn, err := client.Dial(r.t.Context(), fmt.Sprintf("127.0.0.1:%d", r.port))
		if err != nil {
			return
		}
		for range 1 + series%50 {
			uid, data := crashImage(r.t, series, number)
			r.mu.Lock()
			r.uids[uid] = [2]int{series, number}
			r.mu.Unlock()
			status, err := conn.Store(r.t.Context(), ctImageStorage, uid, dataset.ExplicitVRLittleEndian, bytes.NewReader(data))
			if err != nil {
				_ = conn.Abort()
				return
			}
			if status != dimse.StatusSuccess {
				r.t.Errorf("image %s answered %v", uid, status)
			}
			id := [2]int{series, number}
			r.mu.Lock()
			again := !r.acknowledged[id] && number%17 == 3
			if r.acknowledged[id] {
				r.duplicates++
			}
			r.acknowledged[id] = true
			r.mu.Unlock()
			if !again {
				number++
			}
		}
		if err := conn.Release(r.t.Context()); err != nil {
			return
		}
	}
}

// client reaches the node through its admin socket.
func (r *crashRun) client() *web.Client {
	c, err := web.Open(r.t.Context(), filepath.Join(filepath.Dir(r.config), "data"), nil, slog.New(slog.DiscardHandler))
	if err != nil {
		r.t.Fatal(err)
	}
	return c
}

func (r *crashRun) verifyRound(first int) {
	c := r.client()
	defer c.Close()
	for id := range r.acknowledged {
		if id[0] >= first {
			r.compare(c, id)
		}
	}
}

// compare reads one image from the node.
func (r *crashRun) compare(c *web.Client, id [2]int) {
	uid, data := crashImage(r.t, id[0], id[1])
	body, err := c.Instance(r.t.Context(), uid)
	if err != nil {
		r.t.Errorf("acknowledged image %s: %v", uid, err)
		return
	}
	defer body.Close()
	got, err := io.ReadAll(body)
	if err != nil || !bytes.HasSuffix(got, data) || len(got)-len(data) > 1024 {
		r.t.Errorf("image %s reads %d bytes (%v), want the %d of its data set and the file meta information", uid, len(got), err, len(data))
	}
}

// verifyAll compares everything that the node lists, and returns how many
// images of it were not acknowledged.
func (r *crashRun) verifyAll() (unanswered int) {
	c := r.client()
	defer c.Close()
	studies, err := c.Studies(r.t.Context())
	if err != nil {
		r.t.Fatal(err)
	}
	listed := map[string]bool{}
	for _, st := range studies {
		for _, s := range st.Series {
			if !strings.HasPrefix(s.SeriesInstanceUID, crashRoot+".") {
				continue // a report
			}
			uids, err := c.Instances(r.t.Context(), s.SeriesInstanceUID)
			if err != nil || len(uids) != s.Instances {
				r.t.Errorf("series %s counts %d images, lists %d (%v)", s.SeriesInstanceUID, s.Instances, len(uids), err)
			}
			for _, uid := range uids {
				listed[uid] = true
				id, sent := r.uids[uid]
				if !sent {
					r.t.Errorf("image %s was never sent", uid)
					continue
				}
				if !r.acknowledged[id] {
					unanswered++
				}
				r.compare(c, id)
			}
		}
	}
	for uid, id := range r.uids {
		if r.acknowledged[id] && !listed[uid] {
			r.t.Errorf("acknowledged image %s is not listed", uid)
		}
	}
	return unanswered
}

// TestBackupWhileRunning takes a backup from a node under load, restores it
// elsewhere and finds every image there that was acknowledged before.
func TestBackupWhileRunning(t *testing.T) {
	r := &crashRun{acknowledged: map[[2]int]bool{}, uids: map[string][2]int{}, process: newProcess(t, "")}
	r.start()
	var senders sync.WaitGroup
	for i := range 3 {
		senders.Go(func() { r.sender(i + 40) })
	}
	count := func() int {
		r.mu.Lock()
		defer r.mu.Unlock()
		return len(r.acknowledged)
	}
	poll(t, "60 images", time.Minute, func() bool { return count() >= 60 })
	r.mu.Lock()
	before := maps.Clone(r.acknowledged)
	r.mu.Unlock()
	backup := filepath.Join(t.TempDir(), "backup.tar")
	r.hilum("store", "backup", "--out", backup)
	r.hilum("store", "compact")
	r.hilum("store", "check")
	r.kill()
	senders.Wait()

	other := &crashRun{process: newProcess(t, "")}
	other.hilum("store", "restore", backup)
	other.start()
	c := other.client()
	defer c.Close()
	for id := range before {
		other.compare(c, id)
	}
}
