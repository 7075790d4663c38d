package dimse_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"hilum/dimse"
	"hilum/dimse/dataset"
	"hilum/dimse/dimsetest"
	"hilum/dimse/pdu"
)

// TestRoleSelection is PS3.7 D.3.3.4 on the wire: what a requestor proposes for
// CT, and what becomes of the role and of the context.
func TestRoleSelection(t *testing.T) {
	role := func(scu, scp bool) pdu.RoleSelection {
		return pdu.RoleSelection{SOPClassUID: ctImage, SCU: scu, SCP: scp}
	}
	tests := []struct {
		name     string
		proposed []pdu.RoleSelection
		context  pdu.ContextResult
		answer   []pdu.RoleSelection
	}{
		{"none", nil, pdu.ContextAccepted, nil},
		{"SCU", []pdu.RoleSelection{role(true, false)}, pdu.ContextAccepted, []pdu.RoleSelection{role(true, false)}},
		{"both", []pdu.RoleSelection{role(true, true)}, pdu.ContextAccepted, []pdu.RoleSelection{role(true, false)}},
		{"SCP only", []pdu.RoleSelection{role(false, true)}, pdu.ContextUserRejection, nil},
		{"neither is no proposal", []pdu.RoleSelection{role(false, false)}, pdu.ContextAccepted, nil},
		{"twice, the first counts", []pdu.RoleSelection{role(true, false), role(false, true)}, pdu.ContextAccepted, []pdu.RoleSelection{role(true, false)}},
		{"for what was not proposed", []pdu.RoleSelection{{SOPClassUID: findClass, SCU: true}}, pdu.ContextAccepted, nil},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				rq := request()
				rq.Contexts = append(rq.Contexts, pdu.PresentationContextRQ{ID: 7, AbstractSyntax: ctImage, TransferSyntaxes: []string{implicitLE}})
				rq.User.Roles = tt.proposed
				ac := dial(t, listen(t, &dimse.Server{Handler: &recorder{}})).Associate(rq)
				if got := ac.Contexts[1].Result; got != tt.context || ac.Contexts[3].Result != got || ac.Contexts[2].Result != pdu.ContextAccepted {
					t.Errorf("contexts = %+v, want %d for CT and MR accepted", ac.Contexts, tt.context)
				}
				if len(ac.User.Roles) != len(tt.answer) || len(tt.answer) == 1 && ac.User.Roles[0] != tt.answer[0] {
					t.Errorf("roles = %+v, want %+v", ac.User.Roles, tt.answer)
				}
			})
		})
	}
}

// TestExtendedNegotiation: storage is answered with its level (PS3.4 B.3.1),
// once; what is not accepted or has no such negotiation is not answered, and
// the common extended negotiation (PS3.7 D.3.3.6) never is.
func TestExtendedNegotiation(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		rq := request()
		rq.User.SOPClassExtended = []pdu.SOPClassExtended{
			{SOPClassUID: verification, Information: []byte{1}},
			{SOPClassUID: ctImage, Information: []byte{3, 0, 0, 0, 2, 0}},
			{SOPClassUID: ctImage, Information: []byte{1}},
			{SOPClassUID: mrImage},
			{SOPClassUID: findClass, Information: []byte{1, 1, 1}},
		}
		rq.User.SOPClassCommonExtended = []pdu.SOPClassCommonExtended{
			{SOPClassUID: ctImage, ServiceClassUID: "1.2.840.10008.4.2", RelatedGeneralUIDs: []string{mrImage}}}
		ac := dial(t, listen(t, &dimse.Server{Handler: &recorder{}})).Associate(rq)
		got := ac.User.SOPClassExtended
		if len(got) != 2 || got[0].SOPClassUID != ctImage || got[1].SOPClassUID != mrImage ||
			string(got[0].Information) != "\x02\x00\x03\x00\x00\x00" || string(got[1].Information) != "\x02\x00\x03\x00\x00\x00" {
			t.Errorf("extended negotiation = %+v, want level 2, signatures 3, no coercion for CT and MR", got)
		}
		if len(ac.User.SOPClassCommonExtended) != 0 {
			t.Errorf("common extended negotiation = %+v, want no answer", ac.User.SOPClassCommonExtended)
		}
	})
}

