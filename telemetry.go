package edgeclaim

import (
	"context"
	"net/netip"
	"time"
)

// Limits of what a device says and is told.
const (
	// MaxReport is the largest message of telemetry, or event, over either
	// face, in bytes. A listener may allow less.
	MaxReport = 256 << 10
	// MaxPoints is how many points one message may have.
	MaxPoints = 1000
	// MaxMetrics is how many metrics one point may have, MaxMetricName the
	// longest name of one and MaxMetricText the longest text value, in bytes of
	// UTF-8.
	MaxMetrics    = 256
	MaxMetricName = 128
	MaxMetricText = 4 << 10
)

// Report is what a device said, as it came: telemetry or an event. Whose it is
// is By's to say, never the Body's.
type Report struct {
	By   Admission
	Body []byte // of the Report's own: it may be kept
	Via  Via
	// Source is the peer's address.
	Source netip.Addr
	// Fleeting: nobody waits for it to be durable (MQTT's QoS 0). It is told
	// upstream where that is possible, and counted where it is not.
	Fleeting bool
}

// Receipt says what became of a Report.
type Receipt struct {
	// Accepted and Rejected count its points; an event is one.
	Accepted, Rejected int
	// Points are, of an array of telemetry, those that were accepted, each as it
	// came. They lie in the Report's Body.
	Points [][]byte
	// Commit is what what was accepted becomes durable with; nil when it is
	// already, or nobody is to wait for it.
	Commit *Commit
}

// Messages are what was accepted of a Report with that body, each as a device
// would have sent it by itself.
func (r *Receipt) Messages(body []byte) [][]byte {
	switch {
	case r.Accepted == 0:
		return nil
	case r.Points != nil:
		return r.Points
	default:
		return [][]byte{body}
	}
}

// Commit is a write to the disk that many wait for.
type Commit struct {
	done chan struct{}
	err  error // set before done is closed
}

// NewCommit returns one that is under way. Its maker has to call End, once.
func NewCommit() *Commit { return &Commit{done: make(chan struct{})} }

// End says how it ended: nil means that all of it is durable.
func (c *Commit) End(err error) {
	c.err = err
	close(c.done)
}

// Done is closed when it has ended.
func (c *Commit) Done() <-chan struct{} { return c.done }

// Wait waits until it has ended, or ctx has, and returns how. A Commit that is
// nil has ended well.
func (c *Commit) Wait(ctx context.Context) error {
	if c == nil {
		return nil
	}
	select {
	case <-c.done:
		return c.err
	default:
	}
	select {
	case <-c.done:
		return c.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Presence says whether a device is at work.
type Presence string

// A device is online from its first telemetry, and offline when it leaves, or
// was silent for as long as its profile allows.
const (
	PresenceOnline  Presence = "online"
	PresenceOffline Presence = "offline"
)

// DeviceState is the latest that is known of a device at work. It is told
// upstream as a state: only the latest counts, and nothing before it is kept.
type DeviceState struct {
	Device   DeviceID  `json:"device_id"`
	Tenant   TenantID  `json:"tenant_id"`
	Presence Presence  `json:"presence"`
	Since    time.Time `json:"presence_since"`
	// Seen is when it last sent telemetry, by the box's wall clock.
	Seen time.Time `json:"last_seen,omitzero"`

	// Version rises with each change of any device's state, within one run of
	// the program.
	Version uint64 `json:"-"`
	// Newest is its newest telemetry while upstream does not have it yet; nil
	// else.
	Newest *Record `json:"-"`
}

// TelemetryStatus is what devices say, counted since the program began.
type TelemetryStatus struct {
	// Online counts the devices at work now.
	Online int `json:"online"`
	// Accepted and Rejected count points and events: what is on the disk, and
	// what was not taken by its reason.
	Accepted uint64            `json:"accepted"`
	Rejected map[string]uint64 `json:"rejected"`
	// Fleeting counts points of QoS 0 that went on their way, FleetingDropped
	// those that could not.
	Fleeting        uint64 `json:"qos0_forwarded"`
	FleetingDropped uint64 `json:"qos0_dropped"`
	// EventsWaiting counts the devices' events that are not in LaneEvt yet, and
	// EventsDropped those that were lost before, which a gap record says.
	EventsWaiting uint64 `json:"events_waiting"`
	EventsDropped uint64 `json:"events_dropped"`
	// Reserved: the disk is down to what only claims may use.
	Reserved bool `json:"disk_reserved"`
}
