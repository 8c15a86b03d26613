package registry_test

import (
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
)

// modelBox is a box with one device, as naively as can be: what lets the device
// in there is what has to let it in at the hub, once the box has told all.
type modelBox struct {
	name    string
	status  edgeclaim.DeviceStatus // empty: never claimed
	current int                    // the credential's number; 0 for none
	before  int                    // the one before it, 0 for none
	isOver  bool                   // its overlap has ended
	next    int                    // number of the next credential
	records []line
	told    int // how many of them
	page    uint64
}

const (
	inForce  = time.Hour
	hasEnded = -time.Hour
)

// do is one thing that happens to the device.
func (b *modelBox) do(t testing.TB, r *rapid.T) {
	sequence := uint64(len(b.records) + 1)
	switch what := rapid.SampledFrom([]string{"claim", "rotate", "rotate", "rotate hard", "revoke", "release", "suspect"}).Draw(r, b.name); {
	case what == "claim" && b.status != edgeclaim.DeviceActive && b.status != edgeclaim.DeviceRevoked:
		b.status, b.current, b.before = edgeclaim.DeviceActive, b.next, 0
		b.records = append(b.records, provisioned(t, sequence, 1, b.current))
		b.next++
	case (what == "rotate" || what == "rotate hard") && b.status == edgeclaim.DeviceActive:
		b.before, b.current, b.isOver = b.current, b.next, what == "rotate hard"
		b.next++
		overlap := inForce
		if b.isOver {
			overlap = hasEnded
		}
		b.records = append(b.records, rotated(t, sequence, 1, b.before, b.current, overlap))
	case what == "revoke" && b.status == edgeclaim.DeviceActive:
		b.status, b.current, b.before = edgeclaim.DeviceRevoked, 0, 0
		b.records = append(b.records, revoked(t, sequence, 1))
	case what == "release" && b.status != "":
		b.status, b.current, b.before = edgeclaim.DeviceReleased, 0, 0
		b.records = append(b.records, released(t, sequence, 1))
	case what == "suspect" && b.status == edgeclaim.DeviceActive:
		b.records = append(b.records, suspected(t, sequence, 1, edgeclaim.SuspicionTakeover))
	}
}

// row is the device as the box has it in its registry.
func (b *modelBox) row(t testing.TB) edgeclaim.Device {
	if b.current == 0 {
		d := row(t, 1, 1)
		d.Status, d.Credential = b.status, edgeclaim.Credential{}
		return d
	}
	if b.before == 0 {
		return row(t, 1, b.current)
	}
	overlap := inForce
	if b.isOver {
		overlap = hasEnded
	}
	return rotatedRow(t, 1, b.before, b.current, overlap)
}

// TestModelCredentials: two boxes claim, rotate, revoke and release one device,
// and tell of it in records and in pages, which may be ahead of the records.
// Whenever a box has told all, what it lets in is let in, and nothing else of it.
func TestModelCredentials(t *testing.T) {
	each(t, func(t *testing.T, open opener) {
		db := open(t, "credentials", registry.Config{})
		if driver, _ := registry.Source(db); testing.Short() && driver == "pgx" {
			t.Skip("the same statements as with SQLite, and ten times as long")
		}
		rapid.Check(t, func(r *rapid.T) {
			quiet := &keeper{TB: t}
			defer quiet.end()
			empty(quiet, db)
			boxes := []*modelBox{{name: "box-a", next: 1}, {name: "box-b", next: 101}}
			for _, b := range boxes {
				greet(quiet, db, hello(b.name, 1, 1000))
			}
			tell := func(b *modelBox, upto int) {
				if upto > b.told {
					apply(quiet, db, prov(quiet, b.name, uint64(b.told+1), uint64(upto), b.records[b.told:upto]...))
					b.told = upto
				}
			}
			for range rapid.IntRange(1, 25).Draw(r, "steps") {
				b := rapid.SampledFrom(boxes).Draw(r, "box")
				switch rapid.SampledFrom([]string{"do", "do", "do", "tell", "page"}).Draw(r, "step") {
				case "do":
					b.do(quiet, r)
				case "tell":
					tell(b, b.told+rapid.IntRange(0, len(b.records)-b.told).Draw(r, "records"))
				case "page":
					if b.status != "" {
						b.page++
						apply(quiet, db, pageOf(b.name, fmt.Sprint("s", b.page), 1, true, b.row(quiet)))
					}
				}
			}
			for _, b := range boxes {
				tell(b, len(b.records))
			}
			for _, b := range boxes {
				for n := 1 + (b.next-1)/100*100; n < b.next; n++ {
					want := n == b.current || n == b.before && !b.isOver
					got := verifyOverlap(quiet, db, 1, n)
					if isValid := got == "overlap" || got == "valid by "+b.name; isValid != want || (got == "overlap") != (want && n == b.before) {
						r.Fatalf("%s: credential %d is %q; the box has %d, before it %d (over: %v), %s", b.name, n, got, b.current, b.before, b.isOver, b.status)
					}
				}
			}
		})
	})
}
