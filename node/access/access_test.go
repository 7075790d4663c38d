package access_test

import (
	"errors"
	"testing"

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
		rules := access.New(config.Config{UserIdentity: setting, Users: users})
		for _, tt := range tests {
			t.Run(setting+" "+tt.name, func(t *testing.T) {
				got, err := rules.Admit(t.Context(), &dimse.AssociationRequest{UserIdentity: tt.id})
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
