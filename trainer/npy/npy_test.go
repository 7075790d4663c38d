package npy_test

import (
	"bytes"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"hilum/trainer/npy"
)

func encode[T npy.Value](t testing.TB, shape []int, data []T) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := npy.Write(&b, npy.Array[T]{Shape: shape, Data: data}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func roundTrip[T npy.Value](t *testing.T, shape []int, data ...T) {
	t.Helper()
	b := encode(t, shape, data)
	if (bytes.IndexByte(b, '\n')+1)%64 != 0 {
		t.Errorf("the data do not start at a multiple of 64 bytes")
	}
	a, err := npy.Read[T](bytes.NewReader(b), 0)
	if err != nil || !slices.Equal(a.Shape, shape) || !slices.Equal(a.Data, data) {
		t.Errorf("Read(Write(%v, %v)) = %v, %v", shape, data, a, err)
	}
}

func TestRoundTrip(t *testing.T) {
	roundTrip(t, []int{1, 2, 1, 3}, []uint8{0, 1, 127, 128, 254, 255}...)
	roundTrip(t, []int{2}, []int8{-128, 127}...)
	roundTrip(t, []int{3}, []int16{math.MinInt16, 0, math.MaxInt16}...)
	roundTrip(t, []int{2}, []uint16{0, 65535}...)
	roundTrip(t, []int{2, 1}, []int32{math.MinInt32, 7}...)
	roundTrip(t, []int{1}, []uint32{math.MaxUint32}...)
	roundTrip(t, []int{1}, []int64{math.MinInt64}...)
	roundTrip(t, []int{1}, []uint64{math.MaxUint64}...)
	roundTrip(t, []int{2}, []float32{-0.5, 3e38}...)
	roundTrip(t, []int{1, 4}, []float64{1, 2, 3.5, math.Inf(1)}...)
	roundTrip(t, []int{}, []float64{4}...)
	roundTrip[int16](t, []int{0, 4})
	roundTrip(t, []int{200_000}, make([]float64, 200_000)...)
}

// file puts a header of version 1 before data.
func file(text, data string) string {
	return "\x93NUMPY\x01\x00" + string([]byte{byte(len(text)), byte(len(text) >> 8)}) + text + data
}

func TestRead(t *testing.T) {
	for _, tt := range []struct {
		name, in, want string // want: part of the error, "" for the value 258
	}{
		{"version 1", file("{'descr': '<i2', 'fortran_order': False, 'shape': (1,), }\n", "\x02\x01"), ""},
		{"version 2", "\x93NUMPY\x02\x00\x39\x00\x00\x00{'descr': '<i2', 'fortran_order': False, 'shape': (1,)}\n\n\x02\x01", ""},
		{"big endian, other order", file("{'shape': (1,), 'fortran_order': False, 'descr': '>i2'}   \n", "\x01\x02"), ""},
		{"scalar", file("{'descr': '<i2', 'fortran_order': False, 'shape': ()}\n", "\x02\x01"), ""},
		{"short", file("{'descr': '<i2', 'fortran_order': False, 'shape': (2,)}\n", "\x02\x01\x00"), "ends before"},
		{"long", file("{'descr': '<i2', 'fortran_order': False, 'shape': (1,)}\n", "\x02\x01\x00"), "goes on"},
		{"huge", file("{'descr': '<i2', 'fortran_order': False, 'shape': (1000000, 1000000)}\n", ""), "more than"},
		{"overflow", file("{'descr': '<i2', 'fortran_order': False, 'shape': (4294967296, 4294967296)}\n", ""), "larger than any memory"},
		{"claims much", file("{'descr': '<i2', 'fortran_order': False, 'shape': (1000000000,)}\n", "\x02\x01"), "ends before"},
		{"other type", file("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}\n", "\x02\x01\x00\x00"), "type f4 where i2"},
		{"no byte order", file("{'descr': '|i2', 'fortran_order': False, 'shape': (1,)}\n", "\x02\x01"), "order of bytes"},
		{"objects", file("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}\n", "\x02\x01"), "not read"},
		{"records", file("{'descr': [('a', '<i2')], 'fortran_order': False, 'shape': (1,)}\n", "\x02\x01"), "records"},
		{"Fortran", file("{'descr': '<i2', 'fortran_order': True, 'shape': (1,)}\n", "\x02\x01"), "Fortran"},
		{"twice", file("{'descr': '<i2', 'descr': '<i2', 'fortran_order': False, 'shape': (1,)}\n", "\x02\x01"), "header"},
		{"missing", file("{'descr': '<i2', 'shape': (1,)}\n", "\x02\x01"), "header"},
		{"unknown key", file("{'descr': '<i2', 'fortran_order': False, 'shape': (1,), 'x': 1}\n", "\x02\x01"), "header"},
		{"not a tuple", file("{'descr': '<i2', 'fortran_order': False, 'shape': (1)}\n", "\x02\x01"), "header"},
		{"negative", file("{'descr': '<i2', 'fortran_order': False, 'shape': (-1,)}\n", ""), "header"},
		{"text behind", file("{'descr': '<i2', 'fortran_order': False, 'shape': (1,)} x\n", "\x02\x01"), "header"},
		{"version 3", "\x93NUMPY\x03\x00\x00\x00\x00\x00", "version 3.0"},
		{"header cut", "\x93NUMPY\x01\x00\xff\x00{", "header"},
		{"header too long", "\x93NUMPY\x02\x00\xff\xff\xff\xff{", "bytes, more than"},
		{"something else", "PK\x03\x04 something", "no .npy"},
		{"empty", "", "no .npy"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			a, err := npy.Read[int16](strings.NewReader(tt.in), 4<<30)
			if tt.want == "" {
				if err != nil || len(a.Data) != 1 || a.Data[0] != 258 {
					t.Errorf("Read = %v, %v, want 258", a, err)
				}
			} else if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("Read = %v, %v, want an error with %q", a, err, tt.want)
			}
		})
	}
}

