// Package deidentify takes out of DICOM images what may identify a person, by the
// Basic Application Level Confidentiality Profile of PS3.15 annex E without
// options.
//
// What the profile names is removed, emptied, replaced by a value without
// meaning, or, if a UID, by another one; at any depth. So are private elements,
// curves, overlays, elements that no dictionary knows, and such whose VR is not the
// dictionary's. All other UIDs that are not the standard's are replaced too. Pixel
// data stay as they are, in their transfer syntax: what is burned into them stays,
// and text in elements that the profile keeps is not read.
package deidentify

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse/dataset"
)

// Reasons for which an object is refused. Nothing of it may then be given away.
var (
	// ErrBurnedIn is returned for images that say, or by what they are make likely,
	// that text is burned into their pixels.
	ErrBurnedIn = errors.New("text may be burned into its pixels")
	// ErrNoImage is returned for objects without pixel data: reports, documents,
	// presentation states. The basic profile leaves nothing of them that is worth
	// keeping.
	ErrNoImage = errors.New("it is no image")
	// ErrUnwritable is returned for what cannot be written as DICOM any more: a
	// private transfer syntax, or a value that is too long for its kind.
	ErrUnwritable = errors.New("it cannot be written in its transfer syntax")
)

// KeySize is the length in bytes of a good key.
const KeySize = 32

// Profile de-identifies objects. Objects that were treated with the same key fit
// together: a UID is replaced by the same UID everywhere, a Patient ID by the same
// pseudonym. Without the key neither can be traced back.
type Profile struct {
	Key []byte
	// BurnedIn lets images pass that may have text burned into their pixels.
	BurnedIn bool
}

// limits of one object without its pixel data. Those of an enhanced multi-frame
// image with thousands of frames stay below.
var limits = dataset.TreeLimits{Nodes: 1 << 20, Bytes: 64 << 20}

// Write reads a Part 10 file and writes its de-identified form in the same
// transfer syntax. Elements other than pixel data with values of more than 64 KiB
// are left out. The error is ErrBurnedIn,
// ErrNoImage, ErrUnwritable, dataset.ErrNotDICOM, a *dataset.Error, or one of w; it
// holds nothing of the object.
func (p *Profile) Write(w io.Writer, object []byte) error {
	f, err := dataset.ReadFrom(bytes.NewReader(object), int64(len(object)), []dataset.Tag{
		dicomtag.SOPClassUID, dicomtag.BurnedInAnnotation, dicomtag.ImageType,
	})
	if err != nil {
		return err
	}
	if f.PixelData.VR == "" {
		return ErrNoImage
	}
	if !p.BurnedIn && burnedIn(f.Header) {
		return ErrBurnedIn
	}
	tree, err := dataset.ReadTree(bytes.NewReader(object[f.DataSetOffset:]), f.TransferSyntaxUID, limits)
	if err != nil {
		return err
	}
	pixels, err := pixelElement(f.PixelData)
	if err != nil {
		return err
	}
	clean := p.tree(tree).Merge(said)
	var file bytes.Buffer
	if err := dataset.WriteFile(&file, f.TransferSyntaxUID, append(clean.Elements(), pixels)); err != nil {
		return ErrUnwritable // its reason may quote a value
	}
	_, err = file.WriteTo(w)
	return err
}

