package registry_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/signeddoc"
)

func keyID(t testing.TB, text string) edgeclaim.KeyID {
	t.Helper()
	id, err := edgeclaim.ParseKeyID(text)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// templatesDoc has one template for each bound, t-1 and on, with the key k-1 and on; the
// bound -1 is of a one-time key.
func templatesDoc(t testing.TB, version uint64, members string, bounds ...int) *signeddoc.Signed {
	t.Helper()
	templates, keys := "", ""
	for i, bound := range bounds {
		limit := ""
		if bound > 0 {
			limit = fmt.Sprintf(`,"max_claims":%d`, bound)
		}
		templates += fmt.Sprintf(`,{"template_id":"t-%d","name":"T","one_time":%v%s}`, i+1, bound < 0, limit)
		keys += fmt.Sprintf(`,{"key_id":"k-%d","template_id":"t-%d","sha256":%q}`, i+1, i+1, secret(1000+i, 0))
	}
	return sign(t, docKey(1), edgeclaim.DocumentTemplates, version, members, fmt.Sprintf(`"templates":[%s],"keys":[%s]`, templates[1:], keys[1:]))
}

func want(t testing.TB, key string, granted, claims, n uint32) wire.ShareWant {
	t.Helper()
	return wire.ShareWant{Key: keyID(t, key), Granted: granted, Claims: claims, Want: n}
}

// wish asks for shares as a box does, beside whatever else it tells.
func wish(box string, wants ...wire.ShareWant) registry.Item {
	return registry.Item{Names: names(box), Wish: &wire.SharesWant{Type: wire.TypeShares, Box: box, Epoch: epoch(box, 1), Wants: wants}}
}

func shownGrants(grants []edgeclaim.ShareGrant) []string {
	all := []string{}
	for _, g := range grants {
		text := fmt.Sprintf("%s %d claims=%d", g.Key, g.Granted, g.Claims)
		if g.Exhausted {
			text += " exhausted"
		}
		all = append(all, text)
	}
	return all
}

func ask(t testing.TB, db *registry.DB, box string, wants ...wire.ShareWant) []string {
	t.Helper()
	grants, err := db.GrantShares(context.Background(), box, wants)
	if err != nil {
		t.Fatal(err)
	}
	return shownGrants(grants)
}

// testShares: half of an even part at a time, what was granted follows from what
// the box has heard, and an operator can give back what is not used.
func testShares(t *testing.T, open opener) {
	ctx := context.Background()
	db := open(t, "shares", registry.Config{})
	a, b := "box-a", "box-b"
	greet(t, db, hello(a, 1, 0))
	greet(t, db, hello(b, 1, 0))
	if became := publish(t, db, templatesDoc(t, 1, "", 100, -1, 0)); became != "new" {
		t.Fatal(became)
	}
	for i, step := range []struct {
		box  string
		want wire.ShareWant
		got  string
	}{
		{a, want(t, "k-1", 0, 0, 1000), "k-1 25 claims=0"}, // 100 left, two boxes
		{a, want(t, "k-1", 0, 0, 1000), "k-1 25 claims=0"}, // it has not heard
		{a, want(t, "k-1", 25, 20, 1000), "k-1 43 claims=20"},
		{a, want(t, "k-1", 25, 20, 1000), "k-1 43 claims=20"},      // late
		{b, want(t, "k-1", 0, 0, 3), "k-1 3 claims=0"},             // no more than it has use for
		{b, want(t, "k-1", 60, 7, 1), "k-1 60 claims=7 exhausted"}, // it says that it was granted more: it will use it
		{a, want(t, "k-1", 43, 20, 5), "k-1 43 claims=20 exhausted"},
		{a, want(t, "k-1", 43, 43, 5), "k-1 43 claims=43 exhausted"},
		{b, want(t, "k-2", 0, 0, 5), "k-2 1 claims=0 exhausted"}, // one time
		{a, want(t, "k-2", 0, 0, 1), "k-2 0 claims=0 exhausted"},
		{a, want(t, "k-3", 0, 0, 1), ""}, // nothing bounds it
		{a, want(t, "k-9", 0, 0, 1), ""}, // nobody knows it
	} {
		wanted := []string{}
		if step.got != "" {
			wanted = append(wanted, step.got)
		}
		if diff := cmp.Diff(wanted, ask(t, db, step.box, step.want)); diff != "" {
			t.Errorf("%d (-want +got):\n%s", i, diff)
		}
	}
	before, err := db.Generations(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if freed, err := db.ReleaseShares(ctx, b, keyID(t, "k-1")); freed != 53 || err != nil {
		t.Errorf("%d, %v", freed, err)
	}
	if freed, err := db.ReleaseShares(ctx, b, keyID(t, "k-1")); freed != 0 || err != nil {
		t.Errorf("again: %d, %v", freed, err)
	}
	if after, err := db.Generations(ctx); err != nil || after.Shares <= before.Shares || after.Documents != before.Documents {
		t.Errorf("%+v, before %+v, %v", after, before, err)
	}
	stands, more, err := db.SharesFor(ctx, names(a), edgeclaim.KeyID{}, 0)
	if diff := cmp.Diff([]string{"k-1 43 claims=43", "k-2 0 claims=0 exhausted"}, shownGrants(stands)); diff != "" || err != nil || !more.IsZero() {
		t.Errorf("%v, %v (-want +got):\n%s", more, err, diff)
	}
	if first, more, err := db.SharesFor(ctx, names(a), edgeclaim.KeyID{}, 1); len(first) != 1 || more != keyID(t, "k-1") || err != nil {
		t.Errorf("%v, %v, %v", first, more, err)
	}
	if got := ask(t, db, a, want(t, "k-1", 43, 43, 5)); !cmp.Equal(got, []string{"k-1 48 claims=43"}) {
		t.Error(got)
	}
	for _, unknown := range []struct{ box, key string }{{"box-z", "k-1"}, {a, "k-2"}, {a, "k-9"}} {
		if _, err := db.ReleaseShares(ctx, unknown.box, keyID(t, unknown.key)); !errors.Is(err, edgeclaim.ErrNotFound) {
			t.Errorf("%v: %v", unknown, err)
		}
	}
	if _, err := db.GrantShares(ctx, "box-z", nil); !errors.Is(err, edgeclaim.ErrNotFound) {
		t.Error(err)
	}
	var rows []string
	for f := (registry.ShareFilter{Limit: 1}); ; {
		page, err := db.Shares(ctx, f)
		if err != nil || len(page) > 1 {
			t.Fatal(page, err)
		}
		if len(page) == 0 {
			break
		}
		s := page[0]
		rows = append(rows, fmt.Sprint(s.Key, " ", s.Template, " ", s.Box, " ", s.Bound, " ", s.Granted, " ", s.Claims, " ", s.Tenant == tenant(t, tenantID)))
		f.AfterKey, f.AfterBox = s.Key, s.Box
	}
	if diff := cmp.Diff([]string{"k-1 t-1 box-a 100 48 43 true", "k-1 t-1 box-b 100 7 7 true", "k-2 t-2 box-a 1 0 0 true", "k-2 t-2 box-b 1 1 0 true"}, rows); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// testLease: a key's bound is that of the newest document for the box, and no key
// is both shared out and one box's alone.
func testLease(t *testing.T, open opener) {
	db := open(t, "lease", registry.Config{})
	for _, box := range []string{"box-a", "box-b"} {
		greet(t, db, hello(box, 1, 0))
	}
	elsewhere := hello("box-c", 1, 0)
	elsewhere.Site = "plant-8"
	if _, err := db.Greet(context.Background(), wire.Names{Site: "plant-8", Box: "box-c"}, elsewhere); err != nil {
		t.Fatal(err)
	}
	step := func(wanted string, s *signeddoc.Signed) {
		t.Helper()
		if became := publish(t, db, s); became != wanted {
			t.Fatalf("version %d: %s, want %s", s.Document.Version, became, wanted)
		}
	}
	asks := func(box string, granted uint32, wanted ...string) {
		t.Helper()
		if diff := cmp.Diff(append([]string{}, wanted...), ask(t, db, box, want(t, "k-1", granted, 0, 100))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", box, diff)
		}
	}
	step("new", templatesDoc(t, 1, `"site":"plant-7",`, 8))
	asks("box-a", 0, "k-1 2 claims=0") // two boxes of three have it
	asks("box-c", 0)
	step("conflict", templatesDoc(t, 2, `"box_id":"box-a",`, 50)) // k-1 would be box-a's alone, and leased to others
	step("new", templatesDoc(t, 3, "", 20))
	asks("box-a", 2, "k-1 5 claims=0")
	asks("box-c", 0, "k-1 2 claims=0")
	step("new", templatesDoc(t, 4, "", 4)) // less than was granted: what was, stays
	asks("box-b", 0, "k-1 0 claims=0 exhausted")
	asks("box-a", 5, "k-1 5 claims=0 exhausted")
	before, _ := db.Generations(context.Background())
	step("new", templatesDoc(t, 5, "", 9))
	if after, _ := db.Generations(context.Background()); after.Shares <= before.Shares {
		t.Error("nobody hears that there may be more")
	}
	asks("box-b", 0, "k-1 1 claims=0")
	asks("box-b", 1, "k-1 2 claims=0 exhausted")
	asks("box-b", math.MaxUint32, fmt.Sprintf("k-1 %d claims=0 exhausted", uint32(math.MaxUint32)))

	alone := open(t, "lease of one box", registry.Config{})
	greet(t, alone, hello("box-a", 1, 0))
	if became := []string{publish(t, alone, templatesDoc(t, 1, `"box_id":"box-a",`, 5)), publish(t, alone, templatesDoc(t, 2, `"box_id":"box-b",`, 5))}; !cmp.Equal(became, []string{"new", "conflict"}) {
		t.Error(became)
	}
	if got := ask(t, alone, "box-a", want(t, "k-1", 0, 0, 1)); len(got) != 0 {
		t.Errorf("of a key that nobody else has: %v", got)
	}
	if became := publish(t, alone, templatesDoc(t, 3, "", 5)); became != "new" { // it takes the place of the other
		t.Error(became)
	}
}

// testClaims: what a box has made is counted by records and by pages, each claim
// once, and told with its share: in the transaction of the ask, too.
func testClaims(t *testing.T, open opener) {
	db := open(t, "claims", registry.Config{})
	a := "box-a"
	greet(t, db, hello(a, 1, 100))
	publish(t, db, templatesDoc(t, 1, "", 100))
	counted := func(items ...registry.Item) uint32 {
		t.Helper()
		items = append(items, wish(a, want(t, "k-1", 100, 0, 1)))
		results := apply(t, db, items...)
		shares := results[len(results)-1].Shares
		if len(shares) != 1 || shares[0].Granted != 100 {
			t.Fatalf("%+v", shares)
		}
		return shares[0].Claims
	}
	if got := counted(prov(t, a, 1, 2, provisioned(t, 1, 1, 1), provisioned(t, 2, 2, 1))); got != 2 {
		t.Error(got)
	}
	if got := counted(prov(t, a, 1, 2, provisioned(t, 1, 1, 1), provisioned(t, 2, 2, 1))); got != 2 {
		t.Errorf("told again: %d", got)
	}
	if got := counted(prov(t, a, 3, 4, rotated(t, 3, 1, 1, 2, 0), released(t, 4, 2))); got != 2 {
		t.Errorf("rotated and released: %d", got)
	}
	if got := counted(prov(t, a, 5, 5, provisioned(t, 5, 2, 2))); got != 3 {
		t.Errorf("claimed anew: %d", got)
	}
	third := row(t, 3, 1)
	third.Key, third.ClaimedAt = keyID(t, "k-1"), now
	moved := row(t, 1, 2) // as the box has it: the credential is rotated, the claim is the same
	moved.Key, moved.Credential.Hash = keyID(t, "k-1"), secret(1, 3)
	claimed, _, err := db.Held(context.Background(), a, edgeclaim.DeviceID{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	for i := range claimed {
		if claimed[i].ID == moved.ID {
			moved.ClaimedAt = claimed[i].ClaimedAt
		}
	}
	if got := counted(pageOf(a, "s1", 1, true, third, moved)); got != 4 {
		t.Errorf("in a page: %d", got)
	}
	if got := counted(pageOf(a, "s2", 1, true, third), prov(t, a, 6, 6, provisioned(t, 6, 3, 1))); got != 4 {
		t.Errorf("in a page, and then in a record: %d", got)
	}
	if shares := apply(t, db, wish(a, want(t, "k-1", 100, 9, 1)))[0].Shares; shares[0].Claims != 9 {
		t.Errorf("by the box's own word: %+v", shares)
	}
	if shares := apply(t, db, registry.Item{Names: names("box-z"), Wish: wish("box-z").Wish}); shares[0].Refused == nil {
		t.Error("a box that never said hello")
	}
}

// shareBox is a box that wants to make devices, as naively as can be.
type shareBox struct {
	name            string
	granted, claims uint32
	isGone          bool
	answers         []edgeclaim.ShareGrant // on their way: lost, late or twice
	asks            []wire.ShareWant       // likewise
}

// TestSharesModel: boxes ask and are answered in any order, over two registries
// on one database; what is asked or answered is lost, repeated or late. Over all
// boxes no more devices are made than the key is for, and none is held back for
// ever.
func TestSharesModel(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		dbs := []*registry.DB{open(t, "shares model", registry.Config{}), open(t, "shares model", registry.Config{})}
		if driver, _ := registry.Source(dbs[0]); testing.Short() && driver == "pgx" {
			t.Skip("the same statements as with SQLite, and ten times as long")
		}
		rapid.Check(t, func(r *rapid.T) {
			quiet := &keeper{TB: t}
			defer quiet.end()
			emptyDocuments(quiet, dbs[0])
			bound := uint32(rapid.IntRange(1, 60).Draw(r, "bound"))
			boxes := make([]*shareBox, rapid.IntRange(1, 4).Draw(r, "boxes"))
			for i := range boxes {
				boxes[i] = &shareBox{name: fmt.Sprint("box-", i)}
				greet(quiet, dbs[0], hello(boxes[i].name, 1, 0))
			}
			publish(quiet, dbs[1], templatesDoc(quiet, 1, "", int(bound)))
			sums := func() (granted, claims uint32) {
				for _, b := range boxes {
					claims += b.claims
				}
				rows, err := dbs[0].Shares(context.Background(), registry.ShareFilter{Key: keyID(quiet, "k-1")})
				if err != nil {
					r.Fatal(err)
				}
				for _, s := range rows {
					granted += s.Granted
				}
				return granted, claims
			}
			for range rapid.IntRange(1, 60).Draw(r, "steps") {
				b := rapid.SampledFrom(boxes).Draw(r, "box")
				b.step(quiet, r, rapid.SampledFrom(dbs).Draw(r, "registry"))
				if granted, claims := sums(); granted > bound || claims > bound {
					r.Fatalf("%d granted and %d made, of %d", granted, claims, bound)
				}
			}
			// Healed, whoever is there can make all that is left.
			for range 10 * int(bound) {
				for _, b := range boxes {
					if b.isGone {
						continue
					}
					b.hear(b.send(quiet, dbs[0], wire.ShareWant{Key: keyID(quiet, "k-1"), Granted: b.granted, Claims: b.claims, Want: 5}))
					b.claims = b.granted
				}
			}
			if granted, _ := sums(); granted != bound && !allGone(boxes) {
				r.Fatalf("%d granted in the end, of %d", granted, bound)
			}
		})
	})
}

// TestSharesAtOnce: boxes ask through two registries at once, and never hear the
// answers of the others.
func TestSharesAtOnce(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		const bound, rounds = 100, 20
		dbs := []*registry.DB{open(t, "at once", registry.Config{}), open(t, "at once", registry.Config{})}
		publish(t, dbs[0], templatesDoc(t, 1, "", bound))
		granted := make([]uint32, 4)
		for i := range granted {
			greet(t, dbs[0], hello(fmt.Sprint("box-", i), 1, 0))
		}
		key := keyID(t, "k-1")
		var all sync.WaitGroup
		for i := range granted {
			all.Go(func() {
				for range rounds {
					grants, err := dbs[i%len(dbs)].GrantShares(context.Background(), fmt.Sprint("box-", i), []wire.ShareWant{{Key: key, Granted: granted[i], Want: 7}})
					if err != nil || len(grants) != 1 {
						t.Error(grants, err)
						return
					}
					granted[i] = grants[0].Granted
				}
			})
		}
		all.Wait()
		sum := uint32(0)
		for _, n := range granted {
			sum += n
		}
		if sum != bound {
			t.Errorf("%v granted, %d in all, of %d", granted, sum, bound)
		}
	})
}

func allGone(boxes []*shareBox) bool {
	for _, b := range boxes {
		if !b.isGone {
			return false
		}
	}
	return true
}

// step is one thing that happens to a box.
func (b *shareBox) step(t testing.TB, r *rapid.T, db *registry.DB) {
	if b.isGone {
		return
	}
	switch rapid.SampledFrom([]string{"ask", "ask", "ask", "repeat", "late", "claim", "claim", "gone"}).Draw(r, "what") {
	case "ask":
		ask := wire.ShareWant{Key: keyID(t, "k-1"), Granted: b.granted, Claims: b.claims, Want: uint32(rapid.IntRange(1, 40).Draw(r, "want"))}
		b.asks = append(b.asks, ask)
		b.answers = append(b.answers, b.send(t, db, ask))
	case "repeat": // an old ask comes late, or twice
		if len(b.asks) > 0 {
			b.answers = append(b.answers, b.send(t, db, rapid.SampledFrom(b.asks).Draw(r, "ask")))
		}
	case "late": // an answer comes; the others are lost, or come later
		if len(b.answers) > 0 {
			b.hear(rapid.SampledFrom(b.answers).Draw(r, "answer"))
		}
	case "claim":
		if b.claims < b.granted {
			b.claims++
		}
	case "gone":
		if rapid.IntRange(0, 5).Draw(r, "gone") > 0 {
			return
		}
		// What it made it has told; the rest nobody will make.
		b.send(t, db, wire.ShareWant{Key: keyID(t, "k-1"), Granted: b.granted, Claims: b.claims, Want: 1})
		b.isGone = true
		if _, err := db.ReleaseShares(context.Background(), b.name, keyID(t, "k-1")); err != nil && !errors.Is(err, edgeclaim.ErrNotFound) {
			r.Fatal(err)
		}
	}
}

func (b *shareBox) send(t testing.TB, db *registry.DB, ask wire.ShareWant) edgeclaim.ShareGrant {
	t.Helper()
	grants, err := db.GrantShares(context.Background(), b.name, []wire.ShareWant{ask})
	if err != nil || len(grants) != 1 {
		t.Fatal(grants, err)
	}
	return grants[0]
}

// hear takes an answer as a box does: nothing in it lowers anything.
func (b *shareBox) hear(g edgeclaim.ShareGrant) {
	b.granted, b.claims = max(b.granted, g.Granted), max(b.claims, g.Claims)
}

// emptyDocuments makes a database forget its boxes, documents and shares.
func emptyDocuments(t testing.TB, db *registry.DB) {
	t.Helper()
	empty(t, db)
	look := raw(t, db)
	defer look.Close()
	for _, table := range []string{"documents", "document_keys", "shares", "box_documents", "revoked_devices", "revoked_hardware", "swaps"} {
		if _, err := look.Exec("DELETE FROM " + table); err != nil {
			t.Fatal(err)
		}
	}
}
