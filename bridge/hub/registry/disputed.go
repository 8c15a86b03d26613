package registry

import (
	"context"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"edgeclaim"
)

// The kinds of edgeclaim.TypeDeviceConflict, as boxes tell them.
const (
	disputeRevoked    = "revoked"
	disputeSwapped    = "swapped"
	disputeDiffers    = "id_differs"
	disputeSuperseded = "superseded"
)

// readConflict reads what a box made of a document or a verdict that contradicts
// what it had decided alone. A kind of a later version is kept, and changes
// nothing.
func (e *event) readConflict() error {
	var d struct {
		deviceFacts `json:",inline"`
		Kind        string               `json:"kind"`
		Other       edgeclaim.DeviceID   `json:"other_device_id"`
		Old         edgeclaim.HardwareID `json:"old_hardware_id"`
		Generation  int                  `json:"generation"`
		Credential  *credentialFacts     `json:"credential"` // of superseded: the one that took the place
		At          time.Time            `json:"at"`
	}
	if err := json.Unmarshal(e.Data, &d); err != nil {
		return dataFault(err)
	}
	if d.Kind == "" {
		return missing("kind")
	}
	if err := e.about(&d.deviceFacts); err != nil {
		return err
	}
	switch d.Kind {
	case disputeRevoked:
		e.what, e.holding = saysRevoked, &holding{status: edgeclaim.DeviceRevoked}
	case disputeSwapped:
		e.what, e.holding = saysSwapped, &holding{status: edgeclaim.DeviceReleased, generation: max(d.Generation, 0)}
		e.replaces = d.Old
	case disputeDiffers:
		e.what, e.aliased = saysDiffers, d.Other
	case disputeSuperseded:
		h := &holding{status: edgeclaim.DeviceActive, issuedAt: micros(d.At)}
		if d.Credential != nil {
			if err := d.Credential.into(h); err != nil {
				return err
			}
		}
		e.what, e.holding = saysSuperseded, h
	}
	return nil
}

// supersede gives a holding the credential that its box took over from another:
// the one that the record names, or else the one that stays. Where nobody knows
// which that is, the holding has none until the box's registry tells: the one it
// had is void at the box (P9).
func (d *device) supersede(h *holding, t *told) {
	next := *t.holding
	kept := d.stays(h)
	switch {
	case next.hash.IsZero() && kept != nil:
		next.credential, next.hash, next.issuedAt, next.notAfter = kept.credential, kept.hash, kept.issuedAt, kept.notAfter
	case next.hash.IsZero():
		next.credential = h.credential
		t.box.snapshot, t.box.isDirty = true, true
	case kept != nil && kept.hash.Equal(next.hash):
		next.issuedAt = kept.issuedAt
	}
	h.credential, h.hash, h.issuedAt, h.notAfter = next.credential, next.hash, next.issuedAt, next.notAfter
	h.void, h.previous, h.rotatedBy, h.confirmedAt = valid, previous{}, "", 0
	h.sealed, h.sealedKey, h.isDirty = next.sealed, next.sealedKey, true
}

// agreed closes the conflicts of a box that has taken another's credential over.
// Where a third box has another one still, that goes on.
func (a *applier) agreed(ctx context.Context, d *device, held *holding) error {
	for _, other := range d.holdings {
		if other == held || !other.isValid() || !other.hash.Equal(held.hash) {
			continue
		}
		err := a.run(ctx, `UPDATE conflicts SET resolved_at = ?, resolution = ?, kept = ? WHERE subject = ? AND resolved_at = 0`,
			a.now, disputeSuperseded, other.box, pair(d.id, other.box, held.box))
		if err != nil {
			return err
		}
	}
	return a.contest(ctx, d, held)
}

// differs opens a conflict for a board that keeps the id it has though upstream
// has another for it. It voids nothing, and ends when the device does: then the
// other id takes hold.
func (a *applier) differs(ctx context.Context, b *box, e *event) error {
	other := "another one"
	if !e.aliased.IsZero() {
		other = e.aliased.String()
	}
	return a.open(ctx, conflict{
		kind: KindIdentity, device: e.device, box: b.number, at: a.now, subject: differsSubject(e.device, b),
		detail: fmt.Sprintf("the board %s goes by this id, and upstream has %s for it; it takes hold when the device is released", e.hardware, other),
	})
}

// differsPrefix begins the subject of a conflict that differs opened.
const differsPrefix = disputeDiffers + "|"

func differsSubject(id edgeclaim.DeviceID, b *box) string {
	return differsPrefix + pair(id, b.number, b.number)
}
