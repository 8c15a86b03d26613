package store_test

import (
	"errors"
	"fmt"
	"testing"

	"edgeclaim"
	"edgeclaim/store"
)

// platformID is an id that no hardware derives.
func platformID(tb testing.TB, n int) edgeclaim.DeviceID {
	return must(edgeclaim.ParseDeviceID(fmt.Sprintf("aaaaaaaa-0000-4000-8000-%012d", n)))(tb)
}

func aliasOf(tb testing.TB, hw string, id edgeclaim.DeviceID, replaces string) edgeclaim.Alias {
	tb.Helper()
	a := edgeclaim.Alias{Hardware: hardware(tb, hw), Device: id}
	if replaces != "" {
		a.Replaces = hardware(tb, replaces)
	}
	return a
}

// calls is the rule for aliases, and what it was called with.
type calls struct{ said []string }

func (c *calls) change(d *edgeclaim.Device, a edgeclaim.Alias) (*edgeclaim.Record, error) {
	if d.ID != a.Device {
		c.said = append(c.said, fmt.Sprintf("%s keeps %s", d.Hardware, d.Name))
		return conflict(d.ID), nil
	}
	c.said = append(c.said, fmt.Sprintf("%s gets %s of %s", a.Hardware, d.Name, d.Hardware))
	d.Status, d.Credential = edgeclaim.DeviceReleased, edgeclaim.Credential{}
	d.Hardware = a.Hardware
	return conflict(d.ID), nil
}

// giveIDs applies a list of aliases, and returns what the rule was called with.
func giveIDs(tb testing.TB, db *store.DB, version uint64, aliases ...edgeclaim.Alias) string {
	tb.Helper()
	h := document(tb, edgeclaim.DocumentAliases, version)
	var c calls
	applied, err := db.ApplyAliases(tb.Context(), h, textOf(h), &edgeclaim.Aliases{Aliases: aliases}, c.change)
	noErr(tb, err)
	for _, d := range applied.Devices {
		if stored := must(db.Device(tb.Context(), d.ID))(tb); fmt.Sprintf("%+v", stored) != fmt.Sprintf("%+v", d) {
			tb.Errorf("told %+v, stored %+v", d, stored)
		}
	}
	return fmt.Sprint(c.said)
}

// who is the id that a hardware goes by, or why it is denied.
func who(tb testing.TB, db *store.DB, k edgeclaim.Key, hw string) string {
	tb.Helper()
	p := look(tb, db, k, hw)
	var minted edgeclaim.Present
	noErr(tb, db.Mint(tb.Context(), refer(tb, k, hw), func(p edgeclaim.Present) (*edgeclaim.Minted, error) {
		minted = p
		return nil, nil
	}))
	if fmt.Sprintf("%+v %+v %+v", p.Known, p.Next, p.Denied) != fmt.Sprintf("%+v %+v %+v", minted.Known, minted.Next, minted.Denied) {
		tb.Errorf("%s: a look says %+v, a claim %+v", hw, p, minted)
	}
	if p.Denied != nil {
		return string(p.Denied.Reason)
	}
	return p.Next.String()
}

