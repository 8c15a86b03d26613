package provision

import (
	"cmp"
	"context"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"time"

	"edgeclaim"
	"edgeclaim/internal/audit"
)

// Bounds of what is made of suspicions and alarms (P7): a stranger may cause
// any number of them, and the provisioning lane is never dropped.
const (
	suspicions        = 256 // waiting to be looked at; more are only counted
	suspectEvery      = time.Hour
	suspectDevices    = 4096 // remembered, for one record each in suspectEvery
	suspectRecords    = 100  // of all devices in suspectEvery
	maxSources        = 4    // told of each
	overuseKeys       = 4096 // watched
	overuseWindow     = 10 * time.Minute
	overuseLeast      = 20 // uses in a window that are never too many
	overuseFactor     = 2  // times what the template expects
	overuseAlarmEvery = time.Hour
	alarmKeys         = 4096 // told of one by one, between two tellings
)

// alarmKey is what alarms are told by. The key is zero but for what is about
// one.
type alarmKey struct {
	alarm edgeclaim.Alarm
	key   edgeclaim.KeyID
}

// alarms counts what must not happen: in all, and since upstream heard of it.
type alarms struct {
	mu     sync.Mutex // guards what follows, for the length of a map operation
	all    map[edgeclaim.Alarm]edgeclaim.AlarmCount
	untold map[alarmKey]uint64
	since  time.Time // of the first untold
}

func (a *alarms) raise(key alarmKey, now time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	sum := a.all[key.alarm]
	a.all[key.alarm] = edgeclaim.AlarmCount{Alarm: key.alarm, Count: sum.Count + 1, Last: now}
	if len(a.untold) >= alarmKeys { // the others are told by their number
		key.key = edgeclaim.KeyID{}
	}
	a.untoldLocked(key, 1, now)
}

func (a *alarms) untoldLocked(key alarmKey, count uint64, since time.Time) {
	if len(a.untold) == 0 || since.Before(a.since) {
		a.since = since
	}
	a.untold[key] += count
}

func (a *alarms) take() (map[alarmKey]uint64, time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	untold := a.untold
	a.untold = map[alarmKey]uint64{}
	return untold, a.since
}

// restore puts back what could not be told.
func (a *alarms) restore(key alarmKey, count uint64, since time.Time) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.untoldLocked(key, count, since)
}

// Alarms returns the alarms that rose since the program began, in order of
// their names.
func (s *Service) Alarms() []edgeclaim.AlarmCount {
	s.alarms.mu.Lock()
	defer s.alarms.mu.Unlock()
	all := make([]edgeclaim.AlarmCount, 0, len(s.alarms.all))
	for _, alarm := range s.alarms.all {
		all = append(all, alarm)
	}
	slices.SortFunc(all, func(a, b edgeclaim.AlarmCount) int { return cmp.Compare(a.Alarm, b.Alarm) })
	return all
}

// alarm counts, and says so in the log once a minute for each kind and key.
func (s *Service) alarm(alarm edgeclaim.Alarm, key edgeclaim.KeyID) {
	which := alarmKey{alarm, key}
	s.alarms.raise(which, s.clock.Now())
	if s.alarmLog.take(which, time.Now()) == 0 {
		s.logger.Warn("alarm", "alarm", alarm, "key_id", key)
		s.parts.Auditor.Add(audit.Entry{Kind: audit.KindAlarm, Who: audit.WhoBox, Reason: string(alarm), Key: key.String()})
	}
}

// Suspect takes note that a device looks cloned. It never blocks: Run makes a
// record of it, unless there are too many.
func (s *Service) Suspect(what edgeclaim.Suspicion) {
	select {
	case s.suspicions <- what:
	default:
		s.alarm(edgeclaim.AlarmCloned, edgeclaim.KeyID{})
	}
}

