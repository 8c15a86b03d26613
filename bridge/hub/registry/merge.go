package registry

import (
	"context"
	"database/sql"
	"fmt"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"

	"edgeclaim"
)

// device is a row of devices with all its holdings, as one change sees it.
type device struct {
	id             edgeclaim.DeviceID
	number         int64 // 0 of one that is not stored yet
	tenant         edgeclaim.TenantID
	hardware       edgeclaim.HardwareID
	name           string
	firstBox       int64
	isNew, isKnown bool // to be written; has facts at all
	isDirty        bool // is stored, and has other facts now
	holdings       []*holding
}

// holding is what one box says of a device, and what became of its credential
// here.
type holding struct {
	box        int64
	status     edgeclaim.DeviceStatus
	void       string // why the credential is not valid though the box says so; empty
	credential edgeclaim.CredentialType
	hash       edgeclaim.KeyHash
	issuedAt   int64
	name       string
	template   string
	key        string
	profile    string
	groups     []string
	tags       map[string]string
	generation int
	claimedAt  int64
	via        edgeclaim.Via
	// tenant and hardware are set where they are not the device's.
	tenant   edgeclaim.TenantID
	hardware edgeclaim.HardwareID
	// notAfter is a certificate's end, 0 for none; confirmedAt the credential's
	// first use, 0 where nobody told of it.
	notAfter, confirmedAt int64
	previous              previous
	rotatedBy             string // who asked for the present credential; empty for a claim
	// sealed is the PSK for whoever holds the key that sealedKey names.
	sealed    []byte
	sealedKey string
	// isNew: no row is there. isDirty: it has to be written.
	isNew, isDirty bool
}

// previous is the credential that a rotation took the place of; the zero value
// is none. One without until has ended with the rotation.
type previous struct {
	hash                      edgeclaim.KeyHash
	until, notAfter, issuedAt int64
}

// The reasons why a credential is void.
const (
	valid        = ""           // it is not
	voidResolved = "resolved"   // an operator kept another box's
	voidFirst    = "first"      // PolicyFirst kept another box's
	voidIdentity = KindIdentity // the box says another hardware or tenant
)

// isValid reports whether the credential lets a device in.
func (h *holding) isValid() bool {
	return h.status == edgeclaim.DeviceActive && h.void == valid && !h.hash.IsZero()
}

// told is a box's word on a device: a record, or a row of its registry.
type told struct {
	box      *box
	device   edgeclaim.DeviceID
	tenant   edgeclaim.TenantID
	hardware edgeclaim.HardwareID
	what     what // of a record
	holding  *holding
	isPage   bool
}

// merge puts a box's word into the picture, in memory. Conflicts that follow
// are opened at once.
func (a *applier) merge(ctx context.Context, t told) error {
	d := a.device(t.device)
	if !d.isKnown {
		d.tenant, d.hardware = t.tenant, t.hardware
		d.firstBox, d.isKnown, d.isNew = t.box.number, true, true
	}
	if d.name == "" && t.holding.name != "" {
		d.name, d.isDirty = t.holding.name, true
	}
	held := d.heldBy(t.box)
	wasValid := held.isValid()
	// A credential that is agreed on or was decided for stays so, and what a
	// rotation makes of it, for as long as the box says the same board.
	agreed := wasValid && held.isOf(d, t) && (t.what == saysRotated || held.hash.Equal(t.holding.hash))
	if held.isClaim(&t) {
		a.claims[claimKey{t.holding.key, t.box.number}]++
	}
	held.hear(d, &t)
	if held.generation == 0 {
		held.generation = 1
	}
	switch {
	case wasValid && !held.isValid():
		return a.ended(ctx, d, t.box)
	case held.void == voidIdentity && held.status != edgeclaim.DeviceActive:
		return a.gaveUp(ctx, d, t.box)
	case !held.isValid():
		return nil
	case (t.tenant != d.tenant || t.hardware != d.hardware) && !agreed:
		return a.mismatch(ctx, d, held, t)
	case t.what == saysSuperseded:
		return a.agreed(ctx, d, held)
	}
	return a.contest(ctx, d, held)
}

