package registry

import (
	"context"
	"database/sql"
	"encoding/json"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// BoxState is what the broker said of a box: its retained state, its last will,
// or that its session lives.
type BoxState struct {
	Names  wire.Names
	Online bool
	// App: it is in a session with the application.
	App bool
	// Epoch is the one that says so; another than the box's present one
	// changes nothing. Empty when nobody knows.
	Epoch string
	At    time.Time
}

// SetStates stores states, all in one transaction. A box that never said hello
// is passed over.
func (db *DB) SetStates(ctx context.Context, states []BoxState) error {
	if len(states) == 0 {
		return nil
	}
	return db.change(ctx, func(w *writer) error {
		for _, s := range states {
			at := micros(s.At)
			err := w.run(ctx, `UPDATE boxes SET online = ?, app = ?, last_seen = CASE WHEN last_seen < ? THEN ? ELSE last_seen END
				WHERE box = ? AND (? = '' OR epoch IN (SELECT number FROM epochs WHERE epochs.box = boxes.number AND epochs.epoch = ?))`,
				flag(s.Online), flag(s.App), at, at, s.Names.Box, s.Epoch, s.Epoch)
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Site is a site's sum.
type Site struct {
	Site     string    `json:"site"`
	Boxes    int64     `json:"boxes"`
	Online   int64     `json:"online"`
	Held     int64     `json:"devices"` // a device that two boxes hold counts twice
	LastSeen time.Time `json:"last_seen"`
}

// Sites pages through the sites by name.
func (db *DB) Sites(ctx context.Context, after string, limit int) ([]Site, error) {
	rows, err := db.query(ctx, `SELECT site, COUNT(*), SUM(online), CAST(SUM(held) AS BIGINT), MAX(last_seen) FROM boxes
		WHERE site > ? GROUP BY site ORDER BY site LIMIT ?`, after, pageLimit(limit))
	var sites []Site
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		var s Site
		var seen int64
		err := rows.Scan(&s.Site, &s.Boxes, &s.Online, &s.Held, &seen)
		s.LastSeen = fromMicros(seen)
		sites = append(sites, s)
		return err
	})
	return sites, err
}

// Box is what is known of a box.
type Box struct {
	Box      string `json:"box_id"`
	Site     string `json:"site"`
	Epoch    string `json:"epoch"`
	Online   bool   `json:"online"`
	App      bool   `json:"app"`
	Enrolled bool   `json:"enrolled"`
	Program  string `json:"program,omitempty"`
	Clock    string `json:"clk,omitempty"`
	// Held are the devices that it told, Told how many it said it has.
	Held uint64 `json:"devices"`
	Told uint64 `json:"devices_told"`
	// Snapshot and Recover are still wanted.
	Snapshot  bool                         `json:"snapshot"`
	Recover   bool                         `json:"recover"`
	Lanes     map[edgeclaim.Lane]LaneState `json:"lanes"`
	FirstSeen time.Time                    `json:"first_seen"`
	LastSeen  time.Time                    `json:"last_seen"`
	// Fenced: a holder of an earlier epoch of this box still lives, and nobody
	// has decided yet.
	Fenced bool `json:"fenced"`
	// Audit is the end of the box's audit log, as it told it last; nil while it
	// told none.
	Audit *AuditHead `json:"audit,omitempty"`
}

// LaneState is where a box's present epoch stands in a lane.
type LaneState struct {
	Upto     uint64 `json:"upto"`
	Appended uint64 `json:"appended"` // as it last said
	Lag      uint64 `json:"lag"`      // records that are known to wait
}

// BoxFilter chooses boxes; the zero value takes all.
type BoxFilter struct {
	Site, Box string
	After     string // a box id
	Limit     int    // 1 to MaxPage; other values are MaxPage
}

// Boxes pages through the boxes by id.
func (db *DB) Boxes(ctx context.Context, f BoxFilter) ([]Box, error) {
	rows, err := db.query(ctx, `SELECT b.box, b.site, e.epoch, b.online, b.app, b.enrolled, b.program, b.clock, b.held, b.told_devices,
		b.snapshot, b.recover, b.first_seen, b.last_seen,
		COALESCE(p.upto, 0), COALESCE(p.appended, 0), COALESCE(v.upto, 0), COALESCE(v.appended, 0), COALESCE(t.upto, 0), COALESCE(t.appended, 0),
		EXISTS (SELECT 1 FROM conflicts c WHERE c.subject = '`+KindCloned+`|' || b.box AND c.resolved_at = 0),
		a.segment, COALESCE(a.sequence, 0), a.hash, COALESCE(a.time, 0)
		FROM boxes b JOIN epochs e ON e.number = b.epoch
		LEFT JOIN audit_heads a ON a.box = b.number AND a.sequence = (SELECT MAX(sequence) FROM audit_heads WHERE audit_heads.box = b.number)
		LEFT JOIN marks p ON p.epoch = b.epoch AND p.lane = 1 LEFT JOIN marks v ON v.epoch = b.epoch AND v.lane = 2
		LEFT JOIN marks t ON t.epoch = b.epoch AND t.lane = 3
		WHERE b.box > ? AND (? = '' OR b.site = ?) AND (? = '' OR b.box = ?) ORDER BY b.box LIMIT ?`,
		f.After, f.Site, f.Site, f.Box, f.Box, pageLimit(f.Limit))
	var boxes []Box
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		var b Box
		var prov, evt, tel LaneState
		var first, last, at int64
		var segment, hash sql.NullString
		var head AuditHead
		err := rows.Scan(&b.Box, &b.Site, &b.Epoch, &b.Online, &b.App, &b.Enrolled, &b.Program, &b.Clock, &b.Held, &b.Told,
			&b.Snapshot, &b.Recover, &first, &last, &prov.Upto, &prov.Appended, &evt.Upto, &evt.Appended,
			&tel.Upto, &tel.Appended, &b.Fenced,
			&segment, &head.Sequence, &hash, &at)
		if hash.Valid {
			head.Segment, head.Hash, head.Time = segment.String, hash.String, fromMicros(at)
			b.Audit = &head
		}
		b.FirstSeen, b.LastSeen = fromMicros(first), fromMicros(last)
		b.Lanes = map[edgeclaim.Lane]LaneState{edgeclaim.LaneProv: prov.lagging(), edgeclaim.LaneEvt: evt.lagging(), edgeclaim.LaneTel: tel.lagging()}
		boxes = append(boxes, b)
		return err
	})
	return boxes, err
}

func (l LaneState) lagging() LaneState {
	l.Lag = l.Appended - min(l.Upto, l.Appended)
	return l
}

// Device is a device with all who hold it.
type Device struct {
	ID        edgeclaim.DeviceID   `json:"device_id"`
	Tenant    edgeclaim.TenantID   `json:"tenant_id"`
	Hardware  edgeclaim.HardwareID `json:"hardware_id"`
	Name      string               `json:"name"` // as it was told first
	FirstSeen time.Time            `json:"first_seen"`
	Holdings  []Holding            `json:"holdings"`
}

// Holding is what a box says of a device.
type Holding struct {
	Box        string                   `json:"box_id"`
	Site       string                   `json:"site"`
	Name       string                   `json:"name"`
	Status     edgeclaim.DeviceStatus   `json:"status"`
	Valid      bool                     `json:"valid"`
	Void       string                   `json:"void,omitempty"` // why it is not, though the box says active
	Credential edgeclaim.CredentialType `json:"credential_type"`
	Template   string                   `json:"template_id"`
	Key        string                   `json:"key_id"`
	Profile    string                   `json:"profile_id,omitempty"`
	Groups     []string                 `json:"groups,omitempty"`
	Tags       map[string]string        `json:"tags,omitempty"`
	Generation int                      `json:"generation"`
	ClaimedAt  time.Time                `json:"claimed_at,omitzero"`
	ClaimedVia edgeclaim.Via            `json:"claimed_via"`
	// NotAfter is the certificate's end. PreviousUntil is how long the
	// credential before goes on to be valid as well, until a rotation's overlap
	// ends. Sealed: the PSK came, sealed for the hub.
	NotAfter      time.Time `json:"not_after,omitzero"`
	PreviousUntil time.Time `json:"previous_until,omitzero"`
	Sealed        bool      `json:"sealed,omitempty"`
	// Revoked: a document revokes the device, or its board.
	Revoked bool `json:"revoked,omitempty"`
	// Presence is what the box said last, empty while it said nothing. While
	// BoxOnline is false, nobody knows whether it still holds.
	Presence  edgeclaim.Presence `json:"presence,omitempty"`
	Since     time.Time          `json:"presence_since,omitzero"`
	Seen      time.Time          `json:"last_seen,omitzero"` // it sent telemetry
	BoxOnline bool               `json:"box_online"`
	// Newest is the newest telemetry, a CloudEvent, while its lane is behind it;
	// else the lane's records have it.
	Newest json.RawMessage `json:"newest_telemetry,omitempty"`
}

// DeviceFilter chooses devices; the zero value takes all. Tenant, Hardware and
// Site are looked for among all devices, one page after the other.
type DeviceFilter struct {
	Device   edgeclaim.DeviceID
	Tenant   edgeclaim.TenantID
	Hardware string
	Box      string
	Site     string // of a box that holds it
	After    edgeclaim.DeviceID
	Limit    int // 1 to MaxPage; other values are MaxPage
}

// Devices pages through the devices by id.
func (db *DB) Devices(ctx context.Context, f DeviceFilter) ([]Device, error) {
	from, args := f.from()
	rows, err := db.query(ctx, `SELECT d.number, d.device, d.tenant, d.hardware, d.name, d.first_seen FROM `+from+` LIMIT ?`,
		append(args, pageLimit(f.Limit))...)
	var devices []Device
	var numbers []any
	at := map[edgeclaim.DeviceID]int{}
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		var row device
		var id []byte
		var tenant, hardware string
		var seen int64
		if err := rows.Scan(&row.number, &id, &tenant, &hardware, &row.name, &seen); err != nil {
			return err
		}
		if err := row.identify(id, tenant, hardware); err != nil {
			return err
		}
		at[row.id] = len(devices)
		numbers = append(numbers, row.number)
		devices = append(devices, Device{ID: row.id, Tenant: row.tenant, Hardware: row.hardware, Name: row.name, FirstSeen: fromMicros(seen)})
		return nil
	})
	if err != nil || len(devices) == 0 {
		return devices, err
	}
	return devices, db.holders(ctx, numbers, func(id edgeclaim.DeviceID, h Holding) {
		d := &devices[at[id]]
		d.Holdings = append(d.Holdings, h)
	})
}

