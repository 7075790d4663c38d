package main

import (
	"testing"

	"hilum/dimse/dataset"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
)

// soakStream is what a peer sends in an association with one image: the
// A-ASSOCIATE-RQ first, then each further PDU.
func soakStream(t *testing.T, image soakImage) [][]byte {
	title := func(s string) pdu.AETitle {
		a, err := pdu.NewAETitle(s)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	pdus := []pdu.PDU{
		&pdu.AssociateRQ{
			ProtocolVersion: pdu.ProtocolVersion, CalledAETitle: title("HILUM"), CallingAETitle: title("SOAK"),
			ApplicationContext: pdu.ApplicationContextName,
			Contexts:           []pdu.PresentationContextRQ{{ID: 1, AbstractSyntax: ctImageStorage, TransferSyntaxes: []string{dataset.ExplicitVRLittleEndian}}},
			User:               pdu.UserInformation{MaxLength: 16384, ImplementationClassUID: "1.2.3", AsyncOperations: &pdu.AsyncOperations{Invoked: 4, Performed: 1}},
		},
		dimsetest.CommandPDU(1, dimsetest.StoreRQ(1, ctImageStorage, image.uid)),
		dimsetest.DataPDU(1, false, image.data[:1000]),
		dimsetest.DataPDU(1, true, image.data[1000:]),
		dimsetest.CommandPDU(1, dimsetest.StoreRQ(2, ctImageStorage, image.uid)),
		dimsetest.DataPDU(1, true, image.data),
		&pdu.ReleaseRQ{},
	}
	var stream [][]byte
	for _, p := range pdus {
		stream = append(stream, dimsetest.Encode(t, p))
	}
	return stream
}
