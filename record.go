package edgeclaim

import "time"

// Record is one thing to tell the platform upstream. It lies in a lane of the
// outbox until upstream has it (P6). Its identity is epoch, lane and sequence,
// and nothing in it changes between two sends.
type Record struct {
	Lane Lane
	// Sequence is contiguous from 1 in its lane and epoch; the store sets it.
	Sequence uint64
	Type     RecordType
	// Device is whom the record is about; zero for the box itself.
	Device DeviceID
	Stamp
	// Data is the CloudEvent's data, a JSON object.
	Data []byte
	// Payload is, of TypeTelemetry, what the device sent, as it came; nil else.
	Payload []byte
}

// Lane is one ordered queue of the outbox.
type Lane string

// The lanes. LaneProv is never dropped: full, claims are refused. LaneEvt and
// LaneTel are bounded: full, the oldest go and a gap record says so (P7). LaneTel
// does not lie in the registry's file.
const (
	LaneProv Lane = "prov"
	LaneEvt  Lane = "evt"
	LaneTel  Lane = "tel"
)

// Lanes lists the lanes in the order they are sent.
func Lanes() []Lane { return []Lane{LaneProv, LaneEvt, LaneTel} }

// RecordType is a CloudEvents type.
type RecordType string

// The types in use, by lane.
const (
	TypeDeviceProvisioned RecordType = "device.provisioned"        // prov
	TypeCredentialRotated RecordType = "device.credential.rotated" //nolint:gosec // prov; a type, no credential
	TypeCredentialRevoked RecordType = "device.credential.revoked" //nolint:gosec // prov; the same
	TypeDeviceReleased    RecordType = "device.released"           // prov
	TypeDeviceSwapped     RecordType = "device.swapped"            // prov
	TypeDeviceConflict    RecordType = "device.conflict"           // prov
	TypeCloneSuspected    RecordType = "device.clone_suspected"    // prov
	TypeDeviceUnconfirmed RecordType = "device.unconfirmed"        // evt
	TypeClaimRefused      RecordType = "claim.refused"             // evt
	TypeClockChanged      RecordType = "clock.changed"             // evt
	TypeAlarmRaised       RecordType = "alarm.raised"              // evt
	TypeAuditHead         RecordType = "audit.head"                // evt
	TypeDeviceEvent       RecordType = "device.event"              // evt
	TypeCommandStatus     RecordType = "command.status"            // evt
	TypeTelemetry         RecordType = "telemetry"                 // tel
	TypeGap               RecordType = "gap"                       // evt, tel; damage in prov too
)

// Stamp is when something happened, as well as the box can tell.
type Stamp struct {
	// Time is the wall clock's reading, in UTC; Clock says how far to trust it.
	Time  time.Time
	Clock ClockState
	// Boot is the kernel's boot id, and Uptime the time since that boot
	// (CLOCK_BOOTTIME): within one boot, ages come from Uptime (P10).
	Boot   string
	Uptime time.Duration
}

// ClockState says how far the wall clock can be trusted.
type ClockState string

// The states of the clock, as the kernel tells (adjtimex).
const (
	ClockSynced   ClockState = "synced"
	ClockUnsynced ClockState = "unsynced"
)

// Mark is a place in a lane of one life of the outbox.
type Mark struct {
	Epoch string
	Lane  Lane
	// Upto is the sequence up to which, and with which, the mark stands.
	Upto uint64
	// Check names the last record told up to there; zero when nobody knows.
	Check Check
}

// LaneMarks is where a box stands in a lane.
type LaneMarks struct {
	// First is the first sequence that the box has not forgotten, one above
	// Appended when it has forgotten all.
	First uint64 `json:"first"`
	// Appended is the last sequence that was given.
	Appended uint64 `json:"appended"`
	// Check names the last record that upstream acknowledged.
	Check Check `json:"check,omitzero"`
}

// Check names a record by what is in it: a box whose record of that sequence is
// another one does not hold what it once told, but is an old copy that went on
// by itself.
type Check struct {
	Sequence uint64 `json:"sequence"`
	// Hash is 22 characters, base64url of 16 bytes; bridge/wire says of what.
	Hash string `json:"hash"`
}

// IsZero reports whether nothing is known.
func (c Check) IsZero() bool { return c == Check{} }

// Contradicts reports whether the two name different records of one sequence.
func (c Check) Contradicts(other Check) bool {
	return !c.IsZero() && c.Sequence == other.Sequence && c.Hash != other.Hash
}

// Quarantined is a record that upstream will never take as it is, or one of the
// same device behind it. An operator requeues or discards it.
type Quarantined struct {
	// ID names it among the quarantined: unique for ever, ascending in the
	// order of their sequences.
	ID       string     `json:"id"`
	Lane     Lane       `json:"lane"`
	Sequence uint64     `json:"sequence"` // that it had in its lane
	Epoch    string     `json:"epoch"`
	Type     RecordType `json:"type"`
	Device   DeviceID   `json:"device_id,omitzero"`
	Time     time.Time  `json:"time"` // the record's
	// Reason is upstream's word, of the record it refused; empty of those
	// parked behind it.
	Reason   string    `json:"reason,omitempty"`
	ParkedAt time.Time `json:"parked_at"`
}

// LaneStats is the state of a lane in this epoch. Appended = acked + dropped +
// parked + pending, always.
type LaneStats struct {
	Pending  uint64 `json:"pending"`
	Bytes    uint64 `json:"bytes"`
	Appended uint64 `json:"appended"`
	Acked    uint64 `json:"acked"`
	Dropped  uint64 `json:"dropped"`
	// Parked counts those that left for the quarantine. A requeued one is
	// appended anew, a discarded one leaves a gap record.
	Parked uint64 `json:"parked"`
	// Quarantined are those in quarantine now, of whatever epoch.
	Quarantined uint64 `json:"quarantined"`
	// OldestAge is how long the oldest pending record has waited, in seconds
	// of running time; 0 when none waits.
	OldestAge float64 `json:"oldest_age_seconds"`
}
