package config_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"hilum/node/config"
)

var update = flag.Bool("update", false, "rewrite the golden files under testdata")

func TestDefaultIsValid(t *testing.T) {
	c := config.Default()
	if err := c.Validate(); err != nil {
		t.Errorf("Default().Validate() = %v, want nil", err)
	}
}

// TestLoadNothing: with no file at all the defaults hold, with paths in the
// working folder.
func TestLoadNothing(t *testing.T) {
	folder := t.TempDir()
	t.Chdir(folder)
	c, err := config.Load("")
	if err != nil {
		t.Fatalf("Load(\"\") = %v, want nil", err)
	}
	if want, got := filepath.Join(folder, "data"), c.Data; got != want {
		t.Errorf("Load(\"\").Data = %q, want %q", got, want)
	}
	if c.AETitle != "HILUM" || c.Listen != "127.0.0.1:11112" || c.File != "" || len(c.Plugins) != 0 {
		t.Errorf("Load(\"\") = %+v, want the defaults", c)
	}
}

func TestLoadDefaultFile(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile(config.DefaultFile, []byte("ae_title: NODE2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load("")
	if err != nil || c.AETitle != "NODE2" || c.File != config.DefaultFile {
		t.Errorf("Load(\"\") = %q from %q, %v, want NODE2 from %s", c.AETitle, c.File, err, config.DefaultFile)
	}
}

// TestLoadIssueExample holds the configuration that the README shows, with
// paths relative to the file and not to the working folder.
func TestLoadIssueExample(t *testing.T) {
	folder := t.TempDir()
	file := filepath.Join(folder, "hilum.yaml")
	const text = `ae_title: HILUM
listen: 127.0.0.1:11112
data: ./data
series:
  quiet: 60s
destinations:
  - {name: pacs, ae_title: PACS, address: "127.0.0.1:11113"}
plugins:
  - {name: lungnodule, path: bin/plugins/lungnodule, model: models/nodule-blob}
`
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir())
	got, err := config.Load(file)
	if err != nil {
		t.Fatalf("Load = %v, want nil", err)
	}
	wantDestination := config.Destination{
		Name: "pacs", AETitle: "PACS", Address: "127.0.0.1:11113", CallingAETitle: "HILUM", Results: []string{"sr", "seg", "sc"},
		Timeout: 30 * time.Second, Backoff: 5 * time.Second, MaxBackoff: 10 * time.Minute,
	}
	wantPlugin := config.Plugin{
		Name: "lungnodule", Path: filepath.Join(folder, "bin/plugins/lungnodule"), Model: filepath.Join(folder, "models/nodule-blob"),
		Deadline: 15 * time.Minute, Processes: 1, Devices: []string{"cpu"}, Fallback: config.FallbackFailed, Modalities: []string{"CT"},
	}
	if len(got.Destinations) != 1 || !reflect.DeepEqual(got.Destinations[0], wantDestination) {
		t.Errorf("Destinations = %+v, want one: %+v", got.Destinations, wantDestination)
	}
	if len(got.Plugins) != 1 || !reflect.DeepEqual(got.Plugins[0], wantPlugin) {
		t.Errorf("Plugins = %+v, want one: %+v", got.Plugins, wantPlugin)
	}
	if want := filepath.Join(folder, "data"); got.Data != want {
		t.Errorf("Data = %q, want %q", got.Data, want)
	}
}

func TestLoadRefusals(t *testing.T) {
	folder := t.TempDir()
	t.Chdir(folder)
	large := filepath.Join(folder, "large.yaml")
	if err := os.WriteFile(large, []byte(strings.Repeat("# no\n", 1<<20)), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct{ name, path, want string }{
		{"missing", "nowhere.yaml", "nowhere.yaml: no such file"},
		{"default name given but missing", "hilum.yaml", "hilum.yaml: no such file"},
		{"folder", folder, folder + ": read the configuration: is a directory"},
		{"large", large, large + ": larger than 1048576 bytes: this is not a configuration file"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := config.Load(test.path)
			if err == nil || err.Error() != test.want {
				t.Errorf("Load(%q) = %v, want %s", test.path, err, test.want)
			}
		})
	}
}

// TestGoodFiles: every key has a file that uses it.
func TestGoodFiles(t *testing.T) {
	for _, file := range glob(t, "testdata/*.good.yml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			if _, err := config.Load(file); err != nil {
				t.Errorf("Load(%q) = %v, want nil", file, err)
			}
		})
	}
}

// TestBadFiles compares the messages with the golden file beside each bad one.
func TestBadFiles(t *testing.T) {
	for _, file := range glob(t, "testdata/*.bad.yml") {
		t.Run(filepath.Base(file), func(t *testing.T) {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			_, err = config.Parse("hilum.yaml", text)
			if err == nil {
				t.Fatalf("Parse(%s) = nil, want an error", file)
			}
			golden := strings.TrimSuffix(file, ".yml") + ".txt"
			got := err.Error() + "\n"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("Parse(%s) =\n%swant\n%s", file, got, want)
			}
		})
	}
}

