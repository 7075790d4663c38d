package dataset_test

import (
	"bytes"
	"encoding/binary"
	"math"
	"reflect"
	"testing"
	"unicode/utf8"

	"hilum/dimse/dataset"

	"github.com/grailbio/go-dicom/dicomtag"
)

// scanOne scans a data set of one element, with a character set where one is given.
func scanOne(t *testing.T, charset string, tag dataset.Tag, vr string, value []byte) dataset.Header {
	t.Helper()
	elements := []*dataset.Element{dataset.RawElement(tag, vr, value)}
	if charset != "" {
		elements = append(elements, dataset.RawElement(dicomtag.SpecificCharacterSet, "CS", []byte(charset)))
	}
	var b bytes.Buffer
	if err := dataset.WriteDataSet(&b, dataset.ExplicitVRLittleEndian, elements); err != nil {
		t.Fatalf("WriteDataSet: %v", err)
	}
	h, err := dataset.Scan(&b, dataset.ExplicitVRLittleEndian, []dataset.Tag{tag}, dataset.Limits{})
	if err != nil {
		t.Fatalf("Scan: %v", err)
	}
	return h
}

// TestCharacterSets uses the examples of PS3.5 annexes H to K.
func TestCharacterSets(t *testing.T) {
	tests := []struct{ name, charset, value, want string }{
		{"default", "", "Adams^John", "Adams^John"},
		{"Latin-1", "ISO_IR 100", "Buc^J\xe9r\xf4me", "Buc^Jérôme"},
		{"Latin-1, misspelt", "ISO-IR 100", "Buc^J\xe9r\xf4me", "Buc^Jérôme"},
		{"Latin-2", "ISO_IR 101", "W\xb3", "Wł"},
		{"Cyrillic", "ISO_IR 144", "\xbb\xee\xda\xe1\xd5\xdc\xd1\xe3\xe0\xd3", "Люксембург"},
		{"Arabic", "ISO_IR 127", "\xe2\xc8\xc7\xe6\xea^\xe4\xe6\xd2\xc7\xd1", "قباني^لنزار"},
		{"Greek", "ISO_IR 126", "\xc4\xe9\xef\xed\xf5\xf3\xe9\xef\xf2", "Διονυσιος"},
		{"Hebrew", "ISO_IR 138", "\xf9\xf8\xe5\xef^\xe3\xe1\xe5\xf8\xe4", "שרון^דבורה"},
		{"Thai", "ISO_IR 166", "\xb9\xd2\xc1", "นาม"},
		{"Latin-9", "ISO_IR 203", "\xbd\xa4", "œ€"},
		{"UTF-8", "ISO_IR 192", "Wang^XiaoDong=王^小東", "Wang^XiaoDong=王^小東"},
		{"GB18030", "GB18030", "Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab", "Wang^XiaoDong=王^小东"},
		{"kanji", `\ISO 2022 IR 87`,
			"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B=\x1b$B$d$^$@\x1b(B^\x1b$B$?$m$&\x1b(B",
			"Yamada^Tarou=山田^太郎=やまだ^たろう"},
		{"katakana and kanji", `ISO 2022 IR 13\ISO 2022 IR 87`,
			"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J=\x1b$B$d$^$@\x1b(J^\x1b$B$?$m$&\x1b(J",
			"ﾔﾏﾀﾞ^ﾀﾛｳ=山田^太郎=やまだ^たろう"},
		{"Korean", `\ISO 2022 IR 149`,
			"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7=\x1b$)C\xc8\xab^\x1b$)C\xb1\xe6\xb5\xbf",
			"Hong^Gildong=洪^吉洞=홍^길동"},
		{"Korean without escapes", `\ISO 2022 IR 149`, "\xc8\xab^\xb1\xe6\xb5\xbf", "홍^길동"},
		{"Chinese with escapes", `\ISO 2022 IR 58`,
			"Zhang^XiaoDong=\x1b$)A\xd5\xc5^\x1b$)A\xd0\xa1\xb6\xab=", "Zhang^XiaoDong=张^小东="},
		{"Greek in Latin-1", `ISO 2022 IR 100\ISO 2022 IR 126`, "\xe9\x1b-F\xe1^\xe9", "éα^é"},
		{"undeclared UTF-8", "", "Müller", "Müller"},
		{"undeclared Latin-1", "", "M\xfcller", "Müller"},
		{"wrongly declared UTF-8", "ISO_IR 192", "M\xfcller", "Müller"},
		{"unknown term", "ISO_IR 999", "M\xfcller", "Müller"},
		{"unknown escape", `\ISO 2022 IR 87`, "a\x1bzb", "a\uFFFDzb"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := scanOne(t, tt.charset, dicomtag.PatientName, "PN", []byte(tt.value))
			got := h.String(dicomtag.PatientName)
			if got != tt.want || !utf8.ValidString(got) {
				t.Errorf("String(%q in %q) = %q, want %q", tt.value, tt.charset, got, tt.want)
			}
			if raw := h.Bytes(dicomtag.PatientName); string(raw) != tt.value {
				t.Errorf("Bytes = %q, want %q", raw, tt.value)
			}
		})
	}
}

