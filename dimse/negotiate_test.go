package dimse_test

import (
	"reflect"
	"testing"
	"testing/synctest"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/dimse/pdu"
)

func TestReject(t *testing.T) {
	const (
		user, acse = pdu.RejectSourceUser, pdu.RejectSourceACSE
	)
	tests := []struct {
		name   string
		change func(*pdu.AssociateRQ)
		any    bool             // accept any called AE title
		source pdu.RejectSource // 0: accepted
		reason pdu.RejectReason
	}{
		{"as is", func(*pdu.AssociateRQ) {}, false, 0, 0},
		{"version 3 has bit 0", func(rq *pdu.AssociateRQ) { rq.ProtocolVersion = 3 }, false, 0, 0},
		{"version 2 has not", func(rq *pdu.AssociateRQ) { rq.ProtocolVersion = 2 }, false, acse, pdu.RejectProtocolVersion},
		{"application context", func(rq *pdu.AssociateRQ) { rq.ApplicationContext = "1.2.3" }, false, user, pdu.RejectApplicationContext},
		{"no application context", func(rq *pdu.AssociateRQ) { rq.ApplicationContext = "" }, false, user, pdu.RejectApplicationContext},
		{"other called AE", func(rq *pdu.AssociateRQ) { rq.CalledAETitle = title("OTHER") }, false, user, pdu.RejectCalledAETitle},
		{"case of the called AE", func(rq *pdu.AssociateRQ) { rq.CalledAETitle = title("hilum") }, false, user, pdu.RejectCalledAETitle},
		{"other called AE where any will do", func(rq *pdu.AssociateRQ) { rq.CalledAETitle = title("OTHER") }, true, 0, 0},
		{"called AE behind spaces", func(rq *pdu.AssociateRQ) { rq.CalledAETitle = pdu.AETitle([]byte("      HILUM     ")) }, false, 0, 0},
		{"called AE padded with NULs", func(rq *pdu.AssociateRQ) { rq.CalledAETitle = pdu.AETitle{'H', 'I', 'L', 'U', 'M'} }, false, 0, 0},
		{"called AE is a path", func(rq *pdu.AssociateRQ) { rq.CalledAETitle = pdu.AETitle([]byte(`..\secret       `)) }, true, user, pdu.RejectCalledAETitle},
		{"blank calling AE", func(rq *pdu.AssociateRQ) { rq.CallingAETitle = pdu.AETitle([]byte("                ")) }, false, 0, 0},
		{"calling AE with a control character", func(rq *pdu.AssociateRQ) { rq.CallingAETitle = pdu.AETitle([]byte("A\nB             ")) }, false, user, pdu.RejectCallingAETitle},
		{"no presentation context", func(rq *pdu.AssociateRQ) { rq.Contexts = nil }, false, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := listen(t, &dimse.Server{Handler: &recorder{}, AcceptAnyCalledAETitle: tt.any})
				rq := request()
				tt.change(rq)
				p := dial(t, l)
				p.SendPDU(rq)
				if tt.source == 0 {
					ac := p.ExpectType(pdu.TypeAssociateAC).(*pdu.AssociateAC)
					if ac.CalledAETitle != rq.CalledAETitle || ac.CallingAETitle != rq.CallingAETitle {
						t.Errorf("AE titles %q, %q, want the bytes of the request", ac.CalledAETitle, ac.CallingAETitle)
					}
					return
				}
				p.Expect(&pdu.AssociateRJ{Result: pdu.RejectedPermanent, Source: tt.source, Reason: tt.reason})
			})
		})
	}
}

