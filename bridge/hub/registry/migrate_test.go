package registry_test

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/bridge/wire"
)

// TestMigrate opens databases that the version before made: all that they say is
// still said, and what is new works.
func TestMigrate(t *testing.T) {
	ctx := context.Background()
	each(t, func(t *testing.T, open opener) {
		db := open(t, "migrate", registry.Config{})
		driver, _ := registry.Source(db)
		file := "v1-sqlite.sql"
		look := raw(t, db)
		defer look.Close()
		tables := []string{"boxes", "epochs", "marks", "holes", "records", "devices", "holdings", "conflicts", "audit_heads", "states", "commands", "meta",
			"documents", "document_keys", "revoked_devices", "revoked_hardware", "box_documents", "shares", "swaps", "expected"}
		if driver == "pgx" {
			file = "v1-postgres.sql"
		}
		for _, table := range tables {
			if _, err := look.Exec("DROP TABLE " + table); err != nil {
				t.Fatal(err)
			}
		}
		old, err := os.ReadFile(filepath.Join("testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := look.Exec(string(old)); err != nil {
			t.Fatal(err)
		}
		db = open(t, "migrate", registry.Config{})
		if again := open(t, "migrate", registry.Config{}); again.ID() != db.ID() || len(db.ID()) != 26 {
			t.Errorf("ids %q and %q", db.ID(), again.ID())
		}
		want := []string{"valid by box-a", "valid by box-b", "released", "valid by box-a", "valid by box-b", "valid by box-b"}
		got := []string{verify(t, db, 1, 1), verify(t, db, 1, 2), verify(t, db, 2, 1), verify(t, db, 3, 1), verify(t, db, 4, 1), verify(t, db, 5, 1)}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("(-want +got):\n%s", diff)
		}
		boxes, err := db.Boxes(ctx, registry.BoxFilter{})
		if err != nil || len(boxes) != 2 || boxes[0].Audit != nil || boxes[0].Lanes[edgeclaim.LaneProv].Upto != 5 {
			t.Errorf("%+v, %v", boxes, err)
		}
		held, _, err := db.Held(ctx, "box-b", edgeclaim.DeviceID{}, 0)
		if err != nil || len(held) != 3 || !held[0].Previous.Hash.IsZero() || !held[0].Credential.NotAfter.IsZero() {
			t.Errorf("%+v, %v", held, err)
		}
		made, err := db.Shares(ctx, registry.ShareFilter{Box: "box-b"})
		if err != nil || len(made) != 1 || made[0].Claims != 3 || made[0].Granted != 0 {
			t.Errorf("%+v, %v", made, err)
		}
		if bound, err := db.SigningKey(ctx); err != nil || bound != "" {
			t.Errorf("bound to %q, %v", bound, err)
		}
		apply(t, db, prov(t, "box-a", 6, 7, rotated(t, 6, 3, 1, 2, time.Hour), provisioned(t, 7, 6, 1)), batch(t, "box-a", 1, edgeclaim.LaneEvt, 3, 3, head(3, 1, "aa")))
		if got := []string{verifyOverlap(t, db, 3, 1), verify(t, db, 3, 2), verify(t, db, 6, 1)}; !cmp.Equal(got, []string{"overlap", "valid by box-a", "valid by box-a"}) {
			t.Error(got)
		}
		apply(t, db, states("box-a", "a", 1, true, wire.DeviceState{DeviceState: stateOf(t, 6, true, 1)}), batch(t, "box-a", 1, edgeclaim.LaneTel, 1, 1, point(t, 1, 6)))
		if got := shown(presenceOf(t, db, 6)); got != "online since 1" {
			t.Error(got)
		}
		if _, err := db.GiveCommand(ctx, order(t, 6, "c")); err != nil || !cmp.Equal(due(t, db), []string{"c to box-a"}) {
			t.Errorf("%v, %v", due(t, db), err)
		}
	})
}
