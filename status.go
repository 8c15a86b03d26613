package edgeclaim

import "time"

// Status is the box at a glance, as `edgeclaim status` and the admin API say it.
type Status struct {
	BoxID         string             `json:"box_id"`
	Site          string             `json:"site"`
	Version       string             `json:"version"`
	UptimeSeconds float64            `json:"uptime_seconds"`
	Devices       uint64             `json:"devices"`
	Outbox        map[Lane]LaneStats `json:"outbox"`
	Upstream      UpstreamStatus     `json:"upstream"`
	Clock         ClockStatus        `json:"clock"`
	Connections   ConnectionStatus   `json:"connections"`
	Users         UsersStatus        `json:"users"`
	Listeners     map[string]string  `json:"listeners"`
	Store         StoreStatus        `json:"store"`
	// Pending counts the claims that wait for an operator.
	Pending uint64 `json:"pending_claims"`
	// Alarms are what happened on the line that must not, since the program
	// began; those of the way up are in Upstream.
	Alarms    []AlarmCount    `json:"alarms,omitempty"`
	Audit     AuditStatus     `json:"audit"`
	Telemetry TelemetryStatus `json:"telemetry"`
	Commands  CommandsStatus  `json:"commands"`
	// Documents are those from upstream that the box holds, and Shares what it may
	// use of keys that other boxes have too: those that are low or used up.
	Documents []DocumentState `json:"documents,omitempty"`
	Shares    []Share         `json:"shares,omitempty"`
	// Certificates are those that the box stands for, by what they are for.
	Certificates map[string]CertificateStatus `json:"certificates,omitempty"`
}

// AuditStatus is the end of the audit log's chain.
type AuditStatus struct {
	Sequence uint64 `json:"sequence"`
	Hash     string `json:"hash,omitempty"`
	// Lost counts the entries that could not be written since the program
	// began.
	Lost uint64 `json:"lost"`
}

// CertificateStatus is the age of a certificate of the box's own.
type CertificateStatus struct {
	NotAfter time.Time `json:"not_after"`
	// Problem is why a file that changed was not taken; empty for none.
	Problem string `json:"problem,omitempty"`
}

// Lamp is one light of the upstream's three.
type Lamp string

// The colours of a lamp.
const (
	LampUp   Lamp = "up"
	LampDown Lamp = "down"
	// LampOff: there is nothing to light it: no upstream is configured, or
	// its acknowledgement mode has no such part.
	LampOff Lamp = "off"
)

// UpstreamStatus is the way up: the TCP or TLS link, the MQTT broker behind it,
// the application behind that.
type UpstreamStatus struct {
	Link   Lamp `json:"link"`
	Broker Lamp `json:"broker"`
	App    Lamp `json:"app"`
	// URL is where upstream is, without user information; empty for none.
	URL string `json:"url,omitempty"`
	// LastError says what keeps the box from telling, in words: why the link,
	// broker or application is down, or that it grants no credit.
	LastError string `json:"last_error,omitempty"`
	// NextTrySeconds is when the next connection is tried, when one is due.
	NextTrySeconds float64 `json:"next_try_seconds,omitempty"`
	// Ack is the mode of acknowledgement: puback or app.
	Ack string `json:"ack,omitempty"`
	// Enrolled: only what the enrolled key has signed is taken from upstream.
	Enrolled bool `json:"enrolled"`
	// UpstreamID is the application that welcomed the box last.
	UpstreamID string `json:"upstream_id,omitempty"`
	// InFlight counts the records on their way, Credit how many may be.
	InFlight int `json:"in_flight"`
	Credit   int `json:"credit"`
	// Alarms are what upstream did that it must not, since the program began.
	Alarms []AlarmCount `json:"alarms,omitempty"`
}

// Alarm is a kind of thing that must not happen between a box and upstream,
// and that somebody has to look into.
type Alarm string

