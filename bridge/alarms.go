package bridge

import (
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"edgeclaim"
)

// alarmEvery is the least time between two lines in the log about one kind of
// alarm: whoever raises them may do so as fast as the line takes it.
const alarmEvery = time.Minute

// alarms counts what must not happen. It is safe for concurrent use.
type alarms struct {
	logger *slog.Logger
	now    func() time.Time

	mu     sync.Mutex
	counts map[edgeclaim.Alarm]*alarm // guarded by mu
}

type alarm struct {
	edgeclaim.AlarmCount
	logged time.Time // monotonic
}

func newAlarms(now func() time.Time, logger *slog.Logger) *alarms {
	if now == nil {
		now = time.Now
	}
	return &alarms{logger: logger, now: now, counts: map[edgeclaim.Alarm]*alarm{}}
}

// raise counts an alarm. Nothing of what raised it is repeated: it may come
// from anybody.
func (a *alarms) raise(kind edgeclaim.Alarm) {
	a.mu.Lock()
	defer a.mu.Unlock()
	count := a.counts[kind]
	if count == nil {
		count = &alarm{AlarmCount: edgeclaim.AlarmCount{Alarm: kind}}
		a.counts[kind] = count
	}
	count.Count++
	count.Last = a.now().UTC()
	if now := time.Now(); count.logged.IsZero() || now.Sub(count.logged) >= alarmEvery {
		count.logged = now
		a.logger.Error("alarm about upstream", "alarm", string(kind), "count", count.Count)
	}
}

// read returns the alarms that rose, by name.
func (a *alarms) read() []edgeclaim.AlarmCount {
	a.mu.Lock()
	defer a.mu.Unlock()
	var list []edgeclaim.AlarmCount
	for _, count := range a.counts {
		list = append(list, count.AlarmCount)
	}
	slices.SortFunc(list, func(x, y edgeclaim.AlarmCount) int {
		return strings.Compare(string(x.Alarm), string(y.Alarm))
	})
	return list
}
