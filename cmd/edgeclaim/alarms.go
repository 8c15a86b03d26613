package main

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"edgeclaim"
)

// tellAlarmsEvery is how often upstream hears of the alarms that rose.
const tellAlarmsEvery = time.Minute

// alarms are those that the program itself finds; the rule has its own. Safe for
// many goroutines.
type alarms struct {
	mu    sync.Mutex // guards what follows, for the length of a map operation
	risen map[edgeclaim.Alarm]edgeclaim.AlarmCount
	told  map[edgeclaim.Alarm]uint64 // how many of them upstream has heard of
	lost  uint64                     // entries of the audit log that are counted in risen
	since time.Time                  // when upstream was told last; the beginning
}

func newAlarms(now time.Time) *alarms {
	return &alarms{
		risen: map[edgeclaim.Alarm]edgeclaim.AlarmCount{}, told: map[edgeclaim.Alarm]uint64{}, since: now,
	}
}

func (a *alarms) raise(alarm edgeclaim.Alarm, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.raiseLocked(alarm, 1, now)
}

func (a *alarms) raiseLocked(alarm edgeclaim.Alarm, count uint64, now time.Time) {
	a.risen[alarm] = edgeclaim.AlarmCount{Alarm: alarm, Count: a.risen[alarm].Count + count, Last: now}
}

// countLost raises an alarm for each entry that the audit log has lost by now
// and that was not counted yet.
func (a *alarms) countLost(lost uint64, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if lost > a.lost {
		a.raiseLocked(edgeclaim.AlarmAuditLost, lost-a.lost, now)
		a.lost = lost
	}
}

// with returns all alarms, the rule's among them, in order of their names.
func (a *alarms) with(rule []edgeclaim.AlarmCount) []edgeclaim.AlarmCount {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := slices.AppendSeq(slices.Clone(rule), maps.Values(a.risen))
	slices.SortFunc(all, func(x, y edgeclaim.AlarmCount) int { return strings.Compare(string(x.Alarm), string(y.Alarm)) })
	return all
}

// raisedAlarm is an alarm as upstream is told of it.
type raisedAlarm struct {
	Alarm edgeclaim.Alarm `json:"alarm"`
	Count uint64          `json:"count"`
	Since time.Time       `json:"since"`
	Until time.Time       `json:"until"`
	BoxID string          `json:"box_id"`
	Site  string          `json:"site"`
}

// untold returns what rose since upstream was told last.
func (a *alarms) untold(now time.Time) []raisedAlarm {
	a.mu.Lock()
	defer a.mu.Unlock()
	var rose []raisedAlarm
	for kind, alarm := range a.risen {
		if alarm.Count > a.told[kind] {
			rose = append(rose, raisedAlarm{Alarm: kind, Count: alarm.Count - a.told[kind], Since: a.since, Until: now})
		}
	}
	return rose
}

func (a *alarms) tell(what *raisedAlarm) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.told[what.Alarm] += what.Count
	a.since = what.Until
}

// tellAlarms tells upstream which alarms of the program's own rose, and once
// more at the stop.
func (b *box) tellAlarms(ctx context.Context) error {
	tick := time.NewTicker(tellAlarmsEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			b.tellRisen(ctx)
		case <-ctx.Done():
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastWords)
			defer cancel()
			b.tellRisen(ctx)
			return nil
		}
	}
}

// tellRisen puts a record for each alarm in the outbox. What cannot be stored is
// told the next time.
func (b *box) tellRisen(ctx context.Context) {
	now := b.clock.Now()
	b.alarms.countLost(b.auditStatus().Lost, now)
	for _, alarm := range b.alarms.untold(now) {
		alarm.BoxID, alarm.Site = b.db.BoxID(), b.settings.Site
		data, err := json.Marshal(alarm)
		if err == nil {
			err = b.db.Append(ctx, edgeclaim.Record{
				Lane: edgeclaim.LaneEvt, Type: edgeclaim.TypeAlarmRaised, Stamp: b.clock.Stamp(), Data: data,
			})
		}
		if err != nil {
			b.logger.Warn("alarm not told yet", "alarm", alarm.Alarm, "count", alarm.Count, "err", err)
			continue
		}
		b.alarms.tell(&alarm)
	}
}
