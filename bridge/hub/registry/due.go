package registry

import (
	"context"
	"database/sql"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// Due is a command that a box has to be told, or told that it is taken back.
type Due struct {
	// Number orders them as they were given.
	Number int64
	Name   wire.OrderName
	// Box holds the device: the one that says it is online where several do,
	// else the one that told of it last. Of a Cancel, the one that was told.
	Box    wire.Names
	Cancel bool

	box, sentTo int64
}

// DuePage is a page of what is due.
type DuePage struct {
	Due []Due
	// Last is the last number looked at, or the one that was asked for. More:
	// there may be others behind it.
	Last int64
	More bool
	// Expired: some are over without a word of any box, for ExpireCommands.
	Expired bool
}

// duePage is how many waiting commands CommandsDue looks at.
const duePage = 1000

// CommandsDue looks at the waiting commands behind a number, in the order they
// were given. Those that have expired, and those of devices that no box holds
// validly, are not due.
func (db *DB) CommandsDue(ctx context.Context, after int64) (DuePage, error) {
	rows, err := db.query(ctx, `SELECT c.number, c.device, c.id, c.waits, c.expires_at, c.sent_to, b.number, b.site, b.box FROM (
		SELECT w.number, w.device, w.id, w.waits, w.expires_at, w.sent_to,
			CASE WHEN w.box <> 0 THEN w.box WHEN w.waits = ? AND w.sent_to <> 0 THEN w.sent_to ELSE (
				SELECT h.box FROM devices d JOIN holdings h ON h.number = d.number LEFT JOIN states s ON s.device = d.device AND s.box = h.box
				WHERE d.device = w.device AND h.status = 'active' AND h.void = '' AND h.hash IS NOT NULL
				ORDER BY COALESCE(s.online, 0) DESC, h.changed_at DESC, h.box DESC LIMIT 1) END AS target
		FROM commands w WHERE w.waits > 0 AND w.number > ? ORDER BY w.number LIMIT ?) c
		LEFT JOIN boxes b ON b.number = c.target ORDER BY c.number`, waitsCancel, after, duePage)
	page := DuePage{Last: after}
	now, seen := micros(db.now()), 0
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		var d Due
		var device []byte
		var id string
		var waits int
		var expires int64
		var box sql.NullInt64
		var site, name sql.NullString
		err := rows.Scan(&d.Number, &device, &id, &waits, &expires, &d.sentTo, &box, &site, &name)
		if err != nil {
			return err
		}
		seen++
		page.Last = d.Number
		if expires <= now {
			page.Expired = true
			return nil
		}
		if d.Name.Device, err = edgeclaim.DeviceIDFromBytes(device); err != nil {
			return err
		}
		if d.Name.ID, err = edgeclaim.ParseCommandID(id); err != nil || !box.Valid {
			return err
		}
		d.Box, d.box, d.Cancel = wire.Names{Site: site.String, Box: name.String}, box.Int64, waits == waitsCancel
		page.Due = append(page.Due, d)
		return nil
	})
	page.More = seen == duePage
	return page, err
}

// TellCommands returns the orders of what is due and no Cancel, to be told now.
// nil means that it is durably noted that they were: from here on, only their
// box can cancel them. What was cancelled meanwhile is left out.
func (db *DB) TellCommands(ctx context.Context, due []Due) (map[int64]wire.Order, error) {
	of := map[int64]Due{}
	var numbers []any
	toNote := false
	for _, d := range due {
		if d.Cancel {
			continue
		}
		of[d.Number] = d
		numbers = append(numbers, d.Number)
		toNote = toNote || d.sentTo != d.box
	}
	orders := map[int64]wire.Order{}
	take := func(rows *sql.Rows) error {
		var number, expires int64
		var payload []byte
		err := rows.Scan(&number, &expires, &payload)
		orders[number] = wire.Order{OrderName: of[number].Name, ExpiresAt: fromMicros(expires), Payload: payload}
		return err
	}
	const query = `SELECT number, expires_at, payload FROM commands WHERE waits = 1 AND number`
	if !toNote {
		return orders, among(query, numbers, func(statement string, part []any) error {
			rows, err := db.query(ctx, statement, part...)
			return eachRow(rows, err, take)
		})
	}
	now := micros(db.now())
	return orders, db.change(ctx, func(w *writer) error {
		for _, d := range due {
			if d.Cancel || d.sentTo == d.box {
				continue
			}
			err := w.run(ctx, `UPDATE commands SET sent_to = ?, sent_at = CASE WHEN sent_at = 0 THEN ? ELSE sent_at END WHERE number = ? AND waits = ?`,
				d.box, now, d.Number, waitsOrder)
			if err != nil {
				return err
			}
		}
		clear(orders)
		return w.among(ctx, query, numbers, take)
	})
}

// reasonNotTaken is why a command came to its end here: no box ever said
// anything of it.
const reasonNotTaken = "not_taken"

// ExpireCommands ends what waits beyond its time, by Config.Now: no box said a
// word of it. Should one do so later, it had it after all, and that counts.
func (db *DB) ExpireCommands(ctx context.Context) error {
	now := micros(db.now())
	return db.change(ctx, func(w *writer) error {
		for waits, end := range map[int]edgeclaim.CommandStatus{waitsOrder: edgeclaim.CommandExpired, waitsCancel: edgeclaim.CommandCancelled} {
			err := w.run(ctx, `UPDATE commands SET status = ?, status_at = ?, reason = ?, waits = ?, changed_at = ?
				WHERE waits > 0 AND waits = ? AND status = ? AND expires_at <= ?`,
				string(end), now, reasonNotTaken, waitsNothing, now, waits, string(CommandPending), now)
			if err != nil {
				return err
			}
		}
		// Of the others the box says the end.
		return w.run(ctx, `UPDATE commands SET waits = ? WHERE waits > 0 AND expires_at <= ?`, waitsNothing, now)
	})
}