// heldBy is the box's holding of the device, a new one if need be.
func (d *device) heldBy(b *box) *holding {
	i := slices.IndexFunc(d.holdings, func(h *holding) bool { return h.box == b.number })
	if i < 0 {
		i = len(d.holdings)
		d.holdings = append(d.holdings, &holding{box: b.number, isNew: true})
		b.held++
		b.isDirty = true
	}
	return d.holdings[i]
}

// isOf reports whether the box says the board and tenant that it said before.
func (h *holding) isOf(d *device, t told) bool {
	if h.hardware.IsZero() {
		return t.tenant == d.tenant && t.hardware == d.hardware
	}
	return t.tenant == h.tenant && t.hardware == h.hardware
}

// hear changes the holding by what the box says.
func (h *holding) hear(d *device, t *told) {
	same := !h.hash.IsZero() && h.hash.Equal(t.holding.hash)
	switch {
	case t.what == saysSuperseded:
		d.supersede(h, t)
	case t.what == saysSwapped:
		d.swap(h, t)
	case t.holding.status != edgeclaim.DeviceActive && t.holding.hash.IsZero():
		h.end(t.holding)
	case t.what == saysRotated:
		h.rotate(t.holding, same)
	case t.isPage && (same && h.status != edgeclaim.DeviceActive || h.rotatedFrom(t.holding.hash)):
		// A page may be older than the release that is known here, or than the
		// rotation, and what has ended never comes back: deny wins (P9).
	default:
		h.take(t.holding, same)
		if t.tenant == d.tenant && t.hardware == d.hardware {
			h.tenant, h.hardware = edgeclaim.TenantID{}, edgeclaim.HardwareID{}
		}
	}
}

// rotatedFrom reports whether a rotation took that credential's place.
func (h *holding) rotatedFrom(hash edgeclaim.KeyHash) bool {
	return !hash.IsZero() && h.previous.hash.Equal(hash)
}

// take replaces what was known by what is told. A credential that is new is
// valid until something speaks against it; one that is void stays so.
func (h *holding) take(t *holding, same bool) {
	void, generation := valid, t.generation
	if same {
		void = h.void
	}
	if generation == 1 && same {
		generation = max(h.generation, 1)
	}
	next := *t
	next.box, next.void, next.generation, next.isDirty = h.box, void, generation, true
	next.tenant, next.hardware, next.isNew = h.tenant, h.hardware, h.isNew
	if same && next.sealed == nil { // a page has none
		next.sealed, next.sealedKey = h.sealed, h.sealedKey
	}
	*h = next
}

// end takes a credential's validity. Its hashes stay, so that Verify can say
// why it is not valid, and so that no older page brings it back.
func (h *holding) end(t *holding) {
	if h.status == t.status && (t.generation == 0 || t.generation == h.generation) {
		return
	}
	h.status, h.isDirty = t.status, true
	if t.generation != 0 {
		h.generation = t.generation
	}
}

// rotate puts a new credential in the present one's place. What is void or has
// ended stays so: a rotation decides nothing (P9). The credential that goes on
// is the one that the record names, and no other: were a record missing before
// it, there would be a third. Where it names none, the present one has ended.
func (h *holding) rotate(t *holding, same bool) {
	before := t.previous
	switch {
	case same:
	case before.hash.IsZero():
		before.hash = h.hash
	case before.hash.Equal(h.hash):
		before.issuedAt = h.issuedAt
	}
	if h.status == "" { // nobody told of it before
		h.status = t.status
	}
	h.credential, h.hash, h.issuedAt, h.notAfter = t.credential, t.hash, t.issuedAt, t.notAfter
	h.previous, h.rotatedBy, h.isDirty = before, t.rotatedBy, true
	if !same {
		h.confirmedAt = 0
	}
	if !same || t.sealed != nil {
		h.sealed, h.sealedKey = t.sealed, t.sealedKey
	}
}

