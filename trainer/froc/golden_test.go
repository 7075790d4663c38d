package froc_test

import (
	"math"
	"os"
	"path/filepath"
	"testing"

	"hilum/trainer/froc"
	"hilum/trainer/luna"
)

// tables finds LUNA16's tables in the shared data beside the checkout, which
// HILUM_DATA may name.
func tables(tb testing.TB) string {
	tb.Helper()
	dir := os.Getenv("HILUM_DATA")
	if dir == "" {
		dir = filepath.Join("..", "..", "..", "shared", "data")
	}
	dir = filepath.Join(dir, "luna16")
	if _, err := os.Stat(dir); err != nil {
		tb.Skip("LUNA16's tables are not here: they are looked for in ../shared/data/luna16 beside the checkout, or in $HILUM_DATA/luna16")
	}
	return dir
}

func read(tb testing.TB, dir string) froc.Input {
	tb.Helper()
	var in froc.Input
	var errs [4]error
	in.Scans, errs[0] = luna.ReadScans(filepath.Join(dir, "seriesuids.csv"))
	in.Nodules, errs[1] = luna.ReadAnnotations(filepath.Join(dir, "annotations.csv"))
	in.Excluded, errs[2] = luna.ReadExcluded(filepath.Join(dir, "annotations_excluded.csv"))
	in.Marks, errs[3] = luna.ReadPredictions(filepath.Join(dir, "deeplung-dpn26-predictions.csv"))
	for _, err := range errs {
		if err != nil {
			tb.Fatal(err)
		}
	}
	return in
}

// TestGolden: a published detector's marks on all of LUNA16. The values were
// reckoned by the challenge's protocol in another implementation, the interval
// by NumPy with 6,000 samples.
func TestGolden(t *testing.T) {
	r, err := froc.Evaluate(read(t, tables(t)), froc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if math.Abs(r.CPM-0.84197) > 5e-6 {
		t.Errorf("CPM = %.6f, want 0.84197", r.CPM)
	}
	for i, want := range [7]float64{.6922, .7690, .8238, .8651, .8929, .9174, .9334} {
		if math.Abs(r.Sensitivity[i]-want) > 5e-5 {
			t.Errorf("sensitivity at %v = %.5f, want %.4f", froc.Rates()[i], r.Sensitivity[i], want)
		}
	}
	got := [6]int{r.Scans, r.PositiveScans, r.TP, r.FN, r.FP, r.Ignored}
	if want := [6]int{888, 601, 1136, 50, 48907, 5444}; got != want {
		t.Errorf("scans, positive scans, TP, FN, FP, ignored = %v, want %v", got, want)
	}
	if !(math.Abs(r.CPMLow-0.8132) < 0.004 && math.Abs(r.CPMHigh-0.8676) < 0.004) {
		t.Errorf("interval %v … %v", r.CPMLow, r.CPMHigh)
	}
}

func BenchmarkGolden(b *testing.B) {
	dir := tables(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := froc.Evaluate(read(b, dir), froc.Options{}); err != nil {
			b.Fatal(err)
		}
	}
}
