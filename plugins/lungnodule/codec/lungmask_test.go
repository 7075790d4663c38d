package codec_test

import (
	"encoding/json"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"hilum/models/ct"
	"hilum/plugins/lungnodule/codec"
)

// leastDice is the overlap with the reference that a lung mask must have.
const leastDice = 0.95

// nodules are those of LUNA16's annotations.csv in the series: LPS mm and
// diameter.
var nodules = map[string][][4]float64{
	"lidc-0001": {{56.20840547, 86.34341278, -115.8675792, 23.35064438}},
}

// TestLungMaskAgainstReference compares the lung masks of real series with those
// that SimpleITK makes by another method. HILUM_PICTURES names a folder for
// pictures of both.
func TestLungMaskAgainstReference(t *testing.T) {
	if testing.Short() {
		t.Skip("the reference takes more than a minute")
	}
	interpreter := os.Getenv("HILUM_PYTHON")
	if interpreter == "" || exec.CommandContext(t.Context(), interpreter, "-c", "import SimpleITK, numpy").Run() != nil {
		t.Skip("HILUM_PYTHON names no interpreter with SimpleITK and NumPy (pip install SimpleITK)")
	}
	for _, series := range []string{"lidc-0001", "lidc-0002-j2k", "ct-chest-siemens", "ct-chest-ge-jpegls", "lungfcp-jpegls"} {
		t.Run(series, func(t *testing.T) {
			v, err := ct.LoadSeries(t.Context(), seriesFolder(t, series), ct.Options{Decoder: codec.Decode})
			if err != nil {
				t.Fatal(err)
			}
			m, err := ct.LungMask(v, 0)
			if err != nil {
				t.Fatal(err)
			}
			for _, n := range nodules[series] {
				holdsNodule(t, v, m, n)
			}
			dir := t.TempDir()
			scan, mask := filepath.Join(dir, "ct.mha"), filepath.Join(dir, "mask.mha")
			if err := ct.WriteMetaImage(scan, v, false); err != nil {
				t.Fatal(err)
			}
			for i, b := range m.Bits {
				v.HU[i] = int16(b)
			}
			if err := ct.WriteMetaImage(mask, v, false); err != nil {
				t.Fatal(err)
			}
			args := []string{filepath.Join(root, "trainer", "torch", "bench", "lungmask_reference.py"), scan, mask}
			if pictures := os.Getenv("HILUM_PICTURES"); pictures != "" {
				args = append(args, "--picture", filepath.Join(pictures, series+".png"))
			}
			said, err := exec.CommandContext(t.Context(), interpreter, args...).Output()
			if err != nil {
				t.Fatalf("lungmask_reference.py: %v\n%s", err, said)
			}
			var result struct {
				Dice        float64 `json:"dice"`
				OursML      float64 `json:"ours_ml"`
				ReferenceML float64 `json:"reference_ml"`
			}
			if err := json.Unmarshal(said, &result); err != nil {
				t.Fatal(err)
			}
			t.Logf("Dice %.4f, ours %.0f mL, reference %.0f mL", result.Dice, result.OursML, result.ReferenceML)
			if result.Dice < leastDice {
				t.Errorf("Dice with the reference = %.4f, want %.2f", result.Dice, leastDice)
			}
		})
	}
}

// holdsNodule holds that the whole of a nodule, which is what is no air within
// its ball, is in the mask.
func holdsNodule(t *testing.T, v *ct.Volume, m *ct.Mask, nodule [4]float64) {
	t.Helper()
	inside, all := 0, 0
	for n, hu := range v.HU {
		p := v.World(float64(n%v.Size[0]), float64(n/v.Size[0]%v.Size[1]), float64(n/(v.Size[0]*v.Size[1])))
		d := math.Hypot(math.Hypot(p[0]-nodule[0], p[1]-nodule[1]), p[2]-nodule[2])
		if d < nodule[3]/2 && hu > -400 {
			all++
			inside += int(m.Bits[n])
		}
	}
	t.Logf("%d of %d voxels of the nodule are in the mask", inside, all)
	if all == 0 || inside < all {
		t.Errorf("%d of %d voxels of the nodule are in the mask", inside, all)
	}
}
