package store_test

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"edgeclaim"
	"edgeclaim/store"
)

// life is a device as the model has it.
type life struct {
	hardware          string
	generation        int
	status            edgeclaim.DeviceStatus
	current, previous string // secrets; empty for none
	mint, confirmed   bool
}

// claimModel is what a store should hold after any sequence of claims, log-ins,
// rotations, swaps, denials, approvals, and reopens: a few maps.
type claimModel struct {
	db      *store.DB
	auto    edgeclaim.Key // whose template lets everybody through
	manual  edgeclaim.Key // whose template waits for the operator
	devices map[edgeclaim.DeviceID]*life
	leads   map[string]edgeclaim.DeviceID // hardware that does not go by its derived id
	denied  map[string]edgeclaim.Denial
	pending map[edgeclaim.DeviceID]edgeclaim.Pending
	claims  map[edgeclaim.KeyID]uint32
	records uint64
	secrets []string // all that were ever made
}

// boards are few, so that they meet, and some are named like a generation of
// another.
func boards() []string {
	return []string{"board-0", "board-0#2", "board-0#3", "board-1", "board-1#2", "board-1#2#2"}
}

// TestClaimsModel compares the store with the model after each step.
func TestClaimsModel(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		cfg := config(t)
		db, err := store.Open(cfg)
		noErr(t, err)
		m := newClaimModel(t, db)
		drawBoard := func(rt *rapid.T) string { return rapid.SampledFrom(boards()).Draw(rt, "board") }
		rt.Repeat(map[string]func(*rapid.T){
			"claim":     func(rt *rapid.T) { m.claim(t, m.auto, drawBoard(rt)) },
			"claim2":    func(rt *rapid.T) { m.claim(t, m.manual, drawBoard(rt)) },
			"rotate":    func(rt *rapid.T) { m.change(t, drawBoard(rt), m.rotate) },
			"first use": func(rt *rapid.T) { m.change(t, drawBoard(rt), firstUse) },
			"release":   func(rt *rapid.T) { m.change(t, drawBoard(rt), release) },
			"swap":      func(rt *rapid.T) { m.swap(t, drawBoard(rt), drawBoard(rt)) },
			"deny":      func(rt *rapid.T) { m.deny(t, drawBoard(rt)) },
			"undeny":    func(rt *rapid.T) { m.undeny(t, drawBoard(rt)) },
			"pend":      func(rt *rapid.T) { m.pend(t, drawBoard(rt)) },
			"approve":   func(rt *rapid.T) { m.answer(t, drawBoard(rt), rapid.Bool().Draw(rt, "approve")) },
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

func newClaimModel(t *testing.T, db *store.DB) *claimModel {
	t.Helper()
	m := &claimModel{
		db: db, auto: stock(t, db), manual: key(t, "key-2", "template-2"),
		devices: map[edgeclaim.DeviceID]*life{}, leads: map[string]edgeclaim.DeviceID{},
		denied: map[string]edgeclaim.Denial{}, pending: map[edgeclaim.DeviceID]edgeclaim.Pending{},
		claims: map[edgeclaim.KeyID]uint32{},
	}
	second := template(t, "template-2")
	second.Approval = edgeclaim.ApprovalManual
	noErr(t, db.CreateTemplate(t.Context(), second))
	noErr(t, db.AddKeys(t.Context(), []edgeclaim.Key{m.manual}))
	return m
}

// derived is the id of a generation of a hardware.
func derived(t testing.TB, hw string, generation int) edgeclaim.DeviceID {
	return edgeclaim.NewDeviceID(tenant(t), hardware(t, hw), generation)
}

// who is the id of a hardware, and whether that is another's.
func (m *claimModel) who(t *testing.T, hw string) (id edgeclaim.DeviceID, taken bool) {
	t.Helper()
	id, ok := m.leads[hw]
	if !ok {
		id = derived(t, hw, 1)
	}
	if d := m.devices[id]; d != nil {
		return id, d.hardware != hw
	}
	for other, lead := range m.leads {
		taken = taken || other != hw && lead == id
	}
	return id, taken
}

// secret makes one that was never there before.
func (m *claimModel) secret() string {
	s := "secret-" + strconv.Itoa(len(m.secrets))
	m.secrets = append(m.secrets, s)
	return s
}

func (m *claimModel) claim(t *testing.T, k edgeclaim.Key, hw string) {
	t.Helper()
	id, taken := m.who(t, hw)
	_, denied := m.denied[hw]
	wish := m.pending[id]
	waiting := k.ID == m.manual.ID && (wish.Status != edgeclaim.PendingApproved || wish.Hardware.String() != hw)
	known := m.devices[id]
	ref := refer(t, k, hw)
	made := false
	err := m.db.Mint(t.Context(), ref, func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
		if k.ID == m.manual.ID && p.Denied == nil && !p.Approved && (p.Known == nil || p.Known.Status != edgeclaim.DeviceActive) {
			return nil, edgeclaim.ErrWaiting
		}
		minted, err := mint(ref)(p)
		if minted != nil {
			made = true
			secret := m.secret()
			minted.Device.Credential.Hash = edgeclaim.NewSecret(secret).Hash()
			minted.Device.Mint = &edgeclaim.Mint{Salt: [32]byte{1}, Proof: minted.Device.Credential.Hash}
			minted.SpendApproval = p.Approved
		}
		return minted, err
	})
	switch {
	case denied || taken:
		wantErr(t, err, edgeclaim.ErrDenied)
	case known != nil && known.status == edgeclaim.DeviceActive:
		noErr(t, err)
		if made {
			t.Fatalf("%s was minted twice", hw)
		}
	case waiting:
		wantErr(t, err, edgeclaim.ErrWaiting)
	default:
		noErr(t, err)
		generation := 1
		for derived(t, hw, generation) != id && known == nil {
			generation++
		}
		if known != nil {
			generation = known.generation
		}
		m.devices[id] = &life{
			hardware: hw, generation: generation, status: edgeclaim.DeviceActive,
			current: m.secrets[len(m.secrets)-1], mint: true,
		}
		m.claims[k.ID]++
		m.records++
		delete(m.pending, id)
	}
}

// change does the same to the device of a hardware and to the model's.
func (m *claimModel) change(t *testing.T, hw string, do func(*life, *edgeclaim.Device)) {
	t.Helper()
	id, taken := m.who(t, hw)
	d := m.devices[id]
	if d == nil || taken || d.status != edgeclaim.DeviceActive {
		return
	}
	_, err := m.db.ChangeDevice(t.Context(), id, func(real *edgeclaim.Device) (*edgeclaim.Record, error) {
		do(d, real)
		return nil, nil
	})
	noErr(t, err)
}

func (m *claimModel) rotate(d *life, real *edgeclaim.Device) {
	d.previous, d.current, d.mint, d.confirmed = d.current, m.secret(), false, false
	real.Previous, real.Mint = real.Credential, nil
	real.Credential = edgeclaim.Credential{Type: edgeclaim.CredentialPSK, Hash: edgeclaim.NewSecret(d.current).Hash(), IssuedAt: moment}
}

func firstUse(d *life, real *edgeclaim.Device) {
	d.mint, d.confirmed = false, true
	real.Mint, real.Credential.ConfirmedAt = nil, moment
}

func release(d *life, real *edgeclaim.Device) {
	d.status = edgeclaim.DeviceReleased
	d.current, d.previous, d.mint, d.confirmed = "", "", false, false
	void(real)
}

func void(real *edgeclaim.Device) {
	real.Status, real.Mint = edgeclaim.DeviceReleased, nil
	real.Credential, real.Previous = edgeclaim.Credential{}, edgeclaim.Credential{}
}

func (m *claimModel) swap(t *testing.T, from, to string) {
	t.Helper()
	id, taken := m.who(t, from)
	d := m.devices[id]
	if d == nil || taken {
		return
	}
	other, kept := m.who(t, to)
	denial, denied := m.denied[to]
	back := denied && denial.Reason == edgeclaim.DeniedSwapped && denial.Device == id
	_, err := m.db.Swap(t.Context(), id, hardware(t, to), func(real *edgeclaim.Device) (*edgeclaim.Record, error) {
		void(real)
		return record(id), nil
	})
	if from == to || denied && !back || other != id && (kept || m.devices[other] != nil) {
		wantErr(t, err, edgeclaim.ErrConflict)
		return
	}
	noErr(t, err)
	*d = life{hardware: to, generation: d.generation, status: edgeclaim.DeviceReleased}
	m.records++
	if back {
		delete(m.denied, to)
	}
	if _, denied := m.denied[from]; !denied {
		m.denied[from] = edgeclaim.Denial{Reason: edgeclaim.DeniedSwapped, Device: id}
	}
	delete(m.leads, to)
	if derived(t, to, 1) != id {
		m.leads[to] = id
	}
}

func (m *claimModel) deny(t *testing.T, hw string) {
	t.Helper()
	d := edgeclaim.Denial{Tenant: tenant(t), Hardware: hardware(t, hw), Reason: edgeclaim.DeniedByOperator, By: "uid:0", At: moment}
	noErr(t, m.db.Deny(t.Context(), d, nil))
	if _, denied := m.denied[hw]; !denied {
		m.denied[hw] = d
	}
}

func (m *claimModel) undeny(t *testing.T, hw string) {
	t.Helper()
	denial, denied := m.denied[hw]
	_, taken := m.who(t, hw)
	lifted, err := m.db.Undeny(t.Context(), tenant(t), hardware(t, hw))
	if !denied && !taken {
		wantErr(t, err, edgeclaim.ErrNotFound)
		return
	}
	noErr(t, err)
	delete(m.denied, hw)
	if denied && denial.Reason == edgeclaim.DeniedByOperator {
		return
	}
	if lifted.Reason != edgeclaim.DeniedSwapped {
		t.Fatalf("lifted %+v", lifted)
	}
	generation := 2
	for m.devices[derived(t, hw, generation)] != nil {
		generation++
	}
	m.leads[hw] = derived(t, hw, generation)
}

func (m *claimModel) pend(t *testing.T, hw string) {
	t.Helper()
	id, taken := m.who(t, hw)
	if taken {
		return
	}
	got, err := m.db.Pend(t.Context(), edgeclaim.Pending{
		ID: id, Tenant: tenant(t), Hardware: hardware(t, hw), Template: m.manual.Template, Key: m.manual.ID, AskedAt: moment,
	})
	noErr(t, err)
	want := m.pending[id]
	if want.Status == "" || want.Hardware.String() != hw {
		want = edgeclaim.Pending{Status: edgeclaim.PendingWaiting, Hardware: hardware(t, hw)}
	}
	want.Asked++
	if got.Asked != want.Asked || got.Status != want.Status {
		t.Fatalf("%s pends as %+v, want %+v", hw, got, want)
	}
	m.pending[id] = want
}

func (m *claimModel) answer(t *testing.T, hw string, approve bool) {
	t.Helper()
	id, _ := m.who(t, hw)
	_, err := m.db.ChangePending(t.Context(), id, func(p *edgeclaim.Pending) (bool, error) {
		p.Status, p.By = edgeclaim.PendingApproved, "uid:0"
		return approve, nil
	})
	p, ok := m.pending[id]
	if !ok {
		wantErr(t, err, edgeclaim.ErrNotFound)
		return
	}
	noErr(t, err)
	delete(m.pending, id)
	if approve {
		p.Status = edgeclaim.PendingApproved
		m.pending[id] = p
	}
}

func (m *claimModel) compare(t *testing.T) {
	t.Helper()
	next := map[edgeclaim.DeviceID]string{}
	for _, hw := range boards() {
		p := m.compareBoard(t, hw)
		if other, twice := next[p.Next]; twice && !p.Next.IsZero() {
			t.Fatalf("%s and %s are both %s", hw, other, p.Next)
		}
		next[p.Next] = hw
	}
	for _, secret := range m.secrets {
		var want edgeclaim.DeviceID
		for id, d := range m.devices {
			if d.current == secret || d.previous == secret {
				want = id
			}
		}
		d, err := m.db.DeviceByCredential(t.Context(), edgeclaim.NewSecret(secret).Hash())
		if want.IsZero() {
			wantErr(t, err, edgeclaim.ErrNotFound)
		} else if err != nil || d.ID != want {
			t.Fatalf("%s finds %s, %v, want %s", secret, d.ID, err, want)
		}
	}
	for _, k := range []edgeclaim.Key{m.auto, m.manual} {
		if got, err := m.db.Key(t.Context(), k.ID); err != nil || got.Claims != m.claims[k.ID] {
			t.Fatalf("key is %+v, %v, want %d claims", got, err, m.claims[k.ID])
		}
	}
	if s := stats(t, m.db, edgeclaim.LaneProv); s.Appended != m.records || s.Pending != m.records {
		t.Fatalf("lane is %+v, want %d records", s, m.records)
	}
	if n, err := m.db.Count(t.Context()); err != nil || n != uint64(len(m.devices)) {
		t.Fatalf("count is %d, %v, want %d", n, err, len(m.devices))
	}
	m.compareLists(t)
}

func (m *claimModel) compareBoard(t *testing.T, hw string) edgeclaim.Present {
	t.Helper()
	id, taken := m.who(t, hw)
	_, denied := m.denied[hw]
	p, err := m.db.Look(t.Context(), refer(t, m.manual, hw))
	noErr(t, err)
	if (p.Denied != nil) != (denied || taken) || taken == (p.Next == id) || taken && (p.Known != nil || !p.Next.IsZero()) {
		t.Fatalf("%s sees %+v, want %s, taken %v, denied %v", hw, p, id, taken, denied)
	}
	if taken {
		return p
	}
	if want := m.pending[id]; p.Approved != (want.Status == edgeclaim.PendingApproved && want.Hardware.String() == hw) {
		t.Fatalf("%s is approved: %v, want %+v", hw, p.Approved, want)
	}
	d := m.devices[id]
	if (p.Known != nil) != (d != nil) {
		t.Fatalf("%s sees %+v, want %+v", hw, p.Known, d)
	}
	if d == nil {
		return p
	}
	got := life{
		hardware: p.Known.Hardware.String(), generation: p.Known.Generation, status: p.Known.Status,
		current: d.current, previous: d.previous, mint: p.Known.Mint != nil, confirmed: !p.Known.Credential.ConfirmedAt.IsZero(),
	}
	if got != *d || p.Generation != d.generation || p.Known.Credential.Hash != hashOf(d.current) || p.Known.Previous.Hash != hashOf(d.previous) {
		t.Fatalf("%s is %+v, want %+v", hw, p.Known, d)
	}
	return p
}

// hashOf is the zero hash for no secret.
func hashOf(secret string) edgeclaim.KeyHash {
	if secret == "" {
		return edgeclaim.KeyHash{}
	}
	return edgeclaim.NewSecret(secret).Hash()
}

func (m *claimModel) compareLists(t *testing.T) {
	t.Helper()
	denials, err := m.db.Denials(t.Context(), edgeclaim.Denial{}, 100)
	noErr(t, err)
	var got []string
	for _, d := range denials {
		got = append(got, fmt.Sprint(d.Hardware, d.Reason, d.Device))
	}
	var want []string
	for hw, d := range m.denied {
		want = append(want, fmt.Sprint(hw, d.Reason, d.Device))
	}
	slices.Sort(got)
	slices.Sort(want)
	equal(t, "denials", got, want)
	waiting, err := m.db.PendingClaims(t.Context(), edgeclaim.DeviceID{}, 100)
	noErr(t, err)
	ids := map[edgeclaim.DeviceID]bool{}
	for _, p := range waiting {
		ids[p.ID] = true
	}
	for id := range maps.Keys(m.pending) {
		if !ids[id] || len(ids) != len(m.pending) {
			t.Fatalf("pending are %v, want %v", waiting, m.pending)
		}
	}
	if n, err := m.db.CountPending(t.Context()); err != nil || n != uint64(len(m.pending)) {
		t.Fatalf("%d pending, %v, want %d", n, err, len(m.pending))
	}
}
