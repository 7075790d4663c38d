package node_test

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"strings"
	"testing"

	"github.com/grailbio/go-dicom/dicomtag"
	"golang.org/x/sys/unix"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/node/config"
	"hilum/node/task"
)

// TestFullDisk fills the disk of a node within one association: images get A700H, steps and
// requests for storage commitment 0213H, and the association goes on; a new one is
// rejected for the moment; everything acknowledged can be read. With room again all goes on.
func TestFullDisk(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=48m,mode=0700"); err != nil {
		t.Skipf("a small file system cannot be mounted: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	cfg := testConfig(t)
	cfg.Data, cfg.MinFree, cfg.Plugins = filepath.Join(dir, "data"), 8<<20, nil
	cfg.UnknownServices = []string{config.ServiceEcho, config.ServiceStore, config.ServiceCommitment, config.ServiceMPPS}
	n, client := startLogging(t, cfg, slog.New(slog.DiscardHandler))
	c := dimse.Client{CallingAETitle: "CT1", CalledAETitle: "HILUM", Timeout: interopTimeout, Contexts: []dimse.PresentationContext{
		dimse.VerificationContext(), {AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{explicitLE}},
		{AbstractSyntax: stepClass, TransferSyntaxes: []string{explicitLE}}, {AbstractSyntax: dimse.StorageCommitmentSOPClass, TransferSyntaxes: []string{explicitLE}},
	}}
	conn, err := c.Dial(t.Context(), n.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	sent := map[string][]byte{}
	number, refused := 0, 0
	store := func() error {
		number++
		uid, data := slice(t, fmt.Sprint("1.2.3.", number%3), number, nil)
		data = append(data, "\x09\x00\x01\x10UN\x00\x00\x00\x00\x08\x00"...)
		data = append(data, bytes.Repeat([]byte{byte(number)}, 8<<16)...)
		_, err := conn.Store(t.Context(), ctImageStorage, uid, explicitLE, bytes.NewReader(data))
		if err == nil {
			sent[uid] = data
		}
		return err
	}
	var status *dimse.StatusError
	for refused < 3 {
		err := store()
		switch {
		case err == nil && number < 200:
		case errors.As(err, &status) && status.Status == dimse.StatusOutOfResources && strings.Contains(status.Comment, "no space left"):
			refused++
		default:
			t.Fatalf("image %d: %v, want success or A700H", number, err)
		}
	}
	if len(sent) < 10 {
		t.Errorf("%d images fit, want more", len(sent))
	}
	invoke := func(i *dimse.NInvocation, elements []*dataset.Element) error {
		i.DataSet = func(ts string) ([]byte, error) {
			var b bytes.Buffer
			err := dataset.WriteDataSet(&b, ts, elements)
			return b.Bytes(), err
		}
		_, err := conn.Invoke(t.Context(), i)
		return err
	}
	others := map[string]func() error{
		"N-CREATE": func() error {
			return invoke(&dimse.NInvocation{Operation: dimse.NCreate, SOPClassUID: stepClass, SOPInstanceUID: "2.25.1"}, begun())
		},
		"N-ACTION": func() error {
			return invoke(&dimse.NInvocation{Operation: dimse.NAction, SOPClassUID: dimse.StorageCommitmentSOPClass, SOPInstanceUID: dimse.StorageCommitmentSOPInstance, TypeID: 1},
				commitRequest("2.25.2", task.Object{SOPClassUID: ctImageStorage, SOPInstanceUID: "1.2.3.1.1"}))
		},
	}
	for name, do := range others {
		if err := do(); !errors.As(err, &status) || status.Status != dimse.StatusResourceLimitation {
			t.Errorf("%s = %v, want 0213H", name, err)
		}
	}
	if err := conn.Echo(t.Context()); err != nil {
		t.Errorf("C-ECHO on a full disk = %v", err)
	}
	var rejected *dimse.RejectError
	if _, err := c.Dial(t.Context(), n.Addr().String()); !errors.As(err, &rejected) || !rejected.Transient() {
		t.Errorf("a new association = %v, want rejected for the moment", err)
	}
	for uid, data := range sent {
		if got := stored(t, client, uid); !bytes.Equal(got, data) {
			t.Errorf("image %s: %d bytes are stored, want the %d that were sent", uid, len(got), len(data))
		}
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_REMOUNT, "size=160m"); err != nil {
		t.Fatal(err)
	}
	others["C-STORE"] = store
	for _, name := range []string{"C-STORE", "N-CREATE", "N-ACTION"} { // whose outcome comes on the same association
		if err := others[name](); err != nil {
			t.Errorf("%s with room again = %v", name, err)
		}
	}
}

// commitRequest is the data set of a request for storage commitment.
func commitRequest(transaction string, objects ...task.Object) []*dataset.Element {
	var items [][]*dataset.Element
	for _, o := range objects {
		items = append(items, []*dataset.Element{
			dataset.MustElement(dicomtag.ReferencedSOPClassUID, o.SOPClassUID), dataset.MustElement(dicomtag.ReferencedSOPInstanceUID, o.SOPInstanceUID)})
	}
	return []*dataset.Element{dataset.MustElement(dicomtag.TransactionUID, transaction), dataset.Sequence(dicomtag.ReferencedSOPSequence, items...)}
}
