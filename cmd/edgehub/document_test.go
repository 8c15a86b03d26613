package main

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/signeddoc"

	"github.com/rogpeppe/go-internal/testscript"
)

// swaps FILE BOX N M… writes the export of a box on which the device of H-N has
// moved to the board H-M, and from it to the next.
func swaps(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) < 4 {
		ts.Fatalf("usage: swaps FILE BOX N M…")
	}
	box := teller{ts: ts, box: args[1]}
	from, err := strconv.Atoi(args[2])
	ts.Check(err)
	device := deviceOf(ts, from)
	box.tell(from, edgeclaim.TypeDeviceProvisioned, `"credential":{"type":"api_key","sha256":%q},%s`, edgeclaim.NewSecret("a").Hash(), claimFacts)
	for _, text := range args[3:] {
		to, err := strconv.Atoi(text)
		ts.Check(err)
		box.record(&edgeclaim.Record{
			Lane: edgeclaim.LaneProv, Type: edgeclaim.TypeDeviceSwapped, Device: device,
			Stamp: edgeclaim.Stamp{Time: time.Unix(1_800_000_000, 0), Clock: edgeclaim.ClockSynced, Boot: "boot"},
			Data: fmt.Appendf(nil, `{"device_id":%q,"tenant_id":%q,"hardware_id":"H-%d","box_id":%q,"site":"plant-7",`+
				`"old_hardware_id":"H-%d","generation":1,"swapped_at":"2026-10-04T09:12:33Z","by":"uid:0"}`, device, tenantID, to, args[1], from),
		})
		from = to
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), box.file(), 0o600))
}

// derived VARIABLE N sets an environment variable to the derived id of H-N.
func derived(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) != 2 {
		ts.Fatalf("usage: derived VARIABLE N")
	}
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	ts.Setenv(args[0], deviceOf(ts, n).String())
}

// Of a document, the boxes that have it, and those that do not and why.
func TestArrivals(t *testing.T) {
	db := openDatabase(t)
	ctx, tenant := t.Context(), someTenant(t)
	d := drafter{db: db, tenant: tenant, now: time.Now()}
	id := edgeclaim.DocumentID{Type: edgeclaim.DocumentRevocations, Tenant: tenant}
	hardware, err := edgeclaim.ParseHardwareID("H-1")
	if err != nil {
		t.Fatal(err)
	}
	drafts, err := d.revocations(ctx, &edgeclaim.Revocations{Hardware: []edgeclaim.HardwareID{hardware}}, &edgeclaim.Reinstations{})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := signeddoc.Sign(signeddoc.NewKey(), drafts[0].payload)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := db.PublishDocument(ctx, signed); err != nil {
		t.Fatal(err)
	}
	for box, report := range map[string]*wire.DocumentReport{
		"box-1": {DocumentID: id, Version: 1, Hash: signed.Hash, Confirmed: true},
		"box-2": {DocumentID: id, Version: 1, Hash: signed.Hash, Stale: true},
		"box-3": {DocumentID: id, Refused: string(edgeclaim.DocumentBadSignature), RefusedVersion: 1},
		"box-4": nil, // it says nothing
	} {
		said := greet(t, db, box)
		if report == nil {
			continue
		}
		err := db.ReportDocuments(ctx, &wire.DocumentsReport{
			Type: wire.TypeDocuments, Box: box, Epoch: said.Epoch, Nonce: said.Nonce, List: "l", Page: 1, Last: true,
			Documents: []wire.DocumentReport{*report},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	come, err := arrivals(ctx, db)
	if want := (arrival{Have: 2, Behind: 2, Refused: 1, Stale: 1}); err != nil || come[documentVersion{id, 1}] != want {
		t.Errorf("%+v, %v, want %+v", come, err, want)
	}
	var states []string
	if err := db.EachBoxDocument(ctx, func(d registry.BoxDocument) error { states = append(states, boxDocumentState(&d)); return nil }); err != nil {
		t.Fatal(err)
	}
	if got, want := strings.Join(states, ", "), "newest, stale, refused, not told"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// greet makes a box known.
func greet(t testing.TB, db *registry.DB, box string) *wire.Hello {
	t.Helper()
	hello := &wire.Hello{
		Type: wire.TypeHello, Versions: []int{1}, Box: box, Site: "plant-7", Epoch: "E" + strings.Repeat("7", 25), Nonce: "AAAAAAAAAAAAAAAAAAAAAA",
		Lanes: map[edgeclaim.Lane]edgeclaim.LaneMarks{edgeclaim.LaneProv: {First: 1}, edgeclaim.LaneEvt: {First: 1}},
		Time:  time.Now().UTC(), Clock: edgeclaim.ClockSynced,
	}
	if _, err := db.Greet(context.Background(), wire.Names{Site: "plant-7", Box: box}, hello); err != nil {
		t.Fatal(err)
	}
	return hello
}