// TestAliases are all that an alias meets, each on a store of its own, through a
// reopen, and with the same list again in the next version.
func TestAliases(t *testing.T) {
	for _, tc := range []struct {
		name    string
		before  func(*testing.T, *store.DB, edgeclaim.Key)
		aliases []edgeclaim.Alias
		said    string
		who     map[string]string // empty: the derived id
	}{
		{
			name:    "nobody is known",
			aliases: []edgeclaim.Alias{aliasOf(t, "H1", platformID(t, 1), ""), aliasOf(t, "H2", derived(t, "H0", 1), "H0")},
			said:    "[]",
			who:     map[string]string{"H1": platformID(t, 1).String(), "H2": derived(t, "H0", 1).String(), "H0": "swapped", "H3": ""},
		},
		{
			name:    "an id that is the derived one",
			aliases: []edgeclaim.Alias{aliasOf(t, "H1", derived(t, "H1", 1), "")},
			said:    "[]",
			who:     map[string]string{"H1": ""},
		},
		{
			name:    "swapped elsewhere, and the old board is active here",
			before:  func(t *testing.T, db *store.DB, k edgeclaim.Key) { noErr(t, claim(t, db, k, "H0")) },
			aliases: []edgeclaim.Alias{aliasOf(t, "H1", derived(t, "H0", 1), "H0")},
			said:    "[H1 gets device H0 of H0]",
			who:     map[string]string{"H0": "swapped", "H1": derived(t, "H0", 1).String()},
		},
		{
			name:   "swapped twice elsewhere: the last board has it",
			before: func(t *testing.T, db *store.DB, k edgeclaim.Key) { noErr(t, claim(t, db, k, "H0")) },
			aliases: []edgeclaim.Alias{
				aliasOf(t, "H2", derived(t, "H0", 1), "H1"), aliasOf(t, "H1", derived(t, "H0", 1), "H0"),
			},
			said: "[H2 gets device H0 of H0]",
			who:  map[string]string{"H0": "swapped", "H1": "swapped", "H2": derived(t, "H0", 1).String()},
		},
		{
			name:    "swapped elsewhere, while the new board claims here",
			before:  func(t *testing.T, db *store.DB, k edgeclaim.Key) { noErr(t, claim(t, db, k, "H1")) },
			aliases: []edgeclaim.Alias{aliasOf(t, "H1", derived(t, "H0", 1), "H0")},
			said:    "[H1 keeps device H1]",
			who:     map[string]string{"H1": "", "H0": ""},
		},
		{
			name: "a released device gets the other id at once",
			before: func(t *testing.T, db *store.DB, k edgeclaim.Key) {
				noErr(t, claim(t, db, k, "H1"))
				_, err := db.ChangeDevice(t.Context(), derived(t, "H1", 1), release1)
				noErr(t, err)
			},
			aliases: []edgeclaim.Alias{aliasOf(t, "H1", platformID(t, 1), "")},
			said:    "[]",
			who:     map[string]string{"H1": platformID(t, 1).String()},
		},
		{
			name: "a revoked device keeps its id, without a word",
			before: func(t *testing.T, db *store.DB, k edgeclaim.Key) {
				noErr(t, claim(t, db, k, "H1"))
				_, err := db.ChangeDevice(t.Context(), derived(t, "H1", 1), voiding)
				noErr(t, err)
			},
			aliases: []edgeclaim.Alias{aliasOf(t, "H1", platformID(t, 1), "")},
			said:    "[]",
			who:     map[string]string{"H1": ""},
		},
		{
			name: "boards that change places",
			before: func(t *testing.T, db *store.DB, k edgeclaim.Key) {
				noErr(t, claim(t, db, k, "H0"))
				noErr(t, claim(t, db, k, "H1"))
			},
			aliases: []edgeclaim.Alias{aliasOf(t, "H0", platformID(t, 1), ""), aliasOf(t, "H2", derived(t, "H0", 1), "H0")},
			said:    "[H0 keeps device H0 H2 gets device H0 of H0]",
			who:     map[string]string{"H0": platformID(t, 1).String(), "H2": derived(t, "H0", 1).String(), "H1": ""},
		},
		{
			name: "a board that a swap put out gets a place of its own",
			before: func(t *testing.T, db *store.DB, k edgeclaim.Key) {
				noErr(t, claim(t, db, k, "H0"))
				_, err := db.Swap(t.Context(), derived(t, "H0", 1), hardware(t, "H1"), release1)
				noErr(t, err)
			},
			aliases: []edgeclaim.Alias{aliasOf(t, "H0", platformID(t, 1), "")},
			said:    "[]",
			who:     map[string]string{"H0": platformID(t, 1).String(), "H1": derived(t, "H0", 1).String()},
		},
		{
			name: "an operator's denial stays",
			before: func(t *testing.T, db *store.DB, k edgeclaim.Key) {
				noErr(t, db.Deny(t.Context(), denied(t, "H1", true), nil))
			},
			aliases: []edgeclaim.Alias{aliasOf(t, "H1", platformID(t, 1), "H0"), aliasOf(t, "H0", platformID(t, 2), "")},
			said:    "[]",
			who:     map[string]string{"H1": "operator", "H0": platformID(t, 2).String()},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			cfg := config(t)
			db := open(t, cfg)
			k := stock(t, db)
			if tc.before != nil {
				tc.before(t, db, k)
			}
			equal(t, "said", giveIDs(t, db, 1, tc.aliases...), tc.said)
			checkAndClose(t, db)
			db = open(t, cfg)
			check := func() {
				for hw, want := range tc.who {
					if want == "" {
						want = derived(t, hw, 1).String()
					}
					equal(t, hw, who(t, db, k, hw), want)
				}
			}
			check()
			equal(t, "said again", giveIDs(t, db, 2, tc.aliases...), "[]")
			check()
		})
	}
}

