package store_test

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"testing"

	"pgregory.net/rapid"

	"edgeclaim"
	"edgeclaim/store"
)

// identityModel is who is who after any sequence of claims, releases, swaps,
// denials lifted, and of documents from upstream: a few maps.
type identityModel struct {
	db      *store.DB
	key     edgeclaim.Key
	devices map[edgeclaim.DeviceID]*life
	leads   map[string]edgeclaim.DeviceID
	out     map[string]edgeclaim.DeviceID // swapped out, of which device
	waits   map[string]edgeclaim.Alias
	named   map[string]bool // hardware and device ids that are revoked
	said    map[string]bool // by the last list of aliases
	version uint64
	records uint64
}

func modelBoards() []string { return []string{"A", "B", "C", "D"} }

// modelIDs are those that boards derive, and two of the platform.
func modelIDs(tb testing.TB) []edgeclaim.DeviceID {
	ids := []edgeclaim.DeviceID{platformID(tb, 1), platformID(tb, 2)}
	for _, hw := range modelBoards() {
		ids = append(ids, derived(tb, hw, 1))
	}
	return ids
}

// TestIdentityModel compares the store with the model after each step.
func TestIdentityModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg := config(t)
		db, err := store.Open(cfg)
		noErr(t, err)
		m := &identityModel{
			db: db, key: stock(t, db), devices: map[edgeclaim.DeviceID]*life{}, leads: map[string]edgeclaim.DeviceID{},
			out: map[string]edgeclaim.DeviceID{}, waits: map[string]edgeclaim.Alias{}, named: map[string]bool{}, said: map[string]bool{},
		}
		drawBoard := func(rt *rapid.T) string { return rapid.SampledFrom(modelBoards()).Draw(rt, "board") }
		rt.Repeat(map[string]func(*rapid.T){
			"claim":   func(rt *rapid.T) { m.claim(t, drawBoard(rt)) },
			"claim 2": func(rt *rapid.T) { m.claim(t, drawBoard(rt)) },
			"release": func(rt *rapid.T) { m.become(t, drawBoard(rt), edgeclaim.DeviceReleased) },
			"revoke":  func(rt *rapid.T) { m.become(t, drawBoard(rt), edgeclaim.DeviceRevoked) },
			"swap":    func(rt *rapid.T) { m.swap(t, drawBoard(rt), drawBoard(rt)) },
			"undeny":  func(rt *rapid.T) { m.undeny(t, drawBoard(rt)) },
			"revocations": func(rt *rapid.T) {
				var names []string
				for _, hw := range modelBoards() {
					if rapid.IntRange(0, 5).Draw(rt, hw) == 0 {
						names = append(names, hw)
					}
				}
				for _, id := range modelIDs(t) {
					if rapid.IntRange(0, 7).Draw(rt, "id") == 0 {
						names = append(names, id.String())
					}
				}
				m.revocations(t, names)
			},
			"aliases": func(rt *rapid.T) {
				var list []edgeclaim.Alias
				for range rapid.IntRange(1, 3).Draw(rt, "count") {
					a := edgeclaim.Alias{Hardware: hardware(t, drawBoard(rt)), Device: rapid.SampledFrom(modelIDs(t)).Draw(rt, "id")}
					if rapid.Bool().Draw(rt, "replaces") {
						a.Replaces = hardware(t, drawBoard(rt))
					}
					list = append(list, a)
				}
				m.aliases(t, list)
			},
			"reopen": func(*rapid.T) {
				checkAndClose(t, m.db)
				m.db, err = store.Open(cfg)
				noErr(t, err)
			},
			"": func(*rapid.T) { m.compare(t) },
		})
		checkAndClose(t, m.db)
	})
}

func (m *identityModel) lead(t *testing.T, hw string) edgeclaim.DeviceID {
	if id, ok := m.leads[hw]; ok {
		return id
	}
	return derived(t, hw, 1)
}

// own is the device that a board goes by, if it is the board's.
func (m *identityModel) own(t *testing.T, hw string) *life {
	if d := m.devices[m.lead(t, hw)]; d != nil && d.hardware == hw {
		return d
	}
	return nil
}

// expected is what a claim sees: a reason of denial, or an id.
func (m *identityModel) expected(t *testing.T, hw string) string {
	id := m.lead(t, hw)
	d := m.devices[id]
	_, out := m.out[hw]
	switch {
	case m.named[hw] || m.named[id.String()]:
		return "upstream"
	case out || d != nil && d.hardware != hw:
		return "swapped"
	default:
		return id.String()
	}
}

