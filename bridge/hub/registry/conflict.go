package registry

import (
	"context"
	"database/sql"
	"fmt"
	"strings"
	"time"

	"edgeclaim"
)

// The kinds of conflict.
const (
	// KindTwoBoxes: two boxes gave one device a credential each (P9).
	KindTwoBoxes = "two_boxes"
	// KindIdentity: a box says another hardware or tenant of a device than the
	// one who told it first; or it has given a board another id than upstream has
	// for it.
	KindIdentity = "identity_mismatch"
	// KindCloned: an epoch that another took the place of still lives: two
	// boxes under one name.
	KindCloned = "box_cloned"
	// KindSuspected: a box has seen what looks like two boards of one identity.
	KindSuspected = "clone_suspected"
	// KindRewritten: a box's audit log is not the one whose end it told before.
	KindRewritten = "audit_rewritten"
)

// conflict is one to be opened.
type conflict struct {
	kind, subject, detail string
	device                edgeclaim.DeviceID
	box, other            int64
	at                    int64
	resolution            string // resolved at once when set
	kept                  int64
}

// open records a conflict, unless one of the same subject is open.
func (w *writer) open(ctx context.Context, c conflict) error {
	id, err := w.next(ctx, "conflicts", "id")
	if err != nil {
		return err
	}
	var device any
	if !c.device.IsZero() {
		device = c.device.Bytes()
	}
	resolved := int64(0)
	if c.resolution != "" {
		resolved = c.at
	}
	return w.run(ctx, `INSERT INTO conflicts (id, kind, subject, device, box, other, detail, opened_at, resolved_at, resolution, kept)
		VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (subject) WHERE resolved_at = 0 DO NOTHING`,
		id, c.kind, c.subject, device, c.box, c.other, c.detail, c.at, resolved, c.resolution, c.kept)
}

// Conflict is a contradiction between boxes that somebody has to decide, or
// has decided.
type Conflict struct {
	ID     int64              `json:"id"`
	Kind   string             `json:"kind"`
	Device edgeclaim.DeviceID `json:"device_id,omitzero"` // of KindTwoBoxes, KindIdentity and KindSuspected
	// Boxes are the one who told first and the other; one alone, where a box
	// contradicts itself or only one is concerned.
	Boxes    []string  `json:"boxes"`
	Detail   string    `json:"detail"`
	OpenedAt time.Time `json:"opened_at"`
	// ResolvedAt is zero while it is open. Resolution is how it ended:
	// operator, first, released, renewed or superseded.
	ResolvedAt time.Time `json:"resolved_at,omitzero"`
	Resolution string    `json:"resolution,omitempty"`
	Kept       string    `json:"kept_box_id,omitempty"`
}

// ConflictFilter chooses conflicts; the zero value takes all.
type ConflictFilter struct {
	Open  bool // only those that are
	After int64
	Limit int // 1 to MaxPage; other values are MaxPage
}

// Conflicts pages through the conflicts by id.
func (db *DB) Conflicts(ctx context.Context, f ConflictFilter) ([]Conflict, error) {
	rows, err := db.query(ctx, `SELECT c.id, c.kind, c.device, one.box, other.box, c.detail, c.opened_at, c.resolved_at, c.resolution, kept.box
		FROM conflicts c LEFT JOIN boxes one ON one.number = c.box LEFT JOIN boxes other ON other.number = c.other
		LEFT JOIN boxes kept ON kept.number = c.kept
		WHERE c.id > ? AND (? = 0 OR c.resolved_at = 0) ORDER BY c.id LIMIT ?`, f.After, flag(f.Open), pageLimit(f.Limit))
	var found []Conflict
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		var c Conflict
		var device []byte
		var one, other, kept sql.NullString
		var opened, resolved int64
		err := rows.Scan(&c.ID, &c.Kind, &device, &one, &other, &c.Detail, &opened, &resolved, &c.Resolution, &kept)
		if err != nil {
			return err
		}
		if device != nil {
			if c.Device, err = edgeclaim.DeviceIDFromBytes(device); err != nil {
				return err
			}
		}
		for _, name := range []sql.NullString{one, other} {
			if name.Valid {
				c.Boxes = append(c.Boxes, name.String)
			}
		}
		c.Kept, c.OpenedAt, c.ResolvedAt = kept.String, fromMicros(opened), fromMicros(resolved)
		found = append(found, c)
		return nil
	})
	return found, err
}

