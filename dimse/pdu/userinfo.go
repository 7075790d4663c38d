package pdu

import "encoding/binary"

// Item types of the user information, PS3.8 annex D and PS3.7 annex D.3.3.
const (
	itemMaxLength              = 0x51
	itemImplementationClassUID = 0x52
	itemAsyncOperations        = 0x53
	itemRoleSelection          = 0x54
	itemImplementationVersion  = 0x55
	itemSOPClassExtended       = 0x56
	itemSOPClassCommonExtended = 0x57
	itemUserIdentityRQ         = 0x58
	itemUserIdentityAC         = 0x59
	maxLengthItemLength        = 4
	asyncOperationsItemLength  = 4
)

// UserInformation is the user information item, PS3.8 9.3.2.3, with all of its
// sub-items. What is absent has its zero value.
type UserInformation struct {
	// MaxLength is the longest P-DATA-TF the sender takes, counted without the
	// header; 0 means any. PS3.8 D.1.
	MaxLength                 uint32
	ImplementationClassUID    string
	ImplementationVersionName string
	AsyncOperations           *AsyncOperations
	Roles                     []RoleSelection
	SOPClassExtended          []SOPClassExtended
	SOPClassCommonExtended    []SOPClassCommonExtended // A-ASSOCIATE-RQ only
	UserIdentity              *UserIdentity            // A-ASSOCIATE-RQ only
	UserIdentityResponse      *UserIdentityResponse    // A-ASSOCIATE-AC only
}

// AsyncOperations is the asynchronous operations window, PS3.7 D.3.3.3; 0 means
// unlimited.
type AsyncOperations struct{ Invoked, Performed uint16 }

// RoleSelection proposes or accepts the roles of the requestor, PS3.7 D.3.3.4.
type RoleSelection struct {
	SOPClassUID string
	SCU, SCP    bool
}

// SOPClassExtended is the SOP class extended negotiation, PS3.7 D.3.3.5.
type SOPClassExtended struct {
	SOPClassUID string
	Information []byte
}

// SOPClassCommonExtended is the SOP class common extended negotiation,
// PS3.7 D.3.3.6.
type SOPClassCommonExtended struct {
	Version            byte
	SOPClassUID        string
	ServiceClassUID    string
	RelatedGeneralUIDs []string
}

// IdentityType says what a UserIdentity holds.
type IdentityType byte

// The values of PS3.7 table D.3-14.
const (
	IdentityUsername IdentityType = 1
	IdentityPasscode IdentityType = 2 // user name and passcode
	IdentityKerberos IdentityType = 3
	IdentitySAML     IdentityType = 4
	IdentityJWT      IdentityType = 5
)

// UserIdentity is the user identity negotiation, PS3.7 D.3.3.7. Its fields are
// credentials: they must not be logged.
type UserIdentity struct {
	IdentityType              IdentityType
	PositiveResponseRequested bool
	Primary, Secondary        []byte
}

// UserIdentityResponse answers a UserIdentity.
type UserIdentityResponse struct{ ServerResponse []byte }

func (u *UserInformation) encode(e *encoder) {
	e.item(itemUserInformation, func() {
		e.item(itemMaxLength, func() { e.b = binary.BigEndian.AppendUint32(e.b, u.MaxLength) })
		if u.ImplementationClassUID != "" {
			e.text(itemImplementationClassUID, u.ImplementationClassUID)
		}
		if a := u.AsyncOperations; a != nil {
			e.item(itemAsyncOperations, func() {
				e.b = binary.BigEndian.AppendUint16(e.b, a.Invoked)
				e.b = binary.BigEndian.AppendUint16(e.b, a.Performed)
			})
		}
		for _, r := range u.Roles {
			e.item(itemRoleSelection, func() {
				e.field16(r.SOPClassUID)
				e.b = append(e.b, flag(r.SCU), flag(r.SCP))
			})
		}
		if u.ImplementationVersionName != "" {
			e.text(itemImplementationVersion, u.ImplementationVersionName)
		}
		for _, x := range u.SOPClassExtended {
			e.item(itemSOPClassExtended, func() {
				e.field16(x.SOPClassUID)
				e.b = append(e.b, x.Information...)
			})
		}
		for _, x := range u.SOPClassCommonExtended {
			x.encode(e)
		}
		if id := u.UserIdentity; id != nil {
			e.item(itemUserIdentityRQ, func() {
				e.b = append(e.b, byte(id.IdentityType), flag(id.PositiveResponseRequested))
				e.field16(string(id.Primary))
				e.field16(string(id.Secondary))
			})
		}
		if r := u.UserIdentityResponse; r != nil {
			e.item(itemUserIdentityAC, func() { e.field16(string(r.ServerResponse)) })
		}
	})
}

