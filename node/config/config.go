// Package config reads the node's YAML file into a Config.
//
// Every key has a default, so that a node runs with no file at all. Reading is
// strict: an unknown key, a value of the wrong type, a second definition of a
// key, an alias or a second document is refused with file, line and key, and
// every problem of a file is reported at once. Relative paths are resolved
// against the folder of the file. The package reads nothing but that file: no
// environment, no flags.
package config

import (
	_ "embed"
	"log/slog"
	"time"
)

// source is this very file: the comments of the structs below are the
// description of the keys, and Reference renders them for the README, so that
// the two cannot drift apart.
//
//go:embed config.go
var source string

// DefaultFile is the file that Load("") reads when it exists in the working
// folder.
const DefaultFile = "hilum.yaml"

// Config is everything a node can be told. The comment of a field is the
// documentation of its key, in the README too.
type Config struct {
	// AE title that the node answers to, 1 to 16 characters.
	AETitle string `yaml:"ae_title"`
	// Address and port to accept DICOM associations on. Anything beyond the loopback interface needs `tls.certificate` or `insecure: true`.
	Listen string `yaml:"listen"`
	// Folder of everything the node keeps: images, index, jobs, admin socket. One node at a time may use it.
	Data string `yaml:"data"`
	// Room that must stay free on the disk of `data`, such as `2GiB`, beside what images already received still need. Below it new associations are refused for the moment, inside one objects (`A700`), procedure steps and requests for commitment (`0213`); nothing stored is deleted. 0: no reserve.
	MinFree Bytes `yaml:"min_free"`
	// What happens to an image when other bytes are stored under its UID already: `keep-first` puts the second into quarantine (`hilum store quarantine list`), `replace` has it take the place of the first and the series analysed again (one that names another series goes to quarantine), `reject` refuses it with status 0111H.
	Duplicates string `yaml:"duplicates"`
	// Folder in which a series is laid out for a plugin while it is analysed. Empty: inside `data`. A folder in memory (`/dev/shm`) spares the disk one write of each series.
	Scratch string `yaml:"scratch"`
	// Allow `listen` beyond loopback without TLS. DICOM without TLS neither encrypts nor proves who sends: only for a network that you trust.
	Insecure bool `yaml:"insecure"`
	// Largest PDU, in bytes, that the node asks its peers to send.
	MaxPDU int `yaml:"max_pdu"`
	// Associations open at the same time; one more is refused with "local limit exceeded".
	MaxAssociations int `yaml:"max_associations"`
	// The same for the associations of one peer address (of IPv6: one /64 network), so that one peer cannot shut out the others. 0: no limit.
	MaxAssociationsPerAddress int `yaml:"max_associations_per_address"`
	// Connections of one peer address that may fail within a minute (rejected for good, not DICOM, no request in time); above it they are closed unheard until the minute is over. 0: no limit.
	MaxFailuresPerAddress int `yaml:"max_failures_per_address"`
	// Images that one association may have on the way to the disk at once, where its peer can send on without waiting for each answer (asynchronous operations window). 1: one after the other.
	MaxOperations int `yaml:"max_operations"`
	// Bytes received and not answered yet, of all peers; above it nobody sends on without waiting for the answer.
	MaxInFlight Bytes `yaml:"max_in_flight"`
	// The same for one peer address.
	MaxInFlightPerAddress Bytes `yaml:"max_in_flight_per_address"`
	// Store objects of SOP classes that the standard does not name (private ones) too.
	AcceptPrivateSOPClasses bool `yaml:"accept_private_sop_classes"`
	// Accept associations that call the node by another AE title.
	AnyCalledAETitle bool `yaml:"any_called_ae_title"`

	// Peers with a calling AE title that `peers` does not name: `accept` or `refuse`.
	UnknownPeers string `yaml:"unknown_peers"`
	// What those may do, as `peers[].services` names it. Whoever may `find` sees the names of all patients.
	UnknownServices []string `yaml:"unknown_services"`
	// What becomes of the user that a peer may name when it asks for an association (PS3.7 D.3.3.7): `ignored`; `checked`: refused unless it is one of `users`; `required`: refused without one, too. Kerberos, SAML and JWT are not understood, and so refused where users are checked.
	UserIdentity string `yaml:"user_identity"`

	TLS          TLS           `yaml:"tls"`
	Peers        []Peer        `yaml:"peers"`
	Users        []User        `yaml:"users"`
	Timeouts     Timeouts      `yaml:"timeouts"`
	Series       Series        `yaml:"series"`
	Destinations []Destination `yaml:"destinations"`

	MoveDestinations []MoveDestination `yaml:"move_destinations"`

	// Matches that one query (C-FIND) gets at most; one with more ends with status A700H. 0: no limit.
	MaxMatches int `yaml:"max_matches"`

	Plugins    []Plugin   `yaml:"plugins"`
	Devices    []Device   `yaml:"devices"`
	Pipelines  []Pipeline `yaml:"pipelines"`
	Rules      []Rule     `yaml:"rules"`
	Jobs       Jobs       `yaml:"jobs"`
	Reports    Reports    `yaml:"reports"`
	Commitment Commitment `yaml:"commitment"`
	MPPS       MPPS       `yaml:"mpps"`
	Retention  Retention  `yaml:"retention"`
	Audit      Audit      `yaml:"audit"`
	Log        Log        `yaml:"log"`

	// File is the file that was read, "" when there was none.
	File string `yaml:"-"`

	lines map[string]int // key -> line in File, for the messages of Validate
}

