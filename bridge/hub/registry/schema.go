package registry

import (
	"context"
	"crypto/rand"
	"fmt"
	"strconv"

	"edgeclaim"
)

// migrations bring the tables up to date, one version after the other; what is
// released is not changed any more. BYTES, INTEGER_KEY and CLUSTERED are
// written as the dialect has it. Times are microseconds since 1970, 0 for none;
// truths are 0 and 1.
//
// Rows are added behind each other. What is looked up by a random key (a device
// id, a hash) is so through an index of few bytes a row: it is the pages that a
// change touches that cost, not the rows. hash_key is the first 8 bytes of hash.
func migrations() [][]string {
	return [][]string{{
		`CREATE TABLE boxes (number INTEGER_KEY, box TEXT NOT NULL UNIQUE, site TEXT NOT NULL, epoch BIGINT NOT NULL,
			snapshot SMALLINT NOT NULL, recover SMALLINT NOT NULL, snapshot_id TEXT NOT NULL, snapshot_page BIGINT NOT NULL,
			held BIGINT NOT NULL, online SMALLINT NOT NULL, app SMALLINT NOT NULL, enrolled SMALLINT NOT NULL,
			program TEXT NOT NULL, clock TEXT NOT NULL, told_devices BIGINT NOT NULL,
			first_seen BIGINT NOT NULL, last_seen BIGINT NOT NULL)`,
		`CREATE INDEX boxes_site ON boxes (site, box)`,
		`CREATE TABLE epochs (number INTEGER_KEY, box BIGINT NOT NULL, epoch TEXT NOT NULL, previous TEXT NOT NULL,
			opened_at BIGINT NOT NULL, superseded_by BIGINT NOT NULL, fenced_at BIGINT NOT NULL, stale SMALLINT NOT NULL,
			UNIQUE (box, epoch))`,
		`CREATE TABLE marks (epoch BIGINT NOT NULL, lane SMALLINT NOT NULL, upto BIGINT NOT NULL, appended BIGINT NOT NULL,
			check_sequence BIGINT NOT NULL, check_hash TEXT NOT NULL, pruned BIGINT NOT NULL,
			PRIMARY KEY (epoch, lane)) CLUSTERED`,
		`CREATE TABLE holes (epoch BIGINT NOT NULL, lane SMALLINT NOT NULL, first BIGINT NOT NULL, last BIGINT NOT NULL,
			noted_at BIGINT NOT NULL, PRIMARY KEY (epoch, lane, first)) CLUSTERED`,
		`CREATE TABLE records (epoch BIGINT NOT NULL, lane SMALLINT NOT NULL, sequence BIGINT NOT NULL, type TEXT NOT NULL,
			device BYTES, time BIGINT NOT NULL, received_at BIGINT NOT NULL, event BYTES NOT NULL,
			PRIMARY KEY (epoch, lane, sequence))`,
		`CREATE TABLE devices (number INTEGER_KEY, device BYTES NOT NULL UNIQUE, tenant TEXT NOT NULL, hardware TEXT NOT NULL,
			name TEXT NOT NULL, first_box BIGINT NOT NULL, first_seen BIGINT NOT NULL)`,
		`CREATE TABLE holdings (number BIGINT NOT NULL, box BIGINT NOT NULL, device BYTES NOT NULL, status TEXT NOT NULL, void TEXT NOT NULL,
			credential TEXT NOT NULL, hash BYTES, hash_key BIGINT, issued_at BIGINT NOT NULL, name TEXT NOT NULL, template TEXT NOT NULL,
			key_id TEXT NOT NULL, profile TEXT NOT NULL, group_names TEXT NOT NULL, generation BIGINT NOT NULL,
			claimed_at BIGINT NOT NULL, claimed_via TEXT NOT NULL, tenant TEXT, hardware TEXT, changed_at BIGINT NOT NULL,
			PRIMARY KEY (number, box)) CLUSTERED`,
		`CREATE INDEX holdings_box ON holdings (box, device)`,
		`CREATE INDEX holdings_hash ON holdings (hash_key)`,
		`CREATE TABLE conflicts (id INTEGER_KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, device BYTES,
			box BIGINT NOT NULL, other BIGINT NOT NULL, detail TEXT NOT NULL, opened_at BIGINT NOT NULL,
			resolved_at BIGINT NOT NULL, resolution TEXT NOT NULL, kept BIGINT NOT NULL)`,
		`CREATE UNIQUE INDEX conflicts_open ON conflicts (subject) WHERE resolved_at = 0`,
		`CREATE INDEX conflicts_device ON conflicts (device)`,
	}, {
		// A holding's credential before the present one, its ends, and a PSK
		// that is sealed for the hub. Few rows have one; the index has those.
		`ALTER TABLE holdings ADD COLUMN previous_hash BYTES`,
		`ALTER TABLE holdings ADD COLUMN previous_key BIGINT`,
		`ALTER TABLE holdings ADD COLUMN previous_until BIGINT NOT NULL DEFAULT 0`,
		`ALTER TABLE holdings ADD COLUMN previous_not_after BIGINT NOT NULL DEFAULT 0`,
		`ALTER TABLE holdings ADD COLUMN previous_issued_at BIGINT NOT NULL DEFAULT 0`,
		`ALTER TABLE holdings ADD COLUMN not_after BIGINT NOT NULL DEFAULT 0`,
		`ALTER TABLE holdings ADD COLUMN confirmed_at BIGINT NOT NULL DEFAULT 0`,
		`ALTER TABLE holdings ADD COLUMN rotated_by TEXT NOT NULL DEFAULT ''`,
		`ALTER TABLE holdings ADD COLUMN sealed BYTES`,
		`ALTER TABLE holdings ADD COLUMN sealed_key TEXT NOT NULL DEFAULT ''`,
		`CREATE INDEX holdings_previous ON holdings (previous_key) WHERE previous_key IS NOT NULL`,
		// The ends of the boxes' audit logs, as they told them: the newest
		// keptHeads of each.
		`CREATE TABLE audit_heads (box BIGINT NOT NULL, sequence BIGINT NOT NULL, hash TEXT NOT NULL, segment TEXT NOT NULL,
			time BIGINT NOT NULL, told_at BIGINT NOT NULL, PRIMARY KEY (box, sequence)) CLUSTERED`,
	}, {
		// The latest that each box says of its devices at work. newest is the
		// telemetry that came ahead of its lane, NULL for none.
		`CREATE TABLE states (device BYTES NOT NULL, box BIGINT NOT NULL, online SMALLINT NOT NULL, since BIGINT NOT NULL,
			seen BIGINT NOT NULL, newest_epoch BIGINT NOT NULL, newest_sequence BIGINT NOT NULL, newest BYTES,
			PRIMARY KEY (device, box)) CLUSTERED`,
		`CREATE INDEX states_online ON states (box) WHERE online = 1`,
		// How far a box's states are applied, within its session.
		`ALTER TABLE boxes ADD COLUMN state_nonce TEXT NOT NULL DEFAULT ''`,
		`ALTER TABLE boxes ADD COLUMN state_upto BIGINT NOT NULL DEFAULT 0`,
		// waits is what a box has to be told yet: waitsOrder, waitsCancel or
		// neither. box is who told the status, 0 while nobody did; sent_to, who was
		// told the order last, 0 for nobody; payload is NULL
		// of what was given elsewhere. changed_at is when the row last changed here.
		`CREATE TABLE commands (number INTEGER_KEY, device BYTES NOT NULL, id TEXT NOT NULL, box BIGINT NOT NULL,
			payload BYTES, origin TEXT NOT NULL, given_by TEXT NOT NULL, given_at BIGINT NOT NULL, expires_at BIGINT NOT NULL,
			status TEXT NOT NULL, status_at BIGINT NOT NULL, attempts BIGINT NOT NULL, result BYTES, reason TEXT NOT NULL,
			waits SMALLINT NOT NULL, sent_at BIGINT NOT NULL, sent_to BIGINT NOT NULL, cancelled_by TEXT NOT NULL, changed_at BIGINT NOT NULL,
			UNIQUE (device, id))`,
		`CREATE INDEX commands_waiting ON commands (number) WHERE waits > 0`,
	}, documentTables()}
}

