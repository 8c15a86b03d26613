package audit

import (
	"cmp"
	"slices"
	"strings"
	"time"
)

// A tallyKey is what refusals, and the like, are counted by.
type tallyKey struct{ kind, reason string }

// A tally counts refusals of one kind and reason within a minute, by running
// time: a step of the wall clock moves no minute (P10).
type tally struct {
	began    time.Time
	written  int
	more     uint64 // not written one by one
	from, to time.Time
	source   string // of the last one
}

// rated reports whether entries of that kind are counted above the rate: what a
// stranger may cause, and whoever has a good key, as often as he likes. One by
// one they would push all else out of the log.
func rated(kind string) bool {
	switch kind {
	case KindClaimKnown, KindClaimAgain, KindClaimWaiting:
		return true
	default:
		return strings.HasSuffix(kind, ".refused")
	}
}

// counted reports whether e is above the rate, and counted instead of being
// written. The caller holds mu.
//
// A minute ends when Run comes by: a late Run makes it longer, never wider.
func (l *Log) counted(e Entry, now time.Time) bool {
	if !rated(e.Kind) {
		return false
	}
	key := tallyKey{e.Kind, e.Reason}
	t := l.tallies[key]
	if t == nil && len(l.tallies) >= maxTallies {
		key = tallyKey{KindVarious, "various"}
		t = l.tallies[key]
	}
	if t == nil {
		t = &tally{began: now}
		l.tallies[key] = t
	}
	if t.written < l.cfg.RefusalsPerMinute {
		t.written++
		return false
	}
	if t.more == 0 {
		t.from = e.Time
	}
	t.more++
	t.to, t.source = e.Time, e.Source
	return true
}

// due ends the minutes that are over, all for the zero now, and returns an
// entry for each that counted any, in a fixed order. The caller holds mu.
func (l *Log) due(now time.Time) []Entry {
	var entries []Entry
	for key, t := range l.tallies {
		if !now.IsZero() && now.Sub(t.began) < refusalWindow {
			continue
		}
		delete(l.tallies, key)
		if t.more == 0 {
			continue
		}
		e := l.own(key.kind, t.more, map[string]string{
			"from": t.from.Format(time.RFC3339Nano), "to": t.to.Format(time.RFC3339Nano),
		})
		e.Reason, e.Source = key.reason, ""
		if t.source != "" {
			e.Detail["last_source"] = t.source
		}
		entries = append(entries, e)
	}
	slices.SortFunc(entries, func(a, b Entry) int {
		return cmp.Or(strings.Compare(a.Kind, b.Kind), strings.Compare(a.Reason, b.Reason))
	})
	return entries
}
