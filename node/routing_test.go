package node

import (
	"slices"
	"testing"

	"hilum/node/config"
	"hilum/plugins/api"
)

func TestDevicesFor(t *testing.T) {
	all := []string{"cuda:0", "cuda:1", "cpu"}
	for _, tt := range []struct {
		name            string
		fallback        string
		offered, failed []string
		want            []string
	}{
		{"best kind only", config.FallbackFailed, nil, nil, []string{"cuda:0", "cuda:1"}},
		{"one failed", config.FallbackFailed, nil, []string{"cuda:0"}, []string{"cuda:1"}},
		{"both failed", config.FallbackFailed, nil, []string{"cuda:0", "cuda:1"}, []string{"cpu"}},
		{"all failed", config.FallbackFailed, nil, all, []string{"cuda:0", "cuda:1"}},
		{"plugin without CUDA", config.FallbackFailed, []string{"cpu"}, nil, []string{"cpu"}},
		{"plugin says the kind", config.FallbackFailed, []string{"cpu", "cuda"}, nil, []string{"cuda:0", "cuda:1"}},
		{"busy", config.FallbackBusy, nil, nil, all},
		{"busy, one failed", config.FallbackBusy, nil, []string{"cuda:1"}, []string{"cuda:0", "cpu"}},
		{"never", config.FallbackNever, nil, []string{"cuda:0", "cuda:1"}, []string{"cuda:0", "cuda:1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := devicesFor(config.Plugin{Devices: all, Fallback: tt.fallback}, tt.offered, tt.failed)
			if !slices.Equal(got, tt.want) {
				t.Errorf("devices = %q, want %q", got, tt.want)
			}
		})
	}
}

func TestHandOn(t *testing.T) {
	malignancy := 0.7
	before := api.Result{
		Findings:    []api.Finding{{ID: "1", Label: "solid", Mask: &api.Mask{}}, {ID: "2"}},
		Description: api.Description{Name: "det", Version: "1", Kind: api.KindDetector, Models: []api.Model{{Name: "d"}}},
		Device:      "cuda:0", Notes: []string{"a"}, Attributes: map[string]string{"x": "1"},
	}
	next := api.Result{
		Findings:    []api.Finding{{ID: "1", Malignancy: &malignancy}},
		Description: api.Description{Name: "cls", Version: "2", Kind: api.KindClassifier, Models: []api.Model{{Name: "c"}}},
		Device:      "cpu", Notes: []string{"b"},
	}
	got := handOn(before, next, false)
	if len(got.Findings) != 1 || got.Findings[0].Mask == nil || got.Findings[0].Label != "solid" || *got.Findings[0].Malignancy != malignancy {
		t.Errorf("findings = %+v", got.Findings)
	}
	if d := got.Description; d.Name != "det+cls" || d.Kind != api.KindDetector || len(d.Models) != 2 || got.Device != "cuda:0+cpu" || len(got.Notes) != 2 || got.Attributes["x"] != "1" {
		t.Errorf("result = %+v", got)
	}
}
