package main

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func touch(t *testing.T, parts ...string) string {
	t.Helper()
	name := filepath.Join(parts...)
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

func TestFindLibrary(t *testing.T) {
	root, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	program := touch(t, root, "bin", "plugins", "lungnodule")
	old := touch(t, root, ".cache", "runtime", "onnxruntime-1.24.1", libraryName+".1.9.1")
	newest := touch(t, root, ".cache", "runtime", "onnxruntime-1.24.1", libraryName+".1.24.1")
	if err := os.Symlink("onnxruntime-1.24.1", filepath.Join(root, ".cache", "runtime", "current")); err != nil {
		t.Fatal(err)
	}
	empty := t.TempDir()
	tests := []struct {
		name, named, want, err string
	}{
		{"beside the program", "", newest, ""},
		{"a file", old, old, ""},
		{"a folder", filepath.Join(root, ".cache", "runtime", "current"), newest, ""},
		{"a missing file", filepath.Join(root, "no.so"), "", "make runtime"},
		{"a folder without it", empty, "", "make runtime"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := findLibrary(tt.named, program)
			if got != tt.want || (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("findLibrary(%q) = %q, %v, want %q and an error with %q", tt.named, got, err, tt.want, tt.err)
			}
		})
	}
}

func TestFindLibraryNowhere(t *testing.T) {
	for _, dir := range systemFolders {
		if libraryIn(dir) != "" {
			t.Skipf("this machine has an ONNX Runtime in %s", dir)
		}
	}
	if got, err := findLibrary("", filepath.Join(t.TempDir(), "a", "b", "c", "d", "program")); !errors.Is(err, errNoRuntime) {
		t.Errorf("findLibrary = %q, %v, want errNoRuntime", got, err)
	}
}

func TestAttempts(t *testing.T) {
	names := func(list []attempt) string {
		var s []string
		for _, a := range list {
			s = append(s, a.provider+"@"+a.device)
		}
		return strings.Join(s, " ")
	}
	tests := []struct {
		device    string
		providers []string
		want      string // "" is an error
	}{
		{"cpu", []string{"cpu"}, "cpu@cpu"},
		{"", []string{"openvino", "cpu"}, "openvino@cpu cpu@cpu"},
		{"cpu", []string{"cpu", "openvino"}, "cpu@cpu"},
		{"cpu", []string{"openvino"}, "openvino@cpu cpu@cpu"},
		{"cuda", []string{"cpu"}, "cuda@cuda:0 cpu@cpu"},
		{"cuda:3", []string{"openvino"}, "cuda@cuda:3 openvino@cpu cpu@cpu"},
		{"cuda:x", nil, ""},
		{"cuda:-1", nil, ""},
		{"cuda:", nil, ""},
		{"tpu", nil, ""},
	}
	for _, tt := range tests {
		got, err := attempts(tt.device, tt.providers)
		if names(got) != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("attempts(%q, %v) = %q, %v, want %q", tt.device, tt.providers, names(got), err, tt.want)
		}
	}
}

func TestParseFlags(t *testing.T) {
	tests := []struct {
		args []string
		err  string
	}{
		{[]string{"--model", "m"}, ""},
		{[]string{"--model", "m", "--runtime", "r", "--threshold", "0.1"}, ""},
		{nil, "--model"},
		{[]string{"--model", "m", "extra"}, "extra"},
		{[]string{"--model", "m", "--threshold", "1"}, "threshold"},
		{[]string{"--model", "m", "--threshold", "NaN"}, "threshold"},
	}
	for _, tt := range tests {
		_, err := parseFlags(tt.args)
		if (err != nil) != (tt.err != "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("parseFlags(%q) = %v, want an error with %q", tt.args, err, tt.err)
		}
	}
}