// TLS is how the node proves itself to peers, and they to it. Its files are
// read again when the node gets SIGHUP.
type TLS struct {
	// Certificate of the node (PEM), followed by those between it and its authority. Empty: DICOM without TLS. SIGHUP reads all files of `tls` again, without an end to any association.
	Certificate string `yaml:"certificate"`
	// Its private key (PEM, without a password).
	Key string `yaml:"key"`
	// Authorities (PEM) of the certificates that peers must show (mutual TLS). Empty: peers need none.
	ClientCA string `yaml:"client_ca"`
}

// The values of Config.UnknownPeers.
const (
	UnknownAccept = "accept"
	UnknownRefuse = "refuse"
)

// Peer is what a peer may do that calls itself by this AE title. Whoever does
// so must keep to it, whatever Config.UnknownPeers says.
type Peer struct {
	// AE title that the peer calls itself by, unique.
	AETitle string `yaml:"ae_title"`
	// Where it may come from: IP addresses, or networks such as `10.1.2.0/24`. Empty: anywhere.
	Addresses []string `yaml:"addresses"`
	// Certificates of which it must show one: SHA-256 of the certificate in hex, or a name that it is made out to (DNS name or common name). Needs `tls.client_ca`. Empty: any that is valid.
	Certificates []string `yaml:"certificates"`
	// AE titles by which it may call the node, beside `ae_title` or in place of it. Empty: as any peer may.
	Called []string `yaml:"called"`
	// What it may do: `echo`, `store`, `find`, `move`, `get`, `commitment` (ask for storage commitment, and report it), `mpps` (report performed procedure steps). Empty: everything.
	Services []string `yaml:"services"`
	// Host and port where it accepts associations, for the outcome of storage commitment when it cannot be told on the association of the request. Empty: that of the destination with its AE title.
	ReportTo string `yaml:"report_to"`
	// Tell it, at `report_to`, of each series that is complete (Instance Availability Notification).
	Availability bool `yaml:"availability"`
	// TLS with `report_to`.
	TLS DestinationTLS `yaml:"tls"`
}

// The services of Peer.Services.
const (
	ServiceEcho       = "echo"
	ServiceStore      = "store"
	ServiceFind       = "find"
	ServiceMove       = "move"
	ServiceGet        = "get"
	ServiceCommitment = "commitment"
	ServiceMPPS       = "mpps"
)

// The values of Config.UserIdentity.
const (
	IdentityIgnored  = "ignored"
	IdentityChecked  = "checked"
	IdentityRequired = "required"
)

// User is a user that peers may name.
type User struct {
	// User name, unique.
	Name string `yaml:"name"`
	// What `hilum config passcode` prints for the passcode. Empty: the name alone is enough, which proves nothing.
	Passcode string `yaml:"passcode"`
}

