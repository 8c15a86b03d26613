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
}

// Lane is one ordered queue of the outbox.
type Lane string

// The lanes. LaneProv is never dropped: full, claims are refused. LaneEvt is
// bounded: full, the oldest go and a gap record says so (P7).
const (
	LaneProv Lane = "prov"
	LaneEvt  Lane = "evt"
)

// Lanes lists the lanes in the order they are sent.
func Lanes() []Lane { return []Lane{LaneProv, LaneEvt} }

// RecordType is a CloudEvents type.
type RecordType string

// The types in use, by lane.
const (
	TypeDeviceProvisioned RecordType = "device.provisioned" // prov
	TypeDeviceReleased    RecordType = "device.released"    // prov
	TypeClaimRefused      RecordType = "claim.refused"      // evt
	TypeClockChanged      RecordType = "clock.changed"      // evt
	TypeGap               RecordType = "gap"                // evt
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

// LaneStats is the state of a lane. Appended = acked + dropped + pending,
// always.
type LaneStats struct {
	Pending  uint64 `json:"pending"`
	Bytes    uint64 `json:"bytes"`
	Appended uint64 `json:"appended"`
	Acked    uint64 `json:"acked"`
	Dropped  uint64 `json:"dropped"`
	// OldestAge is how long the oldest pending record has waited, in seconds
	// of running time; 0 when none waits.
	OldestAge float64 `json:"oldest_age_seconds"`
}
