package registry

import (
	"context"
	"database/sql"
	"fmt"
	"time"

	"github.com/go-json-experiment/json"

	"edgeclaim"
)

// Expected is a board that somebody has announced, and what came of it.
type Expected struct {
	Tenant   edgeclaim.TenantID   `json:"tenant_id"`
	Template edgeclaim.TemplateID `json:"template_id"`
	edgeclaim.ManifestRow
	// Device is the id by which the platform knows it; zero for the derived one.
	Device     edgeclaim.DeviceID `json:"device_id,omitzero"`
	ImportedAt time.Time          `json:"imported_at,omitzero"`

	// Claimed is the device that the board is, as boxes told; zero while none
	// did. Boxes are those that hold it, FirstSeen when the first of them told.
	Claimed   edgeclaim.DeviceID     `json:"claimed_device_id,omitzero"`
	Status    edgeclaim.DeviceStatus `json:"status,omitempty"` // active where it is so at one box
	Boxes     []string               `json:"boxes,omitempty"`
	FirstSeen time.Time              `json:"first_seen,omitzero"`
}

// PutExpected keeps boards that are announced, whole or not at all: of one that
// was announced for the template before, the later word counts. Claimed and what
// follows is not read. added counts those that are new.
func (db *DB) PutExpected(ctx context.Context, rows []Expected) (added int, err error) {
	err = db.change(ctx, func(w *writer) error {
		before, after := int64(0), int64(0)
		if _, err := w.one(ctx, `SELECT COUNT(*) FROM expected`, nil, &before); err != nil {
			return err
		}
		now := micros(db.now())
		for i := range rows {
			if err := w.putExpected(ctx, &rows[i], now); err != nil {
				return err
			}
		}
		if _, err := w.one(ctx, `SELECT COUNT(*) FROM expected`, nil, &after); err != nil {
			return err
		}
		added = int(after - before)
		return nil
	})
	if err != nil {
		return 0, err
	}
	return added, nil
}

const expectedColumns = 9

func (w *writer) putExpected(ctx context.Context, e *Expected, now int64) error {
	switch {
	case e.Tenant.IsZero():
		return missing("tenant_id")
	case e.Template.IsZero():
		return missing("template_id")
	case e.Hardware.IsZero():
		return missing("hardware_id")
	}
	groups, err := groupsText(e.Groups)
	if err != nil {
		return err
	}
	tags, err := tagsText(e.Tags)
	if err != nil {
		return err
	}
	var device any
	if !e.Device.IsZero() {
		device = e.Device.Bytes()
	}
	// Each by itself: PostgreSQL takes no row twice in one statement.
	return w.insert(ctx, bulk{
		head: `INTO expected (tenant, hardware, template, profile, name, group_names, tags, device, imported_at) VALUES `,
		tail: ` ON CONFLICT (tenant, hardware, template) DO UPDATE SET profile = excluded.profile, name = excluded.name,
			group_names = excluded.group_names, tags = excluded.tags, device = excluded.device, imported_at = excluded.imported_at`,
		columns: expectedColumns,
	}, []any{e.Tenant.String(), e.Hardware.String(), e.Template.String(), clean(e.Profile), clean(e.Name), groups, tags, device, now})
}

// RemoveExpected takes boards back that were announced. ErrNotFound names the
// first that was not; then none is taken back.
func (db *DB) RemoveExpected(ctx context.Context, tenant edgeclaim.TenantID, template edgeclaim.TemplateID, boards []edgeclaim.HardwareID) error {
	return db.change(ctx, func(w *writer) error {
		for _, id := range boards {
			result, err := w.exec(ctx, `DELETE FROM expected WHERE tenant = ? AND hardware = ? AND template = ?`, tenant.String(), id.String(), template.String())
			if err != nil {
				return err
			}
			if n, err := result.RowsAffected(); err != nil || n == 0 {
				return fmt.Errorf("expected hardware %s: %w", id, orNotFound(err))
			}
		}
		return nil
	})
}

func orNotFound(err error) error {
	if err != nil {
		return err
	}
	return edgeclaim.ErrNotFound
}

// ExpectedFilter chooses announced boards of a tenant.
type ExpectedFilter struct {
	Tenant   edgeclaim.TenantID
	Template edgeclaim.TemplateID // zero: all
	Hardware edgeclaim.HardwareID // zero: all
	// AfterHardware and AfterTemplate are the last row's.
	AfterHardware edgeclaim.HardwareID
	AfterTemplate edgeclaim.TemplateID
	Limit         int // 1 to MaxPage; other values are MaxPage
}