// Timeouts limit how long a peer may keep an association.
type Timeouts struct {
	// Time for a peer to ask for an association, and to close the connection after the last PDU (the standard's ARTIM timer).
	ARTIM time.Duration `yaml:"artim"`
	// Time without a byte from the peer after which its association is aborted.
	Idle time.Duration `yaml:"idle"`
	// Longest life of an association. 0s: no limit, for scanners that keep one open all day.
	Lifetime time.Duration `yaml:"lifetime"`
}

// Series says when a series counts as complete.
type Series struct {
	// Time without a new image after which a series counts as complete.
	Quiet time.Duration `yaml:"quiet"`
	// The same while an association that brought images of the series is still open. Not written: 3 times `quiet`.
	AssociationWait time.Duration `yaml:"association_wait"`
	// The same for a series whose slice positions still show a gap. Not written: 5 times `quiet`.
	GapWait time.Duration `yaml:"gap_wait"`
}

// Destination is a peer that results are sent to.
type Destination struct {
	// Name of the destination in commands and logs, unique.
	Name string `yaml:"name"`
	// AE title of the peer.
	AETitle string `yaml:"ae_title"`
	// Host and port of the peer.
	Address string `yaml:"address"`
	// Kinds of result that are sent there: `sr` (structured report), `seg` (outlines, where the plugin draws any), `sc` (pictures for those who show neither), `gsps` (circles on the slices). The report is always made and kept; the others when a destination wants them.
	Results []string `yaml:"results"`
	// AE title that the node calls itself by there. Empty: `ae_title` of the node.
	CallingAETitle string `yaml:"calling_ae_title"`
	// Ask for storage commitment, and count a result as delivered only when the peer has committed itself to keep it.
	Commitment bool `yaml:"commitment"`
	// TLS with this peer.
	TLS DestinationTLS `yaml:"tls"`
	// Time to wait for the connection and for each answer.
	Timeout time.Duration `yaml:"timeout"`
	// Tries before a delivery is given up and marked dead. 0: as long as it takes.
	Attempts int `yaml:"attempts"`
	// Wait after the first failed delivery; it doubles with each further one.
	Backoff time.Duration `yaml:"backoff"`
	// Longest wait between two deliveries.
	MaxBackoff time.Duration `yaml:"max_backoff"`
}

// The values of Destination.Results.
const (
	ResultSR   = "sr"
	ResultSEG  = "seg"
	ResultSC   = "sc"
	ResultGSPS = "gsps"
)

// MoveDestination is a peer that images may be sent to by C-MOVE.
type MoveDestination struct {
	// AE title of the peer, unique; C-MOVE names it.
	AETitle string `yaml:"ae_title"`
	// Host and port of the peer.
	Address string `yaml:"address"`
	// AE title that the node calls itself by there. Empty: `ae_title` of the node.
	CallingAETitle string `yaml:"calling_ae_title"`
	// TLS with this peer.
	TLS DestinationTLS `yaml:"tls"`
	// Time to wait for the connection and for each answer.
	Timeout time.Duration `yaml:"timeout"`
}

// DestinationTLS is how the node connects to a destination under TLS. Its files
// are read for each delivery.
type DestinationTLS struct {
	// Connect with TLS.
	Enabled bool `yaml:"enabled"`
	// Authorities (PEM) of the peer's certificate. Empty: those of the operating system.
	CA string `yaml:"ca"`
	// Certificate to show (PEM). Empty: `tls.certificate`, if the node has one.
	Certificate string `yaml:"certificate"`
	// Its private key (PEM).
	Key string `yaml:"key"`
	// Name that the peer's certificate must have. Empty: the host of `address`.
	ServerName string `yaml:"server_name"`
}