func TestWriteRefusesAnotherCount(t *testing.T) {
	if err := npy.Write(&bytes.Buffer{}, npy.Array[uint8]{Shape: []int{2, 2}, Data: make([]uint8, 3)}); err == nil {
		t.Error("Write of 3 values as 2 × 2 = nil, want an error")
	}
}

func TestWriteFileLeavesNothingHalf(t *testing.T) {
	dir := t.TempDir()
	name := filepath.Join(dir, "a.npy")
	if err := npy.WriteFile(name, npy.Array[uint8]{Shape: []int{3}, Data: make([]uint8, 2)}); err == nil {
		t.Error("WriteFile of a wrong shape = nil")
	}
	if err := npy.WriteFile(name, npy.Array[uint8]{Shape: []int{2}, Data: []uint8{1, 2}}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 {
		t.Errorf("%v, %v in the folder, want only a.npy", entries, err)
	}
	if a, err := npy.ReadFile[uint8](name); err != nil || !slices.Equal(a.Data, []uint8{1, 2}) {
		t.Errorf("ReadFile = %v, %v", a, err)
	}
}

// TestNumPyAgrees lets NumPy read our files and write some for us.
func TestNumPyAgrees(t *testing.T) {
	python := os.Getenv("HILUM_PYTHON")
	if python == "" {
		t.Skip("HILUM_PYTHON names no interpreter with NumPy (make setup)")
	}
	dir := t.TempDir()
	if err := npy.WriteFile(filepath.Join(dir, "ours.npy"), npy.Array[float64]{Shape: []int{2, 3}, Data: []float64{1, 2, 3, 4, 5, 6.5}}); err != nil {
		t.Fatal(err)
	}
	script := `
import numpy as np
a = np.load("ours.npy")
assert a.dtype == np.float64 and a.flags.c_contiguous and a.tolist() == [[1, 2, 3], [4, 5, 6.5]], a
np.save("one.npy", np.arange(24, dtype=np.int16).reshape(2, 3, 4))
with open("two.npy", "wb") as f:
    np.lib.format.write_array(f, np.arange(24, dtype=np.int16).reshape(2, 3, 4), version=(2, 0))
np.save("big.npy", np.arange(24, dtype=">i2").reshape(2, 3, 4))
open("same.npy", "wb").close()
np.save("same.npy", a)
assert open("same.npy", "rb").read() == open("ours.npy", "rb").read()
`
	cmd := exec.CommandContext(t.Context(), python, "-c", script)
	cmd.Dir = dir
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("NumPy: %v\n%s", err, said)
	}
	for _, name := range []string{"one", "two", "big"} {
		a, err := npy.ReadFile[int16](filepath.Join(dir, name+".npy"))
		if err != nil || !slices.Equal(a.Shape, []int{2, 3, 4}) || a.Data[23] != 23 {
			t.Errorf("%s.npy = %v, %v", name, a, err)
		}
	}
}

func FuzzRead(f *testing.F) {
	f.Add(encode(f, []int{2, 2}, []float64{1, 2, 3, 4}))
	f.Add([]byte(file("{'descr': '>f8', 'fortran_order': False, 'shape': (1000000000,)}\n", "\x02\x01")))
	f.Add([]byte("\x93NUMPY\x02\x00\x39\x00\x00\x00{'descr': '<f8', 'fortran_order': False, 'shape': (0,)}\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		a, err := npy.Read[float64](bytes.NewReader(in), 0)
		runtime.ReadMemStats(&after)
		if grown := after.TotalAlloc - before.TotalAlloc; grown > uint64(8*len(in))+4<<20 {
			t.Errorf("%d bytes allocated for a file of %d", grown, len(in))
		}
		if err != nil {
			return
		}
		again, err := npy.Read[float64](bytes.NewReader(encode(t, a.Shape, a.Data)), 0)
		if err != nil || !slices.Equal(a.Shape, again.Shape) || len(a.Data) != len(again.Data) {
			t.Errorf("Read(Write(%v)) = %v, %v", a.Shape, again.Shape, err)
		}
		for n := range a.Data {
			if math.Float64bits(a.Data[n]) != math.Float64bits(again.Data[n]) {
				t.Errorf("value %d = %v, want %v", n, again.Data[n], a.Data[n])
			}
		}
	})
}
