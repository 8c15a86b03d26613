package telemetry

import (
	"errors"

	"edgeclaim"
	"edgeclaim/internal/seglog"
)

// ListAtOnce has those at work written down whenever one comes, before Run.
func (s *Service) ListAtOnce() { s.listEvery = 0 }

// Listed reports whether all who came are on the list.
func (s *Service) Listed() bool {
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	for d := s.presence.turns.back; d != nil; d = d.links[byTurn].prev {
		if d.online {
			return d.turned <= s.presence.rolled
		}
	}
	return true
}

// Document is the scanner's judgement of a text.
func Document(b []byte) bool {
	_, _, ok := document(b)
	return ok
}

// Unique is the scanner's judgement of the names in a text that is JSON.
func Unique(b []byte) bool {
	start, end, _ := document(b)
	return unique(b[start:end])
}

// Looker looks through points, as one report after the other would have it.
type Looker struct {
	w      *scratch
	schema *schema // nil: none
}

// NewLooker returns one.
func NewLooker() *Looker { return &Looker{w: newScratch()} }

// Under has it hold points against a schema.
func (l *Looker) Under(s *edgeclaim.TelemetrySchema) *Looker { return &Looker{l.w, compile(s)} }

// Schemas says how many compiled schemas the service has.
func (s *Service) Schemas() int {
	s.schemas.mu.RLock()
	defer s.schemas.mu.RUnlock()
	return len(s.schemas.kept)
}

// MaxSchemas bounds them.
const MaxSchemas = maxSchemas

// Sweep has those leave who were silent for too long, as it is done all the time.
func (s *Service) Sweep() { s.presence.sweep(s.parts.Stamp()) }

// Silences says of how many different times of silence the service has a list,
// and how many tenants' profiles it watches.
func (s *Service) Silences() (lists, tenants int) {
	s.presence.mu.Lock()
	defer s.presence.mu.Unlock()
	return len(s.presence.silences), len(s.presence.versions)
}

// Point looks through one body with a single point, and returns what upstream
// would be told of it.
func (l *Looker) Point(body []byte, e edgeclaim.Admission, flat bool) ([]byte, error) {
	start, end, ok := document(body)
	if !ok {
		return nil, errors.New("not JSON")
	}
	p, f := l.w.parsePoint(body[start:end], e.Device, flat)
	if f != nil {
		return nil, f.err()
	}
	kept := entry{form: p.form, device: e.Device, tenant: e.Tenant, payload: p.raw}
	r, err := telemetryRecord(&kept)
	return r.Data, err
}

// Look looks through a body and does nothing else.
func (l *Looker) Look(body []byte, device edgeclaim.DeviceID) bool {
	start, end, ok := document(body)
	if !ok {
		return false
	}
	r := edgeclaim.Report{By: edgeclaim.Admission{Device: device}, Via: edgeclaim.ViaMQTT}
	_, f := l.w.lookPoint(body[start:end], &r, l.schema)
	return f == nil
}

// RoundTrip writes an entry and reads it again.
func RoundTrip(by edgeclaim.Admission, stamp edgeclaim.Stamp, payload []byte) (edgeclaim.Admission, edgeclaim.Stamp, []byte, error) {
	e := entry{form: formFlat, device: by.Device, tenant: by.Tenant, stamp: stamp, payload: payload}
	got, err := parseEntry(appendEntry(nil, &e, newBootName(stamp.Boot)))
	return edgeclaim.Admission{Device: got.device, Tenant: got.tenant}, got.stamp, got.payload, err
}

// ParseEntry reads any bytes as an entry.
func ParseEntry(raw []byte) error {
	e, err := parseEntry(raw)
	if err == nil && e.form != formEvent {
		_, err = telemetryRecord(&e)
	}
	return err
}

// Points is the log of points.
func (s *Service) Points() *seglog.Log { return s.points }

// Events is the log of events.
func (s *Service) Events() *seglog.Log { return s.events }
