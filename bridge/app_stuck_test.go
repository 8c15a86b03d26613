package bridge_test

import (
	"testing"
	"time"

	"edgeclaim"
	"edgeclaim/bridge/wire"
)

// TestAppOneLaneStuck: what was lost on its way is told again after the ack
// timeout, though other lanes get on all the while: nobody upstream knows that
// it is missing, and no more of it is sent.
func TestAppOneLaneStuck(t *testing.T) {
	for _, lane := range []edgeclaim.Lane{edgeclaim.LaneEvt, edgeclaim.LaneTel} {
		t.Run(string(lane), func(t *testing.T) {
			a := newApplication(t, nil)
			a.onBatch = func(a *application, b *wire.Batch) bool { return b.Lane == lane && a.connections() < 2 }
			m := newMemory()
			m.add(lane, 300)
			conf := appConf(a)
			conf.AckTimeout = 200 * time.Millisecond
			startWith(t, conf, m.withTelemetry())
			late := time.Now().Add(patience)
			for claim := uint64(1); a.mark(lane) < 300; claim++ {
				if time.Now().After(late) {
					t.Fatalf("upstream is at %d, after %d claims", a.mark(lane), claim)
				}
				m.add(edgeclaim.LaneProv, 1)
				m.awaitAcked(t, edgeclaim.LaneProv, claim)
			}
			a.check(t, lane, 300, 0)
		})
	}
}

// mark is how far a lane is applied.
func (a *application) mark(lane edgeclaim.Lane) uint64 {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.marks[epoch+string(lane)]
}
