package registry

import (
	"context"
	"database/sql"
	"strings"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// box is a row of boxes, with the epoch that it is in. Within a change it is
// read once and written once.
type box struct {
	number                int64
	name, site            string
	epoch                 int64  // number
	epochName             string // as the box says it
	snapshot, recover     bool
	snapshotID            string
	snapshotPage          uint64
	held                  uint64
	online, app, enrolled bool
	program, clock        string
	toldDevices           uint64
	firstSeen, lastSeen   int64
	stateNonce            string // of the session that stateUpto is of
	stateUpto             int64
	marks                 map[edgeclaim.Lane]*mark
	isNew, isDirty        bool
}

// mark is where an epoch stands in a lane.
type mark struct {
	upto, appended uint64
	check          edgeclaim.Check
	isDirty        bool
}

const selectBox = `SELECT b.number, b.box, b.site, b.epoch, e.epoch, b.snapshot, b.recover, b.snapshot_id, b.snapshot_page,
	b.held, b.online, b.app, b.enrolled, b.program, b.clock, b.told_devices, b.first_seen, b.last_seen,
	b.state_nonce, b.state_upto
	FROM boxes b JOIN epochs e ON e.number = b.epoch`

func scanBox(rows *sql.Rows) (*box, error) {
	b := &box{marks: map[edgeclaim.Lane]*mark{}}
	return b, rows.Scan(&b.number, &b.name, &b.site, &b.epoch, &b.epochName, &b.snapshot, &b.recover, &b.snapshotID, &b.snapshotPage,
		&b.held, &b.online, &b.app, &b.enrolled, &b.program, &b.clock, &b.toldDevices, &b.firstSeen, &b.lastSeen,
		&b.stateNonce, &b.stateUpto)
}

// boxes reads boxes by name, each with its present epoch and marks. One that is
// not known is not in the result.
func (w *writer) boxes(ctx context.Context, names []any) (map[string]*box, error) {
	found := map[string]*box{}
	byEpoch := map[int64]*box{}
	var epochs []any
	err := w.among(ctx, selectBox+` WHERE b.box`, names, func(rows *sql.Rows) error {
		b, err := scanBox(rows)
		if err != nil {
			return err
		}
		found[b.name], byEpoch[b.epoch] = b, b
		epochs = append(epochs, b.epoch)
		return nil
	})
	if err != nil {
		return nil, err
	}
	for _, b := range found {
		for _, lane := range edgeclaim.Lanes() {
			b.marks[lane] = new(mark)
		}
	}
	return found, w.among(ctx, `SELECT epoch, lane, upto, appended, check_sequence, check_hash FROM marks WHERE epoch`, epochs, func(rows *sql.Rows) error {
		var epoch int64
		var number int
		var m mark
		if err := rows.Scan(&epoch, &number, &m.upto, &m.appended, &m.check.Sequence, &m.check.Hash); err != nil {
			return err
		}
		if lanes := edgeclaim.Lanes(); number >= 1 && number <= len(lanes) { // else of a later version
			byEpoch[epoch].marks[lanes[number-1]] = &m
		}
		return nil
	})
}

// box is boxes for one; nil when it is not known.
func (w *writer) box(ctx context.Context, name string) (*box, error) {
	found, err := w.boxes(ctx, []any{name})
	return found[name], err
}

// laneNumber is a lane as it is stored: 1 and up, in the order of Lanes; 0 for
// one that this version does not know.
func laneNumber(lane edgeclaim.Lane) int64 {
	for i, known := range edgeclaim.Lanes() {
		if lane == known {
			return int64(i + 1)
		}
	}
	return 0
}

const boxColumns = 19

// save writes the box and its marks where they changed.
func (w *writer) save(ctx context.Context, b *box) error {
	if b.isNew || b.isDirty {
		err := w.insert(ctx, bulk{
			head: `INTO boxes (number, box, site, epoch, snapshot, recover, snapshot_id, snapshot_page, held, online, app,
				enrolled, program, clock, told_devices, first_seen, last_seen, state_nonce, state_upto) VALUES `,
			columns: boxColumns,
			tail: ` ON CONFLICT (number) DO UPDATE SET site = excluded.site, epoch = excluded.epoch, snapshot = excluded.snapshot,
				recover = excluded.recover, snapshot_id = excluded.snapshot_id, snapshot_page = excluded.snapshot_page,
				held = excluded.held, online = excluded.online, app = excluded.app, enrolled = excluded.enrolled,
				program = excluded.program, clock = excluded.clock, told_devices = excluded.told_devices,
				last_seen = excluded.last_seen, state_nonce = excluded.state_nonce, state_upto = excluded.state_upto`,
		}, []any{
			b.number, b.name, b.site, b.epoch, flag(b.snapshot), flag(b.recover), b.snapshotID, int64(b.snapshotPage),
			int64(b.held), flag(b.online), flag(b.app), flag(b.enrolled), b.program, b.clock, int64(b.toldDevices),
			b.firstSeen, b.lastSeen, b.stateNonce, b.stateUpto,
		})
		if err != nil {
			return err
		}
	}
	for lane, m := range b.marks {
		if !m.isDirty {
			continue
		}
		err := w.run(ctx, `INSERT INTO marks (epoch, lane, upto, appended, check_sequence, check_hash, pruned)
			VALUES (?, ?, ?, ?, ?, ?, 0) ON CONFLICT (epoch, lane) DO UPDATE SET upto = excluded.upto,
			appended = excluded.appended, check_sequence = excluded.check_sequence, check_hash = excluded.check_hash`,
			b.epoch, laneNumber(lane), int64(m.upto), int64(m.appended), int64(m.check.Sequence), m.check.Hash)
		if err != nil {
			return err
		}
	}
	return nil
}

// next is the first free number of a table whose key is INTEGER_KEY. Nothing
// else can take it: changes take turns.
func (w *writer) next(ctx context.Context, table, key string) (number int64, err error) {
	_, err = w.one(ctx, `SELECT COALESCE(MAX(`+key+`), 0) + 1 FROM `+table, nil, &number)
	return number, err
}

// known says what the registry knows of an epoch of a box.
type known struct {
	number       int64
	supersededBy int64
	stale        bool
}

// epoch looks an epoch of a box up; found is false for one never heard of.
func (w *writer) epoch(ctx context.Context, box int64, epoch string) (k known, found bool, err error) {
	found, err = w.one(ctx, `SELECT number, superseded_by, stale FROM epochs WHERE box = ? AND epoch = ?`,
		[]any{box, epoch}, &k.number, &k.supersededBy, &k.stale)
	return k, found, err
}

// refuse is the part of a refusal that the registry knows.
func refuse(code wire.RefusedCode, why string) *wire.Refused {
	return &wire.Refused{Code: code, Reason: why}
}

// maxText is the longest text of a hello that is kept, in bytes.
const maxText = 128

// short is a text from outside as it is stored.
func short(text string) string {
	text = clean(text)
	if len(text) > maxText {
		text = strings.ToValidUTF8(text[:maxText], "")
	}
	return text
}
