package node_test

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/grailbio/go-dicom/dicomtag"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/web"
)

// stored reads an image back and takes its file meta information off.
func stored(t *testing.T, client *web.Client, uid string) []byte {
	t.Helper()
	r, err := client.Instance(t.Context(), uid)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	b, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	meta, err := dataset.ReadMeta(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return b[meta.DataSetOffset:]
}

// TestLongValues: an image whose every indexed text is far longer than the standard
// allows is stored as it came, and costs the index no more than another.
func TestLongValues(t *testing.T) {
	n, client := start(t, testConfig(t))
	long := strings.Repeat("\x01", 60_000) // each costs six bytes in JSON
	uid, data := slice(t, "1.2.3.4", 1, func(elements []*dataset.Element) []*dataset.Element {
		for _, tag := range dataset.IndexTags {
			info, err := dicomtag.Find(tag)
			if err != nil {
				t.Fatal(err)
			}
			switch info.VR {
			case "LO", "SH", "PN", "ST", "LT", "CS", "AS", "DA", "TM", "DT":
				if tag != dicomtag.SpecificCharacterSet && tag != dicomtag.Modality {
					elements = append(without(elements, tag), dataset.RawElement(tag, info.VR, []byte(long)))
				}
			}
		}
		return elements
	})
	conn := dial(t, n)
	status, err := conn.Store(t.Context(), ctImageStorage, uid, dataset.ExplicitVRLittleEndian, bytes.NewReader(data))
	if err != nil || status != dimse.StatusSuccess {
		t.Fatalf("Store = %v, %v; want success", status, err)
	}
	if got := stored(t, client, uid); !bytes.Equal(got, data) {
		t.Errorf("stored are %d bytes, want the %d that were sent", len(got), len(data))
	}
	studies, err := client.Studies(t.Context())
	if err != nil || len(studies) != 1 {
		t.Fatalf("Studies = %v, %v; want one", studies, err)
	}
}

// TestTolerated: what breaks a rule of PS3.5 and can be read all the same is stored byte
// for byte, in each transfer syntax that is not compressed, all on one association.
func TestTolerated(t *testing.T) {
	n, client := start(t, testConfig(t))
	syntaxes := []string{explicitLE, implicitLE, dataset.ExplicitVRBigEndian, dataset.DeflatedExplicitVRLittleEndian}
	c := dimse.Client{CallingAETitle: "CT1", CalledAETitle: "HILUM", Timeout: 10 * time.Second}
	for _, ts := range syntaxes {
		c.Contexts = append(c.Contexts, dimse.PresentationContext{AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{ts}})
	}
	conn, err := c.Dial(t.Context(), n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	number := 0
	store := func(name, ts string, damage func([]byte) []byte) {
		t.Helper()
		number++
		uid, data := slice(t, "1.2.3.4", number, nil)
		tree, err := dataset.ReadTree(bytes.NewReader(data), explicitLE, dataset.TreeLimits{Nodes: 1000, Bytes: 1 << 20})
		if err != nil {
			t.Fatal(err)
		}
		// The pixels in front: what is put behind them is in the wrong order.
		elements := append(tree.Elements(), dataset.RawElement(dicomtag.PixelData, "OW", make([]byte, 32)))
		var b bytes.Buffer
		if err := dataset.WriteDataSet(&b, ts, elements); err != nil {
			t.Fatal(err)
		}
		sent := damage(b.Bytes())
		status, err := conn.Store(t.Context(), ctImageStorage, uid, ts, bytes.NewReader(sent))
		if err != nil || status != dimse.StatusSuccess {
			t.Errorf("%s: Store = %v, %v; want success", name, status, err)
		} else if got := stored(t, client, uid); !bytes.Equal(got, sent) {
			t.Errorf("%s: stored are %d bytes, want the %d that were sent", name, len(got), len(sent))
		}
	}
	behind := func(s string) func([]byte) []byte {
		return func(b []byte) []byte { return append(b, s...) }
	}
	for _, ts := range syntaxes {
		store("as it should be, in "+ts, ts, func(b []byte) []byte { return b })
	}
	for _, tt := range []struct {
		name   string
		damage func([]byte) []byte
	}{
		{"odd length", behind("\x08\x00\x70\x00LO\x03\x00abc")},
		{"wrong order", behind("\x08\x00\x70\x00LO\x04\x00abcd")},
		{"an element twice, the first counts", behind("\x20\x00\x0D\x00UI\x04\x009.9\x00")},
		{"unknown VR", behind("\x08\x00\x01\x00ZZ\x00\x00\x03\x00\x00\x00abc")},
		{"private element without creator", behind("\x09\x00\x01\x10UN\x00\x00\x02\x00\x00\x00\x00\x01")},
		{"implicit sequence as UN", behind("\x09\x00\x01\x10UN\x00\x00\xFF\xFF\xFF\xFF\xFE\xFF\x00\xE0\xFF\xFF\xFF\xFF\x10\x00\x20\x00\x02\x00\x00\x00no\xFE\xFF\x0D\xE0\x00\x00\x00\x00\xFE\xFF\xDD\xE0\x00\x00\x00\x00")},
		{"wrong group length", func(b []byte) []byte { return append([]byte("\x08\x00\x00\x00UL\x04\x00\xFF\xFF\xFF\xFF"), b...) }},
		{"zeros at the end", behind(strings.Repeat("\x00", 1001))},
		{"text with a wrong character set", behind("\x08\x00\x30\x10LO\x04\x00\xFF\xFE\x80\x00")},
	} {
		store(tt.name, explicitLE, tt.damage)
	}
	if err := conn.Release(t.Context()); err != nil {
		t.Error(err)
	}
	studies, err := client.Studies(t.Context())
	if err != nil || len(studies) != 1 || len(studies[0].Series) != 1 || studies[0].Series[0].Instances != number {
		t.Errorf("Studies = %+v, %v; want one series of %d images", studies, err, number)
	}
}