// ErrResolved is an edgeclaim.ErrConflict.
var ErrResolved error = resolvedError{}

type resolvedError struct{}

func (resolvedError) Error() string { return "resolved already" }

func (resolvedError) Is(target error) bool { return target == edgeclaim.ErrConflict }

// Resolve ends a conflict for good: the credential of the box that is kept is
// valid, those of the others are void, until their box gives the device a new
// one. A conflict over a box's name or audit log, over a board's id, or a suspicion,
// has nothing to void: it is closed.
// ErrNotFound: no such conflict. ErrResolved: it is, already.
// ErrInvalid: the box is not one of the conflict's.
func (db *DB) Resolve(ctx context.Context, id int64, keepBox string) error {
	return db.change(ctx, func(w *writer) error {
		var kind, subject string
		var device []byte
		var one, other, resolved, keep int64
		found, err := w.one(ctx, `SELECT kind, subject, device, box, other, resolved_at FROM conflicts WHERE id = ?`, []any{id},
			&kind, &subject, &device, &one, &other, &resolved)
		switch {
		case err != nil:
			return err
		case !found:
			return fmt.Errorf("conflict %d: %w", id, edgeclaim.ErrNotFound)
		case resolved != 0:
			return fmt.Errorf("conflict %d: %w", id, ErrResolved)
		}
		found, err = w.one(ctx, `SELECT number FROM boxes WHERE box = ?`, []any{keepBox}, &keep)
		if err != nil {
			return err
		}
		if !found || keep != one && keep != other {
			return edgeclaim.Invalid("box_id", "not a box of this conflict")
		}
		if kind == KindSuspected || strings.HasPrefix(subject, differsPrefix) {
			device = nil
		}
		r := resolution{id: id, device: device, keep: keep, at: micros(db.now())}
		if _, err := w.one(ctx, `SELECT number FROM devices WHERE device = ?`, []any{device}, &r.number); err != nil {
			return err
		}
		return w.resolve(ctx, r)
	})
}

type resolution struct {
	id, keep, at int64
	device       []byte
	number       int64 // the device's
}

// resolve voids all credentials of the device but the one that is kept, and
// closes what it was in contradiction to. A credential that another box holds
// too is one credential: it stays.
func (w *writer) resolve(ctx context.Context, r resolution) error {
	if r.device == nil {
		return w.run(ctx, `UPDATE conflicts SET resolved_at = ?, resolution = 'operator', kept = ? WHERE id = ?`, r.at, r.keep, r.id)
	}
	if err := w.run(ctx, `UPDATE holdings SET void = '', changed_at = ? WHERE number = ? AND box = ?`, r.at, r.number, r.keep); err != nil {
		return err
	}
	err := w.run(ctx, `UPDATE holdings SET void = ?, changed_at = ? WHERE number = ? AND box <> ? AND void = '' AND status = ?
		AND hash <> COALESCE((SELECT kept.hash FROM holdings kept WHERE kept.number = ? AND kept.box = ?), ?)`,
		voidResolved, r.at, r.number, r.keep, string(edgeclaim.DeviceActive), r.number, r.keep, []byte{})
	if err != nil {
		return err
	}
	return w.run(ctx, `UPDATE conflicts SET resolved_at = ?, resolution = 'operator', kept = ?
		WHERE device = ? AND kind <> ? AND substr(subject, 1, CAST(? AS INTEGER)) <> ? AND resolved_at = 0`,
		r.at, r.keep, r.device, KindSuspected, len(differsPrefix), differsPrefix)
}