// ExpectedRows pages through a tenant's announced boards, by hardware id and
// template, each with the device that it became. A board is found by the ids that
// it may have: the announced one, its own of the first generations, and one that
// it took over by a swap that a box told of.
func (db *DB) ExpectedRows(ctx context.Context, f ExpectedFilter) ([]Expected, error) {
	text, args := ``, []any{f.Tenant.String(), f.AfterHardware.String(), f.AfterTemplate.String()}
	if !f.Template.IsZero() {
		text, args = text+` AND e.template = ?`, append(args, f.Template.String())
	}
	if !f.Hardware.IsZero() {
		text, args = text+` AND e.hardware = ?`, append(args, f.Hardware.String())
	}
	rows, err := db.query(ctx, `SELECT e.hardware, e.template, e.profile, e.name, e.group_names, e.tags, e.device, e.imported_at, s.device
		FROM expected e LEFT JOIN swaps s ON s.tenant = e.tenant AND s.hardware = e.hardware
		WHERE e.tenant = ? AND (e.hardware, e.template) > (?, ?)`+text+`
		ORDER BY e.hardware, e.template LIMIT ?`, append(args, pageLimit(f.Limit))...)
	var found []Expected
	swapped := map[int]edgeclaim.DeviceID{}
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		e, swap, err := scanExpected(rows)
		e.Tenant = f.Tenant
		if !swap.IsZero() {
			swapped[len(found)] = swap
		}
		found = append(found, e)
		return err
	})
	if err != nil {
		return nil, err
	}
	return found, db.claimed(ctx, found, swapped)
}

func scanExpected(rows *sql.Rows) (e Expected, swapped edgeclaim.DeviceID, err error) {
	var hardware, template, groups, tags string
	var device, swap []byte
	var imported int64
	if err = rows.Scan(&hardware, &template, &e.Profile, &e.Name, &groups, &tags, &device, &imported, &swap); err != nil {
		return e, swapped, err
	}
	if e.Hardware, err = edgeclaim.ParseHardwareID(hardware); err != nil {
		return e, swapped, err
	}
	if e.Template, err = edgeclaim.ParseTemplateID(template); err != nil {
		return e, swapped, err
	}
	for into, raw := range map[*edgeclaim.DeviceID][]byte{&e.Device: device, &swapped: swap} {
		if raw == nil {
			continue
		}
		if *into, err = edgeclaim.DeviceIDFromBytes(raw); err != nil {
			return e, swapped, err
		}
	}
	e.ImportedAt = fromMicros(imported)
	if groups != "" {
		if err = json.Unmarshal([]byte(groups), &e.Groups); err != nil {
			return e, swapped, err
		}
	}
	e.Tags, err = readTags(tags)
	return e, swapped, err
}

// claimed fills in what became of the boards.
func (db *DB) claimed(ctx context.Context, found []Expected, swapped map[int]edgeclaim.DeviceID) error {
	of := map[edgeclaim.DeviceID][]int{} // an id may be that of two boards: before and after a swap
	var keys []any
	for i := range found {
		ids := []edgeclaim.DeviceID{found[i].Device, swapped[i]}
		for g := 1; g <= maxGeneration; g++ {
			ids = append(ids, edgeclaim.NewDeviceID(found[i].Tenant, found[i].Hardware, g))
		}
		for _, id := range ids {
			if id.IsZero() {
				continue
			}
			if of[id] == nil {
				keys = append(keys, id.Bytes())
			}
			of[id] = append(of[id], i)
		}
	}
	return among(`SELECT h.device, COALESCE(h.tenant, d.tenant), COALESCE(h.hardware, d.hardware), h.status, b.box, d.first_seen FROM devices d
		JOIN holdings h ON h.number = d.number JOIN boxes b ON b.number = h.box WHERE d.device`, keys, func(statement string, part []any) error {
		rows, err := db.query(ctx, statement, part...)
		return eachRow(rows, err, func(rows *sql.Rows) error {
			var raw []byte
			var tenant, hardware, box string
			var status edgeclaim.DeviceStatus
			var seen int64
			if err := rows.Scan(&raw, &tenant, &hardware, &status, &box, &seen); err != nil {
				return err
			}
			id, err := edgeclaim.DeviceIDFromBytes(raw)
			for _, i := range of[id] {
				if e := &found[i]; hardware == e.Hardware.String() && tenant == e.Tenant.String() {
					e.take(id, status, box, seen)
				}
			}
			return err
		})
	})
}