// holders tells who holds the devices of these numbers.
func (db *DB) holders(ctx context.Context, numbers []any, tell func(edgeclaim.DeviceID, Holding)) error {
	now := micros(db.now())
	return among(`SELECT h.device, `+holdingColumns+`, b.box, b.site, b.online, s.online, COALESCE(s.since, 0), COALESCE(s.seen, 0),
		CASE WHEN s.newest_epoch = b.epoch AND s.newest_sequence > COALESCE(m.upto, 0) THEN s.newest END, `+revokedHere+`
		FROM holdings h JOIN devices d ON d.number = h.number JOIN boxes b ON b.number = h.box LEFT JOIN states s ON s.device = h.device AND s.box = h.box
		LEFT JOIN marks m ON m.epoch = b.epoch AND m.lane = 3 WHERE h.number`, numbers,
		func(statement string, part []any) error {
			rows, err := db.query(ctx, statement, part...)
			return eachRow(rows, err, func(rows *sql.Rows) error {
				var name, site string
				var state shownState
				var revoked bool
				id, h, err := scanHolding(rows, &name, &site, &state.boxOnline, &state.online, &state.since, &state.seen, &state.newest, &revoked)
				if err != nil {
					return err
				}
				shown := h.shown(name, site, now)
				if revoked {
					shown.Revoked, shown.Valid, shown.PreviousUntil = true, false, time.Time{}
				}
				state.into(&shown)
				tell(id, shown)
				return nil
			})
		})
}