// suspect tells upstream of a suspicion, of each device once an hour.
func (s *Service) suspect(ctx context.Context, what *edgeclaim.Suspicion) {
	s.alarm(edgeclaim.AlarmCloned, edgeclaim.KeyID{})
	now := time.Now()
	if s.suspected.take(what.Device, now) > 0 || s.suspectedAll.take(struct{}{}, now) > 0 {
		return
	}
	texts := []string{}
	for _, source := range what.Sources[:min(len(what.Sources), maxSources)] {
		texts = append(texts, addressText(source))
	}
	device, err := s.store.ChangeDevice(ctx, what.Device, func(d *edgeclaim.Device) (*edgeclaim.Record, error) {
		return s.deviceRecord(edgeclaim.TypeCloneSuspected, d, suspected{
			deviceFacts: s.facts(d), Kind: what.Kind, Count: what.Count, WindowSeconds: what.Window.Seconds(), Sources: texts,
		})
	})
	if err != nil {
		s.logger.Warn("suspicion not told", "device_id", what.Device, "kind", what.Kind, "err", err)
		return
	}
	s.logger.Warn("device looks cloned", "device_id", what.Device, "hardware_id", device.Hardware, "kind", what.Kind, "count", what.Count)
	entry := entryOf(audit.KindAlarm, &device)
	entry.Who, entry.Reason = audit.WhoBox, string(edgeclaim.AlarmCloned)
	entry.Detail = map[string]string{"kind": string(what.Kind), "count": strconv.Itoa(what.Count)}
	s.parts.Auditor.Add(entry)
}

// usage is how often a key was used within a window.
type usage struct {
	count int
	since time.Time // monotonic
}

// overuse watches keys. It holds the keys of one window, and no more than
// overuseKeys: beyond that they begin anew, which an attacker with that many
// good keys may cause.
type overuse struct {
	mu     sync.Mutex // guards keys
	keys   map[edgeclaim.KeyID]usage
	raised *ration[edgeclaim.KeyID]
}

// note counts a use, and reports whether there were too many of late.
func (o *overuse) note(key edgeclaim.KeyID, expected uint32, now time.Time) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	use := o.keys[key]
	if now.Sub(use.since) >= overuseWindow {
		use = usage{since: now}
	}
	use.count++
	if _, watched := o.keys[key]; !watched && len(o.keys) >= overuseKeys {
		o.forgetLocked(now)
	}
	o.keys[key] = use
	return use.count > max(overuseLeast, overuseFactor*int(expected))
}

// forgetLocked makes room: of those that were quiet for a window, or of all.
func (o *overuse) forgetLocked(now time.Time) {
	for key, use := range o.keys {
		if now.Sub(use.since) >= overuseWindow {
			delete(o.keys, key)
		}
	}
	if len(o.keys) >= overuseKeys {
		clear(o.keys)
	}
}

// noteUse counts that a good key made a device, or that it could not. Far more
// than its template expects is an alarm, once an hour for each key; a key of
// which nobody knows how many to expect has none.
func (s *Service) noteUse(g edgeclaim.Grant) {
	expected := g.Template.ExpectedClaims
	switch {
	case expected > 0:
	case g.Template.MaxClaims > 0:
		expected = g.Template.MaxClaims
	case g.Template.OneTime:
		expected = 1
	default:
		return
	}
	now := time.Now()
	over := s.overused.note(g.Key.ID, expected, now)
	if over || int64(g.Key.Claims) > overuseFactor*int64(expected) {
		if s.overused.raised.take(g.Key.ID, now) == 0 {
			s.alarm(edgeclaim.AlarmKeyOverused, g.Key.ID)
		}
	}
}

// tellAlarms appends one record for each alarm that rose since the last telling.
// What cannot be stored is counted again the next time.
func (s *Service) tellAlarms(ctx context.Context) {
	untold, since := s.alarms.take()
	now := s.clock.Now()
	for key, count := range untold {
		record, err := s.record(edgeclaim.LaneEvt, edgeclaim.TypeAlarmRaised, raised{
			Alarm: key.alarm, Count: count, Since: since, Until: now, Key: key.key, BoxID: s.cfg.BoxID, Site: s.cfg.Site,
		})
		if err == nil {
			err = s.store.Append(ctx, *record)
		}
		if err != nil {
			s.logger.Warn("alarm not told yet", "alarm", key.alarm, "count", count, "err", err)
			s.alarms.restore(key, count, since)
		}
	}
}

// addressText is an address as the log says it, empty for none.
func addressText(source netip.Addr) string {
	if !source.IsValid() {
		return ""
	}
	return source.Unmap().WithZone("").String()
}

func sources(source netip.Addr) []netip.Addr {
	if !source.IsValid() {
		return nil
	}
	return []netip.Addr{source}
}
