package hub_test

import (
	"fmt"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"edgeclaim/bridge/internal/client"
	"edgeclaim/bridge/wire"
	"edgeclaim/internal/mosquitto"
)

// BenchmarkHub is from a box's publish to its acknowledgement: Mosquitto, the
// hub and SQLite with its fsyncs. What boxes encode is made before.
func BenchmarkHub(b *testing.B) {
	for _, boxes := range []int{1, 20} {
		b.Run(fmt.Sprintf("boxes=%d", boxes), func(b *testing.B) { benchmarkHub(b, boxes) })
	}
}

func benchmarkHub(b *testing.B, boxes int) {
	const size = 100 // events that make a batch of some 90 kB
	broker := mosquitto.Start(b, mosquitto.Options{}).Addr()
	r := start(b, broker, b.TempDir())
	batches := max(1, b.N/size/boxes)
	all := make([]*box, boxes)
	told := make([][][]byte, boxes)
	for i := range all {
		all[i] = newBox(b, broker, fmt.Sprintf("box-%d", i), r.public())
		all[i].hello()
		for n := range uint64(batches) {
			told[i] = append(told[i], all[i].encode(all[i].batch(prov, n*size+1, (n+1)*size)))
		}
	}
	if n := len(told[0][0]); n > wire.MaxMessage {
		b.Fatalf("a batch of %d bytes", n)
	}
	b.ResetTimer()
	begun := time.Now()
	var group errgroup.Group
	for i, box := range all {
		group.Go(func() error {
			credit, sent, acked := uint64(4096), uint64(0), uint64(0)
			for acked < uint64(batches)*size {
				for sent < uint64(batches)*size && sent-acked+size <= credit {
					box.conn.Publish(client.Message{Topic: box.names.Up("prov"), Payload: told[i][sent/size]})
					sent += size
				}
				a := next[*wire.Ack](box)
				acked, credit = max(acked, a.Upto[prov]), uint64(*a.Credit)
				if len(a.Nack) > 0 {
					sent = acked
				}
			}
			return nil
		})
	}
	_ = group.Wait()
	records := float64(boxes * batches * size)
	b.ReportMetric(records/time.Since(begun).Seconds(), "records/s")
	b.ReportMetric(0, "ns/op")
	r.stop()
}
