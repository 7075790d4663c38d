package command_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hilum/cmd/hilum/command"
	"hilum/dimse"
	"hilum/node/config"
	"hilum/store"
)

// run calls the command line in-process.
func run(args ...string) (stdout, stderr string, code int) {
	var out, errs bytes.Buffer
	code = command.Main(args, &out, &errs)
	return out.String(), errs.String(), code
}

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestFailures: every wrong input gives one sentence on standard error, the
// right exit code, and nothing on standard output.
func TestFailures(t *testing.T) {
	empty := write(t, "hilum.yaml", "data: ./nothing-here\n")
	for _, tt := range []struct {
		name string
		args []string
		code int
		want []string
	}{
		{"unknown command", []string{"sturdy"}, 2, []string{`unknown command "sturdy"`}},
		{"unknown flag", []string{"job", "list", "--jsn"}, 2, []string{"--jsn"}},
		{"missing argument", []string{"job", "show"}, 2, []string{"accepts 1 arg", "hilum job show --help"}},
		{"unknown key", []string{"config", "check", "--config", write(t, "hilum.yaml", "series:\n  quite: 60s\n")}, 2, []string{"hilum.yaml:2", "quite", "quiet"}},
		{"configuration missing", []string{"serve", "--config", "/nonexistent/hilum.yaml"}, 2, []string{"/nonexistent/hilum.yaml"}},
		{"model missing", []string{"model", "verify", t.TempDir()}, 1, []string{"model.json"}},
		{"no models folder", []string{"model", "list", "/nonexistent"}, 1, []string{"/nonexistent"}},
		{"no data folder", []string{"job", "list", "--config", empty}, 1, []string{"nothing-here", "hilum serve"}},
		{"no plugin", []string{"plugin", "check", "--config", empty}, 1, []string{"no plugin is configured"}},
		{"nobody there", []string{"echo", "--to", "127.0.0.1:1", "--called", "X"}, 1, []string{"127.0.0.1:1"}},
		{"nothing to send", []string{"send", t.TempDir(), "--to", "127.0.0.1:1", "--called", "X"}, 1, []string{"no DICOM file"}},
		{"no such folder", []string{"send", "/nonexistent", "--to", "127.0.0.1:1", "--called", "X"}, 1, []string{"/nonexistent"}},
		{"phantom without folder", []string{"phantom"}, 2, []string{"out"}},
		{"phantom too small", []string{"phantom", "--out", filepath.Join(t.TempDir(), "p"), "--rows", "3"}, 1, []string{"3 rows"}},
		{"demo into a full folder", []string{"demo", "--out", filepath.Dir(empty)}, 2, []string{"not empty"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stdout, stderr, code := run(tt.args...)
			if code != tt.code || stdout != "" {
				t.Errorf("exit code %d, stdout %q; want %d and nothing", code, stdout, tt.code)
			}
			lines := strings.Split(strings.TrimSpace(stderr), "\n")
			last := lines[len(lines)-1]
			for _, want := range tt.want {
				if !strings.Contains(last, want) {
					t.Errorf("stderr %q does not say %q in its last line", stderr, want)
				}
			}
		})
	}
}

func TestVersionAndCompletion(t *testing.T) {
	if out, _, code := run("version"); code != 0 || !strings.HasPrefix(out, "hilum ") {
		t.Errorf("version: %d, %q", code, out)
	}
	if out, _, code := run("completion", "bash"); code != 0 || !strings.Contains(out, "hilum") {
		t.Errorf("completion bash: %d, %d bytes", code, len(out))
	}
	if out, _, code := run("--help"); code != 0 || !strings.Contains(out, "Exit codes") || !strings.Contains(out, "not a medical device") {
		t.Errorf("help: %d, %q", code, out)
	}
}

// keep is a peer that keeps what it is sent, and refuses what it is told to.
type keep struct {
	refuse string // SOP Instance UID
	got    chan string
}