// TestAliasThatWaits takes hold when its hardware's device is released, through a
// reopen, and the other id is minted.
func TestAliasThatWaits(t *testing.T) {
	cfg := config(t)
	db := open(t, cfg)
	k := stock(t, db)
	noErr(t, claim(t, db, k, "H1"))
	equal(t, "said", giveIDs(t, db, 1, aliasOf(t, "H1", platformID(t, 1), "H0")), "[H1 keeps device H1]")
	equal(t, "said", giveIDs(t, db, 2, aliasOf(t, "H1", platformID(t, 1), "H0"), aliasOf(t, "H9", platformID(t, 9), "")), "[]")
	equal(t, "said of another id", giveIDs(t, db, 3, aliasOf(t, "H1", platformID(t, 2), "H0")), "[H1 keeps device H1]")
	equal(t, "the old board", who(t, db, k, "H0"), derived(t, "H0", 1))
	checkAndClose(t, db)
	db = open(t, cfg)
	_, err := db.ChangeDevice(t.Context(), derived(t, "H1", 1), release1)
	noErr(t, err)
	equal(t, "H1", who(t, db, k, "H1"), platformID(t, 2))
	equal(t, "the old board", who(t, db, k, "H0"), "swapped")
	noErr(t, claim(t, db, k, "H1"))
	d := must(db.Device(t.Context(), platformID(t, 2)))(t)
	if d.Hardware.String() != "H1" || d.Generation != 1 || d.Status != edgeclaim.DeviceActive {
		t.Errorf("%+v", d)
	}
	equal(t, "H9 stays", who(t, db, k, "H9"), platformID(t, 9))
}

// TestAliasThatWaitsOutlivesASwap: the board that is swapped out gets, once it is
// let in again, the place that upstream says.
func TestAliasThatWaitsOutlivesASwap(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	noErr(t, claim(t, db, k, "H1"))
	giveIDs(t, db, 1, aliasOf(t, "H1", platformID(t, 1), ""))
	_, err := db.Swap(t.Context(), derived(t, "H1", 1), hardware(t, "H2"), release1)
	noErr(t, err)
	equal(t, "H1", who(t, db, k, "H1"), "swapped")
	_, err = db.Undeny(t.Context(), tenant(t), hardware(t, "H1"))
	noErr(t, err)
	equal(t, "H1", who(t, db, k, "H1"), platformID(t, 1))
}

// TestAliasesDoNotUndoALaterSwap: what the list has said before is not said anew.
func TestAliasesDoNotUndoALaterSwap(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	a := aliasOf(t, "H1", platformID(t, 1), "")
	giveIDs(t, db, 1, a)
	noErr(t, claim(t, db, k, "H1"))
	_, err := db.Swap(t.Context(), platformID(t, 1), hardware(t, "H2"), release1)
	noErr(t, err)
	equal(t, "said", giveIDs(t, db, 2, a), "[]")
	equal(t, "H2", who(t, db, k, "H2"), platformID(t, 1))
	equal(t, "H1", who(t, db, k, "H1"), "swapped")
}

