package registry

import (
	"bytes"
	"context"
	"crypto/rand"
	"database/sql"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/go-json-experiment/json/jsontext"

	"edgeclaim"
)

// MaxCommandsWaiting is how many commands may wait to be told to their boxes, of
// all devices together.
const MaxCommandsWaiting = 100_000

// Command is what is known of a command.
type Command struct {
	ID     edgeclaim.CommandID `json:"command_id"`
	Device edgeclaim.DeviceID  `json:"device_id"`
	// Box told the status, or was told the command last; empty for neither.
	Box string `json:"box_id,omitempty"`
	// Payload is nil of one that was given elsewhere.
	Payload   json.RawMessage         `json:"payload,omitempty"`
	Origin    edgeclaim.CommandOrigin `json:"origin"`
	By        string                  `json:"by,omitempty"`
	GivenAt   time.Time               `json:"given_at,omitzero"`
	ExpiresAt time.Time               `json:"expires_at,omitzero"`
	// Status is CommandPending until a box says another.
	Status   edgeclaim.CommandStatus `json:"status"`
	StatusAt time.Time               `json:"status_at,omitzero"`
	Attempts int64                   `json:"attempts"`
	Result   json.RawMessage         `json:"result,omitempty"`
	Reason   string                  `json:"reason,omitempty"`
	// SentAt is when its box was told first; zero of one that was given
	// elsewhere, too. It is told again until it says a status.
	SentAt time.Time `json:"sent_at,omitzero"`
	// CancelledBy asked for its end, which the status says once the box agrees.
	CancelledBy string `json:"cancelled_by,omitempty"`
	// Number orders the commands as they became known here.
	Number int64 `json:"-"`
}

// GiveCommand keeps a command for whichever box holds the device validly; nil
// means that this is durable. An id that the device has already with the same
// payload changes nothing (P8). o.ExpiresAt must be set; o.ID may be left to be
// made. ErrNotFound: no such device. ErrConflict: no box holds it validly, or
// another command has the id. ErrUnavailable: MaxCommandsWaiting are waiting.
func (db *DB) GiveCommand(ctx context.Context, o edgeclaim.Order) (Command, error) {
	payload := jsontext.Value(bytes.Clone(o.Payload))
	if payload.Compact() != nil || len(payload) > edgeclaim.MaxCommandPayload {
		return Command{}, edgeclaim.Invalid("payload", "want JSON of at most %d bytes", edgeclaim.MaxCommandPayload)
	}
	now := db.now()
	if !o.ExpiresAt.After(now) {
		return Command{}, edgeclaim.Invalid("expires_at", "want a time to come")
	}
	if o.ID.IsZero() {
		id, err := edgeclaim.ParseCommandID(strings.ToLower(rand.Text()))
		if err != nil {
			return Command{}, err
		}
		o.ID = id
	}
	err := db.change(ctx, func(w *writer) error {
		if known, err := w.sameCommand(ctx, &o, payload); known || err != nil {
			return err
		}
		if err := w.mayCommand(ctx, o.Device); err != nil {
			return err
		}
		number, err := w.next(ctx, "commands", "number")
		if err != nil {
			return err
		}
		return w.run(ctx, `INSERT INTO commands (number, device, id, box, payload, origin, given_by, given_at, expires_at,
			status, status_at, attempts, result, reason, waits, sent_at, sent_to, cancelled_by, changed_at)
			VALUES (?, ?, ?, 0, ?, ?, ?, ?, ?, ?, ?, 0, NULL, '', ?, 0, 0, '', ?)`,
			number, o.Device.Bytes(), o.ID.String(), []byte(payload), string(edgeclaim.OriginUpstream), short(o.By), micros(now), micros(o.ExpiresAt),
			string(CommandPending), micros(now), waitsOrder, micros(now))
	})
	if err != nil {
		return Command{}, err
	}
	return db.Command(ctx, o.Device, o.ID)
}

// sameCommand reports whether the very command was given before.
func (w *writer) sameCommand(ctx context.Context, o *edgeclaim.Order, payload []byte) (bool, error) {
	var before []byte
	found, err := w.one(ctx, `SELECT payload FROM commands WHERE device = ? AND id = ?`, []any{o.Device.Bytes(), o.ID.String()}, &before)
	if err == nil && found && !bytes.Equal(before, payload) {
		err = fmt.Errorf("%w: the device has another command of that id", edgeclaim.ErrConflict)
	}
	return found, err
}

// mayCommand says why a device cannot be told anything.
func (w *writer) mayCommand(ctx context.Context, device edgeclaim.DeviceID) error {
	var number, holders, waiting int64
	found, err := w.one(ctx, `SELECT number FROM devices WHERE device = ?`, []any{device.Bytes()}, &number)
	if err != nil {
		return err
	}
	if !found {
		return fmt.Errorf("device %s: %w", device, edgeclaim.ErrNotFound)
	}
	_, err = w.one(ctx, `SELECT COUNT(*) FROM holdings WHERE number = ? AND `+validHolding, []any{number}, &holders)
	if err == nil && holders == 0 {
		err = fmt.Errorf("%w: no box holds the device with a valid credential", edgeclaim.ErrConflict)
	}
	if err != nil {
		return err
	}
	_, err = w.one(ctx, `SELECT COUNT(*) FROM commands WHERE waits > 0`, nil, &waiting)
	if err == nil && waiting >= MaxCommandsWaiting {
		err = fmt.Errorf("%w: %d commands wait for their boxes", edgeclaim.ErrUnavailable, waiting)
	}
	return err
}