// Plugin is one analysis program that the node starts and hands series to.
type Plugin struct {
	// Name of the plugin in jobs, results and logs, unique.
	Name string `yaml:"name"`
	// Program to start.
	Path string `yaml:"path"`
	// Folder of the model (`model.onnx` and `model.json`), handed to the program as `--model`. Empty: none.
	Model string `yaml:"model"`
	// Folder of a model that judges what `model` found, handed to the program as `--classifier`. Empty: none.
	Classifier string `yaml:"classifier"`
	// Further arguments of the program, as written here.
	Args []string `yaml:"args"`
	// Environment of the program as `KEY=value`, beside the few variables that every plugin gets; nothing of the node's own environment reaches it.
	Env []string `yaml:"env"`
	// SHA-256 of the program, in hex. Empty: whatever is found at start, which must then not change while the node runs.
	SHA256 string `yaml:"sha256"`
	// Longest time for one series; the process is killed after it.
	Deadline time.Duration `yaml:"deadline"`
	// Processes of this plugin, and so series that it analyses at the same time.
	Processes int `yaml:"processes"`
	// Memory that one process may use, with all that it starts, such as `4GiB`; above it the process is killed. The memory of a GPU does not count. 0: three quarters of the machine's.
	Memory Bytes `yaml:"memory"`
	// Leave the plugin the network of the node, for one that asks a server.
	Network bool `yaml:"network"`
	// Leave the plugin all that the node's user may do, for one that does not work otherwise; its memory stays limited. `hilum plugin list` shows what holds each plugin.
	Unconfined bool `yaml:"unconfined"`
	// Devices that its jobs may run on, the best first: `cpu`, or names of `devices`.
	Devices []string `yaml:"devices"`
	// When a later one of `devices` is taken: `failed`, for a series that failed on an earlier one; `busy`, for that and when the earlier ones have no room; `never`.
	Fallback string `yaml:"fallback"`
	// Share of the device's memory that one of its jobs takes, such as `4GB`. It counts only on devices with a `memory`.
	DeviceMemory Bytes `yaml:"device_memory"`
	// Modalities whose series go to this plugin, where there are no `rules`.
	Modalities []string `yaml:"modalities"`
}

// The values of Plugin.Fallback.
const (
	FallbackFailed = "failed"
	FallbackBusy   = "busy"
	FallbackNever  = "never"
)

// CPU is the device that every node has.
const CPU = "cpu"

// Device is a piece of the machine that analyses run on and share.
type Device struct {
	// Name of the device as its plugins know it, such as `cuda:0`, unique. `cpu` is there without being written; to write it is to limit it.
	Name string `yaml:"name"`
	// Jobs that may run on it at a time. 0: one on a GPU, on the CPU as many as all plugins have processes.
	Slots int `yaml:"slots"`
	// Memory that its jobs may take together, each the `device_memory` of its plugin. 0: not counted.
	Memory Bytes `yaml:"memory"`
	// Threads of the CPU that its jobs share. 0: all cores. `jobs.threads`, where it is written, is what each job gets.
	Threads int `yaml:"threads"`
}

// Pipeline is a chain of plugins: each gets the findings of the one before it,
// and what the last returns is the result.
type Pipeline struct {
	// Name of the pipeline in rules, jobs and results, unique among pipelines and plugins. A plugin alone is a pipeline of its own name, which need not be written.
	Name string `yaml:"name"`
	// Its plugins in order: a detector, then classifiers of what it found.
	Plugins []string `yaml:"plugins"`
}

// Rule sends series to a pipeline. It applies when all its conditions hold, and
// a condition holds when one of its values fits: a text (`*` and `?` stand for
// others, capitals do not matter), a range of numbers (`1..2.5`, `<=3`), an empty
// text for what the series does not have, `!` before any of these for not.
type Rule struct {
	// Name of the rule in `hilum rule test`, unique.
	Name string `yaml:"name"`
	// Pipeline, or plugin, that the series goes to. Every rule that applies counts. Without any rules, each plugin takes the series of its `modalities`.
	Pipeline string `yaml:"pipeline"`
	// `urgent` series are analysed before `routine` ones.
	Priority string `yaml:"priority"`
	// The rule applies only to series that no other rule takes.
	Fallback bool `yaml:"fallback"`
	// Values of Modality (0008,0060), such as `CT`. This and the other conditions of a rule are lists of which one value must fit: a text (`*` and `?` stand for other characters, capitals do not matter), a range such as `1..2.5` or `<=3`, an empty text for nothing, or `!` and one of these for not. Empty: anything.
	Modality []string `yaml:"modality"`
	// Values of Body Part Examined (0018,0015).
	BodyPart []string `yaml:"body_part"`
	// Values of Slice Thickness (0018,0050) in mm.
	SliceThickness []string `yaml:"slice_thickness"`
	// Values of Convolution Kernel (0018,1210).
	Kernel []string `yaml:"kernel"`
	// Values of Series Description (0008,103E).
	Description []string `yaml:"description"`
	// AE titles of the peers that sent the series.
	CallingAE []string `yaml:"calling_ae"`
	// Values of any other attribute of the first image, each as `Keyword=value`, such as `ImageType=ORIGINAL`; a keyword may come several times.
	Header []string `yaml:"header"`
}

