package api_test

import (
	"math"
	"strings"
	"testing"
	"unicode/utf8"

	"hilum/plugins/api"
)

func TestFindingValidate(t *testing.T) {
	if err := goodFinding().Validate(); err != nil {
		t.Fatalf("good finding: %v", err)
	}
	nan := math.NaN()
	tests := []struct {
		name   string
		change func(*api.Finding)
		want   string
	}{
		{"NaN center", func(f *api.Finding) { f.Center[1] = nan }, "center"},
		{"far center", func(f *api.Finding) { f.Center[2] = -1e5 }, "center"},
		{"negative size", func(f *api.Finding) { f.Size[0] = -1 }, "size"},
		{"infinite diameter", func(f *api.Finding) { f.DiameterMM = math.Inf(1) }, "diameter_mm"},
		{"wide diameter", func(f *api.Finding) { f.DiameterMM = 501 }, "diameter_mm"},
		{"probability above 1", func(f *api.Finding) { f.Probability = 1.0001 }, "probability"},
		{"NaN malignancy", func(f *api.Finding) { f.Malignancy = &nan }, "malignancy"},
		{"unknown texture", func(f *api.Finding) { f.Texture = "hairy" }, "texture"},
		{"texture probability", func(f *api.Finding) { f.TextureProbability = nan }, "texture_probability"},
		{"escape in label", func(f *api.Finding) { f.Label = "\x1b[2J" }, "label holds control characters"},
		{"reversed label", func(f *api.Finding) { f.Label = "a\u202eb" }, "label holds control characters"},
		{"long id", func(f *api.Finding) { f.ID = strings.Repeat("x", 65) }, "id is longer"},
		{"empty mask", func(f *api.Finding) { f.Mask.Size[1] = 0 }, "mask size"},
		{"overflowing mask", func(f *api.Finding) { f.Mask.Size = [3]int{1 << 31, 1 << 31, 4} }, "mask size"},
		{"short mask", func(f *api.Finding) { f.Mask.Bits = f.Mask.Bits[:1] }, "has 1 bytes, want 2"},
		{"mask spacing", func(f *api.Finding) { f.Mask.Spacing[0] = 0 }, "mask spacing"},
		{"mask origin", func(f *api.Finding) { f.Mask.Origin[0] = nan }, "mask origin"},
		{"site", func(f *api.Finding) { f.Site = "liver" }, "site"},
		{"short above long axis", func(f *api.Finding) { f.LongAxisMM, f.ShortAxisMM = 5, 6 }, "short_axis_mm"},
		{"NaN long axis", func(f *api.Finding) { f.LongAxisMM = nan }, "long_axis_mm"},
		{"negative volume", func(f *api.Finding) { f.VolumeMM3 = -1 }, "volume_mm3"},
		{"too many views", func(f *api.Finding) { f.Views = make([]api.View, 4) }, "4 views"},
		{"view without pixels", func(f *api.Finding) { f.Views = []api.View{{Columns: 2, Rows: 2}} }, "0 bytes, want 4"},
		{"endless view", func(f *api.Finding) { f.Views = []api.View{{Columns: 1 << 31, Rows: 1 << 31}} }, "columns"},
		{"view axis", func(f *api.Finding) {
			f.Views = []api.View{{Columns: 1, Rows: 1, Spacing: 1, ColumnAxis: [3]float64{1, 0, 0}, Pixels: []byte{0}}}
		}, "row axis"},
		{"mask axis", func(f *api.Finding) { f.Mask.Axes[2] = [3]float64{0, nan, 1} }, "mask axis 3"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := goodFinding()
			tt.change(&f)
			if err := f.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Validate = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestResultValidate(t *testing.T) {
	lim := api.DefaultLimits()
	beyond := 1.5
	tests := []struct {
		name   string
		result api.Result
		want   string // "" for none
	}{
		{"empty", api.Result{}, ""},
		{"two without id", api.Result{Findings: make([]api.Finding, 2)}, ""},
		{"same id", api.Result{Findings: []api.Finding{{ID: "a"}, {ID: "a"}}}, `finding 2: id "a" is used twice`},
		{"too many", api.Result{Findings: make([]api.Finding, 10_001)}, "at most 10000"},
		{"malignancy", api.Result{Malignancy: &beyond}, "malignancy is 1.5"},
		{"notes", api.Result{Notes: make([]string, 201)}, "201 notes"},
		{"long note", api.Result{Notes: []string{strings.Repeat("x", 1025)}}, "note is longer"},
		{"bad UTF-8", api.Result{Attributes: map[string]string{"\xff": ""}}, "attribute name"},
		{"attribute", api.Result{Attributes: map[string]string{"a": "\n"}}, "attribute value"},
		{"device", api.Result{Device: "\x00"}, "device"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.result.Validate(lim)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Validate = %v, want %q", err, tt.want)
			}
		})
	}
}

func TestDescriptionValidate(t *testing.T) {
	if err := goodDescription().Validate(); err != nil {
		t.Fatalf("good description: %v", err)
	}
	tests := []struct {
		name   string
		change func(*api.Description)
		want   string
	}{
		{"no name", func(d *api.Description) { d.Name = "" }, "name is empty"},
		{"name with slash", func(d *api.Description) { d.Name = "../x" }, "slash"},
		{"no version", func(d *api.Description) { d.Version = "" }, "version is empty"},
		{"kind", func(d *api.Description) { d.Kind = "oracle" }, `kind is "oracle"`},
		{"modality", func(d *api.Description) { d.Modalities = []string{""} }, "modality"},
		{"models", func(d *api.Description) { d.Models = make([]api.Model, 101) }, "more than 100"},
		{"hash", func(d *api.Description) { d.Models[0].SHA256 = "0a" }, "sha256 of model"},
		{"runtime", func(d *api.Description) { d.Runtime = "\n" }, "runtime"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d := goodDescription()
			tt.change(&d)
			if err := d.Validate(); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Validate = %v, want %q", err, tt.want)
			}
		})
	}
}

// CleanText never lets through what checkText refuses, and changes clean text no further.
func FuzzCleanText(f *testing.F) {
	for _, s := range []string{"", "plain", "a\nb\tc", "\x1b[31mred", "caf\xc3", "\u202egnp.exe", strings.Repeat("é", 50)} {
		f.Add(s, 20)
	}
	f.Fuzz(func(t *testing.T, s string, limit int) {
		if limit < 0 || limit > 1<<16 {
			return
		}
		got := api.CleanText(s, limit)
		if len(got) > limit || !utf8.ValidString(got) {
			t.Errorf("CleanText(%q, %d) = %q", s, limit, got)
		}
		if err := (api.Finding{Label: api.CleanText(s, 1024)}).Validate(); err != nil {
			t.Errorf("CleanText(%q, 1024): %v", s, err)
		}
		if again := api.CleanText(got, limit); again != got {
			t.Errorf("CleanText(%q, %d) = %q, then %q", s, limit, got, again)
		}
	})
}