// validHolding is holding.isValid in SQL.
const validHolding = `status = 'active' AND void = '' AND hash IS NOT NULL`

// CancelCommand takes a command back. One that no box was told is cancelled at
// once; of any other the box decides, and its status says what came of it. One
// that has come to its end stays as it is. ErrNotFound: no such command.
func (db *DB) CancelCommand(ctx context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID, by string) (Command, error) {
	now := micros(db.now())
	err := db.change(ctx, func(w *writer) error {
		var number, sent int64
		var status edgeclaim.CommandStatus
		found, err := w.one(ctx, `SELECT number, status, sent_at FROM commands WHERE device = ? AND id = ?`,
			[]any{device.Bytes(), id.String()}, &number, &status, &sent)
		switch {
		case err != nil:
			return err
		case !found:
			return fmt.Errorf("command %s: %w", id, edgeclaim.ErrNotFound)
		case status.Final():
			return nil
		case status == CommandPending && sent == 0:
			return w.run(ctx, `UPDATE commands SET status = ?, status_at = ?, waits = ?, cancelled_by = ?, changed_at = ? WHERE number = ?`,
				string(edgeclaim.CommandCancelled), now, waitsNothing, short(by), now, number)
		}
		return w.run(ctx, `UPDATE commands SET waits = ?, cancelled_by = ?, changed_at = ? WHERE number = ?`, waitsCancel, short(by), now, number)
	})
	if err != nil {
		return Command{}, err
	}
	return db.Command(ctx, device, id)
}

// CommandFilter chooses commands; the zero value takes all.
type CommandFilter struct {
	Device edgeclaim.DeviceID
	ID     edgeclaim.CommandID
	Status edgeclaim.CommandStatus
	After  int64 // a Number
	Limit  int   // 1 to MaxPage; other values are MaxPage
}

// Commands pages through the commands in the order they became known.
func (db *DB) Commands(ctx context.Context, f CommandFilter) ([]Command, error) {
	text, args := ``, []any{f.After}
	add := func(condition string, arg any) { text, args = text+` AND `+condition, append(args, arg) }
	if !f.Device.IsZero() {
		add(`c.device = ?`, f.Device.Bytes())
	}
	if !f.ID.IsZero() {
		add(`c.id = ?`, f.ID.String())
	}
	if f.Status != "" {
		add(`c.status = ?`, string(f.Status))
	}
	rows, err := db.query(ctx, `SELECT c.number, c.device, c.id, b.box, c.payload, c.origin, c.given_by, c.given_at, c.expires_at,
		c.status, c.status_at, c.attempts, c.result, c.reason, c.sent_at, c.cancelled_by
		FROM commands c LEFT JOIN boxes b ON b.number = CASE WHEN c.box <> 0 THEN c.box ELSE c.sent_to END
		WHERE c.number > ?`+text+` ORDER BY c.number LIMIT ?`, append(args, pageLimit(f.Limit))...)
	var found []Command
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		c, err := scanCommand(rows)
		found = append(found, c)
		return err
	})
	return found, err
}

func scanCommand(rows *sql.Rows) (Command, error) {
	var c Command
	var device, payload, result []byte
	var id string
	var box sql.NullString
	var given, expires, at, sent int64
	err := rows.Scan(&c.Number, &device, &id, &box, &payload, &c.Origin, &c.By, &given, &expires,
		&c.Status, &at, &c.Attempts, &result, &c.Reason, &sent, &c.CancelledBy)
	if err != nil {
		return c, err
	}
	if c.Device, err = edgeclaim.DeviceIDFromBytes(device); err != nil {
		return c, err
	}
	if c.ID, err = edgeclaim.ParseCommandID(id); err != nil {
		return c, err
	}
	c.Box, c.Payload, c.Result = box.String, payload, result
	c.GivenAt, c.ExpiresAt, c.StatusAt, c.SentAt = fromMicros(given), fromMicros(expires), fromMicros(at), fromMicros(sent)
	return c, nil
}

// Command returns one command. ErrNotFound: no such command.
func (db *DB) Command(ctx context.Context, device edgeclaim.DeviceID, id edgeclaim.CommandID) (Command, error) {
	found, err := db.Commands(ctx, CommandFilter{Device: device, ID: id, Limit: 1})
	if err == nil && len(found) == 0 {
		err = fmt.Errorf("command %s: %w", id, edgeclaim.ErrNotFound)
	}
	if err != nil {
		return Command{}, err
	}
	return found[0], nil
}