// TestEveryKeyHasFiles holds rule 23 of the style guide: a good and a bad file
// for each key of the reference.
func TestEveryKeyHasFiles(t *testing.T) {
	table, err := config.Reference()
	if err != nil {
		t.Fatal(err)
	}
	good, bad := readAll(t, "testdata/*.good.yml"), readAll(t, "testdata/*.bad.txt")
	for row := range strings.Lines(table) {
		_, rest, _ := strings.Cut(row, "| `")
		key, _, ok := strings.Cut(rest, "`")
		if !ok {
			continue
		}
		if name := key[strings.LastIndexByte(key, '.')+1:]; !strings.Contains(good, name+":") {
			t.Errorf("no good file under testdata uses %s", key)
		}
		if want := strings.ReplaceAll(key, "[]", "[0]"); !strings.Contains(bad, ": "+want) {
			t.Errorf("no bad file under testdata is refused for %s", want)
		}
	}
}

func TestErrorsNameFileLineAndKey(t *testing.T) {
	_, err := config.Parse("hilum.yaml", []byte("data: x\nseries:\n  quiet: soon\n"))
	var e *config.Error
	if !errors.As(err, &e) {
		t.Fatalf("Parse = %v, want a *config.Error", err)
	}
	if e.File != "hilum.yaml" || e.Line != 3 || e.Key != "series.quiet" {
		t.Errorf("Parse = %+v, want hilum.yaml, line 3, series.quiet", e)
	}
}

// TestLongerWaitsFollow: whoever writes only the shorter of two durations need
// not think of the other.
func TestLongerWaitsFollow(t *testing.T) {
	c, err := config.Parse("f", []byte("series: {quiet: 10m}\njobs: {backoff: 1h}\n"))
	if err != nil {
		t.Fatal(err)
	}
	if c.Series.AssociationWait != 30*time.Minute || c.Series.GapWait != 50*time.Minute || c.Jobs.MaxBackoff != time.Hour {
		t.Errorf("association_wait, gap_wait, max_backoff = %v, %v, %v, want 30m, 50m, 1h", c.Series.AssociationWait, c.Series.GapWait, c.Jobs.MaxBackoff)
	}
}

// TestReadme compares the key table of the README with the one that the
// comments of config.go give; -update rewrites it there.
func TestReadme(t *testing.T) {
	const name, begin, end = "../../README.md", "<!-- config:begin -->\n", "<!-- config:end -->"
	readme, err := os.ReadFile(name)
	if err != nil {
		t.Skipf("no README to compare with: %v", err)
	}
	before, rest, found := strings.Cut(string(readme), begin)
	got, after, foundEnd := strings.Cut(rest, end)
	if !found || !foundEnd {
		t.Skip("the README has no <!-- config:begin --> and <!-- config:end --> marks yet")
	}
	want, err := config.Reference()
	if err != nil {
		t.Fatal(err)
	}
	if got == want {
		return
	}
	if *update {
		if err := os.WriteFile(name, []byte(before+begin+want+end+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Errorf("the key table of README.md is not that of node/config: go test ./node/config -update writes it")
}

// FuzzParse: a file is refused with an error or gives a valid configuration,
// never both, never a crash, and memory follows its size.
func FuzzParse(f *testing.F) {
	for _, pattern := range []string{"testdata/*.good.yml", "testdata/*.bad.yml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(text)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		if len(text) > 16<<10 {
			t.Skip("longer than a configuration")
		}
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		c, err := config.Parse("f", text)
		runtime.ReadMemStats(&after)
		if allocated, limit := after.TotalAlloc-before.TotalAlloc, uint64(4<<20+len(text)*8<<10); allocated > limit {
			t.Errorf("Parse of %d bytes allocated %d bytes, want at most %d", len(text), allocated, limit)
		}
		if err != nil {
			if !reflect.DeepEqual(c, config.Config{}) {
				t.Errorf("Parse = a value and %v, want one of them", err)
			}
			return
		}
		if err := c.Validate(); err != nil {
			t.Errorf("Parse accepted what Validate refuses: %v", err)
		}
	})
}

func glob(t *testing.T, pattern string) []string {
	t.Helper()
	files, err := filepath.Glob(pattern)
	if err != nil || len(files) == 0 {
		t.Fatalf("no files %s: %v", pattern, err)
	}
	return files
}

func readAll(t *testing.T, pattern string) string {
	t.Helper()
	var b strings.Builder
	for _, file := range glob(t, pattern) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		b.Write(text)
	}
	return b.String()
}
