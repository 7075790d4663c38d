package report_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"
	"image/png"
	"io"
	"regexp"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"hilum/models/ct"
	"hilum/trainer/froc"
	"hilum/trainer/luna"
	"hilum/trainer/report"
)

func result(t *testing.T) *froc.Result {
	t.Helper()
	at := func(x float64) [3]float64 { return [3]float64{x, 0, 0} }
	r, err := froc.Evaluate(froc.Input{
		Scans: []string{"1.2.3", "1.2.4"},
		Nodules: []luna.Nodule{
			{SeriesUID: "1.2.3", Center: at(0), Diameter: 8}, {SeriesUID: "1.2.3", Center: at(20), Diameter: 12},
			{SeriesUID: "1.2.4", Center: at(0), Diameter: 5},
		},
		Marks: []luna.Mark{
			{SeriesUID: "1.2.3", Center: at(0), Probability: 0.9}, {SeriesUID: "1.2.3", Center: at(-20), Probability: 0.8},
			{SeriesUID: "1.2.4", Center: at(15), Probability: 0.7},
		},
	}, froc.Options{Bootstrap: 50, Folds: map[string]int{"1.2.3": 0, "1.2.4": 1}})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// volume is air with one bright voxel row at the point (20,0,0).
func volume(context.Context, string) (*ct.Volume, error) {
	v := &ct.Volume{Geometry: ct.Geometry{
		Size: [3]int{40, 30, 20}, Spacing: [3]float64{2, 2, 4}, Origin: [3]float64{-38, -30, -40},
		Axes: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}},
	}}
	v.HU = make([]int16, v.Voxels())
	for i := range v.HU {
		v.HU[i] = -1350
	}
	i, j, k := v.Voxel([3]float64{20, 0, 0})
	v.HU[v.Index(int(i+0.5), int(j+0.5), int(k+0.5))] = 150
	return v, nil
}

func write(t *testing.T, in report.Input) string {
	t.Helper()
	var out bytes.Buffer
	if err := report.Write(t.Context(), &out, in); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// TestWrite: the page is well formed, whole by itself and has what it must.
func TestWrite(t *testing.T) {
	page := write(t, report.Input{
		Title: `<script>alert("x")</script>`, Result: result(t), Software: "1", Now: time.Unix(0, 0).UTC(), Volume: volume,
		Sources: []report.Source{{Role: "predictions", Name: "p.csv", SHA256: "abc"}}, Folds: "From a test.",
	})
	for _, want := range []string{
		"0.333", "By fold", "From a test.", "12.0 mm", "p.csv", "SHA-256 abc", "1 January 1970", "&lt;script&gt;",
		"default-src &#39;none&#39;", "prefers-color-scheme: dark", "nearest mark 20.0 mm away", "of 3 nodules found",
	} {
		if !strings.Contains(page, want) && !strings.Contains(page, strings.ReplaceAll(want, "&#39;", "'")) {
			t.Errorf("the page lacks %q", want)
		}
	}
	for _, bad := range []string{"http://", "https://", "<script", "url(", "ZgotmplZ", "NaN", "Inf", "@import"} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %q", bad)
		}
	}
	checkTags(t, page)
}

// checkTags: every element that is opened is closed in order.
func checkTags(t *testing.T, page string) {
	t.Helper()
	void := map[string]bool{"meta": true, "br": true}
	var open []string
	z := html.NewTokenizer(strings.NewReader(page))
	for {
		switch z.Next() {
		case html.ErrorToken:
			if !errors.Is(z.Err(), io.EOF) || len(open) > 0 {
				t.Errorf("the page ends with %v open, %v", open, z.Err())
			}
			return
		case html.StartTagToken:
			if name, _ := z.TagName(); !void[string(name)] {
				open = append(open, string(name))
			}
		case html.EndTagToken:
			name, _ := z.TagName()
			if len(open) == 0 || open[len(open)-1] != string(name) {
				t.Fatalf("</%s> closes %v", name, open)
			}
			open = open[:len(open)-1]
		}
	}
}

// TestPictures: a picture has its finding in the middle of each plane, and no
// colour where there is no scan.
func TestPictures(t *testing.T) {
	page := write(t, report.Input{Result: result(t), Volume: volume})
	pictures := regexp.MustCompile(`href="data:image/png;base64,([^"]+)"`).FindAllStringSubmatch(page, -1)
	if len(pictures) != 4 {
		t.Fatalf("%d pictures, want those of two misses and two false positives", len(pictures))
	}
	text := strings.ReplaceAll(pictures[0][1], "&#43;", "+") // the largest miss, at (20,0,0)
	data, err := base64.StdEncoding.DecodeString(text)
	if err != nil {
		t.Fatal(err)
	}
	img, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range []int{80, 248, 416} {
		if g, _, _, _ := img.At(x, 80).RGBA(); g>>8 < 200 {
			t.Errorf("the finding at column %d has grey %d", x, g>>8)
		}
		if g, _, _, a := img.At(x-20, 80).RGBA(); g>>8 > 5 || a == 0 {
			t.Errorf("beside the finding there is grey %d", g>>8)
		}
	}
	if _, _, _, a := img.At(159, 80).RGBA(); a != 0 {
		t.Error("outside the scan there is colour")
	}
}

// TestWithoutPictures: findings of scans that are not at hand are listed, a
// scan that cannot be read ends the report.
func TestWithoutPictures(t *testing.T) {
	in := report.Input{Result: result(t), Volume: func(_ context.Context, uid string) (*ct.Volume, error) {
		return nil, report.ErrNoVolume
	}}
	if page := write(t, in); !strings.Contains(page, "4 findings have none") || strings.Contains(page, "base64") {
		t.Error("scans that are not at hand")
	}
	in.Volume = nil
	if page := write(t, in); !strings.Contains(page, "with the scans at hand") || strings.Contains(page, "base64") {
		t.Error("no scans at all")
	}
	broken := errors.New("broken")
	in.Volume = func(context.Context, string) (*ct.Volume, error) { return nil, broken }
	if err := report.Write(t.Context(), io.Discard, in); !errors.Is(err, broken) || !strings.Contains(err.Error(), "1.2.3") {
		t.Errorf("a broken scan: %v", err)
	}
}

// TestExtremes: a perfect and an empty detector, and no bootstrap, draw too.
func TestExtremes(t *testing.T) {
	one := []luna.Nodule{{SeriesUID: "a", Diameter: 8}}
	for _, marks := range [][]luna.Mark{nil, {{SeriesUID: "a", Probability: 1}}} {
		r, err := froc.Evaluate(froc.Input{Scans: []string{"a"}, Nodules: one, Marks: marks}, froc.Options{Bootstrap: -1})
		if err != nil {
			t.Fatal(err)
		}
		page := write(t, report.Input{Result: r})
		checkTags(t, page)
		if strings.Contains(page, "NaN") || strings.Contains(page, "Inf") || strings.Contains(page, "95 % interval") {
			t.Errorf("%d marks: the page has a number that is none", len(marks))
		}
	}
}
