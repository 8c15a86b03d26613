package telemetry

import (
	"sync"
	"time"

	"edgeclaim"
)

// maxSchemas is how many compiled schemas are kept; of those beyond, one is
// compiled again. Each takes some 200 bytes a metric.
const maxSchemas = 256

// schemas are those in use, compiled. They go by the schema itself, which is
// never changed: that is quicker than tenant, profile and version, and cannot be
// mistaken for another version's.
type schemas struct {
	mu   sync.RWMutex // guards what follows
	kept map[*edgeclaim.TelemetrySchema]compiled
}

func newSchemas() *schemas { return &schemas{kept: map[*edgeclaim.TelemetrySchema]compiled{}} }

type compiled struct {
	*schema
	tenant  edgeclaim.TenantID
	version uint64
}

// of returns what is inherited of a schema, compiled; nil where there is none.
func (s *schemas) of(tenant edgeclaim.TenantID, in *edgeclaim.Inherited) *schema {
	from := schemaOf(in)
	if from == nil {
		return nil
	}
	s.mu.RLock()
	known, ok := s.kept[from]
	s.mu.RUnlock()
	if ok {
		return known.schema
	}
	made := compiled{compile(from), tenant, in.Version}
	s.mu.Lock()
	defer s.mu.Unlock()
	for k, old := range s.kept { // the tenant's other versions have had their time
		if old.tenant == tenant && old.version != in.Version || len(s.kept) >= maxSchemas {
			delete(s.kept, k)
		}
	}
	s.kept[from] = made
	return made.schema
}

// schemaOf is the profile's, else the tenant's; nil for none.
func schemaOf(in *edgeclaim.Inherited) *edgeclaim.TelemetrySchema {
	switch {
	case in.Profile != nil && in.Profile.Schema != nil:
		return in.Profile.Schema
	case in.Default != nil:
		return in.Default.Schema
	default:
		return nil
	}
}

// thresholdOf is how long a device may be silent: the profile's word, else the
// tenant's, else the box's.
func thresholdOf(in *edgeclaim.Inherited, own time.Duration) time.Duration {
	for _, p := range []*edgeclaim.Profile{in.Profile, in.Default} {
		if p != nil && p.OfflineAfter > 0 {
			return min(time.Duration(p.OfflineAfter)*time.Second, mostOffline)
		}
	}
	return own
}

// inherits says what holds for a device that speaks, and what its points have to
// be; nil: anything.
func (s *Service) inherits(by *edgeclaim.Admission) (holding, *schema) {
	if s.parts.Inherited == nil {
		return holding{offlineAfter: s.cfg.OfflineAfter}, nil
	}
	in := s.parts.Inherited(by.Tenant, by.Profile)
	return holding{thresholdOf(&in, s.cfg.OfflineAfter), in.Version}, s.schemas.of(by.Tenant, &in)
}
