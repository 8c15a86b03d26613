package store_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	bolt "go.etcd.io/bbolt"

	"edgeclaim"
	"edgeclaim/store"
)

// TestMigrationFromVersion4 opens a registry that version 4 of the program left:
// 40 devices, board-1 swapped for "other", board-2 released, board-3 revoked; a
// one-time key used up by board-39, a denial, two rows of a disabled template's
// manifest, a command; 11 of 41 records acknowledged.
func TestMigrationFromVersion4(t *testing.T) {
	cfg := config(t)
	unpack(t, cfg, "registry-v4.db.gz")
	db, err := store.Open(cfg)
	noErr(t, err)
	ctx := t.Context()
	k := key(t, "key-1", "template-1")
	for life := range 2 {
		equal(t, "set aside", db.Info().SetAside, "")
		devices := must(db.Devices(ctx, edgeclaim.DeviceID{}, 100))(t)
		equal(t, "devices", len(devices), 40)
		for n, want := range []edgeclaim.DeviceStatus{"active", "released", "released", "revoked", "active"} {
			if d := devices[n]; d.Status != want || d.Tags != nil {
				t.Errorf("life %d: %+v", life, d)
			}
		}
		for n, tpl := range must(db.Templates(ctx))(t) {
			want := template(t, fmt.Sprint("template-", n+1))
			if n > 0 {
				want.OneTime, want.AllowList = n == 1, n == 2
			}
			if n == 2 {
				want.Status = edgeclaim.TemplateDisabled
			}
			equal(t, "template", fmt.Sprintf("%+v", tpl), fmt.Sprintf("%+v", want))
		}
		used := must(db.Key(ctx, key(t, "key-2", "x").ID))(t)
		if used.Status != edgeclaim.KeyUsed || used.Claims != 1 || used.Granted != 0 || used.UsedBy != deviceID(t, 39) {
			t.Errorf("life %d: key %+v", life, used)
		}
		equal(t, "manifest", listed(t, db, "template-3"), "listed-1=pump listed-2=")
		equal(t, "denied", who(t, db, k, "bad"), "operator")
		equal(t, "swapped in", who(t, db, k, "other"), deviceID(t, 1))
		equal(t, "swapped out", who(t, db, k, board(1)), "swapped")
		if s := stats(t, db, edgeclaim.LaneProv); s.Appended != 41 || s.Acked != 11 {
			t.Errorf("life %d: stats %+v", life, s)
		}
		equal(t, "documents", len(must(db.Documents(ctx))(t)), 6*life)
		if life == 0 {
			for _, kind := range edgeclaim.DocumentTypes() {
				noErr(t, appliers(t, db)[kind](document(t, kind, 1)))
			}
		}
		checkAndClose(t, db)
		db, err = store.Open(cfg)
		noErr(t, err)
	}
	checkAndClose(t, db)
}

// crashDocument is version n of each kind of document in the crash test. What it
// brings says its version: 40 devices of which every second changes its fate.
func crashDocument(tb testing.TB, db *store.DB, kind edgeclaim.DocumentType, n int) error {
	ctx := context.Background()
	h := document(tb, kind, uint64(n))
	text := textOf(h)
	version := strconv.Itoa(n)
	var err error
	switch kind {
	case edgeclaim.DocumentSigner:
		err = db.ApplySigner(ctx, h, text)
	case edgeclaim.DocumentRevocations:
		r := &edgeclaim.Revocations{Reinstated: &edgeclaim.Reinstations{}}
		for i := range 40 {
			if i%2 == n%2 {
				r.Hardware = append(r.Hardware, hardware(tb, board(i)))
			} else {
				r.Reinstated.Hardware = append(r.Reinstated.Hardware, hardware(tb, board(i)))
			}
		}
		_, err = db.ApplyRevocations(ctx, h, text, r, voiding)
	case edgeclaim.DocumentTemplates:
		one := ruled(tb, "t-"+strconv.Itoa(n%10))
		one.Name = version
		_, err = db.ApplyTemplates(ctx, h, text, &edgeclaim.Templates{
			Templates: []edgeclaim.Template{one}, Keys: []edgeclaim.TemplateKey{ruledKey(tb, "k-"+strconv.Itoa(n%10), one.ID.String(), "")},
		}, true, moment)
	case edgeclaim.DocumentProfiles:
		err = db.ApplyProfiles(ctx, h, text, &edgeclaim.Profiles{Profiles: []edgeclaim.Profile{{ID: "p", Groups: []string{version}}}})
	case edgeclaim.DocumentAliases:
		var c calls
		_, err = db.ApplyAliases(ctx, h, text, &edgeclaim.Aliases{Aliases: []edgeclaim.Alias{aliasOf(tb, "given-"+version, platformID(tb, n), "")}}, c.change)
	case edgeclaim.DocumentAllowList:
		err = db.ApplyAllowList(ctx, h, text, &edgeclaim.AllowList{
			Template: template(tb, "template-1").ID, Rows: []edgeclaim.ManifestRow{rowOf(tb, "row-"+version, version)},
		})
	}
	return err
}