// shown is a holding for people.
func (h *holding) shown(box, site string, now int64) Holding {
	s := Holding{
		Box: box, Site: site, Name: h.name, Status: h.status, Valid: h.isValid() && h.verify(h.hash, now).Valid, Void: h.void, Credential: h.credential,
		Template: h.template, Key: h.key, Profile: h.profile, Groups: h.groups, Tags: h.tags, Generation: h.generation, ClaimedAt: fromMicros(h.claimedAt), ClaimedVia: h.via,
		NotAfter: fromMicros(h.notAfter), Sealed: h.sealed != nil,
	}
	if h.isValid() && !h.previous.hash.IsZero() && h.verify(h.previous.hash, now).Valid {
		s.PreviousUntil = fromMicros(h.previous.until)
	}
	return s
}

// from is the filter as SQL, from the tables to the order. A box's devices are
// found by its own index, all others by the devices'.
func (f *DeviceFilter) from() (text string, args []any) {
	order := "d.device"
	text, args = `devices d WHERE d.device > ?`, []any{f.After.Bytes()}
	if f.Box != "" {
		order = "h.device"
		text = `holdings h JOIN devices d ON d.number = h.number WHERE h.device > ? AND h.box = (SELECT number FROM boxes WHERE box = ?)`
		args = append(args, f.Box)
	}
	add := func(condition string, arg any) { text, args = text+` AND `+condition, append(args, arg) }
	if !f.Device.IsZero() {
		add(order+` = ?`, f.Device.Bytes())
	}
	if !f.Tenant.IsZero() {
		add(`d.tenant = ?`, f.Tenant.String())
	}
	if f.Hardware != "" {
		add(`d.hardware = ?`, f.Hardware)
	}
	if f.Site != "" {
		add(`EXISTS (SELECT 1 FROM holdings s JOIN boxes its ON its.number = s.box WHERE s.number = d.number AND its.site = ?)`, f.Site)
	}
	return text + ` ORDER BY ` + order, args
}
