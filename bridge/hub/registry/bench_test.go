package registry_test

import (
	"context"
	"database/sql"
	"fmt"
	"path/filepath"
	"testing"

	"edgeclaim"
	"edgeclaim/bridge/hub/registry"
	"edgeclaim/internal/postgres"
)

const (
	benchBoxes = 20
	benchBatch = 90
	benchEach  = 2 // batches of a box in one group: some 4 MiB together
)

// BenchmarkApply commits two batches of each of 20 boxes at once. In lane prov
// every record is a new device; in tel each is a point of one of its box's 100
// devices. Its peer keeps the same texts under the same keys in the same
// database, a row a statement, and does nothing else.
func BenchmarkApply(b *testing.B) {
	for _, database := range []string{"sqlite", "postgres"} {
		for _, kind := range []struct {
			lane edgeclaim.Lane
			peer bool
		}{{edgeclaim.LaneProv, false}, {edgeclaim.LaneTel, false}, {edgeclaim.LaneProv, true}, {edgeclaim.LaneTel, true}} {
			b.Run(fmt.Sprintf("database=%s/lane=%s/boxes=%d/batch=%d/peer=%v", database, kind.lane, benchBoxes, benchBatch, kind.peer), func(b *testing.B) {
				peer := kind.peer
				var url string
				if database == "sqlite" {
					url = "sqlite:" + filepath.Join(b.TempDir(), "bench.db")
				} else {
					url = postgres.Start(b).URL()
				}
				db := openAt(b, registry.Config{URL: url})
				for n := range benchBoxes {
					greet(b, db, hello(fmt.Sprintf("box-%d", n), 1, 1<<40))
				}
				var look *sql.DB
				if peer {
					look = raw(b, db)
					look.SetMaxOpenConns(1)
					if database == "sqlite" {
						if _, err := look.Exec("PRAGMA synchronous = FULL"); err != nil {
							b.Fatal(err)
						}
					}
				}
				round := 0
				for b.Loop() {
					b.StopTimer()
					items := benchRound(b, kind.lane, round)
					round++
					b.StartTimer()
					if peer {
						insertPlainly(b, look, database, items)
						continue
					}
					for _, r := range apply(b, db, items...) {
						if r.Applied != benchBatch {
							b.Fatalf("%+v", r)
						}
					}
				}
				b.ReportMetric(float64(b.N*benchBoxes*benchEach*benchBatch)/b.Elapsed().Seconds(), "records/s")
			})
		}
	}
}

func benchRound(b *testing.B, lane edgeclaim.Lane, round int) []registry.Item {
	items := make([]registry.Item, benchBoxes*benchEach)
	for at := range items {
		n := at % benchBoxes
		first := uint64((round*benchEach+at/benchBoxes)*benchBatch + 1)
		lines := make([]line, benchBatch)
		for i := range lines {
			sequence := first + uint64(i)
			if lane == edgeclaim.LaneTel {
				lines[i] = point(b, sequence, n*1_000_000+int(sequence%100))
				continue
			}
			lines[i] = provisioned(b, sequence, n*1_000_000+int(sequence), 1)
		}
		items[at] = batch(b, fmt.Sprintf("box-%d", n), 1, lane, first, first+benchBatch-1, lines...)
	}
	return items
}

func insertPlainly(b *testing.B, db *sql.DB, database string, items []registry.Item) {
	tx, err := db.BeginTx(context.Background(), nil)
	if err != nil {
		b.Fatal(err)
	}
	text := "INSERT INTO records (epoch, lane, sequence, type, device, time, received_at, event) VALUES (?, 1, ?, ?, NULL, 0, 0, ?)"
	if database == "postgres" {
		text = "INSERT INTO records (epoch, lane, sequence, type, device, time, received_at, event) VALUES ($1, 1, $2, $3, NULL, 0, 0, $4)"
	}
	insert, err := tx.Prepare(text)
	if err != nil {
		b.Fatal(err)
	}
	for n, item := range items {
		for i, event := range item.Batch.Events {
			_, err := insert.Exec(n%benchBoxes+1, int64(item.Batch.First)+int64(i), string(edgeclaim.TypeDeviceProvisioned), []byte(event))
			if err != nil {
				b.Fatal(err)
			}
		}
	}
	if err := tx.Commit(); err != nil {
		b.Fatal(err)
	}
}