// The values of Rule.Priority.
const (
	PriorityRoutine = "routine"
	PriorityUrgent  = "urgent"
)

// Jobs says how analyses are run and repeated.
type Jobs struct {
	// Tries before an analysis is given up and marked dead. A series that cannot be analysed at all is not tried again.
	Attempts int `yaml:"attempts"`
	// Wait after the first failed try; it doubles with each further one.
	Backoff time.Duration `yaml:"backoff"`
	// Longest wait between two tries.
	MaxBackoff time.Duration `yaml:"max_backoff"`
	// Threads that one analysis may use. 0: all cores, shared between the processes that may run at once.
	Threads int `yaml:"threads"`
}

// Reports says how often the node tries to reach the `report_to` of a peer.
type Reports struct {
	// Tries before a report is given up and marked dead. 0: as long as it takes.
	Attempts int `yaml:"attempts"`
	// Wait after the first failed try; it doubles with each further one.
	Backoff time.Duration `yaml:"backoff"`
	// Longest wait between two tries.
	MaxBackoff time.Duration `yaml:"max_backoff"`
	// Time to wait for the connection and for each answer.
	Timeout time.Duration `yaml:"timeout"`
}

// MPPS is about the performed procedure steps (MPPS) that peers report.
type MPPS struct {
	// Forget a performed procedure step this long after its last message.
	Keep time.Duration `yaml:"keep"`
}

// Audit is the audit trail of PS3.15 A.5: who came and was refused, what came in and
// went out.
type Audit struct {
	// File that audit messages are appended to, a line each (RFC 5424). SIGHUP opens it again. Empty: none.
	File string `yaml:"file"`
	// Host and port of the syslog server that gets audit messages: by TLS with `audit.tls.enabled`, else by UDP. Empty: none.
	Server string `yaml:"server"`
	// TLS with the syslog server.
	TLS DestinationTLS `yaml:"tls"`
	// Name patients in audit messages by their Patient ID, as PS3.15 A.5.3 asks. The file and the server then hold patient data.
	PatientID bool `yaml:"patient_id"`
}

// Commitment is storage commitment: what peers ask of the node, and what the node
// asks of destinations.
type Commitment struct {
	// Where the outcome is told that a peer asked for: `open`: on the association of the request while that is open, else on a new one; `new`: always on a new one.
	Report string `yaml:"report"`
	// Read every image and compare it with its checksum before it is called committed. `false`: believe the disk, which `hilum store check` looks after.
	Verify bool `yaml:"verify"`
	// Time a destination has to tell the outcome that the node asked for.
	Wait time.Duration `yaml:"wait"`
	// Time the association of such a request stays open for it.
	Linger time.Duration `yaml:"linger"`
}

// The values of Commitment.Report.
const (
	ReportOpen = "open"
	ReportNew  = "new"
)

// Retention says when stored series are deleted. Only what is finished goes:
// whole, analysed or given up by every plugin that takes it, its reports accepted
// by every destination.
type Retention struct {
	// Delete a finished series, with its reports and jobs, this long after its last image, such as `720h`. 0s: never.
	MaxAge time.Duration `yaml:"max_age"`
	// Delete the oldest finished series, with their reports and jobs, while more image bytes than this are stored, such as `2TB`. 0: never.
	MaxBytes Bytes `yaml:"max_bytes"`
}