func (m *identityModel) claim(t *testing.T, hw string) {
	t.Helper()
	ref := refer(t, m.key, hw)
	err := m.db.Mint(t.Context(), ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
		if p.Known != nil && p.Known.Status == edgeclaim.DeviceRevoked {
			return nil, &edgeclaim.Refusal{Reason: edgeclaim.ReasonHardwareRevoked}
		}
		return mint(ref)(p)
	})
	id, own := m.lead(t, hw), m.own(t, hw)
	if m.expected(t, hw) != id.String() || own != nil && own.status == edgeclaim.DeviceRevoked {
		wantErr(t, err, edgeclaim.ErrDenied)
		return
	}
	noErr(t, err)
	if own == nil || own.status == edgeclaim.DeviceReleased {
		m.devices[id] = &life{hardware: hw, status: edgeclaim.DeviceActive}
		m.records++
	}
}

func (m *identityModel) become(t *testing.T, hw string, status edgeclaim.DeviceStatus) {
	t.Helper()
	d := m.own(t, hw)
	if d == nil {
		return
	}
	id := m.lead(t, hw)
	_, err := m.db.ChangeDevice(t.Context(), id, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		d.Status, d.Credential = status, edgeclaim.Credential{}
		return nil, nil
	})
	if status == edgeclaim.DeviceReleased && (m.named[hw] || m.named[id.String()]) {
		wantErr(t, err, edgeclaim.ErrConflict)
		return
	}
	noErr(t, err)
	d.status = status
	m.settle(t, hw)
}

// settle lets an alias take hold that waits for a device that is released.
func (m *identityModel) settle(t *testing.T, hw string) {
	a, waits := m.waits[hw]
	own := m.own(t, hw)
	if !waits || own == nil || own.status != edgeclaim.DeviceReleased || m.lead(t, hw) == a.Device {
		return
	}
	if target := m.devices[a.Device]; target != nil && target.hardware != hw {
		return
	}
	m.leads[hw] = a.Device
	m.replace(t, a)
	delete(m.waits, hw)
}

func (m *identityModel) replace(t *testing.T, a edgeclaim.Alias) {
	if !a.Replaces.IsZero() && a.Replaces != a.Hardware {
		m.putOut(t, a.Replaces.String(), a.Device)
	}
}

// putOut keeps a board out, unless it has a place of its own.
func (m *identityModel) putOut(t *testing.T, hw string, id edgeclaim.DeviceID) {
	_, known := m.out[hw]
	if lead := m.lead(t, hw); !known && (lead == id || lead == derived(t, hw, 1) && m.own(t, hw) == nil) {
		m.out[hw] = id
	}
}

// swap follows what the store allows; what it must not allow is seen in compare.
func (m *identityModel) swap(t *testing.T, from, to string) {
	t.Helper()
	id, d := m.lead(t, from), m.own(t, from)
	if d == nil || d.status == edgeclaim.DeviceRevoked {
		return
	}
	_, err := m.db.Swap(t.Context(), id, hardware(t, to), release1)
	if err != nil {
		wantErr(t, err, edgeclaim.ErrConflict)
		return
	}
	m.records++
	d.hardware, d.status = to, edgeclaim.DeviceReleased
	if m.out[to] == id {
		delete(m.out, to)
	}
	if _, known := m.out[from]; !known {
		m.out[from] = id
	}
	m.leads[to] = id
}

func (m *identityModel) undeny(t *testing.T, hw string) {
	t.Helper()
	_, err := m.db.Undeny(t.Context(), tenant(t), hardware(t, hw))
	_, out := m.out[hw]
	taken := m.devices[m.lead(t, hw)] != nil && m.own(t, hw) == nil
	switch {
	case m.named[hw]:
		wantErr(t, err, edgeclaim.ErrConflict)
		return
	case !out && !taken:
		wantErr(t, err, edgeclaim.ErrNotFound)
		return
	}
	noErr(t, err)
	delete(m.out, hw)
	if a, waits := m.waits[hw]; waits && m.devices[a.Device] == nil {
		m.leads[hw] = a.Device
		delete(m.waits, hw)
		return
	}
	for g := 2; ; g++ {
		if id := derived(t, hw, g); m.devices[id] == nil {
			m.leads[hw] = id
			return
		}
	}
}