// TestAdmit: what Admit returns is what the peer sees, and a rejected peer
// leaves its place.
func TestAdmit(t *testing.T) {
	identity := func(rq *pdu.AssociateRQ) {
		rq.User.UserIdentity = &pdu.UserIdentity{IdentityType: pdu.IdentityPasscode, PositiveResponseRequested: true, Primary: []byte("ct1"), Secondary: []byte("secret")}
	}
	tests := []struct {
		name     string
		change   func(*pdu.AssociateRQ)
		admit    dimse.Admission
		err      error
		rejected *pdu.AssociateRJ
		contexts []pdu.ContextResult
		response bool
	}{
		{"everything", nil, dimse.Admission{}, nil, nil, []pdu.ContextResult{0, 0, 0}, false},
		{"verification only", nil, dimse.Admission{SOPClasses: func(uid string) bool { return uid == verification }}, nil, nil, []pdu.ContextResult{0, 1, 1}, false},
		{"identity not verified", identity, dimse.Admission{}, nil, nil, []pdu.ContextResult{0, 0, 0}, false},
		{"identity verified", identity, dimse.Admission{Identified: true}, nil, nil, []pdu.ContextResult{0, 0, 0}, true},
		{"calling AE", nil, dimse.Admission{}, dimse.ErrCallingAETitle, &pdu.AssociateRJ{Result: 1, Source: 1, Reason: 3}, nil, false},
		{"called AE", nil, dimse.Admission{}, dimse.ErrCalledAETitle, &pdu.AssociateRJ{Result: 1, Source: 1, Reason: 7}, nil, false},
		{"identity", identity, dimse.Admission{}, dimse.ErrUserIdentity, &pdu.AssociateRJ{Result: 1, Source: 2, Reason: 1}, nil, false},
		{"any other error", nil, dimse.Admission{}, errors.New("no database"), &pdu.AssociateRJ{Result: 1, Source: 1, Reason: 1}, nil, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var seen *dimse.AssociationRequest
				l := listen(t, &dimse.Server{Handler: &recorder{}, MaxAssociations: 1, Admit: func(_ context.Context, rq *dimse.AssociationRequest) (dimse.Admission, error) {
					seen = rq
					return tt.admit, tt.err
				}})
				for range 2 { // with one place in all
					rq := request()
					if tt.change != nil {
						tt.change(rq)
					}
					p := dial(t, l)
					p.SendPDU(rq)
					if tt.rejected != nil {
						p.Expect(tt.rejected)
						synctest.Wait() // the connection is still open, its place is not taken
						continue
					}
					ac := p.ExpectType(pdu.TypeAssociateAC).(*pdu.AssociateAC)
					for i, want := range tt.contexts {
						if ac.Contexts[i].Result != want {
							t.Errorf("contexts = %+v, want %v", ac.Contexts, tt.contexts)
						}
					}
					if (ac.User.UserIdentityResponse != nil) != tt.response {
						t.Errorf("identity response = %v, want %v", ac.User.UserIdentityResponse, tt.response)
					}
					p.Close()
					synctest.Wait()
				}
				if seen.CallingAETitle != "TEST" || seen.CalledAETitle != "HILUM" || seen.RemoteAddr == nil || (seen.UserIdentity != nil) != (tt.change != nil) {
					t.Errorf("Admit was asked about %+v", seen)
				}
			})
		})
	}
}

// TestAdmitPanics: a panic there costs one association and no place.
func TestAdmitPanics(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		calls := 0
		l := listen(t, &dimse.Server{MaxAssociations: 1, Admit: func(context.Context, *dimse.AssociationRequest) (dimse.Admission, error) {
			if calls++; calls == 1 {
				panic("a defect")
			}
			return dimse.Admission{}, nil
		}})
		p := dial(t, l)
		p.SendPDU(request())
		p.Expect(&pdu.Abort{})
		p.ExpectClosed()
		synctest.Wait()
		associate(t, l)
	})
}

