package store

import "time"

// Instance describes one stored image (a SOP instance). Size, SHA256 and, when
// it is zero, Received are filled in by the store.
type Instance struct {
	SOPInstanceUID    string            `json:"sop_instance_uid"`
	SOPClassUID       string            `json:"sop_class_uid"`
	SeriesInstanceUID string            `json:"series_instance_uid"`
	StudyInstanceUID  string            `json:"study_instance_uid"`
	TransferSyntaxUID string            `json:"transfer_syntax_uid"`
	Size              int64             `json:"size"` // of the Part 10 bytes
	SHA256            [32]byte          `json:"-"`    // of the Part 10 bytes
	Received          time.Time         `json:"received"`
	Source            string            `json:"source"` // calling AE title
	Header            map[string]string `json:"header"` // keyword -> text
}

// Duplicates says what happens to an image when other bytes are stored under its
// UID already. The same bytes again are never written twice.
type Duplicates string

// The policies for duplicates.
const (
	KeepFirst Duplicates = "keep-first" // the second goes to quarantine
	Replace   Duplicates = "replace"    // within its series, the second takes the place of the first
	Reject    Duplicates = "reject"     // nothing of the second is kept
)

// Outcome says what became of a committed image.
type Outcome int

// The outcomes of Writer.Commit.
const (
	Stored    Outcome = iota + 1 // new, now on disk
	Duplicate                    // the same bytes are already stored; nothing was kept
	Conflict                     // other bytes are stored under this UID; these went to quarantine
	Replaced                     // other bytes were stored under this UID; these took their place
	Rejected                     // other bytes are stored under this UID; nothing was kept
)

func (o Outcome) String() string {
	switch o {
	case Stored:
		return "stored"
	case Duplicate:
		return "duplicate"
	case Conflict:
		return "conflict"
	case Replaced:
		return "replaced"
	case Rejected:
		return "rejected"
	}
	return "unknown"
}
