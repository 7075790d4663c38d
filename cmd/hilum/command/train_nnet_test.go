package command

import (
	"bytes"
	"encoding/csv"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"hilum/models"
	"hilum/models/ct"
	"hilum/trainer/npy"
	"hilum/trainer/prepare"
)

// simulateScans writes a folder as "hilum train prepare" does: noise, and in
// every second scan a ball of 10 voxels.
func simulateScans(t *testing.T, dir string) {
	t.Helper()
	const size, radius = 48, 5
	rng := rand.New(rand.NewPCG(1, 2))
	var cases []map[string]any
	for n := range 8 {
		voxels := npy.Array[uint8]{Shape: []int{1, size, size, size}, Data: make([]uint8, size*size*size)}
		label := npy.Array[float32]{Shape: []int{1, 4}, Data: make([]float32, 4)}
		for i := range voxels.Data {
			voxels.Data[i] = uint8(60 + rng.NormFloat64()*8)
		}
		if n%2 == 0 {
			at := [3]int{14 + rng.IntN(20), 14 + rng.IntN(20), 14 + rng.IntN(20)}
			for i := range voxels.Data {
				z, y, x := i/size/size-at[0], i/size%size-at[1], i%size-at[2]
				if z*z+y*y+x*x <= radius*radius {
					voxels.Data[i] = uint8(170 + rng.IntN(8))
				}
			}
			label.Data = []float32{float32(at[0]), float32(at[1]), float32(at[2]), 2 * radius}
		}
		uid := fmt.Sprintf("1.2.%d", n)
		clean, labels := uid+"_clean.npy", uid+"_label.npy"
		if err := npy.WriteFile(filepath.Join(dir, clean), voxels); err != nil {
			t.Fatal(err)
		}
		if err := npy.WriteFile(filepath.Join(dir, labels), label); err != nil {
			t.Fatal(err)
		}
		cases = append(cases, map[string]any{
			"uid": uid, "clean": map[string]string{"name": clean}, "label": map[string]string{"name": labels},
		})
	}
	text, err := json.Marshal(map[string]any{
		"format":   prepare.Format,
		"settings": map[string]any{"prepare": ct.DefaultPrepareSpec()},
		"cases":    cases,
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, prepare.ManifestFile), text, 0o600); err != nil {
		t.Fatal(err)
	}
}

// column returns a column of a run's log.csv.
func column(t *testing.T, run, name string) []float64 {
	t.Helper()
	f, err := os.Open(filepath.Join(run, "log.csv"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	rows, err := csv.NewReader(f).ReadAll()
	if err != nil || len(rows) < 3 {
		t.Fatalf("log.csv has %d rows: %v", len(rows), err)
	}
	for k, title := range rows[0] {
		if title != name {
			continue
		}
		var values []float64
		for _, row := range rows[1:] {
			v, err := strconv.ParseFloat(row[k], 64)
			if err != nil {
				t.Fatal(err)
			}
			values = append(values, v)
		}
		return values
	}
	t.Fatalf("log.csv has no column %s: %v", name, rows[0])
	return nil
}

// TestNNetAndCNet trains n-net on balls in noise until it finds them, and runs
// c-net on its proposals through two turns of both. That c-net learns is not
// shown here.
func TestNNetAndCNet(t *testing.T) {
	root, err := filepath.Abs("../../..")
	if err != nil {
		t.Fatal(err)
	}
	python := filepath.Join(root, ".cache", "torch", "bin", "python")
	if _, err := os.Stat(python); err != nil {
		t.Skip("needs PyTorch: make setup-trainer")
	}
	t.Setenv("HILUM_PYTHON", python)
	t.Setenv("OMP_NUM_THREADS", "1")
	t.Chdir(root)
	dir := t.TempDir()
	data, n, c := filepath.Join(dir, "data"), filepath.Join(dir, "n"), filepath.Join(dir, "c")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	simulateScans(t, data)
	command := func(args ...string) (int, string) {
		var out, said bytes.Buffer
		code := Main(append([]string{"train"}, args...), &out, &said)
		return code, out.String() + said.String()
	}
	if code, said := command("detector", "--tiny", "--out", n, data, "--", "--net", "n-net"); code != exitOK {
		t.Fatalf("n-net: exit %d: %s", code, said)
	}
	loss := column(t, n, "loss")
	if first, last := loss[0], loss[len(loss)-1]; last > 0.5*first {
		t.Errorf("n-net's loss goes from %g to %g: %v", first, last, loss)
	}
	if tpr := column(t, n, "tpr"); tpr[len(tpr)-1] < 0.9 {
		t.Errorf("n-net's tpr is %v", tpr)
	}
	checkpoint := filepath.Join(n, "checkpoint.pt")
	model := filepath.Join(dir, "model")
	if code, said := command("export", checkpoint, model); code != exitFailed || !strings.Contains(said, "--data") {
		t.Errorf("export without --data: exit %d: %s", code, said)
	}
	if code, said := command("export", checkpoint, model, "--", "--data", "balls in noise"); code != exitOK {
		t.Fatalf("export: exit %d: %s", code, said)
	}
	if m, err := models.Load(model); err != nil || m.Input.Place == "" {
		t.Errorf("the exported n-net: place %q, %v", m.Input.Place, err)
	}
	if code, said := command("classifier", "--tiny", "--set", "loop.steps=8", "--set", "loop.log_every=4", "--out", c, data, "--", "--net", "c-net", "--init", checkpoint); code != exitOK {
		t.Fatalf("c-net: exit %d: %s", code, said)
	}
	for _, name := range []string{"loss", "loss2", "miss", "acc", "tpn", "fpn", "fnn"} {
		if values := column(t, c, name); len(values) != 2 {
			t.Errorf("c-net's %s is %v, want both lines", name, values)
		}
	}
	if code, said := command("classifier", "--tiny", "--out", dir, data, "--", "--net", "c-net"); code != exitFailed || !strings.Contains(said, "--init") {
		t.Errorf("c-net without n-net: exit %d: %s", code, said)
	}
}
