package registry

import (
	"context"
	"encoding/binary"
	"slices"

	"edgeclaim"
)

const (
	deviceColumns = 7
	// plainColumns of a holding are those that each has; the others, up to
	// holdingBulkColumns, are behind them.
	plainColumns       = 20
	holdingBulkColumns = 31
)

func insertRecords() bulk {
	return bulk{
		head:    `INTO records (epoch, lane, sequence, type, device, time, received_at, event) VALUES `,
		columns: recordColumns,
	}
}

func insertHoles() bulk {
	return bulk{head: `INTO holes (epoch, lane, first, last, noted_at) VALUES `, columns: holeColumns}
}

func insertDevices() bulk {
	return bulk{
		head:    `INTO devices (number, device, tenant, hardware, name, first_box, first_seen) VALUES `,
		columns: deviceColumns,
	}
}

const holdingHead = `INTO holdings (number, box, device, status, void, credential, hash, hash_key, issued_at, name, template,
	key_id, profile, group_names, generation, claimed_at, claimed_via, tenant, hardware, changed_at`

// insertPlain is for holdings that only have what each has: most of the new
// ones, and a third less to write.
func insertPlain() bulk { return bulk{head: holdingHead + `) VALUES `, columns: plainColumns} }

func insertHoldings() bulk {
	return bulk{
		head: holdingHead + `, previous_hash, previous_key, previous_until, previous_not_after, previous_issued_at,
			not_after, confirmed_at, rotated_by, sealed, sealed_key, tags) VALUES `,
		columns: holdingBulkColumns,
	}
}

// updateHoldings is for rows that are there: it costs more.
func updateHoldings() bulk {
	b := insertHoldings()
	b.tail = ` ON CONFLICT (number, box) DO UPDATE SET status = excluded.status, void = excluded.void,
		credential = excluded.credential, hash = excluded.hash, hash_key = excluded.hash_key, issued_at = excluded.issued_at,
		name = excluded.name, template = excluded.template, key_id = excluded.key_id, profile = excluded.profile,
		group_names = excluded.group_names, generation = excluded.generation, claimed_at = excluded.claimed_at,
		claimed_via = excluded.claimed_via, tenant = excluded.tenant, hardware = excluded.hardware,
		changed_at = excluded.changed_at, previous_hash = excluded.previous_hash, previous_key = excluded.previous_key,
		previous_until = excluded.previous_until, previous_not_after = excluded.previous_not_after,
		previous_issued_at = excluded.previous_issued_at, not_after = excluded.not_after, confirmed_at = excluded.confirmed_at,
		rotated_by = excluded.rotated_by, sealed = excluded.sealed, sealed_key = excluded.sealed_key, tags = excluded.tags`
	return b
}

// flush writes what the change decided. Rows go in the order of the device
// ids: neighbours in an index share a page.
func (a *applier) flush(ctx context.Context) error {
	ids := make([]edgeclaim.DeviceID, 0, len(a.devices))
	for id := range a.devices {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, func(x, y edgeclaim.DeviceID) int { return slices.Compare(x.Bytes(), y.Bytes()) })
	number, err := a.next(ctx, "devices", "number")
	if err != nil {
		return err
	}
	var devices, plain, added, changed []any
	for _, id := range ids {
		d := a.devices[id]
		if d.isNew {
			d.number = number
			number++
			devices = append(devices, d.number, id.Bytes(), d.tenant.String(), d.hardware.String(), d.name, d.firstBox, a.now)
		} else if d.isDirty {
			err := a.run(ctx, `UPDATE devices SET tenant = ?, hardware = ?, name = ? WHERE number = ?`,
				d.tenant.String(), d.hardware.String(), d.name, d.number)
			if err != nil {
				return err
			}
		}
		for _, h := range d.holdings {
			if !h.isDirty {
				continue
			}
			row, err := a.holdingRow(d, h)
			if err != nil {
				return err
			}
			switch {
			case !h.isNew:
				changed = append(changed, row...)
			case h.isPlain():
				plain = append(plain, row[:plainColumns]...)
			default:
				added = append(added, row...)
			}
		}
	}
	for _, rows := range []struct {
		bulk bulk
		args []any
	}{{insertRecords(), a.records}, {insertHoles(), a.holes}, {insertDevices(), devices}, {insertPlain(), plain}, {insertHoldings(), added}, {updateHoldings(), changed}} {
		if err := a.insert(ctx, rows.bulk, rows.args); err != nil {
			return err
		}
	}
	if err := a.flushStates(ctx); err != nil {
		return err
	}
	if err := a.flushClaims(ctx); err != nil {
		return err
	}
	for _, b := range a.boxes {
		if err := a.save(ctx, b); err != nil {
			return err
		}
	}
	return nil
}

func (a *applier) holdingRow(d *device, h *holding) ([]any, error) {
	groups, err := groupsText(h.groups)
	if err != nil {
		return nil, err
	}
	tags, err := tagsText(h.tags)
	if err != nil {
		return nil, err
	}
	var hash, key, tenant, hardware, before, beforeKey, sealed any
	if !h.hash.IsZero() {
		hash, key = h.hash.Bytes(), hashKey(h.hash)
	}
	if !h.hardware.IsZero() {
		tenant, hardware = h.tenant.String(), h.hardware.String()
	}
	if !h.previous.hash.IsZero() {
		before, beforeKey = h.previous.hash.Bytes(), hashKey(h.previous.hash)
	}
	if h.sealed != nil {
		sealed = h.sealed
	}
	return []any{
		d.number, h.box, d.id.Bytes(), string(h.status), h.void, string(h.credential), hash, key, h.issuedAt, h.name, h.template, h.key, h.profile,
		groups, h.generation, h.claimedAt, string(h.via), tenant, hardware, a.now,
		before, beforeKey, h.previous.until, h.previous.notAfter, h.previous.issuedAt, h.notAfter, h.confirmedAt, h.rotatedBy, sealed, h.sealedKey,
		tags,
	}, nil
}

// isPlain reports whether the columns behind plainColumns all have their
// defaults.
func (h *holding) isPlain() bool {
	return h.previous == previous{} && h.notAfter == 0 && h.confirmedAt == 0 && h.rotatedBy == "" && h.sealed == nil && h.sealedKey == "" &&
		len(h.tags) == 0
}

// hashKey is what a hash is looked up by. A hash is even all over, so that 8
// bytes of it find one row nearly always, and the whole is compared then.
func hashKey(hash edgeclaim.KeyHash) int64 { return int64(binary.BigEndian.Uint64(hash.Bytes())) }
