package dataset

import (
	"github.com/grailbio/go-dicom/dicomtag"
)

// Tag identifies a data element.
type Tag = dicomtag.Tag

// A vr is a value representation as its two letters, which compares and switches
// faster than a string while scanning.
type vr uint16

func makeVR(first, second byte) vr { return vr(first)<<8 | vr(second) }

func vrOf(s string) vr {
	if len(s) != 2 {
		return 0
	}
	return makeVR(s[0], s[1])
}

func (v vr) String() string {
	if v == 0 {
		return ""
	}
	return string([]byte{byte(v >> 8), byte(v)})
}

const (
	vrAE vr = 'A'<<8 | 'E'
	vrAS vr = 'A'<<8 | 'S'
	vrAT vr = 'A'<<8 | 'T'
	vrCS vr = 'C'<<8 | 'S'
	vrDA vr = 'D'<<8 | 'A'
	vrDS vr = 'D'<<8 | 'S'
	vrDT vr = 'D'<<8 | 'T'
	vrFD vr = 'F'<<8 | 'D'
	vrFL vr = 'F'<<8 | 'L'
	vrIS vr = 'I'<<8 | 'S'
	vrLO vr = 'L'<<8 | 'O'
	vrLT vr = 'L'<<8 | 'T'
	vrOB vr = 'O'<<8 | 'B'
	vrOD vr = 'O'<<8 | 'D'
	vrOF vr = 'O'<<8 | 'F'
	vrOL vr = 'O'<<8 | 'L'
	vrOV vr = 'O'<<8 | 'V'
	vrOW vr = 'O'<<8 | 'W'
	vrPN vr = 'P'<<8 | 'N'
	vrSH vr = 'S'<<8 | 'H'
	vrSL vr = 'S'<<8 | 'L'
	vrSQ vr = 'S'<<8 | 'Q'
	vrSS vr = 'S'<<8 | 'S'
	vrST vr = 'S'<<8 | 'T'
	vrSV vr = 'S'<<8 | 'V'
	vrTM vr = 'T'<<8 | 'M'
	vrUC vr = 'U'<<8 | 'C'
	vrUI vr = 'U'<<8 | 'I'
	vrUL vr = 'U'<<8 | 'L'
	vrUN vr = 'U'<<8 | 'N'
	vrUR vr = 'U'<<8 | 'R'
	vrUS vr = 'U'<<8 | 'S'
	vrUT vr = 'U'<<8 | 'T'
	vrUV vr = 'U'<<8 | 'V'
)

// short reports whether explicit VR encodings give v a 16-bit length (PS3.5 7.1.2,
// table 7.1-2).
func (v vr) short() bool {
	switch v {
	case vrAE, vrAS, vrAT, vrCS, vrDA, vrDS, vrDT, vrFD, vrFL, vrIS, vrLO, vrLT,
		vrPN, vrSH, vrSL, vrSS, vrST, vrTM, vrUI, vrUL, vrUS:
		return true
	}
	return false
}

// long reports whether explicit VR encodings give v a 32-bit length (PS3.5 7.1.2,
// table 7.1-1).
func (v vr) long() bool {
	switch v {
	case vrOB, vrOD, vrOF, vrOL, vrOV, vrOW, vrSQ, vrSV, vrUC, vrUN, vrUR, vrUT, vrUV:
		return true
	}
	return false
}

// word is the number of bytes of one number of this VR, which is what a change of
// byte order swaps; 1 for text and bytes.
func (v vr) word() int {
	switch v {
	case vrAT, vrOW, vrSS, vrUS:
		return 2
	case vrFL, vrOF, vrOL, vrSL, vrUL:
		return 4
	case vrFD, vrOD, vrOV, vrSV, vrUV:
		return 8
	}
	return 1
}

// text reports whether values of v are characters.
func (v vr) text() bool {
	switch v {
	case vrAE, vrAS, vrCS, vrDA, vrDS, vrDT, vrIS, vrLO, vrLT, vrPN, vrSH, vrST, vrTM,
		vrUC, vrUI, vrUR, vrUT:
		return true
	}
	return false
}

// charset reports whether Specific Character Set (0008,0005) applies to v (PS3.5
// 6.1.2.3).
func (v vr) charset() bool {
	switch v {
	case vrLO, vrLT, vrPN, vrSH, vrST, vrUC, vrUT:
		return true
	}
	return false
}

// single reports whether a backslash in v is a character, not a separator (PS3.5 6.2).
func (v vr) single() bool {
	switch v {
	case vrLT, vrST, vrUR, vrUT:
		return true
	}
	return false
}

// dictionaryVR is the VR that the dictionary gives t: what implicit VR encodings
// rely on. UN for private and unknown elements.
func dictionaryVR(t Tag) vr {
	if t.Group%2 == 1 {
		if t.Element >= 0x10 && t.Element <= 0xFF {
			return vrLO // PS3.5 7.8.1: private creator
		}
		return vrUN
	}
	info, err := dicomtag.Find(t)
	if err != nil {
		return vrUN
	}
	if info.VR == "UP" { // go-dicom's name for the offsets of a DICOMDIR
		return vrUL
	}
	v := vrOf(info.VR)
	if !v.short() && !v.long() {
		return vrUN
	}
	return v
}

// DictionaryVR returns the VR that the dictionary gives an element of the standard,
// and "" for one that it does not have: private ones, and those of a later edition.
func DictionaryVR(t Tag) string {
	if t.Group%2 == 1 {
		return ""
	}
	if v := dictionaryVR(t); v != vrUN {
		return v.String()
	}
	return ""
}

// swapWords turns every word of b around, in place. A last incomplete word stays.
func swapWords(b []byte, word int) {
	if word < 2 {
		return
	}
	for ; len(b) >= word; b = b[word:] {
		for i, j := 0, word-1; i < j; i, j = i+1, j-1 {
			b[i], b[j] = b[j], b[i]
		}
	}
}
