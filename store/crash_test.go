package store_test

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"hilum/store"
	"hilum/store/storetest"
)

const crashEnv = "HILUM_STORE_CRASH_DIR"

func TestMain(m *testing.M) {
	if dir := os.Getenv(crashEnv); dir != "" {
		crashChild(dir)
	}
	os.Exit(m.Run())
}

// crashSize is the size of a crash test image, made from its number alone.
func crashSize(n int) int { return []int{100, 5000, 300_000, 526_000, 1_300_000}[n%5] }

// crashChild stores images from four writers, until it is killed, and prints the
// number of each one that was acknowledged. Its small backlog keeps the filer
// busy. Now and then it deletes a series, and says so before and after. Where the
// test wants it, the disk below refuses writes, cuts them short, and fails to sync.
func crashChild(dir string) {
	o := store.Options{Backlog: 4 << 20}
	disk := os.Getenv("HILUM_STORE_CRASH_DISK")
	failing := disk != "good"
	switch disk {
	case "failing":
		o = store.Failing(o, rand.IntN)
	case "full":
		o.MinFree = -1 // to the last byte
	}
	s, err := store.Open(dir, o)
	if err != nil {
		fmt.Println("error", err)
		os.Exit(1)
	}
	var first int
	fmt.Sscan(os.Getenv("HILUM_STORE_CRASH_FIRST"), &first)
	var mu sync.Mutex
	say := func(args ...any) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Println(args...) // one write, which a kill does not cut
	}
	var wg sync.WaitGroup
	for writer := range 4 {
		wg.Add(1)
		go func() {
			defer wg.Done()
			for n := first + writer; ; n += 4 {
				w, err := s.NewInstance()
				if err == nil {
					_, err = w.Write(image(uint64(n), crashSize(n)))
				}
				if err == nil {
					_, err = w.Commit(instance(fmt.Sprint("1.", n%7), fmt.Sprint("1.2.", n), n))
				}
				if failing && err != nil {
					if w != nil {
						_ = w.Abort()
					}
					say("refused", n) // not acknowledged: it may be gone
					<-time.After(time.Millisecond)
					continue
				}
				if err != nil {
					say("error", err)
					os.Exit(1)
				}
				say("stored", n)
				if n%40 == writer {
					// A series of its own, so that others stay comparable.
					series := fmt.Sprint("9.", n)
					w, err := s.NewInstance()
					if err == nil {
						_, err = w.Write([]byte("to be deleted"))
					}
					if err == nil {
						_, err = w.Commit(instance(series, series+".1", 1))
					}
					if err == nil {
						err = s.DeleteSeries(series)
					}
					if failing && err != nil {
						if w != nil {
							_ = w.Abort()
						}
						continue
					}
					if err != nil {
						say("error", err)
						os.Exit(1)
					}
					say("deleted", n)
				}
			}
		}()
	}
	wg.Wait()
}

// TestKill kills a process with kill -9 under load, again and again in the same
// data folder, and compares every image it had acknowledged: on a good disk, on
// one that fails now and then, and on a small one that is soon full. It goes on for
// as long as `make crash-test` says.
func TestKill(t *testing.T) {
	duration := time.Duration(0)
	if s := os.Getenv("HILUM_CRASH_DURATION"); s != "" {
		var err error
		if duration, err = time.ParseDuration(s); err != nil {
			t.Fatal(err)
		}
	}
	begin := time.Now()
	for run := uint64(1); run == 1 || time.Since(begin) < duration && !t.Failed(); run++ {
		for _, disk := range []string{"good", "failing", "full"} {
			t.Run(fmt.Sprint(disk, " disk, run ", run), func(t *testing.T) { kill(t, disk, run) })
		}
	}
}

func kill(t *testing.T, disk string, run uint64) {
	dir := t.TempDir()
	if disk == "full" {
		if err := smallDisk(t, dir); err != nil {
			t.Skipf("a small file system cannot be mounted: %v", err)
		}
	}
	rounds := 8
	if testing.Short() {
		rounds = 2
	}
	random := rand.New(rand.NewPCG(run, 2)) // the same kills each time
	acknowledged, deleted, refused := map[int]bool{}, map[int]bool{}, 0
	for round := range rounds {
		first := round * 100_000
		cmd := exec.Command(os.Args[0])
		cmd.Env = append(os.Environ(), crashEnv+"="+dir, fmt.Sprint("HILUM_STORE_CRASH_FIRST=", first))
		cmd.Env = append(cmd.Env, "HILUM_STORE_CRASH_DISK="+disk)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		var said bytes.Buffer
		cmd.Stderr = &said
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		target := random.IntN(40) + 1
		lines := bufio.NewScanner(out)
		for seen := 0; lines.Scan(); {
			var n int
			word, rest, _ := strings.Cut(lines.Text(), " ")
			if _, err := fmt.Sscan(rest, &n); err != nil || word == "error" {
				t.Fatalf("round %d: child says %q", round, lines.Text())
			}
			switch word {
			case "deleted":
				deleted[n] = true
			case "refused":
				if refused++; disk != "full" {
					continue
				}
			default:
				acknowledged[n] = true
			}
			if seen++; seen == target { // what it says until it dies still counts
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := cmd.Wait(); err == nil || err.Error() != "signal: killed" {
			t.Fatalf("round %d: child ended by itself: %v\n%s", round, err, said.Bytes())
		}
		if round%4 != 3 && round != rounds-1 {
			continue // the next child recovers what this one left
		}
		look := dir
		if disk == "full" { // there is room to look at it elsewhere
			look = t.TempDir()
			if err := os.CopyFS(look, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
		}
		s := storetest.MustOpenDir(t, look, store.Options{})
		for n := range acknowledged {
			inst, err := s.Instance(fmt.Sprint("1.2.", n))
			if err != nil || inst.SHA256 != sha256.Sum256(image(uint64(n), crashSize(n))) {
				t.Fatalf("round %d: acknowledged image %d: %v", round, n, err)
			}
			wantImage(t, s, inst.SOPInstanceUID, image(uint64(n), crashSize(n)))
		}
		for n := range deleted {
			if _, err := s.Series(fmt.Sprint("9.", n)); err == nil {
				t.Errorf("round %d: deleted series %d is back", round, n)
			}
		}
		report, err := s.Check(t.Context())
		if err != nil || len(report.Problems) > 0 {
			t.Fatalf("round %d: check: %v %v", round, report.Problems, err)
		}
		if err := s.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if disk != "good" && refused == 0 && !testing.Short() {
		t.Errorf("no write failed: the disk was no %s one", disk)
	}
	t.Logf("%d acknowledged images and %d deletions survived %d kills, %d images were refused", len(acknowledged), len(deleted), rounds, refused)
}
