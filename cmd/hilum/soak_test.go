package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/web"
)

const (
	// soakEnv says how long TestSoak goes on: `make soak DURATION=30m`.
	soakEnv     = "HILUM_SOAK_DURATION"
	soakRoot    = "1.2.826.0.1.3680043.9999.88"
	soakRate    = 100 // connections begun in a second; in 30 minutes 180,000
	soakPeers   = 48  // at a time
	soakKnown   = 1000
	soakSamples = 30
	soakARTIM   = 2 * time.Second
	soakIdle    = 4 * time.Second
	// soakPatience is what an honest peer waits for on a machine that has other
	// things to do.
	soakPatience = time.Minute
)

// soakConfig lets one address have every place and fail as often as it likes,
// and keeps nobody long.
var soakConfig = fmt.Sprintf("max_associations: %d\nmax_associations_per_address: 0\nmax_failures_per_address: 0\ntimeouts: {artim: %s, idle: %s}\nseries: {quiet: 2s}\nlog: {level: warn}\n",
	2*soakPeers, soakARTIM, soakIdle)

// soak is one run.
type soak struct {
	*process
	address string
	images  []soakImage // sent again and again
	stream  [][]byte    // the PDUs of an association with one image, to be cut and spoilt

	fresh        atomic.Int64 // images that were new
	connections  atomic.Int64
	associations atomic.Int64 // asked for in a whole and correct request
	acknowledged atomic.Int64
	kinds        []atomic.Int64
}

type soakImage struct {
	uid  string
	data []byte
}

// behaviour is what one connection does. weight is its share.
type behaviour struct {
	name   string
	weight int
	run    func(*soak, context.Context, *rand.Rand) error // nil where the peer cannot complain
}

var behaviours = []behaviour{
	{"C-STORE", 34, (*soak).store},
	{"C-STORE, pipelined", 8, (*soak).storePipelined},
	{"C-ECHO", 16, (*soak).echo},
	{"cut anywhere", 12, (*soak).cutAnywhere},
	{"A-ABORT anywhere", 8, (*soak).abortAnywhere},
	{"spoilt bytes", 8, (*soak).spoilt},
	{"garbage", 4, (*soak).garbage},
	{"HTTP, TLS", 4, (*soak).foreign},
	{"half-open", 2, (*soak).halfOpen},
	{"half-close", 2, (*soak).halfClose},
	{"slow", 2, (*soak).slow},
}

// sample is what the node takes at one moment.
type sample struct {
	at                        time.Duration
	resident, anonymous       int64 // bytes
	goroutines, files, socket int
}

// TestSoak has peers of all kinds, honest, broken and hostile, come and go for a
// time, and then looks whether the node still is as small as it was: memory,
// goroutines and descriptors.
func TestSoak(t *testing.T) {
	if testing.Short() {
		t.Skip("takes many seconds")
	}
	if _, err := os.Stat("/proc/self/fd"); err != nil {
		t.Skip("no /proc on this system to sample from")
	}
	duration := 20 * time.Second
	if s := os.Getenv(soakEnv); s != "" {
		var err error
		if duration, err = time.ParseDuration(s); err != nil {
			t.Fatalf("%s: %v", soakEnv, err)
		}
	}
	log := &soakLog{}
	s := &soak{process: newProcess(t, ""), kinds: make([]atomic.Int64, len(behaviours))}
	head := fmt.Sprintf("listen: 127.0.0.1:%d\ndata: ./data\n", s.port)
	if err := os.WriteFile(s.config, []byte(head+soakConfig), 0o600); err != nil {
		t.Fatal(err)
	}
	s.log, s.address = log, fmt.Sprintf("127.0.0.1:%d", s.port)
	for i := range soakKnown {
		s.images = append(s.images, newSoakImage(t, 0, i))
	}
	s.stream = soakStream(t, s.images[0])
	s.start()
	admin, err := web.Open(t.Context(), filepath.Join(filepath.Dir(s.config), "data"), nil, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	defer admin.Close()

	idle := s.sample(admin, 0)
	samples := s.play(admin, duration)
	// What was left half-open is gone when its timers have run out.
	last := samples[len(samples)-1]
	poll(t, "the node to let go of every connection", soakPatience, func() bool {
		last = s.sample(admin, duration)
		return last.socket <= idle.socket && last.goroutines <= idle.goroutines+2
	})
	s.report(idle, samples, last)
	for _, problem := range log.take() {
		t.Errorf("the node logged: %s", problem)
	}
	s.hilum("store", "check")
}

// play begins connections until the time is over, and samples meanwhile.
func (s *soak) play(admin *web.Client, duration time.Duration) []sample {
	ctx, cancel := context.WithTimeout(s.t.Context(), duration)
	defer cancel()
	seed := uint64(time.Now().UnixNano())
	s.t.Logf("seed %d", seed)
	total := 0
	for _, b := range behaviours {
		total += b.weight
	}
	tick := time.NewTicker(time.Second / soakRate)
	defer tick.Stop()
	var peers sync.WaitGroup
	for i := range soakPeers {
		random := rand.New(rand.NewPCG(seed, uint64(i)))
		peers.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case <-tick.C:
				}
				n := random.IntN(total)
				k := slices.IndexFunc(behaviours, func(b behaviour) bool { n -= b.weight; return n < 0 })
				s.connections.Add(1)
				s.kinds[k].Add(1)
				if err := behaviours[k].run(s, s.t.Context(), random); err != nil {
					s.t.Errorf("%s: %v", behaviours[k].name, err)
				}
			}
		})
	}
	begin := time.Now()
	every := time.NewTicker(duration / soakSamples)
	defer every.Stop()
	var samples []sample
	for range soakSamples - 1 {
		<-every.C
		at := s.sample(admin, time.Since(begin))
		samples = append(samples, at)
		if len(samples)%5 == 1 {
			s.t.Log(at)
		}
	}
	peers.Wait()
	return samples
}