// swap gives the device another board, by the word of the box that told of it
// first, or while no other box's credential is valid; what the others said stays
// beside it. By any other word the board is that box's alone: its next
// credential is a contradiction.
func (d *device) swap(held *holding, t *told) {
	held.end(t.holding)
	sole := !slices.ContainsFunc(d.holdings, func(h *holding) bool { return h != held && h.isValid() })
	if held.box != d.firstBox && !sole {
		held.tenant, held.hardware, held.isDirty = t.tenant, t.hardware, true
		if t.tenant == d.tenant && t.hardware == d.hardware { // it agrees with the others now
			held.tenant, held.hardware = edgeclaim.TenantID{}, edgeclaim.HardwareID{}
		}
		return
	}
	for _, other := range d.holdings {
		if other != held && other.hardware.IsZero() {
			other.tenant, other.hardware, other.isDirty = d.tenant, d.hardware, true
		}
	}
	d.tenant, d.hardware, d.isDirty = t.tenant, t.hardware, true
	held.tenant, held.hardware = edgeclaim.TenantID{}, edgeclaim.HardwareID{}
}

// contest looks for another box that holds the device with another credential.
// One that the other rotated is not another: the box that has not heard of it
// knows the same device by what it had.
func (a *applier) contest(ctx context.Context, d *device, held *holding) error {
	for _, other := range d.holdings {
		if other == held || !other.isValid() || other.hash.Equal(held.hash) ||
			held.rotatedFrom(other.hash) || other.rotatedFrom(held.hash) {
			continue
		}
		c := conflict{
			kind: KindTwoBoxes, device: d.id, box: other.box, other: held.box, at: a.now,
			subject: pair(d.id, other.box, held.box), detail: "two boxes gave the device a credential each",
		}
		if a.policy == PolicyFirst {
			held.void, held.isDirty = voidFirst, true
			c.resolution, c.kept = string(PolicyFirst), other.box
			return a.open(ctx, c)
		}
		if err := a.open(ctx, c); err != nil {
			return err
		}
	}
	return nil
}

// mismatch notes that a box knows a device by another hardware or tenant. Its
// credential is void: whom it would let in is not agreed on.
func (a *applier) mismatch(ctx context.Context, d *device, held *holding, t told) error {
	held.tenant, held.hardware, held.void, held.isDirty = t.tenant, t.hardware, voidIdentity, true
	other := held.box
	if other == d.firstBox {
		other = 0 // it contradicts itself
	}
	return a.open(ctx, conflict{
		kind: KindIdentity, device: d.id, box: d.firstBox, other: other, at: a.now,
		subject: KindIdentity + "|" + pair(d.id, d.firstBox, held.box), detail: "a box says another hardware or tenant of the device",
	})
}

// ended resolves the conflicts of a credential that ended by itself.
func (a *applier) ended(ctx context.Context, d *device, b *box) error {
	err := a.run(ctx, `UPDATE conflicts SET resolved_at = ?, resolution = 'released', kept = box WHERE subject = ? AND resolved_at = 0`,
		a.now, differsSubject(d.id, b))
	if err != nil || len(d.holdings) < 2 {
		return err
	}
	return a.run(ctx, `UPDATE conflicts SET resolved_at = ?, resolution = 'released', kept = box + other - ?
		WHERE device = ? AND kind = ? AND resolved_at = 0 AND (box = ? OR other = ?)`,
		a.now, b.number, d.id.Bytes(), KindTwoBoxes, b.number, b.number)
}

// gaveUp resolves the contradiction of a box whose credential was void by it, and
// has ended there too: nothing is left to decide.
func (a *applier) gaveUp(ctx context.Context, d *device, b *box) error {
	return a.run(ctx, `UPDATE conflicts SET resolved_at = ?, resolution = 'released', kept = box WHERE subject = ? AND resolved_at = 0`,
		a.now, KindIdentity+"|"+pair(d.id, d.firstBox, b.number))
}

// pair names the conflict of two boxes over a device, in either order.
func pair(id edgeclaim.DeviceID, one, other int64) string {
	return fmt.Sprintf("%s|%d|%d", id, min(one, other), max(one, other))
}

// device returns what is known of one, as loaded before.
func (a *applier) device(id edgeclaim.DeviceID) *device {
	d, ok := a.devices[id]
	if !ok {
		d = &device{id: id}
		a.devices[id] = d
	}
	return d
}