// fullRequest has every item and sub-item that there is.
func fullRequest() *pdu.AssociateRQ {
	rq := request()
	rq.User = pdu.UserInformation{
		MaxLength: 16384, ImplementationClassUID: "1.2.3", ImplementationVersionName: "TEST",
		AsyncOperations:        &pdu.AsyncOperations{Invoked: 2, Performed: 2},
		Roles:                  []pdu.RoleSelection{{SOPClassUID: ctImage, SCU: true, SCP: true}},
		SOPClassExtended:       []pdu.SOPClassExtended{{SOPClassUID: ctImage, Information: []byte{2, 0, 0, 0, 0, 0}}},
		SOPClassCommonExtended: []pdu.SOPClassCommonExtended{{SOPClassUID: ctImage, ServiceClassUID: "1.2.840.10008.4.2", RelatedGeneralUIDs: []string{mrImage}}},
		UserIdentity:           &pdu.UserIdentity{IdentityType: pdu.IdentityPasscode, Primary: []byte("ct1"), Secondary: []byte("secret")},
	}
	return rq
}

// TestNeverSilent: whatever is wrong with an A-ASSOCIATE-RQ that is there in
// full, the peer gets an answer at once: the request cut off anywhere, and with
// any byte of it changed.
func TestNeverSilent(t *testing.T) {
	whole := dimsetest.Encode(t, fullRequest())
	type broken struct {
		name string
		rq   []byte
	}
	var all []broken
	for n := pdu.HeaderLength; n < len(whole); n++ {
		cut := append([]byte(nil), whole[:n]...)
		binary.BigEndian.PutUint32(cut[2:], uint32(n-pdu.HeaderLength))
		all = append(all, broken{"cut", cut})
		for _, value := range []byte{0x00, 0x7F, 0xFF} {
			changed := append([]byte(nil), whole...)
			changed[n] = value
			all = append(all, broken{"changed", changed})
		}
	}
	synctest.Test(t, func(t *testing.T) {
		l := listen(t, &dimse.Server{Handler: &recorder{}, MaxAssociations: len(all)})
		answers := map[pdu.Type]int{}
		for i, b := range all {
			conn, err := l.Dial()
			if err != nil {
				t.Fatal(err)
			}
			begin := time.Now()
			if _, err := conn.Write(b.rq); err != nil {
				t.Fatalf("%s %d: %v", b.name, i, err)
			}
			p, err := pdu.NewReader(conn, 1<<16).Next()
			if err != nil || time.Since(begin) != 0 {
				t.Fatalf("%s %d: got %v after %v, want a PDU at once", b.name, i, err, time.Since(begin))
			}
			switch p := p.(type) {
			case *pdu.AssociateAC, *pdu.AssociateRJ:
			case *pdu.Abort:
				if p.Source != pdu.AbortSourceUser || p.Reason != pdu.ReasonNotSpecified {
					t.Errorf("%s %d: %v, want the abort of AA-1", b.name, i, p)
				}
			default:
				t.Errorf("%s %d: got %s", b.name, i, p.Type())
			}
			answers[p.Type()]++
			_ = conn.Close()
		}
		for _, kind := range []pdu.Type{pdu.TypeAssociateAC, pdu.TypeAssociateRJ, pdu.TypeAbort} {
			if answers[kind] == 0 {
				t.Errorf("no %s among %v: the cases are not what they were", kind, answers)
			}
		}
	})
}

// TestStorescuUser has DCMTK ask with a user name and a passcode, and demand the
// positive response.
func TestStorescuUser(t *testing.T) {
	storescu := dcmtk(t, "storescu")
	h := &recorder{}
	address := listenTCP(t, &dimse.Server{Handler: h, Admit: func(_ context.Context, rq *dimse.AssociationRequest) (dimse.Admission, error) {
		id := rq.UserIdentity
		if id == nil || id.IdentityType != pdu.IdentityPasscode || string(id.Primary) != "ct1" || string(id.Secondary) != "secret" {
			return dimse.Admission{}, dimse.ErrUserIdentity
		}
		return dimse.Admission{Identified: true}, nil
	}})
	host, port, _ := net.SplitHostPort(address)
	file := writeFile(t, append(dataset.AppendFileMeta(nil, explicitLE, ctImage, instanceUID), image(instanceUID, 100)...))
	for passcode, ok := range map[string]bool{"secret": true, "wrong": false} {
		out, err := run(t, storescu, "-v", "-aec", "HILUM", "-usr", "ct1", "-pwd", passcode, "-rsp", host, port, file)
		if (err == nil) != ok || !ok && !strings.Contains(out, "Rejected Permanent") {
			t.Errorf("storescu with passcode %s = %v, want ok %v\n%s", passcode, err, ok, out)
		}
	}
	if got := h.take(); len(got) != 1 {
		t.Errorf("%d instances stored, want 1", len(got))
	}
}