// documentsDir, when set, makes the test binary the child of the crash test of
// documents.
const documentsDir = "EDGECLAIM_STORE_DOCUMENTS_DIR"

// documentsChild applies one version after the other until it is killed, and says
// each that the store has acknowledged.
func documentsChild(dir string) int {
	cfg := store.Defaults()
	cfg.Dir = dir
	db, err := store.Open(cfg)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	kept, err := db.Documents(context.Background())
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	from := 1
	for _, h := range kept {
		from = max(from, int(h.Version)+1)
	}
	for n := from; ; n++ {
		for _, kind := range edgeclaim.DocumentTypes() {
			if err := crashDocument(childTB{}, db, kind, n); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
			fmt.Println(kind, n)
		}
	}
}

// childTB lets the helpers of tests be used by a child, where nothing fails.
type childTB struct{ testing.TB }

func (childTB) Helper()           {}
func (childTB) Fatal(args ...any) { fmt.Fprintln(os.Stderr, args...) }

// TestCrashLeavesDocumentsWhole kills a process that applies documents: what it
// acknowledged is there, and of each document all is there or nothing.
func TestCrashLeavesDocumentsWhole(t *testing.T) {
	rounds := 12
	if testing.Short() {
		rounds = 3
	}
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	fill(t, db, always(stock(t, db)), 0, 40, 8)
	checkAndClose(t, db)
	for round := range rounds {
		acked := documentsUntilKilled(t, cfg.Dir, 30+17*round)
		noErr(t, store.CheckFile(t.Context(), cfg.Dir))
		db, err := store.Open(cfg)
		noErr(t, err)
		verifyDocuments(t, db, acked)
		checkAndClose(t, db)
	}
}

func documentsUntilKilled(t *testing.T, dir string, steps int) map[edgeclaim.DocumentType]uint64 {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), documentsDir+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	noErr(t, err)
	noErr(t, child.Start())
	acked, seen := map[edgeclaim.DocumentType]uint64{}, 0
	for lines := bufio.NewScanner(out); lines.Scan(); {
		kind, number, _ := strings.Cut(lines.Text(), " ")
		n, err := strconv.Atoi(number)
		if err != nil {
			continue // cut short by the kill
		}
		acked[edgeclaim.DocumentType(kind)] = uint64(n)
		if seen++; seen == steps {
			noErr(t, child.Process.Kill())
		}
	}
	_ = child.Wait() // it was killed
	if seen < steps {
		t.Fatalf("the child ended by itself after %d steps", seen)
	}
	return acked
}

func verifyDocuments(t *testing.T, db *store.DB, acked map[edgeclaim.DocumentType]uint64) {
	t.Helper()
	equal(t, "set aside", db.Info().SetAside, "")
	held := map[edgeclaim.DocumentType]int{}
	for _, h := range must(db.Documents(t.Context()))(t) {
		held[h.ID.Type] = int(h.Version)
		if h.Version < acked[h.ID.Type] {
			t.Errorf("%s: version %d was acknowledged, %d is there", h.ID, acked[h.ID.Type], h.Version)
		}
		text := must(db.DocumentText(t.Context(), h.ID))(t)
		equal(t, "text", string(text), string(textOf(document(t, h.ID.Type, h.Version))))
	}
	k := key(t, "key-1", "template-1")
	for i := range 40 {
		d := must(db.Device(t.Context(), deviceID(t, i)))(t)
		n := held[edgeclaim.DocumentRevocations]
		if n > 0 && (d.Status == edgeclaim.DeviceRevoked) != (i%2 == n%2) {
			t.Errorf("board %d is %s by version %d", i, d.Status, n)
		}
	}
	if n := held[edgeclaim.DocumentTemplates]; n > 0 {
		id := "t-" + strconv.Itoa(n%10)
		tpl := must(db.Template(t.Context(), template(t, id).ID))(t)
		if tpl.Name != strconv.Itoa(n) || tpl.Status != edgeclaim.TemplateActive || keyStatus(t, db, key(t, "k-"+strconv.Itoa(n%10), id).ID) != edgeclaim.KeyActive {
			t.Errorf("version %d: template %+v", n, tpl)
		}
	}
	if n := held[edgeclaim.DocumentProfiles]; n > 0 {
		got := db.Inherited(tenant(t), "p")
		if got.Version != uint64(n) || got.Profile.Groups[0] != strconv.Itoa(n) {
			t.Errorf("version %d: profile %+v", n, got)
		}
	}
	if n := held[edgeclaim.DocumentAliases]; n > 0 {
		equal(t, "alias", who(t, db, k, "given-"+strconv.Itoa(n)), platformID(t, n))
		equal(t, "no later one", who(t, db, k, "given-"+strconv.Itoa(n+1)), derived(t, "given-"+strconv.Itoa(n+1), 1))
	}
	if n := held[edgeclaim.DocumentAllowList]; n > 0 {
		equal(t, "rows", listed(t, db, "template-1"), fmt.Sprintf("row-%d=%d", n, n))
	}
}