// TestAliasesDenyWins: no alias brings a device back that a revocation names.
func TestAliasesDenyWins(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	noErr(t, claim(t, db, k, "H0"))
	noErr(t, claim(t, db, k, "H5"))
	_, err := revoke(t, db, 1, named([]edgeclaim.DeviceID{derived(t, "H0", 1), platformID(t, 3)}, []edgeclaim.HardwareID{hardware(t, "H6")}))
	noErr(t, err)
	giveIDs(t, db, 1, aliasOf(t, "H1", derived(t, "H0", 1), "H0"), aliasOf(t, "H3", platformID(t, 3), ""), aliasOf(t, "H6", derived(t, "H5", 1), "H5"))
	equal(t, "device", statusOf(t, db, derived(t, "H0", 1)), edgeclaim.DeviceRevoked)
	equal(t, "device of a revoked board", statusOf(t, db, derived(t, "H5", 1)), edgeclaim.DeviceRevoked)
	for _, hw := range []string{"H1", "H3", "H6"} {
		equal(t, hw, who(t, db, k, hw), "upstream")
	}
}

func TestAliasesAreWholeOrNotAtAll(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	for n := range 3 {
		noErr(t, claim(t, db, k, board(n)))
	}
	h := document(t, edgeclaim.DocumentAliases, 1)
	foreign := h
	foreign.ID.Tenant = other(t)
	before := whole(t, db)
	list := &edgeclaim.Aliases{}
	for n := range 3 {
		list.Aliases = append(list.Aliases, aliasOf(t, fmt.Sprint("H", n), deviceID(t, n), board(n)))
	}
	failure := errors.New("the rule's")
	for name, tc := range map[string]struct {
		held   edgeclaim.HeldDocument
		change func(*edgeclaim.Device, edgeclaim.Alias) (*edgeclaim.Record, error)
		want   error
	}{
		"error": {h, func(d *edgeclaim.Device, a edgeclaim.Alias) (*edgeclaim.Record, error) {
			if d.ID == deviceID(t, 2) {
				return nil, failure
			}
			return (&calls{}).change(d, a)
		}, failure},
		"still active":     {h, func(*edgeclaim.Device, edgeclaim.Alias) (*edgeclaim.Record, error) { return nil, nil }, edgeclaim.ErrInvalid},
		"another tenant's": {foreign, (&calls{}).change, edgeclaim.ErrInvalid},
	} {
		_, err := db.ApplyAliases(t.Context(), tc.held, textOf(tc.held), list, tc.change)
		if !errors.Is(err, tc.want) {
			t.Errorf("%s: %v", name, err)
		}
		equal(t, name, whole(t, db), before)
	}
}

// TestAdoptedDeviceBesideAnAlias: what upstream held of a board that an alias gives
// another id stays what it is, and the alias waits.
func TestAdoptedDeviceBesideAnAlias(t *testing.T) {
	db := open(t, config(t))
	k := stock(t, db)
	giveIDs(t, db, 1, aliasOf(t, board(1), platformID(t, 1), ""))
	_, err := db.Adopt(t.Context(), []edgeclaim.Device{told(t, k, board(1), 1)})
	noErr(t, err)
	equal(t, board(1), who(t, db, k, board(1)), deviceID(t, 1))
	_, err = db.ChangeDevice(t.Context(), deviceID(t, 1), release1)
	noErr(t, err)
	equal(t, board(1), who(t, db, k, board(1)), platformID(t, 1))

	// A second life of a board that claimed meanwhile waits too, and a revocation
	// of the board finds both.
	noErr(t, claim(t, db, k, board(2)))
	second := told(t, k, board(2), 2)
	_, err = db.Adopt(t.Context(), []edgeclaim.Device{second})
	noErr(t, err)
	_, err = revoke(t, db, 1, named(nil, []edgeclaim.HardwareID{hardware(t, board(2))}))
	noErr(t, err)
	equal(t, "first life", statusOf(t, db, deviceID(t, 2)), edgeclaim.DeviceRevoked)
	equal(t, "second life", statusOf(t, db, second.ID), edgeclaim.DeviceRevoked)
}