func (k *keep) CStore(_ context.Context, req *dimse.StoreRequest) error {
	if _, err := io.Copy(io.Discard, req.Data); err != nil {
		return err
	}
	if req.SOPInstanceUID == k.refuse {
		return &dimse.StatusError{Status: dimse.StatusCannotUnderstand, Comment: "not that one"}
	}
	k.got <- req.SOPInstanceUID
	return nil
}

func listen(t *testing.T, k *keep) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &dimse.Server{AETitle: "PEER", Handler: k, Logger: slog.New(slog.DiscardHandler)}
	served := make(chan error, 1)
	go func() { served <- server.Serve(l) }()
	t.Cleanup(func() {
		_ = server.Close()
		if err := <-served; !errors.Is(err, dimse.ErrServerClosed) {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// TestSend: everything that is DICOM arrives, whatever else there is is named.
func TestSend(t *testing.T) {
	folder := filepath.Join(t.TempDir(), "ct")
	if _, stderr, code := run("phantom", "--out", folder, "--rows", "64", "--slices", "16", "--nodules", "0"); code != 0 {
		t.Fatal(stderr)
	}
	k := &keep{got: make(chan string, 100)}
	address := listen(t, k)
	if out, _, code := run("echo", "--to", address, "--called", "PEER"); code != 0 || !strings.Contains(out, "answers") {
		t.Errorf("echo: %d, %q", code, out)
	}
	if out, stderr, code := run("send", folder, "--to", address, "--called", "PEER", "--associations", "3"); code != 0 || !strings.Contains(out, "16 images") || len(k.got) != 16 {
		t.Errorf("send: %d, %q, %q; %d arrived", code, out, stderr, len(k.got))
	}

	if err := os.WriteFile(filepath.Join(folder, "notes.txt"), []byte("not DICOM"), 0o600); err != nil {
		t.Fatal(err)
	}
	k.refuse = <-k.got
	out, stderr, code := run("send", folder, "--to", address, "--called", "PEER")
	if code != 3 || !strings.Contains(out, "15 images") || !strings.Contains(stderr, "notes.txt") || !strings.Contains(stderr, "not that one") {
		t.Errorf("send with a text file and a refused image: %d, %q, %q; want 3, both named", code, out, stderr)
	}
	if _, stderr, code := run("send", folder, "--to", address, "--called", "OTHER"); code != 1 || !strings.Contains(stderr, "OTHER") {
		t.Errorf("send to a wrong AE title: %d, %q", code, stderr)
	}
}

// TestStoredData looks at a store that no node runs on.
func TestStoredData(t *testing.T) {
	cfg := write(t, "hilum.yaml", "data: ./data\n")
	st, err := store.Open(filepath.Join(filepath.Dir(cfg), "data"), store.Options{})
	if err != nil {
		t.Fatal(err)
	}
	bodies := map[string]string{"1.2.3.4.1": "first image", "1.2.3.4.2": "second image"}
	for uid, body := range bodies {
		w, err := st.NewInstance()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(body)); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Commit(store.Instance{SOPInstanceUID: uid, SOPClassUID: "1.2", SeriesInstanceUID: "1.2.3.4", StudyInstanceUID: "1.2.3",
			TransferSyntaxUID: "1.2.840.10008.1.2.1", Header: map[string]string{"Modality": "CT", "InstanceNumber": uid[len(uid)-1:]}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := st.Close(); err != nil {
		t.Fatal(err)
	}

	out, _, code := run("study", "list", "--json", "--config", cfg)
	var studies []map[string]any
	if err := json.Unmarshal([]byte(out), &studies); code != 0 || err != nil || len(studies) != 1 || studies[0]["study_instance_uid"] != "1.2.3" {
		t.Errorf("study list: %d, %s", code, out)
	}
	for _, args := range [][]string{{"study", "list"}, {"study", "show", "1.2.3"}, {"job", "list"}, {"finding", "list"}, {"delivery", "list"}, {"plugin", "list"}} {
		if out, stderr, code := run(append(args, "--config", cfg)...); code != 0 || out == "" {
			t.Errorf("%v: %d, %q, %q", args, code, out, stderr)
		}
	}
	for _, args := range [][]string{{"job", "list"}, {"finding", "list"}, {"delivery", "list"}, {"plugin", "list"}} {
		if out, _, code := run(append(args, "--json", "--config", cfg)...); code != 0 || strings.TrimSpace(out) != "[]" {
			t.Errorf("%v --json: %d, %q, want an empty array", args, code, out)
		}
	}

	dir := filepath.Join(t.TempDir(), "out")
	if _, stderr, code := run("study", "export", "--out", dir, "1.2.3", "--config", cfg); code != 0 {
		t.Fatal(stderr)
	}
	for name, want := range map[string]string{"000001.dcm": "first image", "000002.dcm": "second image"} {
		if got, err := os.ReadFile(filepath.Join(dir, "series01", name)); err != nil || string(got) != want {
			t.Errorf("%s = %q, %v, want %q", name, got, err, want)
		}
	}
	if _, stderr, code := run("study", "export", "--out", dir, "1.2.3", "--config", cfg); code != 1 || !strings.Contains(stderr, "exists") {
		t.Errorf("export over an earlier one: %d, %q, want a refusal", code, stderr)
	}
	clean, key := filepath.Join(t.TempDir(), "clean"), filepath.Join(t.TempDir(), "key")
	if _, stderr, code := run("study", "export", "--deidentify", "--key", key, "--out", clean, "1.2.3", "--config", cfg); code != 3 || strings.Count(stderr, "skipped") != 3 {
		t.Errorf("de-identified export of what is no DICOM: %d, %q, want 3 and two that are skipped", code, stderr)
	}
	if left, _ := filepath.Glob(filepath.Join(clean, "*", "*")); len(left) > 0 {
		t.Errorf("%v left of images that were skipped", left)
	}
	if info, err := os.Stat(key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key: %v, %v, want a file of mode 600", info, err)
	}
	if _, stderr, code := run("study", "export", "--key", key, "--out", clean, "1.2.3", "--config", cfg); code != 2 {
		t.Errorf("--key alone: %d, %q, want 2", code, stderr)
	}
	for _, args := range [][]string{
		{"study", "show", "9.9"}, {"study", "export", "--out", dir, "9.9"}, {"study", "export", "--out", dir, "--series", "9.9", "1.2.3"},
		{"job", "show", "77"}, {"job", "retry", "77"}, {"finding", "list", "--series", "9.9"}, {"delivery", "retry", "77"},
	} {
		if _, stderr, code := run(append(args, "--config", cfg)...); code != 1 || !strings.Contains(stderr, args[len(args)-1]) && !strings.Contains(stderr, "9.9") {
			t.Errorf("%v: %d, %q, want 1 and a sentence that names it", args, code, stderr)
		}
	}
}

// TestConfigPasscode: what it prints stands for the passcode in a configuration
// that is good, and does not hold it.
func TestConfigPasscode(t *testing.T) {
	var out bytes.Buffer
	root := command.NewRootCommand()
	root.SetArgs([]string{"config", "passcode"})
	root.SetIn(strings.NewReader("open sesame\n"))
	root.SetOut(&out)
	if err := root.ExecuteContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	hash := strings.TrimSpace(out.String())
	user := config.User{Name: "ct1", Passcode: hash}
	if strings.Contains(hash, "sesame") || !user.Verify([]byte("open sesame")) || user.Verify([]byte("open sesam")) {
		t.Errorf("config passcode = %q, want a hash of the line without its end", hash)
	}
	file := write(t, "hilum.yaml", "user_identity: required\nusers: [{name: ct1, passcode: \""+hash+"\"}]\n")
	if stdout, stderr, code := run("config", "check", "--config", file); code != 0 {
		t.Errorf("config check = %d, %s%s", code, stdout, stderr)
	}
}
