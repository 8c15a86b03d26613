package bridge_test

import (
	"fmt"
	"strings"
	"testing"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// TestAppLargeRecords: a window of the largest records does not fit into memory,
// so that fewer are on their way at once; and a claim finds room all the same.
func TestAppLargeRecords(t *testing.T) {
	for _, lane := range []edgeclaim.Lane{edgeclaim.LaneEvt, edgeclaim.LaneTel} {
		t.Run(string(lane), func(t *testing.T) {
			a := newApplication(t, nil)
			came := 0
			a.onBatch = func(a *application, b *wire.Batch) bool {
				if b.Lane != lane {
					return false
				}
				came++
				return true
			}
			m := newMemory()
			const records, metrics, window = 40, 15, 256
			const bytes = metrics * edgeclaim.MaxMetricText
			var values []string
			for i := range metrics {
				values = append(values, fmt.Sprintf("%q:%q", fmt.Sprint(i), strings.Repeat("x", edgeclaim.MaxMetricText)))
			}
			for i := range uint64(records) {
				r, name := newPoint(i+1), "values"
				if lane == edgeclaim.LaneEvt {
					r.Type, name = edgeclaim.TypeDeviceEvent, "event"
				}
				r.Data = fmt.Appendf(nil, `{"device_id":"%s","tenant_id":"%s","%s":{%s}}`, r.Device, tenant, name, strings.Join(values, ","))
				m.append(lane, r)
			}
			conf := appConf(a)
			conf.Window, conf.AckTimeout = window, patience
			startWith(t, conf, m.withTelemetry())
			const most = window * 4096 / bytes
			a.await(t, "as many as may be", func() bool { return came >= most })
			m.add(edgeclaim.LaneProv, 1)
			m.awaitAcked(t, edgeclaim.LaneProv, 1)
			a.mu.Lock()
			if came > most+1 {
				t.Errorf("%d on their way at once, want %d", came, most)
			}
			a.mu.Unlock()
			a.do(func() {
				a.onBatch = nil
				again := []wire.Nack{{Lane: lane, Sequence: 1, Code: wire.NackGap}}
				a.say(wire.KindAck, &wire.Ack{Head: a.head(wire.TypeAck), Nack: again})
			})
			m.awaitAcked(t, lane, records)
		})
	}
}
