package dataset_test

import (
	"strings"
	"testing"

	"hilum/dimse/dataset"
)

func TestUIDs(t *testing.T) {
	seen := map[string]bool{}
	for range 1000 {
		uid := dataset.NewUID()
		if !dataset.ValidUID(uid) || !strings.HasPrefix(uid, "2.25.") || seen[uid] {
			t.Fatalf("NewUID() = %q", uid)
		}
		seen[uid] = true
	}
	if a, b := dataset.StableUID("a", "bc"), dataset.StableUID("a", "bc"); a != b || !dataset.ValidUID(a) {
		t.Errorf("StableUID is not stable: %q, %q", a, b)
	}
	if dataset.StableUID("a", "bc") == dataset.StableUID("ab", "c") {
		t.Error("StableUID does not tell its parts apart")
	}
	// Reports of earlier versions refer to these: the value must never change.
	if got, want := dataset.StableUID("series", "finding"), "2.25.29335194011367106841632064153275833008"; got != want {
		t.Errorf("StableUID = %s, want %s", got, want)
	}
	for uid, want := range map[string]bool{
		"1.2.840": true, "1": true, "2.25.0": true, "1.02": true, strings.Repeat("1", 64): true,
		"": false, "1.": false, ".1": false, "1..2": false, "1.2a": false, "../1": false, "1 ": false, strings.Repeat("1", 65): false,
	} {
		if got := dataset.ValidUID(uid); got != want {
			t.Errorf("ValidUID(%q) = %v, want %v", uid, got, want)
		}
	}
}

func TestTables(t *testing.T) {
	if len(dataset.StorageSOPClasses) < 180 || len(dataset.TransferSyntaxes) < 50 {
		t.Errorf("%d storage classes and %d transfer syntaxes", len(dataset.StorageSOPClasses), len(dataset.TransferSyntaxes))
	}
	for uid, name := range dataset.StorageSOPClasses {
		if !dataset.ValidUID(uid) || name == "" {
			t.Errorf("storage class %q is named %q", uid, name)
		}
	}
	for _, uid := range []string{"1.2.840.10008.5.1.4.1.1.2", "1.2.840.10008.5.1.4.1.1.88.34", "1.2.840.10008.5.1.4.1.1.66.4"} {
		if dataset.StorageSOPClasses[uid] == "" {
			t.Errorf("storage class %s is missing", uid)
		}
	}
	if _, ok := dataset.StorageSOPClasses["1.2.840.10008.1.20.1"]; ok {
		t.Error("storage commitment is no storage class")
	}
	flags := map[string]dataset.TransferSyntax{
		"1.2.840.10008.1.2":      {ImplicitVR: true},
		"1.2.840.10008.1.2.1":    {},
		"1.2.840.10008.1.2.1.99": {Deflated: true},
		"1.2.840.10008.1.2.2":    {BigEndian: true, Retired: true},
		"1.2.840.10008.1.2.4.80": {Encapsulated: true},
		"1.2.840.10008.1.2.4.95": {Deflated: true},
		"1.2.840.10008.1.2.5":    {Encapsulated: true},
	}
	for uid, want := range flags {
		got, ok := dataset.LookupTransferSyntax(uid)
		want.UID, want.Name = uid, got.Name
		if !ok || got != want {
			t.Errorf("LookupTransferSyntax(%s) = %+v, want %+v", uid, got, want)
		}
	}
}
