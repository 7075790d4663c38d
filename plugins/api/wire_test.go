package api

import (
	"math"
	"reflect"
	"runtime"
	"testing"

	"google.golang.org/protobuf/proto"

	"hilum/plugins/api/pluginpb"
)

// maxGrowth bounds the memory that decoding one finding may take: a constant
// and a multiple of its bytes.
const maxGrowth = 64

// FuzzFinding feeds bytes of a plugin to the decoder. What Validate lets
// through holds only finite numbers and survives the way back and forth.
func FuzzFinding(f *testing.F) {
	malignancy := 0.5
	for _, seed := range []Finding{
		{},
		{ID: "a", Center: [3]float64{1, -2, 3}, Size: [3]float64{4, 5, 6}, DiameterMM: 5, Probability: 0.5, Malignancy: &malignancy, Texture: TextureGroundGlass, TextureProbability: 0.75, Label: "nodule"},
		{Mask: &Mask{Size: [3]int{2, 2, 2}, Spacing: [3]float64{1, 1, 1}, Axes: [3][3]float64{{1, 0, 0}, {0, 1, 0}, {0, 0, 1}}, Bits: []byte{7}}},
		{Site: SiteLeftLung, LongAxisMM: 9, ShortAxisMM: 7, VolumeMM3: 250, Views: []View{{
			Columns: 2, Rows: 1, Spacing: 0.5, ColumnAxis: [3]float64{1, 0, 0}, RowAxis: [3]float64{0, 1, 0}, Pixels: []byte{1, 2},
		}}},
		{Probability: math.NaN(), Center: [3]float64{math.Inf(-1)}},
	} {
		b, err := proto.Marshal(findingToWire(seed))
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		var in pluginpb.Finding
		if proto.Unmarshal(b, &in) != nil {
			return
		}
		got := findingFromWire(&in)
		err := got.Validate()
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > 1<<20+maxGrowth*uint64(len(b)) {
			t.Errorf("%d bytes took %d bytes of memory", len(b), grown)
		}
		if err != nil {
			return
		}
		for _, v := range append(append([]float64{got.DiameterMM, got.Probability, got.TextureProbability}, got.Center[:]...), got.Size[:]...) {
			if math.IsNaN(v) || math.IsInf(v, 0) {
				t.Errorf("Validate let %v through", v)
			}
		}
		if again := findingFromWire(findingToWire(got)); !reflect.DeepEqual(again, got) {
			t.Errorf("crossing twice = %+v, want %+v", again, got)
		}
	})
}