// TestCheckFindsWhatDocumentsDoNotAgreeOn: each sum and pair, broken one by one.
func TestCheckFindsWhatDocumentsDoNotAgreeOn(t *testing.T) {
	cfg := config(t)
	db, err := store.Open(cfg)
	noErr(t, err)
	k := stock(t, db)
	fill(t, db, always(k), 0, 4, 1)
	for _, kind := range edgeclaim.DocumentTypes() {
		noErr(t, crashDocument(t, db, kind, 1))
	}
	giveIDs(t, db, 2, aliasOf(t, board(0), platformID(t, 1), ""))
	_, err = revoke(t, db, 2, named([]edgeclaim.DeviceID{deviceID(t, 2)}, []edgeclaim.HardwareID{hardware(t, board(1)), hardware(t, board(3))}, k.Hash))
	wantRefusal(t, err, edgeclaim.DocumentShrunk)
	checkAndClose(t, db)
	sound := must(os.ReadFile(registry(cfg)))(t)

	first := func(bucket string) func(*bolt.Tx) ([]byte, []byte) {
		return func(tx *bolt.Tx) ([]byte, []byte) { return tx.Bucket([]byte(bucket)).Cursor().First() }
	}
	remove := func(bucket string) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error {
			k, _ := first(bucket)(tx)
			return tx.Bucket([]byte(bucket)).Delete(k)
		}
	}
	spoil := func(bucket string) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error {
			k, _ := first(bucket)(tx)
			return tx.Bucket([]byte(bucket)).Put(bytesOf(k), []byte{0xff})
		}
	}
	double := func(bucket string, tail string) func(*bolt.Tx) error {
		return func(tx *bolt.Tx) error {
			k, v := first(bucket)(tx)
			return tx.Bucket([]byte(bucket)).Put(append(bytesOf(k), tail...), bytesOf(v))
		}
	}
	breaks := map[string]func(*bolt.Tx) error{
		"a row too many":     double("expected", "x"),
		"a profile too many": double("profiles", "x"),
		"a board too many":   double("revoked", "x"),
		"an alias too many":  double("waiting_aliases", "x"),
		"a list too many":    double("documents", "x"),
		"a text too many":    double("document_texts", "x"),
		"rows of nobody":     double("document_rows", "x"),
		"a revoked device": func(tx *bolt.Tx) error { // is active, as one that is not named
			named, active := ascendingKey(2), ascendingKey(1)
			devices := tx.Bucket([]byte("devices"))
			id := bytesOf(devices.Get(named))[:16]
			return devices.Put(named, append(id, strings.ReplaceAll(string(devices.Get(active))[16:], "board-0", "board-1")...))
		},
	}
	for _, bucket := range []string{"documents", "document_texts", "document_rows", "profiles", "revoked", "expected", "waiting_aliases"} {
		breaks[bucket+" missing"], breaks[bucket+" unreadable"] = remove(bucket), spoil(bucket)
	}
	delete(breaks, "document_texts unreadable") // it is the signer's, and whole for the store
	for name, change := range breaks {
		t.Run(name, func(t *testing.T) {
			cfg := config(t)
			noErr(t, os.WriteFile(filepath.Join(cfg.Dir, "registry.db"), sound, 0o600))
			noErr(t, store.CheckFile(t.Context(), cfg.Dir))
			edit(t, cfg, change)
			if err := store.CheckFile(t.Context(), cfg.Dir); err == nil {
				t.Error("the check finds nothing")
			} else if errors.Is(err, store.ErrLocked) {
				t.Error(err)
			}
		})
	}
}

func bytesOf(b []byte) []byte { return append([]byte(nil), b...) }