func (m *identityModel) revocations(t *testing.T, names []string) {
	t.Helper()
	m.version++
	before := m.named
	m.named = map[string]bool{}
	r := &edgeclaim.Revocations{Reinstated: &edgeclaim.Reinstations{}}
	for _, name := range names {
		m.named[name] = true
		if id, err := edgeclaim.ParseDeviceID(name); err == nil {
			r.Devices = append(r.Devices, id)
		} else {
			r.Hardware = append(r.Hardware, hardware(t, name))
		}
	}
	for name := range before {
		if id, err := edgeclaim.ParseDeviceID(name); err == nil {
			r.Reinstated.Devices = append(r.Reinstated.Devices, id)
		} else {
			r.Reinstated.Hardware = append(r.Reinstated.Hardware, hardware(t, name))
		}
	}
	_, err := revoke(t, m.db, m.version, r)
	noErr(t, err)
	for id, d := range m.devices {
		was, is := before[id.String()] || before[d.hardware] && m.finds(t, d.hardware, id), m.named[id.String()] || m.named[d.hardware] && m.finds(t, d.hardware, id)
		switch {
		case is && d.status != edgeclaim.DeviceRevoked:
			d.status = edgeclaim.DeviceRevoked
			m.records++
		case was && !is && d.status == edgeclaim.DeviceRevoked:
			d.status = edgeclaim.DeviceReleased
			m.records++
			m.settle(t, d.hardware)
		}
	}
}

// finds reports whether a board's name leads to a device.
func (m *identityModel) finds(t *testing.T, hw string, id edgeclaim.DeviceID) bool {
	return m.lead(t, hw) == id || derived(t, hw, 1) == id || m.waits[hw].Device == id
}

func (m *identityModel) aliases(t *testing.T, list []edgeclaim.Alias) {
	t.Helper()
	m.version++
	giveIDs(t, m.db, m.version, list...)
	said := map[string]bool{}
	for i, a := range list {
		text := fmt.Sprint(a.Hardware, a.Device, a.Replaces)
		said[text] = true
		if m.said[text] || m.counts(list, a.Device) != i {
			continue
		}
		m.take(t, a)
	}
	m.said = said
}

// counts is which of several aliases of a device counts.
func (m *identityModel) counts(list []edgeclaim.Alias, id edgeclaim.DeviceID) int {
	last, free := -1, -1
	for i, a := range list {
		if a.Device != id {
			continue
		}
		last = i
		if !slices.ContainsFunc(list, func(b edgeclaim.Alias) bool {
			return b.Device == id && b.Replaces == a.Hardware && b.Hardware != a.Hardware
		}) {
			free = i
		}
	}
	if free >= 0 {
		return free
	}
	return last
}

func (m *identityModel) take(t *testing.T, a edgeclaim.Alias) {
	t.Helper()
	hw := a.Hardware.String()
	lead, own, target := m.lead(t, hw), m.own(t, hw), m.devices[a.Device]
	if lead != a.Device && own != nil && own.status != edgeclaim.DeviceReleased {
		if m.waits[hw] != a && own.status == edgeclaim.DeviceActive {
			m.records++
		}
		m.waits[hw] = a
		return
	}
	var old string
	if target != nil && target.hardware != hw {
		old = target.hardware
		m.records++
		target.hardware, target.status = hw, edgeclaim.DeviceReleased
		if m.named[hw] || m.named[a.Device.String()] {
			target.status = edgeclaim.DeviceRevoked
		}
		m.putOut(t, old, a.Device)
	}
	if lead != a.Device || old != "" {
		m.leads[hw] = a.Device
		delete(m.out, hw)
	}
	delete(m.waits, hw)
	m.replace(t, a)
	if w, waits := m.waits[old]; waits {
		delete(m.waits, old)
		m.take(t, w)
	}
}

func (m *identityModel) compare(t *testing.T) {
	t.Helper()
	equal(t, "records", stats(t, m.db, edgeclaim.LaneProv).Appended, m.records)
	devices := must(m.db.Devices(t.Context(), edgeclaim.DeviceID{}, 100))(t)
	if len(devices) != len(m.devices) {
		t.Fatalf("%d devices, want %d", len(devices), len(m.devices))
	}
	claimed := map[string]int{}
	for _, d := range devices {
		want := m.devices[d.ID]
		if want == nil || want.hardware != d.Hardware.String() || want.status != d.Status {
			t.Fatalf("device %s of %s is %s, want %+v", d.ID, d.Hardware, d.Status, want)
		}
		if d.Status == edgeclaim.DeviceActive {
			claimed[want.hardware]++
		}
	}
	for hw, n := range claimed { // one hardware, one device (P4)
		if n > 1 {
			t.Fatalf("%s is %d active devices", hw, n)
		}
	}
	for _, hw := range modelBoards() {
		if got, want := who(t, m.db, m.key, hw), m.expected(t, hw); got != want {
			t.Fatalf("%s is %s, want %s; waiting %v, out %v, leads %v", hw, got, want, m.waits, m.out, slices.Sorted(maps.Keys(m.leads)))
		}
	}
	_, err := m.db.Device(t.Context(), platformID(t, 99))
	if !errors.Is(err, edgeclaim.ErrNotFound) {
		t.Fatal(err)
	}
}
