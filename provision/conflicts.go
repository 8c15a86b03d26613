package provision

import (
	"context"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
)

// whoUpstream is who did what a document or a word from upstream did.
const whoUpstream = "upstream"

// kindConflict is the audit's kind of what upstream undid here.
const kindConflict = "device.conflict"

// conflictKind says what upstream made of a device.
type conflictKind string

const (
	// conflictRevoked: it is revoked. It means what device.credential.revoked
	// means.
	conflictRevoked conflictKind = "revoked"
	// conflictSwapped: another board has its place.
	conflictSwapped conflictKind = "swapped"
	// conflictID: it is to have another id than it was given here.
	conflictID conflictKind = "id_differs"
	// conflictSuperseded: another box's credential is the one that stays.
	conflictSuperseded conflictKind = "superseded"
)

// documentFacts name the document that said so.
type documentFacts struct {
	Type    edgeclaim.DocumentType `json:"type"`
	Name    string                 `json:"name"`
	Version uint64                 `json:"version"`
}

// conflict is the data of device.conflict; hardware_id is, of a swap, the new
// board's.
type conflict struct {
	deviceFacts
	Kind     conflictKind   `json:"kind"`
	Document *documentFacts `json:"document,omitempty"` // nil of a verdict
	// OtherDevice is, of id_differs, the id that it is to have.
	OtherDevice edgeclaim.DeviceID   `json:"other_device_id,omitzero"`
	OldHardware edgeclaim.HardwareID `json:"old_hardware_id,omitzero"` // of a swap
	// Of a verdict: the credential that stays, and who gave it.
	Credential *credentialFacts `json:"credential,omitempty"`
	KeptBox    string           `json:"kept_box_id,omitempty"`
	ClaimedAt  time.Time        `json:"claimed_at"`
	At         time.Time        `json:"at"`
}

// conflictRecord is the record of what upstream made of a device.
func (s *Service) conflictRecord(d *edgeclaim.Device, data conflict) (*edgeclaim.Record, error) {
	data.deviceFacts, data.ClaimedAt, data.At = s.facts(d), d.ClaimedAt, s.clock.Now()
	return s.deviceRecord(edgeclaim.TypeDeviceConflict, d, data)
}

// tellConflict tells the operator, when the record is durable.
func (s *Service) tellConflict(ctx context.Context, d *edgeclaim.Device, kind conflictKind, detail map[string]string) {
	if say, unsaid := s.conflictLog.take(time.Now()); say {
		s.logger.Warn("device in conflict with upstream", "kind", kind, "device_id", d.ID, "hardware_id", d.Hardware, "unsaid", unsaid)
	}
	entry := entryOf(kindConflict, d)
	entry.Reason, entry.Detail = string(kind), detail
	s.write(WithWho(ctx, whoUpstream), entry)
	s.alarm(edgeclaim.AlarmDeviceConflict, edgeclaim.KeyID{})
}

// Adjudge takes upstream's word on a device that several boxes had given a
// credential: where this box's is the one that does not stay, the other takes
// its place, and open sessions end. That is told upstream in the same
// transaction. nil where there is nothing to do, so that it may be repeated at
// any time (P8). Errors: ErrInvalid, ErrUnavailable.
func (s *Service) Adjudge(ctx context.Context, v edgeclaim.Verdict) error {
	switch {
	case v.Device.ID.IsZero():
		return edgeclaim.Invalid("device_id", "required")
	case v.Void.IsZero() || v.Device.Credential.Hash.IsZero():
		return edgeclaim.Invalid("sha256", "required")
	case v.Void.Equal(v.Device.Credential.Hash):
		return edgeclaim.Invalid("void_sha256", "is the one that stays")
	case v.KeptBox == "":
		return edgeclaim.Invalid("kept_box_id", "required")
	}
	device, adopted, err := s.store.AdoptVerdict(ctx, v, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		stays := factsOf(&d.Credential)
		return s.conflictRecord(d, conflict{Kind: conflictSuperseded, Credential: &stays, KeptBox: v.KeptBox})
	})
	if err != nil || !adopted {
		return err
	}
	s.cfg.Void(device.ID)
	s.tellConflict(ctx, &device, conflictSuperseded, map[string]string{"kept_box_id": v.KeptBox})
	return nil
}

// keysRevoked tells the operator of keys that made devices here and are revoked
// upstream: those devices stay as they are until he says otherwise.
func (s *Service) keysRevoked(ctx context.Context, keys []edgeclaim.Key) {
	for i := range keys {
		k := &keys[i]
		if say, unsaid := s.conflictLog.take(time.Now()); say {
			s.logger.Warn("key revoked upstream that made devices here", "key_id", k.ID, "claims", k.Claims, "unsaid", unsaid)
		}
		s.write(WithWho(ctx, whoUpstream), audit.Entry{
			Kind: audit.KindKeyRevoked, Key: k.ID.String(), Template: k.Template.String(), Count: uint64(k.Claims),
		})
		s.alarm(edgeclaim.AlarmKeyRevoked, k.ID)
	}
}
