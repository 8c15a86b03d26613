package bridge

import (
	"context"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/internal/client"
	"edgeclaim/bridge/wire"
)

const (
	// statesEvery is the least time between two tellings of what has changed:
	// only the latest counts, so what changes more often is told less often.
	statesEvery = time.Second
	// statesAtOnce is how many states are read at once.
	statesAtOnce = 256
)

// presence is what AckPuback retains for a device.
type presence struct {
	Device   edgeclaim.DeviceID `json:"device_id"`
	Presence edgeclaim.Presence `json:"presence"`
	Since    time.Time          `json:"presence_since"`
	Seen     time.Time          `json:"last_seen,omitzero"`
}

// states reads the next states that changed, all of them at the beginning of a
// connection.
func (d *drain) states(ctx context.Context) ([]parcel, error) {
	now := time.Now()
	if now.Before(d.stating) {
		d.more = true // perhaps
		return nil, nil
	}
	changed, err := d.parts.States.Changed(ctx, d.stated, statesAtOnce, false)
	if err != nil {
		if ctx.Err() != nil {
			return nil, ctx.Err()
		}
		d.logger.Warn("states of devices cannot be read", "err", err)
		d.stating, d.more = now.Add(d.rest()), true
		return nil, nil
	}
	if d.more = len(changed) == statesAtOnce; !d.more {
		d.stating = now.Add(statesEvery)
	}
	list := make([]parcel, len(changed))
	for i := range changed {
		if list[i], err = d.retained(&changed[i]); err != nil {
			return nil, err
		}
	}
	return list, nil
}

// retained is what is told of a state.
func (d *drain) retained(s *edgeclaim.DeviceState) (parcel, error) {
	payload, err := wire.Encode(&presence{Device: s.Device, Presence: s.Presence, Since: s.Since.UTC(), Seen: utc(s.Seen)})
	return parcel{place: place{sequence: s.Version}, message: &client.Message{
		Topic: d.topics.presence.fill(d.names, s.Device, s.Tenant.String()), Payload: payload, Retained: true,
	}}, err
}

// utc leaves no time as none.
func utc(t time.Time) time.Time {
	if t.IsZero() {
		return t
	}
	return t.UTC()
}
