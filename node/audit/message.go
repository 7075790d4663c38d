package audit

import (
	"encoding/xml"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strconv"
	"time"
)

// message is an AuditMessage of PS3.15 A.5.1, element by element in its order.
type message struct {
	XMLName      xml.Name      `xml:"AuditMessage"`
	Event        event         `xml:"EventIdentification"`
	Participants []participant `xml:"ActiveParticipant"`
	Source       source        `xml:"AuditSourceIdentification"`
	Objects      []object      `xml:"ParticipantObjectIdentification"`
}

type event struct {
	Action  action    `xml:"EventActionCode,attr"`
	Time    time.Time `xml:"EventDateTime,attr"`
	Outcome outcome   `xml:"EventOutcomeIndicator,attr"`
	ID      code      `xml:"EventID"`
	Type    *code     `xml:"EventTypeCode,omitempty"`
	Reason  string    `xml:"EventOutcomeDescription,omitempty"`
}

type (
	action  string
	outcome int
)

const (
	create  action = "C"
	read    action = "R"
	execute action = "E"

	success      outcome = 0
	minorFailure outcome = 4
)

// code is a coded value; those used here are of DICOM's own scheme or of RFC 3881.
type code struct {
	Value  string `xml:"csd-code,attr"`
	Scheme string `xml:"codeSystemName,attr,omitempty"`
	Text   string `xml:"originalText,attr,omitempty"`
}

// dcm is a code of PS3.16 annex D.
func dcm(value, text string) code { return code{value, "DCM", text} }

type participant struct {
	UserID        string `xml:"UserID,attr"`
	AETitles      string `xml:"AlternativeUserID,attr,omitempty"`
	IsRequestor   bool   `xml:"UserIsRequestor,attr"`
	NetworkID     string `xml:"NetworkAccessPointID,attr,omitempty"`
	NetworkIDType string `xml:"NetworkAccessPointTypeCode,attr,omitempty"` // 1: name, 2: IP address
	Role          *code  `xml:"RoleIDCode,omitempty"`
}

type source struct {
	ID   string `xml:"AuditSourceID,attr"`
	Type code   `xml:"AuditSourceTypeCode"`
}

type object struct {
	ID          string       `xml:"ParticipantObjectID,attr"`
	Type        int          `xml:"ParticipantObjectTypeCode,attr"`     // 1: person, 2: system object
	Role        int          `xml:"ParticipantObjectTypeCodeRole,attr"` // 1: patient, 3: report, 13: security resource
	IDType      code         `xml:"ParticipantObjectIDTypeCode"`
	Name        string       `xml:"ParticipantObjectName"`
	Description *description `xml:"ParticipantObjectDescription,omitempty"`
}

type description struct {
	SOPClasses []sopClass `xml:"SOPClass"`
}

type sopClass struct {
	UID       string `xml:"UID,attr"`
	Instances int    `xml:"NumberOfInstances,attr"`
}

// Peer is who is at the other end of an association.
type Peer struct {
	AETitle string
	Address string // host and port
}

// network is the access point of an address.
func network(address string) (id, kind string) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		host = address
	}
	if net.ParseIP(host) != nil {
		return host, "2"
	}
	return host, "1"
}

// name is what the peer calls itself, or where it is where it says nothing: the schema
// wants a name of everybody.
func (p Peer) name() string {
	if p.AETitle != "" {
		return p.AETitle
	}
	id, _ := network(p.Address)
	return id
}

// participant is a peer in the role of a code, nil for none.
func (p Peer) participant(requestor bool, role *code) participant {
	id, kind := network(p.Address)
	if id == "" {
		kind = ""
	}
	return participant{UserID: p.name(), AETitles: "AETITLES=" + p.AETitle, IsRequestor: requestor, NetworkID: id, NetworkIDType: kind, Role: role}
}

// Studies counts images by study, patient and SOP class.
type Studies map[Study]map[string]int

// Study names a study and whose it is.
type Study struct{ StudyInstanceUID, PatientID string }

// Add counts one image.
func (s Studies) Add(study Study, sopClassUID string) {
	if s[study] == nil {
		s[study] = map[string]int{}
	}
	s[study][sopClassUID]++
}

// objects are the studies as participants, with their patients where that is wanted.
func (s Studies) objects(patients bool) []object {
	var all []object
	seen := map[string]bool{}
	keys := slices.SortedFunc(maps.Keys(s), func(a, b Study) int {
		if a.StudyInstanceUID != b.StudyInstanceUID {
			return compare(a.StudyInstanceUID, b.StudyInstanceUID)
		}
		return compare(a.PatientID, b.PatientID)
	})
	for _, study := range keys {
		d := &description{}
		for _, class := range slices.Sorted(maps.Keys(s[study])) {
			d.SOPClasses = append(d.SOPClasses, sopClass{class, s[study][class]})
		}
		all = append(all, object{ID: study.StudyInstanceUID, Type: 2, Role: 3, IDType: dcm("110180", "Study Instance UID"), Description: d})
		if patients && study.PatientID != "" && !seen[study.PatientID] {
			seen[study.PatientID] = true
			all = append(all, object{ID: study.PatientID, Type: 1, Role: 1, IDType: code{"2", "RFC-3881", "Patient Number"}})
		}
	}
	return all
}

// maxObjects bounds the objects of one message, encoded, so that with what surrounds them
// no message is longer than the 32768 bytes that PS3.15 A.6 has every receiver take: some
// cut a longer one into pieces that are no messages.
const maxObjects = 24 << 10

// parts divides objects among as many messages as they need.
func parts(all []object) (groups [][]object, err error) {
	size := 0
	for _, o := range all {
		b, err := xml.Marshal(o)
		if err != nil {
			return nil, fmt.Errorf("encode an audit message: %w", err)
		}
		if size += len(b); len(groups) == 0 || size > maxObjects {
			groups, size = append(groups, nil), len(b)
		}
		last := len(groups) - 1
		groups[last] = append(groups[last], o)
	}
	return groups, nil
}

func compare(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// syslog is a message as RFC 5424 has it. Facility 10 (security) and severity 5
// (notice), 4 (warning) for what failed; MSGID as PS3.15 A.6.
func (m message) syslog(host string) ([]byte, error) {
	body, err := xml.Marshal(m)
	if err != nil {
		return nil, fmt.Errorf("encode an audit message: %w", err)
	}
	priority := 10*8 + 5
	if m.Event.Outcome != success {
		priority = 10*8 + 4
	}
	head := fmt.Sprintf("<%d>1 %s %s hilum %d DICOM+RFC3881 - \xEF\xBB\xBF", priority, m.Event.Time.Format("2006-01-02T15:04:05.000000Z07:00"), host, os.Getpid())
	return append([]byte(head+`<?xml version="1.0" encoding="UTF-8"?>`), body...), nil
}

// frame is the octet counting of RFC 5425 and RFC 6587.
func frame(m []byte) []byte { return append([]byte(strconv.Itoa(len(m))+" "), m...) }
