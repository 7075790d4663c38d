package dimse_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hilum/dimse"
	"hilum/dimse/dataset"
)

// interopTimeout bounds everything that DCMTK does in one test.
const interopTimeout = 30 * time.Second

// dcmtk returns the path of a tool, and skips the test where it is missing.
func dcmtk(t *testing.T, tool string) string {
	t.Helper()
	path, err := exec.LookPath(tool)
	if err != nil {
		t.Skipf("DCMTK's %s is not installed (Debian: apt-get install dcmtk)", tool)
	}
	return path
}

// element encodes an element in Explicit VR Little Endian.
func element(group, number uint16, vr string, value []byte) []byte {
	b := binary.LittleEndian.AppendUint16(nil, group)
	b = binary.LittleEndian.AppendUint16(b, number)
	b = append(b, vr...)
	if vr == "OW" {
		b = append(b, 0, 0)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(value)))
	} else {
		b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
	}
	return append(b, value...)
}

func even(s string) []byte {
	if len(s)%2 == 1 {
		s += "\x00"
	}
	return []byte(s)
}

// image is the data set of a small CT image in Explicit VR Little Endian.
func image(instance string, pixels int) []byte {
	b := element(0x0008, 0x0016, "UI", even(ctImage))
	b = append(b, element(0x0008, 0x0018, "UI", even(instance))...)
	b = append(b, element(0x0010, 0x0010, "PN", []byte("Test^Phantom"))...)
	return append(b, element(0x7FE0, 0x0010, "OW", make([]byte, pixels))...)
}

func TestEchoscu(t *testing.T) {
	echoscu := dcmtk(t, "echoscu")
	address := listenTCP(t, &dimse.Server{})
	host, port, _ := net.SplitHostPort(address)
	tests := []struct {
		name string
		args []string
		ok   bool
		text string
	}{
		{"default", nil, true, ""},
		{"38 transfer syntaxes in 128 contexts", []string{"-pts", "38", "-ppc", "128"}, true, ""},
		{"five times", []string{"--repeat", "5"}, true, ""},
		{"abort", []string{"--abort"}, true, ""},
		{"wrong title", []string{"-aec", "OTHER"}, false, "Called AE Title Not Recognized"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			args := append([]string{"-v", "-aec", "HILUM"}, tt.args...)
			out, err := run(t, echoscu, append(args, host, port)...)
			if (err == nil) != tt.ok || !strings.Contains(out, tt.text) {
				t.Errorf("echoscu %v = %v, want ok %v and %q\n%s", tt.args, err, tt.ok, tt.text, out)
			}
		})
	}
}

func run(t *testing.T, tool string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), interopTimeout)
	defer cancel()
	out, err := exec.CommandContext(ctx, tool, args...).CombinedOutput()
	return string(out), err
}

func TestStorescu(t *testing.T) {
	storescu := dcmtk(t, "storescu")
	h := &recorder{}
	address := listenTCP(t, &dimse.Server{Handler: h})
	host, port, _ := net.SplitHostPort(address)
	dir := t.TempDir()
	want := map[string]stored{}
	for i := range 5 {
		uid := fmt.Sprintf("2.25.%d", 100+i)
		data := image(uid, 50_000*i+2)
		file := append(dataset.AppendFileMeta(nil, explicitLE, ctImage, uid), data...)
		if err := os.WriteFile(filepath.Join(dir, uid+".dcm"), file, 0o600); err != nil {
			t.Fatal(err)
		}
		want[uid] = stored{ctImage, uid, explicitLE, "STORESCU", int64(len(data)), sha256.Sum256(data)}
	}
	for _, args := range [][]string{{"-R"}, {"-R", "--max-send-pdu", "4096"}, {}} {
		args := append(append([]string{"-v", "-aec", "HILUM"}, args...), "+sd", host, port, dir)
		if out, err := run(t, storescu, args...); err != nil {
			t.Fatalf("storescu %v = %v\n%s", args, err, out)
		}
		got := h.take()
		for _, s := range got {
			if s != want[s.sopInstance] {
				t.Errorf("stored %v, want %v", s, want[s.sopInstance])
			}
		}
		if len(got) != len(want) {
			t.Errorf("%d instances stored, want %d", len(got), len(want))
		}
	}
}

func TestStorescp(t *testing.T) {
	storescp := dcmtk(t, "storescp")
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.Addr().String()
	_, port, _ := net.SplitHostPort(address)
	_ = free.Close() // storescp takes the port over
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), interopTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, storescp, "+B", "+xa", "-aet", "PACS", "-od", dir, port)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // it was killed
	}()
	client := newClient()
	client.CalledAETitle = "PACS"
	conn := dialWhenUp(ctx, t, client, address)
	defer func() { _ = conn.Close() }()
	if err := conn.Echo(ctx); err != nil {
		t.Errorf("Echo() = %v, want nil", err)
	}
	for i, pixels := range []int{2, 16384, 500_000} {
		uid := fmt.Sprintf("2.25.%d", 200+i)
		data := image(uid, pixels)
		if status, err := conn.Store(ctx, ctImage, uid, explicitLE, bytes.NewReader(data)); err != nil || status != dimse.StatusSuccess {
			t.Fatalf("Store() = %v, %v, want success", status, err)
		}
		files, err := filepath.Glob(filepath.Join(dir, "*"+uid+"*"))
		if err != nil || len(files) != 1 {
			t.Fatalf("storescp wrote %v, %v, want one file", files, err)
		}
		if got, err := os.ReadFile(files[0]); err != nil || !bytes.HasSuffix(got, data) {
			t.Errorf("file of %d bytes (%v) does not end with the %d bytes sent", len(got), err, len(data))
		}
	}
	if err := conn.Release(ctx); err != nil {
		t.Errorf("Release() = %v, want nil", err)
	}
}

// dialWhenUp dials until the program that was just started listens.
func dialWhenUp(ctx context.Context, t *testing.T, c *dimse.Client, address string) *dimse.Conn {
	t.Helper()
	again := time.NewTicker(20 * time.Millisecond)
	defer again.Stop()
	for {
		conn, err := c.Dial(ctx, address)
		if err == nil {
			return conn
		}
		select {
		case <-again.C:
		case <-ctx.Done():
			t.Fatalf("Dial(%s) = %v, want an association", address, err)
		}
	}
}

// writeFile writes a file that a tool is given, and returns its name.
func writeFile(t *testing.T, content []byte) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "instance.dcm")
	if err := os.WriteFile(name, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}