// burnedIn judges by Burned In Annotation. Secondary captures are screens more often
// than not, and scanners write their dose and patient pages as such or as
// SCREEN SAVE: those must say that nothing is burned in.
func burnedIn(h dataset.Header) bool {
	switch h.String(dicomtag.BurnedInAnnotation) {
	case "YES":
		return true
	case "NO":
		return false
	}
	const secondaryCapture = "1.2.840.10008.5.1.4.1.1.7"
	class := h.String(dicomtag.SOPClassUID)
	return class == secondaryCapture || strings.HasPrefix(class, secondaryCapture+".") ||
		strings.Contains(strings.Join(h.Strings(dicomtag.ImageType), `\`), "SCREEN SAVE")
}

func pixelElement(d dataset.PixelData) (*dataset.Element, error) {
	if d.Fragments != nil {
		return dataset.NewElement(dicomtag.PixelData, d.Fragments)
	}
	return dataset.RawElement(dicomtag.PixelData, d.VR, d.Native), nil
}

// said is what the object then says of its de-identification, PS3.15 E.1.1.
var said = dataset.Tree{
	{Tag: dicomtag.PatientIdentityRemoved, VR: "CS", Value: []byte("YES")},
	{Tag: dicomtag.DeidentificationMethod, VR: "LO", Value: []byte("PS3.15 2026c Basic Application Level Confidentiality Profile")},
	{Tag: dicomtag.DeidentificationMethodCodeSequence, VR: "SQ", Items: []dataset.Tree{{
		{Tag: dicomtag.CodeValue, VR: "SH", Value: []byte("113100")},
		{Tag: dicomtag.CodingSchemeDesignator, VR: "SH", Value: []byte("DCM")},
		{Tag: dicomtag.CodeMeaning, VR: "LO", Value: []byte("Basic Application Confidentiality Profile")},
	}}},
	{Tag: dicomtag.LongitudinalTemporalInformationModified, VR: "CS", Value: []byte("REMOVED")},
}

// tree de-identifies a data set or an item.
func (p *Profile) tree(t dataset.Tree) dataset.Tree {
	out := make(dataset.Tree, 0, len(t))
	for _, n := range t {
		if n.Tag == dicomtag.PixelData {
			continue // a value that its length let through; it is written apart
		}
		if clean, stays := p.node(n); stays {
			out = append(out, clean)
		}
	}
	return out
}

func (p *Profile) node(n dataset.Node) (dataset.Node, bool) {
	switch a := actionFor(n.Tag); a {
	case remove:
		return n, false
	case empty, replace:
		return p.blank(n, a), true
	case mapUID:
		n.VR, n.Value, n.Items = "UI", p.uids(n), nil
		return n, true
	}
	if n.VR == "SQ" {
		items := make([]dataset.Tree, len(n.Items))
		for i, item := range n.Items {
			items[i] = p.tree(item)
		}
		n.Items = items
		return n, true
	}
	want := dataset.DictionaryVR(n.Tag)
	if want == "UI" {
		n.VR, n.Value = want, p.uids(n)
	}
	return n, fits(n.VR, want)
}

// fits says whether an element is of the kind that it should be: where a name stands
// as the number of rows, nothing is known of what else it is.
func fits(vr, want string) bool {
	const words = "US SS UL SL OB OW" // the standard leaves a choice among some of these
	return vr == want || strings.Contains(words, vr) && strings.Contains(words, want)
}

// actionFor is the profile's action, and removal for what nobody can judge.
func actionFor(t dataset.Tag) action {
	if t.Group%2 == 1 || t.Group&0xFF00 == 0x5000 || t.Group&0xFF00 == 0x6000 {
		return remove
	}
	if a, named := table[t]; named {
		return a
	}
	if dataset.DictionaryVR(t) == "" {
		return remove
	}
	return keep
}

// blank takes the value out of an element.
func (p *Profile) blank(n dataset.Node, a action) dataset.Node {
	switch n.Tag {
	case dicomtag.PatientID:
		// Z allows a dummy value; this one keeps the series of a patient together.
		n.VR, n.Value = "LO", []byte(p.pseudonym(n.Value))
		return n
	case dicomtag.PatientName:
		n.VR, n.Value = "PN", nil
		return n
	}
	vr := dataset.DictionaryVR(n.Tag)
	if vr == "" {
		vr = n.VR // of a standard later than the dictionary
	}
	n.VR, n.Value, n.Items = vr, nil, nil
	if a == replace && len(dummies[vr]) > 0 {
		n.Value = []byte(dummies[vr])
	}
	return n
}

// dummies are values without meaning. VRs that are not here get none: sequences, and
// bytes that only some program understands.
var dummies = map[string]string{
	"AE": "ANONYMIZED", "AS": "000Y", "CS": "ANONYMIZED", "DA": "19000101", "DS": "0", "DT": "19000101000000", "IS": "0",
	"LO": "ANONYMIZED", "LT": "ANONYMIZED", "PN": "ANONYMIZED", "SH": "ANONYMIZED", "ST": "ANONYMIZED", "TM": "000000",
	"UC": "ANONYMIZED", "UI": "2.25.0", "UT": "ANONYMIZED",
}

// uids maps each UID of a value. What says of which class an object is stays, and so
// do the standard's own UIDs elsewhere than where the profile maps any; what is no UID
// is left out.
func (p *Profile) uids(n dataset.Node) []byte {
	if n.Tag == dicomtag.SOPClassUID || n.Tag == dicomtag.ReferencedSOPClassUID {
		return n.Value
	}
	list := strings.Split(string(n.Value), `\\`)
	for i, uid := range list {
		uid = strings.Trim(uid, "\x00 ")
		switch {
		case !dataset.ValidUID(uid):
			uid = ""
		case table[n.Tag] == mapUID || !strings.HasPrefix(uid, "1.2.840.10008."):
			uid = p.UID(uid)
		}
		list[i] = uid
	}
	return []byte(strings.Join(list, `\\`))
}

// UID returns what stands for a UID.
func (p *Profile) UID(uid string) string {
	return dataset.StableUID(string(p.mac("uid", []byte(uid))))
}

// pseudonym returns what stands for a Patient ID; nothing stands for none.
func (p *Profile) pseudonym(id []byte) string {
	id = bytes.Trim(id, "\x00 ")
	if len(id) == 0 {
		return ""
	}
	return "P" + strings.ToUpper(hex.EncodeToString(p.mac("patient", id)[:8]))
}

func (p *Profile) mac(kind string, value []byte) []byte {
	m := hmac.New(sha256.New, p.Key)
	fmt.Fprintf(m, "%s %s", kind, value) // a hash takes every byte
	return m.Sum(nil)
}
