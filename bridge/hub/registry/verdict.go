package registry

import (
	"context"
	"database/sql"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// decidedAgainst is whether a credential was decided against though its box still
// says it is good. It is an index's condition, word for word.
const decidedAgainst = `void IN ('resolved', 'first') AND status = 'active'`

// Verdict is what a box has to be told: the credential that it gave a device does
// not stay. It is due until the box says that it obeys, by a record or a page, or
// tells another credential.
type Verdict struct {
	edgeclaim.Verdict
	Box wire.Names // who has to be told
	// Mark orders them.
	Mark VerdictMark
}

// VerdictMark is where a round through the verdicts stands.
type VerdictMark struct{ device, box int64 }

// VerdictPage is a page of what is due.
type VerdictPage struct {
	Verdicts []Verdict
	Last     VerdictMark
	More     bool // there may be others behind Last
}

// verdictPage is how many credentials Verdicts looks at.
const verdictPage = 200

// Verdicts looks at the credentials that were decided against, behind a mark. Due
// are those of enrolled boxes, for others take no verdict, where one credential
// of the same board stays; while two are valid, nobody has decided yet.
func (db *DB) Verdicts(ctx context.Context, after VerdictMark) (VerdictPage, error) {
	page := VerdictPage{Last: after}
	rows, err := db.query(ctx, `SELECT h.device, `+holdingColumns+`, h.number, b.box, b.site, b.enrolled, d.tenant, d.hardware
		FROM holdings h JOIN boxes b ON b.number = h.box JOIN devices d ON d.number = h.number
		WHERE `+decidedAgainst+` AND h.number >= ? AND (h.number > ? OR h.box > ?)
		ORDER BY h.number, h.box LIMIT ?`, after.device, after.device, after.box, verdictPage)
	var lost []loser
	seen := 0
	err = eachRow(rows, err, func(rows *sql.Rows) error {
		var l loser
		var enrolled bool
		var tenant, hardware string
		id, h, err := scanHolding(rows, &l.number, &l.names.Box, &l.names.Site, &enrolled, &tenant, &hardware)
		if err != nil {
			return err
		}
		seen++
		page.Last = VerdictMark{l.number, h.box}
		l.holding = h
		if !enrolled || h.hash.IsZero() {
			return nil
		}
		err = l.device.identify(id.Bytes(), tenant, hardware)
		lost = append(lost, l)
		return err
	})
	page.More = seen == verdictPage
	if err != nil || len(lost) == 0 {
		return page, err
	}
	page.Verdicts, err = db.verdicts(ctx, lost)
	return page, err
}

// loser is a holding that was decided against.
type loser struct {
	number  int64
	names   wire.Names
	device  device
	holding *holding
}

// verdicts finds what stays in the losers' place.
func (db *DB) verdicts(ctx context.Context, lost []loser) ([]Verdict, error) {
	devices := map[int64]*device{}
	var numbers []any
	for i := range lost {
		if l := &lost[i]; devices[l.number] == nil {
			devices[l.number] = &device{id: l.device.id, tenant: l.device.tenant, hardware: l.device.hardware}
			numbers = append(numbers, l.number)
		}
	}
	boxes := map[int64]string{}
	err := among(`SELECT h.device, `+holdingColumns+`, h.number, b.box FROM holdings h JOIN boxes b ON b.number = h.box WHERE h.number`, numbers,
		func(statement string, part []any) error {
			rows, err := db.query(ctx, statement, part...)
			return eachRow(rows, err, func(rows *sql.Rows) error {
				var number int64
				var name string
				_, h, err := scanHolding(rows, &number, &name)
				if err != nil {
					return err
				}
				devices[number].holdings = append(devices[number].holdings, h)
				boxes[h.box] = name
				return nil
			})
		})
	if err != nil {
		return nil, err
	}
	now := micros(db.now())
	var due []Verdict
	for i := range lost {
		l := &lost[i]
		d := devices[l.number]
		kept := d.stays(l.holding)
		if kept == nil || kept.template == "" || kept.key == "" {
			continue
		}
		due = append(due, Verdict{
			Verdict: edgeclaim.Verdict{Device: kept.device(d, now), Void: l.holding.hash, KeptBox: boxes[kept.box]},
			Box:     l.names, Mark: VerdictMark{l.number, l.holding.box},
		})
	}
	return due, nil
}

// stays is the holding whose credential takes the place of one that does not: the
// first of those that have the only valid credential of the same board; nil while
// there is none, or more than one.
func (d *device) stays(lost *holding) *holding {
	var kept *holding
	for _, h := range d.holdings {
		switch {
		case h == lost || h.box == lost.box || !h.isValid():
		case h.tenant != lost.tenant || h.hardware != lost.hardware:
		case kept == nil:
			kept = h
		case !kept.hash.Equal(h.hash):
			return nil
		}
	}
	return kept
}
