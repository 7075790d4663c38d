package ct

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"
)

// jpegImage is a lossless JPEG to be written by encode, which exists for what
// DCMTK and GDCM do not write: restart markers, point transforms, fill bytes.
type jpegImage struct {
	rows, columns, precision, predictor, transform, restart int // restart in lines
}

// encode writes samples with 17 codes of five bits.
func (j jpegImage) encode(samples []uint16) []byte {
	b := []byte{0xFF, 0xD8, 0xFF, 0xFE, 0, 4, 'h', 'i'}
	b = append(b, 0xFF, 0xFF, 0xC3, 0, 11, byte(j.precision)) // with a fill byte
	b = binary.BigEndian.AppendUint16(b, uint16(j.rows))
	b = binary.BigEndian.AppendUint16(b, uint16(j.columns))
	b = append(b, 1, 1, 0x11, 0)
	b = append(b, 0xFF, 0xC4, 0, 19+17, 0, 0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0)
	for c := range 17 {
		b = append(b, byte(c))
	}
	if j.restart > 0 {
		b = append(b, 0xFF, 0xDD, 0, 4)
		b = binary.BigEndian.AppendUint16(b, uint16(j.restart*j.columns))
	}
	b = append(b, 0xFF, 0xDA, 0, 8, 1, 1, 0, byte(j.predictor), 0, byte(j.transform))
	var acc uint64
	var have int
	put := func(v uint64, n int) {
		acc, have = acc<<n|v&(1<<n-1), have+n
		for ; have >= 8; have -= 8 {
			b = append(b, byte(acc>>(have-8)))
			if b[len(b)-1] == 0xFF {
				b = append(b, 0)
			}
		}
	}
	flush := func() {
		if have > 0 {
			put(1<<(8-have)-1, 8-have)
		}
	}
	at := func(y, x int) int { return int(samples[y*j.columns+x] >> j.transform) }
	for y := range j.rows {
		first := y == 0
		if j.restart > 0 && y%j.restart == 0 && y > 0 {
			flush()
			b = append(b, 0xFF, 0xD0+byte((y/j.restart-1)%8))
			first = true
		}
		for x := range j.columns {
			var p int
			switch {
			case first && x == 0:
				p = 1 << (j.precision - j.transform - 1)
			case first:
				p = at(y, x-1)
			case x == 0:
				p = at(y-1, 0)
			default:
				left, above, corner := at(y, x-1), at(y-1, x), at(y-1, x-1)
				p = []int{0, left, above, corner, left + above - corner, left + (above-corner)>>1, above + (left-corner)>>1, (left + above) >> 1}[j.predictor]
			}
			diff := int(int16(at(y, x) - p))
			if diff == -32768 {
				put(16, 5)
				continue
			}
			category := bits.Len(uint(max(diff, -diff)))
			put(uint64(category), 5)
			if diff < 0 {
				diff += 1<<category - 1
			}
			put(uint64(diff), category)
		}
	}
	flush()
	return append(b, 0xFF, 0xD9)
}

// noise is an image whose neighbours differ by everything from 0 to 2ⁿ.
func noise(rows, columns, precision int) []uint16 {
	r := rand.New(rand.NewPCG(1, uint64(precision)))
	out := make([]uint16, rows*columns)
	for i := range out {
		out[i] = uint16(r.Uint32()>>r.IntN(16)) & uint16(1<<precision-1)
	}
	return out
}

func TestJPEGLossless(t *testing.T) {
	for precision := 2; precision <= 16; precision += 2 {
		for predictor := 1; predictor <= 7; predictor++ {
			for _, restart := range []int{0, 1, 3} {
				for _, transform := range []int{0, 1} {
					j := jpegImage{31, 17, precision, predictor, transform, restart}
					want := noise(j.rows, j.columns, precision)
					for i := range want {
						want[i] = want[i] >> transform << transform
					}
					got, err := decodeJPEGLossless(j.encode(want), PixelInfo{Rows: j.rows, Columns: j.columns, BitsStored: precision, HighBit: precision - 1})
					if err != nil {
						t.Fatalf("%+v: %v", j, err)
					}
					if !slices.Equal(samplesOf(got), want) {
						t.Fatalf("%+v: other samples come back", j)
					}
				}
			}
		}
	}
}

func samplesOf(cells []byte) []uint16 {
	out := make([]uint16, len(cells)/2)
	for i := range out {
		out[i] = binary.LittleEndian.Uint16(cells[2*i:])
	}
	return out
}

