package host

import (
	"maps"
	"reflect"
	"strings"
	"testing"
	"time"

	"hilum/plugins/api"
)

func TestBackoff(t *testing.T) {
	b := backoff{min: time.Second, max: 5 * time.Second}
	want := []time.Duration{0, time.Second, 2 * time.Second, 4 * time.Second, 5 * time.Second, 5 * time.Second}
	for i, w := range want {
		if got := b.next(); got != w {
			t.Errorf("wait %d = %s, want %s", i+1, got, w)
		}
	}
	b.reset()
	if got := b.next(); got != 0 {
		t.Errorf("wait after a reset = %s, want 0", got)
	}
}

func TestOutputIsBounded(t *testing.T) {
	o := &output{}
	n := 0
	// One endless line and very many short ones.
	readLines(strings.NewReader(strings.Repeat("x", 1<<20)+"\n"+strings.Repeat("short\r\n", 1<<15)+"last"), func(line string) {
		o.add(line)
		n++
	})
	got := o.String()
	if len(got) > maxOutputBytes || len(got) < maxOutputBytes/2 || !strings.HasSuffix(got, "short\nlast") {
		t.Errorf("kept %d bytes of %d lines, ends with %q", len(got), n, got[max(0, len(got)-20):])
	}
}

// A flood of empty lines has no bytes of text, but each takes its place.
func TestEmptyLinesAreBounded(t *testing.T) {
	o := &output{}
	for range 3 * maxOutputBytes {
		o.add("")
	}
	if len(o.lines) > maxOutputBytes {
		t.Errorf("kept %d lines", len(o.lines))
	}
}

func TestTellingLine(t *testing.T) {
	tests := []struct{ name, output, want string }{
		{"nothing", "", ""},
		{"last", "one\ntwo\n\n", "two"},
		{"Go panic", "start\npanic: boom\n\ngoroutine 1 [running]:\nmain.main()", "panic: boom"},
		{"Go fatal error", "fatal error: all goroutines are asleep\n\nrest", "fatal error: all goroutines are asleep"},
		{"Python", "Traceback (most recent call last):\n  File x\nValueError: no slices", "ValueError: no slices"},
		{"long", strings.Repeat("x", 1000), strings.Repeat("x", maxQuoteBytes)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := tellingLine(tt.output); got != tt.want {
				t.Errorf("tellingLine(%q) = %q, want %q", tt.output, got, tt.want)
			}
		})
	}
}

func TestWithoutIdentity(t *testing.T) {
	series := map[string]string{"PatientName": "Doe^Marianne^^Dr", "PatientID": "1", "PatientAge": "061Y", "Modality": "CT"}
	before := maps.Clone(series)
	rest, hide := withoutIdentity(series)
	if want := map[string]string{"PatientAge": "061Y", "Modality": "CT"}; !maps.Equal(rest, want) {
		t.Errorf("rest = %v, want %v", rest, want)
	}
	if !maps.Equal(series, before) {
		t.Errorf("the caller's map became %v", series)
	}
	if got, want := hide.Replace("slice 1 of 100 of MARIANNE (Doe^Marianne^^Dr)"), "slice 1 of 100 of [hidden] ([hidden])"; got != want {
		t.Errorf("hidden = %q, want %q", got, want)
	}
}

func TestNumberFindings(t *testing.T) {
	findings := []api.Finding{{}, {ID: "1"}, {}, {ID: "b"}}
	numberFindings(findings)
	var got []string
	for _, f := range findings {
		got = append(got, f.ID)
	}
	if want := []string{"2", "1", "3", "b"}; !reflect.DeepEqual(got, want) {
		t.Errorf("ids = %q, want %q", got, want)
	}
}