// load reads the devices that a change is about, each once.
func (a *applier) load(ctx context.Context, ids []edgeclaim.DeviceID) error {
	slices.SortFunc(ids, func(x, y edgeclaim.DeviceID) int { return slices.Compare(x.Bytes(), y.Bytes()) })
	ids = slices.Compact(ids)
	keys := make([]any, len(ids))
	for i := range ids {
		keys[i] = ids[i].Bytes()
	}
	var found []any
	err := a.among(ctx, `SELECT number, device, tenant, hardware, name, first_box FROM devices WHERE device`, keys, func(rows *sql.Rows) error {
		var id []byte
		var tenant, hardware string
		d := &device{isKnown: true}
		if err := rows.Scan(&d.number, &id, &tenant, &hardware, &d.name, &d.firstBox); err != nil {
			return err
		}
		if err := d.identify(id, tenant, hardware); err != nil {
			return err
		}
		a.devices[d.id] = d
		found = append(found, d.number)
		return nil
	})
	if err != nil || len(found) == 0 {
		return err
	}
	return a.among(ctx, `SELECT h.device, `+holdingColumns+` FROM holdings h WHERE h.number`, found, func(rows *sql.Rows) error {
		id, h, err := scanHolding(rows)
		if err == nil {
			a.devices[id].holdings = append(a.devices[id].holdings, h)
		}
		return err
	})
}

func (d *device) identify(id []byte, tenant, hardware string) (err error) {
	if d.id, err = edgeclaim.DeviceIDFromBytes(id); err != nil {
		return err
	}
	if d.tenant, err = edgeclaim.ParseTenantID(tenant); err != nil {
		return err
	}
	d.hardware, err = edgeclaim.ParseHardwareID(hardware)
	return err
}

const holdingColumns = `h.box, h.status, h.void, h.credential, h.hash, h.issued_at, h.name, h.template, h.key_id, h.profile,
	h.group_names, h.generation, h.claimed_at, h.claimed_via, h.tenant, h.hardware, h.previous_hash, h.previous_until,
	h.previous_not_after, h.previous_issued_at, h.not_after, h.confirmed_at, h.rotated_by, h.sealed, h.sealed_key, h.tags`

// scanHolding reads a device id and holdingColumns, then more.
func scanHolding(rows *sql.Rows, more ...any) (edgeclaim.DeviceID, *holding, error) {
	var id, hash, before []byte
	var tenant, hardware sql.NullString
	var groups, tags string
	h := new(holding)
	err := rows.Scan(append([]any{
		&id, &h.box, &h.status, &h.void, &h.credential, &hash, &h.issuedAt, &h.name, &h.template, &h.key, &h.profile,
		&groups, &h.generation, &h.claimedAt, &h.via, &tenant, &hardware, &before, &h.previous.until,
		&h.previous.notAfter, &h.previous.issuedAt, &h.notAfter, &h.confirmedAt, &h.rotatedBy, &h.sealed, &h.sealedKey, &tags,
	}, more...)...)
	if err != nil {
		return edgeclaim.DeviceID{}, nil, err
	}
	for into, raw := range map[*edgeclaim.KeyHash][]byte{&h.hash: hash, &h.previous.hash: before} {
		if raw == nil {
			continue
		}
		if *into, err = edgeclaim.KeyHashFromBytes(raw); err != nil {
			return edgeclaim.DeviceID{}, nil, err
		}
	}
	if tenant.Valid && hardware.Valid {
		if h.tenant, err = edgeclaim.ParseTenantID(tenant.String); err != nil {
			return edgeclaim.DeviceID{}, nil, err
		}
		if h.hardware, err = edgeclaim.ParseHardwareID(hardware.String); err != nil {
			return edgeclaim.DeviceID{}, nil, err
		}
	}
	if groups != "" {
		if err := json.Unmarshal([]byte(groups), &h.groups); err != nil {
			return edgeclaim.DeviceID{}, nil, err
		}
	}
	if h.tags, err = readTags(tags); err != nil {
		return edgeclaim.DeviceID{}, nil, err
	}
	parsed, err := edgeclaim.DeviceIDFromBytes(id)
	return parsed, h, err
}

// groupsText is a device's groups as they are stored.
func groupsText(groups []string) (string, error) {
	if len(groups) == 0 {
		return "", nil
	}
	text, err := json.Marshal(groups)
	return strings.ToValidUTF8(string(text), "?"), err
}