// The names in the table meta.
const (
	metaSchema   = "schema"
	metaUpstream = "upstream_id"
	metaKey      = "signing_key"
	metaDocument = "document_key"
	// Counters: each change that boxes have to hear of raises one.
	metaDocuments = "documents_generation"
	metaShares    = "shares_generation"
)

// migrate makes what is missing and reads the database's own name. All of it
// is one change: two processes that start at once do it once.
func (db *DB) migrate(ctx context.Context) error {
	steps := migrations()
	return db.change(ctx, func(w *writer) error {
		if err := w.run(ctx, `CREATE TABLE IF NOT EXISTS meta (name TEXT NOT NULL PRIMARY KEY, value TEXT NOT NULL)`); err != nil {
			return err
		}
		read := func(name string) (value string, err error) {
			_, err = w.one(ctx, `SELECT value FROM meta WHERE name = ?`, []any{name}, &value)
			return value, err
		}
		write := func(name, value string) error {
			return w.run(ctx, `INSERT INTO meta (name, value) VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, value)
		}
		text, err := read(metaSchema)
		if err != nil {
			return err
		}
		version := 0
		if text != "" {
			if version, err = strconv.Atoi(text); err != nil || version > len(steps) {
				return fmt.Errorf("%w: the tables are of version %q, this program knows %d", edgeclaim.ErrConflict, text, len(steps))
			}
		}
		for _, step := range steps[version:] {
			for _, statement := range step {
				if err := w.finish(ctx, db.dialect.types.Replace(statement)); err != nil {
					return err
				}
			}
		}
		if version < len(steps) {
			if err := write(metaSchema, strconv.Itoa(len(steps))); err != nil {
				return err
			}
		}
		if db.id, err = read(metaUpstream); err != nil || db.id != "" {
			return err
		}
		db.id = rand.Text()
		return write(metaUpstream, db.id)
	})
}