func (a sample) String() string {
	return fmt.Sprintf("%8s  %6.1f MB resident, %6.1f MB of it anonymous  %4d goroutines  %4d descriptors, %3d of them sockets",
		a.at.Round(time.Second), float64(a.resident)/1e6, float64(a.anonymous)/1e6, a.goroutines, a.files, a.socket)
}

// report prints the table and holds the last third of the run against the
// second, and the end against the beginning.
func (s *soak) report(idle sample, samples []sample, last sample) {
	t := s.t
	t.Logf("%d connections, %d of them associations, %d images acknowledged, %d of them new", s.connections.Load(), s.associations.Load(), s.acknowledged.Load(), s.fresh.Load())
	for i, b := range behaviours {
		t.Logf("%8d  %s", s.kinds[i].Load(), b.name)
	}
	t.Logf("idle, before  %v", idle)
	for _, at := range samples {
		t.Log(at)
	}
	t.Logf("idle, after   %v", last)
	third := len(samples) / 3
	middle, end := samples[third:2*third], samples[2*third:]
	for _, v := range []struct {
		name  string
		of    func(sample) int64
		slack int64 // what may come and go
	}{
		{"bytes of anonymous memory", func(a sample) int64 { return a.anonymous }, 16e6},
		{"goroutines", func(a sample) int64 { return int64(a.goroutines) }, 50},
		{"descriptors", func(a sample) int64 { return int64(a.files) }, 50},
	} {
		before, after := median(middle, v.of), median(end, v.of)
		if after > before+before/5+v.slack {
			t.Errorf("%d %s in the last third of the run, %d in the second: they grow", after, v.name, before)
		}
	}
	if last.socket > idle.socket || last.goroutines > idle.goroutines+2 {
		t.Errorf("%d sockets and %d goroutines are left, %d and %d were there before", last.socket, last.goroutines, idle.socket, idle.goroutines)
	}
	if s.acknowledged.Load() == 0 || s.associations.Load() < s.connections.Load()/3 {
		t.Errorf("%d associations and %d images acknowledged of %d connections, want many more", s.associations.Load(), s.acknowledged.Load(), s.connections.Load())
	}
}

func median(samples []sample, of func(sample) int64) int64 {
	var values []int64
	for _, s := range samples {
		values = append(values, of(s))
	}
	slices.Sort(values)
	return values[len(values)/2]
}

// sample asks the system and the node.
func (s *soak) sample(admin *web.Client, at time.Duration) sample {
	a := sample{at: at}
	pid := s.cmd.Process.Pid
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		s.t.Fatal(err)
	}
	for line := range strings.Lines(string(status)) {
		for key, to := range map[string]*int64{"VmRSS:": &a.resident, "RssAnon:": &a.anonymous} {
			if rest, ok := strings.CutPrefix(line, key); ok {
				kb, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
				if err != nil {
					s.t.Fatal(err)
				}
				*to = kb << 10
			}
		}
	}
	folder := fmt.Sprintf("/proc/%d/fd", pid)
	files, err := os.ReadDir(folder)
	if err != nil {
		s.t.Fatal(err)
	}
	a.files = len(files)
	for _, f := range files {
		if to, err := os.Readlink(filepath.Join(folder, f.Name())); err == nil && strings.HasPrefix(to, "socket:") {
			a.socket++
		}
	}
	if a.goroutines, err = admin.Goroutines(s.t.Context()); err != nil {
		s.t.Fatal(err)
	}
	return a
}

