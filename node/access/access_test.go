package access_test

import (
	"errors"
	"net"
	"testing"
	"time"

	"hilum/dimse"
	"hilum/dimse/pdu"
	"hilum/node/access"
	"hilum/node/config"
)

// TestUserIdentity is PS3.7 D.3.3.7 against each setting of user_identity.
func TestUserIdentity(t *testing.T) {
	hash, err := config.HashPasscode([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	users := []config.User{{Name: "ct1", Passcode: hash}, {Name: "ct2"}}
	identity := func(kind pdu.IdentityType, primary, secondary string) *pdu.UserIdentity {
		return &pdu.UserIdentity{IdentityType: kind, Primary: []byte(primary), Secondary: []byte(secondary)}
	}
	const ignored, checked, required = 1, 2, 4 // where it is admitted
	tests := []struct {
		name       string
		id         *pdu.UserIdentity
		admitted   int
		identified bool // where it is not ignored
	}{
		{"none", nil, ignored | checked, false},
		{"right passcode", identity(pdu.IdentityPasscode, "ct1", "secret"), ignored | checked | required, true},
		{"wrong passcode", identity(pdu.IdentityPasscode, "ct1", "Secret"), ignored, false},
		{"empty passcode", identity(pdu.IdentityPasscode, "ct1", ""), ignored, false},
		{"the hash as passcode", identity(pdu.IdentityPasscode, "ct1", hash), ignored, false},
		{"name without its passcode", identity(pdu.IdentityUsername, "ct1", ""), ignored, false},
		{"name that needs none", identity(pdu.IdentityUsername, "ct2", ""), ignored | checked | required, true},
		{"passcode that nobody asked for", identity(pdu.IdentityPasscode, "ct2", "x"), ignored | checked | required, true},
		{"unknown name", identity(pdu.IdentityUsername, "ct3", ""), ignored, false},
		{"unknown name with a passcode", identity(pdu.IdentityPasscode, "ct3", "secret"), ignored, false},
		{"no name", identity(pdu.IdentityPasscode, "", ""), ignored, false},
		{"Kerberos", identity(pdu.IdentityKerberos, "ct2", ""), ignored, false},
		{"SAML", identity(pdu.IdentitySAML, "ct2", ""), ignored, false},
		{"JWT", identity(pdu.IdentityJWT, "ct2", ""), ignored, false},
		{"a type that nobody knows", identity(99, "ct2", ""), ignored, false},
	}
	for setting, bit := range map[string]int{config.IdentityIgnored: ignored, config.IdentityChecked: checked, config.IdentityRequired: required} {
		rules, err := access.New(config.Config{AETitle: "HILUM", UserIdentity: setting, Users: users})
		if err != nil {
			t.Fatal(err)
		}
		for _, tt := range tests {
			t.Run(setting+" "+tt.name, func(t *testing.T) {
				got, err := rules.Admit(t.Context(), &dimse.AssociationRequest{CalledAETitle: "HILUM", UserIdentity: tt.id})
				if want := tt.admitted&bit != 0; (err == nil) != want || err != nil && !errors.Is(err, dimse.ErrUserIdentity) {
					t.Errorf("Admit = %v, want admitted %v, else ErrUserIdentity", err, want)
				}
				if want := tt.identified && bit != ignored && err == nil; got.Identified != want {
					t.Errorf("Identified = %v, want %v", got.Identified, want)
				}
			})
		}
	}
}

// TestPeers: calling and called AE title, address and services.
func TestPeers(t *testing.T) {
	const echo, ct = dimse.VerificationSOPClass, "1.2.840.10008.5.1.4.1.1.2"
	peers := []config.Peer{
		{AETitle: "CT1", Addresses: []string{"10.1.2.3", "10.1.4.0/24", "fd00::/16"}},
		{AETitle: "CT2", Called: []string{"RESEARCH", "HILUM"}},
		{AETitle: "CT3", Services: []string{config.ServiceStore}},
		{AETitle: "MONITOR", Services: []string{config.ServiceEcho}},
	}
	tests := []struct {
		name                     string
		calling, called, address string
		refuse, anyCalled        bool
		err                      error
		echo, store              bool
	}{
		{"unknown", "X", "HILUM", "10.9.9.9:1", false, false, nil, true, true},
		{"unknown, refused", "X", "HILUM", "10.9.9.9:1", true, false, dimse.ErrCallingAETitle, false, false},
		{"blank", "", "HILUM", "10.9.9.9:1", false, false, nil, true, true},
		{"blank, refused", "", "HILUM", "10.9.9.9:1", true, false, dimse.ErrCallingAETitle, false, false},
		{"unknown calls another", "X", "RESEARCH", "10.9.9.9:1", false, false, dimse.ErrCalledAETitle, false, false},
		{"unknown calls another where any will do", "X", "RESEARCH", "10.9.9.9:1", false, true, nil, true, true},
		{"case counts", "ct1", "HILUM", "10.1.2.3:1", true, false, dimse.ErrCallingAETitle, false, false},
		{"its address", "CT1", "HILUM", "10.1.2.3:104", true, false, nil, true, true},
		{"its network", "CT1", "HILUM", "10.1.4.255:104", true, false, nil, true, true},
		{"its address in an IPv6 socket", "CT1", "HILUM", "[::ffff:10.1.2.3]:104", true, false, nil, true, true},
		{"its IPv6 network", "CT1", "HILUM", "[fd00::7%eth0]:104", true, false, nil, true, true},
		{"another address, though unknown peers are accepted", "CT1", "HILUM", "10.1.2.4:104", false, false, dimse.ErrCallingAETitle, false, false},
		{"no IP address", "CT1", "HILUM", "memory", false, false, dimse.ErrCallingAETitle, false, false},
		{"a title of its own", "CT2", "RESEARCH", "10.9.9.9:1", true, false, nil, true, true},
		{"the node's title beside it", "CT2", "HILUM", "10.9.9.9:1", true, false, nil, true, true},
		{"not its title, where any will do for others", "CT2", "OTHER", "10.9.9.9:1", true, true, dimse.ErrCalledAETitle, false, false},
		{"store only", "CT3", "HILUM", "10.9.9.9:1", true, false, nil, false, true},
		{"echo only", "MONITOR", "HILUM", "10.9.9.9:1", true, false, nil, true, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			cfg := config.Default()
			cfg.Peers, cfg.AnyCalledAETitle = peers, tt.anyCalled
			if tt.refuse {
				cfg.UnknownPeers = config.UnknownRefuse
			}
			rules, err := access.New(cfg)
			if err != nil {
				t.Fatal(err)
			}
			got, err := rules.Admit(t.Context(), &dimse.AssociationRequest{CallingAETitle: tt.calling, CalledAETitle: tt.called, RemoteAddr: addr(tt.address)})
			if (err == nil) != (tt.err == nil) || err != nil && !errors.Is(err, tt.err) {
				t.Fatalf("Admit = %v, want %v", err, tt.err)
			}
			allows := func(uid string) bool { return err == nil && (got.SOPClasses == nil || got.SOPClasses(uid)) }
			if allows(echo) != tt.echo || allows(ct) != tt.store {
				t.Errorf("echo %v, store %v, want %v, %v", allows(echo), allows(ct), tt.echo, tt.store)
			}
		})
	}
}

// addr is an address as a connection gives it.
type addr string

var _ net.Addr = addr("")

func (addr) Network() string  { return "test" }
func (a addr) String() string { return string(a) }

// TestUnknownUserTakesAsLong holds that a name that is not known is refused no sooner
// than a wrong passcode.
func TestUnknownUserTakesAsLong(t *testing.T) {
	hash, err := config.HashPasscode([]byte("secret"))
	if err != nil {
		t.Fatal(err)
	}
	rules, err := access.New(config.Config{
		AETitle: "HILUM", UserIdentity: config.IdentityChecked, Users: []config.User{{Name: "ct1", Passcode: hash}},
	})
	if err != nil {
		t.Fatal(err)
	}
	fastest := func(name string) time.Duration {
		best := time.Hour
		for range 5 {
			begin := time.Now()
			id := &pdu.UserIdentity{IdentityType: pdu.IdentityPasscode, Primary: []byte(name), Secondary: []byte("wrong")}
			if _, err := rules.Admit(t.Context(), &dimse.AssociationRequest{CalledAETitle: "HILUM", UserIdentity: id}); !errors.Is(err, dimse.ErrUserIdentity) {
				t.Fatalf("%s is refused with %v, want %v", name, err, dimse.ErrUserIdentity)
			}
			best = min(best, time.Since(begin))
		}
		return best
	}
	known, unknown := fastest("ct1"), fastest("ct9")
	if unknown < known/2 {
		t.Errorf("an unknown name is refused after %s, a wrong passcode after %s", unknown, known)
	}
}
