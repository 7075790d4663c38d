package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
)

const (
	ctImageStorage = "1.2.840.10008.5.1.4.1.1.2"
	killSeries     = "1.2.826.0.1.3680043.9999.1"
)

// killImage is the data set of one CT image of killSeries.
func killImage(t *testing.T, number int) (uid string, data []byte) {
	t.Helper()
	uid = fmt.Sprintf("%s.%d", killSeries, number)
	var out bytes.Buffer
	err := dataset.WriteDataSet(&out, dataset.ExplicitVRLittleEndian, []*dataset.Element{
		dataset.MustElement(dicomtag.SOPClassUID, ctImageStorage),
		dataset.MustElement(dicomtag.SOPInstanceUID, uid),
		dataset.MustElement(dicomtag.Modality, "CT"),
		dataset.MustElement(dicomtag.StudyInstanceUID, "1.2.826.0.1.3680043.9999"),
		dataset.MustElement(dicomtag.SeriesInstanceUID, killSeries),
		dataset.MustElement(dicomtag.InstanceNumber, fmt.Sprint(number)),
		dataset.MustElement(dicomtag.FrameOfReferenceUID, "1.2.826.0.1.3680043.9998"),
		dataset.MustElement(dicomtag.PixelData, bytes.Repeat([]byte{byte(number), byte(number >> 8)}, 128*1024)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return uid, out.Bytes()
}

// signalReader closes reached after n bytes and then waits for resume: the
// moment "in the middle of a C-STORE".
type signalReader struct {
	io.Reader
	n       int
	reached chan struct{}
	resume  chan struct{}
}

func (r *signalReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p[:min(len(p), 4096)])
	if r.n -= n; r.n <= 0 && r.reached != nil {
		close(r.reached)
		r.reached = nil
		<-r.resume
	}
	return n, err
}

// TestKillNode kills the node in the middle of a C-STORE, while another
// association stores as fast as it can. After the restart every acknowledged
// image is there byte for byte, no other is, and the series is analysed.
func TestKillNode(t *testing.T) {
	p := newProcess(t, "series: {quiet: 1s}\nplugins:\n  - {name: \"null\", path: "+filepath.Join(bin, "null")+"}\n")
	p.start()
	client := dimse.Client{CallingAETitle: "CT1", CalledAETitle: "HILUM", Timeout: 10 * time.Second, Contexts: []dimse.PresentationContext{
		{AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{dataset.ExplicitVRLittleEndian}},
	}}
	address := fmt.Sprintf("127.0.0.1:%d", p.port)

	cut := &signalReader{n: 100_000, reached: make(chan struct{}), resume: make(chan struct{})}
	reached := cut.reached
	cutEnded := make(chan error, 1)
	cutUID, cutData := killImage(t, 1_000_000)
	conn, err := client.Dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		cut.Reader = bytes.NewReader(cutData)
		_, err := conn.Store(t.Context(), ctImageStorage, cutUID, dataset.ExplicitVRLittleEndian, cut)
		cutEnded <- err
	}()
	<-reached

	// acknowledged counts images 1, 2, 3 … in the order in which they were
	// answered 0000H.
	var acknowledged atomic.Int64
	busy, err := client.Dial(t.Context(), address)
	if err != nil {
		t.Fatal(err)
	}
	enough := make(chan struct{})
	busyEnded := make(chan struct{})
	go func() {
		defer close(busyEnded)
		for i := 1; ; i++ {
			uid, data := killImage(t, i)
			if _, err := busy.Store(t.Context(), ctImageStorage, uid, dataset.ExplicitVRLittleEndian, bytes.NewReader(data)); err != nil {
				return // the node is dead
			}
			if acknowledged.Store(int64(i)); i == 50 {
				close(enough)
			}
		}
	}()
	<-enough
	p.kill()
	close(cut.resume)
	if err := <-cutEnded; err == nil {
		t.Error("the image that was cut off was acknowledged")
	}
	<-busyEnded

	p.start()
	n := int(acknowledged.Load())
	jobs := p.waitJobs(1, time.Minute)
	if jobs[0].State != "done" || jobs[0].SeriesInstanceUID != killSeries {
		t.Errorf("job after the restart = %+v, want done", jobs[0])
	}
	out := t.TempDir()
	p.hilum("study", "export", "--out", out, "--series", killSeries, "1.2.826.0.1.3680043.9999")
	kept := dataSets(t, out)
	for i := 1; i <= n; i++ {
		uid, data := killImage(t, i)
		if !bytes.Equal(kept[uid], data) {
			t.Errorf("image %d was acknowledged; after the restart %d of its %d bytes are there, or others", i, len(kept[uid]), len(data))
		}
	}
	if _, ok := kept[cutUID]; ok {
		t.Error("the image that was cut off is listed")
	}
	// The image whose answer was under way may be there, whole; no more.
	if len(kept) < n || len(kept) > n+1 {
		t.Errorf("%d images after the restart, %d acknowledged", len(kept), n)
	}
	t.Logf("killed after %d acknowledged images; all there", n)
}

// TestKillDuringJob kills the plugin in the middle of a job, then the node in
// the middle of the next attempt; the job ends with its findings all the same.
func TestKillDuringJob(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "ct")
	if _, stderr, code := hilum("phantom", "--out", folder, "--rows", "64", "--slices", "16", "--nodules", "1"); code != 0 {
		t.Fatal(stderr)
	}
	p := newProcess(t, "series: {quiet: 1s}\njobs: {backoff: 1s}\nplugins:\n  - {name: \"null\", path: "+filepath.Join(bin, "null")+", args: [-findings, \"3\", -job, sleep=3s]}\n")
	p.start()
	p.hilum("send", folder)
	running := func() bool {
		jobs := list[job](p, "job", "list")
		return len(jobs) == 1 && jobs[0].State == "running"
	}
	poll(t, "the job", time.Minute, running)
	type pluginState struct {
		PID   int    `json:"pid"`
		State string `json:"state"`
	}
	var pid int
	poll(t, "the busy plugin", time.Minute, func() bool {
		for _, s := range list[pluginState](p, "plugin", "list") {
			if s.State == "busy" {
				pid = s.PID
			}
		}
		return pid != 0
	})
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	poll(t, "the next attempt after the plugin's death", time.Minute, func() bool {
		return running() && list[struct{ Attempts int }](p, "job", "list")[0].Attempts == 2
	})
	p.kill()
	p.start()
	jobs := p.waitJobs(1, time.Minute)
	if jobs[0].State != "done" || jobs[0].Findings != 3 {
		t.Errorf("job = %+v, want done with 3 findings", jobs[0])
	}
	if err := syscall.Kill(pid, 0); !errors.Is(err, syscall.ESRCH) {
		t.Errorf("the killed plugin: %v, want gone", err)
	}
	if left, err := os.ReadDir(filepath.Join(filepath.Dir(p.config), "data", "scratch", "jobs", "null")); err != nil || len(left) > 0 {
		t.Errorf("the folder of the plugin's jobs holds %d entries after the job (%v)", len(left), err)
	}
}
