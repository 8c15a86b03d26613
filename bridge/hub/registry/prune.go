package registry

import (
	"context"
	"database/sql"
	"time"

	"edgeclaim"
)

// pruneRows is how many records one transaction of Prune takes, so that Apply
// does not wait long.
const pruneRows = 5_000

// Prune deletes records of LaneEvt and LaneTel that came before a time, and
// commands that were over before it, and says how many of both. Marks
// and holes stay: what is pruned was applied, and is not taken again.
func (db *DB) Prune(ctx context.Context, before time.Time) (pruned int64, err error) {
	type stretch struct{ epoch, lane int64 }
	var stretches []stretch
	rows, err := db.query(ctx, `SELECT epoch, lane FROM marks WHERE lane IN (?, ?)`, laneNumber(edgeclaim.LaneEvt), laneNumber(edgeclaim.LaneTel))
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		var s stretch
		err := rows.Scan(&s.epoch, &s.lane)
		stretches = append(stretches, s)
		return err
	})
	if err != nil {
		return 0, err
	}
	for _, s := range stretches {
		for n := int64(pruneRows); n == pruneRows; pruned += n {
			if n, err = db.pruneSome(ctx, s.epoch, s.lane, micros(before)); err != nil {
				return pruned, err
			}
		}
	}
	for n := int64(pruneRows); n == pruneRows; pruned += n {
		if n, err = db.pruneCommands(ctx, micros(before)); err != nil {
			return pruned, err
		}
	}
	return pruned, nil
}

// pruneSome deletes the oldest records of an epoch and lane. They came in the
// order of their sequences, so the oldest are in front, up to a clock that was
// set back.
func (db *DB) pruneSome(ctx context.Context, epoch, lane, before int64) (n int64, err error) {
	err = db.change(ctx, func(w *writer) error {
		var last int64
		_, err := w.one(ctx, `SELECT COALESCE(MAX(sequence), 0) FROM (SELECT sequence, received_at FROM records
			WHERE epoch = ? AND lane = ? ORDER BY sequence LIMIT ?) AS oldest WHERE received_at < ?`,
			[]any{epoch, lane, pruneRows, before}, &last)
		if err != nil || last == 0 {
			return err
		}
		result, err := w.exec(ctx, `DELETE FROM records WHERE epoch = ? AND lane = ? AND sequence <= ? AND received_at < ?`,
			epoch, lane, last, before)
		if err != nil {
			return err
		}
		if n, err = result.RowsAffected(); err != nil {
			return err
		}
		return w.run(ctx, `UPDATE marks SET pruned = ? WHERE epoch = ? AND lane = ?`, last, epoch, lane)
	})
	return n, err
}

// pruneCommands deletes commands that came to their end, or were worth nothing
// any more, and of which nobody has to be told. A box that was lost never says
// the end of what it had.
func (db *DB) pruneCommands(ctx context.Context, before int64) (n int64, err error) {
	err = db.change(ctx, func(w *writer) error {
		result, err := w.exec(ctx, `DELETE FROM commands WHERE number IN (SELECT number FROM commands
			WHERE waits = 0 AND changed_at < ? AND (status IN (?, ?, ?, ?) OR expires_at < ?) ORDER BY number LIMIT ?)`, before,
			string(edgeclaim.CommandSuccessful), string(edgeclaim.CommandFailed), string(edgeclaim.CommandExpired),
			string(edgeclaim.CommandCancelled), before, pruneRows)
		if err != nil {
			return err
		}
		n, err = result.RowsAffected()
		return err
	})
	return n, err
}