func TestJPEGLosslessRefuses(t *testing.T) {
	j := jpegImage{rows: 16, columns: 16, precision: 12, predictor: 1, restart: 4}
	good := j.encode(noise(16, 16, 12))
	info := PixelInfo{Rows: 16, Columns: 16, BitsStored: 12, HighBit: 11}
	if _, err := decodeJPEGLossless(good, info); err != nil {
		t.Fatal(err)
	}
	change := func(old, new string) []byte {
		if !bytes.Contains(good, []byte(old)) {
			t.Fatalf("the image does not hold %q", old)
		}
		return bytes.Replace(good, []byte(old), []byte(new), 1)
	}
	for name, data := range map[string][]byte{
		"empty":                nil,
		"baseline":             change("\xFF\xC3", "\xFF\xC0"),
		"arithmetic":           change("\xFF\xC3", "\xFF\xCB"),
		"other size":           change("\x00\x10\x00\x10\x01", "\x00\x10\x00\x11\x01"),
		"two components":       change("\x00\x10\x00\x10\x01", "\x00\x10\x00\x10\x02"),
		"17 bits":              change("\x00\x0b\x0c", "\x00\x0b\x11"),
		"predictor 0":          change("\xFF\xDA\x00\x08\x01\x01\x00\x01", "\xFF\xDA\x00\x08\x01\x01\x00\x00"),
		"table 1":              change("\xFF\xDA\x00\x08\x01\x01\x00\x01", "\xFF\xDA\x00\x08\x01\x01\x10\x01"),
		"no frame header":      append(good[:8:8], good[bytes.Index(good, []byte("\xFF\xC4")):]...),
		"category 17":          change("\x0f\x10\xFF\xDD", "\x0f\x11\xFF\xDD"),
		"too many codes":       change("\xFF\xC4\x00\x24\x00\x00", "\xFF\xC4\x00\x24\x00\x03"),
		"half a line":          change("\xFF\xDD\x00\x04\x00\x40", "\xFF\xDD\x00\x04\x00\x48"),
		"a restart is missing": change("\xFF\xD1", "\xFF\xD2"),
		"end before pixels":    append(good[:8:8], 0xFF, 0xD9),
	} {
		if out, err := decodeJPEGLossless(data, info); err == nil || out != nil {
			t.Errorf("%s: decodes", name)
		}
	}
	scan := bytes.Index(good, []byte("\xFF\xDA"))
	for n := range len(good) - 3 {
		if _, err := decodeJPEGLossless(good[:n], info); err == nil {
			t.Errorf("cut at %d of %d (scan at %d): decodes", n, len(good), scan)
		}
	}
}

// FuzzDecode holds for RLE and JPEG Lossless: pixels or an error, of the size
// that the header gives, with memory in proportion to image and data.
func FuzzDecode(f *testing.F) {
	for _, predictor := range []int{1, 6} {
		for _, restart := range []int{0, 2} {
			f.Add(true, jpegImage{8, 7, 12, predictor, 0, restart}.encode(noise(8, 7, 12)))
		}
	}
	files, err := filepath.Glob("testdata/*.frame")
	if err != nil || len(files) == 0 {
		f.Fatalf("testdata holds no frames: %v", err)
	}
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b[0] == 0xFF, b)
	}
	f.Fuzz(func(t *testing.T, jpeg bool, data []byte) {
		syntax := rleLossless
		if jpeg {
			syntax = jpegLosslessSV1
		}
		for _, info := range []PixelInfo{
			{Rows: 8, Columns: 7, BitsStored: 12, HighBit: 11},
			{Rows: 24, Columns: 32, BitsStored: 16, HighBit: 15, Signed: true},
		} {
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			out, err := decompress(syntax, data, info, nil)
			runtime.ReadMemStats(&after)
			if (err == nil) != (len(out) == info.frameBytes()) {
				t.Errorf("%d bytes and error %v", len(out), err)
			}
			// A Huffman table takes 2.2 KiB and at least 17 bytes.
			if got, limit := after.TotalAlloc-before.TotalAlloc, uint64(1<<16+4*info.frameBytes()+200*len(data)); got > limit {
				t.Errorf("%d bytes of data made %d bytes of memory, want at most %d", len(data), got, limit)
			}
		}
	})
}

func BenchmarkJPEGLossless(b *testing.B) {
	j := jpegImage{rows: 512, columns: 512, precision: 12, predictor: 1}
	samples := make([]uint16, 512*512)
	r := rand.New(rand.NewPCG(1, 2))
	for i := range samples {
		samples[i] = uint16(1000 + r.NormFloat64()*20)
	}
	data := j.encode(samples)
	b.SetBytes(int64(2 * len(samples)))
	for b.Loop() {
		if _, err := decodeJPEGLossless(data, PixelInfo{Rows: 512, Columns: 512, BitsStored: 12, HighBit: 11}); err != nil {
			b.Fatal(err)
		}
	}
}

func TestRLERefuses(t *testing.T) {
	info := PixelInfo{Rows: 2, Columns: 4, BitsStored: 16, HighBit: 15}
	frame := func(segments, high, low uint32, body ...byte) []byte {
		b := make([]byte, 64)
		for n, v := range []uint32{segments, high, low} {
			binary.LittleEndian.PutUint32(b[4*n:], v)
		}
		return append(b, body...)
	}
	got, err := decodeRLE(frame(2, 64, 66, 0xF9, 1, 0x80, 3, 10, 11, 12, 13, 0xFD, 9), info)
	if want := []byte{10, 1, 11, 1, 12, 1, 13, 1, 9, 1, 9, 1, 9, 1, 9, 1}; err != nil || !bytes.Equal(got, want) {
		t.Errorf("decodeRLE = %v, %v, want %v", got, err, want)
	}
	for n, data := range [][]byte{
		nil,
		make([]byte, 63),
		frame(1, 64, 66, 0xF9, 1),
		frame(2, 64, 1<<31, 0xF9, 1, 0xF9, 1),
		frame(2, 1<<31, 66, 0xF9, 1, 0xF9, 1),
		frame(2, 66, 64, 0xF9, 1, 0xF9, 1),
		frame(2, 0, 66, 0xF9, 1, 0xF9, 1),
		frame(2, 64, 66, 0xF9, 1, 0xFA, 1),
		frame(2, 64, 66, 0xF9, 1, 0xF9),
		frame(2, 64, 66, 0xF9, 1, 7, 1, 2),
	} {
		if out, err := decodeRLE(data, info); err == nil {
			t.Errorf("case %d: decodeRLE = %v, want an error", n, fmt.Sprint(out))
		}
	}
}
