package dataset

//go:generate python3 generate_uids.py

// TransferSyntax is one entry of PS3.6 table A-1.
type TransferSyntax struct {
	UID, Name    string
	ImplicitVR   bool
	BigEndian    bool
	Deflated     bool // the data set as a whole (PS3.5 A.5)
	Encapsulated bool // pixel data are fragments (PS3.5 A.4)
	Retired      bool
}

// Transfer syntaxes that this program names.
const (
	ImplicitVRLittleEndian         = "1.2.840.10008.1.2"
	ExplicitVRLittleEndian         = "1.2.840.10008.1.2.1"
	DeflatedExplicitVRLittleEndian = "1.2.840.10008.1.2.1.99"
	ExplicitVRBigEndian            = "1.2.840.10008.1.2.2"
)

// LookupTransferSyntax returns the transfer syntax of the standard with this UID.
func LookupTransferSyntax(uid string) (TransferSyntax, bool) {
	for _, ts := range TransferSyntaxes {
		if ts.UID == uid {
			return ts, true
		}
	}
	return TransferSyntax{}, false
}

// syntaxOf is how a data set in uid is read. What the standard does not list is
// explicit VR little endian, as PS3.5 10 demands of encapsulated syntaxes; except
// GE's old private one, which is implicit little endian but for its pixels.
func syntaxOf(uid string) TransferSyntax {
	if ts, ok := LookupTransferSyntax(uid); ok {
		return ts
	}
	if uid == "1.2.840.113619.5.2" {
		return TransferSyntax{UID: uid, ImplicitVR: true}
	}
	return TransferSyntax{UID: uid}
}