func (x *SOPClassCommonExtended) encode(e *encoder) {
	// PS3.7 table D.3-12: here the byte after the item type is a version.
	e.b = append(e.b, itemSOPClassCommonExtended, x.Version)
	e.sized("item", func() {
		e.field16(x.SOPClassUID)
		e.field16(x.ServiceClassUID)
		e.sized("related general SOP classes", func() {
			for _, uid := range x.RelatedGeneralUIDs {
				e.field16(uid)
			}
		})
	})
}

// decode decodes the sub-items. request says whether they stand in an
// A-ASSOCIATE-RQ; sub-items that belong only to the other PDU are ignored, as
// are those that nobody knows (PS3.8 9.3.1).
func (u *UserInformation) decode(c cursor, request bool) error {
	for !c.empty() {
		var version byte
		if len(c.b) > 1 {
			version = c.b[1]
		}
		kind, item, err := c.item()
		if err != nil {
			return err
		}
		switch kind {
		case itemMaxLength:
			if len(item.b) != maxLengthItemLength {
				return invalid("maximum length item of %d bytes, must be %d", len(item.b), maxLengthItemLength)
			}
			u.MaxLength, err = item.u32("maximum length")
		case itemImplementationClassUID:
			u.ImplementationClassUID = trimUID(item.b)
		case itemImplementationVersion:
			u.ImplementationVersionName = trimUID(item.b)
		case itemAsyncOperations:
			if len(item.b) != asyncOperationsItemLength {
				return invalid("asynchronous operations item of %d bytes, must be %d", len(item.b), asyncOperationsItemLength)
			}
			a := new(AsyncOperations)
			a.Invoked, _ = item.u16("invoked")     // the length was checked
			a.Performed, _ = item.u16("performed") // as above
			u.AsyncOperations = a
		case itemRoleSelection:
			err = u.decodeRole(item)
		case itemSOPClassExtended:
			err = u.decodeSOPClassExtended(item)
		case itemSOPClassCommonExtended:
			if request {
				err = u.decodeSOPClassCommonExtended(version, item)
			}
		case itemUserIdentityRQ:
			if request {
				err = u.decodeUserIdentity(item)
			}
		case itemUserIdentityAC:
			if !request {
				var b []byte
				b, err = item.field16("server response")
				u.UserIdentityResponse = &UserIdentityResponse{ServerResponse: clone(b)}
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (u *UserInformation) decodeRole(c cursor) error {
	uid, err := c.uid16("role selection SOP class")
	if err != nil {
		return err
	}
	roles, err := c.bytes(2, "roles")
	if err != nil {
		return err
	}
	u.Roles = append(u.Roles, RoleSelection{SOPClassUID: uid, SCU: roles[0] == 1, SCP: roles[1] == 1})
	return nil
}

func (u *UserInformation) decodeSOPClassExtended(c cursor) error {
	uid, err := c.uid16("extended negotiation SOP class")
	if err != nil {
		return err
	}
	u.SOPClassExtended = append(u.SOPClassExtended, SOPClassExtended{SOPClassUID: uid, Information: clone(c.b)})
	return nil
}

func (u *UserInformation) decodeSOPClassCommonExtended(version byte, c cursor) (err error) {
	x := SOPClassCommonExtended{Version: version}
	if x.SOPClassUID, err = c.uid16("common extended negotiation SOP class"); err != nil {
		return err
	}
	if x.ServiceClassUID, err = c.uid16("service class"); err != nil {
		return err
	}
	list, err := c.field16("related general SOP classes")
	if err != nil {
		return err
	}
	related := cursor{list}
	for !related.empty() {
		uid, err := related.uid16("related general SOP class")
		if err != nil {
			return err
		}
		x.RelatedGeneralUIDs = append(x.RelatedGeneralUIDs, uid)
	}
	u.SOPClassCommonExtended = append(u.SOPClassCommonExtended, x)
	return nil
}

func (u *UserInformation) decodeUserIdentity(c cursor) error {
	head, err := c.bytes(2, "user identity")
	if err != nil {
		return err
	}
	primary, err := c.field16("primary field")
	if err != nil {
		return err
	}
	secondary, err := c.field16("secondary field")
	if err != nil {
		return err
	}
	u.UserIdentity = &UserIdentity{
		IdentityType:              IdentityType(head[0]),
		PositiveResponseRequested: head[1] == 1,
		Primary:                   clone(primary),
		Secondary:                 clone(secondary),
	}
	return nil
}

// clone copies what was decoded: the reader's buffer is used again.
func clone(b []byte) []byte { return append([]byte{}, b...) }

func flag(b bool) byte {
	if b {
		return 1
	}
	return 0
}