// soakLog keeps what a node must not log in a soak.
type soakLog struct {
	mu       sync.Mutex // guards what follows
	rest     []byte     // of a line
	problems []string
}

func (l *soakLog) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rest = append(l.rest, b...)
	for {
		line, rest, whole := bytes.Cut(l.rest, []byte("\n"))
		if !whole {
			return len(b), nil
		}
		if bad := bytes.Contains(line, []byte("panic")) || bytes.Contains(line, []byte("level=ERROR")); bad && len(l.problems) < 10 {
			l.problems = append(l.problems, string(line))
		}
		l.rest = rest
	}
}

func (l *soakLog) take() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.problems
}

// newSoakImage makes a small image from its numbers.
func newSoakImage(t *testing.T, series, number int) soakImage {
	seriesUID := fmt.Sprintf("%s.%d", soakRoot, series)
	uid := fmt.Sprintf("%s.%d", seriesUID, number)
	var out bytes.Buffer
	err := dataset.WriteDataSet(&out, dataset.ExplicitVRLittleEndian, []*dataset.Element{
		dataset.MustElement(dicomtag.SOPClassUID, ctImageStorage),
		dataset.MustElement(dicomtag.SOPInstanceUID, uid),
		dataset.MustElement(dicomtag.Modality, "CT"),
		dataset.MustElement(dicomtag.StudyInstanceUID, soakRoot),
		dataset.MustElement(dicomtag.SeriesInstanceUID, seriesUID),
		dataset.MustElement(dicomtag.InstanceNumber, fmt.Sprint(number)),
		dataset.MustElement(dicomtag.PixelData, bytes.Repeat([]byte{byte(number), byte(number >> 8)}, 2000)),
	})
	if err != nil {
		t.Fatal(err)
	}
	return soakImage{uid, out.Bytes()}
}

// image returns one that the node has, and now and then a new one.
func (s *soak) image(random *rand.Rand) soakImage {
	if random.IntN(10) > 0 {
		return s.images[random.IntN(len(s.images))]
	}
	n := int(s.fresh.Add(1))
	return newSoakImage(s.t, 1+n/200, n)
}

func (s *soak) client(window int) *dimse.Client {
	return &dimse.Client{CallingAETitle: "SOAK", CalledAETitle: "HILUM", Timeout: soakPatience, Window: window, Contexts: []dimse.PresentationContext{
		dimse.VerificationContext(), {AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{dataset.ExplicitVRLittleEndian}},
	}}
}

// honest has an association in which everything must succeed.
func (s *soak) honest(ctx context.Context, window int, do func(*dimse.Conn) error) error {
	conn, err := s.client(window).Dial(ctx, s.address)
	if err != nil {
		return err
	}
	defer conn.Close()
	s.associations.Add(1)
	if err := do(conn); err != nil {
		return err
	}
	return conn.Release(ctx)
}

func (s *soak) storeOne(ctx context.Context, conn *dimse.Conn, image soakImage) error {
	status, err := conn.Store(ctx, ctImageStorage, image.uid, dataset.ExplicitVRLittleEndian, bytes.NewReader(image.data))
	if err == nil && status != dimse.StatusSuccess {
		err = fmt.Errorf("answered %v", status)
	}
	if err == nil {
		s.acknowledged.Add(1)
	}
	return err
}

func (s *soak) store(ctx context.Context, random *rand.Rand) error {
	return s.honest(ctx, 0, func(conn *dimse.Conn) error {
		for range 1 + random.IntN(3) {
			if err := s.storeOne(ctx, conn, s.image(random)); err != nil {
				return err
			}
		}
		return nil
	})
}

func (s *soak) storePipelined(ctx context.Context, random *rand.Rand) error {
	return s.honest(ctx, 8, func(conn *dimse.Conn) error {
		ends := make(chan error)
		for range 6 {
			image := s.image(random)
			go func() { ends <- s.storeOne(ctx, conn, image) }()
		}
		var failed error
		for range 6 {
			if err := <-ends; err != nil {
				failed = err
			}
		}
		return failed
	})
}

func (s *soak) echo(ctx context.Context, _ *rand.Rand) error {
	return s.honest(ctx, 0, func(conn *dimse.Conn) error { return conn.Echo(ctx) })
}

