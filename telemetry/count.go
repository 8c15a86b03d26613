package telemetry

import (
	"sync/atomic"

	"edgeclaim"
)

// reason is why something was not taken: a closed set, so that a metric may
// label by it.
type reason int

const (
	reasonMalformed reason = iota
	reasonWrongDevice
	reasonTooLarge
	reasonTooMany
	reasonThrottled
	reasonDiskFull
	reasonSchema
	reasons // how many there are
)

var reasonNames = [reasons]string{
	reasonMalformed: "malformed", reasonWrongDevice: "wrong_device", reasonTooLarge: "too_large",
	reasonTooMany: "too_many", reasonThrottled: "throttled", reasonDiskFull: "disk_full",
	reasonSchema: "schema",
}

// counters count what became of what devices said since the program began.
type counters struct {
	answers         atomic.Uint64 // to commands, which lie in no log
	rejected        [reasons]atomic.Uint64
	fleeting        atomic.Uint64
	fleetingDropped atomic.Uint64
	eventsDropped   atomic.Uint64
}

// Status returns what devices say at a glance.
func (s *Service) Status() edgeclaim.TelemetryStatus {
	rejected := make(map[string]uint64, reasons)
	for i, name := range reasonNames {
		rejected[name] = s.count.rejected[i].Load()
	}
	points, events := s.points.Bounds(), s.events.Bounds()
	rejected[reasonNames[reasonDiskFull]] += points.Failed + events.Failed
	return edgeclaim.TelemetryStatus{
		Online:   s.presence.count(),
		Accepted: points.Last - s.before.points + events.Last - s.before.events + s.count.answers.Load(),
		Rejected: rejected,
		Fleeting: s.count.fleeting.Load(), FleetingDropped: s.count.fleetingDropped.Load(),
		EventsWaiting: events.Last - max(events.Acked, events.Lost),
		EventsDropped: s.count.eventsDropped.Load(),
		Reserved:      points.Reserved || events.Reserved,
	}
}

// refused counts a point, or event, that was not taken.
func (s *Service) refused(r *edgeclaim.Report, why reason) {
	s.count.rejected[why].Add(1)
	s.warn(r, why)
}

// warn says so in the log, at most once a minute for each device: what stands
// in a line is of a device that may send thousands a second.
func (s *Service) warn(r *edgeclaim.Report, why reason) {
	if !s.presence.mayWarn(r.By.Device, s.parts.Stamp()) {
		return
	}
	s.logger.Warn("what a device says is not taken; more of it within a minute is not logged",
		"device_id", r.By.Device, "reason", reasonNames[why], "via", string(r.Via))
}
