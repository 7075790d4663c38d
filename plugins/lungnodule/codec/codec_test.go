package codec

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"hilum/models/ct"
)

const testRows, testColumns = 24, 32

// pattern is the image that the files in testdata hold.
func pattern(kind string) ([]uint16, ct.PixelInfo) {
	info := ct.PixelInfo{Rows: testRows, Columns: testColumns, BitsStored: 12, HighBit: 11}
	out := make([]uint16, testRows*testColumns)
	for i := range out {
		x, y := i%testColumns, i/testColumns
		v := (x*97 + y*61 + x*y*7%251) % 4096
		switch kind {
		case "s16":
			v = 5*v - 10000
		case "u8":
			v /= 16
		}
		out[i] = uint16(v)
	}
	switch kind {
	case "s16":
		info.BitsStored, info.HighBit, info.Signed = 16, 15, true
	case "u8":
		info.BitsStored, info.HighBit = 8, 7
	}
	return out, info
}

func frame(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func syntaxOf(name string) string {
	if strings.HasSuffix(name, ".jls") {
		return JPEGLSLossless
	}
	return JPEG2000Lossless
}

func TestDecode(t *testing.T) {
	for _, tt := range []struct {
		name string
		off  int // largest difference to the pattern
	}{
		{"u12.jls", 0}, {"s16.jls", 0}, {"u8.jls", 0}, {"s16-gdcm.jls", 0}, {"u12-near2.jls", 2},
		{"u12.j2k", 0}, {"u8.j2k", 0}, {"s16-gdcm.j2k", 0}, {"u12-tiles.j2k", 0}, {"u12.jp2", 0},
		{"u12-lossy.j2k", 400}, // at 2:1, of a pattern with jumps of 4096
	} {
		t.Run(tt.name, func(t *testing.T) {
			kind, _, _ := strings.Cut(strings.ReplaceAll(tt.name, "-", "."), ".")
			want, info := pattern(kind)
			got, err := Decode(syntaxOf(tt.name), frame(t, tt.name), info)
			if err != nil {
				t.Fatal(err)
			}
			if len(got) != 2*len(want) {
				t.Fatalf("%d bytes, want %d", len(got), 2*len(want))
			}
			for i, w := range want {
				g := binary.LittleEndian.Uint16(got[2*i:])
				if d := int(g) - int(w); d > tt.off || -d > tt.off {
					t.Fatalf("sample %d = %d, want %d within %d", i, g, w, tt.off)
				}
			}
		})
	}
}

// TestDecodeParallel holds that images are decoded side by side.
func TestDecodeParallel(t *testing.T) {
	_, info := pattern("u12")
	var wg sync.WaitGroup
	for _, name := range []string{"u12.jls", "u12.j2k", "u12.jls", "u12.j2k"} {
		b := frame(t, name)
		want, err := Decode(syntaxOf(name), b, info)
		if err != nil {
			t.Fatal(err)
		}
		wg.Go(func() {
			for range 20 {
				if got, err := Decode(syntaxOf(name), b, info); err != nil || !bytes.Equal(got, want) {
					t.Errorf("%s: other pixels beside other decodings, %v", name, err)
				}
			}
		})
	}
	wg.Wait()
}

func TestDecodeRefuses(t *testing.T) {
	_, u12 := pattern("u12")
	_, s16 := pattern("s16")
	wide := u12
	wide.Columns++
	big := ct.PixelInfo{Rows: 4096, Columns: 4096, BitsStored: 12, HighBit: 11}
	for _, tt := range []struct {
		name, file, words string
		info              ct.PixelInfo
		change            func(b []byte) []byte
	}{
		{"size", "u12.jls", "32 × 24", wide, nil},
		{"size", "u12.j2k", "32 × 24", wide, nil},
		{"sign", "u12.jls", "12 bits", s16, nil},
		{"sign", "u12.j2k", "12 bits", s16, nil},
		{"empty", "u12.jls", "cut short", u12, func([]byte) []byte { return nil }},
		{"empty", "u12.j2k", "do not begin", u12, func([]byte) []byte { return nil }},
		{"other codec", "u12.j2k", "do not begin", u12, func([]byte) []byte { return frame(t, "u12.jls") }},
		{"other codec", "u12.jls", "JPEG-LS", u12, func([]byte) []byte { return frame(t, "u12.j2k") }},
		{"damaged", "u12.jls", "JPEG-LS", u12, func(b []byte) []byte {
			return append(b[:60:60], append(bytes.Repeat([]byte{0xFF, 0x7F}, 400), 0xFF, 0xD9)...)
		}},
		{"three components", "u12.j2k", "3 components", u12, func(b []byte) []byte { b[41] = 3; return b }},
		{"a million tiles", "u12.j2k", "tiles", big, func(b []byte) []byte { return tiles(sized(b, 4096), 4) }},
		{"tiles of no pixels", "u12.j2k", "damaged", u12, func(b []byte) []byte { return tiles(b, 0) }},
		{"a million precincts", "u12-precinct1.j2k", "precincts", big, func(b []byte) []byte { return tiles(sized(b, 4096), 4096) }},
		{"precincts of one pixel", "u12-precinct1.j2k", "JPEG 2000", u12, nil},
		{"layers and precincts", "u12-tiles.j2k", "layers", big, func(b []byte) []byte {
			b = tiles(sized(b, 4096), 4096)
			at := bytes.Index(b, []byte{0xFF, 0x52})
			b[at+6], b[at+7] = 0xFF, 0xFF
			return b
		}},
		{"a box beyond the file", "u12.jp2", "early", u12, func(b []byte) []byte { b[12] = 0x7F; return b }},
		{"a file without codestream", "u12.jp2", "no codestream", u12, func(b []byte) []byte { return b[:12] }},
	} {
		t.Run(tt.file+" "+tt.name, func(t *testing.T) {
			b := frame(t, tt.file)
			if tt.change != nil {
				b = tt.change(b)
			}
			out, err := Decode(syntaxOf(tt.file), b, tt.info)
			if err == nil || out != nil || !strings.Contains(err.Error(), tt.words) {
				t.Errorf("Decode = %d bytes, %v, want an error with %q", len(out), err, tt.words)
			}
		})
	}
	if _, err := Decode("1.2.840.10008.1.2.4.50", nil, u12); err == nil {
		t.Error("JPEG baseline decodes")
	}
}

// sized returns b with an image of n × n pixels in its SIZ.
func sized(b []byte, n uint32) []byte {
	binary.BigEndian.PutUint32(b[8:], n)
	binary.BigEndian.PutUint32(b[12:], n)
	return b
}

// tiles returns b with tiles of n × n pixels.
func tiles(b []byte, n uint32) []byte {
	binary.BigEndian.PutUint32(b[24:], n)
	binary.BigEndian.PutUint32(b[28:], n)
	return b
}

// TestDecodeCut holds that no image is made of half a codestream.
func TestDecodeCut(t *testing.T) {
	_, info := pattern("u12")
	for _, name := range []string{"u12.jls", "u12.j2k", "u12-tiles.j2k", "u12.jp2"} {
		b := frame(t, name)
		end := len(b) - 2 // the end marker
		if b[len(b)-1] == 0 {
			end-- // padding
		}
		for n := range end {
			if _, err := Decode(syntaxOf(name), b[:n:n], info); err == nil {
				t.Errorf("%s cut at %d of %d decodes", name, n, len(b))
			}
			if strings.HasSuffix(name, ".jls") { // the end marker, but not all before it
				if _, err := Decode(syntaxOf(name), append(b[:n:n], 0xFF, 0xD9), info); err == nil {
					t.Errorf("%s cut at %d of %d and ended decodes", name, n, len(b))
				}
			}
		}
	}
}

// FuzzDecode holds for both libraries: pixels of the right size or an error,
// no crash, and Go memory in proportion to the image.
func FuzzDecode(f *testing.F) {
	files, err := filepath.Glob("testdata/*.j*")
	if err != nil || len(files) == 0 {
		f.Fatalf("testdata holds no frames: %v", err)
	}
	for _, name := range files {
		f.Add(strings.HasSuffix(name, ".jls"), strings.Contains(name, "s16"), frame(f, filepath.Base(name)))
	}
	f.Fuzz(func(t *testing.T, jpegls, signed bool, data []byte) {
		_, info := pattern(map[bool]string{true: "s16", false: "u12"}[signed])
		syntax := map[bool]string{true: JPEGLSLossless, false: JPEG2000Lossless}[jpegls]
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		out, err := Decode(syntax, data, info)
		runtime.ReadMemStats(&after)
		if (err == nil) != (len(out) == 2*testRows*testColumns) {
			t.Errorf("%d bytes and error %v", len(out), err)
		}
		if got := after.TotalAlloc - before.TotalAlloc; got > 1<<16 {
			t.Errorf("%d bytes of data made %d bytes of memory", len(data), got)
		}
	})
}