// dial opens a bare connection. The node may close it at any moment, so what
// goes wrong afterwards is no failure of the run.
func (s *soak) dial() (*net.TCPConn, error) {
	conn, err := net.DialTimeout("tcp", s.address, soakPatience)
	if err != nil {
		return nil, err
	}
	_ = conn.SetDeadline(time.Now().Add(soakPatience)) // a closed connection needs none
	return conn.(*net.TCPConn), nil
}

// bytes joins the stream and counts the association it asks for.
func (s *soak) bytes() []byte {
	s.associations.Add(1)
	return bytes.Join(s.stream, nil)
}

// cutAnywhere ends the connection at any byte, in order or with a reset.
func (s *soak) cutAnywhere(_ context.Context, random *rand.Rand) error {
	conn, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	b := s.bytes()
	_, _ = conn.Write(b[:len(s.stream[0])+random.IntN(len(b)-len(s.stream[0]))])
	if random.IntN(2) == 0 {
		_ = conn.SetLinger(0)
	}
	return nil
}

// abortAnywhere puts an A-ABORT behind any byte, and perhaps something behind it.
func (s *soak) abortAnywhere(_ context.Context, random *rand.Rand) error {
	conn, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	b := s.bytes()
	b = append(b[:len(s.stream[0])+random.IntN(len(b)-len(s.stream[0]))], 7, 0, 0, 0, 0, 4, 0, 0, 0, 0)
	b = append(b, make([]byte, random.IntN(3)*500)...)
	_, _ = conn.Write(b)
	return s.untilClosed(conn)
}

// spoilt changes some bytes of an association.
func (s *soak) spoilt(_ context.Context, random *rand.Rand) error {
	conn, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	b := bytes.Join(s.stream, nil) // perhaps no association comes of it
	for range 1 + random.IntN(5) {
		b[random.IntN(min(len(b), 1500))] = byte(random.Uint32())
	}
	_, _ = conn.Write(b)
	_ = conn.CloseWrite()
	return s.untilClosed(conn)
}

func (s *soak) garbage(_ context.Context, random *rand.Rand) error {
	conn, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	b := make([]byte, 1+random.IntN(5000))
	for i := range b {
		b[i] = byte(random.Uint32())
	}
	if random.IntN(2) == 0 {
		b[0] = 1 // as if it were an A-ASSOCIATE-RQ
	}
	_, _ = conn.Write(b)
	_ = conn.CloseWrite()
	return s.untilClosed(conn)
}

func (s *soak) foreign(_ context.Context, random *rand.Rand) error {
	conn, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	if random.IntN(2) == 0 {
		_, _ = conn.Write([]byte("GET / HTTP/1.1\r\nHost: hilum\r\n\r\n"))
	} else {
		_, _ = conn.Write([]byte{0x16, 3, 1, 1, 0x2e, 1, 0, 1, 0x2a, 3, 3, 0, 0, 0, 0, 0}) // the begin of a ClientHello
	}
	return s.untilClosed(conn)
}

// halfOpen says nothing, or half of a request, and waits to be closed by ARTIM.
func (s *soak) halfOpen(_ context.Context, random *rand.Rand) error {
	conn, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	_, _ = conn.Write(s.stream[0][:random.IntN(len(s.stream[0]))])
	return s.untilClosed(conn)
}

// halfClose sends a whole association, closes its side and reads the answers.
func (s *soak) halfClose(_ context.Context, _ *rand.Rand) error {
	conn, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	_, _ = conn.Write(s.bytes())
	_ = conn.CloseWrite()
	return s.untilClosed(conn)
}

// slow sends a few bytes now and then, faster than the idle timeout and slower
// than it allows for a whole PDU.
func (s *soak) slow(ctx context.Context, random *rand.Rand) error {
	conn, err := s.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	b := s.bytes()
	_, _ = conn.Write(b[:len(s.stream[0])+random.IntN(200)])
	b = b[len(s.stream[0])+200:]
	tick := time.NewTicker(soakIdle / 8)
	defer tick.Stop()
	for range 16 {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if _, err := conn.Write(b[:1]); err != nil {
			return nil // the node had enough
		}
		b = b[1:]
	}
	return s.untilClosed(conn)
}

// untilClosed reads until the node closes the connection, which it must in time.
func (s *soak) untilClosed(conn net.Conn) error {
	_, err := io.Copy(io.Discard, conn)
	if e, ok := err.(net.Error); ok && e.Timeout() {
		return fmt.Errorf("the node kept the connection for longer than %s", soakPatience)
	}
	return nil // a reset is a close
}