// The alarms, a closed set, so that a metric may label by them.
const (
	// AlarmForged: a message that had to be signed by the enrolled key was not.
	AlarmForged Alarm = "forged"
	// AlarmMalformed: a message that nobody can read.
	AlarmMalformed Alarm = "malformed"
	// AlarmOversized: a message above the limit, not read.
	AlarmOversized Alarm = "oversized"
	// AlarmForeign: a message for another box, or of another epoch.
	AlarmForeign Alarm = "foreign"
	// AlarmAckAbove: an acknowledgement above what was sent.
	AlarmAckAbove Alarm = "ack_above_sent"
	// AlarmStale: upstream says that this box is an old copy of itself.
	AlarmStale Alarm = "stale_epoch"
	// AlarmFenced: upstream says that another holds this box's identity.
	AlarmFenced Alarm = "fenced"
	// AlarmNotWelcome: upstream does not take this box, or not its protocol.
	AlarmNotWelcome Alarm = "not_welcome"
	// AlarmUpstreamBehind: upstream has lost what it had acknowledged.
	AlarmUpstreamBehind Alarm = "upstream_behind"
	// AlarmQuarantine: upstream will never take a record.
	AlarmQuarantine Alarm = "quarantine"
	// AlarmTelemetryUnread: the lane of telemetry cannot be read, so that nothing
	// is told of it for a while; the other lanes go on.
	AlarmTelemetryUnread Alarm = "telemetry_unreadable"
	// AlarmEnrolment: there is an enrolment that cannot be read, and so nothing
	// is taken from upstream.
	AlarmEnrolment Alarm = "enrolment_damaged"

	// AlarmCloned: two boards seem to use one identity.
	AlarmCloned Alarm = "device_cloned"
	// AlarmKeyOverused: a key is used far beyond what its template expects.
	AlarmKeyOverused Alarm = "key_overused"
	// AlarmThrottled: a source fails so often that its claims are put off.
	AlarmThrottled Alarm = "claims_throttled"
	// AlarmUnconfirmed: devices were given credentials and never used them.
	AlarmUnconfirmed Alarm = "unconfirmed"
	// AlarmAuditLost: entries of the audit log could not be written.
	AlarmAuditLost Alarm = "audit_lost"
	// AlarmTelemetryDropped: telemetry was lost because its quota was full, or
	// set aside because it could not be opened.
	AlarmTelemetryDropped Alarm = "telemetry_dropped"
	// AlarmDiskReserve: the disk is down to what only claims may use.
	AlarmDiskReserve Alarm = "disk_reserve"
	// AlarmCertificates: a certificate's files changed and cannot be used.
	AlarmCertificates Alarm = "certificate_files"

	// AlarmDocumentRefused: a document from upstream was not taken.
	AlarmDocumentRefused Alarm = "document_refused"
	// AlarmDocumentStale: nobody has confirmed a document for too long.
	AlarmDocumentStale Alarm = "document_stale"
	// AlarmDeviceConflict: a device that this box had let in is revoked upstream,
	// or is to have another id than it was given here.
	AlarmDeviceConflict Alarm = "device_conflict"
	// AlarmKeyRevoked: a key that this box has made devices with is revoked
	// upstream: see which, edgeclaim key show ID --devices.
	AlarmKeyRevoked Alarm = "key_revoked"
	// AlarmShareLow: this box's share of a key is nearly used up.
	AlarmShareLow Alarm = "share_low"
)

// AlarmCount is an alarm, how often it rose and when last.
type AlarmCount struct {
	Alarm Alarm     `json:"alarm"`
	Count uint64    `json:"count"`
	Last  time.Time `json:"last"`
}

// ClockStatus is the box's idea of time (P10).
type ClockStatus struct {
	// Wall is the system's clock, Floor the latest time that was trustworthy;
	// expiry is judged by the later of the two.
	Wall  time.Time  `json:"wall"`
	Floor time.Time  `json:"floor"`
	State ClockState `json:"state"`
}

// ConnectionStatus counts open MQTT connections by kind.
type ConnectionStatus struct {
	Claimants int `json:"claimants"`
	Devices   int `json:"devices"`
	// Consumers are the named users on the line.
	Consumers int `json:"consumers"`
}

// UsersStatus counts what the named users on the line were told, since the
// program began.
type UsersStatus struct {
	// Delivered counts the messages written to them, Dropped those that were
	// not: who was to have them was too slow, or left.
	Delivered uint64 `json:"delivered"`
	Dropped   uint64 `json:"dropped"`
	// LoginsRefused counts the logins with a wrong password, or a name that
	// nobody has.
	LoginsRefused uint64 `json:"logins_refused"`
}

// StoreStatus is the registry's file.
type StoreStatus struct {
	Path  string `json:"path"`
	Bytes int64  `json:"bytes"`
	// SetAside is the damaged file that this one replaced, if one did.
	SetAside string `json:"set_aside,omitempty"`
}