// take notes that a box holds the board as a device. A later life of the board
// counts only where no other is active.
func (e *Expected) take(id edgeclaim.DeviceID, status edgeclaim.DeviceStatus, box string, seen int64) {
	switch {
	case e.Claimed.IsZero() || e.Claimed != id && e.Status != edgeclaim.DeviceActive:
		e.Claimed, e.Status, e.Boxes, e.FirstSeen = id, status, []string{box}, fromMicros(seen)
	case e.Claimed == id:
		e.Boxes = append(e.Boxes, box)
		if status == edgeclaim.DeviceActive {
			e.Status = status
		}
	}
}

// Swapped is a board that took a device over on some box.
type Swapped struct {
	edgeclaim.Alias
	Tenant edgeclaim.TenantID `json:"tenant_id"`
	Box    string             `json:"box_id"`
	ToldAt time.Time          `json:"told_at"`
}

// Swaps pages through the swaps of a tenant that boxes told of, by hardware id:
// what an aliases document tells the other boxes.
func (db *DB) Swaps(ctx context.Context, tenant edgeclaim.TenantID, after edgeclaim.HardwareID, limit int) ([]Swapped, error) {
	rows, err := db.query(ctx, `SELECT s.hardware, s.device, s.replaces, b.box, s.told_at FROM swaps s JOIN boxes b ON b.number = s.box
		WHERE s.tenant = ? AND s.hardware > ? ORDER BY s.hardware LIMIT ?`, tenant.String(), after.String(), pageLimit(limit))
	var found []Swapped
	err = eachRow(rows, err, func(rows *sql.Rows) (err error) {
		s := Swapped{Tenant: tenant}
		var hardware, replaces string
		var device []byte
		var told int64
		if err = rows.Scan(&hardware, &device, &replaces, &s.Box, &told); err != nil {
			return err
		}
		if s.Hardware, err = edgeclaim.ParseHardwareID(hardware); err != nil {
			return err
		}
		if s.Device, err = edgeclaim.DeviceIDFromBytes(device); err != nil {
			return err
		}
		if replaces != "" {
			if s.Replaces, err = edgeclaim.ParseHardwareID(replaces); err != nil {
				return err
			}
		}
		s.ToldAt = fromMicros(told)
		found = append(found, s)
		return nil
	})
	return found, err
}

// swapped keeps a swap that a box told of: of two boxes that did, the one whose
// word counts for the device. The boards that had the device before go: an alias
// of theirs would undo this one.
func (a *applier) swapped(ctx context.Context, b *box, e *event) error {
	var by int64
	found, err := a.one(ctx, `SELECT box FROM swaps WHERE tenant = ? AND device = ?`, []any{e.tenant.String(), e.device.Bytes()}, &by)
	if err != nil {
		return err
	}
	if d := a.device(e.device); found && by != b.number && (d.hardware != e.hardware || d.tenant != e.tenant) {
		return nil
	}
	if err := a.run(ctx, `DELETE FROM swaps WHERE tenant = ? AND device = ?`, e.tenant.String(), e.device.Bytes()); err != nil {
		return err
	}
	replaces := ""
	if !e.replaces.IsZero() {
		replaces = e.replaces.String()
	}
	return a.run(ctx, `INSERT INTO swaps (tenant, hardware, device, replaces, box, told_at) VALUES (?, ?, ?, ?, ?, ?)
		ON CONFLICT (tenant, hardware) DO UPDATE SET device = excluded.device, replaces = excluded.replaces, box = excluded.box, told_at = excluded.told_at`,
		e.tenant.String(), e.hardware.String(), e.device.Bytes(), replaces, b.number, a.now)
}

// tagsText is a device's tags as they are stored.
func tagsText(tags map[string]string) (string, error) {
	if len(tags) == 0 {
		return "", nil
	}
	cleaned := make(map[string]string, len(tags))
	for name, value := range tags {
		cleaned[clean(name)] = clean(value)
	}
	text, err := json.Marshal(cleaned, json.Deterministic(true))
	return string(text), err
}

func readTags(text string) (tags map[string]string, err error) {
	if text == "" {
		return nil, nil
	}
	return tags, json.Unmarshal([]byte(text), &tags)
}