func TestPresentationContexts(t *testing.T) {
	storage := &recorder{}
	tests := []struct {
		name     string
		server   *dimse.Server
		abstract string
		transfer []string
		want     pdu.ContextResult
		chosen   string
	}{
		{"verification", &dimse.Server{}, verification, []string{implicitLE}, pdu.ContextAccepted, implicitLE},
		{"storage without a handler", &dimse.Server{}, ctImage, []string{implicitLE}, pdu.ContextAbstractNotSupported, ""},
		{"the first known transfer syntax", &dimse.Server{Handler: storage}, ctImage, []string{"1.2.3", jpeg2000, implicitLE}, pdu.ContextAccepted, jpeg2000},
		{"no known transfer syntax", &dimse.Server{Handler: storage}, ctImage, []string{"1.2.3"}, pdu.ContextTransfersNotSupported, ""},
		{"no transfer syntax", &dimse.Server{Handler: storage}, ctImage, nil, pdu.ContextTransfersNotSupported, ""},
		{"query", &dimse.Server{Handler: storage, AcceptPrivateSOPClasses: true}, findClass, []string{implicitLE}, pdu.ContextAbstractNotSupported, ""},
		{"private", &dimse.Server{Handler: storage}, privateClass, []string{implicitLE}, pdu.ContextAbstractNotSupported, ""},
		{"private by option", &dimse.Server{Handler: storage, AcceptPrivateSOPClasses: true}, privateClass, []string{implicitLE}, pdu.ContextAccepted, implicitLE},
		{"of a later standard by option", &dimse.Server{Handler: storage, AcceptPrivateSOPClasses: true}, "1.2.840.10008.5.1.4.1.1.9999", []string{implicitLE}, pdu.ContextAccepted, implicitLE},
		{"not a UID", &dimse.Server{Handler: storage, AcceptPrivateSOPClasses: true}, "../../etc", []string{implicitLE}, pdu.ContextAbstractNotSupported, ""},
		{"own choice", &dimse.Server{Handler: storage, SOPClasses: func(uid string) bool { return uid == "1.2.3" }}, "1.2.3", []string{implicitLE}, pdu.ContextAccepted, implicitLE},
		{"own choice leaves out CT", &dimse.Server{Handler: storage, SOPClasses: func(uid string) bool { return uid == "1.2.3" }}, ctImage, []string{implicitLE}, pdu.ContextAbstractNotSupported, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rq := request()
				rq.Contexts = []pdu.PresentationContextRQ{{ID: 9, AbstractSyntax: tt.abstract, TransferSyntaxes: tt.transfer}}
				ac := dial(t, listen(t, tt.server)).Associate(rq)
				if len(ac.Contexts) != 1 || ac.Contexts[0].ID != 9 || ac.Contexts[0].Result != tt.want {
					t.Fatalf("contexts = %+v, want id 9 with result %d", ac.Contexts, tt.want)
				}
				if got := ac.Contexts[0].TransferSyntax; tt.chosen != "" && got != tt.chosen {
					t.Errorf("transfer syntax = %s, want %s", got, tt.chosen)
				}
			})
		})
	}
}

// TestEveryStandardContext proposes every storage SOP class and every transfer
// syntax of the standard, 128 contexts at a time.
func TestEveryStandardContext(t *testing.T) {
	var all []pdu.PresentationContextRQ
	for uid := range dataset.StorageSOPClasses {
		all = append(all, pdu.PresentationContextRQ{AbstractSyntax: uid, TransferSyntaxes: []string{implicitLE}})
	}
	for _, ts := range dataset.TransferSyntaxes {
		all = append(all, pdu.PresentationContextRQ{AbstractSyntax: ctImage, TransferSyntaxes: []string{ts.UID}})
	}
	synctest.Test(t, func(t *testing.T) {
		l := listen(t, &dimse.Server{Handler: &recorder{}})
		for begin := 0; begin < len(all); begin += 128 {
			rq := request()
			rq.Contexts = all[begin:min(begin+128, len(all))]
			for i := range rq.Contexts {
				rq.Contexts[i].ID = byte(255 - 2*i) // any order of ids
			}
			ac := dial(t, l).Associate(rq)
			if len(ac.Contexts) != len(rq.Contexts) {
				t.Fatalf("%d answers to %d contexts", len(ac.Contexts), len(rq.Contexts))
			}
			for i, got := range ac.Contexts {
				want := pdu.PresentationContextAC{ID: rq.Contexts[i].ID, TransferSyntax: rq.Contexts[i].TransferSyntaxes[0]}
				if got != want {
					t.Errorf("answer %d for %s = %+v, want %+v", i, rq.Contexts[i].AbstractSyntax, got, want)
				}
			}
		}
	})
}

func TestUserInformationAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rq := request()
		rq.User.AsyncOperations = &pdu.AsyncOperations{Invoked: 0, Performed: 8}
		rq.User.Roles = []pdu.RoleSelection{
			{SOPClassUID: ctImage, SCU: true, SCP: true},
			{SOPClassUID: ctImage, SCU: false, SCP: true}, // twice: the first counts
			{SOPClassUID: findClass, SCU: true},           // not accepted: no answer
		}
		rq.User.UserIdentity = &pdu.UserIdentity{IdentityType: 1, PositiveResponseRequested: true, Primary: []byte("user")}
		ac := dial(t, listen(t, &dimse.Server{Handler: &recorder{}, MaxPDULength: 65536})).Associate(rq)
		want := pdu.UserInformation{
			MaxLength:                 65536,
			ImplementationClassUID:    dataset.ImplementationClassUID,
			ImplementationVersionName: dataset.ImplementationVersionName,
			AsyncOperations:           &pdu.AsyncOperations{Invoked: dimse.DefaultMaxOperations, Performed: 1},
			Roles:                     []pdu.RoleSelection{{SOPClassUID: ctImage, SCU: true}},
		}
		if !reflect.DeepEqual(ac.User, want) {
			t.Errorf("user information = %+v, want %+v", ac.User, want)
		}
	})
}