func TestHeaderValues(t *testing.T) {
	le := binary.LittleEndian
	tests := []struct {
		name, vr string
		value    []byte
		text     string
		floats   []float64 // nil: an error
	}{
		{"DS", "DS", []byte(` 1.5 \-2e1\+3`), `1.5 \-2e1\+3`, []float64{1.5, -20, 3}},
		{"IS", "IS", []byte("42 "), "42", []float64{42}},
		{"US", "US", le.AppendUint16(nil, 65535), "65535", []float64{65535}},
		{"SS", "SS", le.AppendUint16(nil, 65535), "-1", []float64{-1}},
		{"UL", "UL", le.AppendUint32(nil, math.MaxUint32), "4294967295", []float64{math.MaxUint32}},
		{"SL", "SL", le.AppendUint32(nil, math.MaxUint32), "-1", []float64{-1}},
		{"UV", "UV", le.AppendUint64(nil, 7), "7", []float64{7}},
		{"SV", "SV", le.AppendUint64(nil, math.MaxUint64), "-1", []float64{-1}},
		{"FL", "FL", le.AppendUint32(nil, math.Float32bits(0.1)), "0.1", []float64{0.1}},
		{"FD", "FD", le.AppendUint64(le.AppendUint64(nil, math.Float64bits(0.1)), math.Float64bits(-2)), `0.1\-2`, []float64{0.1, -2}},
		{"FD NaN", "FD", le.AppendUint64(nil, math.Float64bits(math.NaN())), "NaN", nil},
		{"DS infinite", "DS", []byte("inf"), "inf", nil},
		{"DS comma", "DS", []byte("1,5"), "1,5", nil},
		{"DS missing value", "DS", []byte(`1\\2 `), `1\\2`, nil},
		{"empty", "DS", nil, "", []float64{}},
		{"cut number", "US", []byte{1, 0, 0, 0}, `1\0`, []float64{1, 0}},
		{"bytes", "OB", []byte{1, 2}, "", []float64{}},
	}
	tag := dicomtag.SliceThickness
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := scanOne(t, "", tag, tt.vr, tt.value)
			if got := h.String(tag); got != tt.text || !h.Has(tag) || h.VR(tag) != tt.vr {
				t.Errorf("String = %q (%s), want %q", got, h.VR(tag), tt.text)
			}
			got, err := h.Floats(tag)
			if (err != nil) != (tt.floats == nil) || err == nil && !reflect.DeepEqual(got, tt.floats) {
				t.Errorf("Floats = %v, %v, want %v", got, err, tt.floats)
			}
		})
	}
	var none dataset.Header
	if none.Has(tag) || none.String(tag) != "" || none.Bytes(tag) != nil || none.Strings(tag) != nil || len(none.Map()) != 0 {
		t.Error("the zero Header is not empty")
	}
	if _, ok := none.Int(tag); ok {
		t.Error("Int of an absent element is ok")
	}
	if n, ok := scanOne(t, "", tag, "DS", []byte("1.5")).Int(tag); ok {
		t.Errorf("Int(1.5) = %d, true", n)
	}
}

func TestStrings(t *testing.T) {
	tests := []struct {
		vr, value string
		want      []string
	}{
		{"CS", `ORIGINAL \ PRIMARY\AXIAL `, []string{"ORIGINAL", "PRIMARY", "AXIAL"}},
		{"UI", "1.2\x00", []string{"1.2"}},
		{"LO", `a\\b `, []string{"a", "", "b"}},
		{"UT", `C:\file`, []string{`C:\file`}},
		{"UN", `ORIGINAL\PRIMARY`, []string{"ORIGINAL", "PRIMARY"}},
	}
	for _, tt := range tests {
		if got := scanOne(t, "", dicomtag.ImageType, tt.vr, []byte(tt.value)).Strings(dicomtag.ImageType); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("Strings(%s %q) = %q, want %q", tt.vr, tt.value, got, tt.want)
		}
	}
}