// Log says what is logged and how.
type Log struct {
	// Least severe level that is logged: `debug`, `info`, `warn` or `error`.
	Level string `yaml:"level"`
	// `text` for people, `json` for machines.
	Format string `yaml:"format"`
}

// The waits of a series: whoever changes only the quiet time changes the
// others with it.
const (
	quiet             = time.Minute
	associationQuiets = 3
	gapQuiets         = 5
)

// Default returns the configuration of a node that was told nothing.
func Default() Config {
	c, _, _, _ := defaults()
	return c
}

// DefaultPlugin returns a plugin of which only the defaults are filled in.
func DefaultPlugin() Plugin {
	_, _, p, _ := defaults()
	return p
}

// moveTimeout is the time to wait for a move destination.
const moveTimeout = 30 * time.Second

// itemDefaults are those of lists that have their own.
func itemDefaults() []any {
	_, destination, plugin, rule := defaults()
	return []any{destination, plugin, rule, MoveDestination{Timeout: moveTimeout}}
}

// defaults is the one place where defaults are written: of the whole, of a
// destination, of a plugin and of a rule.
func defaults() (Config, Destination, Plugin, Rule) {
	c := Config{
		AETitle:         "HILUM",
		Listen:          "127.0.0.1:11112",
		Data:            "./data",
		MinFree:         256 << 20,
		Duplicates:      "keep-first",
		MaxPDU:          131072,
		MaxAssociations: 100,

		MaxAssociationsPerAddress: 50,
		MaxFailuresPerAddress:     60,
		MaxOperations:             8,
		MaxInFlight:               256 << 20,
		MaxInFlightPerAddress:     64 << 20,

		UnknownPeers:    UnknownAccept,
		UnknownServices: []string{ServiceEcho, ServiceStore, ServiceCommitment, ServiceMPPS},
		MaxMatches:      10_000,

		UserIdentity: IdentityIgnored,
		Timeouts:     Timeouts{ARTIM: 30 * time.Second, Idle: 5 * time.Minute},
		Series:       Series{Quiet: quiet, AssociationWait: associationQuiets * quiet, GapWait: gapQuiets * quiet},
		Jobs:         Jobs{Attempts: 3, Backoff: 10 * time.Second, MaxBackoff: 10 * time.Minute},
		Reports:      Reports{Attempts: 200, Backoff: 10 * time.Second, MaxBackoff: 10 * time.Minute, Timeout: 30 * time.Second},
		MPPS:         MPPS{Keep: 30 * 24 * time.Hour},
		Commitment:   Commitment{Report: ReportOpen, Wait: 24 * time.Hour, Linger: 10 * time.Second},
		Log:          Log{Level: "info", Format: "text"},
	}
	d := Destination{Results: []string{ResultSR, ResultSEG, ResultSC}, Timeout: 30 * time.Second, Backoff: 5 * time.Second, MaxBackoff: 10 * time.Minute}
	p := Plugin{Deadline: 15 * time.Minute, Processes: 1, Devices: []string{CPU}, Fallback: FallbackFailed, Modalities: []string{"CT"}}
	return c, d, p, Rule{Priority: PriorityRoutine}
}

// ReportTo says where the peer of an AE title accepts associations.
func (c *Config) ReportTo(aeTitle string) (Destination, bool) {
	for _, p := range c.Peers {
		if p.AETitle == aeTitle && p.ReportTo != "" {
			return Destination{Name: p.AETitle, AETitle: p.AETitle, Address: p.ReportTo, TLS: p.TLS, Timeout: c.Reports.Timeout}, true
		}
	}
	for _, d := range c.Destinations {
		if d.AETitle == aeTitle {
			return d, true
		}
	}
	return Destination{}, false
}

// Notified are the peers that are told which images the node has.
func (c *Config) Notified() []Destination {
	var list []Destination
	for _, p := range c.Peers {
		if to, ok := c.ReportTo(p.AETitle); ok && p.Availability {
			list = append(list, to)
		}
	}
	return list
}

// SlogLevel returns the level as log/slog knows it; Validate has made sure
// that there is one.
func (l Log) SlogLevel() slog.Level {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // an unknown name leaves Info, the default
	return level
}
